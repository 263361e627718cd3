"""Attention in the UNet: within each frame and at the text, or along time.

What a layer holds inside is many times what goes into it and comes out. But within a frame no other frame is seen, and
along time no other position; so a transformer can do its work in parts, and what it holds is bounded at any size. On a
CPU it always does: memory that was in use a moment ago is in the cache, and new memory has to come from the system.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from t2v.models import fused
from t2v.models.layers import ClipNorm, FrameNorm, LayerNorm, Linear, attend, like, plus, together

Keys = tuple[Tensor, Tensor]  # of a text, and their values, each b n (a d), or for each frame b f n (a d)
ALL = slice(None)
TRANSFORMER = 16  # widths that a position holds in a transformer at most, of which GEGLU's projection and result are 12
CACHED, ROWS = 16e6, 1536  # numbers at once on a CPU; but products of fewer rows are slow


@dataclass(frozen=True)
class Heard:
    """A text, and what every spatial transformer makes of it whatever the film looks like: keys and values.

    A text that changes from frame to frame has none kept, they would be many; layers make them as they go.
    """

    context: Tensor  # b n d | b f n d
    keys: Mapping[nn.Module, Keys]

    def of(self, attention: "Attention", film: slice = ALL, frames: slice = ALL) -> Keys:
        """Keys and values for an attention in some films and frames."""
        if attention in self.keys:
            k, v = self.keys[attention]
            return k[film], v[film]
        return attention.keys(self.context[film, frames])


@dataclass(frozen=True)
class Conditioning:
    """What every layer is told beside the activations."""

    shifts: Mapping[nn.Module, Tensor]  # b c   what the timestep adds in each residual block; b is 1 if all share it
    text: Heard
    size: tuple[int, int]  # h w         of the latents, where the decoder has to arrive again
    at_once: float  # numbers that a layer may hold at a time, beside what goes in and comes out


class SpatialTransformer(nn.Module):
    """Every frame's positions look at each other and at the text."""

    def __init__(self, dim: int, head_dim: int, context_dim: int) -> None:
        super().__init__()
        self.width = TRANSFORMER * dim
        self.norm = FrameNorm(dim, eps=1e-6)
        self.proj_in = Linear(dim, dim)
        self.transformer_blocks = nn.ModuleList([SpatialBlock(dim, dim // head_dim, head_dim, context_dim)])
        self.proj_out = Linear(dim, dim)

    def forward(self, x: Tensor, cond: Conditioning) -> Tensor:
        def part(x: Tensor, film: slice, frames: slice) -> Tensor:
            h = self.proj_in(self.norm(x))
            for block in self.transformer_blocks:
                assert isinstance(block, SpatialBlock)
                h = block(h, cond.text.of(block.attn2, film, frames))
            return self.proj_out(h)

        some = at_a_time(self.width, cond.at_once, x.device.type)
        return plus(in_frames(part, x, max(len(x), len(cond.text.context)), some), x)


class TemporalTransformer(nn.Module):
    """Every position's frames look at each other, twice; the text is not asked."""

    def __init__(self, dim: int, heads: int, head_dim: int) -> None:
        super().__init__()
        inner = heads * head_dim
        self.width = TRANSFORMER * inner
        self.norm = ClipNorm(dim, eps=1e-6)
        self.proj_in = Pointwise(dim, inner, 1)
        self.transformer_blocks = nn.ModuleList([TemporalBlock(inner, heads, head_dim)])
        self.proj_out = Pointwise(inner, dim, 1)

    def forward(self, x: Tensor, cond: Conditioning) -> Tensor:
        def part(h: Tensor) -> Tensor:
            h = self.proj_in(h)
            for block in self.transformer_blocks:
                h = block(h)
            return self.proj_out(h)

        return plus(in_places(part, self.norm(x), at_a_time(self.width, cond.at_once, x.device.type)), x)


def at_a_time(width: int, at_once: float, device: str) -> float:
    """How many a transformer takes at a time on a type of device, where each of them holds so many numbers."""
    return min(at_once, max(CACHED, ROWS * width) if device == "cpu" else math.inf) / width


def in_frames(part: Callable[[Tensor, slice, slice], Tensor], x: Tensor, films: int, positions: float) -> Tensor:
    """`part(x, film, frames)` of all `x` b f h w c or, where that has more than so many `positions`, of some frames of
    a film after the other. There may be more `films` than are in x, which is then the same for all."""
    _, count, height, width, _ = x.shape
    if films * count * height * width <= positions:
        return part(x, ALL, ALL)
    some, result = max(1, int(positions / (height * width))), x.new_empty(0)
    for number in range(films):
        film = slice(number, number + 1)
        for start in range(0, count, some):
            frames = slice(start, start + some)
            made = part((x if len(x) == 1 else x[film])[:, frames], film, frames)
            if not len(result):
                result = made.new_empty(films, count, *made.shape[2:])
            result[film, frames] = made
    return result


def in_places(part: Callable[[Tensor], Tensor], x: Tensor, positions: float) -> Tensor:
    """`part(x)` of all `x` b f h w c or, where that has more than so many `positions`, of some places of a film after
    the other, in all its frames."""
    films, count, height, width, _ = x.shape
    if films * count * height * width <= positions:
        return part(x)
    places, result = rearrange(x, "b f h w c -> b f 1 (h w) c"), torch.empty_like(x)
    some, flat = max(1, int(positions / count)), rearrange(result, "b f h w c -> b f 1 (h w) c")
    for film in range(films):
        for start in range(0, height * width, some):
            here = slice(film, film + 1), ..., slice(start, start + some), ALL
            flat[here] = part(places[here])
    return result


class Pointwise(nn.Conv1d):
    """A linear layer whose published weight is a convolution kernel of length 1, `o i 1`."""

    def forward(self, x: Tensor) -> Tensor:
        assert self.bias is not None
        return F.linear(x, like(self.weight, x).squeeze(-1), like(self.bias, x))


class TransformerBlock(nn.Module):
    """Two attentions and a feed-forward net, each around a shortcut and behind a LayerNorm."""

    def __init__(self, dim: int, heads: int, head_dim: int, context_dim: int) -> None:
        super().__init__()
        self.attn1 = Attention(dim, dim, heads, head_dim)
        self.attn2 = Attention(dim, context_dim, heads, head_dim)
        self.ff = FeedForward(dim)
        self.norm1, self.norm2, self.norm3 = LayerNorm(dim), LayerNorm(dim), LayerNorm(dim)


class SpatialBlock(TransformerBlock):
    def forward(self, x: Tensor, text: Keys) -> Tensor:
        x = plus(self.attn1.space(self.norm1(x)), x)
        x = plus(self.attn2.text(self.norm2(x), text), x)
        return plus(self.ff(self.norm3(x)), x)


class TemporalBlock(TransformerBlock):
    def __init__(self, dim: int, heads: int, head_dim: int) -> None:
        super().__init__(dim, heads, head_dim, context_dim=dim)

    def forward(self, x: Tensor) -> Tensor:
        x = plus(self.attn1.time(self.norm1(x)), x)
        x = plus(self.attn2.time(self.norm2(x)), x)
        return plus(self.ff(self.norm3(x)), x)


class Attention(nn.Module):
    """Multi-head attention of `b f h w c` activations (`a` heads of width `d`) over space, time or text."""

    def __init__(self, dim: int, context_dim: int, heads: int, head_dim: int) -> None:
        super().__init__()
        inner = heads * head_dim
        self.heads = heads
        self.to_q = Linear(dim, inner, bias=False)
        self.to_k = Linear(context_dim, inner, bias=False)
        self.to_v = Linear(context_dim, inner, bias=False)
        self.to_out = nn.Sequential(Linear(inner, dim))

    def space(self, x: Tensor) -> Tensor:
        """Within each frame."""
        _, f, h, *_ = x.shape
        q, k, v = (rearrange(each, "b f h w (a d) -> (b f) a (h w) d", a=self.heads) for each in self.all(x))
        return self.to_out(rearrange(attend(q, k, v), "(b f) a (h w) d -> b f h w (a d)", f=f, h=h))

    def time(self, x: Tensor) -> Tensor:
        """Along the frames of each position; film by film, for only so the positions are a view."""
        h, qkv = x.shape[2], (rearrange(each, "b f h w (a d) -> b (h w) a f d", a=self.heads) for each in self.all(x))
        seen = [rearrange(attend(*film), "(h w) a f d -> f h w (a d)", h=h) for film in zip(*qkv, strict=True)]
        return self.to_out(torch.stack(seen) if len(seen) > 1 else seen[0][None])

    def all(self, x: Tensor) -> tuple[Tensor, ...]:
        """Queries, keys and values of `x`, in one product."""
        return together(x, [self.to_q, self.to_k, self.to_v])

    def text(self, x: Tensor, keys: Keys) -> Tensor:
        """At the text: keys b n (a d) of the whole clip, never repeated per frame, or b f n (a d) of each frame."""
        (_, f, h, *_), q = x.shape, self.to_q(x).expand(len(keys[0]), -1, -1, -1, -1)
        if keys[0].ndim == 3:
            q = rearrange(q, "b f h w (a d) -> b a (f h w) d", a=self.heads)
            k, v = (rearrange(each, "b n (a d) -> b a n d", a=self.heads) for each in keys)
            return self.to_out(rearrange(attend(q, k, v), "b a (f h w) d -> b f h w (a d)", f=f, h=h))
        q = rearrange(q, "b f h w (a d) -> (b f) a (h w) d", a=self.heads)
        k, v = (rearrange(each, "b f n (a d) -> (b f) a n d", a=self.heads) for each in keys)
        return self.to_out(rearrange(attend(q, k, v), "(b f) a (h w) d -> b f h w (a d)", f=f, h=h))

    def keys(self, context: Tensor) -> Keys:
        """Keys and values of a text, `... n d -> ... n (a d)`."""
        return self.to_k(context), self.to_v(context)


class FeedForward(nn.Module):
    """GEGLU (Shazeer 2020, arXiv 2002.05202), four times as wide inside."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.net = nn.Sequential(GEGLU(dim, 4 * dim), nn.Identity(), Linear(4 * dim, dim))  # the second was dropout

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class GEGLU(nn.Module):
    """`value * gelu(gate)`, with the exact GELU."""

    def __init__(self, dim: int, inner: int) -> None:
        super().__init__()
        self.proj = Linear(dim, 2 * inner)

    def forward(self, x: Tensor) -> Tensor:
        return fused.geglu(self.proj(x))
