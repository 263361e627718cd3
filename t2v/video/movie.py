"""Films as browsers play them: H.264 in MP4 and VP9 in WebM, with sound where it is wanted.

Colour: RGB becomes BT.709 in TV range (16..235), and the file says so. Without the tags, players guess BT.601 for
small pictures, and greens and reds come out wrong. Chroma is halved in both directions (yuv420p), the only kind that
every browser plays; a film of odd width or height is therefore widened by a copy of its last column or row.

Time: one frame lasts one unit of the time base, which is exactly 1 / fps.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from t2v.errors import FilmError
from t2v.video.base import Add, Frame, Recording
from t2v.video.sound import RATE, Soundtrack

log = logging.getLogger(__name__)

Options = dict[str, str]
BT709 = {"colorspace": "bt709", "color_primaries": "bt709", "color_trc": "bt709", "color_range": "tv"}


@dataclass(frozen=True)
class Kind:
    """A container with its encoders, best first: name -> options for (quality, pixels per second)."""

    container: str
    video: dict[str, Callable[[int, Fraction], Options]]
    audio: tuple[str, ...]
    options: Options = field(default_factory=dict)


@contextmanager
def write_movie(path: Path, recording: Recording, kind: Kind) -> Iterator[Add]:
    """Writer of films of one `kind`, to be bound first."""
    with av.open(str(path), "w", format=kind.container, options=kind.options) as container:
        container.metadata["comment"] = recording.infotext
        film = _Movie(container, recording, kind)
        yield film.add
        film.finish()


class _Movie:
    """A film being written. The streams are made when the first frame tells the size."""

    def __init__(self, container: Any, recording: Recording, kind: Kind) -> None:
        self.container, self.recording, self.kind = container, recording, kind
        self.encoder = _available(list(kind.video))
        self.sound_encoder = _available(list(kind.audio)) if recording.soundtrack else ""
        self.sound = Soundtrack(recording.soundtrack, recording.sound_start)
        self.video: Any = None
        self.audio: Any = None
        self.frames = self.samples = 0

    def add(self, frame: Frame) -> None:
        height, width = frame.shape[:2]
        frame = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        if self.video is None:
            self._start(frame)
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
        picture = picture.reformat(format="yuv420p", dst_colorspace="itu709")
        picture.pts, picture.time_base = self.frames, 1 / self.recording.fps
        self.container.mux(self.video.encode(picture))
        self.frames += 1
        if self.audio:
            self._add_sound()

    def finish(self) -> None:
        for stream in filter(None, (self.video, self.audio)):
            self.container.mux(stream.encode(None))

    def _start(self, frame: Frame) -> None:
        height, width = frame.shape[:2]
        fps = self.recording.fps
        self.video = self.container.add_stream(self.encoder, rate=fps)
        self.video.width, self.video.height, self.video.pix_fmt = width, height, "yuv420p"
        self.video.codec_context.time_base = 1 / fps
        options = self.kind.video[self.encoder](self.recording.quality, width * height * fps)
        self.video.options = {**BT709, **options}
        if self.sound_encoder:
            self.audio = self.container.add_stream(self.sound_encoder, rate=RATE)

    def _add_sound(self) -> None:
        """As much sound as there is film by now: so the sound ends with the film, to the sample."""
        samples = round(self.frames * RATE / self.recording.fps) - self.samples
        block = av.AudioFrame.from_ndarray(self.sound.read(samples), format="fltp", layout="stereo")
        block.sample_rate, block.pts, block.time_base = RATE, self.samples, Fraction(1, RATE)
        self.container.mux(self.audio.encode(block))
        self.samples += samples


def available(kind: Kind) -> str:
    """The encoder that films of a kind get here; "" where PyAV has none."""
    return next((name for name in kind.video if name in av.codecs_available), "")


def _available(encoders: list[str]) -> str:
    """The first of `encoders` that this PyAV has."""
    for name in encoders:
        if name in av.codecs_available:
            if name != encoders[0]:
                log.warning("PyAV has no encoder %s here; %s takes its place.", encoders[0], name)
            return name
    raise FilmError(f"PyAV {av.__version__} has none of the encoders {', '.join(encoders)} here. "
                    "Install the package av from PyPI, or choose another format.")


def constant_quality(best: int, worst: int, **options: str) -> Callable[[int, Fraction], Options]:
    """Quality 0..100 as a constant rate factor, linear from `worst` to `best`: equal quality at every frame."""
    return lambda quality, _pixels: {"crf": f"{worst + (best - worst) * quality / 100:.1f}", **options}


def bit_rate(quality: int, pixels_per_second: Fraction) -> Options:
    """For encoders without a rate factor: 0.05 bits a pixel at quality 0, twice as many every 20, 1.6 at 100."""
    return {"b": str(round(0.05 * 2 ** (quality / 20) * pixels_per_second))}


MP4 = Kind("mp4", audio=("aac",), options={"movflags": "+faststart"}, video={
    # Quality 80 is a factor of 16, where losses are hard to see. The best is 8: 0 would be lossless, and browsers
    # do not play lossless H.264.
    "libx264": constant_quality(best=8, worst=48),
    "libopenh264": bit_rate, "h264_videotoolbox": bit_rate, "h264_mf": bit_rate})
WEBM = Kind("webm", audio=("libopus", "libvorbis"), video={
    "libvpx-vp9": constant_quality(best=10, worst=60, b="0", deadline="good", **{"cpu-used": "4", "row-mt": "1"})})
