"""Frames to files and back: `write_film`, `read_film`, `probe`, `read_infotext`, `next_path`, `recent_films`; FORMATS.

Films go through PyAV itself and pictures through Pillow, not through imageio: its PyAV plugin can neither convert
and tag colours as BT.709, nor set container options (faststart) or metadata, nor add sound, and its Pillow plugin
holds every frame of an animation in memory.

    base.py      what a writer is given             sound.py     the soundtrack
    movie.py     MP4, WebM                          files.py     names; appearing whole or not at all
    pictures.py  GIF, WebP, PNG                     reading.py   films from files
                                                    clips.py     parts of films by their time
"""

from collections.abc import Iterable
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path

import numpy as np

from t2v.errors import FilmError, RequestError
from t2v.video.base import Add, Frame, PyAVError, Recording, Writer, writing
from t2v.video.clips import frames_from, read_clip, read_picture
from t2v.video.files import draft, newest, next_path, publish
from t2v.video.movie import MP4, WEBM, available, write_movie
from t2v.video.pictures import write_gif, write_png, write_webp
from t2v.video.reading import FilmInfo, probe, read_film, read_infotext
from t2v.video.sound import check_soundtrack, has_sound

__all__ = ["FORMATS", "FilmInfo", "Format", "Frame", "check_film", "encoders", "frames_from", "has_sound", "next_path",
           "probe", "read_clip", "read_film", "read_infotext", "read_picture", "recent_films", "write_film"]

MIN_FPS = 0.01


@dataclass(frozen=True)
class Format:
    """A file format of films: its name for people, extension ("" for a folder of pictures) and MIME type."""

    label: str
    extension: str
    mime: str
    writer: Writer
    sound: bool = False
    max_fps: int = 1000


def check_film(format: str, fps: float, soundtrack: str = "") -> Format:
    """The format called `format`; RequestError where it does not exist or a film of it cannot be as asked.

    `write_film` asks this too, before it asks for the first frame; asking earlier saves loading a model in vain.
    """
    if format not in FORMATS:
        raise RequestError("format", f"there is no format {format!r}; choose one of {', '.join(FORMATS)}")
    chosen = FORMATS[format]
    if not MIN_FPS <= fps <= chosen.max_fps:
        raise RequestError("fps", f"{chosen.label} plays {MIN_FPS} to {chosen.max_fps} frames a second, not {fps}")
    if soundtrack and not chosen.sound:
        raise RequestError("soundtrack", f"{chosen.label} cannot carry sound; choose "
                           + " or ".join(name for name, other in FORMATS.items() if other.sound))
    if soundtrack:
        check_soundtrack(soundtrack)
    return chosen


def write_film(frames: Iterable[Frame], path: Path | str, fps: float, *, quality: int = 80, infotext: str = "",
               soundtrack: str = "", sound_start: float = 0.0) -> Path:
    """Write `frames`, RGB uint8 [h, w, 3], in the format that the extension of `path` names; the path it got.

    Frames are taken one at a time and not kept. The film appears under its name once it is whole, and never in the
    place of another: a taken name gives way to the next free one. Should `frames` end early, what has come is the
    film; should they raise, there is none. `soundtrack` plays from its second `sound_start` on, and is cut, or filled
    up with silence, to the film's length.
    RequestError where the settings do not go together, FilmError where the film cannot be written.
    """
    path = Path(path)
    chosen = check_film(_format_of(path), fps, soundtrack)
    text = infotext.encode("utf-8", "replace").decode().replace("\0", "\ufffd")  # metadata ends at NUL in most formats
    recording = Recording(Fraction(fps).limit_denominator(1001), quality, text, soundtrack, sound_start)
    with draft(path) as hidden:
        _record(_alike(frames, path), path, chosen.writer(hidden, recording))
        return publish(hidden, path)


def _record(frames: Iterable[Frame], path: Path, writer: AbstractContextManager[Add]) -> None:
    """Hand `frames` to the `writer` of the film `path`. Whatever `frames` raise is passed on as it is."""
    with writing(path):
        add = writer.__enter__()
    try:
        count = 0
        for count, frame in enumerate(frames, 1):  # noqa: B007
            with writing(path):
                add(frame)
        if not count:
            raise FilmError(f"{path}: there is no frame to make a film of")
    except BaseException as error:
        with suppress(OSError, PyAVError):  # nothing is kept, and what closing it says would hide what happened
            writer.__exit__(type(error), error, error.__traceback__)
        raise
    with writing(path):
        writer.__exit__(None, None, None)


def _alike(frames: Iterable[Frame], path: Path) -> Iterable[Frame]:
    """`frames` as they come; FilmError for the first that is no picture, or of another size than those before."""
    shape: tuple[int, ...] = ()
    for frame in frames:
        shape = shape or frame.shape
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or frame.shape != shape:
            raise FilmError(f"{path}: a frame must be RGB uint8 [h, w, 3] and as large as the first, "
                            f"not {frame.dtype} {list(frame.shape)}")
        yield frame


def recent_films(folder: Path, count: int) -> list[Path]:
    """The last `count` films that went to `folder` under names of `next_path`'s kind, the newest first; files only.

    Folders of frames are left out, and so is what cannot be read. Nothing there, no folder: an empty list.
    """
    return newest(folder, count, {format.extension for format in FORMATS.values() if format.extension})


def encoders() -> dict[str, str]:
    """The encoder of each format that PyAV writes; "" where this one has none."""
    return {"mp4": available(MP4), "webm": available(WEBM)}


def _format_of(path: Path) -> str:
    extension = path.suffix.lower()
    return next((name for name, format in FORMATS.items() if format.extension == extension), extension[1:])


FORMATS = {
    "mp4": Format("MP4 (H.264)", ".mp4", "video/mp4", partial(write_movie, kind=MP4), sound=True),
    "webm": Format("WebM (VP9)", ".webm", "video/webm", partial(write_movie, kind=WEBM), sound=True),
    # Browsers slow faster animations down to ten frames a second.
    "gif": Format("Animated GIF", ".gif", "image/gif", write_gif, max_fps=50),
    "webp": Format("Animated WebP", ".webp", "image/webp", write_webp, max_fps=50),
    "png": Format("Folder of PNG frames", "", "image/png", write_png),
}
