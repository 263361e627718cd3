"""The few layers all networks share.

Two ideas live here. Weights keep the precision and the place they were loaded in (fp16 in a mapped file, say)
and are brought to the activations layer by layer, so nothing holds a second copy of a model. And video
activations are laid out `b f h w c`, channels last: a linear layer sees rows, a spatial convolution sees
`(b f) c h w` and a temporal one `b c f (h w)`, all of them views of the same memory.
"""

from collections.abc import Sequence
from typing import Any, overload

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from t2v import float8
from t2v.models import fused, winograd
from t2v.models.fused import recorded

MAX_ROWS = 65_535  # rows x heads that CUDA's attention kernels take in one launch


@overload
def like(weight: Tensor, x: Tensor) -> Tensor: ...


@overload
def like(weight: None, x: Tensor) -> None: ...


def like(weight: Tensor | None, x: Tensor) -> Tensor | None:
    """`weight` in the precision and on the device of `x`; itself when it is there already."""
    return None if weight is None else float8.read(weight, x.device, x.dtype)


class Linear(nn.Linear):
    """`... d_in -> ... d_out`, at the precision of its input."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, like(self.weight, x), like(self.bias, x))


class LayerNorm(nn.LayerNorm):
    """Over the last axis, at the precision of its input."""

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.normalized_shape, like(self.weight, x), like(self.bias, x), self.eps)


class Conv2d(nn.Conv2d):
    """Spatial convolution of pictures, `b c h w`, at the precision of its input."""

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, like(self.weight, x), like(self.bias, x))


class GroupNorm(nn.GroupNorm):
    """32 groups, as everywhere in this family, over all axes but the first two: `b c ...`."""

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__(32, channels, eps)

    def forward(self, x: Tensor) -> Tensor:
        return F.group_norm(x, self.num_groups, like(self.weight, x), like(self.bias, x), self.eps)


class FrameNorm(GroupNorm):
    """GroupNorm of each frame by itself, `b f h w c`; with `silu`, SiLU of that."""

    def __init__(self, channels: int, eps: float = 1e-5, silu: bool = False) -> None:
        super().__init__(channels, eps)
        self.silu = silu

    def forward(self, x: Tensor) -> Tensor:
        return self.normed(rearrange(x, "b f h w c -> (b f) (h w) c")).view_as(x)

    def normed(self, rows: Tensor) -> Tensor:
        """Every sample of `rows`, n p c, over all its positions p and the channels of a group."""
        assert self.weight is not None
        return fused.norm_silu(rows, self.weight, self.bias, self.num_groups, self.eps, self.silu)


class ClipNorm(FrameNorm):
    """GroupNorm over all frames of a clip, `b f h w c`; frames may therefore never be normalised in parts."""

    def forward(self, x: Tensor) -> Tensor:
        return self.normed(rearrange(x, "b f h w c -> b (f h w) c")).view_as(x)


class FrameConv(Conv2d):
    """Spatial convolution of every frame, `b f h w c`; `shift` b c, or 1 c, is added to what its bias adds."""

    def forward(self, x: Tensor, shift: Tensor | None = None) -> Tensor:
        bias = like(self.bias, x)
        if shift is not None and bias is not None:
            bias, shift = (bias + shift[0], None) if len(shift) == 1 else (bias, shift)
        frames = rearrange(x, "b f h w c -> (b f) h w c")
        y = convolved(frames, like(self.weight, x), bias, self.stride, self.padding)
        y = rearrange(y, "(b f) h w c -> b f h w c", f=x.shape[1])
        return y if shift is None else y + shift[:, None, None, None]


class TimeConv(nn.Conv3d):
    """Convolution over three neighbouring frames, `b f h w c`, its weight kept as the published (3, 1, 1) kernel.

    Computed as a two-dimensional (3, 1) convolution over the axes f and (h w): the same sums, much faster on CPU.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, (3, 1, 1), padding=(1, 0, 0))

    def forward(self, x: Tensor) -> Tensor:
        films, kernel = rearrange(x, "b f h w c -> b f (h w) c"), like(self.weight, x).squeeze(-1)
        return convolved(films, kernel, like(self.bias, x), padding=(1, 0)).view_as(x)


def convolved(
    x: Tensor, kernel: Tensor, bias: Tensor | None, stride: tuple[int, ...] = (1, 1), padding: Any = 0,
) -> Tensor:
    """Convolution of `n h w c`, with channels last in memory, and so its result.

    On the CPU it takes fewer products where that pays. And where there are more channels than places, torch's is up to
    three times as fast with channels first there, and that is worth the copies.
    """
    if bias is not None and winograd.pays(x, kernel, stride) and not recorded(x, kernel, bias):
        return winograd.convolved(x, kernel, bias)
    x = x.movedim(-1, 1)  # only now: where n is 1, einops would give it a stride by which torch knows no channels_last
    if x.device.type != "cpu" or x.shape[1] <= x.shape[2] * x.shape[3]:
        return F.conv2d(x, kernel, bias, stride, padding).movedim(1, -1)
    y = F.conv2d(x.contiguous(), kernel, bias, stride, padding)
    return y.contiguous(memory_format=torch.channels_last).movedim(1, -1)


def plus(y: Tensor, x: Tensor) -> Tensor:
    """x + y in the memory of y, which nobody else may need; elsewhere while gradients are recorded.

    y may be of more films than x, which is then added to each of them.
    """
    return x + y if torch.is_grad_enabled() and (x.requires_grad or y.requires_grad) else y.add_(x)


def together(x: Tensor, layers: Sequence[nn.Linear]) -> tuple[Tensor, ...]:
    """What several `Linear` layers make of the same x: in one product if their weights lie side by side in memory."""
    biases = [layer.bias for layer in layers if layer.bias is not None]
    weight, bias = side_by_side([layer.weight for layer in layers]), side_by_side(biases)
    if weight is None or (bias is None and biases):
        return tuple(layer(x) for layer in layers)
    y = F.linear(x, like(weight, x), like(bias, x))
    return y.split([layer.out_features for layer in layers], dim=-1)


def side_by_side(parts: Sequence[Tensor]) -> Tensor | None:
    """Tensors that differ in nothing but their first axis, as the one that they are in memory; None if they are not."""
    if not parts:
        return None
    first, end = parts[0], parts[0].storage_offset()
    memory = first.untyped_storage()._cdata
    for part in parts:
        if part.untyped_storage()._cdata != memory or part.storage_offset() != end or not part.is_contiguous():
            return None
        if part.dtype != first.dtype or part.shape[1:] != first.shape[1:]:
            return None
        end += part.numel()
    joined = first.as_strided((sum(map(len, parts)), *first.shape[1:]), first.stride())
    scales = [scale for scale in map(float8.scale_of, parts) if scale is not None]
    if not scales:
        return joined
    scale = side_by_side(scales) if len(scales) == len(parts) else None
    return None if scale is None else float8.scaled(joined, scale)


def attend(q: Tensor, k: Tensor, v: Tensor, causal: bool = False) -> Tensor:
    """Scaled dot-product attention of `rows heads n d` tensors, which may be strided views."""
    rows = max(1, MAX_ROWS // q.shape[1])
    if q.shape[0] <= rows:
        return F.scaled_dot_product_attention(q, k, v, is_causal=causal)
    parts = zip(q.split(rows), k.split(rows), v.split(rows), strict=True)
    return torch.cat([F.scaled_dot_product_attention(*part, is_causal=causal) for part in parts])
