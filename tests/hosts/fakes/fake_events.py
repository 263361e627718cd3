"""What a fake host was asked to do, in order, and what is to go wrong in it. No host has this module."""

import threading
from collections import deque
from collections.abc import Iterator
from types import SimpleNamespace

import torch

seen: list[str] = []
broken: set[str] = set()  # events that end in an exception
reported: list[str] = []  # exceptions that the host has caught and only shows


def happen(event: str) -> None:
    """Notes `event`; raises if the test wants it to go wrong."""
    seen.append(event)
    if event in broken:
        raise RuntimeError(f"the host cannot {event}")


def forget() -> None:
    seen.clear()
    broken.clear()
    reported.clear()


class Checkpoint:
    """A model of the host, as far as anybody looks: it has parameters, and those are somewhere."""

    def __init__(self, name: str, device: str = "cuda", lowvram: bool = False) -> None:
        self.name, self.lowvram = name, lowvram
        self.device = torch.device(device)

    def parameters(self) -> Iterator[SimpleNamespace]:
        yield SimpleNamespace(device=self.device)

    def to(self, device: torch.device) -> None:
        self.device = torch.device(device)


class NotedLock:
    """First come, first served, not re-entrant, and noted."""

    def __init__(self) -> None:
        self._queue: deque[object] = deque()
        self._changed = threading.Condition()

    def acquire(self, blocking: bool = True) -> bool:
        ticket = object()
        with self._changed:
            if self._queue and not blocking:
                return False
            self._queue.append(ticket)
            self._changed.wait_for(lambda: self._queue[0] is ticket)
        happen("lock")
        return True

    def release(self) -> None:
        seen.append("unlock")
        with self._changed:
            self._queue.popleft()
            self._changed.notify_all()

    def locked(self) -> bool:
        return bool(self._queue)

    __enter__ = acquire

    def __exit__(self, *exception: object) -> None:
        self.release()
