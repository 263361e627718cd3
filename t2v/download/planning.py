"""What a download would do, and where its bytes gather until all are there."""

import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from errno import EACCES, EDQUOT, ENOSPC, EPERM, EROFS
from pathlib import Path

from t2v.download import hub
from t2v.download.catalogue import Known, find
from t2v.download.hub import Remote
from t2v.errors import DownloadError

RESERVE = 100 * 2**20  # bytes of disk that a download leaves to others


@dataclass(frozen=True)
class Plan:
    """What a download would do: `missing` is to be fetched, `kept` is there, `foreign` is there but another file."""

    model: Known
    target: Path
    missing: tuple[Remote, ...]
    kept: tuple[Remote, ...]
    foreign: tuple[Remote, ...]
    begun: int  # bytes of the missing that an earlier download has brought
    free: int  # bytes on the disk

    @property
    def page(self) -> str:
        """Where a person reads about the model, and its terms."""
        return hub.page(self.model.repository)

    @property
    def size(self) -> int:
        """Bytes still to come."""
        return sum(file.size for file in self.missing) - self.begun

    @property
    def fits(self) -> bool:
        return self.size == 0 or self.size + RESERVE <= self.free


def plan(name: str, folder: Path) -> Plan:
    """What it takes to have the model `name` in its place below `folder`. Asks the hub; DownloadError if it fails."""
    model = find(name)
    target = (folder / model.folder).resolve()  # where a link to another disk leads, there is the room that counts
    with disk_in_words(target):
        if target.exists() and not target.is_dir():
            raise DownloadError(f"{target}: is in the way, and no folder. Rename it, or choose another place")
        files = {remote: size_of(target / remote.name) for remote in published(model)}
        missing = tuple(remote for remote, size in files.items() if size is None)
        kept = tuple(remote for remote, size in files.items() if size == remote.size)
        foreign = tuple(remote for remote, size in files.items() if size not in (None, remote.size))
        return Plan(model, target, missing, kept, foreign, begun(target, missing), free_disk(target))


def published(model: Known) -> Iterator[Remote]:
    """The files of a model as the hub has them now, all of one moment. DownloadError where one is not what we know."""
    revision = None
    for name, listed in model.files.items():
        remote = hub.look_up(model.repository, name, revision)
        revision = revision or remote.commit or None
        if listed.sha256 and len(remote.etag) == 64 and remote.etag != listed.sha256:
            raise DownloadError(f"{name} at {hub.page(model.repository)} is not the file that we know by that name. "
                                "Look there for what happened; if you trust it, fetch it with a browser")
        yield remote


def renewed(plan: Plan) -> Plan:
    """The plan without what somebody else has brought since it was made, and with the room there is now."""
    missing = tuple(remote for remote in plan.missing if not (plan.target / remote.name).exists())
    return replace(plan, missing=missing, begun=begun(plan.target, missing), free=free_disk(plan.target))


def staging(target: Path) -> Path:
    """The hidden folder where a model gathers."""
    return target.parent / f".{target.name}.download"


def part(target: Path, remote: Remote) -> Path:
    """Where the bytes of a file gather."""
    version = "".join(filter(str.isalnum, remote.etag))[:16]
    return staging(target) / f"{remote.name.replace('/', '-')}.{version}.part"


@contextmanager
def disk_in_words(target: Path) -> Iterator[None]:
    """Says what the disk has against us, and what to do."""
    try:
        yield
    except OSError as error:
        path = error.filename or target
        if error.errno in (ENOSPC, EDQUOT):
            raise DownloadError(f"{path}: the disk is full. Make room, then run it again: it goes on where it was"
                                ) from error
        if error.errno in (EACCES, EPERM, EROFS):
            raise DownloadError(f"{path}: no permission. Allow it, or choose another folder for models") from error
        raise DownloadError(f"{path}: cannot be written ({error.strerror or error})") from error


def begun(target: Path, missing: Iterable[Remote]) -> int:
    """Bytes of the missing files that have come already."""
    return sum(size_of(part(target, remote)) or 0 for remote in missing)


def size_of(path: Path) -> int | None:
    return path.stat().st_size if path.exists() else None


def free_disk(path: Path) -> int:
    """Bytes free where `path` is, or will be."""
    return shutil.disk_usage(next(folder for folder in (path, *path.parents) if folder.is_dir())).free
