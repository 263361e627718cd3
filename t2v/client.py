"""A client of the API in one file, which stands on the standard library alone and may be copied anywhere.

    from t2v.client import Client

    client = Client("http://127.0.0.1:7861", "anna", "secret")
    for film in client.generate(prompt="a red circle moving right", seed=7):
        print(film.save("films"))

    job = client.submit(prompt="a blue square moving up", pictures=Path("first.png"))
    for status in job.follow():
        print(f"{status['progress']:.0%} {status['text']}")
"""

import base64
import json
import mimetypes
import secrets
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

OVER = ("done", "interrupted", "failed")
TRIES = 3  # of a call that the net has swallowed


class ApiError(Exception):
    """The server refused: `status` is that of HTTP, the text says why."""

    def __init__(self, status: int, reason: str) -> None:
        self.status = status
        super().__init__(reason)


class Client:
    """A server with Text2Video, by its URL; with a name and a password where it asks for them."""

    def __init__(self, url: str, user: str = "", password: str = "", timeout: float = 60.0) -> None:
        self.url, self.timeout = url.rstrip("/"), timeout
        self.headers = {"Accept": "application/json"}
        if user:
            self.headers["Authorization"] = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()

    def submit(self, **settings: Any) -> "Job":
        """A job that makes films of these settings, those of `t2v generate`. A file is given as a `Path`, and sent.

        ApiError says what is wrong. A call that got lost is made again, and makes no second film.
        """
        sent = {name: data_uri(value) if isinstance(value, Path) else value for name, value in settings.items()}
        key = {"Idempotency-Key": secrets.token_hex(16)}
        return Job(self, self.call("POST", "/t2v/v1/jobs", sent, key))

    def generate(self, **settings: Any) -> list["Film"]:
        """The films of these settings, when they are made. ApiError where it fails."""
        return self.submit(**settings).wait().films

    def job(self, id: str) -> "Job":
        """A job by its id, also one of an earlier day."""
        return Job(self, self.call("GET", f"/t2v/v1/jobs/{urllib.parse.quote(id, safe='')}"))

    def jobs(self) -> list["Job"]:
        """The jobs of late, the newest first."""
        return [Job(self, status) for status in self.call("GET", "/t2v/v1/jobs")["jobs"]]

    def plan(self, **settings: Any) -> dict[str, Any]:
        """What a film would need: bytes, and a sentence about them."""
        return self.call("POST", "/t2v/v1/plan", settings)

    def get(self, what: str) -> dict[str, Any]:
        """What there is: "models", "samplers", "formats", "schema", "version", "doctor" or "downloads"."""
        return self.call("GET", f"/t2v/v1/{what}")

    def call(self, method: str, path: str, body: Mapping[str, Any] | None = None,
             headers: Mapping[str, str] | None = None) -> dict[str, Any]:
        """One call of the API."""
        content = json.dumps(body).encode() if body is not None else None
        kind = {"Content-Type": "application/json"} if content else {}
        return json.loads(self.fetch(method, path, content, {**kind, **(headers or {})}) or b"{}")

    def fetch(self, method: str, path: str, content: bytes | None = None,
              headers: Mapping[str, str] | None = None) -> bytes:
        """What a path answers. ApiError where it refuses, OSError where nobody answers."""
        call = urllib.request.Request(self.url + path, content, {**self.headers, **(headers or {})}, method=method)
        again = method == "GET" or "Idempotency-Key" in (headers or {})
        for left in reversed(range(TRIES if again else 1)):
            try:
                with urllib.request.urlopen(call, timeout=self.timeout) as answer:
                    return bytes(answer.read())
            except urllib.error.HTTPError as error:
                with error:
                    raise ApiError(error.code, reason(error.read())) from error
            except OSError:
                if not left:
                    raise
                time.sleep(0.5)
        raise AssertionError("not reached")


@dataclass
class Job:
    """Films on their way. `status` is what was last heard of them."""

    client: Client
    status: dict[str, Any]

    @property
    def id(self) -> str:
        return str(self.status["id"])

    @property
    def state(self) -> str:
        """queued, running, done, interrupted or failed."""
        return str(self.status["state"])

    @property
    def films(self) -> list["Film"]:
        """The films that there are by now."""
        return [Film(self.client, **{name: film[name] for name in ("url", "name", "type", "seed", "infotext")})
                for film in self.status["films"]]

    def refresh(self) -> "Job":
        """Asks how far it is."""
        self.status = self.client.call("GET", f"/t2v/v1/jobs/{self.id}")
        return self

    def follow(self, every: float = 0.5) -> Iterator[dict[str, Any]]:
        """The status, every so many seconds until the job is over; the last one is the end."""
        yield self.status
        while self.state not in OVER:
            time.sleep(every)
            yield self.refresh().status

    def wait(self, every: float = 0.5) -> "Job":
        """Until the job is over. ApiError if it failed."""
        for _ in self.follow(every):
            pass
        if self.state == "failed":
            raise ApiError(500, str(self.status["error"]))
        return self

    def cancel(self) -> "Job":
        """Ends it; what can be seen by now becomes a film."""
        self.status = self.client.call("POST", f"/t2v/v1/jobs/{self.id}/cancel")
        return self

    def delete(self) -> None:
        """Has the server forget it. The films stay there."""
        self.client.call("DELETE", f"/t2v/v1/jobs/{self.id}")

    def preview(self) -> bytes:
        """What the film looks like by now, as an animated WebP. ApiError while there is nothing to see."""
        return self.client.fetch("GET", f"/t2v/v1/jobs/{self.id}/preview")


@dataclass
class Film:
    """A film on the server."""

    client: Client
    url: str
    name: str
    type: str
    seed: int
    infotext: str

    def read(self) -> bytes:
        """All of it."""
        return self.client.fetch("GET", self.url)

    def save(self, folder: Path | str = ".") -> Path:
        """Writes it into a folder under its own name; where it is now."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        path = Path(folder) / PurePosixPath(self.name.replace("\\", "/")).name
        path.write_bytes(self.read())
        return path


def data_uri(path: Path) -> str:
    """A file as text, as the API takes it."""
    kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


def reason(body: bytes) -> str:
    """Why a server refuses, in one sentence."""
    try:
        said = json.loads(body)
        return str(said.get("errors") or said.get("detail") or said)
    except (ValueError, AttributeError):
        return body.decode(errors="replace").strip()[:500]
