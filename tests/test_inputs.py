"""What people bring: every film and picture works, or it is said what is wrong with it, before anything is loaded."""

import struct
import tracemalloc
import zlib
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from t2v.errors import FilmError, RequestError
from t2v.fitting import FITS, fitted
from t2v.inputs import inputs, label, placed_pictures, suggested
from t2v.request import VideoRequest
from t2v.video import FORMATS, frames_from, probe, read_clip, read_picture, write_film
from tests.test_video import tone

REQUEST = VideoRequest(width=32, height=32, frames=4, fps=8, format="png", seed=1)


def grey(*levels: int, size: tuple[int, int] = (32, 48)) -> list[Any]:
    return [np.full((*size, 3), level, np.uint8) for level in levels]


def levels(path: Path, start: float, fps: float, frames: int) -> list[int]:
    return [round(float(frame.mean())) for frame in read_clip(path, start, fps, frames)]


def movie(path: Path, frames: int = 12, pixels: str = "yuv420p", codec: str = "libx264", **times: Any) -> Path:
    """A film that a writer of ours would not make."""
    container: Any
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=times.get("rate", 8))
        stream.width, stream.height, stream.pix_fmt = 64, 64, pixels
        stream.codec_context.time_base = Fraction(1, 1000)
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(grey(20 * number + 10, size=(64, 64))[0], format="rgb24")
            frame = frame.reformat(format=pixels)
            frame.pts, frame.time_base = times.get("pts", lambda n: 125 * n)(number), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


# ---- films by their time ----


@pytest.mark.parametrize("fps", [8, 12.5, 25, 30])
@pytest.mark.parametrize("format", FORMATS)
def test_a_clip_has_the_frames_that_a_player_would_show(tmp_path: Path, format: str, fps: float) -> None:
    wanted = [10 * number + 5 for number in range(20)]
    path = write_film(grey(*wanted), tmp_path / f"film{FORMATS[format].extension}", fps)
    assert frames_from(probe(path), 0, fps) == 20
    assert np.abs(np.array(levels(path, 0, fps, 20)) - wanted).max() <= 4
    assert np.abs(np.array(levels(path, 7 / fps, fps, 13)) - wanted[7:]).max() <= 4
    assert np.abs(np.array(levels(path, 0, fps / 2, 10)) - wanted[::2]).max() <= 4
    assert np.abs(np.array(levels(path, 0, fps * 2, 40)) - np.repeat(wanted, 2)).max() <= 4


def test_a_film_that_claims_no_frames_a_second_is_read_all_the_same(tmp_path: Path) -> None:
    path = tmp_path / "film.avi"
    container: Any
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=8)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuvj420p"
        for picture in grey(10, 60, 110, 160, size=(64, 64)):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    content = bytearray(path.read_bytes())
    whole, one = content.index(b"avih") + 8, content.index(b"strh") + 8
    content[whole:whole + 4] = content[one + 24:one + 28] = bytes(4)  # microseconds a frame, and units a second
    path.write_bytes(content)
    info = probe(path)
    assert (info.frames, info.fps > 0) == (4, True)
    assert np.abs(np.array(levels(path, 0, info.fps, 4)) - [10, 60, 110, 160]).max() <= 4


def test_a_film_of_variable_rate_is_taken_by_its_clock(tmp_path: Path) -> None:
    path = movie(tmp_path / "vfr.mkv", 6, pts=lambda n: [0, 100, 200, 1200, 1300, 2300][n])
    seen = levels(path, 0, 5, 12)
    assert np.abs(np.array(seen) - [10, 50, 50, 50, 50, 50, 70, 90, 90, 90, 90, 90]).max() <= 4


@pytest.mark.parametrize(("codec", "pixels"), [
    ("libx265", "yuv420p10le"), ("libx264", "yuv444p"), ("ffv1", "yuv420p16le")])
def test_deep_and_unusual_colours_are_read(tmp_path: Path, codec: str, pixels: str) -> None:
    if codec not in av.codecs_available:
        pytest.fail(f"PyAV has no {codec} here")
    path = movie(tmp_path / "deep.mkv", 5, pixels, codec)
    assert np.abs(np.array(levels(path, 0, 8, 5)) - [10, 30, 50, 70, 90]).max() <= 4


def test_a_film_held_upright_by_a_telephone_stands_upright(tmp_path: Path) -> None:
    """A quarter turn clockwise, as the matrix in the track's header says."""
    left_white = np.zeros((32, 64, 3), np.uint8)
    left_white[:, :32] = 255
    path = write_film([left_white] * 3, tmp_path / "film.mp4", 8)
    data = path.read_bytes()
    at = data.index(b"tkhd") + 4 + 40  # version and flags, times, track, duration, layer, group, volume
    turn = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 32 << 16, 0, 1 << 30)
    path.write_bytes(data[:at] + turn + data[at + 36:])
    frame = next(read_clip(path, 0, 8, 1))
    assert frame.shape == (64, 32, 3)
    assert frame[:28].mean() > 230
    assert frame[36:].mean() < 25


def test_a_long_film_takes_no_memory(tmp_path: Path) -> None:
    path = write_film((frame for _ in range(60) for frame in grey(*range(0, 250, 25), size=(64, 64))),
                      tmp_path / "long.mp4", 8)
    tracemalloc.start()
    for _ in read_clip(path, 0, 8, 600):
        pass
    assert tracemalloc.get_traced_memory()[1] < 2_000_000  # of which 600 frames would be 7
    tracemalloc.stop()


# ---- pictures ----


def test_pictures_of_every_kind_are_read(tmp_path: Path) -> None:
    seen = {}
    for mode, colour in {"RGB": (9, 99, 199), "L": 99, "P": 3, "1": 1, "CMYK": (9, 99, 199, 20), "I;16": 40000}.items():
        path = tmp_path / f"{mode.replace(';', '')}.{'tif' if mode == 'CMYK' else 'png'}"
        Image.new(mode, (7, 5), colour).save(path)
        seen[mode] = read_picture(path)
        assert seen[mode].shape == (5, 7, 3)
        assert seen[mode].dtype == np.uint8
    assert seen["RGB"][0, 0].tolist() == [9, 99, 199]
    assert seen["I;16"][0, 0].tolist() == [40000 >> 8] * 3


def test_what_is_transparent_lies_on_white(tmp_path: Path) -> None:
    Image.new("RGBA", (4, 4), (0, 0, 255, 0)).save(tmp_path / "clear.png")
    Image.new("RGBA", (4, 4), (0, 0, 0, 128)).save(tmp_path / "half.png")
    assert (read_picture(tmp_path / "clear.png") == 255).all()
    assert abs(int(read_picture(tmp_path / "half.png")[0, 0, 0]) - 127) <= 1


def test_a_picture_is_turned_as_its_camera_says(tmp_path: Path) -> None:
    picture = Image.new("RGB", (20, 10), "black")
    picture.paste("white", (0, 0, 10, 10))
    exif = picture.getexif()
    exif[0x0112] = 6
    picture.save(tmp_path / "turned.png", exif=exif)
    frame = read_picture(tmp_path / "turned.png")
    assert frame.shape == (20, 10, 3)
    assert frame[:10].min() == 255


def test_of_an_animation_and_of_a_film_the_first_picture_counts(tmp_path: Path) -> None:
    for extension in (".gif", ".webp", ".mp4"):
        path = write_film(grey(50, 150, 250), tmp_path / f"film{extension}", 8)
        assert abs(float(read_picture(path).mean()) - 50) < 4


def bomb(path: Path, side: int = 20_000) -> Path:
    """A PNG of 20,000 x 20,000 pixels in half a megabyte."""
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    packer = zlib.compressobj(9)
    rows = b"".join(packer.compress(bytes(side // 8 + 1)) for _ in range(side)) + packer.flush()
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b""))
    return path


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [9_400, 20_000])
@pytest.mark.parametrize("field", ["pictures", "film", "mask"])
def test_a_picture_that_would_fill_the_memory_is_refused(tmp_path: Path, side: int, field: str) -> None:
    others = {"film": str(write_film(grey(1, 2, 3, 4), tmp_path / "in.gif", 8))} if field == "mask" else {}
    with pytest.raises(RequestError) as caught:
        inputs(replace(REQUEST, **others, **{field: str(bomb(tmp_path / "bomb.png", side))}))
    assert caught.value.field == field


# ---- what is no film ----


def silent(path: Path) -> Path:
    return tone(path, 1)


def empty(path: Path) -> Path:
    path.write_bytes(b"")
    return path


def cut(path: Path) -> Path:
    """A film whose index stands in front, and whose second half is missing."""
    whole = write_film(list(np.random.default_rng(0).integers(0, 256, (40, 64, 64, 3), np.uint8)), path, 8)
    data = whole.read_bytes()
    whole.write_bytes(data[:len(data) // 2])
    return whole


@pytest.mark.parametrize(("make", "name"), [(silent, "sound.wav"), (empty, "empty.mp4"), (empty, "empty.png")])
def test_what_is_no_film_is_refused_by_its_name(tmp_path: Path, make: Any, name: str) -> None:
    with pytest.raises(RequestError, match=name) as caught:
        inputs(replace(REQUEST, film=str(make(tmp_path / name))))
    assert caught.value.field == "film"
    assert str(tmp_path) not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_film_that_is_cut_off_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    path = cut(tmp_path / "cut.mp4")
    found = inputs(replace(REQUEST, film=str(path), frames=10))
    assert found.film is not None
    assert len(list(found.film.read((32, 32), FITS["crop"]))) == 10
    with pytest.raises(FilmError, match=r"cut.mp4"):
        list(read_clip(path, 0, 8, 40))


def test_more_start_than_film_is_said_in_seconds(tmp_path: Path) -> None:
    film = str(write_film(grey(*range(8)), tmp_path / "in.mp4", 8))
    with pytest.raises(RequestError, match=r"in\.mp4 ends at second 1\.0, and second 5") as caught:
        inputs(replace(REQUEST, film=film, film_start=5))
    assert caught.value.field == "film_start"


# ---- what a request leaves open ----


def test_a_film_suggests_its_speed_and_no_more_frames_than_it_has(tmp_path: Path) -> None:
    defaults = {"frames": 16, "fps": 8, "width": 256, "height": 256}
    film = str(write_film(grey(*range(10), size=(50, 90)), tmp_path / "in.mp4", 25))
    assert suggested(VideoRequest(film=film), defaults) == {"fps": 25, "frames": 10}
    assert suggested(VideoRequest(film=film, fps=5), defaults) == {"fps": 5, "frames": 2}
    assert suggested(VideoRequest(film=film, extend=True), defaults) == {"fps": 25, "width": 88, "height": 48}
    assert suggested(VideoRequest(), defaults) == {}


# ---- shapes and names ----


@pytest.mark.parametrize("name", FITS)
@pytest.mark.parametrize("size", [(64, 64), (17, 99), (1, 1), (301, 40)])
def test_any_shape_becomes_that_of_the_film(name: str, size: tuple[int, int]) -> None:
    assert fitted(grey(9, size=size)[0], (32, 16), FITS[name]).shape == (16, 32, 3)


def test_nothing_is_distorted_unless_one_asks_for_it() -> None:
    ring = np.zeros((60, 120, 3), np.uint8)
    ring[20:40, 50:70] = 255  # a square in the middle
    for name, (across, down) in {"crop": (20, 20), "pad": (10, 10), "stretch": (10, 20)}.items():
        light = fitted(ring, (60, 60), FITS[name])[..., 0] > 127
        assert (light.any(0).sum(), light.any(1).sum()) == (across, down), name


def test_paths_may_hold_colons_bars_spaces_and_quotes(tmp_path: Path) -> None:
    for name in ("a b.png", "a: b.png", "a | 1: b.png"):
        Image.new("RGB", (4, 4)).save(tmp_path / name)
        assert placed_pictures(str(tmp_path / name), 4) == [(0, tmp_path / name)]
    assert placed_pictures(f'"{tmp_path / "a b.png"}"', 4) == [(0, tmp_path / "a b.png")]
    assert placed_pictures(r"C:\films\a.png", 4)[0][0] == 0
    assert [frame for frame, _ in placed_pictures(" 0 : a.png|-2:b.png | 3:c.png", 4)] == [0, 2, 3]


def test_a_label_knows_a_file_again_and_tells_another_from_it(tmp_path: Path) -> None:
    first, second = tmp_path / "a.png", tmp_path / "b" / "a.png"
    second.parent.mkdir()
    first.write_bytes(b"1" * 3_000_000)
    second.write_bytes(b"1" * 3_000_000)
    assert label(first) == label(second)
    second.write_bytes(b"1" * 2_999_999 + b"2")
    assert label(first) != label(second)
    assert label(first).startswith("a.png (")
