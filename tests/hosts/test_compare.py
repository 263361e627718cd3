"""compare.py finds what it is there to find. The real hosts are no part of this project; a made one stands for them."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.hosts.house import FAKES, TREES

COMPARE = Path(__file__).with_name("compare.py")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A host that is like the fake of A1111 in everything."""
    for part in reversed(TREES["a1111"]):
        shutil.copytree(FAKES / part, tmp_path / "tree", dirs_exist_ok=True)
    return tmp_path / "tree"


def compared(tree: Path) -> tuple[int, list[str]]:
    done = subprocess.run(
        [sys.executable, str(COMPARE), str(tree), "a1111"], capture_output=True, text=True, check=False)
    assert not done.stderr
    return done.returncode, done.stdout.splitlines()


def test_a_host_that_is_the_same_passes(tree: Path) -> None:
    assert compared(tree) == (0, ["a1111: as in the host"])


@pytest.mark.parametrize(("file", "before", "after", "finding"), [
    ("shared_state", 'def begin(self, job: str = "(unknown)")', 'def begin(self, title="")',
     "modules.shared_state.State.begin(self, job=): takes self, title= in the host"),
    ("shared_state", 'def begin(self, job: str = "(unknown)")', 'def begin(self, title="")',
     "webui.begin calls modules.shared.state.begin(title=) with job"),
    ("shared_state", "    sampling_steps = 0\n", "",
     "modules.shared_state.State.sampling_steps: not there in the host"),
    ("progress", "def start_task(id_task)", "def begin_task(id_task)",
     "modules.progress.start_task: not there in the host"),
    ("progress", "def start_task(id_task)", "def begin_task(id_task)",
     "webui.turn uses modules.progress.start_task, which the host has not"),
    ("progress", "def start_task(id_task)", "def start_task(id_task, when)",
     "webui.turn calls modules.progress.start_task(id_task, when) without when"),
    ("script_callbacks", "def on_ui_tabs(callback, *, name=None)", "def on_ui_tabs(callback, name=None)",
     "modules.script_callbacks.on_ui_tabs(callback, name:=): takes callback, name= in the host"),
    ("shared_options", '"outdir_samples"', '"outdir"', "option outdir_samples: not there in the host"),
    ("cmd_args", "--hide-ui-dir-config", "--hide", "flag hide_ui_dir_config: not there in the host"),
    ("sd_models", "model_data = SdModelData()", "", "modules.sd_models.model_data: not there in the host"),
])
def test_a_difference_is_named(tree: Path, file: str, before: str, after: str, finding: str) -> None:
    path = tree / "modules" / f"{file}.py"
    source = path.read_text(encoding="utf-8")
    assert before in source
    path.write_text(source.replace(before, after), encoding="utf-8")
    code, found = compared(tree)
    assert code == 1
    assert finding in found


def test_a_module_that_is_gone_is_named(tree: Path) -> None:
    (tree / "modules" / "ui_tempdir.py").unlink()
    code, found = compared(tree)
    assert code == 1
    assert "modules.ui_tempdir: the host has no such module" in found
    assert "webui.offer uses modules.ui_tempdir.register_tmp_file, which the host has not" in found
