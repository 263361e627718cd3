"""What happens when memory does not suffice."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from t2v.errors import MemoryShortage


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
