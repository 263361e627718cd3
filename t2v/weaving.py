"""Films made of films: coarse to fine between key frames, and on from where a film ends.

Both say which short films to make and which of their frames are known, and leave the making to `make`.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Part:
    """A short film to make: its frames' numbers in the whole film, and the latents of those already known.

    known: by position in this part, negative never; each 1 c h w. number: parts count from 0 in the order of making.
    guess: latents 1 c f h w to start from (a blend of both ends), or None.
    """

    number: int
    frames: range
    known: dict[int, Tensor]
    guess: Tensor | None = None


Make = Callable[[Part], Tensor | None]  # latents 1 c f h w; None ends everything, with what there is by then


def count(window: int, depth: int) -> int:
    """Frames of a film woven from windows: (window - 1)^(depth + 1) + 1, neighbours sharing their ends."""
    return (window - 1) ** (depth + 1) + 1


def parts(frames: int, window: int, depth: int) -> int:
    """How many short films `woven` will ask for, for telling how far it is."""
    raise NotImplementedError


def woven(frames: int, window: int, depth: int, make: Make) -> Tensor | None:
    """Latents 1 c f h w of a film of `frames`, coarse to fine (Yin et al. 2023, NUWA-XL)."""
    raise NotImplementedError


def continued(known: Tensor, frames: int, window: int, make: Make) -> Tensor | None:
    """The `frames` that follow the latents `known` 1 c o h w, part by part of `window` frames, o of them held.

    Frame numbers of the parts count from the first new frame; those of known frames are negative. window = 0: one part.
    """
    raise NotImplementedError
