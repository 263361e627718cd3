"""More frames a second: the motion interpolation of ffmpeg."""

from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import islice, pairwise
from typing import Any

import av
import numpy as np
from av.filter import Graph

from t2v.video.base import Frame

MOTION = "mi_mode=mci:mc_mode=aobmc:me_mode=bidir:vsbmc=1"  # overlapping blocks of several sizes, sought both ways
EXACTLY = "flags=bicubic+accurate_rnd+full_chroma_int+full_chroma_inp"
AFTER = 3  # copies of the last frame: the filter stops two frames before the end of what it is given
SMALLEST = 64  # pixels of width and height below which the filter does not work


def smoothed(frames: Iterable[Frame], fps: float, to: float) -> Iterator[Frame]:
    """`frames` shown at `fps`, with others computed in between, for showing at `to` a second; streaming.

    A film of n frames becomes one of round(n to / fps), of the same duration. At a cut nothing is computed.
    """
    rate, wanted = (Fraction(value).limit_denominator(1001) for value in (fps, to))
    motion: _Motion | None = None
    count = given = 0
    for count, frame in enumerate(frames, start=1):  # noqa: B007
        motion = motion or _Motion(frame, rate, wanted)
        motion.push(frame)
        for picture in motion.ready():
            yield picture
            given += 1
    if motion:
        motion.finish()
        yield from islice(motion.ready(), round(count * wanted / rate) - given)


class _Motion:
    """The filter, and the clock of what goes in and comes out.

    It fills the gap in the middle of the four frames that it sees, so a copy of the first frame goes before the film.
    The film begins at a moment for which it makes a frame; what it makes before, of the copy, is dropped.
    """

    def __init__(self, first: Frame, rate: Fraction, wanted: Fraction) -> None:
        self.height, self.width = first.shape[:2]
        self.tick = Fraction(1, rate.numerator * wanted.numerator)  # divides the durations of both kinds of frames
        self.step = int(1 / rate / self.tick)
        step_out = int(1 / wanted / self.tick)
        self.dropped = -(-self.step // step_out)
        self.graph = self._graph(wanted)
        self._push(first, 0)
        self.last, self.pts = first, self.dropped * step_out

    def _graph(self, wanted: Fraction) -> Graph:
        graph: Any = Graph()
        width, height = max(self.width, SMALLEST), max(self.height, SMALLEST)
        steps = [graph.add_buffer(width=width, height=height, format="rgb24", time_base=self.tick),
                 graph.add("scale", f"out_color_matrix=bt709:{EXACTLY}"), graph.add("format", "yuv444p"),
                 graph.add("minterpolate", f"fps={wanted}:{MOTION}"),
                 graph.add("scale", f"in_color_matrix=bt709:{EXACTLY}"), graph.add("format", "rgb24"),
                 graph.add("buffersink")]
        for step, following in pairwise(steps):
            step.link_to(following)
        graph.configure()
        return graph

    def push(self, frame: Frame) -> None:
        """The next frame of the film."""
        self._push(frame, self.pts)
        self.last, self.pts = frame, self.pts + self.step

    def finish(self) -> None:
        """No more frames."""
        for _ in range(AFTER):
            self.push(self.last)
        self.graph.push(None)

    def _push(self, frame: Frame, pts: int) -> None:
        missing = max(0, SMALLEST - self.height), max(0, SMALLEST - self.width)
        whole = np.pad(frame, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="edge")
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(whole), format="rgb24")
        picture.pts, picture.time_base = pts, self.tick
        self.graph.push(picture)

    def ready(self) -> Iterator[Frame]:
        """Every frame that is done and has not been given yet."""
        while True:
            try:
                picture: Any = self.graph.pull()
            except (BlockingIOError, EOFError):  # more has to be pushed first, or nothing is left
                return
            if self.dropped:
                self.dropped -= 1
                continue
            yield picture.to_ndarray()[: self.height, : self.width]
