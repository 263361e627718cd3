"""Films over HTTP: whole or a part of them, as players ask for, under a name that a browser may save them by.

Old versions of FastAPI send files only whole, so ranges are answered here.
"""

import re
import tempfile
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote

from fastapi import Request, Response
from fastapi.responses import StreamingResponse

from t2v.api.routes import SAFE, Refusal, aside

BLOCK = 256 * 1024
RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")
PLAIN = re.compile(r"[^A-Za-z0-9._-]")


async def sent(path: Path, kind: str, name: str, request: Request) -> Response:
    """The film at `path`, or the part of it that is asked for; a folder of frames as an archive. Refusal (410, 416)."""
    try:
        file, size, tag = await aside(archive if path.is_dir() else opened, path)
    except OSError as error:
        raise Refusal(410, f"the film {name} is not there any more") from error
    headers = {**SAFE, "Accept-Ranges": "bytes", "ETag": tag, "Content-Disposition": disposition(name)}
    fresh = request.headers.get("if-range", tag) == tag
    asked = part(request.headers.get("range", "") if fresh else "", size)
    start, end = asked or (0, size)
    if asked and start >= end:
        file.close()
        raise Refusal(416, f"the film has {size} bytes", {"Content-Range": f"bytes */{size}"})
    if asked:
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
    headers["Content-Length"] = str(end - start)
    if request.method == "HEAD":
        file.close()
        return Response(None, 206 if asked else 200, headers, kind)
    return StreamingResponse(blocks(file, start, end), 206 if asked else 200, headers, kind)


def opened(path: Path) -> tuple[BinaryIO, int, str]:
    """A file to read, its size, and a tag that changes with it."""
    status = path.stat()
    return path.open("rb"), status.st_size, f'"{status.st_mtime_ns:x}-{status.st_size:x}"'


def archive(folder: Path) -> tuple[BinaryIO, int, str]:
    """The frames of a folder in one file, which is gone when it is closed. It is the same each time."""
    file = tempfile.TemporaryFile()  # noqa: SIM115
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as pack:
        for frame in sorted(folder.glob("*.png")):
            pack.writestr(zipfile.ZipInfo(frame.name), frame.read_bytes())
    size = file.tell()
    return file, size, f'"{folder.stat().st_mtime_ns:x}-{size:x}"'


def part(header: str, size: int) -> tuple[int, int] | None:
    """From where to where a Range header asks for, nothing if that lies outside; None where it asks for no one part."""
    found = RANGE.fullmatch(header.strip())
    if not found or not (found[1] or found[2]):
        return None
    if not found[1]:
        return max(0, size - int(found[2])), size
    if found[2] and int(found[2]) < int(found[1]):
        return None
    return int(found[1]), min(int(found[2]) + 1, size) if found[2] else size


async def blocks(file: BinaryIO, start: int, end: int) -> AsyncIterator[bytes]:
    """The bytes of a file, read aside."""
    try:
        file.seek(start)
        while start < end and (block := await aside(file.read, min(BLOCK, end - start))):
            start += len(block)
            yield block
    finally:
        file.close()


def disposition(name: str) -> str:
    """A file name for a header: plain letters for old programs, all of it for others."""
    return f"inline; filename=\"{PLAIN.sub('_', name)}\"; filename*=UTF-8''{quote(name, safe='')}"
