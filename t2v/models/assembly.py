"""From what is in a folder, and a configuration that says what it should be, to a model that runs.

A network that is not there is borrowed: the autoencoder and the text tower are the same in most models, so that those
of another do. The model says so in its `notes`.
"""

import os
from collections.abc import Iterable
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import torch

from t2v.errors import ModelError
from t2v.models import Model
from t2v.models.autoencoder import AutoencoderKL
from t2v.models.checkpoint import blank, fingerprint
from t2v.models.configuration import Configuration
from t2v.models.contents import SUFFIXES, Contents, stand_ins
from t2v.models.dialects import read_network, tower_in
from t2v.models.text import TextTower
from t2v.models.unet import UNet3D, UNetConfig

Network = TypeVar("Network", UNet3D, AutoencoderKL, TextTower)
WORDS = {AutoencoderKL: "autoencoder", TextTower: "text tower"}


def assembled(found: Contents, made: Configuration, name: str = "", folders: Iterable[Path] = ()) -> Model:
    """The model in `found`, checked and ready; films will say that `name` made them.

    What is missing is taken from the models around it and in `folders`. ModelError where nothing will do.
    """
    folders = list(folders)
    unet = network(UNet3D, made, weights(found, UNet3D, made.files.ckpt_unet))
    vae, lent_vae = own_or_lent(AutoencoderKL, found, made, folders)
    text, lent_text = own_or_lent(TextTower, found, made, folders)
    return Model(
        name=name or found.path.name,
        folder=found.path,
        unet=unet,
        vae=vae,
        text=text,
        schedule=made.schedule(),
        defaults=asdict(made.defaults),
        hash=fingerprint(unet),
        projection=torch.tensor(made.latent_rgb),
        card=made.card,
        notes=tuple(filter(None, [*made.notes, lent_vae, lent_text])),
    )


def network(kind: type[Network], made: Configuration, path: Path) -> Network:
    """A network as `made` describes it, with the weights in `path`."""
    config: Any = {UNet3D: made.unet, AutoencoderKL: made.vae, TextTower: made.text}[kind] or tower_in(path)
    return read_network(blank(kind, config), path)


def own_or_lent(kind: type[Network], found: Contents, made: Configuration, folders: list[Path]) -> tuple[Network, str]:
    """A network of the model itself or, where it has none, of another, and then a sentence about that."""
    path = weights(found, kind, {AutoencoderKL: made.files.ckpt_autoencoder, TextTower: made.files.ckpt_clip}[kind])
    if not os.path.exists(path):
        for other in stand_ins(found, kind, folders):
            for wanted in made, replace(made, text=None):  # a tower may have kept the layer that others have lost
                try:
                    return network(kind, wanted, other), f"It has no {WORDS[kind]}; that of {shown(other)} is used."
                except ModelError:  # of other dimensions, or broken: the next one may do
                    continue
    return network(kind, made, path), ""


def weights(found: Contents, kind: type[Network], named: str) -> Path:
    """The file with the weights of a network: the one of that name if they are in it, else whichever has them.

    Where none has, the file of that name all the same, so that its reader can say what is wrong with it.
    """
    path = called(found.folder, named)
    held = found.holding(kind)
    return path if path in held or not held else held[0]


def called(folder: Path, name: str) -> Path:
    """The file called `name`, or where there is none, one that differs only in its suffix."""
    path = folder / name
    return next((path for path in (path, *map(path.with_suffix, SUFFIXES)) if os.path.exists(path)), path)


def shown(path: Path) -> str:
    """A file as people find it: with the folder it is in."""
    return f"{path.parent.name}/{path.name}"


def fits(config: UNetConfig, path: Path) -> bool:
    """Whether the UNet in `path` has these dimensions."""
    status = path.stat()
    return _fits(config, path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=64)
def _fits(config: UNetConfig, path: Path, _size: int, _changed: int) -> bool:
    try:
        read_network(blank(UNet3D, config), path)
    except ModelError:
        return False
    return True

