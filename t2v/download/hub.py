"""The hub of models: what a file there is, and its bytes from some place on.

A web UI brings the huggingface_hub it wants, from 0.25, which stands on requests, to the newest, which stands on
httpx. What is used here, all of them have: addresses, headers with the user's token, the session with proxies, the
word of HF_HUB_OFFLINE. Their own downloaders know no way to stop, and take a cut connection each in its own way.
"""

import hashlib
import os
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, cast

from huggingface_hub import constants, get_hf_file_metadata, get_session, hf_hub_url
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined, unused-ignore]

from t2v import __version__
from t2v.errors import DownloadError

NAME = "sd-webui-t2v"
CHUNK = 2**14  # bytes: requests hands on no less, and loses what of it came before a cut
# requests' errors are OSErrors; those of httpx have a root of their own, which is that of the hub's errors.
NETWORK = cast(tuple[type[Exception], ...], (OSError, *HfHubHTTPError.__bases__))


class Digest(Protocol):
    """What hashlib makes."""

    def update(self, data: bytes, /) -> None: ...

    def hexdigest(self) -> str: ...


class Cut(DownloadError):
    """The hub did not answer, or stopped in the middle: worth another try."""


@dataclass(frozen=True)
class Remote:
    """A file of the hub. `etag` is the sha256 of a large one; of a small one, what git calls it."""

    name: str
    repository: str
    url: str
    size: int
    etag: str
    commit: str

    def digest(self) -> Digest | None:
        """What bytes are fed to, to see whether they are this file's; None where a mirror tells no such thing."""
        if not set(self.etag) <= set("0123456789abcdef") or len(self.etag) not in (40, 64):
            return None
        if len(self.etag) == 64:
            return hashlib.sha256()
        return hashlib.sha1(b"blob %d\0" % self.size, usedforsecurity=False)


def page(repository: str) -> str:
    """Where a person reads about a repository, and accepts its terms."""
    return f"{endpoint() or constants.ENDPOINT}/{repository}"


def endpoint() -> str | None:
    """The user's mirror; None for the hub itself."""
    return os.environ.get("HF_ENDPOINT", "").rstrip("/") or None


def look_up(repository: str, name: str, revision: str | None = None) -> Remote:
    """What the file `name` is. DownloadError where there is none, or it is not for us."""
    url = hf_hub_url(repository, name, revision=revision, endpoint=endpoint())
    with in_words(repository, name):
        found = get_hf_file_metadata(url, library_name=NAME, library_version=__version__)
    if found.size is None or not found.etag:
        raise DownloadError(f"{page(repository)} does not tell the size of {name}. Is HF_ENDPOINT a hub of models?")
    if found.commit_hash:  # so that nothing changes under a download
        url = hf_hub_url(repository, name, revision=found.commit_hash, endpoint=endpoint())
    return Remote(name, repository, url, found.size, found.etag, found.commit_hash or "")


def chunks(remote: Remote, start: int) -> Generator[bytes, None, None]:
    """The bytes of a file from `start` on, as they come. Cut where they end before the file does."""
    headers = build_hf_headers(library_name=NAME, library_version=__version__) | {"Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    with in_words(remote.repository, remote.name), requested(remote.url, headers) as (status, body):
        if status >= 400:
            raise refused(status, remote.repository, remote.name)
        early = start if status == 200 else 0  # of a server that knows no ranges, and begins at the beginning
        for chunk in body():
            if len(chunk) > early:
                yield chunk[early:]
            early = max(0, early - len(chunk))


@contextmanager
def requested(url: str, headers: dict[str, str]) -> Iterator[tuple[int, Callable[[], Iterator[bytes]]]]:
    """The answer to a GET: its status, and its body for whoever calls for it."""
    session: Any = get_session()
    timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT
    if callable(getattr(session, "stream", None)):  # httpx
        with session.stream("GET", url, headers=headers, timeout=timeout, follow_redirects=True) as answer:
            yield answer.status_code, answer.iter_bytes
    else:  # requests
        with session.get(url, headers=headers, timeout=timeout, stream=True) as answer:
            yield answer.status_code, lambda: answer.iter_content(CHUNK)


@contextmanager
def in_words(repository: str, name: str) -> Iterator[None]:
    """Says what the network has against us, and what to do."""
    try:
        yield
    except OfflineModeIsEnabled as error:
        raise DownloadError("nothing is downloaded, because HF_HUB_OFFLINE is set. Unset it and try again") from error
    except NETWORK as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status is not None:
            raise refused(status, repository, name) from error
        raise Cut(f"no connection to {page(repository)} ({type(error).__name__}: {str(error)[:200]}). Check the "
                  "network and HTTPS_PROXY, then run it again: it goes on where it was") from error


def refused(status: int, repository: str, name: str) -> DownloadError:
    """What an HTTP status means for the file `name`."""
    if status in (401, 403):
        return DownloadError(f"{page(repository)} does not let us have {name} (HTTP {status}): it is private, gone, "
                             "or asks for its terms to be accepted. Open that page, then set HF_TOKEN to a token of "
                             "your account")
    if status == 404:
        return DownloadError(f"{page(repository)} has no {name} (HTTP 404): it was moved or removed. Look there for "
                             "what became of it")
    if status == 429 or status >= 500:
        return Cut(f"{page(repository)} is too busy (HTTP {status}). Run it again later: it goes on where it was")
    return DownloadError(f"{page(repository)} does not give {name} (HTTP {status})")
