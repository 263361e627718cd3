"""Films as moving pictures: animated GIF, animated WebP, and a folder of numbered PNG files.

Pillow encodes the pictures; the files around them are put together here, because Pillow's own writers of animations
hold every frame in memory. GIF89a: w3.org/Graphics/GIF/spec-gif89a.txt. WebP: RFC 9649. EXIF: CIPA DC-008.
"""

import io
import math
import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
from PIL import GifImagePlugin, Image
from PIL.PngImagePlugin import PngInfo

from t2v.video.base import Add, Frame, Recording

PALETTE_FRAMES = 64  # frames and pixels a frame that the palette of a GIF is drawn from
PALETTE_PIXELS = 4096
EXIF_POINTER, USER_COMMENT = 0x8769, 0x9286
PNG_TEXT, PNG_FPS = "parameters", "FPS"  # the first is where web UIs keep the settings of a picture


@contextmanager
def write_gif(path: Path, recording: Recording) -> Iterator[Add]:
    """Writer of animated GIFs with one palette for the whole film, dithered, in hundredths of a second.

    Quality 0 has 16 colours, 80 and more all 256. The palette needs the whole film, so the frames wait in a
    temporary file beside it.
    """
    with open(path, "wb") as file, tempfile.TemporaryFile(dir=path.parent) as waiting:
        frames = _Reel(waiting)
        yield frames.add
        _assemble_gif(file, frames, recording)


class _Reel:
    """Frames of one shape in a file, one after the other."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.length = file, 0
        self.shape: tuple[int, ...] = ()

    def add(self, frame: Frame) -> None:
        self.file.write(frame.tobytes())
        self.shape = frame.shape
        self.length += 1

    def __getitem__(self, index: int) -> Frame:
        size = math.prod(self.shape)
        self.file.seek(index * size)
        return np.frombuffer(self.file.read(size), np.uint8).reshape(self.shape)


def _assemble_gif(file: IO[bytes], frames: _Reel, recording: Recording) -> None:
    height, width, _ = frames.shape
    palette = _palette(frames, colours=min(256, 16 + 3 * recording.quality))
    table = bytes(palette.getpalette() or b"").ljust(768, b"\0")
    file.write(b"GIF89a" + struct.pack("<HHBBB", width, height, 0b1111_0111, 0, 0) + table)
    file.write(b"!\xff\x0bNETSCAPE2.0\x03\x01" + struct.pack("<HB", 0, 0))  # play again and again
    text = recording.infotext.encode()
    parts = [text[start:start + 255] for start in range(0, len(text), 255)]
    if parts:
        file.write(b"!\xfe" + b"".join(bytes([len(part)]) + part for part in parts) + b"\0")
    for index in range(frames.length):
        picture = Image.fromarray(frames[index]).quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG)
        milliseconds = 10 * recording.ticks(index, per_second=100)
        file.write(b"".join(GifImagePlugin.getdata(picture, duration=milliseconds)))
    file.write(b";")


def _palette(frames: _Reel, colours: int) -> Image.Image:
    """The `colours` that serve the film best, as a picture to quantize with: median cut, then k-means."""
    height, width, _ = frames.shape
    stride = max(1, round((height * width / PALETTE_PIXELS) ** 0.5))
    chosen = range(0, frames.length, math.ceil(frames.length / PALETTE_FRAMES))
    pixels = np.concatenate([frames[index][::stride, ::stride].reshape(-1, 3) for index in chosen])
    return Image.fromarray(pixels[None]).quantize(colours, method=Image.Quantize.MEDIANCUT, kmeans=1)


@contextmanager
def write_webp(path: Path, recording: Recording) -> Iterator[Add]:
    """Writer of animated WebP, in milliseconds. The quality is libwebp's own; 100 is lossless."""
    with open(path, "wb") as file:
        frames = 0

        def add(frame: Frame) -> None:
            nonlocal frames
            height, width = frame.shape[:2]
            size = _uint24(width - 1) + _uint24(height - 1)
            if not frames:
                animated, with_exif = 0x02, 0x08
                file.write(b"RIFF\0\0\0\0WEBP" + _chunk(b"VP8X", struct.pack("<I", animated | with_exif) + size))
                file.write(_chunk(b"ANIM", bytes(6)))  # black ground, play again and again
            duration = _uint24(recording.ticks(frames, per_second=1000))
            file.write(_chunk(b"ANMF", bytes(6) + size + duration + b"\2" + _webp_picture(frame, recording.quality)))
            frames += 1

        yield add
        file.write(_chunk(b"EXIF", _exif(recording.infotext)))
        length = file.tell()
        file.seek(4)
        file.write(struct.pack("<I", length - 8))


def _webp_picture(frame: Frame, quality: int) -> bytes:
    """The bitstream chunk of a still WebP."""
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, "WEBP", quality=quality, lossless=quality == 100)
    return buffer.getvalue()[12:]


def _chunk(name: bytes, body: bytes) -> bytes:
    return name + struct.pack("<I", len(body)) + body + bytes(len(body) % 2)


def _uint24(number: int) -> bytes:
    return struct.pack("<I", number)[:3]


def _exif(text: str) -> bytes:
    """An EXIF block with nothing but a UserComment, coded as web UIs code it in WebP and JPEG."""
    comment = b"UNICODE\0" + text.encode("utf-16-be")
    header, entry, end = struct.Struct("<2sHI"), struct.Struct("<HHHII"), bytes(4)  # entry: with the count of entries
    long, undefined = 4, 7
    second = header.size + entry.size + len(end)
    return (header.pack(b"II", 42, header.size) + entry.pack(1, EXIF_POINTER, long, 1, second) + end
            + entry.pack(1, USER_COMMENT, undefined, len(comment), second + entry.size + len(end)) + end + comment)


@contextmanager
def write_png(path: Path, recording: Recording) -> Iterator[Add]:
    """Writer of a folder of PNG files, 000000.png and on; lossless, so the quality makes no difference."""
    path.mkdir()
    text = PngInfo()
    text.add_text(PNG_TEXT, recording.infotext)
    text.add_text(PNG_FPS, str(recording.fps))
    count = 0

    def add(frame: Frame) -> None:
        nonlocal count
        buffer = io.BytesIO()  # Pillow does not notice when the disk takes only a part of what it writes
        Image.fromarray(frame).save(buffer, "PNG", pnginfo=text)
        (path / f"{count:06d}.png").write_bytes(buffer.getvalue())
        count += 1

    yield add


def user_comment(exif: Image.Exif) -> str:
    """The UserComment of a picture, "" where it has none; what `_exif` writes, and web UIs."""
    raw = exif.get_ifd(EXIF_POINTER).get(USER_COMMENT, b"")
    code, text = (raw[:8], raw[8:]) if isinstance(raw, bytes) else (b"", b"")
    return text.decode("utf-16-be" if code == b"UNICODE\0" else "utf-8", errors="replace")
