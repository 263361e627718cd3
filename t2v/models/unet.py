"""UNet3D: the denoising network of ModelScope text2video (Wang et al. 2023, arXiv 2308.06571).

A Stable Diffusion 2 UNet whose every stage also works along time: a residual block carries four temporal
convolutions, each spatial transformer is followed by a temporal one. Attributes are named as in the published
weights, `temopral_conv` (sic) included, so a state dict loads as it is.

Inside, activations are `b f h w c`: batch, frames, height, width, channels. Nothing here knows the position of
a frame (only the zero padding of the temporal convolutions tells the ends), so any number of frames runs.

What makes it lean, all of it exact: activations have one layout from end to end; what depends on the text alone, or on
the timestep alone, is computed once and for all layers; a film that is told two things, as guidance does, is one film
up to the layer where the text is first asked; and whatever works frame by frame, or position by position, can do so in
parts (`at_once`), so that a layer never needs much more memory than what goes into it and comes out.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from t2v.layout import Layout
from t2v.models.layers import ClipNorm, FrameConv, FrameNorm, Linear, TimeConv, plus, together
from t2v.models.transformer import (
    Conditioning,
    Heard,
    SpatialBlock,
    SpatialTransformer,
    TemporalTransformer,
    in_frames,
)


@dataclass(frozen=True)
class UNetConfig:
    """The `unet_*` values of configuration.json; the defaults are the published model of 1.41 billion weights."""

    in_dim: int = 4
    dim: int = 320
    context_dim: int = 1024
    out_dim: int = 4
    dim_mult: tuple[int, ...] = (1, 2, 4, 4)
    num_heads: int = 8
    head_dim: int = 64
    res_blocks: int = 2
    attn_scales: tuple[float, ...] = (1.0, 0.5, 0.25)
    temporal_attention: bool = True
    fps: float = 0.0  # told to a network that was trained with the frame rate of its films; 0: this one was not


@dataclass
class Deep:
    """What the layers below full size came to, b f h w c: to be used again while it is there, else to be kept here."""

    features: Tensor | None = None


@dataclass
class Walk:
    """A film on its way through the network. Nobody else holds on to `x`, so that it goes when the next is there."""

    x: Tensor  # b f h w c
    cond: Conditioning
    skips: list[Tensor] = field(default_factory=list)

    def through(self, block: nn.Module) -> None:
        for layer in layers(block):
            self.x = layer(self.x, self.cond)

    def down(self, blocks: Iterable[nn.Module]) -> None:
        """Through the encoder's `blocks`, remembering what each has said."""
        for block in blocks:
            self.through(block)
            self.skips.append(self.x)

    def up(self, blocks: Iterable[nn.Module]) -> None:
        """Through the decoder's `blocks`, each told what was remembered last."""
        for block in blocks:
            self.x = joined(self.x, self.skips.pop())
            self.through(block)


class UNet3D(nn.Module):
    """Predicts the noise (or v, or x0: whatever it was trained on) in a batch of video latents."""

    def __init__(self, config: UNetConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or UNetConfig()
        dims = [config.dim * mult for mult in config.dim_mult]
        embed_dim = 4 * config.dim
        self.time_embed = nn.Sequential(Linear(config.dim, embed_dim), nn.SiLU(), Linear(embed_dim, embed_dim))
        if config.fps:
            self.fps_embedding = nn.Sequential(Linear(config.dim, embed_dim), nn.SiLU(), Linear(embed_dim, embed_dim))

        width, skips = config.dim, [config.dim]
        self.input_blocks = nn.ModuleList([Block(self._stem())])
        for level, dim in enumerate(dims):
            for _ in range(config.res_blocks):
                self.input_blocks.append(Block(self._stage(width, dim, level)))
                skips.append(width := dim)
            if level < len(dims) - 1:
                self.input_blocks.append(Downsample(dim))
                skips.append(dim)

        self.middle_block = Block(
            [ResBlock(width, width, embed_dim), *self._transformers(width), ResBlock(width, width, embed_dim)])

        self.output_blocks = nn.ModuleList()
        for level, dim in reversed(list(enumerate(dims))):
            for index in range(config.res_blocks + 1):
                layers = self._stage(width + skips.pop(), dim, level)
                if level and index == config.res_blocks:
                    layers.append(Upsample(dim, level - 1))
                self.output_blocks.append(Block(layers))
                width = dim

        conv = FrameConv(width, config.out_dim, 3, padding=1)
        self.out = nn.Sequential(FrameNorm(width, silu=True), nn.Identity(), conv)  # the second was SiLU

    def _stem(self) -> "Iterator[nn.Module]":
        config = self.config
        yield Stem(config.in_dim, config.dim, 3, padding=1)
        if config.temporal_attention:
            yield TemporalTransformer(config.dim, config.num_heads, config.head_dim)

    def _stage(self, dim_in: int, dim: int, level: int) -> list[nn.Module]:
        attends = 0.5**level in self.config.attn_scales
        return [ResBlock(dim_in, dim, 4 * self.config.dim), *(self._transformers(dim) if attends else ())]

    def _transformers(self, dim: int) -> "Iterator[nn.Module]":
        config = self.config
        yield SpatialTransformer(dim, config.head_dim, config.context_dim)
        if config.temporal_attention:
            yield TemporalTransformer(dim, dim // config.head_dim, config.head_dim)

    def forward(
        self, x: Tensor, timestep: Tensor, context: Tensor | Heard, at_once: float = math.inf, deep: Deep | None = None,
    ) -> Tensor:
        """`x` b c f h w, any f, h and w; `timestep` b, may be fractional; `context` b n d or, per frame, b f n d.

        A single film may be told several things: with b = 1 in `x` and more in `context`, there is an answer to each.
        at_once: numbers that a layer may hold at a time beside what goes in and comes out; less is slower.
        deep: with features in it, these stand for all layers below full size (Ma et al. 2024, DeepCache, arXiv
        2312.00858); without, it is given them.
        """
        text = context if isinstance(context, Heard) else self.heard(context.to(x.dtype))
        cond = Conditioning(self.shifts(timestep, x.dtype), text, (x.shape[-2], x.shape[-1]), at_once)
        walk = Walk(rearrange(x, "b c f h w -> b f h w c").contiguous(), cond)
        (first, below), (above, last) = self.parted
        walk.down(first)
        if deep is not None and deep.features is not None:
            walk.x = deep.features
        else:
            walk.down(below)
            walk.through(self.middle_block)
            walk.up(above)
        if deep is not None:
            deep.features = walk.x
        walk.up(last)
        return rearrange(self.out(walk.x), "b f h w c -> b c f h w")

    @property
    def parted(self) -> tuple[tuple[Sequence[nn.Module], ...], ...]:
        """Blocks of the encoder that work at full size, and those below; blocks of the decoder below, and at full."""
        down, up, edge = list(self.input_blocks), list(self.output_blocks), 1 + self.config.res_blocks
        return (down[:edge], down[edge:]), (up[:-edge], up[-edge:])

    def layout(self) -> Layout:
        """Layers may come and go; the nearer to the middle, the more weights they have for what they compute. What the
        timestep says in all of them is computed at once, and what the text says only once in a film."""
        blocks = (*self.input_blocks, self.middle_block, *self.output_blocks)
        units = [layer for block in blocks for layer in layers(block) if not isinstance(layer, Stem)]
        middle = units.index(next(iter(layers(self.middle_block))))
        return Layout(
            sorted(units, key=lambda unit: abs(units.index(unit) - middle)),
            [layer.emb_layers for layer in units if isinstance(layer, ResBlock)],
            [part for layer in self.modules() if isinstance(layer, SpatialBlock)
             for part in (layer.attn2.to_k, layer.attn2.to_v)])

    def heard(self, context: Tensor) -> Heard:
        """`context` b n d, or b f n d, with what can be made of it once and for all steps."""
        told = (layer for layer in self.modules() if isinstance(layer, SpatialBlock))
        return Heard(context, {layer.attn2: layer.attn2.keys(context) for layer in told} if context.ndim == 3 else {})

    def shifts(self, timestep: Tensor, dtype: torch.dtype) -> dict[nn.Module, Tensor]:
        """What the timestep (b) adds in each residual block, b c."""
        emb = self.time_embed(sinusoidal(timestep, self.config.dim).to(dtype))
        if self.config.fps:
            rate = torch.full_like(timestep, self.config.fps, dtype=torch.float32)
            emb = emb + self.fps_embedding(sinusoidal(rate, self.config.dim).to(dtype))
        blocks = [layer for layer in self.modules() if isinstance(layer, ResBlock)]
        told = [layer for block in blocks for layer in block.emb_layers if isinstance(layer, Linear)]
        return dict(zip(blocks, together(F.silu(emb), told), strict=True))


def joined(x: Tensor, skip: Tensor) -> Tensor:
    """Activations and those of the encoder side by side; the latter may be of before the text was asked."""
    return torch.cat([x, skip.expand(len(x), *skip.shape[1:])], dim=-1)


def sinusoidal(timestep: Tensor, dim: int) -> Tensor:
    """Transformer position embedding of a timestep, cosines first; `b -> b dim`, computed in float32."""
    frequencies = torch.exp(-math.log(10_000) * torch.arange(dim // 2, device=timestep.device) / (dim // 2))
    angles = timestep.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class Block(nn.ModuleList):
    """Layers one after the other, each told the same conditioning. The network walks them, so that nobody holds on to
    what one layer has given to the next."""


def layers(block: nn.Module) -> Iterable[nn.Module]:
    """The layers of a block; what is none stands for itself."""
    return block if isinstance(block, Block) else (block,)


class Stem(FrameConv):
    """The first convolution, from latents to features."""

    def forward(self, x: Tensor, cond: Conditioning) -> Tensor:  # type: ignore[override] # noqa: ARG002
        return super().forward(x)


class Downsample(nn.Module):
    """Halves height and width, rounding up."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.op = FrameConv(dim, dim, 3, stride=2, padding=1)

    def forward(self, x: Tensor, cond: Conditioning) -> Tensor:  # noqa: ARG002
        return self.op(x)


class Upsample(nn.Module):
    """Back to the height and width of `level`, also where halving had rounded up."""

    def __init__(self, dim: int, level: int) -> None:
        super().__init__()
        self.level = level
        self.conv = FrameConv(dim, dim, 3, padding=1)

    def forward(self, x: Tensor, cond: Conditioning) -> Tensor:
        size = [-(-side // 2**self.level) for side in cond.size]
        frames = rearrange(x, "b f h w c -> (b f) h w c").movedim(-1, 1)
        return self.conv(rearrange(F.interpolate(frames, size), "(b f) c h w -> b f h w c", f=x.shape[1]))


class ResBlock(nn.Module):
    """Two spatial convolutions told the timestep, a shortcut, then four temporal convolutions."""

    def __init__(self, dim_in: int, dim: int, embed_dim: int) -> None:
        super().__init__()
        self.width = 2 * dim_in + 3 * dim  # numbers that a position holds at most, between x and the result
        conv = FrameConv(dim_in, dim, 3, padding=1)
        self.in_layers = nn.ModuleList([FrameNorm(dim_in, silu=True), nn.Identity(), conv])  # the second was SiLU
        self.emb_layers = nn.Sequential(nn.SiLU(), Linear(embed_dim, dim))  # UNet3D.shifts
        conv = FrameConv(dim, dim, 3, padding=1)
        self.out_layers = nn.Sequential(FrameNorm(dim, silu=True), nn.Identity(), nn.Identity(), conv)  # SiLU, dropout
        self.skip_connection = FrameConv(dim_in, dim, 1) if dim_in != dim else nn.Identity()
        self.temopral_conv = TemporalConvs(dim)

    def forward(self, x: Tensor, cond: Conditioning) -> Tensor:
        norm, _, conv = self.in_layers
        shift = cond.shifts[self]

        def space(x: Tensor, film: slice, _frames: slice) -> Tensor:
            h = conv(norm(x), shift if len(shift) == 1 else shift[film])
            return plus(self.out_layers(h), self.skip_connection(x))

        return self.temopral_conv(in_frames(space, x, len(x), cond.at_once / self.width))


class TemporalConvs(nn.Module):
    """Four convolutions along time around a shortcut; their norms span all frames."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv1 = nn.ModuleList([ClipNorm(dim, silu=True), nn.Identity(), TimeConv(dim)])  # the second was SiLU
        self.conv2 = nn.ModuleList([ClipNorm(dim, silu=True), nn.Identity(), nn.Identity(), TimeConv(dim)])  # dropout
        self.conv3 = nn.ModuleList([ClipNorm(dim, silu=True), nn.Identity(), nn.Identity(), TimeConv(dim)])
        self.conv4 = nn.ModuleList([ClipNorm(dim, silu=True), nn.Identity(), nn.Identity(), TimeConv(dim)])

    def forward(self, x: Tensor) -> Tensor:
        h = x
        for conv in (self.conv1, self.conv2, self.conv3, self.conv4):
            h = conv[0](h)  # so that what it was made from is gone before
            h = conv[-1](h)
        return plus(h, x)
