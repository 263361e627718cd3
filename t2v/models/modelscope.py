"""ModelScope text2video: a UNet, an autoencoder, a text tower and configuration.json, in files of any name and format.

What is not in configuration.json is as published, and so is everything where there is none, but for small models,
whose dimensions then can only be those of a model beside them.
"""

import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from t2v.errors import ModelError
from t2v.models import Model
from t2v.models.assembly import assembled, fits
from t2v.models.configuration import FILE, Configuration, Files, read_configuration
from t2v.models.contents import SUFFIXES, Contents, contents, neighbours, size_of
from t2v.models.unet import UNet3D
from t2v.models.variants import variant_of

PUBLISHED = 1_411_233_860  # weights, of a byte each at the very least


def recognises(found: Contents) -> bool:
    """Whether files are meant to be a model of this format."""
    usual = Path(Files.ckpt_unet)
    names = {file.name for file in found.files}
    return bool(found.holding(UNet3D)) or os.path.isfile(found.path / FILE) or any(
        usual.with_suffix(suffix).name in names for suffix in SUFFIXES)


def configure(found: Contents, folders: Iterable[Path] = ()) -> Configuration:
    """What the model is. ModelError where configuration.json is broken."""
    variant = variant_of(found.path)
    usual = variant.defaults if variant else {}
    made = read_configuration(found.path, usual)
    if os.path.exists(found.path / FILE):
        return made
    small = [path for path in found.holding(UNet3D)[:1] if size_of(path) < PUBLISHED]
    for other in neighbours(found, folders) if small and not fits(made.unet, small[0]) else ():
        try:
            lent = read_configuration(other.path, usual)
        except ModelError:
            continue
        if fits(lent.unet, small[0]):
            return replace(lent, notes=(f"It has no {FILE}; that of {other.path.name} is used.",))
    return replace(made, notes=(f"It has no {FILE}; it is taken for the published model.",))


def load(folder: Path, name: str = "") -> Model:
    """The model in `folder`, ready; films will say that `name` made them. ModelError where it is not."""
    found = contents(folder)
    return assembled(found, configure(found), name)
