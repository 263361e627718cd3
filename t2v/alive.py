"""How many numbers are alive at once in the UNet: what the memory plan predicts with.

Nothing is measured here. The UNet's forward is walked, and at each moment when much is alive, that is added up: the
skips that wait, what goes into the layer at work and comes out, and what it holds inside. The tests hold it against a
count of every tensor of the real network.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from t2v.models import winograd
from t2v.models.transformer import TRANSFORMER, at_a_time
from t2v.models.unet import UNetConfig

HELD = 15  # widths in a transformer, of which GEGLU's projection is eight and its result four


@dataclass(frozen=True)
class Activations:
    """A UNet at work on films of one length and size, on a type of device. `copied`: norms lay out their input anew, as
    torch does on GPUs where nothing better is there."""

    config: UNetConfig
    frames: int
    height: int  # of the latents
    width: int
    films: int = 1  # that one film becomes where the text is asked: two with guidance in one batch
    at_once: float = math.inf
    device: str = "cuda"
    copied: bool = False
    kept: int = 0  # films of which the features of the deep layers are kept from step to step

    @property
    def peak(self) -> int:
        """Numbers alive at once."""
        config = self.config
        wide = config.dim * config.dim_mult[:2][-1]
        return round(max(self.moments())) + self.kept * wide * self.positions(0)

    def positions(self, level: int) -> int:
        return self.frames * -(-self.height // 2**level) * -(-self.width // 2**level)

    def moments(self) -> Iterator[float]:
        """Numbers alive wherever these are many, in the order of the forward."""
        config, films, levels = self.config, 1, range(len(self.config.dim_mult))
        dims, width = [config.dim * mult for mult in config.dim_mult], config.dim
        skips = [(width, width * self.positions(0))]  # how wide, and how many numbers
        if config.temporal_attention:
            yield self.temporal(0, width, config.num_heads * config.head_dim, 1)
        for level in levels:
            for _ in range(config.res_blocks):
                shared = width * films * self.positions(level)  # what goes in is also the last of the skips
                yield waiting(skips) - shared + self.residual(level, width, dims[level], films)
                width = dims[level]
                if self.attends(level):
                    films = self.films
                    yield waiting(skips) + self.transformers(level, width, films)
                skips.append((width, width * films * self.positions(level)))
            if level < levels[-1]:
                skips.append((width, width * films * self.positions(level + 1)))
        films = self.films
        yield waiting(skips) + self.residual(levels[-1], width, width, films)
        yield waiting(skips) + self.transformers(levels[-1], width, films)
        for level in reversed(levels):
            for index in range(config.res_blocks + 1):
                (dim, numbers), here = skips.pop(), films * self.positions(level)
                yield waiting(skips) + numbers + (2 * width + dim) * here  # both, and both joined
                yield waiting(skips) + self.residual(level, width + dim, dims[level], films)
                width = dims[level]
                if self.attends(level):
                    yield waiting(skips) + self.transformers(level, width, films)
                if level and index == config.res_blocks:
                    yield waiting(skips) + width * (here + 2 * films * self.positions(level - 1))
        yield (2 + self.copied) * width * films * self.positions(0)

    def attends(self, level: int) -> bool:
        return 0.5**level in self.config.attn_scales

    def transformers(self, level: int, dim: int, films: int) -> float:
        own = dim // self.config.head_dim * self.config.head_dim
        along = self.temporal(level, dim, own, films) if self.config.temporal_attention else 0
        return max(self.spatial(level, dim, films), along)

    def residual(self, level: int, dim_in: int, dim: int, films: int) -> float:
        """In a residual block; the input stays alive until it is over."""
        here, copies = films * self.positions(level), int(self.copied)
        inside: float = max(dim_in * (1 + copies), dim_in + dim, (2 + copies) * dim, 3 * dim)
        some = self.some_frames(level, films, self.at_once / (2 * dim_in + 3 * dim))
        along: float = (3 + copies) * dim * here
        if self.device == "cpu":
            inside += winograd.held(some, (dim, dim_in, 3, 3)) / some
            along += winograd.held(here, (dim, dim, 3, 1))
        space = inside * here if some >= here else dim * here + inside * some
        return dim_in * here + max(space, along)

    def spatial(self, level: int, dim: int, films: int) -> float:
        here = films * self.positions(level)
        some = self.some_frames(level, films, at_a_time(TRANSFORMER * dim, self.at_once, self.device))
        return dim * here + HELD * dim * some + (dim * here if some < here else 0)

    def temporal(self, level: int, dim: int, inner: int, films: int) -> float:
        film, most = self.positions(level), at_a_time(TRANSFORMER * inner, self.at_once, self.device)
        here = some = films * film
        if here > most:
            some = min(film, max(1, int(most / self.frames)) * self.frames)
        whole = 2 * dim * here + HELD * inner * some + (dim * here if some < here else 0)
        return max(whole, (2 + self.copied) * dim * here)

    def some_frames(self, level: int, films: int, most: float) -> int:
        """Positions in the frames that a layer takes at a time where these are no more than `most`, if it can be."""
        here, frame = films * self.positions(level), self.positions(level) // self.frames
        return here if here <= most else min(self.frames, max(1, int(most / frame))) * frame


def waiting(skips: list[tuple[int, int]]) -> int:
    """Numbers in the skips that have not been used."""
    return sum(numbers for _, numbers in skips)
