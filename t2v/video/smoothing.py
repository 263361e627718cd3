"""More frames a second: ffmpeg's motion interpolation."""

from collections.abc import Iterable, Iterator

from t2v.video.base import Frame


def smoothed(frames: Iterable[Frame], fps: float, to: float) -> Iterator[Frame]:
    """`frames` shown at `fps`, with others computed in between them, for showing at `to` a second; streaming.

    A film of n frames becomes one of round(n to / fps), of the same duration.
    """
    raise NotImplementedError
