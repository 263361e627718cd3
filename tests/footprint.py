"""How much memory a network's forward has alive at its peak, counted tensor by tensor; no device is needed.

The real code runs on fake tensors, which have shapes and places but no numbers. A dispatch mode sees every tensor that
an operation makes, adds the bytes of its storage when it is new, and takes them off again when the storage dies.
"""

import math
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

aten = torch.ops.aten
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
        result = func(*args, **(kwargs or {}))
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


class AsOnDevice(TorchFunctionMode):
    """Attention by the kernel that a GPU would take, and a way around what torch without CUDA refuses to do."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = kwargs or {}, getattr(func, "__name__", "")
        if name == "scaled_dot_product_attention":
            causal = kwargs.get("is_causal", False)
            if args[0].dtype == torch.float32 or args[0].shape[-1] > 256:
                return aten._scaled_dot_product_efficient_attention(*args, None, False, 0.0, causal)[0]
            return aten._scaled_dot_product_flash_attention(*args, 0.0, causal)[0]
        if name in ("contiguous", "copy_"):
            return getattr(aten, name)(*args)
        if name == "to" and isinstance(args[1], torch.device) and args[1] != args[0].device:
            return aten._to_copy(args[0], device=args[1], dtype=args[2] if len(args) > 2 else None)
        if name == "__getitem__":
            return indexed(*args)
        if name == "__setitem__":
            return aten.copy_(indexed(*args[:2]), args[2])
        return func(*args, **kwargs)


def indexed(x: Tensor, index: Any) -> Tensor:
    """x[index] for whole axes, new axes, numbers, slices and the dots."""
    index = index if isinstance(index, tuple) else (index,)
    if ... in index:
        dots = index.index(...)
        index = (*index[:dots], *[slice(None)] * (x.ndim - len(index) + 1), *index[dots + 1 :])
    axis = 0
    for part in index:
        if isinstance(part, int):
            x = aten.select(x, axis, part)
            continue
        if part is None:
            x = x.unsqueeze(axis)
        elif part != slice(None):
            x = aten.slice(x, axis, part.start, part.stop)
        axis += 1
    return x


def activations(network: Callable[[], nn.Module], dtype: torch.dtype, run: Callable[[nn.Module], object]) -> int:
    """Bytes that `run` has alive at once on a GPU beside the weights of `network`, its inputs included."""
    with on_device(network, dtype) as net, Footprint(net.parameters()) as footprint:
        run(net)
    return footprint.peak


@contextmanager
def on_device(network: Callable[[], nn.Module], dtype: torch.dtype, device: str = "cuda") -> Iterator[nn.Module]:
    """`network` with fake weights on a `device`, in a block in which code computes as on a GPU, without numbers."""
    with torch.device("meta"):
        net = network().eval()
    with FakeTensorMode(), torch.no_grad(), AsOnDevice():
        for module in net.modules():
            for name, weight in module.named_parameters(recurse=False):
                empty = torch.empty(weight.shape, dtype=dtype, device=device)
                setattr(module, name, nn.Parameter(empty, requires_grad=False))
        yield net
