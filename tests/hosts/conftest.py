"""Which tests this process runs, and the host they run in."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch

from t2v.hosts import Host
from t2v.hosts.detect import find_host
from t2v.hosts.standalone import Standalone
from t2v.jobs import Job, Runner
from tests.hosts.house import HOST, House, start

collect_ignore = ["test_turn.py", "test_adapter.py", "test_entry.py", "test_door.py"] if HOST == "standalone" else [
    "test_every_host.py", "test_compare.py", "test_install.py"]
Action = Callable[[Job, str, int], None]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "only(*hosts): what the other hosts have not, or do in another way")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    here = [item for item in items if all(HOST in mark.args for mark in item.iter_markers("only"))]
    if len(here) < len(items):
        config.hook.pytest_deselected(items=[item for item in items if item not in here])
        items[:] = here


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny networks gain nothing from more, and lose much where others compute, too."""
    usual = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(usual)


@pytest.fixture(scope="session")
def started() -> Iterator[House | None]:
    """The fake host, running."""
    if HOST == "standalone":
        yield None
        return
    with TemporaryDirectory() as root:
        start(HOST, Path(root).resolve())
        yield House(HOST)


@pytest.fixture
def host(started: House | None, tmp_path: Path) -> Iterator[Host]:
    """What our package takes the program around it for."""
    if started is None:
        assert "modules" not in sys.modules
        yield Standalone(torch.device("cpu"), torch.float32, outputs=tmp_path)
        return
    started.tidy(tmp_path)
    yield find_host()
    assert "load a checkpoint" not in started.events.seen
    assert not started.modules.call_queue.queue_lock.locked()


@pytest.fixture
def house(started: House | None, host: Host) -> House:
    """The fake host, from its user's side."""
    del host  # has tidied up
    assert started is not None
    return started


@pytest.fixture
def runner(host: Host) -> Iterator[Runner]:
    runner = Runner(host)
    yield runner
    runner.close()
    assert runner.worker is None


@pytest.fixture
def at_tick(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Has `before` called at each tick of each job, in the job's thread, and `after` when the host has heard of it."""
    original: Any = Job.tick

    def arrange(before: Action | None = None, after: Action | None = None) -> None:
        def tick(job: Job, stage: str, done: int, total: int, x0: torch.Tensor | None = None) -> None:
            if before is not None:
                before(job, stage, done)
            original(job, stage, done, total, x0)
            if after is not None:
                after(job, stage, done)

        monkeypatch.setattr(Job, "tick", tick)

    return arrange
