"""Matrices of 8 bits: e4m3 numbers, and for each row of the result the power of two that they are to be multiplied by.

e4m3 (Micikevicius et al. 2022, arXiv 2209.05433) has 4 significant bits and reaches to 448, so a weight is off by a
17th at most, or by 2**-10 of its row's scale where it is tiny. Multiplying by a power of two is exact in any precision,
and takes none of the significant bits.

A scale belongs to a tensor as an attribute, wherever the numbers stand. Who reads weights uses `read`, and who writes
over them `write`; both take tensors without a scale as they are.
"""

import torch
from torch import Tensor

FLOAT8: torch.dtype | None = getattr(torch, "float8_e4m3fn", None)
LARGEST = 448.0
SMALLEST = -24  # exponent of a scale: float16 has no smaller power of two


def usable(device: torch.device) -> bool:
    """Whether `device` can hold such matrices."""
    return FLOAT8 is not None and device.type in ("cpu", "cuda", "xpu")


def scale_of(tensor: Tensor) -> Tensor | None:
    """The scale of each row, in float32; None where numbers stand for themselves."""
    return getattr(tensor, "row_scale", None)


def scaled(tensor: Tensor, scale: Tensor | None) -> Tensor:
    """`tensor`, to be multiplied by `scale`."""
    if scale is not None or scale_of(tensor) is not None:
        tensor.row_scale = scale  # type: ignore[attr-defined]
    return tensor


def put(weight: Tensor, data: Tensor) -> None:
    """Has `weight` be `data`, and no copy of it."""
    weight.data = data
    scaled(weight, scale_of(data))


def read(tensor: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    """What a tensor means, there and in that precision; itself where it is that already."""
    scale = scale_of(tensor)
    if scale is None:
        return tensor.to(device, dtype)
    return tensor.detach().to(device).to(dtype).mul_(by_rows(scale.to(device, dtype), tensor))


def write(target: Tensor, values: Tensor) -> None:
    """Makes `target` mean `values`, as closely as it can; the scales are chosen anew."""
    scale = scale_of(target)
    if scale is None:
        target.data.copy_(values if scale_of(values) is None else read(values, target.device, target.dtype))
        return
    values = read(values, target.device, values.dtype if scale_of(values) is None else torch.float32).float()
    low, high = values.flatten(1).aminmax(dim=1)
    part, exponent = torch.frexp(torch.maximum(-low, high) / LARGEST)
    exponent -= (part == 0.5).to(exponent)  # a power of two itself
    scale.copy_(((exponent.clamp(min=SMALLEST) + 127) << 23).view(torch.float32))  # pow is not exact everywhere
    target.data.copy_(values / by_rows(scale, values))


def made(values: Tensor) -> Tensor:
    """`values` in 8 bits, with their scales, in memory of their own."""
    assert FLOAT8 is not None
    new = scaled(torch.empty_like(values, dtype=FLOAT8), values.new_empty(len(values), dtype=torch.float32))
    write(new, values)
    return new


def by_rows(scale: Tensor, like: Tensor) -> Tensor:
    return scale.view(-1, *[1] * (like.ndim - 1))
