"""At full size, the networks have exactly the names and shapes of the published files."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL as DiffusersAutoencoder
from diffusers import UNet3DConditionModel
from torch import nn

from t2v.models.autoencoder import AutoencoderKL
from t2v.models.text import TextTower
from t2v.models.unet import UNet3D
from tests.mappings import autoencoder_to_diffusers, unet_to_diffusers

KEYS = Path(__file__).parent / "keys"
Shapes = dict[str, tuple[int, ...]]


def published(table: str) -> Shapes:
    """Names and shapes in `keys/<table>.tsv`: `name TAB 3x3`, or `scalar`; `#` starts a comment."""
    lines = (KEYS / f"{table}.tsv").read_text().splitlines()
    rows = (line.split("\t") for line in lines if not line.startswith("#"))
    return {name: () if shape == "scalar" else tuple(map(int, shape.split("x"))) for name, shape in rows}


def on_meta(make: Callable[..., Any], **arguments: object) -> Any:
    """A network of full size that has shapes but no numbers."""
    with torch.device("meta"):
        return make(**arguments)


def shapes(net: nn.Module) -> Shapes:
    return {key: tuple(value.shape) for key, value in net.state_dict().items()}


def test_the_unet_has_the_published_names_and_shapes() -> None:
    ours = shapes(on_meta(UNet3D))
    assert ours == published("unet_raw")
    assert sum(map(math.prod, ours.values())) == 1_411_233_860


def test_the_autoencoder_has_the_published_names_and_shapes() -> None:
    ours = shapes(on_meta(AutoencoderKL))
    assert ours == published("vae_raw")
    assert sum(map(math.prod, ours.values())) == 83_653_863


def test_the_text_tower_leaves_out_only_what_it_never_uses() -> None:
    table = published("open_clip_text")
    unused = {name: table.pop(name) for name in ("logit_scale", "text_projection")}
    assert shapes(on_meta(TextTower)) == table
    assert unused == {"logit_scale": (), "text_projection": (1024, 1024)}


def test_the_unet_maps_one_to_one_onto_that_of_diffusers() -> None:
    ours = on_meta(UNet3D)
    mapped = unet_to_diffusers(ours.state_dict(), ours.config)
    assert {key: tuple(value.shape) for key, value in mapped.items()} == shapes(on_meta(UNet3DConditionModel))
    assert len(mapped) == len(ours.state_dict())


def test_the_autoencoder_maps_one_to_one_onto_that_of_diffusers() -> None:
    ours = on_meta(AutoencoderKL)
    mapped = autoencoder_to_diffusers(ours.state_dict(), ours.config)
    theirs = on_meta(
        DiffusersAutoencoder, layers_per_block=2, block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4)
    assert {key: tuple(value.shape) for key, value in mapped.items()} == shapes(theirs)
    assert len(mapped) == len(ours.state_dict())


@pytest.mark.parametrize("make", [UNet3D, AutoencoderKL, TextTower])
def test_nothing_but_weights_is_kept(make: type[nn.Module]) -> None:
    net = on_meta(make)
    assert set(net.state_dict()) == {name for name, _ in net.named_parameters()}
    assert not list(net.named_buffers())
