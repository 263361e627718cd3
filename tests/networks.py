"""Small networks with random weights."""

import math
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

Net = TypeVar("Net", bound=nn.Module)


def randomised(net: Net) -> Net:
    """`net`, ready to run, with weights that keep activations about 1 and silence no layer by a zero.

    They are the same in every run. `net` may have been made without any, on the meta device.
    """
    random = torch.Generator().manual_seed(0)
    net.load_state_dict({name: _draw(name, weight, random) for name, weight in net.state_dict().items()}, assign=True)
    return net.eval().requires_grad_(False)


def _draw(name: str, weight: Tensor, random: torch.Generator) -> Tensor:
    noise = torch.randn(weight.shape, generator=random)
    if weight.ndim == 1:
        return 0.2 * noise + (1.0 if name.endswith("weight") else 0.0)  # of a norm | a bias
    return noise if "embedding" in name else noise / math.sqrt(weight[0].numel())


def normal(*shape: int, seed: int = 0) -> Tensor:
    """Standard normal numbers that depend on nothing but `seed` and `shape`."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def assert_equal(ours: Tensor, theirs: Tensor, tolerance: float = 2e-5) -> None:
    """No number differs by more than `tolerance`, and there was something to compare."""
    assert ours.shape == theirs.shape
    assert theirs.std() > 0.03
    torch.testing.assert_close(ours, theirs, atol=tolerance, rtol=0)


def assert_casts_at_use(net: nn.Module, dtype: torch.dtype, run: Callable[[], Tensor]) -> None:
    """With weights of `dtype`, `run` leaves them alone and gives what it gives when they were float32 beforehand."""
    net.to(dtype)
    kept = {key: value.clone() for key, value in net.state_dict().items()}
    result = run()
    for key, value in net.state_dict().items():
        assert value.dtype == dtype, key
        assert torch.equal(value, kept[key]), key
    net.float()
    assert result.dtype == torch.float32
    assert torch.equal(result, run())  # to the last bit


def gradients(net: nn.Module) -> dict[str, float]:
    """The largest gradient of every weight that a backward pass has reached, by name."""
    return {name: weight.grad.abs().max().item() for name, weight in net.named_parameters() if weight.grad is not None}
