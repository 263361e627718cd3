"""The numbers that the memory plan takes to be alive in the UNet, against a count of every tensor of the real one."""

import math
from dataclasses import replace
from functools import cache
from itertools import product
from unittest.mock import patch

import pytest
import torch

from t2v.alive import Activations
from t2v.layout import size_of
from t2v.memory import SMALL, UNetRung
from t2v.models import fused, transformer
from t2v.models.unet import UNet3D, UNetConfig
from t2v.needs import Film, published_sizes, unet_bytes
from tests import fixtures
from tests.footprint import DEVICE, HALF, Footprint, Size, as_on_device, empty, published, step
from tests.networks import normal
from tests.test_needs import machine
from training import train

NARROW = UNetConfig(dim=64, context_dim=64, head_dim=32, num_heads=8)
UNETS: dict[str, tuple[UNetConfig, Size]] = {
    "tiny": (fixtures.UNET, (4, 32, 32)),
    "sides that do not halve": (fixtures.UNET, (5, 18, 34)),
    "demo": (train.UNET, (8, 16, 16)),
    "demo, large": (train.UNET, (24, 32, 32)),
    "narrow stem": (replace(NARROW, num_heads=1), (8, 32, 32)),
    "nothing along time": (replace(NARROW, temporal_attention=False), (8, 32, 32)),
    "no attention above": (replace(NARROW, temporal_attention=False, attn_scales=(0.25,)), (8, 32, 32)),
    "wide below": (replace(NARROW, num_heads=1, dim_mult=(1, 8)), (8, 32, 32)),
}


@cache
def network(config: UNetConfig) -> UNet3D:
    net = empty(lambda: UNet3D(config), HALF)
    assert isinstance(net, UNet3D)
    return net


def counted(work: Activations) -> int:
    """Bytes alive at the peak beside the weights, and beside what has been made of the text."""
    net, config = network(work.config), work.config
    with as_on_device(not work.copied), Footprint(net.parameters()) as footprint:
        text = net.heard(torch.empty(work.films, 77, config.context_dim, dtype=HALF, device=DEVICE))
        before = footprint.peak = footprint.now
        x = torch.empty(1, config.in_dim, work.frames, work.height, work.width, dtype=HALF, device=DEVICE)
        net(x, torch.empty(1, device=DEVICE), text, work.at_once)
    return footprint.peak - before


@pytest.mark.parametrize("name", UNETS)
def test_what_is_alive_is_foretold(name: str) -> None:
    """For one film and both halves of guidance, whole layers and layers in parts, with kernels and without."""
    config, size = UNETS[name]
    for films, copied in product((1, 2), (False, True)):
        whole = Activations(config, *size, films=films, copied=copied)
        for work in (whole, replace(whole, at_once=whole.peak / 8)):
            assert 2 * work.peak == pytest.approx(counted(work), rel=0.1), work


def test_what_is_alive_on_a_cpu_is_foretold() -> None:
    """Transformers go in parts there, whatever they may hold; and say the same."""
    config, size, said = replace(NARROW, num_heads=1, dim_mult=(1, 2), res_blocks=1), (8, 24, 24), list[torch.Tensor]()
    net = UNet3D(config).eval().requires_grad_(False)
    text = net.heard(normal(2, 77, config.context_dim))
    task = normal(1, config.in_dim, *size), torch.tensor([501.0]), text
    for held in (math.inf, 2e6):
        parts = patch.multiple(transformer, CACHED=held, ROWS=1)
        with parts, Footprint(net.parameters()) as footprint, torch.no_grad():
            footprint.peak = footprint.now
            said.append(net(*task))
            foretold = Activations(config, *size, films=2, device="cpu").peak
        assert 4 * foretold == pytest.approx(footprint.peak, rel=0.1), held
    torch.testing.assert_close(*said, atol=2e-5, rtol=0)


@pytest.mark.parametrize(("size", "films", "at_once"), [
    ((16, 32, 32), 2, math.inf), ((24, 40, 72), 2, SMALL), ((125, 32, 32), 1, SMALL / 4)], ids=str)
def test_it_is_for_the_published_model(size: Size, films: int, at_once: float) -> None:
    work = Activations(UNetConfig(), *size, films=films, at_once=at_once)
    assert 2 * work.peak == pytest.approx(counted(work), rel=0.1)


@pytest.mark.parametrize("rung", [
    UNetRung(), UNetRung(pair=False), UNetRung(0.5, at_once=SMALL), UNetRung(0, at_once=SMALL)], ids=repr)
def test_the_plan_foretells_weights_and_all_of_a_step(rung: UNetRung) -> None:
    resident = None if rung.share == 1 else int(rung.share * size_of(published(UNet3D, torch.bfloat16), HALF))
    size = (16, 32, 32)
    cost = step(size, told=2 if rung.pair else 1, at_once=rung.at_once, resident=resident)
    with patch.object(fused, "ready", lambda _: True):
        film = Film(256, 256, 16, guided=True, started=False)
        assert sum(unet_bytes(published_sizes(), film, rung, machine("cuda"), 0)) == pytest.approx(cost.peak, rel=0.1)
