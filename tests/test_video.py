"""Films come back as they were written: pictures, colours, time, sound and settings, in every format."""

import logging
import socket
import struct
import subprocess
import sys
import wave
from collections.abc import Iterator
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

import t2v
from t2v.errors import FilmError, RequestError
from t2v.video import FORMATS, Frame, check_film, movie, probe, read_film, read_infotext, sound, write_film

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "yellow": (255, 255, 0),
           "white": (255, 255, 255), "purple": (128, 0, 128), "grey": (128, 128, 128), "black": (0, 0, 0)}
SETTINGS = "a réd circle 🎈, 猫\nNegative prompt: text\r\n" + "many words " * 1000 + "\nSteps: 3, Seed: 1, Size: 8x8"
TICK = {"mp4": 1e-4, "webm": 1e-3, "gif": 1e-2, "webp": 1e-3, "png": 1e-9}
WITH_SOUND = [name for name, format in FORMATS.items() if format.sound]
SILENT = [name for name, format in FORMATS.items() if not format.sound]


def film(frames: int = 9, height: int = 32, width: int = 48) -> Iterator[Frame]:
    """A bright square that moves to the right over a soft, still ground."""
    ground = np.mgrid[:height, :width].sum(0)[..., None] * 2 + np.array([20, 40, 60])
    for index in range(frames):
        frame = ground.clip(0, 200).astype(np.uint8)
        frame[4:12, index % width:index % width + 8] = (250, 200, 30)
        yield frame


def noise(frames: int = 6, size: int = 64) -> list[Frame]:
    values = np.random.default_rng(0).integers(0, 256, (frames, size // 4, size // 4, 3), np.uint8)
    return list(values.repeat(4, axis=1).repeat(4, axis=2))


def named(folder: Path, format: str, stem: str = "film") -> Path:
    return folder / f"{stem}{FORMATS[format].extension}"


def tone(path: Path, seconds: float, hertz: float = 440, rate: int = 44_100) -> Path:
    samples = np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate) * 16_000
    with wave.open(str(path), "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.astype("<i2").repeat(2).tobytes())
    return path


def heard(path: Path) -> np.ndarray:
    """The sound of a film as [2, samples] at 48 kHz."""
    with av.open(str(path)) as container:
        resampler = av.AudioResampler(format="fltp", layout="stereo", rate=48_000)
        blocks = [block.to_ndarray() for frame in container.decode(container.streams.audio[0])
                  for block in resampler.resample(frame)]
    return np.concatenate(blocks, axis=1)


def loudness(samples: np.ndarray) -> float:
    return float(np.sqrt(np.mean(samples**2)))


# What a film is


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(("frames", "fps"), [(17, 8), (1, 8), (10, 7.5), (30, 23.976), (3, 0.5), (10, 30), (7, 48)])
def test_a_film_has_the_size_the_frames_and_the_length_that_were_asked(
        tmp_path: Path, format: str, frames: int, fps: float) -> None:
    info, pictures = read_film(write_film(film(frames), named(tmp_path, format), fps))
    assert (info.format, info.width, info.height, info.frames) == (format, 48, 32, frames)
    assert abs(info.duration - frames / fps) <= TICK[format]
    assert abs(info.fps - fps) <= fps * TICK[format] / (frames / fps) * 1.01
    assert [picture.shape for picture in pictures] == [(32, 48, 3)] * frames


@pytest.mark.parametrize("format", FORMATS)
def test_the_frames_come_back_in_order_and_close_to_what_was_written(tmp_path: Path, format: str) -> None:
    _, pictures = read_film(write_film(film(), named(tmp_path, format), 8))
    for written, read in zip(film(), pictures, strict=True):
        assert read.dtype == np.uint8
        assert np.abs(written.astype(int) - read).mean() < 6


@pytest.mark.parametrize("format", FORMATS)
def test_pure_colours_come_back(tmp_path: Path, format: str) -> None:
    blocks = np.concatenate([np.full((32, 32, 3), colour, np.uint8) for colour in COLOURS.values()], axis=1)
    _, pictures = read_film(write_film([blocks] * 5, named(tmp_path, format), 8))
    for picture in pictures:
        for index, (name, colour) in enumerate(COLOURS.items()):
            centre = picture[8:24, 32 * index + 8:32 * index + 24].astype(int)
            assert np.abs(centre - colour).max() <= 6, name


@pytest.mark.parametrize("format", WITH_SOUND)
def test_movies_are_yuv420p_in_bt709_and_say_so(tmp_path: Path, format: str) -> None:
    colour = np.array([200, 30, 90])
    path = write_film([np.full((32, 32, 3), colour, np.uint8)] * 3, named(tmp_path, format), 8)
    with av.open(str(path)) as container:
        context = container.streams.video[0].codec_context
        assert context.name == {"mp4": "h264", "webm": "vp9"}[format]
        assert context.pix_fmt == "yuv420p"
        tags = context.colorspace, context.color_primaries, context.color_trc, context.color_range
        assert [int(tag) for tag in tags] == [1, 1, 1, 1]  # BT.709 three times, TV range
        for frame in container.decode(video=0):
            planes = [np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[4, 4] for plane in frame.planes]
            red, green, blue = colour / 255  # ITU-R BT.709-6, 3.2 to 3.5
            luma = 0.2126 * red + 0.7152 * green + 0.0722 * blue
            expected = 16 + 219 * luma, 128 + 224 * (blue - luma) / 1.8556, 128 + 224 * (red - luma) / 1.5748
            assert np.abs(np.array(planes) - expected).max() <= 2


@pytest.mark.parametrize("fps", [8, 7.5, 23.976, Fraction(24_000, 1001)])
def test_every_frame_of_an_mp4_lasts_exactly_as_long_as_the_next(tmp_path: Path, fps: float) -> None:
    path = write_film(film(12), tmp_path / "film.mp4", fps)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        times = [frame.pts * stream.time_base for frame in container.decode(stream)]
        exact = Fraction(str(fps)) if isinstance(fps, float) else Fraction(fps)
        assert times == [index / exact for index in range(12)]
        assert stream.average_rate == exact
        assert stream.duration * stream.time_base == 12 / exact


@pytest.mark.parametrize("format", ["gif", "webp"])
def test_rounded_durations_are_shared_out_evenly(tmp_path: Path, format: str) -> None:
    path = write_film(film(30), named(tmp_path, format), 23.976)
    with Image.open(path) as picture:
        durations = []
        for index in range(30):
            picture.seek(index)
            picture.load()
            durations.append(picture.info["duration"])
    assert max(durations) - min(durations) <= 1000 * TICK[format]
    assert picture.info["loop"] == 0


def test_an_mp4_has_its_index_in_front_so_that_browsers_start_at_once(tmp_path: Path) -> None:
    data = write_film(film(), tmp_path / "film.mp4", 8, infotext=SETTINGS).read_bytes()
    boxes, at = [], 0
    while at < len(data):
        size, name = struct.unpack_from(">I4s", data, at)
        boxes.append(name)
        at += size
    assert boxes.index(b"moov") < boxes.index(b"mdat")


def test_a_webp_is_built_as_rfc_9649_has_it(tmp_path: Path) -> None:
    data = write_film(film(2, height=15, width=17), tmp_path / "film.webp", 8, infotext="abc").read_bytes()
    assert struct.unpack_from("<4sI4s", data) == (b"RIFF", len(data) - 8, b"WEBP")
    chunks, at = [], 12
    while at < len(data):
        name, size = struct.unpack_from("<4sI", data, at)
        chunks.append((name, data[at + 8:at + 8 + size]))
        at += 8 + size + size % 2
    assert at == len(data)
    assert [name for name, _ in chunks] == [b"VP8X", b"ANIM", b"ANMF", b"ANMF", b"EXIF"]
    assert chunks[0][1] == bytes([0b1010, 0, 0, 0, 16, 0, 0, 14, 0, 0])  # animated, with EXIF; the size less one
    for _, frame in chunks[2:4]:
        assert frame[:16] == bytes([0, 0, 0, 0, 0, 0, 16, 0, 0, 14, 0, 0, 125, 0, 0, 2])  # place, size, ms, no blend
        assert frame[16:20] == b"VP8 "


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(("height", "width"), [(1, 1), (17, 31), (16, 33)])
def test_odd_sizes_are_padded_with_a_copy_of_the_edge_where_the_format_needs_even_ones(
        tmp_path: Path, format: str, height: int, width: int) -> None:
    frame = np.broadcast_to(np.linspace(0, 255, width).astype(np.uint8)[None, :, None], (height, width, 3))
    info, pictures = read_film(write_film([frame] * 2, named(tmp_path, format), 8))
    even = format in WITH_SOUND
    assert (info.height, info.width) == (height + even * (height % 2), width + even * (width % 2))
    for picture in pictures:
        assert np.abs(picture[:height, :width].astype(int) - frame).mean() < 6
        assert np.abs(picture[:, -1].astype(int) - picture[:, width - 1]).mean() < 6


@pytest.mark.parametrize("format", ["mp4", "webm", "gif", "webp"])
def test_higher_quality_is_closer_to_the_frames_and_makes_larger_files(tmp_path: Path, format: str) -> None:
    errors, sizes = [], []
    for quality in (0, 40, 80):
        path = write_film(noise(), named(tmp_path, format, f"film{quality}"), 8, quality=quality)
        pictures = np.stack(list(read_film(path)[1]))
        errors.append(np.abs(np.stack(noise()).astype(int) - pictures).mean())
        sizes.append(path.stat().st_size)
    assert errors == sorted(errors, reverse=True)
    assert sizes == sorted(sizes)
    assert errors[0] > 1.5 * errors[2]
    assert sizes[2] > 1.2 * sizes[0]


@pytest.mark.parametrize("format", FORMATS)
def test_the_best_quality_can_be_read(tmp_path: Path, format: str) -> None:
    path = write_film(noise(), named(tmp_path, format), 8, quality=100)
    assert probe(path).frames == 6
    if format == "mp4":  # browsers play the high profile, not the lossless one
        with av.open(str(path)) as container:
            assert container.streams.video[0].codec_context.profile == "High"
    if format in ("webp", "png"):
        assert all(np.array_equal(a, b) for a, b in zip(noise(), read_film(path)[1], strict=True))


@pytest.mark.parametrize("format", FORMATS)
def test_an_iterable_that_ends_early_makes_a_shorter_film(tmp_path: Path, format: str) -> None:
    def interrupted() -> Iterator[Frame]:
        yield from list(film(16))[:3]

    info, pictures = read_film(write_film(interrupted(), named(tmp_path, format), 8))
    assert info.frames == len(list(pictures)) == 3


@pytest.mark.parametrize("format", FORMATS)
def test_no_frame_makes_no_film(tmp_path: Path, format: str) -> None:
    with pytest.raises(FilmError, match="no frame"):
        write_film([], named(tmp_path, format), 8)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("wrong", [np.zeros((8, 8, 3)), np.zeros((8, 8), np.uint8), np.zeros((8, 8, 4), np.uint8),
                                   np.zeros((16, 8, 3), np.uint8)])
def test_a_frame_of_another_kind_or_size_is_refused(tmp_path: Path, wrong: np.ndarray) -> None:
    with pytest.raises(FilmError, match="a frame must be RGB uint8"):
        write_film([np.zeros((8, 8, 3), np.uint8), wrong], tmp_path / "film.mp4", 8)


MEMORY = """
import sys
import numpy as np
from t2v.video import write_film

def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))

def frames():
    for index in range(2000):
        if index == 300:
            before.append(peak())
        frame = np.zeros((64, 64, 3), np.uint8)
        frame[:32] = index % 255
        yield frame

before = []
write_film(frames(), sys.argv[1], 24)
print(peak() - before[0])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak memory from /proc")
@pytest.mark.parametrize("format", FORMATS)
def test_memory_does_not_grow_with_the_length_of_the_film(tmp_path: Path, format: str) -> None:
    root = Path(t2v.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", MEMORY, named(tmp_path, format)], cwd=root, check=True,
                          capture_output=True, text=True)
    frames_kilobytes = 1700 * 64 * 64 * 3 / 1024
    assert int(done.stdout) < 0.4 * frames_kilobytes


# Settings


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("text", [SETTINGS, "x", "Größe", "\ttab, \x7f\x85\u2028 and\n\n\nlines"])
def test_the_settings_come_back_to_the_letter(tmp_path: Path, format: str, text: str) -> None:
    assert read_infotext(write_film(film(2), named(tmp_path, format), 8, infotext=text)) == text


@pytest.mark.parametrize("format", FORMATS)
def test_letters_that_no_file_can_hold_become_a_mark(tmp_path: Path, format: str) -> None:
    path = write_film(film(2), named(tmp_path, format), 8, infotext="a\0b \ud83d c")
    assert read_infotext(path) in {"a\ufffdb \ufffd c", "a\ufffdb ? c"}


@pytest.mark.parametrize("format", WITH_SOUND)
def test_the_settings_stay_when_there_is_a_soundtrack(tmp_path: Path, format: str) -> None:
    path = write_film(film(2), named(tmp_path, format), 8, infotext=SETTINGS, soundtrack=str(tone(tmp_path / "a", 1)))
    assert read_infotext(path) == SETTINGS


def test_other_programs_find_the_settings_where_they_look_for_them(tmp_path: Path) -> None:
    with Image.open(write_film(film(2), tmp_path / "film.gif", 8, infotext=SETTINGS)) as picture:
        assert picture.info["comment"].decode() == SETTINGS
    for path in write_film(film(2), tmp_path / "film", 8, infotext=SETTINGS).iterdir():
        with Image.open(path) as picture:
            assert picture.text["parameters"] == SETTINGS
    with Image.open(write_film(film(2), tmp_path / "film.webp", 8, infotext=SETTINGS)) as picture:
        assert picture.getexif().get_ifd(0x8769)[0x9286] == b"UNICODE\0" + SETTINGS.encode("utf-16-be")


def test_the_settings_of_a_web_uis_pictures_are_read_too(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x8769] = {0x9286: b"UNICODE\0" + SETTINGS.encode("utf-16-be")}
    Image.new("RGB", (8, 8)).save(tmp_path / "a.jpg", exif=exif)
    assert read_infotext(tmp_path / "a.jpg") == SETTINGS


@pytest.mark.parametrize("format", FORMATS)
def test_a_film_without_settings_says_so(tmp_path: Path, format: str) -> None:
    path = write_film(film(2), named(tmp_path, format), 8)
    with pytest.raises(FilmError, match="carries no settings"):
        read_infotext(path)


# Damaged and foreign files


@pytest.mark.parametrize("read", [read_infotext, probe, lambda path: list(read_film(path)[1])])
def test_what_is_no_film_is_refused_in_one_line_that_names_it(tmp_path: Path, read: Any) -> None:
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "page.mp4").write_text("<html>" * 500)
    (tmp_path / "noise.gif").write_bytes(np.random.default_rng(0).bytes(5000))
    (tmp_path / "folder").mkdir()
    for name in ("absent.mp4", "empty.mp4", "page.mp4", "noise.gif", "folder", "sound.wav"):
        tone(tmp_path / "sound.wav", 0.1)
        with pytest.raises(FilmError) as caught:
            read(tmp_path / name)
        assert str(caught.value).startswith(str(tmp_path / name))
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("format", ["mp4", "webm", "gif", "webp"])
def test_a_film_that_was_cut_off_gives_its_whole_settings_or_an_error(tmp_path: Path, format: str) -> None:
    data = write_film(film(5), named(tmp_path, format), 8, infotext=SETTINGS).read_bytes()
    cut = named(tmp_path, format, "cut")
    texts = set()
    for end in np.linspace(0, len(data) - 1, 60).astype(int):
        cut.write_bytes(data[:end])
        try:
            texts.add(read_infotext(cut))
        except FilmError:
            texts.add("")
    assert texts <= {"", SETTINGS}
    assert "" in texts


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("format", ["mp4", "webm", "gif", "webp"])
def test_damaged_films_give_frames_or_an_error_of_ours(tmp_path: Path, format: str) -> None:
    data = write_film(film(5), named(tmp_path, format), 8, infotext="a, b").read_bytes()
    damaged, random = named(tmp_path, format, "damaged"), np.random.default_rng(0)
    for _ in range(40):
        bad = bytearray(data)
        for at in random.integers(0, len(data), 4):
            bad[at] = random.integers(256)
        damaged.write_bytes(bad)
        for read in (read_infotext, lambda path: list(read_film(path)[1])):
            with suppress(FilmError):
                read(damaged)
        with suppress(RequestError):
            check_film("mp4", 8, str(damaged))


def test_tags_in_an_old_encoding_do_not_keep_a_film_from_being_read(tmp_path: Path) -> None:
    sound_file = str(tone(tmp_path / "tone.wav", 1))
    path = write_film(film(2), tmp_path / "film.mp4", 8, infotext="a, b", soundtrack=sound_file)
    latin = path.read_bytes().replace(b"SoundHandler", "Tönehändler".encode("latin-1") + b"!")
    path.write_bytes(latin)
    assert probe(path).frames == 2
    assert read_infotext(path) == "a, b"
    check_film("mp4", 8, str(path))


@pytest.mark.parametrize(("height", "red_weight", "blue_weight"), [(64, 0.299, 0.114), (720, 0.2126, 0.0722)])
def test_a_film_without_colour_tags_is_read_as_players_read_it(
        tmp_path: Path, height: int, red_weight: float, blue_weight: float) -> None:
    """Small pictures as BT.601, large ones as BT.709."""
    with av.open(str(tmp_path / "film.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=8)
        stream.width, stream.height, stream.pix_fmt = 64, height, "yuv420p"
        picture = av.VideoFrame(64, height, "yuv420p")
        for plane, level in zip(picture.planes, (100, 110, 150), strict=True):
            plane.update(bytes([level]) * plane.buffer_size)
        container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    luma, blue, red = (100 - 16) / 219, (110 - 128) / 224 * 2, (150 - 128) / 224 * 2
    red, blue = luma + red * (1 - red_weight), luma + blue * (1 - blue_weight)
    green = (luma - red_weight * red - blue_weight * blue) / (1 - red_weight - blue_weight)
    frames = list(read_film(tmp_path / "film.mkv")[1])
    assert np.abs(frames[0].astype(int) - 255 * np.array([red, green, blue])).max() <= 2


# Sound


@pytest.mark.parametrize("format", WITH_SOUND)
def test_a_long_sound_is_cut_to_the_length_of_the_film(tmp_path: Path, format: str) -> None:
    path = write_film(film(12), named(tmp_path, format), 8, soundtrack=str(tone(tmp_path / "tone.wav", 5)))
    samples = heard(path)
    assert abs(samples.shape[1] / 48_000 - 1.5) < 0.03  # to one block of the encoder
    assert abs(probe(path).duration - 1.5) < 0.03
    assert abs(loudness(samples[:, 4800:67_200]) - 16_000 / 32_768 / 2**0.5) < 0.03
    spectrum = np.abs(np.fft.rfft(samples[0, :48_000]))
    assert abs(int(spectrum.argmax()) - 440) <= 1


@pytest.mark.parametrize("format", WITH_SOUND)
def test_a_short_sound_is_followed_by_silence(tmp_path: Path, format: str) -> None:
    path = write_film(film(16), named(tmp_path, format), 8, soundtrack=str(tone(tmp_path / "tone.wav", 0.5)))
    samples = heard(path)
    assert abs(samples.shape[1] / 48_000 - 2) < 0.03
    assert loudness(samples[:, 4800:19_200]) > 0.3
    assert loudness(samples[:, 28_800:]) < 1e-3


def test_the_sound_of_a_film_can_be_the_sound_of_another(tmp_path: Path) -> None:
    first = write_film(film(8), tmp_path / "first.mp4", 8, soundtrack=str(tone(tmp_path / "tone.wav", 1)))
    second = write_film(film(8), tmp_path / "second.webm", 8, soundtrack=str(first))
    assert loudness(heard(second)[:, 4800:40_000]) > 0.3


def test_a_sound_is_decoded_only_as_far_as_the_film_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def endless(_: str) -> Iterator[av.AudioFrame]:
        while True:
            frame = av.AudioFrame.from_ndarray(np.zeros((2, 1024), np.float32), format="fltp", layout="stereo")
            frame.sample_rate = 48_000
            yield frame

    monkeypatch.setattr(sound, "_decoded", endless)
    path = write_film(film(4), tmp_path / "film.mp4", 8, soundtrack=str(tone(tmp_path / "tone.wav", 0.1)))
    assert abs(heard(path).shape[1] / 48_000 - 0.5) < 0.03


def test_a_sound_that_breaks_off_costs_its_rest_and_not_the_film(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    whole = sound._decoded

    def broken(path: str) -> Iterator[Any]:
        frames = whole(path)
        yield next(frames)
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(sound, "_decoded", broken)
    path = write_film(film(16), tmp_path / "film.mp4", 8, soundtrack=str(tone(tmp_path / "tone.wav", 2)))
    assert loudness(heard(path)[:, -48_000:]) < 1e-3
    assert "breaks off (Input/output error)" in caplog.text


@pytest.mark.parametrize("format", SILENT)
def test_formats_without_sound_refuse_a_soundtrack(tmp_path: Path, format: str) -> None:
    with pytest.raises(RequestError, match="cannot carry sound; choose mp4 or webm") as caught:
        write_film(film(), named(tmp_path, format), 8, soundtrack=str(tone(tmp_path / "tone.wav", 1)))
    assert caught.value.field == "soundtrack"


def test_a_soundtrack_that_cannot_be_heard_is_refused_before_the_first_frame(tmp_path: Path) -> None:
    (tmp_path / "page.mp3").write_text("<html>" * 500)
    write_film(film(2), tmp_path / "silent.mp4", 8)
    for name, problem in {"absent.mp3": "there is no file", "page.mp3": "cannot be read", "silent.mp4": "has no sound",
                          ".": "there is no file"}.items():
        with pytest.raises(RequestError, match=problem) as caught:
            write_film(iter([None]), tmp_path / "film.mp4", 8, soundtrack=str(tmp_path / name))
        assert caught.value.field == "soundtrack"
        assert not (tmp_path / "film.mp4").exists()


@pytest.mark.filterwarnings("ignore")
def test_nothing_is_fetched_from_the_network_or_from_other_files(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        address = f"http://127.0.0.1:{server.getsockname()[1]}/a.ts"
        for target in (address, str(tone(tmp_path / "a.wav", 1))):
            playlist = tmp_path / "list.m3u8"
            playlist.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{target}\n#EXT-X-ENDLIST\n")
            with pytest.raises(RequestError):
                check_film("mp4", 8, str(playlist))
            with pytest.raises(FilmError):
                probe(playlist)
        for path in (address, f"concat:{tmp_path / 'a.wav'}"):
            with pytest.raises(RequestError, match="there is no file"):
                check_film("mp4", 8, path)
        with pytest.raises(TimeoutError):
            server.accept()


# Formats and encoders


def test_every_format_can_be_told_from_the_others() -> None:
    assert len({format.label for format in FORMATS.values()}) == len(FORMATS)
    assert len({format.extension for format in FORMATS.values()}) == len(FORMATS)
    assert all(format.mime.startswith(("video/", "image/")) for format in FORMATS.values())


@pytest.mark.parametrize(("format", "fps", "field"), [
    ("avi", 8, "format"), ("gif", 60, "fps"), ("webp", 51, "fps"), ("mp4", 0, "fps"), ("mp4", float("nan"), "fps")])
def test_what_a_format_cannot_do_is_refused(format: str, fps: float, field: str) -> None:
    with pytest.raises(RequestError) as caught:
        check_film(format, fps)
    assert caught.value.field == field


def test_the_extension_chooses_the_format(tmp_path: Path) -> None:
    assert write_film(film(2), tmp_path / "FILM.GIF", 8).read_bytes().startswith(b"GIF89a")
    with pytest.raises(RequestError, match=r"no format 'avi'"):
        write_film(film(2), tmp_path / "film.avi", 8)


def test_a_missing_encoder_is_explained_before_the_first_frame(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(av, "codecs_available", {"aac"})
    with pytest.raises(FilmError, match=r"none of the encoders libx264, .* Install the package av"):
        write_film(iter([None]), tmp_path / "film.mp4", 8)
    assert list(tmp_path.iterdir()) == []


def test_another_encoder_takes_the_place_of_a_missing_one_and_says_so(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(av, "codecs_available", av.codecs_available - {"libx264", "libopenh264"})
    monkeypatch.setitem(movie.MP4.video, "mpeg4", movie.bit_rate)
    with caplog.at_level(logging.WARNING):
        sizes = [write_film(noise(), tmp_path / f"{quality}.mp4", 8, quality=quality).stat().st_size
                 for quality in (0, 80)]
    assert probe(tmp_path / "80.mp4").frames == 6
    assert sizes[0] < sizes[1]
    assert "no encoder libx264 here; mpeg4 takes its place" in caplog.text


