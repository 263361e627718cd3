"""Files that a request starts from: sent along, or named by paths that stay inside the host's folders.

A path is looked at only after its spelling has passed, for asking the system about some spellings already opens a
connection (UNC names) or waits for ever (devices). What is outside and what is not there are refused alike.
"""

import base64
import binascii
import io
import re
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image, UnidentifiedImageError

from t2v.errors import FilmError, RequestError
from t2v.hosts import Host
from t2v.request import shown
from t2v.video import read_film

PLACES = ("pictures", "film", "mask", "soundtrack")  # settings that name files
SEEN = ("pictures", "film", "mask")  # of these, those with pictures in them
HELD = re.compile(r"(\s*-?\d+\s*:\s*)?(.*)", re.DOTALL)  # of pictures: a frame, and what it shows
SCHEME = re.compile(r"[a-z][a-z0-9+.-]+:", re.IGNORECASE)  # two letters and more, for C: is a disk
DATA = re.compile(r"data:[^,]*;base64,", re.IGNORECASE)
MAX_PIXELS = 50_000_000  # of a picture
STALE = 24 * 3600  # seconds after which nobody waits for an upload any more
SUFFIX = re.compile(r"\.[a-z0-9]{1,8}", re.IGNORECASE)


class Inbox:
    """The uploads of one call, in a folder that is made with the first and removed with `close`."""

    def __init__(self, parent: Path) -> None:
        self.folder = parent / secrets.token_hex(8)

    def add(self, field: str, file: BinaryIO, name: str = "") -> Path:
        """A file that came with the call, checked. RequestError where it is not what `field` takes."""
        self.folder.mkdir(parents=True, exist_ok=True)
        suffix = SUFFIX.fullmatch(Path(name.replace("\\", "/")).suffix)
        path = self.folder / f"{field}-{len(list(self.folder.iterdir())) + 1}{suffix[0].lower() if suffix else ''}"
        with path.open("xb") as copy:
            shutil.copyfileobj(file, copy)
        check(field, path)
        return path

    def close(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


def sweep(parent: Path) -> None:
    """Removes what killed programs have left."""
    with suppress(OSError):
        for folder in parent.iterdir():
            if time.time() - folder.stat().st_mtime > STALE:
                shutil.rmtree(folder, ignore_errors=True)


def decoded(text: str, field: str) -> bytes:
    """What a data URI, or base64 alone, stands for."""
    try:
        letters = "".join(DATA.sub("", text, count=1).strip().splitlines())
        return base64.b64decode(letters.replace(" ", "+"), validate=True)  # a query turns + into spaces
    except (binascii.Error, ValueError) as error:
        raise RequestError(field, "is no base64; send the file as a part of a form or as data:...;base64,…") from error


def check(field: str, path: Path) -> None:
    """RequestError for a picture or film that cannot be read, or is meant to fill the memory."""
    if field not in SEEN:
        return
    try:
        with Image.open(path) as picture:
            if picture.width * picture.height * getattr(picture, "n_frames", 1) > MAX_PIXELS:
                raise RequestError(field, f"is too large: more than {MAX_PIXELS // 10**6} million pixels")
            picture.verify()
    except UnidentifiedImageError:
        if field == "pictures":
            raise RequestError(field, "is no picture that can be read") from None
        check_film(field, path)
    except Image.DecompressionBombError as error:
        raise RequestError(field, f"is too large: more than {MAX_PIXELS // 10**6} million pixels") from error
    except (OSError, SyntaxError, ValueError) as error:
        raise RequestError(field, "is damaged, or no picture") from error


def check_film(field: str, path: Path) -> None:
    """RequestError for a film without a frame that can be shown, or with one that is meant to fill the memory."""
    try:
        found, frames = read_film(path)
        if found.width * found.height > MAX_PIXELS:
            raise RequestError(field, f"is too large: its frames have more than {MAX_PIXELS // 10**6} million pixels")
        first = next(frames, None)
    except FilmError as error:
        raise RequestError(field, "is damaged, or no film or picture that can be read") from error
    if first is None:
        raise RequestError(field, "has no frame in it")


def place(values: dict[str, Any], host: Host, inbox: Inbox) -> None:
    """Puts into the values that name files the paths of files that may be used. RequestError for all others."""
    for field in PLACES:
        text = values.get(field)
        if isinstance(text, str) and text.strip():
            items = text.split("|") if field == "pictures" else [text]
            values[field] = " | ".join(settled(item, field, host, inbox) for item in items)


def settled(item: str, field: str, host: Host, inbox: Inbox) -> str:
    """One file of a value; before it, of pictures, may stand the frame that it is for."""
    found = HELD.fullmatch(item) if field == "pictures" else None
    frame, text = (found[1] or "", found[2].strip()) if found else ("", item.strip())
    if DATA.match(text):
        return frame + str(inbox.add(field, io.BytesIO(decoded(text, field))))
    if inbox.folder in Path(text).parents:
        return frame + text
    return frame + str(confined(text, field, host.input_folders))


def confined(text: str, field: str, folders: Iterable[Path]) -> Path:
    """The file that `text` names, inside one of `folders` also when links are followed."""
    if SCHEME.match(text) and not Path(text).drive:
        raise RequestError(field, f"nothing is fetched from addresses; send the file along, not {shown(text)}")
    refusal = RequestError(field, f"there is no {shown(text)} among the films and inputs of this server; send it along")
    if "\0" in text or "\\" in text or text.startswith("//") or any(ord(char) < 32 for char in text):
        raise refusal
    for folder in folders:
        with suppress(OSError, ValueError, RuntimeError):
            root = folder.resolve(strict=True)
            path = (root / text).resolve(strict=True)
            mode = path.stat().st_mode
            if path.is_relative_to(root) and path != root and (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                if any(part.startswith(".") for part in path.relative_to(root).parts):
                    break  # what is hidden is ours: the list of jobs, uploads of others
                check_named(field, path)
                return path
    raise refusal


def check_named(field: str, path: Path) -> None:
    """As for uploads; a folder is one of frames."""
    if path.is_file():
        check(field, path)


def publisher(host: Host) -> Callable[[str], str]:
    """A function that takes out of texts the folders of uploads and, where the host wants that, any folder. The host is
    asked once for all texts, since in a web UI its answers cost something."""
    upload = re.compile(re.escape(str(hidden(host) / "uploads")) + r"[\\/]+[0-9a-f]{16}[\\/]+")
    private = {str(folder): folder.name for folder in [*host.input_folders, *host.model_folders]} \
        if host.private_folders else {}
    longest = sorted(private, key=len, reverse=True)

    def public(text: str) -> str:
        text = upload.sub("", text)
        for folder in longest:
            text = text.replace(folder, private[folder])
        return text

    return public


def public(text: str, host: Host) -> str:
    """One text, without those folders."""
    return publisher(host)(text)


def hidden(host: Host) -> Path:
    """Where we keep what is ours."""
    return host.outputs.absolute() / ".text2video"
