"""How a host finds and loads us, from a folder with any name, in company that we have not chosen."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from t2v.settings import Settings, option_key
from tests.hosts.house import HOST

PROJECT = Path(__file__).parents[2]
LOADING = Path(__file__).with_name("loading.py")


@pytest.fixture(scope="module")
def extension(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Our files among a host's extensions, in a folder that nobody would have thought of."""
    folder = tmp_path_factory.mktemp("a host") / "extensions" / "Text 2 Vidéo, 视频 (1)"
    shutil.copytree(PROJECT / "t2v", folder / "t2v", ignore=shutil.ignore_patterns("*.pth", "*.bin", "__pycache__"))
    shutil.copytree(PROJECT / "scripts", folder / "scripts", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def loaded(extension: Path, *how: str, path: tuple[Path, ...] = ()) -> Any:
    """What `loading.py` tells, with `path` in front of everything else."""
    root = extension.parents[1]
    done = subprocess.run(
        [sys.executable, "-W", "error::ImportWarning", str(LOADING), HOST, str(root), str(extension), *how],
        capture_output=True, text=True, encoding="utf-8", check=False, cwd=root,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(map(str, path)), "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def facts(extension: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Of a start and a reload beside packages with names like ours, none of which may be imported."""
    company = tmp_path_factory.mktemp("company")
    for name in ("t2v", "modelscope", "install", "utils"):
        (company / name).mkdir()
        (company / name / "__init__.py").write_text("raise AssertionError('imported by mistake')")
    return loaded(extension, path=(company,))


def test_it_loads_from_where_it_is(facts: Any, extension: Path) -> None:
    assert facts["errors"] == ["", ""]
    assert facts["package"] == [str(extension / "t2v")]
    assert facts["foreign"] == []


def test_a_page_has_one_tab_also_after_a_reload(facts: Any) -> None:
    assert facts["reported"] == []
    assert facts["tabs"] == [[["Blocks", "Text2Video", "text2video"]]] * 2
    assert facts["callbacks"][0] == facts["callbacks"][1]
    assert facts["callbacks"][0]["callbacks_ui_tabs"] == 1


def test_a_reload_keeps_what_has_been_made(facts: Any) -> None:
    assert facts["same package"]
    assert facts["same runner"]


def test_the_hosts_path_is_left_alone(facts: Any) -> None:
    assert facts["path grows"] == 0


def test_every_setting_has_its_place_in_the_hosts_settings(facts: Any) -> None:
    from dataclasses import fields

    assert facts["options"] == sorted(option_key(spec) for spec in fields(Settings))
    assert facts["unlabelled"] == []


def test_what_is_bound_to_other_tabs_is_bound_to_tabs_that_exist(facts: Any) -> None:
    """A binding to any other takes the whole page of the host down with it."""
    assert facts["bindings"]
    assert {tuple(binding) for binding in facts["bindings"]} <= {("img2img", None)}


def test_loading_begins_nothing_in_the_host(facts: Any) -> None:
    assert [event for event in facts["seen"] if event != "collect"] == []


def test_another_package_of_our_name_is_named_and_left_in_peace(extension: Path) -> None:
    facts = loaded(extension, "hostile")
    assert facts["error"].startswith("ImportError: Text2Video cannot load")
    assert "/elsewhere/t2v/__init__.py" in facts["error"]
    assert facts["untouched"]
    assert facts["callbacks"] == {}
