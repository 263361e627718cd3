"""Where films lie: their names, and how a file appears under its name only once it is whole.

A film is written in a hidden folder of its own, in the folder where it will lie (`draft`), and renamed at the end
(`publish`). Nothing is ever overwritten: a name that is taken gives way to the next free one. A process that is
killed leaves at most hidden files, which the next film in that folder sweeps away once they are a day old.
"""

import itertools
import os
import re
import secrets
import shutil
import stat
import time
import unicodedata
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from datetime import date
from pathlib import Path

from t2v.errors import FilmError
from t2v.video.base import writing

HIDDEN = ".t2v-"
STALE_SECONDS = 24 * 3600
SLUG_BYTES = 100  # a file name may have 255 bytes, on encrypted folders 143
NUMBER = re.compile(r"(\d{5,6})(?=-)")
DAY = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
TRIES = 1000


def next_path(folder: Path | str, prompt: str, seed: int, extension: str) -> Path:
    """A dated and numbered name, free for now: `folder/2026-11-22/00003-1234567-a-red-circle.mp4`.

    Numbers run per day. Nothing is created; `publish` moves on to the next number should the name be taken by then.
    """
    day = Path(folder) / date.today().isoformat()
    words = slug(prompt)
    return day / f"{_last_number(day) + 1:05d}-{seed}{'-' if words else ''}{words}{extension}"


def slug(prompt: str) -> str:
    """The words of `prompt` for a file name on any system: letters and digits of every script, joined by hyphens."""
    text = unicodedata.normalize("NFC", prompt).lower()
    kept = "".join(char if unicodedata.category(char)[0] in "LMN" else " " for char in text)
    return "-".join(kept.split()).encode()[:SLUG_BYTES].decode(errors="ignore").strip("-")


def newest(folder: Path, count: int, extensions: Collection[str]) -> list[Path]:
    """The last `count` files with one of `extensions` in the dated folders of `folder`, the newest first.

    Days are gone back to only as far as needed. What cannot be read is left out.
    """
    days = sorted((path for path, _ in _entries(folder) if DAY.fullmatch(path.name)), reverse=True)
    films = (film for day in days for film in _films(day, extensions))
    return list(itertools.islice(films, max(0, count)))


def _films(day: Path, extensions: Collection[str]) -> list[Path]:
    """The visible files of a day with one of `extensions`, the newest first."""
    found = [(status.st_mtime_ns, path) for path, status in _entries(day)
             if stat.S_ISREG(status.st_mode) and path.suffix.lower() in extensions and not path.name.startswith(".")]
    return [path for _, path in sorted(found, reverse=True)]


def _entries(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """What is in `folder`, as far as it is there and may be read."""
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            with suppress(OSError):  # a link to nowhere, or a file that has just gone
                yield folder / entry.name, entry.stat()


@contextmanager
def draft(path: Path) -> Iterator[Path]:
    """Where to write the film `path`: in a hidden folder beside it, which is gone when the block is left."""
    hidden = path.parent.absolute() / f"{HIDDEN}{secrets.token_hex(8)}"
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path.parent)
        hidden.mkdir()
    try:
        yield hidden / "film"
    finally:
        _remove(hidden)


def publish(hidden: Path, path: Path) -> Path:
    """Give the finished file or folder `hidden` the name `path`, or the next free one; the name it got.

    A claim, a file that only one process can create, keeps two films from taking one number at the same time.
    """
    with writing(path):
        _flush_to_disk(hidden)
        for candidate in itertools.islice(_candidates(path), TRIES):
            if _renamed(hidden, candidate):
                return candidate
    raise FilmError(f"{path}: no free name was found for the film in its folder. Choose another folder.")


def _renamed(hidden: Path, path: Path) -> bool:
    """Rename `hidden` to `path`, unless that name is taken or another process has claimed it."""
    claim = path.parent / f"{HIDDEN}{_claimed(path)}.claim"
    try:
        claim.touch(exist_ok=False)
    except (FileExistsError, PermissionError):  # Windows says PermissionError while the claim is being removed
        return False
    try:
        if _taken(path):
            return False
        hidden.rename(path)
        return True
    finally:
        claim.unlink()


def _candidates(path: Path) -> Iterator[Path]:
    """`path`, then with the numbers that follow: 00004-a.mp4, 00005-a.mp4, ...; or film-2.mp4, film-3.mp4, ..."""
    yield path
    if numbered := NUMBER.match(path.name):
        rest = path.name[numbered.end():]
        first = max(int(numbered[1]), _last_number(path.parent)) + 1
        yield from (path.with_name(f"{number:05d}{rest}") for number in itertools.count(first))
    yield from (path.with_name(f"{path.stem}-{number}{path.suffix}") for number in itertools.count(2))


def _claimed(path: Path) -> str:
    """What a claim is about: the running number where the name has one, else the name."""
    numbered = NUMBER.match(path.name)
    return numbered[1] if numbered else path.name


def _taken(path: Path) -> bool:
    numbered = NUMBER.match(path.name)
    return int(numbered[1]) in _numbers(path.parent) if numbered else os.path.lexists(path)


def _numbers(folder: Path) -> set[int]:
    names = os.listdir(folder) if folder.is_dir() else []
    return {int(found[1]) for found in map(NUMBER.match, names) if found}


def _last_number(folder: Path) -> int:
    return max(_numbers(folder), default=0)


def _flush_to_disk(written: Path) -> None:
    """Have the system store the file, or every file of the folder, before its name says that it is whole."""
    for path in sorted(written.iterdir()) if written.is_dir() else [written]:
        with open(path, "rb+") as file:
            os.fsync(file.fileno())


def _sweep(folder: Path) -> None:
    """Remove what killed processes left in `folder`, a day later."""
    for path in folder.glob(f"{HIDDEN}*"):
        with suppress(OSError):  # another process may sweep too
            inside = path.iterdir() if path.is_dir() else ()
            if time.time() - max(part.stat().st_mtime for part in (path, *inside)) > STALE_SECONDS:
                _remove(path)


def _remove(path: Path) -> None:
    with suppress(OSError):  # a file that cannot be removed now is swept away later
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
