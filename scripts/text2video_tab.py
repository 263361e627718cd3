"""What a web UI executes, at its start and at each Reload UI. All the rest is in the package t2v beside this folder."""

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path


def import_t2v(package):
    """The package at `package`, whatever sys.path says: hosts change it while they load extensions, and back."""
    there = sys.modules.get("t2v")
    if there is not None:
        if Path(there.__file__ or "").resolve().parent == package:
            return
        raise ImportError(f"Text2Video cannot load: something else already goes by the name t2v ({there.__file__}). "
                          "Is Text2Video, or another extension that uses this name, installed twice?")
    spec = spec_from_file_location("t2v", package / "__init__.py", submodule_search_locations=[str(package)])
    sys.modules["t2v"] = module_from_spec(spec)
    try:
        spec.loader.exec_module(sys.modules["t2v"])
    except BaseException:
        del sys.modules["t2v"]
        raise


import_t2v(Path(__file__).resolve().parent.parent / "t2v")

from t2v.hosts.entry import register  # noqa: E402

register()
