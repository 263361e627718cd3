"""Kernels of convolutions that stay on a GPU have their channels last there, and compute the same. Here, the CPU is
taken for one."""

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from t2v import placement
from t2v.extra import Strength
from t2v.layout import size_of
from t2v.models import layers
from t2v.models.layers import Conv2d, TimeConv
from t2v.models.lora.merge import mixed
from t2v.models.lora.parts import Change, Target
from t2v.models.unet import UNet3D
from t2v.placement import placed
from tests import fixtures
from tests.networks import assert_equal, normal, randomised

CPU, ALL = torch.device("cpu"), 2**40
INPUTS = normal(1, 4, 3, 6, 4), torch.tensor([981.0]), normal(2, 7, 32, seed=1)


@pytest.fixture(autouse=True)
def no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture(autouse=True)
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "LAST", ("cpu",))
    monkeypatch.setattr(layers, "convolved", lambda x, *args, **more: F.conv2d(
        x.movedim(-1, 1), *args, **more).movedim(1, -1))  # which on a CPU has a way of its own


@pytest.fixture(scope="module")
def net() -> UNet3D:
    return randomised(UNet3D(fixtures.UNET))


def kernels(net: nn.Module) -> dict[str, Tensor]:
    """Those of more than one number a channel as `forward` hands them to conv2d, without the first and the last
    convolution, which are in no unit."""
    return {name: layer.weight.squeeze(-1) if isinstance(layer, TimeConv) else layer.weight
            for name, layer in net.named_modules() if isinstance(layer, Conv2d | TimeConv)
            and name not in ("input_blocks.0.0", "out.2") and layer.weight[0, 0].numel() > 1}


class Convolutions(TorchDispatchMode):
    """Notes of every convolution whether cuDNN would take kernel and picture as they are."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.ready: list[bool] = []

    def __torch_dispatch__(self, func: object, types: object, args: tuple[Tensor, ...] = (),
                           kwargs: dict[str, object] | None = None) -> object:
        if func is torch.ops.aten.convolution.default:
            self.ready.append(all(each.is_contiguous(memory_format=torch.channels_last) for each in args[:2]))
        return func(*args, **(kwargs or {}))  # type: ignore[operator]


def test_kernels_that_stay_have_their_channels_last_and_keep_their_numbers(net: UNet3D) -> None:
    before = kernels(net)
    assert not any(kernel.is_contiguous(memory_format=torch.channels_last) for kernel in before.values())
    with placed(net, CPU, torch.float32, ALL):
        placed_kernels = kernels(net)
        assert len(placed_kernels) == len(before) > 20
        for name, kernel in placed_kernels.items():
            assert kernel.is_contiguous(memory_format=torch.channels_last), name
            assert torch.equal(kernel, before[name]), name
    assert all(kernel is not None and torch.equal(kernel, before[name]) and kernel.is_contiguous()
               for name, kernel in kernels(net).items())


def test_no_convolution_has_to_lay_anything_out_anew(net: UNet3D) -> None:
    with placed(net, CPU, torch.float32, ALL), Convolutions() as seen:
        net(*INPUTS)
    assert len(seen.ready) > 20
    assert seen.ready.count(False) <= 2  # the first and the last convolution, of four channels


@pytest.mark.parametrize("share", [0, 0.5, 1])
def test_a_network_with_such_kernels_says_the_same(net: UNet3D, share: float) -> None:
    plain = net(*INPUTS)
    with placed(net, CPU, torch.float32, ALL if share == 1 else int(share * size_of(net, torch.float32))):
        assert_equal(net(*INPUTS), plain, 1e-5)


def test_kernels_that_travel_stay_as_in_their_file(net: UNet3D) -> None:
    seen: list[bool] = []
    conv = net.get_submodule("output_blocks.0.0.in_layers.2")
    hook = conv.register_forward_pre_hook(lambda layer, _: seen.append(layer.weight.is_contiguous()))
    with placed(net, CPU, torch.float32, 0):
        net(*INPUTS)
    hook.remove()
    assert seen == [True]


def test_half_precision_and_whole_travel_to_the_same_order(net: UNet3D) -> None:
    with placed(net, CPU, torch.bfloat16, ALL):
        for name, kernel in kernels(net).items():
            assert kernel.dtype == torch.bfloat16
            assert kernel.is_contiguous(memory_format=torch.channels_last), name


def test_a_lora_is_mixed_into_kernels_in_any_order(net: UNet3D) -> None:
    name = "output_blocks.0.0.in_layers.2.weight"
    weight = net.get_parameter(name)
    up, down = normal(len(weight), 2, seed=3), normal(2, weight[0].numel(), seed=4)
    change = Change(Target("unet", name, tuple(weight.shape)), up, down, 1.0)
    with mixed(net, [(Strength.constant(0.5), change)]) as mixture, placed(net, CPU, torch.float32, ALL):
        mixture.at(0)
        assert weight.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(weight.data, mixture.originals[name] + 0.5 * (up @ down).view(weight.shape))
    assert weight.is_contiguous()


def test_where_nobody_wants_channels_last_a_film_is_the_same_to_the_last_bit(
    net: UNet3D, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    with placed(net, CPU, torch.float32, ALL):
        assert all(kernel.is_contiguous() for kernel in kernels(net).values())
        said = net(*INPUTS)
    assert torch.equal(said, net(*INPUTS))
