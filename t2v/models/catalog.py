"""The models there are, by name."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import t2v
from t2v.errors import ModelError, RequestError
from t2v.models import Model, configuration, modelscope

DEMO = Path(t2v.__file__).parent / "demo"


class Family(NamedTuple):
    """A folder format."""

    recognises: Callable[[Path], bool]
    describe: Callable[[Path], dict[str, Any]]
    load: Callable[[Path, str], Model]


def find_models(folders: Iterable[Path]) -> dict[str, Path]:
    """Every model below `folders` by the name of its own folder, and the demo that comes with the package.

    Where two share a name, the second goes by the name of the folder around it too: "text2video/t2v".
    """
    found = {DEMO.name: DEMO} if family(DEMO) else {}
    for parent in folders:
        for folder in subfolders(parent):
            if family(folder):
                name = folder.name if folder.name not in found else f"{parent.name}/{folder.name}"
                found.setdefault(name, folder)
    return found


def subfolders(parent: Path) -> list[Path]:
    """The folders in `parent` in the order of their names; none where it is no folder, or is not ours to read."""
    try:
        return sorted(folder for folder in parent.iterdir() if folder.is_dir())
    except OSError:
        return []


def find_model(name: str, folders: Iterable[Path]) -> Path:
    """The folder of the model called `name`. A name is looked up, never taken for a path; RequestError if unknown."""
    models = find_models(folders)
    if name not in models:
        raise RequestError("model", f"there is no {name!r}; there are: {', '.join(models) or 'none'}")
    return models[name]


def open_model(name_or_folder: str, folders: Iterable[Path]) -> Model:
    """The model of a name or, for the user of this very machine, the path of a folder."""
    folders, folder = list(folders), Path(name_or_folder)
    if folder.is_dir() and name_or_folder not in find_models(folders):
        return load_model(folder, folder.resolve().name)
    return load_model(find_model(name_or_folder, folders), name_or_folder)


def load_model(folder: Path, name: str) -> Model:
    """The model in a folder, of whatever family. ModelError where there is none, or it is broken."""
    found = family(folder)
    if found is None:
        raise ModelError(folder, "holds no model", f"It needs {configuration.FILE} and the weight files")
    return found.load(folder, name)


def describe(folder: Path) -> dict[str, Any]:
    """What the model in a folder is made for: settings, and a card in words. ModelError as in `load_model`."""
    found = family(folder)
    return found.describe(folder) if found else {}


def family(folder: Path) -> Family | None:
    """The format of a model folder; None where it is none."""
    return next((family for family in FAMILIES.values() if family.recognises(folder)), None)


FAMILIES = {"ModelScope": Family(modelscope.recognises, modelscope.describe, modelscope.load)}
