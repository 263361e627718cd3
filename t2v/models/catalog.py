"""The models there are, by name."""

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import t2v
from t2v.errors import ModelError, RequestError
from t2v.models import Model, diffusers_folder, facts, modelscope, videocrafter
from t2v.models.assembly import assembled
from t2v.models.autoencoder import AutoencoderKL
from t2v.models.checkpoint import blank
from t2v.models.configuration import FILE, Configuration
from t2v.models.contents import Contents, contents, subfolders, weight_files
from t2v.models.facts import facts_of
from t2v.models.text import TextConfig, TextTower
from t2v.models.unet import UNet3D
from t2v.models.variants import variant_of

DEMO = Path(t2v.__file__).parent / "demo"
MARKS = (FILE, diffusers_folder.INDEX)  # a folder with one of these is a model, however broken


class Family(NamedTuple):
    """A way in which models are published: what is one, and what it says of itself."""

    recognises: Callable[[Contents], bool]
    configure: Callable[[Contents, Iterable[Path]], Configuration]


def find_models(folders: Iterable[Path]) -> dict[str, Path]:
    """Every model below `folders` by the name of its own folder or file, and the demo that comes with the package.

    Where two share a name, the second goes by the name of the folder around it too: "text2video/t2v".
    """
    found = {DEMO.name: DEMO} if family(DEMO) else {}
    folders = list(folders)
    seen = set(folders)  # as folders of models; one that is a model itself comes back from `models_in` all the same
    for parent in folders:
        for path in models_in(parent):
            if path in seen and path != parent:
                continue
            seen.add(path)
            name = path.name if path.is_dir() else path.stem
            found.setdefault(name if name not in found else f"{path.parent.name}/{name}", path)
    return found


def models_in(parent: Path) -> Iterator[Path]:
    """The models in a folder: itself, or files that lie in it, folders, and where those are none, folders in them."""
    files = Contents(parent, tuple(weight_files(parent)))
    unets = files.holding(UNet3D)
    if marked(parent) or (len(unets) == 1 and (files.holding(AutoencoderKL) or files.holding(TextTower))):
        yield parent
        return
    for folder in subfolders(parent):
        if family(folder):
            yield folder
        else:
            yield from (inner for inner in subfolders(folder)[:MAX_NESTED] if family(inner))
    yield from sorted(unets)


def marked(folder: Path) -> bool:
    """Whether a folder is said to be a model."""
    return any(os.path.isfile(folder / mark) for mark in MARKS)


def find_model(name: str, folders: Iterable[Path]) -> Path:
    """The folder of the model called `name`. A name is looked up, never taken for a path; RequestError if unknown."""
    models = find_models(folders)
    if name not in models:
        raise RequestError("model", f"there is no {name!r}; there are: {', '.join(models) or 'none'}")
    return models[name]


def open_model(name_or_path: str, folders: Iterable[Path]) -> Model:
    """The model of a name or, for the user of this very machine, the path of a folder or file."""
    folders, path = list(folders), Path(name_or_path)
    if os.path.exists(path) and name_or_path not in find_models(folders):
        return load_model(path, path.resolve().name, folders)
    return load_model(find_model(name_or_path, folders), name_or_path, folders)


def load_model(path: Path, name: str, folders: Iterable[Path] = ()) -> Model:
    """The model in a folder or file, of whatever family; what it lacks is taken from models around it and in
    `folders`. ModelError where there is none, or it is broken."""
    found, kind = contents(path), family(path)
    if kind is None:
        raise ModelError(path, "holds no model", f"It needs {FILE} and the weight files")
    folders = list(folders)
    return assembled(found, kind.configure(found, folders), name, folders)


def describe(path: Path, folders: Iterable[Path] = ()) -> dict[str, Any]:
    """What the model in a folder is and is made for: settings, a card in words, and what `facts.Facts` says.

    ModelError as in `load_model`.
    """
    found, made = contents(path), configured(path, folders)
    variant = variant_of(path)
    card = made.card or (variant.purpose if variant else "")
    return {**asdict(made.defaults), "card": card, **asdict(facts_of(found, made))}


def hash_of(path: Path, folders: Iterable[Path] = ()) -> str:
    """The hash of a model, which may take a second. ModelError as in `load_model`."""
    return facts.hash_of(contents(path), configured(path, folders))


def look_up_hashes(folders: Iterable[Path]) -> threading.Thread:
    """Has the hashes of all models looked up in the background; `describe` then tells them."""
    folders = list(folders)
    return facts.hashed_in_background(find_models(folders).values(), lambda path: configured(path, folders))


def networks(path: Path, folders: Iterable[Path] = ()) -> tuple[UNet3D, AutoencoderKL, TextTower]:
    """The networks of a model without their weights, for whoever wants to know how large they are."""
    made = configured(path, folders)
    return blank(UNet3D, made.unet), blank(AutoencoderKL, made.vae), blank(TextTower, made.text or TextConfig())


def configured(path: Path, folders: Iterable[Path] = ()) -> Configuration:
    """What a model says of itself. ModelError where there is none."""
    kind = family(path)
    if kind is None:
        raise ModelError(path, "holds no model", f"It needs {FILE} and the weight files")
    return kind.configure(contents(path), folders)


def family(path: Path) -> Family | None:
    """How the model in a folder or file is published; None where there is none."""
    found = contents(path)
    return next((family for family in FAMILIES.values() if family.recognises(found)), None)


MAX_NESTED = 32
FAMILIES = {
    "diffusers": Family(diffusers_folder.recognises, diffusers_folder.configure),
    "VideoCrafter2": Family(videocrafter.recognises, videocrafter.configure),
    "ModelScope": Family(modelscope.recognises, modelscope.configure),
}
