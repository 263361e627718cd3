"""What is in a model folder, whether it makes a model, and what would be used in the place of what is missing."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from t2v.doctor.files import NAMES, Entry, Heed, entry_of, hashed
from t2v.errors import ModelError
from t2v.models import catalog
from t2v.models.assembly import network, own_or_lent, weights
from t2v.models.autoencoder import AutoencoderKL
from t2v.models.configuration import Configuration
from t2v.models.contents import HOMES, SUFFIXES, Contents, contents
from t2v.models.dialects import AnyNetwork
from t2v.models.text import TextTower
from t2v.models.torchfile import gigabytes
from t2v.models.unet import UNet3D

MAX_FILES = 100
FOLDERS = ("scheduler", "tokenizer", *sorted({home for homes in HOMES.values() for home in homes}))
LEFTOVERS = {
    ".download": ("is an unfinished download", "'t2v download' with its name goes on where it was; or delete it"),
    ".convert": ("is an unfinished conversion", "Delete it, unless one is running"),
}
WANTED: dict[type[AnyNetwork], str] = {
    UNet3D: "Put text2video_pytorch_model.pth there, or have a whole model fetched by 't2v download'",
    AutoencoderKL: "Put VQGAN_autoencoder.pth there, or the VAE of any Stable Diffusion 1 or 2",
    TextTower: "Put open_clip_pytorch_model.bin there",
}


def file_entries(path: Path, heed: Heed | None) -> list[Entry]:
    """Every file of a model, and what is left over beside it; with hashes, if somebody heeds how that goes."""
    entries = []
    for file in files_in(path):
        name = file.relative_to(path).as_posix() if path != file else file.name
        entry = entry_of(file, name)
        if heed and file.suffix.lower() in SUFFIXES and not entry.serious:
            entry = hashed(file, entry, heed)
        entries.append(entry)
    return [*entries, *leftovers(path)]


def files_in(path: Path) -> list[Path]:
    """The files in a model folder and in the folders of its parts; or the one file that is the model."""
    if path.is_file():
        return [path]
    found: list[Path] = []
    for folder in (path, *(path / name for name in FOLDERS)):
        with suppress(OSError), os.scandir(folder) as entries:
            found += sorted(Path(entry.path) for entry in entries
                            if not os.path.isdir(entry.path) and not entry.name.startswith("."))
    return found[:MAX_FILES]


def leftovers(path: Path) -> Iterator[Entry]:
    """Hidden folders of downloads and conversions that did not come to their end."""
    with suppress(OSError):
        for folder in sorted(path.absolute().parent.iterdir()):
            if folder.name.startswith(f".{path.name}.") and folder.suffix in LEFTOVERS and folder.is_dir():
                size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
                yield Entry(folder.name, gigabytes(size), *LEFTOVERS[folder.suffix])


def part_entries(path: Path, folders: list[Path]) -> list[Entry]:
    """The three networks as a film would get them: from where, and what is wrong if it could not."""
    found = contents(path)
    try:
        made = catalog.configured(path, folders)
    except ModelError as error:
        return [Entry("model", "", f"{error.path.name} {error.problem}", error.remedy, serious=True)]
    notes = [Entry("note", note) for note in made.notes]
    return [*(part(kind, found, made, folders) for kind in NAMES), *notes]


def part(kind: type[AnyNetwork], found: Contents, made: Configuration, folders: list[Path]) -> Entry:
    """One network, opened and compared with the configuration."""
    name, own = NAMES[kind], file_of(kind, found, made)
    try:
        if kind is UNet3D:
            network(UNet3D, made, own)
            return Entry(name, f"fits, from {own.name}")
        _, note = own_or_lent(kind, found, made, folders)  # type: ignore[type-var]
        return Entry(name, note or f"fits, from {own.name}")
    except ModelError as error:
        if not own.exists():
            return Entry(name, "", "is missing, and no other model has one that fits", WANTED[kind], serious=True)
        return Entry(name, "", f"{error.path.name} {error.problem}", error.remedy, serious=True)


def file_of(kind: type[AnyNetwork], found: Contents, made: Configuration) -> Path:
    """The model's own file for a network, whether it is there or not."""
    names = {UNet3D: made.files.ckpt_unet, AutoencoderKL: made.files.ckpt_autoencoder, TextTower: made.files.ckpt_clip}
    return weights(found, kind, names[kind])  # type: ignore[type-var]
