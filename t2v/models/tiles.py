"""A picture in square tiles that overlap and are blended, for when memory does not suffice for a whole one.

Each tile is computed as a picture of its own. So it does not see what is far away, and the network's norms and its
attention know only the tile: tiles differ a little from the whole picture and from each other, the more the smaller
they are. Where two overlap, one fades into the other linearly, which leaves no seam.

Sides are in latents. Of the published autoencoder these are eight pixels wide.
"""

from collections.abc import Callable

import torch
from torch import Tensor

# For a plan to walk down when memory runs out. Every step costs some likeness to the whole picture (0), first in its
# large and even areas; 64 latents are the 512 pixels that the autoencoder is used to, and from 24 down colours wander.
TILES = (0, 128, 96, 64, 48, 32, 24, 16)


def sides(height: int, width: int) -> tuple[int, ...]:
    """Those of TILES that make a difference to a picture of so many latents, from the whole picture down."""
    return tuple(tile for tile in TILES if tile < max(height, width))


def overlap_of(tile: int) -> int:
    """How far neighbours overlap: a quarter, for fades slow enough not to be seen; for small tiles, four latents,
    because what is next to an edge is wrong by the zeros beyond it."""
    return min(max(tile // 4, 4), tile // 2)


def spans(length: int, tile: int) -> list[tuple[int, int]]:
    """Where tiles begin and end that cover 0..`length`: as few as can be, spread evenly, so that each overlaps the
    next by overlap_of(tile) at least. All are full-sized; smaller ones would do, but be less like the whole picture."""
    if not 0 < tile < length:
        return [(0, length)]
    overlap = overlap_of(tile)
    count = -(-(length - overlap) // (tile - overlap))
    starts = [round(i * (length - tile) / (count - 1)) for i in range(count)]
    return [(start, start + tile) for start in starts]


def tiled(run: Callable[[Tensor], Tensor], x: Tensor, tile: int, before: int, after: int) -> Tensor:
    """`run(x)` of pictures b c h w with `before` pixels a latent, which become pictures with `after` pixels a latent.

    Pixels of `x` beyond the last whole latent belong to the last tiles. Memory is that of a tile, a row of tiles and
    the result.
    """
    height, width = x.shape[2] // before, x.shape[3] // before
    if not 0 < tile < max(height, width):
        return run(x)
    fade, result = overlap_of(tile) * after, None
    for top, bottom in spans(height, tile):
        rows, band = x[:, :, top * before:bottom * before if bottom < height else None], None
        for left, right in spans(width, tile):
            part = run(rows[:, :, :, left * before:right * before if right < width else None])
            band = part.new_zeros(*part.shape[:3], width * after) if band is None else band
            put(part, band, left * after, fade, dim=3)
        assert band is not None
        result = band.new_zeros(*band.shape[:2], height * after, width * after) if result is None else result
        put(band, result, top * after, fade, dim=2)
    assert result is not None
    return result


def put(part: Tensor, into: Tensor, start: int, fade: int, dim: int) -> None:
    """`part` in the place that begins at `start`; over the first `fade` pixels it emerges from what has been there."""
    steps = torch.arange(part.shape[dim], device=part.device) + 0.5
    ramp = (steps / (fade if start else 0.5)).clamp(max=1).to(part.dtype)
    place = into.narrow(dim, start, part.shape[dim])
    place.lerp_(part, ramp.view([-1 if axis == dim else 1 for axis in range(part.ndim)]))
