"""LoRAs at work: weights that are W + sum of strength * change for a while, and then W again, bit for bit.

Each mixture is made from the originals, in float32, so nothing adds up over the steps, and the originals are never
written to. On a GPU the mixtures are written over the copies there, and cost no memory; in host memory they are copies
of those weights that a LoRA touches.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from t2v.extra import Strength
from t2v.float8 import made, put, read, scale_of, scaled, write
from t2v.models.lora import Lora
from t2v.models.lora.parts import Change


class Use(NamedTuple):
    """A LoRA and how much of it."""

    lora: Lora
    text: Strength
    unet: Strength


class Mixture:
    """The weights of a network as a function of time. Made by `mixed`."""

    def __init__(self, network: nn.Module, changes: Sequence[tuple[Strength, Change]]) -> None:
        weights = dict(network.named_parameters())
        self.touched: dict[str, list[tuple[Strength, Change]]] = {}
        for strength, change in changes:
            self.touched.setdefault(change.target.weight, []).append((strength, change))
        self.weights = {name: weights[name] for name in self.touched}
        self.originals = {name: scaled(weight.data, scale_of(weight)) for name, weight in self.weights.items()}
        self.own = dict(self.originals)  # or the mixture that was put in the place of one
        self.part: float | None = None  # of the steps, at which the weights were mixed last
        self.strengths = {name: [0.0] * len(parts) for name, parts in self.touched.items()}

    def at(self, part: float) -> bool:
        """Brings the weights to what they are when `part` of the steps, 0 to 1, are done; whether that changes any."""
        self.part, changed = part, False
        for name, parts in self.touched.items():
            strengths = [strength.at(part) for strength, _ in parts]
            if strengths != self.strengths[name]:
                weight, original = self.weights[name], self.originals[name]
                changes = [(s, change) for s, (_, change) in zip(strengths, parts, strict=True) if s]
                new = mixture(original, changes, weight.device)
                if weight.data_ptr() == self.own[name].data_ptr():
                    put(weight, new)
                    self.own[name] = new
                else:  # a copy that `placed` has made, perhaps side by side with others, or in 8 bits
                    write(weight, new)
                self.strengths[name], changed = strengths, True
        return changed

    def again(self) -> None:
        """The weights have been brought anew, as they are in their files: mixes them as they were."""
        self.own = dict(self.originals)
        if self.part is not None:
            self.strengths = {name: [0.0] * len(parts) for name, parts in self.touched.items()}
            self.at(self.part)

    def restore(self) -> None:
        """The originals, in their place."""
        self.own = dict(self.originals)
        for name, weight in self.weights.items():
            put(weight, self.originals[name])


def mixture(original: Tensor, changes: Sequence[tuple[float, Change]], device: torch.device) -> Tensor:
    """`original` with `changes` by their strengths, on `device`, in the precision of the original."""
    eight = scale_of(original) is not None
    if not changes:
        return original if eight else original.to(device)
    weight = read(original, device, torch.float32) if eight else original.to(
        device, torch.float32, copy=True, memory_format=torch.contiguous_format)
    for strength, change in changes:
        change.add_to(weight, strength)
    return made(weight) if eight else weight.to(original.dtype)


@contextmanager
def mixed(network: nn.Module, changes: Sequence[tuple[Strength, Change]]) -> Iterator[Mixture]:
    """`network` with `changes`, as from `Mixture.at` on; its own weights after a `with` block.

    Enter it before `placed`: the originals are then those of the file, and what is on the device may be written to.
    """
    made = Mixture(network, changes)
    try:
        yield made
    finally:
        made.restore()


def changes_of(uses: Sequence[Use], network: str) -> list[tuple[Strength, Change]]:
    """What `uses` change in the "unet" or in the "text" tower, which reads a prompt once, with the peak strength."""
    def of(use: Use) -> Strength:
        return use.unet if network == "unet" else Strength.constant(use.text.peak)

    return [(of(use), change) for use in uses for change in use.lora.changes if change.target.network == network]
