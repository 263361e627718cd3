"""UNet3D: the denoising network of ModelScope text2video (Wang et al. 2023, arXiv 2308.06571).

A Stable Diffusion 2 UNet whose every stage also works along time: a residual block carries four temporal
convolutions, each spatial transformer is followed by a temporal one. Attributes are named as in the published
weights, `temopral_conv` (sic) included, so a state dict loads as it is.

Inside, activations are `b f h w c`: batch, frames, height, width, channels. Nothing here knows the position of
a frame (only the zero padding of the temporal convolutions tells the ends), so any number of frames runs.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from t2v.models.layers import ClipNorm, FrameConv, FrameNorm, LayerNorm, Linear, TimeConv, attend


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


@dataclass(frozen=True)
class Conditioning:
    """What every layer is told beside the activations."""

    emb: Tensor  # b e         embedding of the timestep
    context: Tensor  # b n d | b f n d   text, for the clip or for each frame
    size: tuple[int, int]  # h w         of the latents, where the decoder has to arrive again


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
        self.input_blocks = nn.ModuleList([Block(*self._stem())])
        for level, dim in enumerate(dims):
            for _ in range(config.res_blocks):
                self.input_blocks.append(Block(*self._stage(width, dim, level)))
                skips.append(width := dim)
            if level < len(dims) - 1:
                self.input_blocks.append(Downsample(dim))
                skips.append(dim)

        self.middle_block = Block(
            ResBlock(width, width, embed_dim), *self._transformers(width), ResBlock(width, width, embed_dim))

        self.output_blocks = nn.ModuleList()
        for level, dim in reversed(list(enumerate(dims))):
            for index in range(config.res_blocks + 1):
                layers = self._stage(width + skips.pop(), dim, level)
                if level and index == config.res_blocks:
                    layers.append(Upsample(dim, level - 1))
                self.output_blocks.append(Block(*layers))
                width = dim

        self.out = nn.Sequential(FrameNorm(width), nn.SiLU(), FrameConv(width, config.out_dim, 3, padding=1))

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

    def forward(self, x: Tensor, timestep: Tensor, context: Tensor) -> Tensor:
        """`x` b c f h w, any f, h and w; `timestep` b, may be fractional; `context` b n d or, per frame, b f n d."""
        emb = self.time_embed(sinusoidal(timestep, self.config.dim).to(x.dtype))
        if self.config.fps:
            rate = torch.full_like(timestep, self.config.fps, dtype=torch.float32)
            emb = emb + self.fps_embedding(sinusoidal(rate, self.config.dim).to(x.dtype))
        cond = Conditioning(emb, context.to(x.dtype), (x.shape[-2], x.shape[-1]))
        x = rearrange(x, "b c f h w -> b f h w c")
        skips = []
        for block in self.input_blocks:
            skips.append(x := block(x, cond))
        x = self.middle_block(x, cond)
        for block in self.output_blocks:
            x = block(torch.cat([x, skips.pop()], dim=-1), cond)
        return rearrange(self.out(x), "b f h w c -> b c f h w")


def sinusoidal(timestep: Tensor, dim: int) -> Tensor:
    """Transformer position embedding of a timestep, cosines first; `b -> b dim`, computed in float32."""
    frequencies = torch.exp(-math.log(10_000) * torch.arange(dim // 2, device=timestep.device) / (dim // 2))
    angles = timestep.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class Block(nn.Sequential):
    """Layers one after the other, each told the same conditioning."""

    def forward(self, x: Tensor, cond: Conditioning) -> Tensor:  # type: ignore[override]
        for layer in self:
            x = layer(x, cond)
        return x


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
        x, frames = rearrange(x, "b f h w c -> (b f) c h w"), x.shape[1]
        return self.conv(rearrange(F.interpolate(x, size), "(b f) c h w -> b f h w c", f=frames))


class ResBlock(nn.Module):
    """Two spatial convolutions told the timestep, a shortcut, then four temporal convolutions."""

    def __init__(self, dim_in: int, dim: int, embed_dim: int) -> None:
        super().__init__()
        conv = FrameConv(dim_in, dim, 3, padding=1)
        self.in_layers = nn.Sequential(FrameNorm(dim_in), nn.SiLU(), conv)
        self.emb_layers = nn.Sequential(nn.SiLU(), Linear(embed_dim, dim))
        conv = FrameConv(dim, dim, 3, padding=1)
        self.out_layers = nn.Sequential(FrameNorm(dim), nn.SiLU(), nn.Identity(), conv)  # the third was dropout
        self.skip_connection = FrameConv(dim_in, dim, 1) if dim_in != dim else nn.Identity()
        self.temopral_conv = TemporalConvs(dim)

    def forward(self, x: Tensor, cond: Conditioning) -> Tensor:
        h = self.in_layers(x) + self.emb_layers(cond.emb)[:, None, None, None]
        return self.temopral_conv(self.skip_connection(x) + self.out_layers(h))


class TemporalConvs(nn.Module):
    """Four convolutions along time around a shortcut; their norms span all frames."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(ClipNorm(dim), nn.SiLU(), TimeConv(dim))
        self.conv2 = nn.Sequential(ClipNorm(dim), nn.SiLU(), nn.Identity(), TimeConv(dim))
        self.conv3 = nn.Sequential(ClipNorm(dim), nn.SiLU(), nn.Identity(), TimeConv(dim))
        self.conv4 = nn.Sequential(ClipNorm(dim), nn.SiLU(), nn.Identity(), TimeConv(dim))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv4(self.conv3(self.conv2(self.conv1(x))))


class SpatialTransformer(nn.Module):
    """Every frame's positions look at each other and at the text."""

    def __init__(self, dim: int, head_dim: int, context_dim: int) -> None:
        super().__init__()
        self.norm = FrameNorm(dim, eps=1e-6)
        self.proj_in = Linear(dim, dim)
        self.transformer_blocks = nn.ModuleList([SpatialBlock(dim, dim // head_dim, head_dim, context_dim)])
        self.proj_out = Linear(dim, dim)

    def forward(self, x: Tensor, cond: Conditioning) -> Tensor:
        h = self.proj_in(self.norm(x))
        for block in self.transformer_blocks:
            h = block(h, cond.context)
        return x + self.proj_out(h)


class TemporalTransformer(nn.Module):
    """Every position's frames look at each other, twice; the text is not asked."""

    def __init__(self, dim: int, heads: int, head_dim: int) -> None:
        super().__init__()
        inner = heads * head_dim
        self.norm = ClipNorm(dim, eps=1e-6)
        self.proj_in = Pointwise(dim, inner, 1)
        self.transformer_blocks = nn.ModuleList([TemporalBlock(inner, heads, head_dim)])
        self.proj_out = Pointwise(inner, dim, 1)

    def forward(self, x: Tensor, cond: Conditioning) -> Tensor:  # noqa: ARG002
        h = self.proj_in(self.norm(x))
        for block in self.transformer_blocks:
            h = block(h)
        return x + self.proj_out(h)


class Pointwise(nn.Conv1d):
    """A linear layer whose published weight is a convolution kernel of length 1, `o i 1`."""

    def forward(self, x: Tensor) -> Tensor:
        assert self.bias is not None
        return F.linear(x, self.weight.to(x.device, x.dtype).squeeze(-1), self.bias.to(x.device, x.dtype))


class TransformerBlock(nn.Module):
    """Two attentions and a feed-forward net, each around a shortcut and behind a LayerNorm."""

    def __init__(self, dim: int, heads: int, head_dim: int, context_dim: int) -> None:
        super().__init__()
        self.attn1 = Attention(dim, dim, heads, head_dim)
        self.attn2 = Attention(dim, context_dim, heads, head_dim)
        self.ff = FeedForward(dim)
        self.norm1, self.norm2, self.norm3 = LayerNorm(dim), LayerNorm(dim), LayerNorm(dim)


class SpatialBlock(TransformerBlock):
    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        x = x + self.attn1.space(self.norm1(x))
        x = x + self.attn2.text(self.norm2(x), context)
        return x + self.ff(self.norm3(x))


class TemporalBlock(TransformerBlock):
    def __init__(self, dim: int, heads: int, head_dim: int) -> None:
        super().__init__(dim, heads, head_dim, context_dim=dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn1.time(self.norm1(x))
        x = x + self.attn2.time(self.norm2(x))
        return x + self.ff(self.norm3(x))


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
        return self._attend(x, x, "b f h w (a d) -> (b f) a (h w) d", "b f h w (a d) -> (b f) a (h w) d")

    def time(self, x: Tensor) -> Tensor:
        """Along the frames of each position."""
        return self._attend(x, x, "b f h w (a d) -> (b h w) a f d", "b f h w (a d) -> (b h w) a f d")

    def text(self, x: Tensor, context: Tensor) -> Tensor:
        """At the text: `context` b n d of the whole clip, never repeated per frame, or b f n d of each frame."""
        if context.ndim == 3:
            return self._attend(x, context, "b f h w (a d) -> b a (f h w) d", "b n (a d) -> b a n d")
        return self._attend(x, context, "b f h w (a d) -> (b f) a (h w) d", "b f n (a d) -> (b f) a n d")

    def _attend(self, x: Tensor, context: Tensor, queries: str, keys: str) -> Tensor:
        q = rearrange(self.to_q(x), queries, a=self.heads)
        k = rearrange(self.to_k(context), keys, a=self.heads)
        v = rearrange(self.to_v(context), keys, a=self.heads)
        left, right = queries.split(" -> ")
        b, f, h, w, _ = x.shape
        return self.to_out(rearrange(attend(q, k, v), f"{right} -> {left}", b=b, f=f, h=h, w=w))


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
        value, gate = self.proj(x).chunk(2, dim=-1)
        return value * F.gelu(gate)
