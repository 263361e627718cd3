"""Prompts over the time of a film: `0: a calm sea | 24: a storm`.

    0: a calm sea | 24: a storm     from frame 24 on, a storm
    0: a calm sea | 3s: a storm     from second 3 on

Every part is a prompt like any other, with schedules over the sampling steps, emphasis, BREAK and LoRAs. A prompt is
a story only if it begins with `0:` and goes on with `| time:` outside of brackets; every other text is what it was,
digits, colons and bars included.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from t2v.errors import RequestError
from t2v.prompt import Contexts

OPENING = re.compile(r"\s*0+(?:\.0*)?\s*s?\s*:")
MARK = re.compile(r"\|\s*(?:(?P<frame>\d{1,9})|(?P<second>\d{1,9}(?:\.\d*)?)\s*s)\s*:")
ESCAPED = re.compile(r"\\.", re.DOTALL)
BRACKET = re.compile(r"[\[\]()]")
PARTNER = {"]": "[", ")": "("}


class Segment(NamedTuple):
    """From frame `start` on, the film shows `text`."""

    start: int
    text: str


def segments(prompt: str, fps: float, field: str = "prompt") -> list[Segment]:
    """The parts of `prompt` in time; one of the whole text if it is no story. RequestError where time runs back."""
    opening, marks = OPENING.match(prompt), marks_of(prompt)
    if not opening or not marks:
        return [Segment(0, prompt)]
    starts = [0, *(round(float(mark["second"]) * fps) if mark["second"] else int(mark["frame"]) for mark in marks)]
    begins = [opening.end(), *(mark.end() for mark in marks)]
    ends = [*(mark.start() for mark in marks), len(prompt)]
    for (before, after), mark in zip(pairwise(starts), marks, strict=True):
        if after <= before:
            raise RequestError(field, f"{mark[0][1:].strip()} comes at frame {after}, not after frame {before}, where "
                                      "the part before it begins")
    return [Segment(start, prompt[a:b].strip()) for start, a, b in zip(starts, begins, ends, strict=True)]


def marks_of(prompt: str) -> list[re.Match[str]]:
    """Every `| time:` that lies in no pair of brackets; a bracket without a partner is a letter."""
    plain = ESCAPED.sub("  ", prompt)
    opened: list[re.Match[str]] = []
    inside: list[range] = []
    for bracket in BRACKET.finditer(plain):
        if bracket[0] not in PARTNER:
            opened.append(bracket)
        elif opened and opened[-1][0] == PARTNER[bracket[0]]:
            inside.append(range(opened.pop().start(), bracket.start()))
    return [mark for mark in MARK.finditer(plain) if not any(mark.start() in pair for pair in inside)]


def shares(starts: Sequence[int], frames: Iterable[int], transition: int, around: int = 0) -> Tensor:
    """How much of each part is in each frame: [frames, parts], rows add up to 1, at most two parts in one.

    A part is whole at its own frame. The `transition` frames before mix it with the part before, linearly; fewer
    where that one is shorter. `frames` are the numbers of the frames to tell about, such as range(24). With `around`,
    the story is that of a loop of so many frames, and its end becomes its beginning.
    """
    if around > starts[-1]:
        *parts, again = shares([*starts, around], frames, transition).unbind(dim=1)
        return torch.stack([parts[0] + again, *parts[1:]], dim=1)
    at = torch.tensor(list(frames), dtype=torch.float64)
    arrived = [torch.ones_like(at)]
    for before, start in pairwise(starts):
        steps = 1 + min(transition, start - before - 1)
        arrived.append(((at - start) / steps + 1).clamp(0, 1))
    arrived.append(torch.zeros_like(at))
    return torch.stack([now - after for now, after in pairwise(arrived)], dim=1).float()


@dataclass(frozen=True)
class Told:
    """A story over all sampling steps: the contexts of its parts [1 n d], n being the same, and their `shares` [f s].

    Steps of equal text share one tensor object, as in `Contexts`.
    """

    parts: Sequence[Contexts]
    shares: Tensor
    last: list[tuple[list[Tensor], Tensor]] = field(default_factory=list, init=False, repr=False, compare=False)

    def at(self, step: int) -> Tensor:
        """The context of each frame at a step counted from 0, [1 f n d]."""
        now = [part.at(step) for part in self.parts]
        if not self.last or any(a is not b for a, b in zip(now, self.last[0][0], strict=True)):
            stacked = torch.cat(now)  # s n d
            mixed = torch.einsum("fs,snd->fnd", self.shares.to(stacked.device, stacked.dtype), stacked)
            self.last[:] = [(now, mixed[None])]
        return self.last[0][1]


def told(
    parts: Sequence[Contexts], starts: Sequence[int], frames: Iterable[int], transition: int, around: int = 0
) -> Contexts | Told:
    """What a story says in some `frames`; where that is a single part, its own contexts, one for all frames at once."""
    mixture = shares(starts, frames, transition, around)
    shown = mixture.any(dim=0).nonzero().flatten().tolist()
    return parts[shown[0]] if len(shown) == 1 else Told([parts[i] for i in shown], mixture[:, shown])
