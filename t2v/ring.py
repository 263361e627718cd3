"""A film as a ring: its last frame is followed by its first."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from t2v.models.layers import TimeConv


@contextmanager
def ring(network: nn.Module) -> Iterator[None]:
    """Inside, nothing in `network` knows where a film begins: a film rolled along time gives what it gave, rolled.

    Attention and norms never knew; only convolutions along time see the ends, as zeros. They get the frames from the
    other end there instead.
    """
    with ExitStack() as hooks:
        for module in network.modules():
            if isinstance(module, TimeConv):
                hooks.callback(module.register_forward_pre_hook(closed).remove)
                hooks.callback(module.register_forward_hook(cropped).remove)
        yield


def closed(_module: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
    """`b f h w c` with the last frame before the first, and the first after the last."""
    (x,) = inputs
    return (torch.cat([x[:, -1:], x, x[:, :1]], dim=1),)


def cropped(_module: nn.Module, _inputs: Any, y: Tensor) -> Tensor:
    """Without these two frames."""
    return y[:, 1:-1]
