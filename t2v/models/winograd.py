"""Convolutions with fewer multiplications than weights: F(2, 3), once or in two directions (Winograd 1980; Lavin and
Gray 2016, arXiv 1509.09308, section 4).

Two neighbouring results of a kernel of three weights depend on four numbers. In another basis, of sums and differences
of these, they take four multiplications instead of six, and in two directions 16 instead of 36: one matrix product for
each, of all channels. It is exact but for rounding, and on a CPU, where products are what a layer waits for, it takes
0.67 to 0.95 of the time (benchmarks/README.md). A kernel is brought to the basis at every step: kept there, it would
take 16/9 of its memory once more.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

BASIS = ((1.0, 0.0, 0.0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0.0, 0.0, 1.0))  # G in the paper
HELD = 6e6  # numbers in a part of the products; a C library asks the system for 32 MB and more each time
PLACES = 512  # fewer do not make up for the kernel, which has to be brought to the basis, too
WIDE: dict[tuple[int, ...], int] = {(3, 1): 512, (3, 3): 256}  # channels at least; in one direction less is saved


def pays(x: Tensor, kernel: Tensor, stride: tuple[int, ...] = (1, 1)) -> bool:
    """Whether it is faster than torch's convolution for `x`, n h w c, and a `kernel` o c 3 1 or o c 3 3."""
    at_home = x.device.type == "cpu" and x.dtype == torch.float32 and stride == (1, 1)
    return at_home and enough(x.numel() // x.shape[-1], kernel.shape)


def enough(places: int, shape: Sequence[int]) -> bool:
    """Whether a kernel of such a shape is wide enough, and there are enough places for it."""
    results, channels, *size = shape
    return places >= PLACES and min(results, channels) >= WIDE.get(tuple(size), math.inf)


def held(places: int, shape: Sequence[int]) -> float:
    """Numbers alive in `convolved` at its peak beside x and the result: kernels, and what products take and are."""
    if not enough(places, shape):
        return 0
    results, channels, *size = shape
    more = 2 ** size.count(3)  # products for each place, of which there are two or four results
    part = min(places, HELD / (more * max(channels, results)))
    return more**2 * channels * results + part * ((2 * more - 2) * channels + more * results)


def convolved(x: Tensor, kernel: Tensor, bias: Tensor) -> Tensor:
    """Convolution of `n h w c` by `kernel` o c 3 1 or o c 3 3, padded so that it keeps its size: n h w o."""
    return over_space(x, kernel, bias) if kernel.shape[3] > 1 else over_time(x, kernel.squeeze(3), bias)


def over_space(x: Tensor, kernel: Tensor, bias: Tensor) -> Tensor:
    """Convolution of pictures `n h w c` by `kernel` o c 3 3, with a padding of 1: n h w o."""
    (n, h, w, c), (o, *_) = x.shape, kernel.shape
    high, wide = -(-h // 2), -(-w // 2)  # tiles of four results
    basis = torch.tensor(BASIS)
    kernels = (torch.kron(basis, basis) @ kernel.reshape(-1, 9).T).view(16, o, c).mT
    y = x.new_empty(n, 2 * high, 2 * wide, o)
    some = max(1, int(HELD / (16 * high * wide * max(c, o))))
    for part, result in zip(x.split(some), y.split(some), strict=True):
        across = spread(F.pad(part, (0, 0, 1, 1 + w % 2, 1, 1 + h % 2)), 2)
        products = torch.bmm(spread(across, 2).view(16, -1, c), kernels).view(4, 4, len(part), high, wide, o)
        products[1, 1] += bias  # which is in all four results
        down = gathered(products)
        gathered(down.transpose(0, 1), result.view(-1, high, 2, wide, 2, o).permute(4, 2, 0, 1, 3, 5))
    return y[:, :h, :w].contiguous()


def over_time(x: Tensor, kernel: Tensor, bias: Tensor) -> Tensor:
    """Convolution of films `b f n c`, n places in each frame, by `kernel` o c 3, with a padding of 1: b f n o."""
    (b, f, n, c), (o, *_) = x.shape, kernel.shape
    pairs = -(-f // 2)
    kernels = (torch.tensor(BASIS) @ kernel.reshape(-1, 3).T).view(4, o, c).mT
    y = x.new_empty(b, 2 * pairs, n, o)
    some = max(1, int(HELD / (4 * b * pairs * max(c, o))))
    for part, result in zip(x.split(some, 2), y.split(some, 2), strict=True):
        places = part.shape[2]
        tiles = spread(F.pad(part, (0, 0, 0, 0, 1, 1 + f % 2)), 1).view(4, -1, c)
        products = torch.bmm(tiles, kernels).view(4, b, pairs, places, o)
        products[1] += bias
        gathered(products, result.unflatten(1, (pairs, 2)).movedim(2, 0))
    return y[:, :f].contiguous()


def spread(x: Tensor, axis: int) -> Tensor:
    """What the products take, 4 ..., for each two places along `axis`, from these and one on either side of them."""
    a, b, c, d = x.unfold(axis, 4, 2).unbind(-1)
    out = x.new_empty(4, *a.shape)
    torch.sub(a, c, out=out[0])
    torch.add(b, c, out=out[1])
    torch.sub(c, b, out=out[2])
    torch.sub(b, d, out=out[3])
    return out


def gathered(products: Tensor, out: Tensor | None = None) -> Tensor:
    """Two results from every four products, 4 ...: 2 ..."""
    a, b, c, d = products
    out = products.new_empty(2, *a.shape) if out is None else out
    torch.add(a, b, out=out[0]).add_(c)
    torch.sub(b, c, out=out[1]).sub_(d)
    return out
