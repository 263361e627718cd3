"""install.py, as hosts run it: in a process of its own, in any folder, with a pip that only writes down its orders."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

INSTALLER = Path(__file__).parents[2] / "install.py"
OURS = {"einops", "safetensors", "omegaconf", "av", "tqdm", "ftfy", "regex", "huggingface_hub", "filelock",
        "open_clip_torch"}
THEIRS = {"torch", "gradio", "numpy", "pillow", "fastapi", "pydantic", "transformers"}
PIP = """
import json, os, sys
(held,) = [open(value).read() for flag, value in zip(sys.argv, sys.argv[1:]) if flag == "--constraint"]
with open(os.environ["ORDERS"], "a") as file:
    file.write(json.dumps([sys.argv[1:], held]) + "\\n")
sys.exit(int(os.environ.get("PIP_FAILS", "0")))
"""


class Machine:
    """A Python that knows a made pip and the packages that a test gives it, and no others."""

    def __init__(self, folder: Path, installed: set[str]) -> None:
        self.site, self.orders, self.elsewhere = folder / "site", folder / "orders", folder / "some where"
        (self.site / "pip").mkdir(parents=True)
        self.elsewhere.mkdir()
        self.installer = shutil.copy(INSTALLER, folder / "install.py")  # away from what is installed here
        (self.site / "pip" / "__init__.py").touch()
        (self.site / "pip" / "__main__.py").write_text(PIP)
        for name in installed:
            info = self.site / f"{name}-1.2.dist-info"
            info.mkdir()
            (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: 1.2\n")

    def install(self, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-S", self.installer], capture_output=True, text=True, check=False, cwd=self.elsewhere,
            env={**os.environ, "PYTHONPATH": str(self.site), "ORDERS": str(self.orders), **environment})

    @property
    def asked(self) -> list[tuple[list[str], list[str]]]:
        """What pip was asked for, and what it had to leave as it is."""
        lines = self.orders.read_text().splitlines() if self.orders.exists() else []
        orders = [json.loads(line) for line in lines]
        return [(arguments, held.split()) for arguments, held in orders]


@pytest.fixture
def whole(tmp_path: Path) -> Machine:
    return Machine(tmp_path, OURS | THEIRS)


def test_where_everything_is_there_pip_is_not_called(whole: Machine) -> None:
    done = whole.install()
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert whole.asked == []


@pytest.mark.parametrize("missing", sorted(OURS))
def test_only_what_is_missing_is_installed(tmp_path: Path, missing: str) -> None:
    machine = Machine(tmp_path, (OURS | THEIRS) - {missing})
    done = machine.install()
    assert done.returncode == 0
    ((arguments, held),) = machine.asked
    assert arguments[0] == "install"
    assert arguments[-1] == missing
    assert ("--no-deps" in arguments) == (missing == "open_clip_torch")  # the rest of its wishes are not ours
    assert missing in done.stdout
    assert not ((OURS | THEIRS) - {missing}) & set(arguments)
    assert {f"{name.replace('_', '-')}==1.2" for name in (OURS | THEIRS) - {missing}} == set(held)


def test_on_a_bare_python_nothing_is_asked_for_that_belongs_to_the_host(tmp_path: Path) -> None:
    machine = Machine(tmp_path, set())
    assert machine.install().returncode == 0
    words = {word.lower() for arguments, held in machine.asked for word in [*arguments, *held]}
    assert words >= OURS
    assert not {re.split(r"[=<>~!\[;]", word)[0] for word in words} & THEIRS


def test_what_pip_cannot_install_is_named(tmp_path: Path) -> None:
    machine = Machine(tmp_path, (OURS | THEIRS) - {"av"})
    done = machine.install(PIP_FAILS="1")
    assert done.returncode == 1
    assert "could not install" in done.stdout
    assert "Traceback" not in done.stderr


def test_the_hosts_index_is_used(tmp_path: Path) -> None:
    machine = Machine(tmp_path, (OURS | THEIRS) - {"av"})
    machine.install(INDEX_URL="https://packages.example/simple")
    ((arguments, _),) = machine.asked
    assert arguments[arguments.index("--index-url") + 1] == "https://packages.example/simple"
