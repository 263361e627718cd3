"""What a film starts from: the pictures, the film and the mask of a request, found, checked, and read frame by frame.

Checked before anything is loaded, and read when their turn comes; never more than a frame at a time is in memory.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import repeat
from pathlib import Path
from typing import Any

from t2v.curves import curve
from t2v.errors import FilmError, RequestError
from t2v.fitting import Fit, Size, blended, find_fit, fitted
from t2v.request import VideoRequest
from t2v.video import FORMATS, Frame, frames_from, has_sound, probe, read_clip, read_picture
from t2v.windows import held_before

AT_FRAME = re.compile(r"\s*([+-]?\d{1,9})\s*:\s*(.*)", re.DOTALL)
HASHED = 2**20  # bytes at either end of a file


@dataclass(frozen=True)
class Picture:
    """A picture to hold, and how free of it every frame is, 0 held to 1 free."""

    path: Path
    free: tuple[float, ...]

    def read(self, size: Size, fit: Fit) -> Frame:
        return fitted(read_picture(self.path), size, fit)


@dataclass(frozen=True)
class Clip:
    """`frames` frames of a film from second `start` on, `fps` of each second."""

    path: Path
    start: float
    fps: float
    frames: int

    def read(self, size: Size, fit: Fit) -> Iterator[Frame]:
        return (fitted(frame, size, fit) for frame in read_clip(self.path, self.start, self.fps, self.frames))

    def standing(self, size: Size, fit: Fit) -> Iterator[Frame]:
        """The same, and then its last frame again and again."""
        frame = None
        for frame in self.read(size, fit):
            yield frame
        if frame is not None:
            yield from repeat(frame)

    def last(self, frames: int) -> "Clip":
        """The end of it."""
        return replace(self, start=self.start + (self.frames - frames) / self.fps, frames=frames)


@dataclass(frozen=True)
class Inputs:
    """What a film starts from. `before`: the film that it continues, or None; its end, so many frames, is `held`."""

    pictures: tuple[Picture, ...] = ()
    film: Clip | None = None
    before: Clip | None = None
    held: int = 0
    mask: Clip | None = None
    sound: str = ""
    sound_start: float = 0.0

    @property
    def ending(self) -> Clip | None:
        """The frames that the new ones follow."""
        return self.before.last(self.held) if self.before else None

    def pasted(self, frames: Iterator[Frame], size: Size, fit: Fit) -> Iterator[Frame]:
        """`frames` where the mask is white, and what they were made from where it is black.

        Latents that are held come back changed: the autoencoder sees what has been made beside them.
        """
        if self.mask is None:
            return frames
        still = [picture for picture in self.pictures if not any(picture.free)]
        if self.film is None and not still:
            return frames
        under = self.film.read(size, fit) if self.film else repeat(still[0].read(size, fit))
        return map(blended, frames, under, self.mask.standing(size, fit))

    def __bool__(self) -> bool:
        return bool(self.pictures or self.film or self.before)


# ---- request -> Inputs ----


def suggested(request: VideoRequest, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """What the input film says about settings that were left open: its speed; as many frames as it has, up to the
    model's own; and when it goes on, its size. Whatever else is open is the model's, its size above all."""
    if not request.film:
        return {}
    info = known_film("film", request.film)
    fps = request.fps or min(240.0, max(0.1, round(info.fps, 3))) if info.fps else defaults["fps"]
    if request.extend:
        return {"fps": fps, "width": max(16, info.width // 8 * 8), "height": max(16, info.height // 8 * 8)}
    there = frames_from(info, request.film_start, request.film_fps or fps)
    return {"fps": fps, "frames": max(1, min(defaults["frames"], there))}


def inputs(request: VideoRequest) -> Inputs:
    """What `request`, in which nothing is open any more, starts from. RequestError where that cannot be had."""
    find_fit(request.fit)
    check(request)
    film, before = None, None
    if request.film and request.extend:
        before = clip("film", request.film, request, None)
    elif request.film:
        film = clip("film", request.film, request, request.frames)
    held = min(held_before(request), before.frames) if before else 0
    sound = request.film if sounds(request) else request.soundtrack
    return Inputs(pictures(request), film, before, held, mask(request), sound,
                  request.film_start if sound and not request.soundtrack else 0.0)


def check(request: VideoRequest) -> None:
    """RequestError for settings that do not go together."""
    if request.extend and not request.film:
        raise RequestError("extend", "needs an input film to go on from")
    if request.mask and not (request.film or request.pictures):
        raise RequestError("mask", "needs an input film, or a picture, of which it says what to make anew")
    if request.picture_weights.strip() and not request.pictures.strip():
        raise RequestError("picture_weights", "are about pictures, and there is none")
    if request.depth and (request.film or request.loop):
        raise RequestError("depth", "a film from coarse to fine starts from key frames of its own, and from pictures; "
                           + ("it makes no loop" if request.loop else "not from an input film"))
    if request.free_init > 1 and request.film and not request.extend:
        raise RequestError("free_init", "makes noise of its own, and so has nothing to do with an input film")
    if request.extend:
        for name, word in {"mask": "a mask", "loop": "a loop"}.items():
            if getattr(request, name):
                raise RequestError(name, f"a film cannot be continued with {word}; choose one of the two")


def pictures(request: VideoRequest) -> tuple[Picture, ...]:
    """The pictures in the order of the request. When a film goes on, frames are counted from the first new one."""
    assert request.frames is not None
    placed = placed_pictures(request.pictures, request.frames)
    texts = request.picture_weights.split("|") if request.picture_weights.strip() else [""] * len(placed)
    if len(texts) != len(placed):
        raise RequestError("picture_weights", f"there are {len(placed)} pictures and {len(texts)} curves; write one "
                           "for each, with | between")
    everywhere = bool(request.mask) and not request.film and len(placed) == 1
    found = []
    for (frame, path), text in zip(placed, texts, strict=True):
        try:
            read_picture(path)
        except FilmError as error:
            raise refused("pictures", path, error) from error
        own = [0.0 if everywhere or number == frame else 1.0 for number in range(request.frames)]
        free = curve(text, request.frames, seed=request.seed) if text.strip() else own
        found.append(Picture(path, tuple(min(1.0, max(0.0, value)) for value in free)))
    return tuple(found)


def placed_pictures(text: str, frames: int) -> list[tuple[int, Path]]:
    """(frame, path) of every picture in `0: a.png | -1: b.png`, or in the path of a single one."""
    if not text.strip():
        return []
    if named(text).exists():
        return [(0, named(text))]
    found = []
    for part in text.split("|"):
        match = AT_FRAME.fullmatch(part)
        if not match and "|" in text:
            raise RequestError("pictures", f"{part.strip()!r} does not say at which frame; write 0: a.png | -1: b.png")
        frame, path = (int(match[1]), match[2]) if match else (0, part)
        if not -frames <= frame < frames:
            raise RequestError("pictures", f"there is no frame {frame}; the film has frames 0 to {frames - 1}")
        found.append((frame % frames, named(path)))
    return found


def named(text: str) -> Path:
    """The path that somebody typed or pasted, which may stand in quotes."""
    return Path(text.strip().strip("\"'"))


def clip(field: str, path: str, request: VideoRequest, frames: int | None) -> Clip:
    """The part of a film that the request is about; all that follows its start, where `frames` is None."""
    assert request.fps is not None
    info, fps = known_film(field, path), request.film_fps or request.fps
    there = frames_from(info, request.film_start, fps)
    if not there:
        raise RequestError("film_start", f"{named(path).name} ends at second {info.duration:.1f}, and second "
                           f"{request.film_start:g} is asked for")
    if frames is not None and there < frames:
        raise RequestError("frames", f"{named(path).name} has {there} frames from second {request.film_start:g} on, at "
                           f"{fps:g} of each second, and {frames} are asked for; take fewer, or start earlier")
    return Clip(named(path), request.film_start, fps, there if frames is None else frames)


def mask(request: VideoRequest) -> Clip | None:
    """The mask, which runs along with the input film; a picture, or what ends too early, stands still."""
    if not request.mask:
        return None
    assert request.fps is not None
    assert request.frames is not None
    info, fps = known_film("mask", request.mask), request.film_fps or request.fps
    start = request.film_start if info.frames > 1 else 0.0
    return Clip(named(request.mask), start, fps, max(1, min(request.frames, frames_from(info, start, fps))))


def known_film(field: str, path: str) -> Any:
    """What the film at `path` is; RequestError about `field` where it is none that can be read."""
    try:
        info = probe(named(path))
        next(read_clip(named(path), 0, info.fps or 1, 1))
    except FilmError as error:
        raise refused(field, named(path), error) from error
    return info


def refused(field: str, path: Path, error: FilmError) -> RequestError:
    """What is wrong with an input. Where it lies, perhaps only for the moment, matters only if it is not there."""
    return RequestError(field, str(error).replace(str(path), path.name) if path.exists() else str(error))


def sounds(request: VideoRequest) -> bool:
    """Whether the sound of the input film is kept: nobody wants another, and pictures and sound stay together."""
    keeps = request.film and not request.soundtrack and FORMATS[request.format].sound
    return bool(keeps) and request.film_fps in (0, request.fps) and has_sound(named(request.film))


def told(request: VideoRequest) -> VideoRequest:
    """`request` as a film may tell it to everybody: of files, names and the first digits of a hash, and no folders."""
    paths = {name: getattr(request, name) for name in ("film", "mask")}
    shown: dict[str, Any] = {name: label(named(path)) for name, path in paths.items() if path}
    if request.pictures:
        placed = placed_pictures(request.pictures, request.frames or 1)
        shown["pictures"] = " | ".join(f"{frame}: {label(path)}" for frame, path in placed)
    return replace(request, **shown) if shown else request


def label(path: Path) -> str:
    """A file so that it can be known again: "sea.mp4 (1a2b3c4d)"; the digits are of its size, beginning and end."""
    if not path.is_file():
        return path.name
    with open(path, "rb") as file:
        size = file.seek(0, 2)
        ends = [file.read(HASHED) for start in (0, max(0, size - HASHED)) if file.seek(start) == start]
    return f"{path.name} ({hashlib.sha256(b'%d ' % size + b''.join(ends)).hexdigest()[:8]})"
