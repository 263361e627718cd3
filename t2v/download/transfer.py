"""Does what a plan says: fetches, checks, and moves into place what is whole."""

import logging
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock, Timeout

from t2v.download import hub
from t2v.download.hub import Digest, Remote
from t2v.download.planning import Plan, disk_in_words, part, renewed, staging
from t2v.errors import DownloadError

log = logging.getLogger(__name__)
TRIES = 5  # in a row without a single byte
PAUSE = 1.0  # seconds before the second try, twice as long before each further one
TICK = 0.1  # seconds between two words on the progress
BLOCK = 2**20
LOCK, WHOLE = "lock", "whole"  # in the hidden folder


@dataclass(frozen=True)
class Progress:
    """How far a download is. `stage` is "check" while a user's files are read, then "fetch"; `speed` in bytes/s of what
    comes over the network."""

    stage: str
    file: str
    done: int
    total: int
    speed: float


class Watch:
    """How a caller follows a download. Setting `stopped` ends it within a moment; what has come by then is kept."""

    stopped = False

    def tick(self, progress: Progress) -> None:
        """`progress.done` of `progress.total` bytes are there."""


def download(plan: Plan, watch: Watch | None = None) -> Path:
    """Does what `plan` says and returns the model's folder. DownloadError says why not; what has come is kept."""
    watch = watch or Watch()
    with disk_in_words(plan.target):
        Transfer(plan, watch).check()
        if plan.missing:
            with alone(plan):
                fetch(renewed(plan), watch)
    return plan.target


def fetch(plan: Plan, watch: Watch) -> None:
    """Brings what is missing."""
    if not plan.fits:
        raise DownloadError(f"{plan.target}: too little room on the disk: {plan.size / 1e9:.1f} GB are to come, "
                            f"{plan.free / 1e9:.1f} GB are free. Make room, or choose another disk")
    take_back(plan)
    job = Transfer(plan, watch)
    job.begin("fetch", sum(remote.size for remote in plan.missing))
    for remote in plan.missing:
        job.fetch(remote)
    settle(plan)


class Transfer:
    """One run of a download: what it has done so far, and who watches it."""

    def __init__(self, plan: Plan, watch: Watch) -> None:
        self.plan, self.watch = plan, watch
        self.done = self.total = 0
        self.came = 0  # of what is done, over the network
        self.stage = ""
        self.since = self.told = 0.0

    def begin(self, stage: str, total: int) -> None:
        self.stage, self.done, self.total, self.came = stage, 0, total, 0
        self.since, self.told = time.monotonic(), 0.0

    def check(self) -> None:
        """Reads what is there already. DownloadError where it has the right size and the wrong content."""
        self.begin("check", sum(remote.size for remote in self.plan.kept))
        for remote in self.plan.kept:
            digest = remote.digest()
            with (self.plan.target / remote.name).open("rb") as file:
                self.read(file, remote, digest)
            if digest is not None and digest.hexdigest() != remote.etag:
                raise DownloadError(f"{self.plan.target / remote.name}: damaged, its content is not what was published."
                                    " It was left as it is; delete it and run this again")

    def fetch(self, remote: Remote) -> None:
        """Brings one file whole into the hidden folder, from where an earlier download left it."""
        path, digest = part(self.plan.target, remote), remote.digest()
        with path.open("ab+") as file:
            file.seek(0)
            have = self.read(file, remote, digest)
            for chunk in self.arriving(remote, have):
                file.write(chunk)
                have += len(chunk)
                self.came += len(chunk)
                self.count(remote, chunk, digest)
            file.flush()
            os.fsync(file.fileno())
        if have > remote.size or (digest is not None and digest.hexdigest() != remote.etag):
            path.unlink()
            raise DownloadError(f"{remote.name} came damaged: its hash is not the published one. It was thrown away; "
                                "run it again. If that repeats, a proxy or mirror on the way changes files")

    def arriving(self, remote: Remote, have: int) -> Iterator[bytes]:
        """The bytes that follow on the first `have`, over as many connections as it takes."""
        tries = 0
        while have < remote.size:
            try:
                with closing(hub.chunks(remote, have)) as chunks:
                    for chunk in chunks:
                        have, tries = have + len(chunk), 0
                        yield chunk
                if have < remote.size:
                    raise hub.Cut(f"{remote.url} ended early. Run it again: it goes on where it was")
            except hub.Cut as cut:
                tries += 1
                if tries == TRIES:
                    raise
                log.info("%s; trying again", cut)
                self.pause(PAUSE * 2 ** (tries - 1))

    def read(self, file: BinaryIO, remote: Remote, digest: Digest | None) -> int:
        """Feeds what is in `file` to the digest; how many bytes that is."""
        size = 0
        while block := file.read(BLOCK):
            size += len(block)
            self.count(remote, block, digest)
        return size

    def count(self, remote: Remote, chunk: bytes, digest: Digest | None) -> None:
        """Some bytes are there. DownloadError if the user wants no more."""
        if digest is not None:
            digest.update(chunk)
        self.done += len(chunk)
        now = time.monotonic()
        if now - self.told >= TICK or self.done == self.total:
            speed = self.came / max(now - self.since, TICK)
            self.watch.tick(Progress(self.stage, remote.name, self.done, self.total, speed))
            self.told = now
        self.heed()

    def pause(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.heed()
            time.sleep(min(left, 0.1))

    def heed(self) -> None:
        """DownloadError if the user wants no more."""
        if self.watch.stopped:
            raise DownloadError(f"the download of {self.plan.model.name} was cancelled. What has come is kept in "
                                f"{staging(self.plan.target)}: the next one goes on from there")


def settle(plan: Plan) -> None:
    """Moves what has come into place: a new model as a whole, into a folder that was there file by file."""
    hidden = staging(plan.target)
    if plan.target.exists():
        place(plan, plan.target)
    else:
        place(plan, hidden / WHOLE)
        (hidden / WHOLE).rename(plan.target)
    for left in hidden.glob("*.part"):  # of a version that was replaced before it had come
        left.unlink()


def take_back(plan: Plan) -> None:
    """Makes parts again of files that were named and did not get to their place."""
    for remote in plan.missing:
        stranded = staging(plan.target) / WHOLE / remote.name
        if stranded.exists():
            stranded.rename(part(plan.target, remote))


def place(plan: Plan, folder: Path) -> None:
    """Gives the parts their names in `folder`; what says that there is a model comes after its weights."""
    for remote in sorted(plan.missing, key=lambda remote: remote.name.endswith(".json")):
        path = folder / remote.name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():  # what a user put there in the meantime stays
            part(plan.target, remote).rename(path)


@contextmanager
def alone(plan: Plan) -> Iterator[None]:
    """Nobody else fetches this model meanwhile, in this program or another. DownloadError if somebody does."""
    hidden = staging(plan.target)
    hidden.mkdir(parents=True, exist_ok=True)
    lock = FileLock(hidden / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise DownloadError(f"{plan.model.name} is being downloaded already. Wait for that, or cancel it") from error
    try:
        yield
    finally:
        lock.release()
        if not any(path.is_file() and path.name != LOCK for path in hidden.rglob("*")):
            shutil.rmtree(hidden, ignore_errors=True)
