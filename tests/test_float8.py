"""Weights of 8 bits: as close as 4 significant bits can be, half the bytes, and gone without a trace."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from t2v import float8
from t2v.extra import Strength
from t2v.hosts.standalone import Standalone
from t2v.layout import Layout, layout_of, size_of, taken, weights_of
from t2v.lean import LeanUNet
from t2v.memory import MemoryPlan
from t2v.models.layers import Linear, side_by_side, together
from t2v.models.lora.merge import mixed, mixture
from t2v.models.lora.parts import Change, Target
from t2v.models.unet import UNet3D
from t2v.needs import Film, counted, published_sizes, unet_bytes
from t2v.placement import placed
from t2v.settings import Settings
from tests import fixtures
from tests.networks import normal, randomised

CPU, HALF, F8 = torch.device("cpu"), torch.float16, torch.float8_e4m3fn


@pytest.fixture(autouse=True)
def inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


def unet(dtype: torch.dtype = torch.float32) -> UNet3D:
    return randomised(UNet3D(fixtures.UNET)).to(dtype)


def run(net: nn.Module, dtype: torch.dtype = torch.float32) -> Tensor:
    return net(normal(1, 4, 2, 4, 4).to(dtype), torch.tensor([981]), normal(2, 7, 32, seed=1).to(dtype))


@contextmanager
def eight(net: UNet3D, share: float = 1, dtype: torch.dtype = torch.float32, pin: bool = False) -> Iterator[Layout]:
    """`net` with matrices of 8 bits; a share of them stays on the device."""
    layout = layout_of(net, F8)
    with placed(net, CPU, dtype, int(share * size_of(net, dtype, layout)), pin, layout):
        yield layout


def matrices(net: UNet3D) -> set[str]:
    """Names of the weights that stand in 8 bits: what is in units and has rows, and is neither shared nor lent."""
    layout = net.layout()
    apart = {id(weight) for part in (*layout.common, *layout.lent) for weight in part.parameters()}
    inside = {id(weight) for unit in layout.units for weight in unit.parameters()}
    return {name for name, weight in net.named_parameters()
            if weight.ndim > 1 and id(weight) in inside and id(weight) not in apart}


# ---- a weight ----


@settings(max_examples=60, deadline=None, derandomize=True)
@given(seed=st.integers(0, 1000), exponent=st.integers(-12, 12), dtype=st.sampled_from([HALF, torch.float32]),
       shape=st.sampled_from([(3, 64), (64, 3, 3, 3), (2, 2, 3, 1, 1), (5, 7, 1)]))
def test_a_weight_is_off_by_a_seventeenth_at_most(
    seed: int, exponent: int, dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    weight = (normal(*shape, seed=seed) * 2.0**exponent).to(dtype)
    new = float8.made(weight)
    error = (float8.read(new, CPU, torch.float32) - weight.float()).abs()
    scale = float8.scale_of(new)
    assert scale is not None
    tiny = float8.by_rows(scale, weight) * 2.0**-10
    assert bool((error <= torch.maximum(weight.float().abs() / 17 * (1 + 1e-6), tiny)).all())
    assert bool((scale.log2() % 1 == 0).all())


@pytest.mark.parametrize("dtype", [HALF, torch.bfloat16, torch.float32])
def test_what_8_bits_hold_comes_back_as_it_was_in_any_precision(dtype: torch.dtype) -> None:
    numbers = torch.arange(256, dtype=torch.uint8).view(F8).float()
    weight = torch.stack([numbers[numbers.isfinite()]] * 3) * torch.tensor([[1.0], [2.0**-12], [2.0**-3]])
    assert torch.equal(float8.read(float8.made(weight), CPU, dtype), weight.to(dtype))


def test_rows_of_nothing_stay_nothing() -> None:
    assert torch.equal(float8.read(float8.made(torch.zeros(2, 3)), CPU, HALF), torch.zeros(2, 3, dtype=HALF))


def test_a_row_is_as_exact_beside_one_of_a_thousand_times_its_size() -> None:
    """One scale for all rows would make nothing but zeros of the first."""
    weight = normal(2, 64) * torch.tensor([[1e-4], [10.0]])
    error = (float8.read(float8.made(weight), CPU, torch.float32) - weight).norm(dim=1) / weight.norm(dim=1)
    assert bool((error < 0.04).all())


def test_matrices_side_by_side_are_one_with_the_scales_of_all() -> None:
    x, layers = normal(5, 16), [randomised(Linear(16, 16, bias=False)) for _ in range(3)]
    layers[1].weight.data *= 100
    codes, scales = torch.empty(48, 16, dtype=F8), torch.empty(48)
    for number, layer in enumerate(layers):
        rows = slice(16 * number, 16 * number + 16)
        view = float8.scaled(codes[rows], scales[rows])
        float8.write(view, layer.weight)
        float8.put(layer.weight, view)
    joined = side_by_side([layer.weight for layer in layers])
    assert joined is not None
    assert torch.equal(float8.read(joined, CPU, torch.float32),
                       torch.cat([float8.read(layer.weight, CPU, torch.float32) for layer in layers]))
    for whole, layer in zip(together(x, layers), layers, strict=True):
        torch.testing.assert_close(whole, layer(x))
    float8.scaled(layers[2].weight, scales[32:].clone())
    assert side_by_side([layer.weight for layer in layers]) is None


# ---- a network ----


@pytest.mark.parametrize("pin", [False, True])
@pytest.mark.parametrize("share", [0, 0.5, 1])
def test_a_network_of_8_bits_is_the_network_whose_matrices_were_rounded(share: float, pin: bool) -> None:
    net, rounded = unet(), unet()
    for name, weight in rounded.named_parameters():
        if name in matrices(rounded):
            weight.data = float8.read(float8.made(weight.data), CPU, torch.float32)
    before = {name: (weight.data, weight.clone()) for name, weight in net.named_parameters()}
    exact, expected = run(net), run(rounded)
    with eight(net, share, pin=pin):
        for _ in range(2):
            torch.testing.assert_close(run(net), expected, atol=2e-5, rtol=0)
    assert 0.001 < (expected - exact).norm() / exact.norm() < 0.15
    for name, weight in net.named_parameters():
        assert weight.data.is_set_to(before[name][0]), name
        assert torch.equal(weight, before[name][1]), name
        assert float8.scale_of(weight) is None, name
    assert torch.equal(run(net), exact)


def test_norms_biases_and_what_the_timestep_says_stay_as_they_are() -> None:
    net = unet()
    with eight(net, dtype=HALF):
        assert {name for name, weight in net.named_parameters() if weight.dtype == F8} == matrices(net)
        assert all(weight.dtype == HALF for name, weight in net.named_parameters()
                   if weight.ndim == 1 or name.startswith(("time_embed", "out.")) or "emb_layers" in name)


def test_what_belongs_together_still_stands_side_by_side() -> None:
    net = unet()
    with eight(net):
        attention = net.get_submodule("middle_block.1.transformer_blocks.0.attn1")
        layers = [attention.get_submodule(name) for name in ("to_q", "to_k", "to_v")]
        assert side_by_side([layer.weight for layer in layers]) is not None  # type: ignore[misc]


def test_a_network_that_is_there_already_is_left_alone() -> None:
    """As where it stays on the device between films; and it is what it was afterwards, 8 bits and all."""
    net = unet()
    with eight(net):
        there = {name: (weight.data, float8.scale_of(weight)) for name, weight in net.named_parameters()}
        said = run(net)
        with placed(net, CPU, torch.float32, None, layout=layout_of(net, F8)):
            assert torch.equal(run(net), said)
        for name, weight in net.named_parameters():
            assert weight.data.is_set_to(there[name][0]), name
            assert float8.scale_of(weight) is there[name][1], name


# ---- LoRAs ----


def change(weight: Tensor) -> Change:
    shape = tuple(weight.shape)
    return Change(Target("unet", NAME, shape), normal(shape[0], 2), normal(2, shape[1], seed=5), 0.5)


NAME = "middle_block.1.transformer_blocks.0.attn1.to_k.weight"


@pytest.mark.parametrize("share", [0, 1])
def test_a_lora_is_mixed_from_the_original_and_rounded_once(share: int) -> None:
    net, twin = unet(), unet()
    weight, other = net.get_parameter(NAME), twin.get_parameter(NAME)
    other.data = mixture(other.data, [(0.5, change(other))], CPU)
    with eight(twin, share):
        expected = run(twin)
    with eight(net, share):
        plain = run(net)
    original = weight.data
    with mixed(net, [(Strength.constant(0.5), change(weight))]) as mix, eight(net, share):
        mix.at(0)
        assert torch.equal(run(net), expected)
        assert not torch.equal(expected, plain)
    assert weight.data.is_set_to(original)
    assert float8.scale_of(weight) is None


def test_a_lora_on_weights_that_stay_on_the_device_leaves_them_as_they_were() -> None:
    net = unet()
    with eight(net):
        weight, plain = net.get_parameter(NAME), run(net)
        codes, scale = weight.data, float8.scale_of(weight)
        with mixed(net, [(Strength.constant(0.5), change(weight))]) as mix:
            mix.at(0)
            assert weight.dtype == F8
            assert not torch.equal(run(net), plain)
        assert weight.data.is_set_to(codes)
        assert float8.scale_of(weight) is scale
        assert torch.equal(run(net), plain)


# ---- bytes ----


def test_bytes_are_as_predicted() -> None:
    """Storages of everything that stands in memory of its own, to the byte but for rounding up to blocks."""
    net = unet()
    layout = layout_of(net, F8)
    before = {weight.data.untyped_storage()._cdata for _, weight in weights_of(net)}
    predicted = taken(net, HALF, None, layout).resident
    with placed(net, CPU, HALF, 10**12, layout=layout):
        found = {weight.data.untyped_storage()._cdata: weight.data.untyped_storage().nbytes()
                 for _, weight in weights_of(net)}
    own = [-(-size // 512) * 512 for storage, size in found.items() if storage not in before]
    assert sum(own) == predicted


def test_half_the_bytes_are_half_the_need() -> None:
    net = published_sizes().unet
    eight, half = counted(net, HALF, 1.0, F8), counted(net, HALF, 1.0)
    assert 0.5 < eight / half < 0.56


def test_the_need_follows_the_setting_on_a_graphics_card_only() -> None:
    sizes, film = published_sizes(), Film(256, 256, 16, True, False)
    plain, eight = Settings(), Settings(weights="float8")

    def held(kind: str, settings: Settings) -> int:
        host = Standalone(torch.device(kind), HALF, settings=settings)
        return unet_bytes(sizes, film, MemoryPlan().unet, host, 0)[0]

    assert held("cuda", eight) < 0.56 * held("cuda", plain)
    assert held("cpu", eight) == held("cpu", plain)
    assert held("mps", eight) == held("mps", plain)


def test_where_there_are_no_such_numbers_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(float8, "FLOAT8", None)
    host, notes = Standalone(CPU, torch.float32, outputs=tmp_path, settings=Settings(weights="float8")), list[str]()
    net = unet()
    exact = run(net)
    with mixed(net, []) as mix, LeanUNet(net, mix, MemoryPlan(), host, notes.append) as lean:
        x, context = normal(1, 4, 2, 4, 4), normal(2, 7, 32, seed=1)
        assert torch.equal(lean(x, torch.tensor([981]), context), exact)
    assert notes == ["there are no numbers of 8 bits here; weights have the precision that is computed in"]
