"""Convolutions by fewer products, against torch's in float64, and where they are taken."""

from unittest.mock import patch

import pytest
import torch
import torch.nn.functional as F

from t2v.alive import Activations
from t2v.models import winograd
from t2v.models.layers import FrameConv, TimeConv
from t2v.models.unet import UNet3D, UNetConfig
from tests.footprint import Footprint
from tests.networks import normal


@pytest.mark.parametrize("held", [1.0, 3e3, 1e9])
@pytest.mark.parametrize("size", [(1, 1), (2, 2), (3, 5), (8, 6), (7, 4)])
def test_pictures_of_all_sizes_and_in_all_parts_agree_with_float64(size: tuple[int, int], held: float) -> None:
    x, kernel, bias = normal(3, *size, 24), normal(40, 24, 3, 3, seed=1) / 15, normal(40, seed=2)
    with patch.object(winograd, "HELD", held):
        y = winograd.over_space(x, kernel, bias)
    exact = F.conv2d(x.double().movedim(-1, 1), kernel.double(), bias.double(), padding=1).movedim(1, -1)
    assert y.is_contiguous()
    torch.testing.assert_close(y, exact.float(), atol=5e-6, rtol=0)


@pytest.mark.parametrize("held", [1.0, 1e3, 1e9])
@pytest.mark.parametrize("frames", [1, 2, 5, 16])
def test_films_of_all_lengths_and_in_all_parts_agree_with_float64(frames: int, held: float) -> None:
    x, kernel, bias = normal(2, frames, 7, 24), normal(40, 24, 3, seed=1) / 9, normal(40, seed=2)
    with patch.object(winograd, "HELD", held):
        y = winograd.over_time(x, kernel, bias)
    exact = F.conv1d(x.double().permute(0, 2, 3, 1).flatten(0, 1), kernel.double(), bias.double(), padding=1)
    assert y.is_contiguous()
    torch.testing.assert_close(y, exact.view(2, 7, 40, frames).permute(0, 3, 1, 2).float(), atol=5e-6, rtol=0)


def test_wide_layers_on_a_cpu_take_it_and_say_the_same() -> None:
    """With what the timestep says, too; not where gradients are recorded, nor in half precision."""
    space, time, x = FrameConv(256, 320, 3, padding=1), TimeConv(512), normal(1, 4, 12, 12, 512)
    space.requires_grad_(False)
    time.requires_grad_(False)
    shift, narrow = normal(1, 320), x[..., :256].contiguous()
    with patch.object(winograd, "pays", lambda *_: False):
        exact = space(narrow, shift), time(x)
    with patch.object(winograd, "over_space", wraps=winograd.over_space) as over_space, \
            patch.object(winograd, "over_time", wraps=winograd.over_time) as over_time:
        torch.testing.assert_close((space(narrow, shift), time(x)), exact, atol=2e-5, rtol=0)
        assert (over_space.call_count, over_time.call_count) == (1, 1)
        space(narrow.bfloat16()), time(x.bfloat16())
        assert space.bias is not None
        space.bias.requires_grad_(True)
        space(narrow, shift).sum().backward()
        space.requires_grad_(True)
        time.requires_grad_(True)
        space(narrow, shift).sum().backward()
        time(x).sum().backward()
        assert (over_space.call_count, over_time.call_count) == (1, 1)


def test_what_it_holds_is_foretold() -> None:
    """The memory plan for a CPU knows it: a network with layers that are wide and see many places."""
    config = UNetConfig(dim=256, context_dim=64, head_dim=64, num_heads=1, dim_mult=(1, 2), res_blocks=1,
                        temporal_attention=False, attn_scales=())
    net = UNet3D(config).eval().requires_grad_(False)
    with Footprint(net.parameters()) as footprint, torch.no_grad():
        text = net.heard(normal(1, 77, config.context_dim))
        footprint.peak = footprint.now
        net(normal(1, config.in_dim, 4, 16, 16), torch.tensor([501.0]), text)
    work = Activations(config, 4, 16, 16, device="cpu")
    assert 4 * work.peak == pytest.approx(footprint.peak, rel=0.1)
