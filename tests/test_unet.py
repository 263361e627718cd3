"""UNet3D beside the two published implementations, modelscope's and diffusers', and what follows from its design.

Every width is a multiple of 64. At 32 each of the 32 groups of a norm would be a single channel, and whatever is
constant in a channel (biases, the timestep!) would be normalised away before it could be compared.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from typing import Any
from unittest.mock import patch

import pytest
import torch
import torch.nn.functional as F
from diffusers.models.embeddings import get_timestep_embedding
from einops import rearrange, repeat
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from t2v.layout import size_of
from t2v.models import layers
from t2v.models.transformer import SpatialBlock, TemporalBlock
from t2v.models.unet import ResBlock, UNet3D, UNetConfig, sinusoidal
from t2v.placement import placed
from tests.networks import assert_casts_at_use, assert_equal, gradients, normal, randomised
from tests.oracles import modelscope_module
from tests.peers import diffusers_unet, modelscope_unet, with_modelscope

SMALL = UNetConfig(dim=64, dim_mult=(1, 2), num_heads=3, head_dim=16, res_blocks=1, attn_scales=(1.0, 0.5))
CONFIGS = {
    "small": SMALL,
    "two blocks a level": replace(SMALL, res_blocks=2, num_heads=8, head_dim=32),
    "four levels, as published": UNetConfig(dim=64, num_heads=8, head_dim=32, res_blocks=1, dim_mult=(1, 2, 2, 2)),
    "narrower below, wider between": replace(SMALL, dim_mult=(1, 3, 2), attn_scales=(0.25,)),
    "attention in the middle only": replace(SMALL, attn_scales=(), num_heads=1, head_dim=64),
    "one level": replace(SMALL, dim_mult=(1,), num_heads=2),
    "other channels in and out": replace(SMALL, in_dim=9, out_dim=5, dim_mult=(1, 1), attn_scales=(0.5,)),
}
TIMESTEPS = torch.tensor([981, 20])

pytestmark = pytest.mark.usefixtures("no_grad")


@pytest.fixture
def no_grad() -> Any:
    with torch.no_grad():
        yield


@cache
def unet(config: UNetConfig, dtype: torch.dtype = torch.float32) -> UNet3D:
    return randomised(UNet3D(config)).to(dtype)


@cache
def modelscope(config: UNetConfig) -> Any:
    return modelscope_unet(unet(config))


@cache
def diffusers(config: UNetConfig, dtype: torch.dtype = torch.float32) -> Any:
    return diffusers_unet(unet(config, dtype)).to(dtype)


def inputs(config: UNetConfig, *size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Two films of `size` f h w, each at its own timestep and with its own text of seven tokens."""
    return normal(2, config.in_dim, *size), TIMESTEPS, normal(2, 7, config.context_dim, seed=1)


@pytest.mark.parametrize("name", CONFIGS)
def test_it_equals_modelscope(name: str) -> None:
    net = unet(CONFIGS[name])
    args = inputs(net.config, 3, 8, 16)
    assert_equal(net(*args), modelscope(net.config)(*args))


@pytest.mark.parametrize("name", CONFIGS)
def test_it_equals_diffusers(name: str) -> None:
    net = unet(replace(CONFIGS[name], context_dim=40))
    args = inputs(net.config, 3, 8, 8)
    assert_equal(net(*args), diffusers(net.config)(*args).sample)


def test_the_first_level_may_be_wider_than_the_stem() -> None:
    net = unet(replace(SMALL, dim_mult=(2, 3)))
    args = inputs(net.config, 3, 8, 8)
    assert_equal(net(*args), modelscope(net.config)(*args))


@pytest.mark.parametrize("frames", [1, 2, 5, 16, 33])
def test_any_number_of_frames_runs_as_in_both(frames: int) -> None:
    net = unet(SMALL)
    args = inputs(net.config, frames, 4, 4)
    ours = net(*args)
    assert_equal(ours, modelscope(net.config)(*args))
    assert_equal(ours, diffusers(net.config)(*args).sample)


@pytest.mark.parametrize("size", [(5, 7), (9, 12), (1, 1), (2, 11), (6, 3)])
def test_any_height_and_width_runs_as_in_diffusers(size: tuple[int, int]) -> None:
    config = replace(SMALL, dim_mult=(1, 2, 1))  # halves twice
    x, timestep, context = inputs(config, 3, *size)
    args = x.double(), timestep, context.double()  # norms of a single position magnify rounding
    assert_equal(unet(config, torch.float64)(*args), diffusers(config, torch.float64)(*args).sample, 1e-9)


def test_without_temporal_attention_it_equals_modelscope() -> None:
    net = unet(replace(SMALL, temporal_attention=False))
    args = inputs(net.config, 5, 8, 8)
    assert_equal(net(*args), modelscope(net.config)(*args))
    assert len(net.state_dict()) < len(unet(SMALL).state_dict())


@pytest.mark.parametrize("timestep", [0.0, 0.25, 41.62, 957.38, 998.999])
def test_fractional_timesteps_run_as_in_both(timestep: float) -> None:
    net = unet(SMALL)
    x, _, context = inputs(net.config, 2, 4, 4)
    args = x, torch.tensor([timestep, timestep / 2]), context
    ours = net(*args)
    assert_equal(ours, modelscope(net.config)(*args))
    assert_equal(ours, diffusers(net.config)(*args).sample)


@pytest.mark.parametrize("frames", [1, 6])
def test_in_float64_only_rounding_is_left_between_the_three(frames: int) -> None:
    net = unet(SMALL, torch.float64)
    x, timestep, context = inputs(net.config, frames, 4, 8)
    args = x.double(), timestep, context.double()
    module: Any = modelscope_module("unet_sd")
    module.sinusoidal_embedding = lambda timestep, dim: sinusoidal(timestep, dim).double()  # theirs rounds otherwise
    assert_equal(net(*args), with_modelscope(net, module).double()(*args), 1e-13)
    assert_equal(net(*args), diffusers(net.config, torch.float64)(*args).sample, 1e-13)


def test_films_of_a_batch_do_not_know_of_each_other() -> None:
    net = unet(SMALL)
    args = inputs(net.config, 3, 4, 6)
    alone = torch.cat([net(*(each[i : i + 1] for each in args)) for i in range(2)])
    assert_equal(net(*args), alone, 1e-5)


def test_the_timestep_and_the_text_are_heard() -> None:
    net = unet(SMALL)
    x, timestep, context = inputs(net.config, 3, 4, 4)
    said = net(x, timestep, context)
    assert (net(x, timestep - 10, context) - said).abs().max() > 0.01
    assert (net(x, timestep, context.flip(0)) - said).abs().max() > 0.01


def test_every_weight_takes_part() -> None:
    net = randomised(UNet3D(SMALL)).requires_grad_()
    with torch.enable_grad():
        net(*inputs(net.config, 3, 4, 4)).square().sum().backward()
    strengths = gradients(net)
    assert min(strengths.values()) > 1e-3, min(strengths, key=strengths.__getitem__)


# Text that changes within a film


def test_the_same_text_for_every_frame_is_the_text_of_the_film() -> None:
    net = unet(SMALL)
    x, timestep, context = inputs(net.config, 5, 4, 6)
    assert_equal(net(x, timestep, repeat(context, "b n d -> b f n d", f=5)), net(x, timestep, context), 5e-6)


@pytest.mark.parametrize("name", ["small", "four levels, as published"])
def test_text_for_each_frame_equals_modelscope_told_frame_by_frame(name: str) -> None:
    net = unet(CONFIGS[name])
    x, timestep, context = inputs(net.config, 4, 8, 8)
    frames = normal(2, 4, 7, 1024, seed=2)
    module: Any = modelscope_module("unet_sd")
    spatial = module.SpatialTransformer.forward

    def told(self: nn.Module, x: Tensor, context: Tensor) -> Any:  # noqa: ARG001
        return spatial(self, x, rearrange(frames, "b f n d -> (b f) n d"))

    module.SpatialTransformer.forward = told
    assert_equal(net(x, timestep, frames), with_modelscope(net, module)(x, timestep, context))


def frames_changed_by_the_text_of_frame_1(net: UNet3D) -> list[bool]:
    x, timestep, _ = inputs(net.config, 4, 4, 4)
    context = normal(2, 4, 7, 1024)
    before = net(x, timestep, context)
    context[:, 1] = normal(2, 7, 1024, seed=3)
    change = (net(x, timestep, context) - before).abs()
    return [bool(each > 1e-3) for each in rearrange(change, "b c f h w -> f (b c h w)").amax(dim=1)]


def silence_temporal_convolutions(net: UNet3D) -> UNet3D:
    for name, weight in net.named_parameters():
        if ".temopral_conv.conv4.3." in name:
            weight.zero_()
    return net


def test_the_text_of_a_frame_reaches_the_others_only_along_time() -> None:
    assert frames_changed_by_the_text_of_frame_1(unet(SMALL)) == [True] * 4
    timeless = silence_temporal_convolutions(randomised(UNet3D(replace(SMALL, temporal_attention=False))))
    assert frames_changed_by_the_text_of_frame_1(timeless) == [False, True, False, False]


def test_only_the_temporal_convolutions_know_the_order_of_frames() -> None:
    net = randomised(UNet3D(SMALL))
    x, timestep, context = inputs(net.config, 5, 4, 4)
    order = [3, 0, 4, 2, 1]
    assert (net(x[:, :, order], timestep, context) - net(x, timestep, context)[:, :, order]).abs().max() > 0.01
    silence_temporal_convolutions(net)
    assert_equal(net(x[:, :, order], timestep, context), net(x, timestep, context)[:, :, order], 1e-5)


# Precision and parts


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_weights_compute_in_float32_as_if_converted_beforehand(dtype: torch.dtype) -> None:
    net = randomised(UNet3D(SMALL))
    assert_casts_at_use(net, dtype, lambda: net(*inputs(net.config, 3, 5, 4)))


def test_in_bfloat16_it_is_the_same_but_for_rounding() -> None:
    net = unet(SMALL)
    x, timestep, context = inputs(net.config, 3, 4, 4)
    ours = net(x.bfloat16(), timestep, context)
    assert ours.dtype == torch.bfloat16
    error = (ours.float() - net(x, timestep, context)).square().mean().sqrt()
    assert 1e-5 < error < 0.05


@pytest.mark.parametrize("per_frame", [False, True])
@pytest.mark.parametrize("limit", [1, 7, 30, 100])
def test_attention_in_parts_changes_nothing(monkeypatch: pytest.MonkeyPatch, limit: int, per_frame: bool) -> None:
    net = unet(SMALL)
    x, timestep, context = inputs(net.config, 3, 5, 4)
    if per_frame:
        context = normal(2, 3, 7, 1024)
    whole = net(x, timestep, context)
    monkeypatch.setattr(layers, "MAX_ROWS", limit)
    assert_equal(net(x, timestep, context), whole, 1e-5)


# Lean, and the same


CPU = torch.device("cpu")
HALVING = replace(SMALL, dim_mult=(1, 2, 1), attn_scales=(1.0, 0.5), context_dim=40)  # twice
MAGNIFIED = 1e-10  # rounding of float64 behind norms of a single position
AT_ONCE = 1.0, 1e3, 5e3, 2e4, 1e5, 1e6, math.inf  # numbers; a position of these networks holds up to 2,048 in a layer


@st.composite
def tasks(draw: Callable[..., Any], dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    """One or two films of any size, told one thing or two, for the clip or for each frame."""
    frames, height, width = draw(st.integers(1, 4)), draw(st.integers(1, 6)), draw(st.integers(1, 6))
    films, told = draw(st.sampled_from([(1, 1), (1, 2), (2, 2)]))
    text = (told, frames, 3, 40) if draw(st.booleans()) else (told, 3, 40)
    return normal(films, 4, frames, height, width).to(dtype), TIMESTEPS[:films], normal(*text, seed=1).to(dtype)


def plainly(net: UNet3D, x: Tensor, timestep: Tensor, context: Tensor) -> Tensor:
    """One film, told one thing, after the other; nothing in parts, nothing remembered."""
    told = len(context)
    x, timestep = x.expand(told, -1, -1, -1, -1), timestep.expand(told)
    return torch.cat([net(x[i : i + 1], timestep[i : i + 1], context[i : i + 1]) for i in range(told)])


@given(task=tasks(torch.float64), at_once=st.sampled_from(AT_ONCE) | st.floats(1, 1e6))
@settings(max_examples=15, deadline=None)
def test_in_parts_of_any_size_it_is_the_same_but_for_rounding(task: tuple[Tensor, ...], at_once: float) -> None:
    net = unet(HALVING, torch.float64)
    torch.testing.assert_close(net(*task, at_once), plainly(net, *task), atol=MAGNIFIED, rtol=0)


@given(task=tasks(), at_once=st.sampled_from(AT_ONCE), share=st.none() | st.floats(0, 1), heard=st.booleans())
@settings(max_examples=10, deadline=None)
def test_wherever_weights_stand_and_in_whatever_parts_it_works_it_says_the_same(
    task: tuple[Tensor, ...], at_once: float, share: float | None, heard: bool
) -> None:
    # In float32 norms of a single position would magnify rounding; how much it is, the next test knows.
    net, (x, timestep, context) = unet(HALVING, torch.float64), task
    x, context = x.double(), context.double()
    resident = None if share is None else int(share * size_of(net, torch.float64))
    with placed(net, CPU, torch.float64, resident):
        text = net.heard(context) if heard else context
        lean = [net(x, timestep, text, at_once) for _ in range(2)]
    for said in lean:
        torch.testing.assert_close(said, plainly(net, x, timestep, context), atol=MAGNIFIED, rtol=0)


@pytest.mark.parametrize("told", [1, 2])
@pytest.mark.parametrize("share", [None, 0.0, 0.5, 1.0])
@pytest.mark.parametrize("at_once", [1e3, 2e4, math.inf])
def test_in_float32_every_way_is_modelscope_s(at_once: float, share: float | None, told: int) -> None:
    net = unet(SMALL)
    x, timestep, context = inputs(net.config, 3, 5, 4) if share else inputs(net.config, 3, 8, 4)
    x, timestep, context = x[:1], timestep[:1], context[:told]
    theirs = theirs_told(share is not None and share > 0, told)
    with placed(net, CPU, torch.float32, None if share is None else int(share * size_of(net, torch.float32))):
        assert_equal(net(x, timestep, net.heard(context), at_once), theirs)


@cache
def theirs_told(odd: bool, told: int) -> Tensor:
    """What modelscope says of one film; what diffusers does, where the size is odd, which modelscope cannot take."""
    net = unet(SMALL)
    x, timestep, context = inputs(net.config, 3, *((5, 4) if odd else (8, 4)))
    x, timestep = x[:1].expand(told, -1, -1, -1, -1), timestep[:1].expand(told)
    if odd:
        return diffusers(net.config)(x, timestep, context[:told]).sample
    return modelscope(net.config)(x, timestep, context[:told])


@pytest.mark.parametrize("at_once", [1e3, math.inf])
@pytest.mark.parametrize("told", [1, 2])
def test_what_was_heard_before_is_heard_to_the_last_bit(told: int, at_once: float) -> None:
    net = unet(SMALL)
    x, timestep, context = inputs(net.config, 3, 4, 4)
    x, timestep, context = x[:1], timestep[:1], context[:told]
    assert torch.equal(net(x, timestep, net.heard(context), at_once), net(x, timestep, context, at_once))


@pytest.mark.parametrize("at_once", [1e3, math.inf])
def test_a_film_told_two_things_is_two_films_told_one_each(at_once: float) -> None:
    net = unet(SMALL)
    x, timestep, context = inputs(net.config, 3, 4, 4)
    said = net(x[:1], timestep[:1], context, at_once)
    assert_equal(said, net(x[:1].expand(2, -1, -1, -1, -1), timestep[:1].expand(2), context), 1e-5)
    assert (said[0] - said[1]).abs().max() > 0.01


@contextmanager
def counted(layers: list[nn.Module]) -> Iterator[list[nn.Module]]:
    """The layers of some that are called."""
    calls: list[nn.Module] = []
    hooks = [layer.register_forward_hook(lambda layer, *_: calls.append(layer)) for layer in layers]
    yield calls
    for hook in hooks:
        hook.remove()


def test_the_text_is_heard_once_for_all_steps_and_parts() -> None:
    net = unet(SMALL)
    x, timestep, context = inputs(net.config, 3, 4, 4)
    asked = [layer for block in net.modules() if isinstance(block, SpatialBlock)
             for layer in (block.attn2.to_k, block.attn2.to_v)]
    with counted(asked) as calls:
        text = net.heard(context)
        assert calls == asked
        for at_once in (1e3, math.inf):
            net(x, timestep, text, at_once)
        assert calls == asked
        net(x, timestep, context, 1e3)
        assert calls == asked + asked  # also if it was not heard before: once, whatever the parts


def test_weights_side_by_side_are_one_product_for_each_attention_and_one_for_all_timesteps() -> None:
    net = unet(SMALL)
    args = inputs(net.config, 3, 4, 4)
    blocks = [block for block in net.modules() if isinstance(block, SpatialBlock | TemporalBlock)]
    spatial = sum(isinstance(block, SpatialBlock) for block in blocks)
    residual = sum(isinstance(block, ResBlock) for block in net.modules())

    def work() -> tuple[Tensor, int]:
        with patch.object(F, "linear", wraps=F.linear) as linear:
            return net(*args), linear.call_count

    apart, many = work()
    with placed(net, CPU, torch.float32, 10**9):
        packed, few = work()
    attentions = 2 * len(blocks) - spatial  # those that look at a film; the others look at the text
    assert many - few == 2 * attentions + residual - 1
    assert_equal(packed, apart, 1e-5)


@pytest.mark.parametrize("at_once", [1e3, math.inf])
def test_gradients_are_those_of_a_network_in_one_piece(at_once: float) -> None:
    net = randomised(UNet3D(SMALL)).double().requires_grad_()
    x, timestep, context = inputs(net.config, 2, 3, 4)
    found = []
    for parts in (math.inf, at_once):
        net.zero_grad()
        with torch.enable_grad():
            net(x.double(), timestep, context.double(), parts).square().sum().backward()
        found.append({name: weight.grad for name, weight in net.named_parameters()})
    for name, expected in found[0].items():
        assert expected is not None
        torch.testing.assert_close(found[1][name], expected, atol=1e-9, rtol=1e-9)


# The embedding of the timestep


@pytest.mark.parametrize("dim", [32, 64, 320])
def test_the_embedding_of_a_timestep_equals_that_of_diffusers(dim: int) -> None:
    timesteps = torch.cat([torch.arange(1000.0), torch.arange(1000) + 0.37])
    theirs = get_timestep_embedding(timesteps, dim, flip_sin_to_cos=True, downscale_freq_shift=0)
    assert_equal(sinusoidal(timesteps, dim), theirs, 1e-6)


def test_the_embedding_of_a_timestep_is_cosines_then_sines_of_its_multiples() -> None:
    timesteps, half = torch.linspace(0, 999, 777), 160
    angles = timesteps.double()[:, None] * 10_000 ** (-torch.arange(half, dtype=torch.float64) / half)
    expected = torch.cat([angles.cos(), angles.sin()], dim=1)
    assert_equal(sinusoidal(timesteps, 2 * half).double(), expected, 2e-4)  # angles up to 999 in float32


def test_the_embedding_moves_evenly_between_whole_timesteps() -> None:
    timesteps = torch.arange(0, 999.9, 1 / 16)
    steps = sinusoidal(timesteps, 64).diff(dim=0)
    speeds = torch.hypot(*steps.chunk(2, dim=1)) * 16  # every pair (cos, sin) walks a circle at its own frequency
    frequencies = 10_000 ** (-torch.arange(32) / 32)
    torch.testing.assert_close(speeds, frequencies.expand_as(speeds), atol=3e-3, rtol=0)
