"""A hub of models on this machine, with every way to fail that a real one has.

It speaks what huggingface_hub asks for: HEAD and GET of /REPOSITORY/resolve/REVISION/FILE, with the commit, and a hash
as ETag. Small files are answered there, after one relative redirect; large ones are at another host ("localhost" beside
127.0.0.1), whose address and hash the first answer tells, and which knows ranges.
"""

import hashlib
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "c0ffee" + "0" * 34
LARGE = 1000  # bytes from which a file is stored apart
BLOCK = 4096


@dataclass
class Asked:
    """A request that came."""

    method: str
    name: str  # of the file
    host: str
    start: int
    token: str
    sent: int = 0  # bytes of the body


@dataclass
class Hub:
    """What the hub has, how it misbehaves, and what it was asked. `file` below is a name without the repository."""

    port: int = 0
    files: dict[str, bytes] = field(default_factory=dict)  # "owner/repository/file": content
    status: dict[str, int] = field(default_factory=dict)  # file: the HTTP status that it is refused with
    token: str = ""  # who has none is refused
    cuts: dict[str, list[int]] = field(default_factory=dict)  # file: bytes after which each next answer breaks off
    false: dict[str, bytes] = field(default_factory=dict)  # file: what is sent in its stead
    ranges: bool = True
    slow: float = 0.0  # seconds before each block
    asked: list[Asked] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def add(self, repository: str, files: dict[str, bytes]) -> None:
        self.files |= {f"{repository}/{name}": content for name, content in files.items()}

    def sent(self, name: str) -> list[tuple[int, int]]:
        """Where each answer with content of a file began, and how much of it was sent."""
        return [(asked.start, asked.sent) for asked in self.asked
                if asked.method == "GET" and asked.name == name and asked.sent]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: "Server"

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def log_message(self, *_: object) -> None:
        pass

    def answer(self) -> None:
        hub, path = self.server.hub, unquote(urlsplit(self.path).path)  # a proxy is asked for a whole address
        if path.startswith("/elsewhere/"):
            repository, name = path.removeprefix("/elsewhere/").split("//")
        else:
            repository, _, rest = path.removeprefix("/api/resolve-cache").strip("/").partition("/resolve/")
            name = rest.partition("/")[2]
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")[0])
        asked = Asked(self.command, name, self.headers["Host"], start, self.headers.get("Authorization", ""))
        hub.asked.append(asked)
        content = hub.files.get(f"{repository}/{name}")
        apart = path.startswith("/elsewhere/")
        if not apart and hub.token and asked.token != f"Bearer {hub.token}":
            self.reply(401, {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access is restricted"})
        elif name in hub.status:
            self.reply(hub.status[name], {})
        elif content is None:
            self.reply(404, {"X-Error-Code": "EntryNotFound"})
        elif apart:
            self.send_content(content, asked)
        elif len(content) >= LARGE:
            self.reply(302, {"Location": f"http://localhost:{hub.port}/elsewhere/{repository}//{name}",
                             "X-Linked-Size": str(len(content)), "X-Linked-Etag": f'"{sha256(content)}"',
                             "X-Repo-Commit": COMMIT, "ETag": '"of-the-redirect"'})
        elif not path.startswith("/api/"):
            self.reply(307, {"Location": f"/api/resolve-cache/{repository}/resolve/{COMMIT}/{name}"})
        else:
            self.send_content(content, asked, {"ETag": f'W/"{git_hash(content)}"', "X-Repo-Commit": COMMIT})

    def reply(self, status: int, headers: dict[str, str], size: int = 0) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(size)} | headers).items():
            self.send_header(name, value)
        self.end_headers()

    def send_content(self, content: bytes, asked: Asked, headers: dict[str, str] | None = None) -> None:
        hub = self.server.hub
        start = asked.start if hub.ranges else 0
        body = hub.false.get(asked.name, content)[start:]
        headers = dict(headers or {})
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        self.reply(206 if start else 200, headers, len(body))
        if asked.method == "HEAD":
            return
        cuts = hub.cuts.get(asked.name, [])
        limit = cuts.pop(0) if cuts else len(body)
        for begin in range(0, min(limit, len(body)), BLOCK):
            time.sleep(hub.slow)
            block = body[begin:min(begin + BLOCK, limit)]
            try:
                self.wfile.write(block)
            except OSError:  # nobody listens any more
                self.close_connection = True
                return
            asked.sent += len(block)
        self.close_connection = limit < len(body)


class Server(ThreadingHTTPServer):
    daemon_threads = True
    hub: Hub


@contextmanager
def running() -> Iterator[Hub]:
    """A hub for as long as the block lasts."""
    with Server(("127.0.0.1", 0), Handler) as server:
        server.hub = Hub(server.server_address[1])
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server.hub
        finally:
            server.shutdown()
            thread.join()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def git_hash(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def write_catalogue(path: Path, name: str, repository: str, files: dict[str, bytes]) -> None:
    """A catalogue of one model, in the place of the real one."""
    listed = {file: {"size": len(content)} for file, content in files.items()}
    path.write_text(json.dumps({name: {"about": "a model", "repository": repository, "folder": name, "files": listed,
                                       "licence": "cc-by-nc-4.0"}}), encoding="utf-8")
