"""Whose names a weight file uses, and what the weights are called here.

Our networks keep the names of the files that ModelScope published. Others name the same weights in their own way, and
put words before them ("module.", "model.diffusion_model."). A file tells its dialect by `signs` among its names, and
the words before by an `anchor`, the name of one weight. Where diffusers and we differ in shape, it is only in axes of
length one, which `checkpoint.filled` does not mind, and in three matrices of theirs that are one of ours.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from t2v.models.autoencoder import AutoencoderKL
from t2v.models.checkpoint import everything, filled, read
from t2v.models.names import RES_BLOCK, TEXT_BLOCK, unet_parts
from t2v.models.text import TextConfig, TextTower
from t2v.models.unet import UNet3D, UNetConfig

Network = TypeVar("Network", UNet3D, AutoencoderKL, TextTower)
AnyNetwork = UNet3D | AutoencoderKL | TextTower
Table = dict[str, tuple[str, ...]]  # our name -> theirs; several are stacked
PIECE = "#"  # between our name and the number of a piece to be stacked


class Dialect(NamedTuple):
    """A way of naming the weights of one kind of network."""

    signs: tuple[str, ...]  # all of them occur among the names of every file that speaks it
    anchor: str
    tops: tuple[str, ...]  # how its names begin, behind what the anchor stands behind; others are left alone
    ours: Callable[[Iterable[str], AnyNetwork], Mapping[str, str]]  # its names -> ours


def read_network(network: Network, path: Path) -> Network:
    """`network`, made without weights, with those in `path`, whatever they are called there. ModelError as ever."""
    return filled(network, stacked(read(path, lambda names: wanted(names, network))), path)


def wanted(names: Iterable[str], network: AnyNetwork) -> dict[str, str]:
    """The weights of `network` among the `names` in a file, by our names; all as they are if it holds none."""
    names = list(names)
    dialect, found = spoken(names, type(network))
    if dialect is None:
        return everything(names)
    ours = dialect.ours(found, network)
    return {ours.get(theirs, theirs): original for theirs, original in found.items()}


def spoken(names: list[str], kind: type[AnyNetwork]) -> tuple[Dialect | None, dict[str, str]]:
    """In which dialect `names` describe a network of this kind, and its names for those of the file."""
    text = "\n".join(names)
    for dialect in DIALECTS[kind]:
        if all(sign in text for sign in dialect.signs):
            before = min((name.removesuffix(dialect.anchor) for name in names if name.endswith(dialect.anchor)),
                         key=len, default="")
            starts = tuple(before + top for top in dialect.tops)
            return dialect, {name[len(before):]: name for name in names if name.startswith(starts)}
    return None, {}


def tower_in(path: Path) -> TextConfig:
    """The published text tower with as many layers as `path` has; converters drop the last, which is not used."""
    _, found = spoken(list(read(path)), TextTower)
    layers = sum(name.endswith((".ln_1.weight", ".layer_norm1.weight")) for name in found) or TextConfig.layers
    return TextConfig(layers=layers, skip_last=int(layers == TextConfig.layers))


def stacked(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`state` with the pieces of a weight put together, in the order of their numbers."""
    pieces: dict[str, dict[str, Tensor]] = {}
    for name, tensor in state.items():
        ours, _, number = name.partition(PIECE)
        pieces.setdefault(ours, {})[number] = tensor
    return {ours: parts[""] if "" in parts else joined([parts[number] for number in sorted(parts)])
            for ours, parts in pieces.items()}


def joined(parts: list[Tensor]) -> Tensor:
    """`parts` one below the other; the first alone where they do not fit, which then is found to be too small."""
    fits = len({(part.shape[1:], part.dtype) for part in parts}) == 1 and all(part.ndim for part in parts)
    return torch.cat(parts) if fits else parts[0]


# ---- as published, by ModelScope and, with three names of its own, by VideoCrafter ----


def published(names: Iterable[str], _: AnyNetwork) -> dict[str, str]:
    """VideoCrafter's names and ours differ in the first transformer and in the downsamplers."""
    return {name: re.sub(r"^(input_blocks\.\d+)\.0\.op\.", r"\1.op.", name.replace("init_attn.0.", "input_blocks.0.1."))
            for name in names}


# ---- as diffusers and transformers have them ----


def diffusers(names: Iterable[str], network: AnyNetwork) -> dict[str, str]:
    """Also in the spelling of old versions, for the attention of the autoencoder."""
    table = diffusers_names(network)
    ours = {theirs: name if len(pieces) == 1 else f"{name}{PIECE}{number}"
            for name, pieces in table.items() for number, theirs in enumerate(pieces)}
    return {name: ours[new] for name in names if (new := re.sub(OLD, lambda old: SPELLINGS[old[0]], name)) in ours}


def diffusers_names(network: AnyNetwork) -> Table:
    """What diffusers or transformers calls each weight of `network`."""
    names = list(network.state_dict())
    if isinstance(network, UNet3D):
        return unet_names(names, network.config)
    if isinstance(network, AutoencoderKL):
        return {name: (autoencoder_name(name, len(network.config.ch_mult)),) for name in names}
    return {name: text_names(name) for name in names}


def unet_names(names: Iterable[str], config: UNetConfig) -> Table:
    """What UNet3DConditionModel calls our weights; it has none for the frame rate."""
    parts = sorted(unet_parts(config), key=lambda part: -len(part[0]))
    table: Table = {}
    for name in names:
        part = next((part for part in parts if name.startswith(part[0] + ".")), None)
        if part is not None:
            ours, theirs = part
            layer, _, leaf = name.removeprefix(ours).rpartition(".")
            layer = RES_BLOCK.get(layer[1:], layer[1:])
            table[name] = (".".join(filter(None, (theirs, layer, leaf))),)
    return table


def autoencoder_name(name: str, levels: int) -> str:
    """What diffusers' AutoencoderKL of so many levels calls one of our weights."""
    match name.split("."):
        case [side, "down" | "up" as way, level, *rest]:
            number = int(level) if way == "down" else levels - 1 - int(level)
            return ".".join([side, f"{way}_blocks", str(number), *_resnet(rest)])
        case [side, "mid", "attn_1", layer, leaf]:
            return f"{side}.mid_block.attentions.0.{VAE_ATTENTION[layer]}.{leaf}"
        case [side, "mid", block, *rest]:
            return ".".join([side, "mid_block", *_resnet(["block", str(int(block[-1]) - 1), *rest])])
    return name.replace("norm_out", "conv_norm_out")


def _resnet(rest: list[str]) -> list[str]:
    match rest:
        case ["block", index, *layer]:
            return ["resnets", index, *(part.replace("nin_shortcut", "conv_shortcut") for part in layer)]
    return [f"{rest[0]}rs", "0", *rest[1:]]  # downsample | upsample


def text_names(name: str) -> tuple[str, ...]:
    """What transformers' CLIPTextModel calls one of our weights; it keeps queries, keys and values apart."""
    match name.split("."):
        case ["transformer", "resblocks", index, "attn", joint] if joint.startswith("in_proj_"):
            return tuple(f"encoder.layers.{index}.self_attn.{letter}_proj.{joint[8:]}" for letter in "qkv")
        case ["transformer", "resblocks", index, *layer, leaf]:
            inside = ".".join(layer)
            return (f"encoder.layers.{index}.{TEXT_BLOCK.get(inside, inside.replace('ln_', 'layer_norm'))}.{leaf}",)
    return (TEXT_TOP[name],)


VAE_ATTENTION = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}
TEXT_TOP = {
    "positional_embedding": "embeddings.position_embedding.weight",
    "token_embedding.weight": "embeddings.token_embedding.weight",
    "ln_final.weight": "final_layer_norm.weight", "ln_final.bias": "final_layer_norm.bias",
}
SPELLINGS = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}
OLD = "|".join(map(re.escape, SPELLINGS))
CODER = ("encoder.", "decoder.", "quant_conv.", "post_quant_conv.")

DIALECTS: dict[type[nn.Module], tuple[Dialect, ...]] = {
    UNet3D: (
        Dialect(("input_blocks.", "temopral_conv"), "input_blocks.0.0.weight", ("",), published),
        Dialect(("transformer_in.", "temp_convs."), "transformer_in.norm.weight", ("",), diffusers),
    ),
    AutoencoderKL: (
        Dialect(("encoder.down.", "decoder.up."), "decoder.conv_in.weight", CODER, published),
        Dialect(("encoder.down_blocks.", "decoder.up_blocks."), "decoder.conv_in.weight", CODER, diffusers),
    ),
    TextTower: (
        Dialect(("transformer.resblocks.", "token_embedding."), "token_embedding.weight",
                ("transformer.resblocks.", "token_embedding.", "positional_embedding", "ln_final."), published),
        Dialect(("encoder.layers.", "embeddings.token_embedding."), "embeddings.token_embedding.weight",
                ("encoder.layers.", "embeddings.token_embedding.", "embeddings.position_embedding.",
                 "final_layer_norm."), diffusers),
    ),
}
