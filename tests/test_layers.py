"""The layers all networks share, beside plain torch in its usual layout."""

from collections.abc import Callable
from unittest.mock import patch

import pytest
import torch
import torch.nn.functional as F
from einops import rearrange
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch._prims_common import suggest_memory_format

from t2v.models import layers
from t2v.models.layers import (
    ClipNorm,
    Conv2d,
    FrameConv,
    FrameNorm,
    GroupNorm,
    LayerNorm,
    Linear,
    TimeConv,
    attend,
    plus,
    side_by_side,
    together,
)
from tests.networks import assert_casts_at_use, normal, randomised

LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "Linear": (lambda: Linear(8, 5), (3, 8)),
    "Linear without bias": (lambda: Linear(8, 5, bias=False), (3, 8)),
    "LayerNorm": (lambda: LayerNorm(8), (3, 8)),
    "Conv2d": (lambda: Conv2d(8, 5, 3), (2, 8, 6, 7)),
    "GroupNorm": (lambda: GroupNorm(64), (2, 64, 6, 7)),
    "FrameNorm": (lambda: FrameNorm(64), (2, 3, 4, 5, 64)),
    "ClipNorm": (lambda: ClipNorm(64), (2, 3, 4, 5, 64)),
    "FrameConv": (lambda: FrameConv(8, 5, 3, padding=1), (2, 3, 4, 5, 8)),
    "TimeConv": (lambda: TimeConv(8), (2, 3, 4, 5, 8)),
}


def by_frame(plain: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """`plain`, which takes pictures, called for every frame of `x`, b f h w c."""
    frames = [plain(frame.movedim(-1, 1).contiguous()) for frame in x.unbind(1)]
    return torch.stack(frames, dim=1).movedim(2, -1)


def test_a_frame_norm_is_a_group_norm_of_every_frame_by_itself() -> None:
    layer, x = randomised(FrameNorm(64, eps=0.1)), normal(2, 3, 4, 5, 64)
    plain = nn.GroupNorm(32, 64, eps=0.1)
    plain.load_state_dict(layer.state_dict())
    torch.testing.assert_close(layer(x), by_frame(plain, x), atol=2e-6, rtol=0)


def test_a_clip_norm_is_one_group_norm_of_all_frames() -> None:
    layer, x = randomised(ClipNorm(64, eps=0.1)), normal(2, 3, 4, 5, 64)
    plain = nn.GroupNorm(32, 64, eps=0.1)
    plain.load_state_dict(layer.state_dict())
    torch.testing.assert_close(layer(x), plain(x.movedim(-1, 1)).movedim(1, -1), atol=2e-6, rtol=0)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(4, 4), (5, 7), (1, 3)])
def test_a_frame_convolution_is_a_convolution_of_every_frame(stride: int, size: tuple[int, int]) -> None:
    layer, x = randomised(FrameConv(8, 6, 3, stride=stride, padding=1)), normal(2, 3, *size, 8)
    plain = nn.Conv2d(8, 6, 3, stride=stride, padding=1)
    plain.load_state_dict(layer.state_dict())
    torch.testing.assert_close(layer(x), by_frame(plain, x), atol=2e-6, rtol=0)


@pytest.mark.parametrize("frames", [1, 2, 3, 9])
def test_a_time_convolution_is_the_three_dimensional_one_of_its_weight(frames: int) -> None:
    layer, x = randomised(TimeConv(8)), normal(2, frames, 4, 5, 8)
    plain = nn.Conv3d(8, 8, (3, 1, 1), padding=(1, 0, 0))
    plain.load_state_dict(layer.state_dict())
    torch.testing.assert_close(layer(x), plain(x.movedim(-1, 1)).movedim(1, -1), atol=2e-6, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_computes_at_the_precision_of_its_input(name: str, dtype: torch.dtype) -> None:
    make, shape = LAYERS[name]
    layer = randomised(make())
    assert_casts_at_use(layer, dtype, lambda: layer(normal(*shape)))


def test_weights_that_fit_are_used_without_a_copy() -> None:
    weight = normal(3)
    assert layers.like(weight, normal(2)) is weight
    assert layers.like(None, normal(2)) is None


@pytest.mark.parametrize("causal", [False, True])
def test_attention_is_the_softmax_of_scaled_products(causal: bool) -> None:
    q, k, v = (normal(3, 2, 6, 4, seed=seed).double() for seed in range(3))
    scores = torch.einsum("r a i d, r a j d -> r a i j", q, k) / 4**0.5
    if causal:
        scores = scores.masked_fill(torch.ones(6, 6).triu(1).bool(), -torch.inf)
    expected = torch.einsum("r a i j, r a j d -> r a i d", scores.softmax(dim=-1), v)
    torch.testing.assert_close(attend(q, k, v, causal), expected, atol=1e-14, rtol=0)


@given(
    rows=st.integers(1, 9), heads=st.integers(1, 5), queries=st.integers(1, 6), keys=st.integers(1, 6),
    limit=st.integers(1, 50), causal=st.booleans())
def test_attention_in_parts_is_attention(
    rows: int, heads: int, queries: int, keys: int, limit: int, causal: bool
) -> None:
    keys = queries if causal else keys
    q = rearrange(normal(rows, queries, heads * 4), "r n (a d) -> r a n d", a=heads)  # strided, as in the networks
    k, v = (rearrange(normal(rows, keys, heads * 4, seed=seed), "r n (a d) -> r a n d", a=heads) for seed in (1, 2))
    whole = attend(q, k, v, causal)
    launches = []

    def launch(q: Tensor, k: Tensor, v: Tensor, is_causal: bool = False) -> Tensor:
        launches.append(q.shape[0] * q.shape[1])
        return attention(q, k, v, is_causal=is_causal)

    attention = F.scaled_dot_product_attention
    with patch.object(layers, "MAX_ROWS", limit), patch.object(F, "scaled_dot_product_attention", launch):
        parts = attend(q, k, v, causal)
    torch.testing.assert_close(parts, whole, atol=1e-6, rtol=0)
    assert sum(launches) == rows * heads
    assert max(launches) <= max(limit, heads)  # the heads of one row stay together


@pytest.mark.parametrize("shape", [(2, 3, 6, 7, 32), (1, 3, 6, 7, 32), (1, 1, 6, 7, 32)])
@pytest.mark.parametrize("layer", [FrameConv(32, 32, 3, padding=1), FrameConv(32, 64, 1), TimeConv(32)], ids=str)
def test_channels_stay_last_through_convolutions_also_of_a_single_frame(
    layer: nn.Module, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As torch sees it, which takes a single sample with a wrong stride for one with channels first."""
    seen: list[Tensor] = []
    conv2d = F.conv2d
    monkeypatch.setattr(F, "conv2d", lambda x, *args: (seen.append(x), conv2d(x, *args))[1])
    layer(normal(*shape))
    assert [suggest_memory_format(x) for x in seen] == [torch.channels_last]
    assert seen[0].stride() == torch.empty(seen[0].shape, memory_format=torch.channels_last).stride()  # as cuDNN looks


# ---- sums in place, products at one go ----


def test_a_sum_takes_the_memory_of_what_nobody_else_needs() -> None:
    x, y = normal(2, 3), normal(2, 3, seed=1)
    before, expected = x.clone(), x + y
    made = plus(y, x)
    assert made.data_ptr() == y.data_ptr()
    assert torch.equal(made, expected)
    assert torch.equal(x, before)


def test_one_film_is_added_to_each_of_several() -> None:
    x, y = normal(1, 3), normal(2, 3, seed=1)
    assert torch.equal(plus(y.clone(), x), y + x)


@pytest.mark.parametrize("learnt", ["x", "y"])
def test_while_gradients_are_recorded_a_sum_leaves_both_alone(learnt: str) -> None:
    x, y = normal(2, 3), normal(2, 3, seed=1)
    kept = {"x": x, "y": y}[learnt].requires_grad_()
    before = y.detach().clone()
    plus(y, x).square().sum().backward()
    assert torch.equal(y.detach(), before)
    torch.testing.assert_close(kept.grad, 2 * (x + y).detach())


def beside(layers: list[Linear], gap: int = 0) -> list[Linear]:
    """Layers with their weights side by side in one memory, then their biases; or with so many numbers between."""
    for name in ("weight", "bias"):
        flat, end = torch.empty(10_000), 0
        for layer in layers:
            if getattr(layer, name) is not None:
                part = getattr(layer, name).data
                view = flat.narrow(0, end, part.numel()).view(part.shape).copy_(part)
                getattr(layer, name).data, end = view, end + part.numel() + gap
    return layers


def products(layers: list[Linear], x: Tensor) -> tuple[int, tuple[Tensor, ...]]:
    """How many products `together` takes, and what it gives."""
    with patch.object(F, "linear", wraps=F.linear) as linear, torch.no_grad():
        made = together(x, layers)
    return linear.call_count, made


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_layers_side_by_side_are_one_product(bias: bool, dtype: torch.dtype) -> None:
    layers, x = [randomised(Linear(8, width, bias=bias)) for width in (5, 3, 16)], normal(2, 4, 8).to(dtype)
    expected = [layer(x) for layer in layers]
    for gap, count in ((0, 1), (1, 3)):
        number, made = products(beside(layers, gap), x)
        assert number == count
        for ours, theirs in zip(made, expected, strict=True):
            torch.testing.assert_close(ours, theirs, atol=2e-6, rtol=0)


def test_layers_of_which_only_the_weights_are_side_by_side_are_asked_one_by_one() -> None:
    layers, x = beside([randomised(Linear(8, 5)) for _ in range(2)]), normal(3, 8)
    layers[1].bias.data = layers[1].bias.data.clone()
    assert products(layers, x)[0] == 2


def test_tensors_side_by_side_are_seen_as_the_one_that_they_are() -> None:
    flat = normal(40)
    parts = [flat[4:12].view(2, 4), flat[12:16].view(1, 4), flat[16:32].view(4, 4)]
    found = side_by_side(parts)
    assert found is not None
    assert found.data_ptr() == parts[0].data_ptr()
    assert torch.equal(found, torch.cat(parts))


@pytest.mark.parametrize("parts", [
    lambda _: [],
    lambda flat: [flat[:8].view(2, 4), flat[12:20].view(2, 4)],  # a gap
    lambda flat: [flat[8:16].view(2, 4), flat[:8].view(2, 4)],  # the other way round
    lambda flat: [flat[:8].view(2, 4), flat[:8].view(2, 4)],  # the same twice
    lambda flat: [flat[:8].view(2, 4), flat[8:16].view(4, 2)],  # of another width
    lambda flat: [flat[:8].view(2, 4).T, flat[8:16].view(2, 4).T],  # by columns
    lambda flat: [flat[:8].view(2, 4), flat[8:16].clone().view(2, 4)],  # in another memory
    lambda flat: [flat[:8].view(2, 4), flat.view(torch.int32)[8:16].view(2, 4)],  # of another kind
    lambda flat: [flat[:4], flat.view(torch.float16)[8:16]],
])
def test_tensors_that_are_not_side_by_side_are_not_taken_for_it(parts: Callable[[Tensor], list[Tensor]]) -> None:
    assert side_by_side(parts(normal(40))) is None
