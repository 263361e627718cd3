"""Parts of films by their time: of each moment, the picture that a player would show then.

Nothing is kept but the picture at hand, so that a film may be as long as it likes. Times count from the first picture.
What is transparent lies on white; pictures are turned upright, as their file says.
"""

from collections.abc import Callable, Iterator
from contextlib import suppress
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps, ImageSequence

from t2v.errors import FilmError
from t2v.video.base import Frame, PyAVError
from t2v.video.pictures import PNG_FPS
from t2v.video.reading import FilmInfo, film_pictures, milliseconds, opened, reading, to_rgb

MAX_PIXELS = 80_000_000  # of one picture; more is an accident or an attack
NEARLY = 0.006  # seconds: GIF knows hundredths of one, WebM thousandths


class Shown(NamedTuple):
    """A picture of a film, from one second to another; made only if it is wanted."""

    start: float
    end: float
    frame: Callable[[], Frame]


def frames_from(info: FilmInfo, start: float, fps: float) -> int:
    """How many frames a film has from the second `start` on, taking `fps` of each second; 0 if it ends before."""
    seconds = info.duration or info.frames / fps
    return max(0, int(-((start + NEARLY - seconds) * fps // 1)))


def read_clip(path: Path | str, start: float, fps: float, frames: int) -> Iterator[Frame]:
    """The `frames` pictures at the seconds start, start + 1 / fps, ...; RGB uint8 [h, w, 3].

    FilmError, also on the way, where the file is damaged or ends too early.
    """
    path = Path(path)
    nearly = min(NEARLY, 0.4 / fps)
    with reading(path):
        pictures = film_pictures(path)
        film = _of_pictures(pictures, fps) if pictures else _of_movie(path, start, fps)
        now, following = next(film, None), next(film, None)
        for moment in (start + number / fps for number in range(frames)):
            while following is not None and following.start <= moment + nearly:
                now, following = following, next(film, None)
            if now is None or (following is None and moment > now.end + 1 / fps):
                raise FilmError(f"{path}: its pictures end at second {now.end if now else 0:.1f}, and second "
                                f"{moment:.1f} is asked for. If it should be longer, the file is damaged")
            yield now.frame()


def read_picture(path: Path | str) -> Frame:
    """The picture `path`, or the first of an animation or a film; RGB uint8 [h, w, 3]. FilmError where it is none."""
    path = Path(path)
    with reading(path, "picture"):
        pictures = film_pictures(path)
        if not pictures:
            return next(read_clip(path, 0, 1, 1))
        with Image.open(pictures[0]) as picture:
            _check_size(path, *picture.size)
            return _rgb(picture)


def _of_pictures(pictures: list[Path], fps: float) -> Iterator[Shown]:
    """Animations and folders of pictures; where these tell no time, so many pictures a second."""
    start = 0.0
    for path in pictures:
        with Image.open(path) as picture:
            rate = picture.info.get(PNG_FPS)
            for frame in ImageSequence.Iterator(picture):
                _check_size(path, *frame.size)
                end = start + (1 / Fraction(rate) if rate else milliseconds(frame) / 1000 or 1 / fps)
                yield Shown(start, float(end), partial(_same, _rgb(frame)))  # Pillow has one picture at a time
                start = float(end)


def _of_movie(path: Path, start: float, fps: float) -> Iterator[Shown]:
    """From the last picture on that can be decoded alone and is not after `start`; `fps` where the file tells none."""
    with opened(path) as (container, stream):
        _check_size(path, stream.codec_context.width, stream.codec_context.height)
        stream.thread_type = "AUTO"
        unit, first = stream.time_base, stream.start_time or 0
        if start:
            with suppress(PyAVError):  # some formats know no way but from the beginning
                container.seek(first + int(start / unit), stream=stream)
        developer = _Developer()
        usual, end = float(1 / (stream.average_rate or fps)), 0.0
        for frame in container.decode(stream):
            second = float((frame.pts - first) * unit) if frame.pts is not None else end
            end = second + (float(frame.duration * unit) if getattr(frame, "duration", 0) else usual)
            yield Shown(second, end, partial(developer.rgb, frame))


class _Developer:
    """Makes RGB of the frames of a film, which may change size or colours on the way."""

    def __init__(self) -> None:
        self.key: tuple[object, ...] = ()
        self.graph: Any = None

    def rgb(self, frame: Any) -> Frame:
        key = (frame.format.name, frame.width, frame.height, frame.colorspace)
        if key != self.key:
            self.key, self.graph = key, to_rgb(frame)
        self.graph.push(frame)
        turns = round(getattr(frame, "rotation", 0) / 90) % 4  # counterclockwise, as telephones write it
        return np.ascontiguousarray(np.rot90(self.graph.pull().to_ndarray(), turns))


def _same(frame: Frame) -> Frame:
    return frame


def _rgb(picture: Image.Image) -> Frame:
    picture = ImageOps.exif_transpose(picture)
    if picture.mode.startswith("I;16"):  # Pillow would cut off what is brighter than 255
        picture = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    if picture.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return np.asarray(picture.convert("RGB"))


def _check_size(path: Path, width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise FilmError(f"{path} has pictures of {width}x{height} pixels; {MAX_PIXELS // 10**6} million are the most "
                        "that is read")
