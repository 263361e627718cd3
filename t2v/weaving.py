"""Films made of films: coarse to fine between key frames, and on from where a film ends.

Both say which short films to make and which of their frames are known already, and leave the making to `make`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import count, pairwise

import torch
from torch import Tensor

from t2v.errors import RequestError


@dataclass(frozen=True)
class Part:
    """A short film to make.

    number: parts count from 0 in the order of making, so that each can have noise of its own.
    frames: the numbers of its frames in the whole film; a range with wide steps while the film is coarse.
    known: latents 1 c h w by position in this part. guess: latents 1 c f h w that may serve as a start, or None.
    """

    number: int
    frames: range
    known: dict[int, Tensor]
    guess: Tensor | None = None


Make = Callable[[Part], Tensor | None]  # latents 1 c f h w of a part; None: no more, the film ends with what there is


def woven(frames: int, window: int, depth: int, make: Make) -> Tensor | None:
    """Latents 1 c f h w of a film of `frames`, coarse to fine (Yin et al. 2023, NUWA-XL, arXiv 2303.12346).

    The first part has key frames (window - 1)^depth apart, as many as the film needs. Between two neighbours goes a
    part of `window` frames with both as its ends, and so on, `depth` times: from `window` key frames come
    (window - 1)^(depth + 1) + 1. Parts are made in the order of time, and none beyond the end of the film. Ended
    early, the film is as long as it has come; while that is nothing, it is the key frames.
    """
    apart, numbers = distance(window, depth), count()
    keys = make(Part(next(numbers), range(0, apart * key_frames(frames, window, depth), apart), {}))
    if keys is None:
        return None
    done: list[Tensor] = []
    todo = gaps(keys, range(0, apart * keys.shape[2], apart))[::-1]
    while todo and len(done) < frames:
        first, last, at = todo.pop()
        if len(at) == 1:
            done.append(first)
            continue
        inner = range(at.start, at.stop + 1, len(at) // (window - 1))
        film = make(Part(next(numbers), inner, {0: first, window - 1: last}, blended(first, last, window)))
        if film is None:
            return torch.stack(done, dim=2) if done else keys
        todo += gaps(film, inner)[::-1]
    return torch.stack([*done, keys[:, :, -1]][:frames], dim=2)


def distance(window: int, depth: int) -> int:
    """Frames from one key frame to the next, `depth` levels above the film."""
    if depth and window < 3:
        raise RequestError("window", f"must be 3 frames or more for going from coarse to fine, not {window}")
    return (window - 1) ** depth


def key_frames(frames: int, window: int, depth: int) -> int:
    """How many key frames a film needs, `depth` levels above it."""
    return -(-(frames - 1) // distance(window, depth)) + 1


def parts(frames: int, window: int, depth: int) -> int:
    """How many parts `woven` makes of a film."""
    return 1 + sum(key_frames(frames, window, level) - 1 for level in range(1, depth + 1))


def gaps(film: Tensor, at: range) -> list[tuple[Tensor, Tensor, range]]:
    """Each frame of a film that stands `at` these numbers, the one after it, and the numbers from it up to that."""
    ends = zip(pairwise(film.unbind(2)), pairwise(at), strict=True)
    return [(first, last, range(begin, end)) for (first, last), (begin, end) in ends]


def blended(first: Tensor, last: Tensor, frames: int) -> Tensor:
    """From `first` to `last`, each 1 c h w, in straight lines: 1 c f h w."""
    steps = torch.linspace(0, 1, frames, device=first.device, dtype=first.dtype)
    return torch.lerp(first[:, :, None], last[:, :, None], steps[:, None, None])


def continued(known: Tensor, frames: int, window: int, make: Make) -> Tensor | None:
    """Latents 1 c f h w of the `frames` that follow the latents `known`, 1 c o h w.

    Made in parts of `window` frames that begin with the last o of what there is; the last part begins with more, so
    that it is no shorter. window = 0 is a single part. Frames are numbered from the first new one. Ended early, the
    film is as long as it has come; None if there is nothing.
    """
    overlap, film = known.shape[2], known
    if window and overlap >= window:
        raise RequestError("overlap", f"must be less than the window of {window} frames, not {overlap}")
    for number in count():
        have = film.shape[2] - overlap
        new = min(frames - have, window - overlap if window else frames)
        if not new:
            break
        held = min(film.shape[2], window - new if window else overlap)
        made = make(Part(number, range(have - held, have + new), dict(enumerate(film[:, :, -held:].unbind(2)))))
        if made is None:
            break
        film = torch.cat([film, made[:, :, held:]], dim=2)
    return film[:, :, overlap:] if film.shape[2] > overlap else None
