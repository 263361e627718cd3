"""Small looks at files: their first bytes, and JSON."""

import json
import stat
from pathlib import Path
from typing import Any

from t2v.errors import ModelError

AGAIN = "Download it again"
MAX_JSON = 100_000  # bytes; the longest configuration there is has some 2,000


def head_of(path: Path, size: int = 512) -> bytes:
    """The first bytes of a file; ModelError where there is no file to read."""
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            raise ModelError(path, f"is a {'folder' if stat.S_ISDIR(mode) else 'device'}, not a file", "Move it away")
        with path.open("rb") as file:
            return file.read(size)
    except FileNotFoundError as error:
        raise ModelError(path, "is not there", "Put the file there, or choose another model") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ModelError(path, f"cannot be read ({reason})", "Look at its permissions and at the disk") from error


def read_json(path: Path, limit: int = MAX_JSON) -> Any:
    """What a JSON file of at most `limit` bytes says. ModelError where it is no such file."""
    try:
        return json.loads(_text(path, limit))
    except (json.JSONDecodeError, RecursionError) as error:
        place = f", line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        raise ModelError(path, f"is not valid JSON{place}", AGAIN) from error
    except ValueError as error:  # a number of thousands of digits
        raise ModelError(path, "holds a number that is none", AGAIN) from error


def _text(path: Path, limit: int) -> str:
    content = head_of(path, limit + 1)
    if content.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
        raise ModelError(path, "is a web page, not JSON", "Download the file itself, with the page's download button")
    if len(content) > limit:
        raise ModelError(path, "is far too long for what it should be", AGAIN)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ModelError(path, "is not text", AGAIN) from error
