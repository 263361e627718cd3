"""Small weight files by the names that people know them by: LoRAs and embeddings in their folders.

A name is looked up among the files that are there, and never taken for a path.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from t2v.errors import RequestError
from t2v.models.lora.named import ADAPTER
from t2v.request import shown

SUFFIXES = (".safetensors", ".pt", ".pth", ".ckpt", ".bin")
MAX_DEPTH = 8
SOME = 12  # names that a message lists


def files(folders: Iterable[Path]) -> dict[str, Path]:
    """Every weight file, and every folder of PEFT's, by its path below its folder: "people/anna", without a suffix."""
    found: dict[str, Path] = {}
    for folder in folders:
        for path in below(folder, MAX_DEPTH):
            name = path.relative_to(folder)
            found.setdefault((name if path.is_dir() else name.with_suffix("")).as_posix(), path)
    return found


def below(folder: Path, depth: int) -> Iterator[Path]:
    """The weight files and folders of PEFT's under `folder`, in the order of their names; nothing is opened."""
    try:
        names = sorted(os.listdir(folder), key=by_stem)
    except OSError:
        return
    for path in (folder / name for name in names):
        if os.path.isfile(path / ADAPTER):
            yield path
        elif os.path.isdir(path):
            yield from below(path, depth - 1) if depth else ()
        elif path.suffix.lower() in SUFFIXES:
            yield path


def by_stem(name: str) -> tuple[str, bool, str]:
    """Order of names; of files that differ in their suffix only, the safe kind comes first."""
    stem, suffix = os.path.splitext(name)
    return stem, suffix.lower() != SUFFIXES[0], suffix


def find(name: str, found: Mapping[str, Path]) -> Path:
    """The file called `name`, in any folder or in the one that is named too; RequestError where none or several are."""
    wanted = name.strip().replace("\\", "/")
    stem, suffix = os.path.splitext(wanted)
    wanted = stem if suffix.lower() in SUFFIXES else wanted
    if wanted in found:
        return found[wanted]
    same = [path for path in found if f"/{path}".lower().endswith(f"/{wanted}".lower())]
    exact = [path for path in same if f"/{path}".endswith(f"/{wanted}")]
    same = exact or same
    if len(same) == 1:
        return found[same[0]]
    if same:
        raise RequestError("loras", f"several files are called {shown(name)}; write one of {some(same)}")
    raise RequestError("loras", f"there is no {shown(name)}; there are: {some(found)}")


def some(names: Iterable[str]) -> str:
    """The first of some names, for a message."""
    names = list(names)
    return ", ".join([*names[:SOME], *(["..."] if len(names) > SOME else [])]) or "none yet"
