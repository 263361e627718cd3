"""TextTower: the text half of OpenCLIP ViT-H/14, which turns 77 tokens into the context the UNet reads.

As Stable Diffusion 2 uses it: the last of 24 blocks is left out, the final LayerNorm is kept (penultimate layer).
Attributes are named as in open_clip_pytorch_model.bin.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from t2v.layout import Layout
from t2v.models.layers import LayerNorm, Linear, attend, like


@dataclass(frozen=True)
class TextConfig:
    """The defaults are the published tower of 354 million weights."""

    width: int = 1024
    layers: int = 24
    heads: int = 16
    skip_last: int = 1  # blocks at the end that are there but not used; 0 for towers saved with 23 layers
    vocab_size: int = 49408
    context_length: int = 77


class TextTower(nn.Module):
    """`tokens` b n to context b n d."""

    def __init__(self, config: TextConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or TextConfig()
        self.token_embedding = nn.Embedding(config.vocab_size, config.width)
        self.positional_embedding = nn.Parameter(torch.zeros(config.context_length, config.width))
        self.transformer = Transformer(config)
        self.ln_final = LayerNorm(config.width)

    def layout(self) -> Layout:
        """Blocks may come and go; the table of all words stays where it is, a prompt has 77 of them."""
        blocks = list(self.transformer.resblocks)
        return Layout(blocks[: self.transformer.used], lent=[self.token_embedding, *blocks[self.transformer.used :]])

    def forward(self, tokens: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """`tokens` b n, integers, n at most context_length, to context b n d in `dtype`, on the device of `tokens`."""
        embedding = self.token_embedding.weight
        x = F.embedding(tokens.to(embedding.device), embedding).to(tokens.device, dtype)
        x = x + self.positional_embedding[: tokens.shape[1]].to(x.device, x.dtype)
        return self.ln_final(self.transformer(x))


class Transformer(nn.Module):
    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.used = config.layers - config.skip_last
        self.resblocks = nn.ModuleList(ResidualAttentionBlock(config.width, config.heads) for _ in range(config.layers))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.resblocks[: self.used]:
            x = block(x)
        return x


class ResidualAttentionBlock(nn.Module):
    """Causal attention and a feed-forward net, each behind its LayerNorm; exact GELU."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.ln_1, self.attn = LayerNorm(width), Attention(width, heads)
        self.ln_2, self.mlp = LayerNorm(width), MLP(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(nn.init.normal_(torch.empty(3 * width, width), std=width**-0.5))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        qkv = F.linear(x, self.in_proj_weight.to(x.device, x.dtype), like(self.in_proj_bias, x))
        q, k, v = rearrange(qkv, "b n (three a d) -> three b a n d", three=3, a=self.heads)
        return self.out_proj(rearrange(attend(q, k, v, causal=True), "b a n d -> b n (a d)"))


class MLP(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.c_fc, self.c_proj = Linear(width, 4 * width), Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.c_proj(F.gelu(self.c_fc(x)))
