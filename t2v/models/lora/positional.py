"""LoRA files without names, as cloneofsimo's trainer wrote them: up, down, up, down, …, of one layer after the other.

    [up, down, up, down, …]          a list in a .pt; so do the Text-To-Video-Finetuning trainer and MotionDirector
    unet:0:up, unet:0:down, …        in a .safetensors

The layers are all linear layers and convolutions inside the modules of some classes, in the order in which diffusers
registers them. Which classes these were, a list does not say. A choice of classes whose layers have all the shapes
of the file, one by one, is it. Where no choice is, the file may still fit in one way only, with layers left out.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations

from torch import Tensor

from t2v.models.lora.parts import Change, Target, fitted

Pair = tuple[Tensor, Tensor]  # up, down
SAFE = re.compile(r"(unet|text_encoder):(\d+):(up|down)")

# Classes of diffusers and transformers, by the names of the layers in them.
CLASSES = {
    "TransformerTemporalModel": r"(^|\.)(transformer_in|temp_attentions)\.",
    "TransformerTemporalModel, but for its blocks": r"(^|\.)(transformer_in|temp_attentions\.\d+)\.proj_",
    "Transformer2DModel": r"\.attentions\.",
    "ResnetBlock2D": r"\.resnets\.",
    "TemporalConvLayer": r"\.temp_convs\.",
    "Attention": r"\.attn[12]\.",
    "GEGLU": r"\.ff\.net\.0\.",
    "FeedForward": r"\.ff\.net\.",
    "CLIPAttention": r"\.self_attn\.",
    "CLIPMLP": r"\.mlp\.",
}


def is_positional(names: Mapping[str, Tensor]) -> bool:
    """Whether the tensors are those of a list."""
    return set(names) == {str(number) for number in range(len(names))} or any(map(SAFE.fullmatch, names))


def positional_pairs(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, list[Pair]]]:
    """(network, its pairs) of a file; the network is "" where the file does not say. ValueError for a broken row."""
    rows: dict[str, dict[int, Tensor]] = {}
    for name, tensor in tensors.items():
        match = SAFE.fullmatch(name)
        if match:
            rows.setdefault(match[1], {})[2 * int(match[2]) + (match[3] == "down")] = tensor
        elif name.isdecimal():
            rows.setdefault("", {})[int(name)] = tensor
        elif tensor.ndim > 1 or not name.startswith("<"):  # a word that the trainer learnt beside is let pass
            raise ValueError(f"holds {name[:80]!r}, which is no part of a LoRA")
    for network, row in rows.items():
        if len(row) % 2 or set(row) != set(range(len(row))):
            raise ValueError("has an up without a down")
        yield network, [(row[i], row[i + 1]) for i in range(0, len(row), 2)]


def placed_pairs(pairs: Sequence[Pair], layers: Mapping[str, Target]) -> list[Change] | None:
    """The changes that `pairs` make of `layers`, which are in order; None if it cannot be told which they change."""
    matrices = {name: target for name, target in layers.items() if not target.is_table}
    for chosen in choices(matrices):
        if len(chosen) == len(pairs):
            changes = [fitted(target, *pair) for target, pair in zip(chosen, pairs, strict=True)]
            if all(changes):
                return [change for change in changes if change]
    return only_way(pairs, list(matrices.values()))


def choices(layers: Mapping[str, Target]) -> Iterator[list[Target]]:
    """All layers, then those of each one, two and three classes."""
    yield list(layers.values())
    members = [{name for name in layers if re.search(pattern, name)} for pattern in CLASSES.values()]
    for count in (1, 2, 3):
        for sets in combinations(members, count):
            union = set().union(*sets)
            yield [target for name, target in layers.items() if name in union]


def only_way(pairs: Sequence[Pair], layers: Sequence[Target]) -> list[Change] | None:
    """The changes, if leaving out layers can make `pairs` fit in exactly one way.

    ways[i] counts how the pairs from i on can be dealt out to the layers from the one at hand on, from behind.
    """
    ways = [0] * len(pairs) + [1]
    takes: list[list[bool]] = []
    known: dict[tuple[object, ...], bool] = {}
    for target in reversed(layers):
        keys = [(target.shape, up.shape, down.shape) for up, down in pairs]
        known |= {key: fitted(target, *pair) is not None for key, pair in zip(keys, pairs, strict=True)
                  if key not in known}
        fits = [known[key] for key in keys]
        takes.append([fit and ways[i + 1] > 0 for i, fit in enumerate(fits)])
        ways = [ways[i] + (ways[i + 1] if fits[i] else 0) for i in range(len(pairs))] + [1]
    if ways[0] != 1:
        return None
    changes: list[Change] = []
    for target, take in zip(layers, reversed(takes), strict=True):
        if len(changes) < len(pairs) and take[len(changes)]:
            change = fitted(target, *pairs[len(changes)])
            assert change is not None
            changes.append(change)
    return changes
