"""LoRA files that name the layers they change. Trainers spell the two matrices of a layer in these ways:

    NAME.lora_A, NAME.lora_B                              Stable LoRA, in the names of ModelScope or of diffusers
    base_model.model.NAME.lora_A.weight, .lora_B.weight   PEFT; alpha and rank stand in adapter_config.json
    unet.NAME.lora_A.weight, .lora_B.weight               diffusers, and in its earlier years:
    unet.NAME.lora.down.weight, .lora.up.weight
    NAME.processor.to_q_lora.down.weight, .up.weight
    lora_unet_NAME.lora_down.weight, .lora_up.weight      kohya's, with NAME.alpha and _ for every dot of the name
"""

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from t2v.errors import ModelError
from t2v.models.disk import head_of

ADAPTER = "adapter_config.json"
MAX_BYTES = 1_000_000
NAME = re.compile(
    r"(?P<layer>.+?)(?:\.lora_(?:embedding_)?(?P<ab>[AB])(?:\.\w+)?(?:\.weight)?"
    r"|[._]lora(?:_linear_layer)?[._](?P<way>up|down)\.weight|\.(?P<alpha>alpha))")
Scale = Callable[[str, int], float]  # (layer, rank) -> what to multiply with where the file has no alpha of its own


def is_named(names: Mapping[str, Tensor]) -> bool:
    """Whether some of the tensors are one of the two matrices of a layer."""
    return any(match["ab"] or match["way"] for match in map(NAME.fullmatch, names) if match)


def named_pairs(tensors: Mapping[str, Tensor], scale: Scale) -> Iterator[tuple[str, Tensor, Tensor, float]]:
    """(layer, up, down, scale) of every layer in a file. ValueError in words for what is no plain LoRA."""
    layers: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        match = NAME.fullmatch(name)
        if match is None:
            raise ValueError(f"holds {name[:80]!r}, {other_kind(name)}")
        part = {"A": "down", "B": "up"}.get(match["ab"]) or match["way"] or match["alpha"]
        layers.setdefault(layer_name(match["layer"]), {})[part] = tensor
    for layer, parts in layers.items():
        if not {"up", "down"} <= parts.keys():
            raise ValueError(f"has only a part of the layer {layer[:80]}")
        rank, alpha = min(parts["down"].shape[:1], default=1), parts.get("alpha")
        if alpha is not None and alpha.numel() != 1:
            raise ValueError(f"has an alpha that is no number, in the layer {layer[:80]}")
        yield layer, parts["up"], parts["down"], scale(layer, rank) if alpha is None else float(alpha) / rank


def layer_name(name: str) -> str:
    """The layer behind the names of diffusers' attention processors; any other name as it is."""
    inside = name.replace(".processor.", ".")
    return f"{inside}.0" if inside != name and inside.endswith("to_out") else inside


def other_kind(name: str) -> str:
    """Why a name is none of a LoRA's."""
    return next((words for sign, words in OTHERS.items() if sign in name), "which is no part of a LoRA")


OTHERS = {
    "dora_scale": "a DoRA's; these are not supported",
    "lora_magnitude_vector": "a DoRA's; these are not supported",
    "hada_": "a LoHa's; of LyCORIS only LoRA is supported",
    "lokr_": "a LoKr's; of LyCORIS only LoRA is supported",
    "lora_mid": "a LoCon's with a third matrix, which is not supported",
    ".bias": "a trained bias, which is not supported",
    "diff": "a whole weight's difference, which is not supported",
}


def scale_of(path: Path) -> Scale:
    """What adapter_config.json beside a file, or the file's own header, says of its scale; else 1."""
    beside = path.parent / ADAPTER
    if beside.is_file():
        return peft_scale(json_object(beside), beside)
    header = header_of(path)
    parts = {part: peft_scale({key.removeprefix(part): value for key, value in header.items()}, path)
             for part in ("text_encoder.", "unet.")}
    return lambda layer, rank: parts["text_encoder." if layer.startswith("text_encoder.") else "unet."](layer, rank)


def peft_scale(config: Mapping[str, Any], path: Path) -> Scale:
    """alpha / r, or alpha / sqrt(r), alpha being that of the pattern which the end of a layer's name is."""
    if config.get("use_dora"):
        raise ModelError(path, "describes a DoRA, not a LoRA", "These are not supported")
    alpha, patterns, rooted = config.get("lora_alpha"), config.get("alpha_pattern") or {}, config.get("use_rslora")
    given = [] if alpha is None else [alpha]
    if not isinstance(patterns, dict) or not all(type(value) in (int, float) for value in (*patterns.values(), *given)):
        raise ModelError(path, "has an alpha that is no number", "Download it again")
    if not all(re.fullmatch(r"[\w.]*", key) for key in patterns):
        raise ModelError(path, "has an alpha_pattern that is a regular expression", "These are not supported")

    def scale(layer: str, rank: int) -> float:
        own = next((value for key, value in patterns.items() if f".{layer}".endswith(f".{key}")), alpha)
        return 1.0 if own is None else own / (math.sqrt(rank) if rooted else rank)

    return scale


def json_object(path: Path) -> dict[str, Any]:
    """The object in a small JSON file; ModelError for anything else."""
    try:
        head_of(path)
        content = json.loads(path.read_text("utf-8") if path.stat().st_size < MAX_BYTES else "")
    except (ValueError, OSError, RecursionError) as error:
        raise ModelError(path, "is not valid JSON", "Download it again") from error
    if not isinstance(content, dict):
        raise ModelError(path, "holds no JSON object", "Download it again")
    return content


def header_of(path: Path) -> dict[str, Any]:
    """What diffusers wrote about an adapter into the header of its safetensors file; empty where it did not."""
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            content = json.loads((file.metadata() or {}).get("lora_adapter_metadata", "{}"))
    except (SafetensorError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
