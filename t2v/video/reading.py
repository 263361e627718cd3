"""Films from files: what they are, their frames one at a time, and the settings they carry.

Pillow reads GIF, WebP and PNG, PyAV everything else. A file is known by what is in it, not by its name.
"""

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.filter import Graph
from PIL import Image, ImageSequence, UnidentifiedImageError

from t2v.errors import FilmError
from t2v.video.base import FOREIGN, Frame, PyAVError, decodable, reason
from t2v.video.pictures import PNG_FPS, PNG_TEXT, user_comment

DAMAGE = (OSError, PyAVError, EOFError, SyntaxError, ValueError, struct.error, Image.DecompressionBombError)
UNSPECIFIED = 2  # AVCOL_SPC_UNSPECIFIED
MATRICES = {1: "bt709", 4: "fcc", 7: "smpte240m", 9: "bt2020", 10: "bt2020"}  # AVColorSpace; all others: BT.601


@dataclass(frozen=True)
class FilmInfo:
    """What a film is: sizes in pixels, `duration` in seconds; `fps` is 0 where the file tells no time."""

    format: str
    width: int
    height: int
    frames: int
    fps: float
    duration: float


def probe(path: Path | str) -> FilmInfo:
    """What the film `path` is, a file or a folder of PNG frames; FilmError where it is none."""
    path = Path(path)
    with reading(path):
        pictures = film_pictures(path)
        return _probe_pictures(pictures) if pictures else _probe_movie(path)


def read_film(path: Path | str) -> tuple[FilmInfo, Iterator[Frame]]:
    """What the film `path` is, and its frames, RGB uint8 [h, w, 3], read as they are asked for.

    FilmError, also while the frames are read, where the file is damaged.
    """
    path = Path(path)
    return probe(path), _frames(path)


def read_infotext(path: Path | str) -> str:
    """The settings that the film or picture `path` carries; FilmError where it carries none."""
    path = Path(path)
    with reading(path):
        pictures = film_pictures(path)
        text = _picture_text(pictures[0]) if pictures else _movie_text(path)
    if not text:
        raise FilmError(f"{path} carries no settings: it was not made here, or another program has rewritten it")
    return text


@contextmanager
def reading(path: Path, kind: str = "film") -> Iterator[None]:
    """Around everything that reads `path`: what a damaged file draws from the libraries becomes a FilmError."""
    if not path.exists():
        raise FilmError(f"{path}: there is no such file or folder")
    try:
        yield
    except DAMAGE as error:
        raise FilmError(f"{path} is damaged, or no {kind}: {reason(error)}") from error


def _frames(path: Path) -> Iterator[Frame]:
    with reading(path):
        pictures = film_pictures(path)
        yield from _picture_frames(pictures) if pictures else _movie_frames(path)


def film_pictures(path: Path) -> list[Path]:
    """The files that Pillow is to read: the PNG files of a folder, or `path` itself, or none."""
    if path.is_dir():
        if frames := sorted(path.glob("*.png")):
            return frames
        raise FilmError(f"{path}: there are no PNG frames in this folder")
    try:
        Image.open(path).close()
    except UnidentifiedImageError:
        return []
    return [path]


def _picture_frames(pictures: list[Path]) -> Iterator[Frame]:
    for path in pictures:
        with Image.open(path) as picture:
            yield from (np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(picture))


def _picture_text(path: Path) -> str:
    with Image.open(path) as picture:
        picture.load()  # a file that is cut off shows it here, before half a text passes for the whole
        text = picture.info.get(PNG_TEXT) or picture.info.get("comment") or user_comment(picture.getexif())
    return text.decode(errors="replace") if isinstance(text, bytes) else str(text)


def _probe_pictures(pictures: list[Path]) -> FilmInfo:
    with Image.open(pictures[0]) as picture:
        durations = [milliseconds(frame) for frame in ImageSequence.Iterator(picture)]
        kind, size, rate = str(picture.format).lower(), picture.size, picture.info.get(PNG_FPS)
    frames = len(durations) * len(pictures)
    seconds = float(frames / Fraction(rate)) if rate else sum(durations) / 1000
    return FilmInfo(kind, *size, frames, frames / seconds if seconds else 0.0, seconds)


def milliseconds(frame: Image.Image) -> float:
    frame.load()  # WebP tells the duration of a frame once it is decoded
    return float(frame.info.get("duration", 0))


@contextmanager
def opened(path: Path) -> Iterator[tuple[Any, Any]]:
    """The container and its video stream."""
    with open(path, "rb") as file, av.open(file, **FOREIGN) as container:
        stream = decodable(container.streams.video)
        if not stream:
            raise FilmError(f"{path} has no pictures in it that PyAV {av.__version__} can read")
        yield container, stream


def _movie_text(path: Path) -> str:
    with opened(path) as (container, stream):
        if next(container.decode(stream), None) is None:
            raise EOFError("the file ends before the first frame")
        return {key.lower(): str(value) for key, value in container.metadata.items()}.get("comment", "")


def _probe_movie(path: Path) -> FilmInfo:
    with opened(path) as (container, stream):
        names = container.format.name.split(",")
        kind = next((name for name in ("mp4", "webm") if name in names), names[0])
        seconds = float(stream.duration * stream.time_base if stream.duration else (container.duration or 0) / 1e6)
        rate = stream.average_rate
        size = stream.codec_context.width, stream.codec_context.height
        frames = stream.frames or sum(1 for packet in container.demux(stream) if packet.size)
    return FilmInfo(kind, *size, frames, float(rate) if rate else frames / seconds if seconds else 0.0, seconds)


def _movie_frames(path: Path) -> Iterator[Frame]:
    with opened(path) as (container, stream):
        stream.thread_type = "AUTO"
        key, graph = None, Graph()
        for frame in container.decode(stream):
            if key != (key := (frame.format.name, frame.width, frame.height, frame.colorspace)):
                graph = to_rgb(frame)
            graph.push(frame)
            rgb: Any = graph.pull()
            yield rgb.to_ndarray()


def to_rgb(frame: Any) -> Graph:
    """A filter from frames like this one to RGB.

    PyAV's own `reformat` would be shorter, but before version 18 it is off by up to 25 levels on the way back.
    A film without colour tags is taken for BT.709 where it is large, else for BT.601, as players do.
    """
    untagged_and_large = frame.colorspace == UNSPECIFIED and frame.height >= 720
    matrix = "bt709" if untagged_and_large else MATRICES.get(frame.colorspace, "bt601")
    graph = Graph()
    steps = [graph.add_buffer(width=frame.width, height=frame.height, format=frame.format.name,
                              time_base=frame.time_base),
             graph.add("scale", f"in_color_matrix={matrix}:flags=bicubic+accurate_rnd+full_chroma_int+full_chroma_inp"),
             graph.add("format", "rgb24"), graph.add("buffersink")]
    for step, following in pairwise(steps):
        step.link_to(following)
    graph.configure()
    return graph
