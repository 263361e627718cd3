"""LoRA files of every format, written from the matrices of a few layers, as the trainers write them."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from t2v.models.unet import UNetConfig
from tests.mappings import unet_key
from tests.networks import normal

# Up and down of a layer by its name in diffusers; "text_encoder:" is before those of the text tower.
Pairs = dict[str, tuple[Tensor, Tensor]]
RANK = 3


def diffusers_name(weight: str, config: UNetConfig) -> str:
    """What diffusers calls the layer of one of our weights; from the tests' own map."""
    return unet_key(weight, config).removesuffix(".weight")


def drawn(shapes: Mapping[str, tuple[int, ...]], rank: int = RANK) -> Pairs:
    """Random matrices, and kernels in their place, for layers of these shapes."""
    pairs: Pairs = {}
    for seed, (name, (o, i, *kernel)) in enumerate(shapes.items()):
        r = min(rank, o, i)
        pairs[name] = normal(o, r, *[1] * len(kernel), seed=2 * seed), normal(r, i, *kernel, seed=2 * seed + 1)
    return pairs


def product(up: Tensor, down: Tensor) -> Tensor:
    """up times down, for each place of the kernel."""
    return torch.einsum("or,ri...->oi...", up.flatten(1), down)


def split(pairs: Pairs) -> tuple[Pairs, Pairs]:
    """The pairs of the UNet, and those of the text tower, by their own names."""
    text = {name.removeprefix("text_encoder:"): pair for name, pair in pairs.items() if ":" in name}
    return {name: pair for name, pair in pairs.items() if ":" not in name}, text


# ---- formats: each writes `pairs` to a path ----


def stable_full(pairs: Pairs, path: Path) -> None:
    unet, text = split(pairs)
    named = unet | {f"text_model.{name}": pair for name, pair in text.items()}
    save_file({f"{name}.lora_{letter}": matrix.contiguous() for name, (up, down) in named.items()
               for letter, matrix in (("A", down), ("B", up))}, path)


def peft_folder(pairs: Pairs, path: Path) -> None:
    unet, _ = split(pairs)
    path.mkdir()
    (path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": RANK, "lora_alpha": 2 * RANK}))
    save_file({f"base_model.model.{name}.lora_{letter}.weight": matrix for name, (up, down) in unet.items()
               for letter, matrix in (("A", down), ("B", up / 2))}, path / "adapter_model.safetensors")


def diffusers_new(pairs: Pairs, path: Path) -> None:
    unet, text = split(pairs)
    named = {f"unet.{name}": pair for name, pair in unet.items()}
    named |= {f"text_encoder.text_model.{name}": pair for name, pair in text.items()}
    save_file({f"{name}.lora_{letter}.weight": matrix for name, (up, down) in named.items()
               for letter, matrix in (("A", down), ("B", up))}, path)


def diffusers_old(pairs: Pairs, path: Path) -> None:
    unet, text = split(pairs)
    save_file({f"unet.{name}.lora.{way}.weight": matrix for name, (up, down) in unet.items()
               for way, matrix in (("down", down), ("up", up))}
              | {f"text_encoder.text_model.{name}.lora_linear_layer.{way}.weight": matrix
                 for name, (up, down) in text.items() for way, matrix in (("down", down), ("up", up))}, path)


def kohya(pairs: Pairs, path: Path) -> None:
    unet, text = split(pairs)
    named = {f"lora_unet_{name}": pair for name, pair in unet.items()}
    named |= {f"lora_te_text_model_{name}": pair for name, pair in text.items()}
    tensors = {}
    for name, (up, down) in named.items():
        base, rank = name.replace(".", "_"), down.shape[0]
        tensors |= {f"{base}.lora_down.weight": down, f"{base}.lora_up.weight": up / 4,
                    f"{base}.alpha": torch.tensor(4.0 * rank)}
    save_file(tensors, path)


def positional(pairs: Pairs, path: Path) -> None:
    torch.save([torch.nn.Parameter(matrix) for pair in pairs.values() for matrix in pair], path)


def numbered(pairs: Pairs, path: Path) -> None:
    tensors = {}
    for network, part in zip(("unet", "text_encoder"), split(pairs), strict=True):
        for number, (up, down) in enumerate(part.values()):
            tensors |= {f"{network}:{number}:up": up, f"{network}:{number}:down": down}
    save_file(tensors, path, {"unet": json.dumps(["UNet3DConditionModel"])})


NAMED: dict[str, Callable[[Pairs, Path], None]] = {
    "stable.safetensors": stable_full,
    "peft": peft_folder,
    "diffusers.safetensors": diffusers_new,
    "older.safetensors": diffusers_old,
    "kohya.safetensors": kohya,
}
