"""AutoencoderKL: pictures to latents an eighth of their size and back (Rombach et al. 2022, arXiv 2112.10752).

The autoencoder of Stable Diffusion, as the file VQGAN_autoencoder.pth holds it; frames are pictures, `b c h w`.
"""

from dataclasses import dataclass

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from t2v.models.layers import Conv2d, GroupNorm, attend


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

    def encode(self, frames: Tensor) -> Tensor:
        """`frames` b 3 h w in -1..1 to their most likely latents, b c h/8 w/8."""
        return self.moments(frames)[0] * self.config.scale_factor

    def decode(self, latents: Tensor) -> Tensor:
        """`latents` b c h/8 w/8 to frames b 3 h w, about -1..1."""
        return self.decoder(self.post_quant_conv(latents / self.config.scale_factor))


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
        x = self.conv_in(x)
        for stage in self.down:
            x = stage(x)
        return self.conv_out(F.silu(self.norm_out(self.mid(x))))


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
        x = self.mid(self.conv_in(z))
        for stage in reversed(self.up):
            x = stage(x)
        return self.conv_out(F.silu(self.norm_out(x)))


class Level(nn.Module):
    """Residual blocks at one size, then a change of size where there is one."""

    def __init__(self, dim_in: int, dim: int, blocks: int) -> None:
        super().__init__()
        self.block = nn.ModuleList(ResBlock(dim if i else dim_in, dim) for i in range(blocks))
        self.downsample: nn.Module = nn.Identity()
        self.upsample: nn.Module = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        for block in self.block:
            x = block(x)
        return self.upsample(self.downsample(x))


class Middle(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.block_1, self.attn_1, self.block_2 = ResBlock(dim, dim), Attention(dim), ResBlock(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.block_2(self.attn_1(self.block_1(x)))


class ResBlock(nn.Module):
    def __init__(self, dim_in: int, dim: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = GroupNorm(dim_in, eps=1e-6), Conv2d(dim_in, dim, 3, padding=1)
        self.norm2, self.conv2 = GroupNorm(dim, eps=1e-6), Conv2d(dim, dim, 3, padding=1)
        self.nin_shortcut: nn.Module = Conv2d(dim_in, dim, 1) if dim_in != dim else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        return self.nin_shortcut(x) + self.conv2(F.silu(self.norm2(h)))


class Attention(nn.Module):
    """One head over all positions."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = GroupNorm(dim, eps=1e-6)
        self.q, self.k, self.v = Conv2d(dim, dim, 1), Conv2d(dim, dim, 1), Conv2d(dim, dim, 1)
        self.proj_out = Conv2d(dim, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        q, k, v = (rearrange(to(h), "b c h w -> b 1 (h w) c") for to in (self.q, self.k, self.v))
        return x + self.proj_out(rearrange(attend(q, k, v), "b 1 (h w) c -> b c h w", h=x.shape[2]))


class Downsample(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv = Conv2d(dim, dim, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv = Conv2d(dim, dim, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0))
