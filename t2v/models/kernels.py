"""GroupNorm and GEGLU as Triton kernels; `models.fused` knows when to launch them.

A program of the GroupNorm kernels looks after `SIDE` neighbouring groups of one sample. It walks down the rows of
`n p c` in blocks of `ROWS` positions and `SIDE * WIDE` lanes: a group of `PART` channels has `WIDE` lanes, the next
power of two, because Triton knows no other sizes. Everything is float32 inside, offsets that may be large are int64.

The only hint of a kernel's argument is `tl.constexpr`, a number that is compiled in: Triton reads hints itself. All
versions from 2.1 on compile what stands here, so it does without what came later.
"""

from contextlib import AbstractContextManager
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 4096  # numbers in flight in a program: enough to hide memory's latency, few enough to stay in registers
SLAB = 256  # lanes side by side where a program may have several groups: some whole lines of memory


@triton.jit
def lanes_of(slab, PART: tl.constexpr, GROUPS: tl.constexpr, SIDE: tl.constexpr, WIDE: tl.constexpr):
    """Of each lane: its group, its channel, and whether there is such a one."""
    lane = tl.arange(0, SIDE * WIDE)
    group, inside = slab * SIDE + lane // WIDE, lane % WIDE
    return group, group * PART + inside, (inside < PART) & (group < GROUPS)


@triton.jit
def by_group(x, SIDE: tl.constexpr, WIDE: tl.constexpr):
    """The sum over the lanes of each group; `lanes -> groups`."""
    # A matrix of who belongs to whom, because Triton 2.1 cannot reshape.
    member = tl.arange(0, SIDE)[:, None] == (tl.arange(0, SIDE * WIDE) // WIDE)[None, :]
    return tl.sum(tl.where(member, x[None, :], 0.0), axis=1)


@triton.jit
def by_lane(x, SIDE: tl.constexpr, WIDE: tl.constexpr):
    """Each lane has what its group has; `groups -> lanes`."""
    member = tl.arange(0, SIDE)[:, None] == (tl.arange(0, SIDE * WIDE) // WIDE)[None, :]
    return tl.sum(tl.where(member, x[:, None], 0.0), axis=0)


@triton.jit
def moments(x, shift, length, channel, real, C: tl.constexpr, PART: tl.constexpr, SIDE: tl.constexpr,
            WIDE: tl.constexpr, ROWS: tl.constexpr):
    """Mean of `x - shift` and sum of squared deviations from it in `length` rows from `x` on, by group.

    Welford's update (1962) in every lane and row of the block, then Chan's (1979) over them: nothing cancels,
    however far the mean is from zero.
    """
    row = tl.arange(0, ROWS)
    offset = row[:, None] * C + channel[None, :]
    mean = tl.zeros([ROWS, SIDE * WIDE], tl.float32)
    spread = tl.zeros([ROWS, SIDE * WIDE], tl.float32)
    seen = 0.0
    for start in range(0, length, ROWS):
        seen += 1.0
        valid = (start + row < length)[:, None] & real[None, :]
        value = tl.load(x + offset, mask=valid, other=0.0).to(tl.float32) - shift[None, :]
        step = tl.where(valid, value - mean, 0.0)
        mean += step * (1.0 / seen)
        spread += step * (value - mean)
        x += ROWS * C
    count = ((length - row + ROWS - 1) // ROWS).to(tl.float32)[:, None]  # how many numbers each lane has met
    centre = by_group(tl.sum(count * mean, axis=0), SIDE, WIDE) / (length * PART)
    apart = tl.where(real[None, :], mean - by_lane(centre, SIDE, WIDE)[None, :], 0.0)
    return centre, by_group(tl.sum(spread + count * apart * apart, axis=0), SIDE, WIDE)


@triton.jit
def normalise(x, out, shift, mean, deviation, weight, bias, length, channel, real, ACT: tl.constexpr, C: tl.constexpr,
              ROWS: tl.constexpr):
    """`length` rows from `x` on, each lane with its own `mean` (beyond `shift`) and `deviation`, to `out`."""
    row = tl.arange(0, ROWS)
    offset = row[:, None] * C + channel[None, :]
    scale = tl.load(weight + channel, mask=real, other=0.0).to(tl.float32) / deviation
    base = tl.load(bias + channel, mask=real, other=0.0).to(tl.float32)
    for start in range(0, length, ROWS):
        valid = (start + row < length)[:, None] & real[None, :]
        value = tl.load(x + offset, mask=valid, other=0.0).to(tl.float32) - shift[None, :]
        value = (value - mean[None, :]) * scale[None, :] + base[None, :]
        if ACT:
            value = value / (1.0 + tl.exp(-value))
        tl.store(out + offset, value.to(out.dtype.element_ty), mask=valid)
        x += ROWS * C
        out += ROWS * C


@triton.jit
def shift_of(x, group, real, PART: tl.constexpr):
    """The first number of each group: near its mean, as a rule, so that float32 has digits left for what differs."""
    return tl.load(x + group * PART, mask=real, other=0.0).to(tl.float32)


@triton.jit(do_not_specialize=["p"])
def norm_kernel(x, out, weight, bias, p, eps, ACT: tl.constexpr, C: tl.constexpr, PART: tl.constexpr,
                GROUPS: tl.constexpr, SIDE: tl.constexpr, WIDE: tl.constexpr, ROWS: tl.constexpr):
    """A sample's groups from beginning to end; grid: n * slabs."""
    slabs: tl.constexpr = (GROUPS + SIDE - 1) // SIDE
    sample, slab = tl.program_id(0) // slabs, tl.program_id(0) % slabs
    begin = sample.to(tl.int64) * p * C
    group, channel, real = lanes_of(slab, PART, GROUPS, SIDE, WIDE)
    shift = shift_of(x + begin, group, real, PART)
    mean, spread = moments(x + begin, shift, p, channel, real, C, PART, SIDE, WIDE, ROWS)
    deviation = by_lane(tl.sqrt(spread / (p * PART) + eps), SIDE, WIDE)
    mean = by_lane(mean, SIDE, WIDE)
    normalise(x + begin, out + begin, shift, mean, deviation, weight, bias, p, channel, real, ACT, C, ROWS)


@triton.jit(do_not_specialize=["p", "tile"])
def stats_kernel(x, stats, p, tile, C: tl.constexpr, PART: tl.constexpr, GROUPS: tl.constexpr,
                 SIDE: tl.constexpr, WIDE: tl.constexpr, ROWS: tl.constexpr):
    """Moments of one tile of `tile` positions; grid: n * slabs, tiles. `stats` is n tiles 2 groups."""
    slabs: tl.constexpr = (GROUPS + SIDE - 1) // SIDE
    sample, slab, part = tl.program_id(0) // slabs, tl.program_id(0) % slabs, tl.program_id(1)
    begin = sample.to(tl.int64) * p * C
    group, channel, real = lanes_of(slab, PART, GROUPS, SIDE, WIDE)
    shift = shift_of(x + begin, group, real, PART)
    begin += part.to(tl.int64) * tile * C
    length = tl.minimum(tile, p - part * tile)
    mean, spread = moments(x + begin, shift, length, channel, real, C, PART, SIDE, WIDE, ROWS)
    stats += (sample * tl.num_programs(1) + part) * 2 * GROUPS
    groups = slab * SIDE + tl.arange(0, SIDE)
    tl.store(stats + groups, mean, mask=groups < GROUPS)
    tl.store(stats + GROUPS + groups, spread, mask=groups < GROUPS)


@triton.jit(do_not_specialize=["p", "tile"])
def apply_kernel(x, stats, out, weight, bias, p, tile, eps, ACT: tl.constexpr, TILES: tl.constexpr, C: tl.constexpr,
                 PART: tl.constexpr, GROUPS: tl.constexpr, SIDE: tl.constexpr, WIDE: tl.constexpr, ROWS: tl.constexpr):
    """One tile, with the moments of all tiles of its sample brought together (Chan); grid as above."""
    slabs: tl.constexpr = (GROUPS + SIDE - 1) // SIDE
    sample, slab, part = tl.program_id(0) // slabs, tl.program_id(0) % slabs, tl.program_id(1)
    tiles = tl.arange(0, TILES)
    count = (tl.maximum(tl.minimum(tile, p - tiles * tile), 0) * PART).to(tl.float32)[:, None]
    groups = slab * SIDE + tl.arange(0, SIDE)
    there = (tiles < tl.num_programs(1))[:, None] & (groups < GROUPS)[None, :]
    stats += ((sample * tl.num_programs(1) + tiles) * 2 * GROUPS)[:, None] + groups[None, :]
    means = tl.load(stats, mask=there, other=0.0)
    spreads = tl.load(stats + GROUPS, mask=there, other=0.0)
    mean = tl.sum(count * means, axis=0) / (p * PART)
    apart = means - mean[None, :]
    variance = tl.sum(spreads + count * apart * apart, axis=0) / (p * PART)
    deviation = by_lane(tl.sqrt(variance + eps), SIDE, WIDE)

    begin = sample.to(tl.int64) * p * C
    group, channel, real = lanes_of(slab, PART, GROUPS, SIDE, WIDE)
    shift = shift_of(x + begin, group, real, PART)
    begin += part.to(tl.int64) * tile * C
    length = tl.minimum(tile, p - part * tile)
    mean = by_lane(mean, SIDE, WIDE)
    normalise(x + begin, out + begin, shift, mean, deviation, weight, bias, length, channel, real, ACT, C, ROWS)


@triton.jit(do_not_specialize=["rows"])
def geglu_kernel(x, out, rows, d, ROWS: tl.constexpr, LANES: tl.constexpr):
    """Grid: blocks of rows, blocks of columns."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * LANES + tl.arange(0, LANES)
    valid = (row < rows)[:, None] & (column < d)[None, :]
    x += row[:, None] * (2 * d) + column[None, :]
    value = tl.load(x, mask=valid, other=0.0).to(tl.float32)
    gate = tl.load(x + d, mask=valid, other=0.0).to(tl.float32)
    value *= 0.5 * gate * (1.0 + tl.math.erf(gate * 0.7071067811865476))  # 1 / sqrt(2)
    tl.store(out + row[:, None] * d + column[None, :], value.to(out.dtype.element_ty), mask=valid)


def blocks(p: int, c: int, groups: int, slab: int) -> dict[str, Any]:
    """Sizes that a GroupNorm kernel is compiled for, with as many groups side by side as `slab` lanes hold, or one."""
    wide = triton.next_power_of_2(c // groups)
    side = min(triton.next_power_of_2(groups), max(1, slab // wide))
    rows = min(triton.next_power_of_2(p), max(1, BLOCK // (side * wide)))
    warps = min(8, max(1, rows * side * wide // 512))  # 16 numbers a thread, as a rule
    sizes = {"C": c, "PART": c // groups, "GROUPS": groups, "SIDE": side, "WIDE": wide, "ROWS": rows}
    return {**sizes, "num_warps": warps}


def on(x: Tensor) -> AbstractContextManager[object]:
    """Triton launches on the current device; here it is that of `x`."""
    return torch.xpu.device_of(x) if x.device.type == "xpu" else torch.cuda.device_of(x)


def group_norm(out: Tensor, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, act: bool) -> None:
    """GroupNorm of `x`, n p c, in one launch: a program for each group of each sample."""
    n, p, c = x.shape
    with on(x):
        norm_kernel[(n * groups,)](x, out, weight, bias, p, eps, ACT=act, **blocks(p, c, groups, slab=0))


def group_stats(stats: Tensor, x: Tensor, groups: int, tile: int) -> None:
    """`stats`, n tiles 2 groups float32: mean and squared deviations of each `tile` positions; the last are fewer."""
    n, p, c = x.shape
    sizes = blocks(tile, c, groups, SLAB)
    with on(x):
        stats_kernel[(n * triton.cdiv(groups, sizes["SIDE"]), stats.shape[1])](x, stats, p, tile, **sizes)


def group_apply(out: Tensor, x: Tensor, stats: Tensor, weight: Tensor, bias: Tensor, groups: int, tile: int,
                eps: float, act: bool) -> None:
    """GroupNorm of `x` from the moments of its tiles."""
    n, p, c = x.shape
    sizes, tiles = blocks(tile, c, groups, SLAB), stats.shape[1]
    with on(x):
        apply_kernel[(n * triton.cdiv(groups, sizes["SIDE"]), tiles)](
            x, stats, out, weight, bias, p, tile, eps, ACT=act, TILES=triton.next_power_of_2(tiles), **sizes)


def geglu(out: Tensor, x: Tensor) -> None:
    """First half of the last axis times GELU of the second."""
    d = out.shape[-1]
    rows = out.numel() // d
    lanes = min(1024, max(128, d & -d))  # the power of two in d, so that no lane is idle at the widths that occur
    height = max(1, 2048 // lanes)
    with on(x):
        geglu_kernel[(triton.cdiv(rows, height), triton.cdiv(d, lanes))](
            x, out, rows, d, ROWS=height, LANES=lanes, num_warps=4)
