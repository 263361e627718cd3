"""Loads the extension as a host does, and prints what came of it as JSON. Run as a program, in a process of its own.

    python loading.py HOST ROOT EXTENSION [hostile]

ROOT is the host's folder, EXTENSION ours, below it. Imports nothing of this project: only the host may find it.
"""

import importlib
import importlib.util
import json
import os
import sys
from pathlib import Path
from types import ModuleType

HOST, ROOT, EXTENSION = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
SCRIPT = "scripts/text2video_tab.py"


def load_scripts() -> str:
    """What went wrong, which hosts show and survive."""
    script_callbacks.clear_callbacks()
    before = sys.path
    basedir = str(EXTENSION)
    if HOST == "sdnext":
        basedir = os.path.relpath(EXTENSION)
    try:
        if HOST in ("a1111", "sdnext") or basedir not in sys.path:
            sys.path = [basedir, *sys.path]
        path = os.path.join(basedir, SCRIPT)
        spec = importlib.util.spec_from_file_location(os.path.basename(path), path)
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
        return ""
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    finally:
        if HOST in ("a1111", "sdnext"):  # in the others it stays for ever
            sys.path = before


def callbacks() -> dict[str, int]:
    return {kind: len(entries) for kind, entries in script_callbacks.callback_map.items() if entries}


def page() -> list[list[str]]:
    """The settings and tabs of one page, as the host builds it."""
    script_callbacks.ui_settings_callback()
    return [[type(tab).__name__, *names] for tab, *names in script_callbacks.ui_tabs_callback()]


def two_pages() -> dict[str, object]:
    """A start, and a reload of the page's code."""
    facts: dict[str, object] = {"errors": [load_scripts()], "callbacks": [callbacks()], "tabs": [page()]}
    package, path = sys.modules["t2v"], list(sys.path)
    runner = importlib.import_module("t2v.hosts.entry").runner()
    script_callbacks.app_reload_callback()
    script_callbacks.script_unloaded_callback()
    importlib.import_module("modules.generation_parameters_copypaste").reset()
    os.chdir("/")  # some extension does
    os.chdir(ROOT)
    facts["errors"].append(load_scripts())
    facts["callbacks"].append(callbacks())
    facts["tabs"].append(page())
    shared = importlib.import_module("modules.shared")
    return facts | {
        "reported": events.reported,
        "seen": events.seen,
        "same package": sys.modules["t2v"] is package,
        "same runner": importlib.import_module("t2v.hosts.entry").runner() is runner,
        "package": list(package.__path__),
        "path grows": len(sys.path) - len(path),
        "options": sorted(key for key in shared.opts.data_labels if key.startswith("text2video_")),
        "unlabelled": [key for key, option in shared.opts.data_labels.items() if not option.label],
        "foreign": [name for name in ("modelscope", "install", "scripts", "utils") if name in sys.modules],
        "bindings": [[binding.tabname, binding.source_tabname] for binding in importlib.import_module(
            "modules.generation_parameters_copypaste").registered_param_bindings],
    }


def beside_another() -> dict[str, object]:
    """Something else goes by our name already."""
    other = sys.modules["t2v"] = ModuleType("t2v")
    other.__file__ = "/elsewhere/t2v/__init__.py"
    return {"error": load_scripts(), "untouched": sys.modules["t2v"] is other, "callbacks": callbacks()}


sys.path.append(str(Path(__file__).parents[2]))  # for this line only: house stands in tests.hosts
from tests.hosts.house import start  # noqa: E402

sys.path.pop()
start(HOST, ROOT)
script_callbacks = importlib.import_module("modules.script_callbacks")
events = importlib.import_module("fake_events")
os.chdir(ROOT)
print(json.dumps(beside_another() if "hostile" in sys.argv else two_pages()))
