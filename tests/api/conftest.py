"""An API to call: the demo model under the name that clients use, and an app that is nobody's host."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from fastapi import FastAPI
from fastapi.testclient import TestClient

from t2v.api.access import Access
from t2v.api.attach import attach
from t2v.api.service import Service
from t2v.hosts.standalone import Standalone
from t2v.jobs import Runner
from t2v.models import catalog
from t2v.settings import Settings

TINY = {"frames": 2, "width": 16, "height": 16, "steps": 2, "seed": 3}
LONG = {**TINY, "steps": 1000}  # half a minute, which no test waits for


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    usual = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(usual)


class Api:
    """A server without a net, and what is behind it."""

    def __init__(self, folder: Path, users: dict[str, str] | None = None, **settings: Any) -> None:
        models = folder / "models" / "ModelScope"
        models.mkdir(parents=True, exist_ok=True)
        if not (models / "t2v").exists():
            (models / "t2v").symlink_to(catalog.DEMO)
        self.folder, self.outputs = folder, folder / "outputs"
        self.host = Standalone(torch.device("cpu"), torch.float32, folder / "models", self.outputs,
                               Settings(inputs=str(folder / "inputs"), **settings))
        (folder / "inputs").mkdir(exist_ok=True)
        self.runner = Runner(self.host)
        self.service = Service(self.runner)
        self.app = FastAPI()
        attach(self.app, self.service, Access(users or {}))
        self.client = TestClient(self.app, raise_server_exceptions=False)

    def post(self, path: str, **how: Any) -> Any:
        return self.client.post(path, **how)

    def get(self, path: str, **how: Any) -> Any:
        return self.client.get(path, **how)

    def submit(self, **settings: Any) -> Any:
        """The status of a new job."""
        answer = self.post("/t2v/v1/jobs", json={"prompt": "a red circle", **TINY, **settings})
        assert answer.status_code == 202, answer.text
        return answer.json()

    def ended(self, job: Any, **how: Any) -> Any:
        """The status of a job when it is over."""
        until(lambda: self.get(job["url"], **how).json()["state"] not in ("queued", "running"))
        return self.get(job["url"], **how).json()

    def running(self, job: Any) -> None:
        until(lambda: self.get(job["url"]).json()["stage"] == "denoise")

    def close(self) -> None:
        self.runner.close()
        self.service.close()


def until(true: Callable[[], bool], seconds: float = 60.0) -> None:
    """Waits for something to become true."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.02)


@pytest.fixture
def make_api(tmp_path: Path) -> Iterator[Callable[..., Api]]:
    made: list[Api] = []

    def make(users: dict[str, str] | None = None, **settings: Any) -> Api:
        made.append(Api(tmp_path, users, **settings))
        return made[-1]

    yield make
    for api in made:
        api.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "text2video"]


@pytest.fixture
def api(make_api: Callable[..., Api]) -> Api:
    return make_api()
