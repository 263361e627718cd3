"""What a network costs a GPU, without one: the bytes that are alive at the peak, and the kernels that are launched.

The real code runs on meta tensors, which have shapes and no numbers, and stand for what is on the device. A dispatch
mode sees every tensor that an operation makes, adds the bytes of its storage when it is new, and takes them off again
when the storage dies.
"""

import math
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._prims_common import suggest_memory_format
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from t2v.models import fused

aten = torch.ops.aten
DEVICE = torch.device("meta")
BLOCK = 512  # bytes; CUDA's allocator gives nothing smaller
NOTHING = ("aten::empty", "aten::new_empty", "aten::empty_like", "aten::empty_strided")  # memory, and no kernel


class Footprint(TorchDispatchMode):
    """Counts the bytes of all tensors that are made in its `with` block, `known` ones left out, or those on `device`; and
    the operations that compute something: those are the kernels that a GPU launches, at least.

    Where there would be more than `limit` of them, it fails as a device does whose memory is full.
    """

    def __init__(self, known: Iterable[Tensor] = (), device: str = "", limit: float = math.inf) -> None:
        super().__init__()
        self.device, self.limit = device, limit
        self.now = self.peak = self.kernels = 0
        self.alive = {tensor.untyped_storage()._cdata: 0 for tensor in known}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = computed(func, args, kwargs or {})
        tensors = [tensor for tensor in tree_leaves(result) if isinstance(tensor, Tensor)]
        given = {tensor.untyped_storage()._cdata for tensor in tree_leaves(args) if isinstance(tensor, Tensor)}
        computes = func._schema.is_mutable or any(tensor.untyped_storage()._cdata not in given for tensor in tensors)
        self.kernels += computes and func._schema.name not in NOTHING
        for tensor in tensors:
            if self.device in ("", tensor.device.type):
                self.meet(tensor.untyped_storage())
        self.peak = max(self.peak, self.now)
        return result

    def meet(self, storage: torch.UntypedStorage) -> None:
        if storage._cdata not in self.alive:
            size = -(-storage.nbytes() // BLOCK) * BLOCK
            self.alive[storage._cdata] = size
            self.now += size
            weakref.finalize(storage, self.part, storage._cdata)
            if self.now > self.limit:
                raise RuntimeError(f"{self.device} out of memory")

    def part(self, key: int) -> None:
        self.now -= self.alive.pop(key)


def computed(func: Any, args: Any, kwargs: Any) -> Any:
    """What an operation gives; on meta tensors, laid out as a GPU would."""
    if func is aten.copy_.default and args[1].is_meta and not args[0].is_meta:
        return args[0]  # from the weights' file into host memory; there are no numbers
    result = func(*args, **kwargs)
    if func is aten.convolution.default and result.is_meta and result.ndim == 4:
        # As cudnn_conv_suggest_memory_format has it.
        last = any(suggest_memory_format(tensor) == torch.channels_last for tensor in args[:2])
        return result.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)
    return result


class AsOnDevice(TorchFunctionMode):
    """Has code that names a GPU work on DEVICE, and attention take the kernel that a GPU would."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            causal = kwargs.get("is_causal", False)
            if args[0].dtype == torch.float32 or args[0].shape[-1] > 256:
                return aten._scaled_dot_product_efficient_attention(*args, None, False, 0.0, causal)[0]
            return aten._scaled_dot_product_flash_attention(*args, 0.0, causal)[0]
        if kwargs.get("device") is not None and torch.device(kwargs["device"]).type == "cuda":
            kwargs = kwargs | {"device": DEVICE}
        return func(*args, **kwargs)


@contextmanager
def as_on_device(kernels: bool = False) -> Iterator[None]:
    """A block in which code computes as on a GPU, without numbers; with fused kernels, or by plain torch."""
    with torch.no_grad(), AsOnDevice(), patch.object(fused, "ready", lambda _: kernels):
        yield


def empty(network: Callable[[], nn.Module], dtype: torch.dtype) -> nn.Module:
    """`network` with weights on DEVICE that have no numbers.

    `placed` leaves them where they are if it is told the same precision. In another, they stand for those of a file,
    and it makes new ones.
    """
    with DEVICE:
        return network().eval().requires_grad_(False).to(dtype)


def activations(network: Callable[[], nn.Module], dtype: torch.dtype, run: Callable[[nn.Module], object]) -> int:
    """Bytes that `run` has alive at once on a GPU beside the weights of `network`, its inputs included."""
    net = empty(network, dtype)
    with as_on_device(), Footprint(net.parameters()) as footprint:
        run(net)
    return footprint.peak
