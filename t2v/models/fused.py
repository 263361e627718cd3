"""GroupNorm with SiLU, and GEGLU: in one or two launches where Triton runs, in plain torch elsewhere.

Plain torch reads and writes the activations once for each of their parts and, on a GPU, lays them out anew for
GroupNorm and back; at small sizes it is the launches themselves that cost. Every launch is one operation of torch's
(`torch.ops.t2v`), so that compilers, CUDA graphs and counting dispatch modes see it as such.
"""

import logging
from collections.abc import Callable
from functools import cache

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

log = logging.getLogger(__name__)

# One launch reads a group in one program, from beginning to end, and is as slow as that; two divide it. So a group may
# be the longer the more groups there are to keep a GPU busy with. By estimate, not yet measured: 64 of 81,920 numbers,
# the second level of a film of 16 frames 256x256, take as long either way, for the second launch is some microseconds
# of a program that has hundreds of them to send.
FEW = 1024  # numbers in a group; laying so few out anew costs nothing
NUMBERS_PER_GROUP = 1280
TILES, TILE = 128, 32_768  # so many parts of a sample at most, and numbers in each at least


def norm_silu(x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, act: bool) -> Tensor:
    """GroupNorm of each of n samples, `n p c` over all p and the channels of a group, then SiLU if `act`.

    `weight` and `bias`, c, may have any precision and be on any device; the result is like `x`, contiguous.
    """
    if x.numel() and usable(x) and not recorded(weight, bias):
        try:
            return launch_norm(x, weight.to(x.device), bias.to(x.device), groups, eps, act)
        except Exception as error:
            give_up(x.device, error)
    return plain_norm(x, weight.to(x.device, x.dtype), bias.to(x.device, x.dtype), groups, eps, act)


def geglu(x: Tensor) -> Tensor:
    """GEGLU (Shazeer 2020, arXiv 2002.05202), `... 2d -> ... d`: first half times the exact GELU of the second."""
    if x.numel() and usable(x):
        try:
            return torch.ops.t2v.geglu(x)
        except Exception as error:
            give_up(x.device, error)
    value, gate = x.chunk(2, dim=-1)
    return value * F.gelu(gate) if recorded(x) else F.gelu(gate).mul_(value)


def usable(x: Tensor) -> bool:
    """Whether kernels run for `x`: it is on a GPU that Triton knows, contiguous, and its gradient is not asked for."""
    return (
        ready(x.device) and x.device not in failed and x.dtype in (torch.float16, torch.bfloat16, torch.float32)
        and x.is_contiguous() and not recorded(x))


@cache
def ready(device: torch.device) -> bool:
    """Whether Triton is installed and makes code for `device`."""
    if device.type not in ("cuda", "xpu"):  # the first is AMD's name, too
        return False
    if device.type == "cuda" and not (torch.cuda.is_available() and torch.cuda.get_device_capability(device) >= (7, 0)):
        return False  # older ones are not refused by Triton, but end the process
    try:
        import t2v.models.kernels  # noqa: F401
    except Exception as error:  # there are broken installations of many kinds
        log.debug("No fused kernels: %s", error)
        return False
    return True


failed: set[torch.device] = set()  # where a launch did; it would again. As tensors name it, with an index


def runs(device: torch.device) -> bool:
    """Whether kernels are used on `device`; without an index it is any of its kind."""
    return ready(device) and not any(
        each.type == device.type and device.index in (None, each.index) for each in failed)


def give_up(device: torch.device, error: Exception) -> None:
    """From now on without kernels on `device`; if it was memory that was missing, the error goes on."""
    if isinstance(error, torch.cuda.OutOfMemoryError) or "out of memory" in str(error).lower():  # Triton has no class
        raise error
    failed.add(device)
    log.warning("Triton's kernels cannot be used on %s; films take a little longer. %r", device, error)


def recorded(*tensors: Tensor) -> bool:
    """Whether torch takes down what is computed from `tensors`, for a gradient."""
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


def launch_norm(x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, act: bool) -> Tensor:
    n, p, c = x.shape
    if p * c // groups <= NUMBERS_PER_GROUP * n * groups:
        return torch.ops.t2v.group_norm(x, weight, bias, groups, eps, act)
    tile = 16 * -(-max(-(-p // TILES), TILE // c) // 16)  # positions; whole blocks of the kernels
    stats = torch.ops.t2v.group_stats(x, groups, tile)
    return torch.ops.t2v.group_apply(x, stats, weight, bias, groups, tile, eps, act)


def plain_norm(x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, act: bool) -> Tensor:
    """The same by torch, which on a CPU takes channels last as it is, and on a GPU makes a copy with channels first."""
    # A view; four axes, because torch knows channels_last of these. Its kernel for them is fast, but takes the variance
    # as a difference of squares, which costs digits where groups are so small that they may hardly vary: 2e-4 in a tiny
    # network. And if the weights alone have gradients, it dies of them on a CPU, without an error (torch 2.13).
    few = x.shape[1] * x.shape[2] <= FEW * groups
    axes = "n c p" if few or (recorded(weight, bias) and not x.requires_grad) else "n c 1 p"
    normed = rearrange(F.group_norm(rearrange(x, f"n p c -> {axes}"), groups, weight, bias, eps), f"{axes} -> n p c")
    if act and not recorded(normed) and not normed.is_contiguous():
        return torch.ops.aten.silu.out(normed, out=x.new_empty(x.shape))  # back to channels last on the way
    return (F.silu(normed, inplace=not recorded(normed)) if act else normed).contiguous()


def like_x(x: Tensor, *_: object) -> Tensor:
    return torch.empty_like(x)


def per_tile(x: Tensor, groups: int, tile: int) -> Tensor:
    n, p, _ = x.shape
    return x.new_empty((n, -(-p // tile), 2, groups), dtype=torch.float32)


def half_of(x: Tensor) -> Tensor:
    return x.new_empty((*x.shape[:-1], x.shape[-1] // 2))


library = torch.library.Library("t2v", "FRAGMENT")


def register(name: str, signature: str, empty: Callable[..., Tensor]) -> None:
    """The launcher `name` of `models.kernels` as an operation, whose result `empty` makes, without its numbers."""
    def launch(*args: object) -> Tensor:
        from t2v.models import kernels  # not before it is needed: Triton takes a while to import

        out = empty(*args)
        getattr(kernels, name)(out, *args)
        return out

    # Not torch.library.custom_op, which does the same, but takes twice as long for each call, and not before torch 2.4.
    library.define(f"{name}({signature}) -> Tensor")
    library.impl(name, launch, "CompositeExplicitAutograd")
    library.impl(name, empty, "Meta")


register("group_norm", "Tensor x, Tensor weight, Tensor bias, int groups, float eps, bool act", like_x)
register("group_stats", "Tensor x, int groups, int tile", per_tile)
register("group_apply", "Tensor x, Tensor stats, Tensor weight, Tensor bias, int groups, int tile, float eps, bool act",
         like_x)
register("geglu", "Tensor x", half_of)
