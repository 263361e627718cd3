"""What a network costs a GPU, without one: the bytes that are alive at the peak, and the kernels that are launched.

The real code runs on meta tensors, which have shapes and no numbers, and stand for what is on the device. A dispatch
mode sees every tensor that an operation makes, adds the bytes of its storage when it is new, and takes them off again
when the storage dies.
"""

import math
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._prims_common import suggest_memory_format
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from t2v.models import fused
from t2v.models.autoencoder import AutoencoderKL
from t2v.models.unet import UNet3D
from t2v.placement import placed

aten = torch.ops.aten
DEVICE = torch.device("meta")
BLOCK = 512  # bytes; CUDA's allocator gives nothing smaller
NOTHING = ("aten::empty", "aten::new_empty", "aten::empty_like", "aten::empty_strided")  # memory, and no kernel


class Footprint(TorchDispatchMode):
    """Counts the bytes of all tensors that are made in its `with` block, `known` ones left out, or those on `device`;
    and the operations that compute something: those are the kernels that a GPU launches, at least.

    Where there would be more than `limit` of them, it fails as a device does whose memory is full.
    """

    def __init__(self, known: Iterable[Tensor] = (), device: str = "", limit: float = math.inf) -> None:
        super().__init__()
        self.device, self.limit = device, limit
        self.now = self.peak = self.kernels = 0
        self.alive = {tensor.untyped_storage()._cdata: 0 for tensor in known}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = computed(func, args, kwargs or {})
        tensors = list(tensors_in(result))
        given = {tensor.untyped_storage()._cdata for tensor in tensors_in(args)}
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


def tensors_in(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for part in value:
            yield from tensors_in(part)


def computed(func: Any, args: Any, kwargs: Any) -> Any:
    """What an operation gives. On meta tensors it is laid out as on a GPU, and torch is asked only once for its shape,
    which takes a while."""
    tensors = list(tensors_in(args))
    if not any(tensor.is_meta for tensor in tensors) or func.is_view or func is aten._unsafe_view.default:
        return func(*args, **kwargs)
    if func is aten.is_set_to.default:
        return memory(args[0]) == memory(args[1])
    if func._schema.is_mutable:
        return kwargs.get("out", args[0])  # there are no numbers
    key = func, described(args), described(tuple(kwargs.items()))
    if key not in SHAPES:
        result = func(*args, **kwargs)
        if func is aten.convolution.default and result.ndim == 4:
            # As cudnn_conv_suggest_memory_format has it.
            last = any(suggest_memory_format(tensor) == torch.channels_last for tensor in tensors[:2])
            result = result.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)
        SHAPES[key] = described(result)
    return made(SHAPES[key])


SHAPES: dict[Any, Any] = {}


def memory(x: Tensor) -> tuple[object, ...]:
    """Where a tensor lies, and how."""
    return x.untyped_storage()._cdata, x.storage_offset(), x.shape, x.stride()


class Empty(NamedTuple):
    size: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device


def described(value: Any) -> Any:
    """A value with what can be said of its tensors in their place."""
    if isinstance(value, Tensor):
        return Empty(tuple(value.shape), value.stride(), value.dtype, value.device)
    return tuple(map(described, value)) if isinstance(value, (tuple, list)) else value


def made(value: Any) -> Any:
    if isinstance(value, Empty):
        return torch.empty_strided(value.size, value.stride, dtype=value.dtype, device=value.device)
    return tuple(map(made, value)) if type(value) is tuple else value


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


# ---- the published networks ----

HALF, GIB = torch.float16, 2**30
Size = tuple[int, int, int]  # frames, and height and width of their latents
SIZES: dict[str, Size] = {  # width x height of a film, an eighth of them in latents
    "24 frames 192x192": (24, 24, 24),
    "16 frames 256x256": (16, 32, 32),
    "24 frames 256x256": (24, 32, 32),
    "125 frames 256x256": (125, 32, 32),
    "24 frames 576x320": (24, 40, 72),
    "24 frames 1024x576": (24, 72, 128),
}


class Cost(NamedTuple):
    kernels: int
    peak: int  # bytes, weights included


@cache
def published(kind: type[nn.Module], dtype: torch.dtype) -> nn.Module:
    return empty(kind, dtype)


def step(
    size: Size, told: int = 1, at_once: float = math.inf, resident: int | None = None, kernels: bool = True
) -> Cost:
    """A forward of the UNet in fp16: a film of `size` told so many things, heard before; weights as `placed`."""
    net: Any = published(UNet3D, torch.bfloat16)  # as many bytes
    with (as_on_device(kernels), Footprint(net.parameters(), DEVICE.type) as footprint,
          placed(net, DEVICE, HALF, resident)):
        text = net.heard(torch.empty(told, 77, net.config.context_dim, dtype=HALF, device=DEVICE))
        x, timestep = torch.empty(1, 4, *size, dtype=HALF, device=DEVICE), torch.empty(1, device=DEVICE)
        footprint.peak, footprint.kernels = footprint.now, 0
        net(x, timestep, text, at_once)
        return Cost(footprint.kernels, footprint.peak)


def decoding(height: int, width: int) -> Cost:
    """One frame of such latents by the autoencoder in fp32, encoder included."""
    vae: Any = published(AutoencoderKL, torch.float16)
    with as_on_device(), Footprint(vae.parameters(), DEVICE.type) as footprint, placed(vae, DEVICE, torch.float32):
        vae.decode(torch.empty(1, 4, height, width, device=DEVICE))
        return Cost(footprint.kernels, footprint.peak)
