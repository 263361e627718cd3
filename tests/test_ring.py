"""A network as a ring: it cannot tell where a film begins."""

from typing import Any

import pytest
import torch

from t2v.models.unet import UNet3D, UNetConfig
from t2v.ring import ring
from tests.networks import assert_equal, normal, randomised

TINY = UNetConfig(
    dim=32, context_dim=16, dim_mult=(1, 2), num_heads=2, head_dim=16, res_blocks=1, attn_scales=(1.0, 0.5))


@pytest.fixture(scope="module")
def net() -> UNet3D:
    return randomised(UNet3D(TINY))


def args(frames: int) -> tuple[Any, ...]:
    return normal(1, 4, frames, 4, 6), torch.tensor([321.0]), normal(1, 7, 16, seed=1)


@pytest.mark.parametrize("frames", [2, 3, 8])
def test_a_film_that_begins_elsewhere_gives_the_same_beginning_elsewhere(net: UNet3D, frames: int) -> None:
    x, *rest = args(frames)
    with ring(net):
        plain = net(x, *rest)
        for shift in range(1, frames):
            assert_equal(net(x.roll(shift, dims=2), *rest).roll(-shift, dims=2), plain)


def test_the_seam_makes_a_difference_otherwise(net: UNet3D) -> None:
    x, *rest = args(8)
    assert (net(x.roll(1, dims=2), *rest).roll(-1, dims=2) - net(x, *rest)).abs().max() > 0.05


def test_the_network_is_as_it_was_afterwards_even_after_an_error(net: UNet3D) -> None:
    before = net(*args(8))
    with pytest.raises(RuntimeError), ring(net):
        net(normal(1, 3, 8, 4, 6), *args(8)[1:])  # latents of three channels
    assert torch.equal(net(*args(8)), before)
