"""Films get names that nobody else has, and appear whole or not at all."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import t2v
from t2v.errors import FilmError, MemoryShortage
from t2v.video import FORMATS, Frame, files, next_path, probe, recent_films, write_film
from t2v.video.files import slug

ROOT = Path(t2v.__file__).parents[1]
PICTURE = np.full((16, 16, 3), 90, np.uint8)
TODAY = date.today().isoformat()


def named(folder: Path, format: str, stem: str = "film") -> Path:
    return folder / f"{stem}{FORMATS[format].extension}"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# Names


def test_names_are_dated_and_numbered_and_tell_seed_and_prompt(tmp_path: Path) -> None:
    path = next_path(tmp_path, "A red circle, (big:1.2)!", 1234567, ".mp4")
    assert path.parent == tmp_path / TODAY
    assert path.name == "00001-1234567-a-red-circle-big-1-2.mp4"
    assert not path.parent.exists()


def test_the_number_follows_the_highest_one_of_the_day(tmp_path: Path) -> None:
    (tmp_path / TODAY / "00041-7-folder-of-frames").mkdir(parents=True)
    for other in ("00007-1.mp4", "00041-5-a.gif", "film.mp4", "123.mp4", "20261122-holiday.mp4"):
        (tmp_path / TODAY / other).touch()
    assert next_path(tmp_path, "", 5, ".gif").name == "00042-5.gif"


def test_numbers_go_on_beyond_five_digits(tmp_path: Path) -> None:
    (tmp_path / TODAY).mkdir()
    (tmp_path / TODAY / "99999-1.mp4").touch()
    assert next_path(tmp_path, "", 5, ".mp4").name == "100000-5.mp4"
    (tmp_path / TODAY / "100000-1.mp4").touch()
    assert next_path(tmp_path, "", 5, ".mp4").name == "100001-5.mp4"


@pytest.mark.parametrize(("prompt", "expected"), [
    ("a/b\\c:d*e?f\"g<h>i|j", "a-b-c-d-e-f-g-h-i-j"), ("  ...  ", ""), ("", ""), ("Ünï çödé", "ünï-çödé"),
    ("赤い丸、大きい", "赤い丸-大きい"), ("красный круг", "красный-круг"), ("हिन्दी फ़िल्म", "हिन्दी-फ़िल्म"),
    ("a\nb\0c\x1bd\u202ee", "a-b-c-d-e"), ("🎈 balloon 🎈", "balloon"), ("e\u0301", "é"),
    ("../../etc/passwd", "etc-passwd")])
def test_the_words_of_the_prompt_are_kept_and_all_else_goes(prompt: str, expected: str) -> None:
    assert slug(prompt) == expected


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.text(max_size=300), st.sampled_from([".mp4", ""]))
def test_every_prompt_makes_a_name_that_every_system_takes(prompt: str, extension: str) -> None:
    name = next_path("nowhere", prompt, 2**32 - 1, extension).name
    assert len(name.encode()) <= 143
    assert not re.search(r'[\x00-\x20<>:"/\\|?*\x7f]', name)
    assert not name.endswith((".", "-"))
    assert re.match(r"00001-4294967295", name)  # so it is never CON, NUL, ..., and never hidden


# Never in the place of another film


@pytest.mark.parametrize("format", FORMATS)
def test_a_name_that_is_taken_gives_way_to_the_next(tmp_path: Path, format: str) -> None:
    for given_name, expected in (("00007-1-a", ["00007-1-a", "00008-1-a", "00009-1-a"]),
                                 ("film", ["film", "film-2", "film-3"])):
        written = [write_film([PICTURE], named(tmp_path, format, given_name), 8) for _ in range(3)]
        assert written == [named(tmp_path, format, stem) for stem in expected]
        assert all(probe(path).frames == 1 for path in written)


def test_a_number_belongs_to_one_film_whatever_its_words(tmp_path: Path) -> None:
    write_film([PICTURE], tmp_path / "00001-1-a.gif", 8)
    assert write_film([PICTURE], tmp_path / "00001-2-b.webp", 8).name == "00002-2-b.webp"


def test_what_lies_at_the_name_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "film.gif").write_text("mine")
    (tmp_path / "dangling.gif").symlink_to(tmp_path / "absent")
    (tmp_path / "film").mkdir()
    write_film([PICTURE], tmp_path / "film.gif", 8)
    write_film([PICTURE], tmp_path / "dangling.gif", 8)
    write_film([PICTURE], tmp_path / "film", 8)
    assert (tmp_path / "film.gif").read_text() == "mine"
    assert names(tmp_path) == ["dangling-2.gif", "dangling.gif", "film", "film-2", "film-2.gif", "film.gif"]
    assert names(tmp_path / "film") == []


CROWD = """
import sys
import numpy as np
from t2v.video import next_path, write_film

for index in range(8):
    path = next_path(sys.argv[1], f"film {sys.argv[2]}", index, ".webp")
    write_film([np.zeros((8, 8, 3), np.uint8)], path, 8)
"""


def test_films_written_at_the_same_time_get_one_number_each(tmp_path: Path) -> None:
    processes = [subprocess.Popen([sys.executable, "-c", CROWD, tmp_path, str(index)], cwd=ROOT) for index in range(3)]
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda seed: write_film([PICTURE], next_path(tmp_path, "", seed, ".webp"), 8), range(8)))
    assert [process.wait() for process in processes] == [0, 0, 0]
    written = list((tmp_path / TODAY).iterdir())
    assert sorted(int(path.name[:5]) for path in written) == list(range(1, 33))
    assert all(probe(path).frames == 1 for path in written)


# Whole or not at all


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("error", [KeyboardInterrupt, GeneratorExit, MemoryShortage, OSError])
def test_what_stops_the_frames_is_passed_on_as_it_is_and_leaves_nothing(
        tmp_path: Path, format: str, error: type[BaseException]) -> None:
    def stopping() -> Iterator[Frame]:
        yield from [PICTURE] * 3
        raise error("stop")

    with pytest.raises(error, match=r"^stop$"):
        write_film(stopping(), named(tmp_path, format), 8)
    assert names(tmp_path) == []


def test_what_closing_the_file_says_does_not_hide_what_stopped_the_frames(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def full(path: Path, _: object) -> Iterator[Callable[[Frame], object]]:
        try:
            yield lambda frame: path.write_bytes(frame)
        finally:
            raise OSError(28, "No space left on device")

    def interrupted() -> Iterator[Frame]:
        yield PICTURE
        raise KeyboardInterrupt

    monkeypatch.setitem(FORMATS, "gif", replace(FORMATS["gif"], writer=full))
    with pytest.raises(KeyboardInterrupt):
        write_film(interrupted(), tmp_path / "film.gif", 8)
    with pytest.raises(FilmError, match="No space left on device"):
        write_film([PICTURE], tmp_path / "film.gif", 8)
    assert names(tmp_path) == []


KILLED = """
import os, signal, sys
import numpy as np
from t2v.video import write_film

def frames():
    for _ in range(20):
        yield np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    os.kill(os.getpid(), signal.SIGKILL)

write_film(frames(), sys.argv[1], 8)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="kills its process with a POSIX signal")
@pytest.mark.parametrize("format", FORMATS)
def test_a_killed_process_leaves_hidden_files_that_are_swept_a_day_later(tmp_path: Path, format: str) -> None:
    killed = subprocess.run([sys.executable, "-c", KILLED, named(tmp_path, format)], cwd=ROOT, check=False)
    assert killed.returncode == -signal.SIGKILL
    left = names(tmp_path)
    assert len(left) == 1
    assert left[0].startswith(".t2v-")

    write_film([PICTURE], named(tmp_path, format, "a"), 8)
    assert left[0] in names(tmp_path)  # another process may still be writing them

    for path in [*(tmp_path / left[0]).iterdir(), tmp_path / left[0]]:
        os.utime(path, (time.time() - 90_000,) * 2)
    (tmp_path / ".hidden-by-others").touch()
    os.utime(tmp_path / ".hidden-by-others", (0, 0))
    write_film([PICTURE], named(tmp_path, format, "b"), 8)
    assert names(tmp_path) == sorted([".hidden-by-others", *(named(tmp_path, format, stem).name for stem in "ab")])


FULL = """
import resource, sys
import numpy as np
from t2v.errors import FilmError
from t2v.video import write_film

rng = np.random.default_rng(0)
frames = [rng.integers(0, 255, (48, 48, 3), np.uint8) for _ in range(4)]
failed = written = 0
for limit in (0, 20, 500, 3000, 7000, 7600, 12_000, 20_000, 28_000, 60_000):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        write_film(frames, sys.argv[1], 8, infotext="x" * 500)
    except FilmError as error:
        assert str(error).startswith(f"{sys.argv[1]}: the film cannot be written: File too large. Look at"), error
        assert "\\n" not in str(error)
        failed += 1
    else:
        written += 1
print(failed, written)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="limits the size of files as POSIX does")
@pytest.mark.parametrize("format", FORMATS)
def test_a_full_disk_is_told_in_one_line_and_spares_the_films_that_are_there(tmp_path: Path, format: str) -> None:
    earlier = write_film([PICTURE] * 4, named(tmp_path, format, "earlier"), 8)
    done = subprocess.run([sys.executable, "-c", FULL, named(tmp_path, format)], cwd=ROOT, check=True,
                          capture_output=True, text=True)
    failed, written = map(int, done.stdout.split())
    assert failed >= 3
    assert written >= 1
    films = [path for path in tmp_path.iterdir() if path != earlier]
    assert len(films) == written
    assert not any(path.name.startswith(".") for path in films)
    assert [probe(path).frames for path in [earlier, *films]] == [4] * (written + 1)


def test_a_folder_that_cannot_be_written_is_told_before_the_first_frame(tmp_path: Path) -> None:
    asked = []

    def frames() -> Iterator[Frame]:
        asked.append(True)
        yield PICTURE

    (tmp_path / "file").touch()
    with pytest.raises(FilmError, match=r"the film cannot be written: .* Look at the free space and the rights of"):
        write_film(frames(), tmp_path / "file" / "film.mp4", 8)
    assert asked == []


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_the_right_to_write_is_told(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(FilmError, match="Permission denied"):
        write_film([PICTURE], tmp_path / "film.mp4", 8)


def test_when_every_name_is_taken_the_film_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("t2v.video.files.TRIES", 2)
    for name in ("film.gif", "film-2.gif"):
        (tmp_path / name).touch()
    with pytest.raises(FilmError, match="no free name"):
        write_film([PICTURE], tmp_path / "film.gif", 8)
    assert names(tmp_path) == ["film-2.gif", "film.gif"]


# The films that there are


def made(folder: Path, *films: str) -> list[Path]:
    """Empty files below `folder`, each a second younger than the one before."""
    for age, film in enumerate(films):
        (folder / film).parent.mkdir(parents=True, exist_ok=True)
        (folder / film).touch()
        os.utime(folder / film, (1_700_000_000 + age,) * 2)
    return [folder / film for film in films]


def test_recent_films_are_the_last_of_the_last_days(tmp_path: Path) -> None:
    films = made(tmp_path, "2026-10-30/00001-1-a.mp4", "2026-11-02/00007-1-b.webm", "2026-11-02/00001-5-c.gif",
                 "2026-11-03/00002-1-a.WEBP", "2026-11-03/best of.mp4")
    assert recent_films(tmp_path, 100) == films[::-1]
    assert recent_films(tmp_path, 3) == films[:1:-1]
    assert recent_films(tmp_path, 0) == recent_films(tmp_path, -1) == []


@pytest.mark.parametrize("format", FORMATS)
def test_a_film_is_recent_as_soon_as_it_is_written_and_frames_in_a_folder_are_none(
        tmp_path: Path, format: str) -> None:
    def frames() -> Iterator[Frame]:
        assert recent_films(tmp_path, 5) == []
        yield PICTURE

    film = write_film(frames(), next_path(tmp_path, "a", 1, FORMATS[format].extension), 8)
    assert recent_films(tmp_path, 5) == ([film] if film.is_file() else [])


def test_what_is_no_finished_film_is_none_of_the_recent_ones(tmp_path: Path) -> None:
    day = tmp_path / TODAY
    (film,) = made(tmp_path, f"{TODAY}/00001-1-a.mp4")
    made(tmp_path, "00001-1.mp4", "holiday/00001-1.mp4", "2026-1-1/00001-1.mp4", f"{TODAY}/.t2v-0a/film.mp4",
         f"{TODAY}/.t2v-00001.claim", f"{TODAY}/._00001-1-a.mp4", f"{TODAY}/00002-1-a.txt", f"{TODAY}/mp4",
         f"{TODAY}/00003-1-a.mp4/film.mp4")
    (day / "00004-1-a.mp4").symlink_to(tmp_path / "absent")
    (tmp_path / "2026-11-01").touch()
    (tmp_path / "2026-11-02").symlink_to(tmp_path / "2026-11-02")
    assert recent_films(tmp_path, 100) == [film]


def test_where_there_is_no_folder_there_are_no_recent_films(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert recent_films(tmp_path / "absent", 5) == recent_films(tmp_path / "file", 5) == []


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="root may read everything")
def test_a_day_that_may_not_be_read_is_left_out(tmp_path: Path) -> None:
    (film, _) = made(tmp_path, "2026-11-01/00001-1.mp4", "2026-11-02/00001-1.mp4")
    (tmp_path / "2026-11-02").chmod(0)
    try:
        assert recent_films(tmp_path, 5) == [film]
    finally:
        (tmp_path / "2026-11-02").chmod(0o700)


def test_older_days_are_not_even_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made(tmp_path, *(f"2026-{month:02d}-01/{number:05d}-1.mp4" for month in range(1, 13) for number in range(1, 4)))
    looked, scandir = [], os.scandir

    def noted(folder: Path) -> object:
        looked.append(folder.name)
        return scandir(folder)

    monkeypatch.setattr(files.os, "scandir", noted)
    assert len(recent_films(tmp_path, 5)) == 5
    assert looked == [tmp_path.name, "2026-12-01", "2026-11-01"]
