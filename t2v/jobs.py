"""Jobs: films asked for by the tab, the API or the server's page, made one after the other in the host's turns.

    submit ─▶ queued ─ host's turn ─▶ running ─▶ done | interrupted | failed

The record of a job is the truth about it. What a host shows is written from it at every tick, and what is asked at the
host's own buttons is read there; nothing else is believed, because a host's state belongs to everybody.
"""

import logging
import secrets
import threading
import time
from collections.abc import Callable
from enum import Enum
from functools import partial

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image
from torch import Tensor

from t2v.companions import wishes_of
from t2v.errors import RequestError, T2VError
from t2v.generate import Film, Watch, generate
from t2v.hosts import Host
from t2v.memory import is_shortage
from t2v.models import Model, catalog
from t2v.needs import need_of, plan_with
from t2v.preview import animated, pictures, strip
from t2v.request import VideoRequest
from t2v.shelf import Shelf

log = logging.getLogger(__name__)
HISTORY = 100  # jobs that are over and still known
QUEUE = 100  # jobs that may wait
STAGES = {"load": "Loading the model", "encode": "Reading the prompt", "read": "Reading what it starts from",
          "denoise": "Denoising", "enlarge": "Enlarging", "refine": "Refining", "decode": "Decoding"}
COUNTED = ("read", "denoise", "enlarge", "refine", "decode")
DECODING = 0.1  # of the time of a film that it took to denoise it, as a first guess


class State(str, Enum):
    """Where a job stands."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    INTERRUPTED = "interrupted"
    FAILED = "failed"


class Job(Watch):
    """One request on its way. Everybody may read it; only its runner writes, but for `interrupt` and `skip`."""

    def __init__(self, request: VideoRequest, host: Host, origin: object = None) -> None:
        self.id = f"task(text2video-{secrets.token_hex(6)})"
        self.request = request
        self.host = host
        self.origin = origin  # what whoever submitted it wants to know of it again
        self.title = "Text2Video"
        self.state = State.QUEUED
        self.stage = ""
        self.step = self.steps = 0
        self.item, self.items = 0, request.batch_count
        self.reached = 0.0  # of the film at hand, when it was last known
        self.films: list[Film] = []
        self.error = ""
        self.fault: type[Exception] | None = None  # what kind of error that is
        self.last = False  # end after the film at hand
        self.created = time.time()
        self.started = self.ended = 0.0
        self.model: Model | None = None
        self.pictures: NDArray[np.uint8] | None = None
        self.version = 0  # grows with every change
        self.seen = self.drawn = -1  # versions of the pictures last given to the host, last made into an animation
        self.picture_version = 0
        self.animation = b""
        self.changed = threading.Condition()

    # ---- for whoever looks ----

    @property
    def over(self) -> bool:
        return self.state not in (State.QUEUED, State.RUNNING)

    @property
    def text(self) -> str:
        """What is going on, on one line."""
        counted = f" {self.step}/{self.steps}" if self.stage in COUNTED and self.steps else ""
        film = f"Film {self.item + 1} of {self.items}: " if self.items > 1 else ""
        return f"{film}{STAGES.get(self.stage, 'Waiting')}{counted}"

    @property
    def fraction(self) -> float:
        """How much of the job is over, 0 to 1."""
        if self.over:
            return 1.0
        return (self.item + self.within) / self.items

    @property
    def within(self) -> float:
        """How much of the film at hand is over: what the stages before this one take, and its own part."""
        request, stages = self.request, ["denoise", "decode"]
        shares = {"denoise": 1 - DECODING, "decode": DECODING}
        if request.upscale > 1:
            stages, larger = ["denoise", "enlarge", "refine", "decode"], request.upscale**2
            shares |= {"enlarge": DECODING, "refine": larger * request.upscale_strength * (1 - DECODING),
                       "decode": larger * DECODING}
        if self.stage not in stages:  # which is short, and may come before either pass
            return self.reached
        place = stages.index(self.stage)
        before, own = sum(shares[stage] for stage in stages[:place]), shares[self.stage]
        self.reached = (before + own * (self.step / self.steps if self.steps else 0.0)) / sum(shares.values())
        return self.reached

    @property
    def eta(self) -> float | None:
        """Seconds that are left, from those that have passed; None while nothing can be told."""
        done = self.fraction
        return (time.time() - self.started) * (1 - done) / done if self.started and 0.02 < done < 1 else None

    def preview(self, fps: float = 8) -> bytes:
        """What the film looks like by now, as an animated WebP; empty before the first step."""
        shown, version = self.pictures, self.picture_version
        if shown is not None and self.drawn != version:
            self.animation, self.drawn = animated(shown, fps), version
        return self.animation

    def new_picture(self) -> Image | None:
        """As a strip of frames, if that has changed since the last time it was asked: for hosts that show stills."""
        if self.pictures is None or self.seen == self.picture_version:
            return None
        self.seen = self.picture_version
        return strip(self.pictures)

    def wait(self, version: int, seconds: float) -> int:
        """Until the job is no longer at `version`, or `seconds` are over; the version it has then."""
        with self.changed:
            self.changed.wait_for(lambda: self.version != version or self.over, seconds)
            return self.version

    # ---- for the runner and what it runs ----

    def begin(self, item: int, items: int) -> None:
        self.item, self.items, self.pictures, self.reached = item, items, None, 0.0

    def tick(self, stage: str, done: int, total: int, x0: Tensor | None = None) -> None:
        self.stage, self.step, self.steps = stage, done, total
        settings = self.host.settings
        if x0 is not None and settings.preview and self.model is not None and done % settings.preview_every == 0:
            self.pictures = pictures(x0, self.model.projection)
            self.picture_version += 1
        wishes = self.host.publish(self)
        self.stopped |= wishes.stop
        self.skipped |= wishes.skip
        self.last |= wishes.last
        self.tell()

    def become(self, state: State, error: str = "") -> None:
        self.state, self.error = state, error
        self.ended = time.time() if self.over else 0.0
        self.tell()

    def tell(self) -> None:
        with self.changed:
            self.version += 1
            self.changed.notify_all()


class Runner:
    """Makes the films of jobs in the order in which they came, in one thread that ends when there is nothing to do."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.jobs: dict[str, Job] = {}  # the oldest first
        self.shelf = Shelf()
        self.refiners = Shelf()  # for second passes with another model
        self.lock = threading.RLock()
        self.worker: threading.Thread | None = None
        self.listeners: list[Callable[[Job], None]] = []  # told of every new job, state and film, in whatever thread

    def submit(self, request: VideoRequest, origin: object = None) -> Job:
        """Takes a request on. RequestError for a model that is not there, or when too many wait already."""
        for name in filter(None, (request.model, request.upscale_model)):
            catalog.find_model(name, self.host.model_folders)
        with self.lock:
            if len(self.waiting) >= QUEUE:
                raise RequestError("", f"{QUEUE} films are waiting already; try again when some are done")
            job = Job(request, self.host, origin)
            self.forget()
            self.jobs[job.id] = job
            self.host.announce(job.id)
            self.report(job)
            if self.worker is None:
                self.worker = threading.Thread(target=self.work, name="text2video", daemon=True)
                self.worker.start()
        return job

    @property
    def waiting(self) -> list[Job]:
        """Jobs whose turn has not come, the next first."""
        return [job for job in list(self.jobs.values()) if job.state is State.QUEUED]

    @property
    def running(self) -> Job | None:
        return next((job for job in list(self.jobs.values()) if job.state is State.RUNNING), None)

    def interrupt(self, job: Job | None) -> None:
        """Ends a job: what can be seen of it by now becomes a film. One that waits still is taken out of the queue."""
        if job is None:
            return
        with self.lock:
            job.stopped = True
            if job.state is State.QUEUED:
                self.host.withdraw(job.id)
                job.become(State.INTERRUPTED)
                self.report(job)

    def skip(self, job: Job | None) -> None:
        """Gives up the film at hand, and goes on with the next of the batch."""
        if job is not None and job.state is State.RUNNING:
            job.skipped = True

    def close(self, patience: float = 30.0) -> None:
        """Ends every job and lets go of the model: the tab is about to be built anew, or the program to end."""
        for job in list(self.jobs.values()):
            if not job.over:
                self.interrupt(job)
        worker = self.worker
        if worker is not None:
            worker.join(patience)
        if worker is None or not worker.is_alive():
            self.shelf.clear()
            self.refiners.clear()

    def forget(self) -> None:
        """Keeps the record of jobs that are over from growing without end."""
        over = [job.id for job in self.jobs.values() if job.over]
        for old in over[:max(0, len(over) - HISTORY)]:
            del self.jobs[old]

    def drop(self, job: Job) -> bool:
        """Forgets a job at once, if it is over."""
        with self.lock:
            return job.over and self.jobs.pop(job.id, None) is not None

    def report(self, job: Job) -> None:
        """Tells whoever listens that there is something new about `job`."""
        for listener in self.listeners:
            tidied(partial(listener, job))

    # ---- in the worker's thread ----

    def work(self) -> None:
        while True:
            with self.lock:
                job = next(iter(self.waiting), None)
                if job is None:
                    self.worker = None
                    return
            self.run(job)

    def run(self, job: Job) -> None:
        """One job, start to end. Never raises: what goes wrong stands in the record."""
        error = ""
        fault: type[Exception] | None = None
        try:
            need = need_of(job.request, self.host)
            with self.host.turn(job, need):
                try:
                    self.make(job)
                finally:
                    tidied(self.park)
        except T2VError as problem:
            error, fault = str(problem), type(problem)
        except Exception as problem:
            fault = type(problem)
            log.exception("Text2Video: %s failed", job.id)
            error = f"a fault of Text2Video itself: {type(problem).__name__}: {problem} (the console shows where)"
        if job.over:  # taken out of the queue while it waited for the host
            return
        if not job.started:  # the host was not even asked, or refused
            self.host.withdraw(job.id)
        job.model, job.fault = None, fault
        stopped = job.stopped or (job.last and len(job.films) < job.items)
        job.become(State.FAILED if error else State.INTERRUPTED if stopped else State.DONE, error)
        self.report(job)

    def make(self, job: Job) -> None:
        """The films of `job`, in the host's turn."""
        with self.lock:
            if job.over:
                return
            job.started = time.time()
            job.become(State.RUNNING)
        self.report(job)
        job.tick("load", 0, 1)
        job.model = self.shelf.get(job.request.model, self.host.model_folders)
        refiner = None
        if job.request.upscale > 1 and job.request.upscale_model:
            refiner = self.refiners.get(job.request.upscale_model, self.host.model_folders)
        self.lift(job.request, job.model, refiner)
        job.tick("load", 1, 1)
        if job.stopped:
            return
        for film in generate(job.request, job.model, self.host, job, refiner):
            job.films.append(film)
            job.tell()
            self.report(job)
            if job.last:
                return

    def lift(self, request: VideoRequest, model: Model, refiner: Model | None = None) -> None:
        """All weights onto the device if the user wants them to stay there, and they leave room enough for the film.

        Not with a second model, nor with LoRAs: there would be two of each weight that these change.
        """
        if self.host.settings.keep != "device":
            return
        alone = refiner is None and not wishes_of(request)
        if not alone or not plan_with(model, request.filled(model.defaults), self.host).lifted:
            self.shelf.lower()
            return
        try:
            self.shelf.lift(self.host)
        except Exception as error:
            if not is_shortage(error):
                raise
            log.warning("the model does not stay on the device: %s", error)
            self.host.collect()

    def park(self) -> None:
        """Our weights leave the device, unless the user wants them to stay there."""
        keep = self.host.settings.keep
        if keep != "device":
            self.shelf.lower()
        if keep == "nothing":
            self.shelf.clear()
            self.refiners.clear()
        self.host.collect()


def tidied(step: Callable[[], None]) -> None:
    """Takes a step beside the work. What goes wrong in it is logged, and takes no film away that has been made."""
    try:
        step()
    except Exception:
        log.exception("Text2Video: beside a job")
