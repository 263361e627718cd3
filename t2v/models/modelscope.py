"""ModelScope text2video: a folder of configuration.json and three weight files."""

import os
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch

from t2v.errors import ModelError
from t2v.models import Model
from t2v.models.autoencoder import AutoencoderKL
from t2v.models.checkpoint import State, _Uninitialised, fingerprint, load_network, part, read
from t2v.models.configuration import FILE, Files, read_configuration
from t2v.models.text import TextConfig, TextTower
from t2v.models.unet import UNet3D

SUFFIXES = (".safetensors", ".pth", ".ckpt", ".bin", ".pt")

# Where the networks are in files that hold more than one, and how their own names begin.
UNET = partial(part, prefixes=("model.diffusion_model.", "module.", ""), tops=("",))
AUTOENCODER = partial(part, prefixes=("first_stage_model.", ""),
                      tops=("encoder.", "decoder.", "quant_conv.", "post_quant_conv."))
TEXT = partial(part, prefixes=("cond_stage_model.model.", ""),
               tops=("transformer.resblocks.", "token_embedding.", "positional_embedding", "ln_final."))


def recognises(folder: Path) -> bool:
    """Whether a folder is meant to be a model of this format."""
    return os.path.isfile(folder / FILE) or os.path.isfile(weight_file(folder, Files.ckpt_unet))


def describe(folder: Path) -> dict[str, Any]:
    """What a model is made for, without a look at its weights."""
    configuration = read_configuration(folder)
    return {**asdict(configuration.defaults), "card": configuration.card}


def load(folder: Path, name: str = "") -> Model:
    """The model in `folder`, checked and ready; films will say that `name` made them. ModelError where it is not."""
    configuration = read_configuration(folder)
    files = configuration.files

    path = weight_file(folder, files.ckpt_unet)
    unet = load_network(UNet3D, configuration.unet, read(path, UNET), path)

    path = weight_file(folder, files.ckpt_autoencoder)
    vae = load_network(AutoencoderKL, configuration.vae, read(path, AUTOENCODER), path)

    path = weight_file(folder, files.ckpt_clip)
    state = read(path, TEXT)
    text = load_network(TextTower, configuration.text or published_tower(state), state, path)

    return Model(
        name=name or folder.name,
        folder=folder,
        unet=unet,
        vae=vae,
        text=text,
        schedule=configuration.schedule(),
        defaults=asdict(configuration.defaults),
        hash=fingerprint(unet),
        projection=torch.tensor(configuration.latent_rgb),
        card=configuration.card,
    )


def networks(folder: Path) -> tuple[UNet3D, AutoencoderKL, TextTower]:
    """The networks of a model without their weights, for whoever wants to know how large they are."""
    made = read_configuration(folder)
    with torch.device("meta"), _Uninitialised():
        return UNet3D(made.unet), AutoencoderKL(made.vae), TextTower(made.text)


def weight_file(folder: Path, name: str) -> Path:
    """The file called `name`, or where there is none, one that differs only in its suffix."""
    if not name.strip(".") or name != Path(name).name:
        raise ModelError(folder / FILE, f"names {name!r}, no file of its own folder", "Download it again")
    path = folder / name
    return next((path for path in (path, *map(path.with_suffix, SUFFIXES)) if os.path.exists(path)), path)


def published_tower(state: State) -> TextConfig:
    """The published text tower with as many layers as there are; converters drop the last, which is not used."""
    layers = sum(name.endswith(".ln_1.weight") for name in state) or TextConfig.layers
    return TextConfig(layers=layers, skip_last=int(layers == TextConfig.layers))
