"""This folder's tests once more, in each fake host: a process each, since `modules` can be only one."""

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.hosts.house import TREES

FOLDER = Path(__file__).parent
Done = subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def runs() -> Iterator[dict[str, Future[Done]]]:
    """Of all hosts, two at a time."""
    def run(host: str) -> Done:
        return subprocess.run([sys.executable, "-m", "pytest", str(FOLDER)], capture_output=True, text=True,
                              env=os.environ | {"T2V_HOST": host}, cwd=FOLDER.parents[1], check=False)

    with ThreadPoolExecutor(2) as pool:
        yield {host: pool.submit(run, host) for host in TREES}


@pytest.mark.parametrize("host", TREES)
def test_all_holds_in(host: str, runs: dict[str, Future[Done]]) -> None:
    done = runs[host].result()
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
