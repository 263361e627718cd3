"""Where networks stand while they work, and what happens when memory does not suffice."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from t2v.errors import MemoryShortage


@contextmanager
def placed(network: nn.Module, device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    """Weights of `network` on `device` in `dtype` for the time of a `with` block.

    Afterwards the tensors that were there before are back, untouched: nothing is copied twice, and device memory
    is free again. On the CPU nothing moves, because the layers bring each weight to the precision of their input
    as they use it, and a memory-mapped file costs no memory of its own.
    """
    kept = [(weight, weight.data) for weight in (*network.parameters(), *network.buffers())]
    try:
        if device.type != "cpu":
            for weight, data in kept:
                weight.data = data.to(device, dtype if data.is_floating_point() else data.dtype)
        yield
    finally:
        for weight, data in kept:
            weight.data = data


@contextmanager
def shortage_explained(wanted: str) -> Iterator[None]:
    """Turns "out of memory" in its many forms into a MemoryShortage that says what was `wanted`."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_shortage(error):
            raise
        raise MemoryShortage(
            f"not enough memory for {wanted}. Try fewer frames, a smaller size, or close other programs."
        ) from error


def is_shortage(error: BaseException) -> bool:
    """Whether an exception means that the device or the machine has no memory left."""
    words = ("out of memory", "can't allocate memory", "not enough memory", "failed to allocate")
    return isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)) or any(w in str(error).lower() for w in words)
