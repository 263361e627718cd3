"""What a LoRA changes: one layer of a network at a time, by the product of two thin matrices (Hu et al. 2021).

    W' = W + strength * scale * up @ down        up: o r, down: r i
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from t2v.models import Model
from t2v.models.names import text_layers, unet_layers


class Target(NamedTuple):
    """A layer that can be changed: a weight of ours, or one third of it."""

    network: str  # "unet" or "text"
    weight: str  # as in the network's state dict
    shape: tuple[int, ...]  # o i ..., of the third if it is one
    third: int | None = None
    is_table: bool = False  # of vectors, one a row, as embeddings are

    @property
    def rows(self) -> slice:
        """The layer's part of the weight."""
        height = self.shape[0]
        return slice(None) if self.third is None else slice(self.third * height, (self.third + 1) * height)


@dataclass(frozen=True)
class Change:
    """scale * up @ down, to be added to a layer; the product is the layer's weight, or a kernel spread out."""

    target: Target
    up: Tensor
    down: Tensor
    scale: float

    def add_to(self, weight: Tensor, strength: float) -> None:
        """Changes `weight` in place: contiguous, float32, the target's whole weight."""
        layer, shape = weight[self.target.rows], self.target.shape
        up, down = self.up.to(weight.device, torch.float32), self.down.to(weight.device, torch.float32)
        if up.shape[0] * down.shape[1] == layer.numel():
            layer.view(up.shape[0], down.shape[1]).addmm_(up, down, alpha=strength * self.scale)
        else:  # Stable LoRA trains a kernel (3 3 1) for one of (3 1 1), and means its mean
            layer += strength * self.scale * (up @ down).view(*shape[:3], shape[2], 1).mean(-2, keepdim=True)


def fitted(target: Target, up: Tensor, down: Tensor, scale: float = 1.0) -> Change | None:
    """The change that two matrices, or kernels in their place, make of `target`; None if they do not fit it."""
    if min(up.ndim, down.ndim) < 2:
        return None
    up, down = up.flatten(1), down.flatten(1)
    if target.is_table:
        up, down = down.T, up.T
    (o, i, *kernel), size = target.shape, (up.shape[0], down.shape[1])
    k = kernel[0] if kernel else 1  # Stable LoRA spreads a kernel over the rows of both matrices
    if up.shape[1] != down.shape[0] or size not in ((o, i * math.prod(kernel)), (o * k, i * k)):
        return None
    return Change(target, up, down, scale)


class Layers:
    """Every layer of a model that a LoRA may change, by all its names, and in the order of diffusers."""

    def __init__(self, model: Model) -> None:
        self.model = model
        unet = model.unet.state_dict()
        self.unet = {theirs: Target("unet", f"{ours}.weight", tuple(unet[f"{ours}.weight"].shape))
                     for ours, theirs in unet_layers(model.unet, model.unet.config)}
        self.text = dict(self._text())

    def _text(self) -> Iterable[tuple[str, Target]]:
        state = self.model.text.state_dict()
        for weight, theirs, third in text_layers(self.model.text.config):
            rows, *rest = state[weight].shape
            shape = (rows if third is None else rows // 3, *rest)
            yield theirs, Target("text", weight, shape, third, is_table=theirs.startswith("embeddings."))

    @cached_property
    def by_name(self) -> dict[str, Target]:
        """The layers by their names without punctuation: ours, diffusers', and what converters left in between."""
        found = {plain(theirs): target for theirs, target in (self.unet | self.text).items()}
        for theirs, target in (self.unet | self.text).items():
            ours = target.weight.removesuffix(".weight")
            if target.third is not None:
                ours = ours.removesuffix("in_proj_weight") + theirs.rpartition(".")[2]
            found[plain(ours)] = found[plain(ours.removeprefix("transformer."))] = target
        return found

    def named(self, name: str) -> Target | None:
        """The layer that any program calls `name`."""
        key = plain(name)
        for prefix in PREFIXES:
            key = key.removeprefix(prefix)
        return self.by_name.get(key)


def plain(name: str) -> str:
    """A layer's name as kohya's trainers write it."""
    return name.replace(".", "_")


# What stands before the name of a layer, from the outside in.
PREFIXES = ("base_model_model_", "lora_", "unet_", "te1_", "te_", "text_encoder_", "text_model_")
