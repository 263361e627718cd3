"""What does a film of the tiny world show? Plain picture measurements, no learning: colour, shape and direction."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.world import COLOURS, GROUND

Frames = NDArray[np.uint8]


@dataclass(frozen=True)
class Verdict:
    """What was seen; `travel` is the distance in pixels between the first and the last place."""

    colour: str
    shape: str
    direction: str
    travel: float


def judge(frames: Frames) -> Verdict:
    """Look at `frames` f h w 3. A film that shows nothing gets empty words."""
    masks = [foreground(frame) for frame in frames]
    seen = [i for i, mask in enumerate(masks) if mask.sum() >= 40]
    if len(seen) < 2:
        return Verdict("", "", "", 0.0)
    places = np.array([centre(masks[i]) for i in seen])
    third = max(1, len(seen) // 3)
    dx, dy = places[-third:].mean(0) - places[:third].mean(0)
    across = abs(dx) >= abs(dy)
    direction = ("right" if dx > 0 else "left") if across else ("down" if dy > 0 else "up")
    return Verdict(
        colour=most_common([colour_of(frames[i], masks[i]) for i in seen]),
        shape=most_common([shape_of(masks[i]) for i in seen]),
        direction=direction,
        travel=float(np.hypot(*(places[-1] - places[0]))),
    )


def foreground(frame: Frames) -> NDArray[np.bool_]:
    """Pixels far from the ground's colour: at least half way to the film's shape."""
    distance = np.abs(frame.astype(int) - np.array(GROUND)).max(axis=-1)
    return distance > max(60, distance.max() // 2)


def centre(mask: NDArray[np.bool_]) -> tuple[float, float]:
    y, x = np.nonzero(mask)
    return float(x.mean()), float(y.mean())


def colour_of(frame: Frames, mask: NDArray[np.bool_]) -> str:
    """The named colour nearest to the median of the shape's pixels."""
    median = np.median(frame[mask], axis=0)
    return min(COLOURS, key=lambda name: float(np.square(median - np.array(COLOURS[name])).sum()))


def shape_of(mask: NDArray[np.bool_]) -> str:
    """A triangle widens downwards; a square fills the corners of its bounding box, and a circle does not."""
    y, x = np.nonzero(mask)
    box = mask[y.min() : y.max() + 1, x.min() : x.max() + 1]
    rows = box.sum(axis=1)
    quarter = max(1, len(rows) // 4)
    widening = rows[-quarter:].mean() / max(1.0, rows[:quarter].mean())
    if widening > 1.6:
        return "triangle"
    h, w = (max(1, round(side / 5)) for side in box.shape)
    corners = np.mean([box[:h, :w].mean(), box[:h, -w:].mean(), box[-h:, :w].mean(), box[-h:, -w:].mean()])
    return "square" if corners > 0.5 else "circle"


def most_common(words: list[str]) -> str:
    return max(sorted(set(words)), key=words.count)
