"""LoRAs: from a file of any of the common formats to changes of our layers."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from torch import Tensor

from t2v.errors import ModelError, RequestError
from t2v.models.checkpoint import read
from t2v.models.lora.foreign import purpose, turbo
from t2v.models.lora.named import is_named, named_pairs, scale_of
from t2v.models.lora.parts import Change, Layers, fitted
from t2v.models.lora.positional import is_positional, placed_pairs, positional_pairs

WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")  # in a folder of PEFT's


@dataclass(frozen=True)
class Lora:
    """A LoRA that fits a model."""

    name: str
    changes: tuple[Change, ...]


def read_lora(path: Path, name: str, layers: Layers) -> Lora:
    """The LoRA in a file, or in a folder of PEFT's.

    ModelError where there is none or it is damaged; RequestError about "loras" where it is for another model.
    """
    file = path if not path.is_dir() else next((path / name for name in WEIGHTS if (path / name).exists()),
                                               path / WEIGHTS[0])
    tensors = read(file)
    try:
        if is_positional(tensors):
            changes = from_positions(tensors, name, layers)
        elif is_named(tensors):
            changes = from_names(tensors, file, name, layers)
        else:
            raise ValueError("holds no LoRA")
    except ValueError as error:
        raise ModelError(file, str(error), "Choose another file") from error
    return Lora(name, tuple(changes))


def from_names(tensors: Mapping[str, Tensor], file: Path, name: str, layers: Layers) -> list[Change]:
    """The changes in a file that names the layers."""
    changes: list[Change] = []
    unknown: list[str] = []
    foreign = purpose(tensors, layers.model.unet.config.context_dim)
    if foreign:
        refuse(name, layers, f"It is for {foreign}")
    for layer, up, down, scale in named_pairs(tensors, scale_of(file)):
        target = layers.named(layer)
        change = target and fitted(target, up, down, scale)
        if change:
            changes.append(change)
        else:
            unknown.append(f"{layer[:80]} ({down.shape[-1]} to {up.shape[0]})")
    if unknown:
        refuse(name, layers, f"{len(unknown)} of its {len(unknown) + len(changes)} layers are not in this model: "
                             + ", ".join(unknown[:3]) + (", ..." if len(unknown) > 3 else ""))
    return changes


def from_positions(tensors: Mapping[str, Tensor], name: str, layers: Layers) -> list[Change]:
    """The changes in a file that numbers the layers."""
    changes: list[Change] = []
    for network, pairs in positional_pairs(tensors):
        tables = {"unet": [layers.unet], "text_encoder": [layers.text]}.get(network, [layers.unet, layers.text])
        found = next(filter(None, (placed_pairs(pairs, table) for table in tables)), None)
        if found is None and turbo(pairs):
            refuse(name, layers, "It is T2V-Turbo, which also needs a layer for the strength of the guidance, whose "
                                 "original weights were never published")
        if found is None:
            refuse(name, layers, f"Its {len(pairs)} pairs have no names, and their shapes are not those of this "
                                 "model's layers")
        changes += found
    return changes


def refuse(name: str, layers: Layers, reason: str) -> NoReturn:
    raise RequestError("loras", f"{name!r} does not fit the model {layers.model.name}. {reason}.")
