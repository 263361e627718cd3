"""Small films, and waiting for them."""

import time
from collections.abc import Callable
from dataclasses import replace

from t2v.jobs import Job, Runner
from t2v.request import VideoRequest

REQUEST = VideoRequest(prompt="a red circle moving right", model="demo", width=32, height=32, frames=2, steps=3,
                       seed=7, format="gif")


def ordered(runner: Runner, **changes: object) -> Job:
    """A job for REQUEST with `changes`."""
    return runner.submit(replace(REQUEST, **changes))  # type: ignore[arg-type]


def made(runner: Runner, **changes: object) -> Job:
    """The same, when it is over and its runner has left it behind."""
    job = ordered(runner, **changes)
    until(lambda: runner.worker is None)
    assert job.over
    return job


def until(truth: Callable[[], object], seconds: float = 60) -> None:
    """Waits for `truth`."""
    end = time.monotonic() + seconds
    while not truth():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)
