"""This folder's tests once more, in each fake host: a process each, since `modules` can be only one.

A hundred jobs are made in one of them only; `make test-hosts` makes them in all.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.hosts.house import TREES

FOLDER = Path(__file__).parent


@pytest.mark.parametrize("host", TREES)
def test_all_holds_in(host: str) -> None:
    command = [sys.executable, "-m", "pytest", str(FOLDER), "-k", "not hundred_jobs"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"T2V_HOST": host},
                          cwd=FOLDER.parents[1], check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
