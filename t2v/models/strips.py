"""A large picture as strips of rows, which come and go as a layer works its way down.

What is exact in one piece is exact in strips: a convolution is shown the neighbouring rows, and a norm is told the
statistics of all strips. But of the pictures before and after a layer little more than one is there at any time, and
what is only needed in between is never larger than a strip.

Functions here take strips `b c h w`, from the top, and use the list up, so that memory is free as early as can be.
"""

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from t2v.models.layers import Conv2d, GroupNorm, like

Strips = list[Tensor]
Rows = Callable[[Tensor], Tensor]  # does to each row what it does to all

WHOLE = 2**24  # numbers of a layer that may stay in one piece: 256 channels of 256 x 256 pixels
STRIP = 2**23  # numbers of a strip, where there is more than one


def rows_of(channels: int, height: int, width: int) -> int:
    """How high strips should be: a power of two, so that they double and halve along with the picture."""
    if channels * height * width <= WHOLE:
        return height
    return int(2 ** max(1, (STRIP // (channels * width)).bit_length() - 1))


def cut(strips: Strips, rows: int) -> Strips:
    """The same picture in strips of `rows` rows, and what is left; in one piece while gradients may be recorded."""
    if torch.is_grad_enabled():
        return [whole(strips)]
    parts: Strips = []
    while strips:
        for part in strips[0].split(rows, dim=2):
            if parts and parts[-1].shape[2] + part.shape[2] <= rows:
                parts[-1] = torch.cat([parts[-1], part], dim=2)
            else:
                parts.append(part if part.shape == strips[0].shape else part.clone())  # a view would keep the strip
        del strips[0]
    return parts


def sized(strips: Strips, channels: int) -> Strips:
    """The same picture in strips that suit a layer of so many channels."""
    height, (b, _, _, width) = sum(strip.shape[2] for strip in strips), strips[0].shape
    return cut(strips, rows_of(b * channels, height, width))


def whole(strips: Strips) -> Tensor:
    """The picture in one piece."""
    return strips.pop() if len(strips) == 1 else torch.cat(strips, dim=2)


def active(norm: GroupNorm, strips: Strips) -> Rows:
    """`silu(norm(picture))` of any rows of the picture in `strips`, which are looked at now and stay."""
    normed = norm if len(strips) == 1 else known(norm, strips)

    def rows(x: Tensor) -> Tensor:
        x = normed(x)
        return F.silu(x, inplace=not x.requires_grad)

    return rows


def known(norm: GroupNorm, strips: Strips) -> Rows:
    """`norm` as the scale and shift of each channel that it comes to, by the statistics of all strips together."""
    (b, c), height = strips[0].shape[:2], sum(strip.shape[2] for strip in strips)
    shares = [strip.shape[2] / height for strip in strips]
    variances, means = zip(*(statistics(strip, norm.num_groups) for strip in strips), strict=True)
    mean = torch.stack([share * each for share, each in zip(shares, means, strict=True)]).sum(0)
    found = zip(shares, variances, means, strict=True)
    variance = torch.stack([share * (each + (middle - mean).square()) for share, each, middle in found]).sum(0)
    mean, variance = (each.repeat_interleave(c // norm.num_groups, dim=1) for each in (mean, variance))
    scale = norm.weight.to(mean) / (variance + norm.eps).sqrt()
    shift = norm.bias.to(mean) - mean * scale
    scale, shift = (each.view(b, c, 1, 1) for each in (scale, shift))
    return lambda x: torch.addcmul(shift, x.to(shift.dtype), scale).to(x.dtype)


def statistics(strip: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """Variance and mean, `b groups`, in float32 at least."""
    exact = torch.promote_types(strip.dtype, torch.float32)
    variance, mean = torch.var_mean(strip.reshape(strip.shape[0], groups, -1).to(exact), dim=2, correction=0)
    return variance, mean


def nothing(strip: Tensor) -> None:
    """What there is to do with a strip that has been used."""


def convolved(
        conv: Conv2d, strips: Strips, prepare: Rows, aside: Callable[[Tensor], None] = nothing) -> Iterator[Tensor]:
    """`conv(prepare(picture))`, strip by strip; `conv` looks at three rows, and `prepare` may make several of one.

    `aside` is given each strip before it goes.
    """
    above: Strips = []
    while strips:
        strip, below = strips.pop(0), [after[:, :, :1] for after in strips[:1]]
        y = joint(conv, prepare, above, strip, below)
        above = [strip[:, :, -1:].clone()] if below else []
        aside(strip)
        del strip, below
        yield y


def joint(conv: Conv2d, prepare: Rows, above: Strips, strip: Tensor, below: Strips) -> Tensor:
    """`conv(prepare(strip))` with the rows next to the strip, where there are any: beyond them, the picture ends."""
    if not above and not below:
        return conv(prepare(strip))
    rows = len(above) + strip.shape[2] + len(below)
    x = prepare(torch.cat([*above, strip, *below], dim=2))
    spare = x.shape[2] // rows - 1  # one row on each side is enough
    x = x[:, :, spare * len(above):x.shape[2] - spare * len(below)]
    if not above or not below:
        x = F.pad(x, (0, 0, 1 - len(above), 1 - len(below)))
    return F.conv2d(x, conv.weight.to(x.device, x.dtype), like(conv.bias, x), padding=(0, 1))


def halved(conv: Conv2d, strips: Strips) -> Iterator[Tensor]:
    """`conv` of every second row and column of the picture, which gets a row and a column of zeros at its end."""
    only = len(strips) == 1
    while strips:
        strip, below = strips.pop(0), [after[:, :, :1] for after in strips[:1]]
        x = F.pad(torch.cat([strip, *below], dim=2) if below else strip, (0, 1, 0, 1 - len(below)))
        del strip, below
        if only or x.shape[2] > 2:  # a last row by itself was seen by the strip above
            yield conv(x)
