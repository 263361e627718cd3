"""AutoencoderKL: pictures to latents an eighth of their size and back (Rombach et al. 2022, arXiv 2112.10752).

The autoencoder of Stable Diffusion, as the file VQGAN_autoencoder.pth holds it; frames are pictures, `b c h w`.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from t2v.models.layers import Conv2d, GroupNorm, attend
from t2v.models.strips import WHOLE, Strips, active, convolved, cut, halved, rows_of, sized, whole
from t2v.models.tiles import spans, tiled

SCORES = 2**24  # of queries with keys, at once


@dataclass(frozen=True)
class AutoencoderConfig:
    """The defaults are the published model of 84 million weights; each level but the last halves the picture."""

    ch: int = 128
    ch_mult: tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: int = 2
    z_channels: int = 4
    embed_dim: int = 4
    scale_factor: float = 0.18215


class AutoencoderKL(nn.Module):
    """`decode(encode(frames))` is nearly `frames`; latents are scaled to unit variance."""

    def __init__(self, config: AutoencoderConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or AutoencoderConfig()
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.quant_conv = Conv2d(2 * config.z_channels, 2 * config.embed_dim, 1)
        self.post_quant_conv = Conv2d(config.embed_dim, config.z_channels, 1)

    @property
    def factor(self) -> int:
        """How many pixels wide one latent is."""
        return int(2 ** (len(self.config.ch_mult) - 1))

    def moments(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of the unscaled latents of `frames`, b 3 h w in -1..1."""
        mean, logvar = self.quant_conv(self.encoder(frames)).chunk(2, dim=1)
        return mean, logvar.clamp(-30, 20)

    def encode(self, frames: Tensor, tile: int = 0) -> Tensor:
        """`frames` b 3 h w in -1..1 to their most likely latents, b c h/8 w/8.

        With a `tile`, both ways go by square tiles of so many latents, where the picture is larger; nearly the same.
        """
        means = tiled(lambda part: self.moments(part)[0], frames, tile, before=self.factor, after=1)
        return means * self.config.scale_factor

    def decode(self, latents: Tensor, tile: int = 0) -> Tensor:
        """`latents` b c h/8 w/8 to frames b 3 h w, about -1..1."""
        z = latents / self.config.scale_factor
        return tiled(lambda part: self.decoder(self.post_quant_conv(part)), z, tile, before=1, after=self.factor)


class Encoder(nn.Module):
    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        dims = [config.ch * mult for mult in config.ch_mult]
        self.conv_in = Conv2d(3, config.ch, 3, padding=1)
        self.down = nn.ModuleList()
        for level, dim in enumerate(dims):
            before = dims[level - 1] if level else config.ch
            stage = Level(before, dim, config.num_res_blocks)
            if level < len(dims) - 1:
                stage.downsample = Downsample(dim)
            self.down.append(stage)
        self.mid = Middle(dims[-1])
        self.norm_out = GroupNorm(dims[-1], eps=1e-6)
        self.conv_out = Conv2d(dims[-1], 2 * config.z_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        strips = list(convolved(self.conv_in, sized([x], self.conv_in.out_channels), nn.Identity()))
        for stage in self.down:
            strips = stage(strips)
        strips = self.mid(strips)
        return whole(list(convolved(self.conv_out, strips, active(self.norm_out, strips))))


class Decoder(nn.Module):
    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        dims = [config.ch * mult for mult in config.ch_mult]
        self.conv_in = Conv2d(config.z_channels, dims[-1], 3, padding=1)
        self.mid = Middle(dims[-1])
        self.up = nn.ModuleList()  # kept from the finest level to the coarsest, walked the other way
        for level, dim in enumerate(dims):
            before = dims[level + 1] if level < len(dims) - 1 else dims[-1]
            stage = Level(before, dim, config.num_res_blocks + 1)
            if level:
                stage.upsample = Upsample(dim)
            self.up.append(stage)
        self.norm_out = GroupNorm(dims[0], eps=1e-6)
        self.conv_out = Conv2d(dims[0], 3, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        strips = self.mid([self.conv_in(z)])
        for stage in reversed(self.up):
            strips = stage(strips)
        return whole(list(convolved(self.conv_out, strips, active(self.norm_out, strips))))


class Level(nn.Module):
    """Residual blocks at one size, then a change of size where there is one."""

    def __init__(self, dim_in: int, dim: int, blocks: int) -> None:
        super().__init__()
        self.widest = max(dim_in, dim)
        self.block = nn.ModuleList(ResBlock(dim if i else dim_in, dim) for i in range(blocks))
        self.downsample: nn.Module = nn.Identity()
        self.upsample: nn.Module = nn.Identity()

    def forward(self, x: Strips) -> Strips:
        x = sized(x, self.widest)
        for block in self.block:
            x = block(x)
        return self.upsample(self.downsample(x))


class Middle(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.block_1, self.attn_1, self.block_2 = ResBlock(dim, dim), Attention(dim), ResBlock(dim, dim)

    def forward(self, x: Strips) -> Strips:
        return self.block_2([self.attn_1(whole(self.block_1(x)))])


class ResBlock(nn.Module):
    def __init__(self, dim_in: int, dim: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = GroupNorm(dim_in, eps=1e-6), Conv2d(dim_in, dim, 3, padding=1)
        self.norm2, self.conv2 = GroupNorm(dim, eps=1e-6), Conv2d(dim, dim, 3, padding=1)
        self.nin_shortcut: nn.Module = Conv2d(dim_in, dim, 1) if dim_in != dim else nn.Identity()

    def forward(self, x: Strips) -> Strips:
        past: Strips = []
        h = list(convolved(self.conv1, x, active(self.norm1, x), lambda strip: past.append(self.nin_shortcut(strip))))
        return [strip.add_(past.pop(0)) for strip in convolved(self.conv2, h, active(self.norm2, h))]


class Attention(nn.Module):
    """One head over all positions, some queries at a time: not every device has a kernel for a head so wide, and
    without one the scores of all pairs of positions are there at once."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = GroupNorm(dim, eps=1e-6)
        self.q, self.k, self.v = Conv2d(dim, dim, 1), Conv2d(dim, dim, 1), Conv2d(dim, dim, 1)
        self.proj_out = Conv2d(dim, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        # The kernels that do without the scores want the numbers of a position side by side.
        q, k, v = (rearrange(to(h), "b c h w -> b 1 (h w) c").contiguous() for to in (self.q, self.k, self.v))
        del h
        queries = max(1, SCORES // (len(x) * k.shape[2]))
        y = torch.cat([attend(part, k, v) for part in q.split(queries, dim=2)], dim=2)
        del q, k, v
        return self.proj_out(rearrange(y, "b 1 (h w) c -> b c h w", h=x.shape[2])).add_(x)


class Downsample(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv = Conv2d(dim, dim, 3, stride=2)

    def forward(self, x: Strips) -> Strips:
        return list(halved(self.conv, x))


class Upsample(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv = Conv2d(dim, dim, 3, padding=1)

    def forward(self, x: Strips) -> Strips:
        height, (b, dim, _, width) = sum(strip.shape[2] for strip in x), x[0].shape
        strips = cut(x, rows_of(b * dim, 2 * height, 2 * width) // 2)
        return list(convolved(self.conv, strips, lambda rows: F.interpolate(rows, scale_factor=2.0)))


# ---- how many numbers are alive at once while a picture is made; the tests count every tensor ----

Size = tuple[int, int]  # height and width of a picture, in pixels


def decoder_numbers(config: AutoencoderConfig, size: Size, dtype: torch.dtype, tile: int = 0) -> float:
    """Numbers alive in `decode` at its peak, each of `dtype`, for one picture that will be of this size."""
    dims = [config.ch * mult for mult in config.ch_mult]
    (height, width), around = parts_of(config, size, tile)
    levels = [max(block_numbers(before, dim, height >> level, width >> level, dtype),
                  2.25 * before * min(height * width >> 2 * level, WHOLE / before))
              for level, (before, dim) in enumerate(zip([*dims[1:], dims[-1]], dims, strict=True))]
    latents = 2 * config.embed_dim * (size[0] * size[1] >> 2 * (len(dims) - 1))  # as they came, and unscaled
    return latents + 3 * around + max(*levels, middle_numbers(config, height, width))


def encoder_numbers(config: AutoencoderConfig, size: Size, dtype: torch.dtype, tile: int = 0) -> float:
    """The same in `encode`, the picture itself included."""
    dims = [config.ch * mult for mult in config.ch_mult]
    (height, width), around = parts_of(config, size, tile)
    levels = [block_numbers(before, dim, height >> level, width >> level, dtype)
              for level, (before, dim) in enumerate(zip([config.ch, *dims], dims, strict=False))]
    latents = config.embed_dim * (around >> 2 * (len(dims) - 1))
    return 3 * size[0] * size[1] + latents + max(*levels, middle_numbers(config, height, width))


def parts_of(config: AutoencoderConfig, size: Size, tile: int) -> tuple[Size, int]:
    """The size of what is computed at once, and of how many pixels are the result and its row of tiles."""
    factor = 2 ** (len(config.ch_mult) - 1)
    latents = size[0] // factor, size[1] // factor
    height, width = ((end - start) * factor for start, end in (spans(side, tile)[0] for side in latents))
    tiles = (height, width) != (latents[0] * factor, latents[1] * factor)
    return (height, width), (size[0] + height) * size[1] if tiles else 0


def block_numbers(before: int, dim: int, height: int, width: int, dtype: torch.dtype) -> float:
    """In a residual block from `before` channels to `dim`: in one piece its input, the same normed, and its result, or
    later the shortcut, two of the result and that normed. In strips the input, or the result and the shortcut, and a
    strip twice, made from itself with two rows more; where numbers are halves, the norm makes wholes of them."""
    pixels, rows = height * width, rows_of(max(before, dim), height, width)
    if rows == height:
        return pixels * max(2 * before + dim, 4 * dim)
    strip = (rows + 2) * width * (2 if dtype.itemsize > 2 else 5)
    return max(before * (pixels + strip), dim * (2 * pixels + strip))


def middle_numbers(config: AutoencoderConfig, height: int, width: int) -> float:
    """In the attention: input, queries, keys, values, and two of what comes of them."""
    down = 2 * (len(config.ch_mult) - 1)
    return 6 * config.ch * config.ch_mult[-1] * (height * width >> down)
