"""The networks, and the model that they make together."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from t2v.models.autoencoder import AutoencoderKL
from t2v.models.text import TextTower
from t2v.models.unet import UNet3D
from t2v.schedule import Schedule


@dataclass(frozen=True)
class Model:
    """Everything `generate` needs to know of a model; the weights stay in their files until they are used."""

    name: str
    folder: Path
    unet: UNet3D
    vae: AutoencoderKL
    text: TextTower
    schedule: Schedule
    defaults: Mapping[str, Any]  # settings of a request that the user left open
    hash: str  # ten hex digits for the settings of a film, see checkpoint.fingerprint
    projection: Tensor  # c+1 3      from latents to colours -1..1 for the preview; the last row is added
    card: str = ""  # what its makers say about it, in a few words
    notes: tuple[str, ...] = ()  # what was missing or not as expected, and what is used instead; a sentence each
