"""Which weights of a network stand where, and how they lie in memory.

A unit is a module that is called as a whole. Its weights lie side by side in one stretch of bytes, so that what
belongs together (to_q, to_k and to_v of an attention) is one matrix wherever it stands.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate, chain
from typing import NamedTuple

import torch
from torch import Tensor, nn

from t2v.float8 import put, scaled

ALIGNED = 64  # bytes, between the weights of a unit
BLOCK = 512  # bytes; CUDA's allocator gives nothing smaller
SCALE = torch.float32  # of what a row of a matrix of 8 bits is multiplied by


class Layout(NamedTuple):
    """Which weights of a network stand where. Those of no part named here stay on the device, each by itself."""

    units: Sequence[nn.Module] = ()  # called as a whole; those first that should stay if not all can
    common: Sequence[nn.Module] = ()  # inside of units, but used together from outside: on the device, side by side
    lent: Sequence[nn.Module] = ()  # used so seldom that they stay where they are, and are brought by being used
    matrices: torch.dtype | None = None  # the precision of those in units, with a scale; None for that of everything


def layout_of(network: nn.Module, matrices: torch.dtype | None = None) -> Layout:
    """What `network` says about itself in a method `layout`."""
    layout = getattr(network, "layout", None)
    return (layout() if callable(layout) else Layout())._replace(matrices=matrices)


class Placing(NamedTuple):
    """What a network takes of the device, in bytes, and what travels there in each forward."""

    resident: int  # weights that stay
    slots: int  # room for those that come and go
    moved: int
    pinned: int  # page-locked host memory for these, if they have a copy there

    @property
    def device(self) -> int:
        return self.resident + self.slots


def size_of(network: nn.Module, dtype: torch.dtype, layout: Layout | None = None) -> int:
    """Bytes of all units on a device: what `resident` is a part of."""
    return sum(unit.size for unit in divided(network, dtype, None, layout).stay)


def resident_of(network: nn.Module, dtype: torch.dtype, share: float, layout: Layout | None = None) -> int | None:
    """Bytes that stay where a `share` of the units does, 0 to 1, as `placed` takes them; None for all."""
    return None if share == 1 else int(share * size_of(network, dtype, layout))


def taken(network: nn.Module, dtype: torch.dtype, resident: int | None, layout: Layout | None = None) -> Placing:
    """What `placed` with the same arguments will take where nothing is on the device yet."""
    stay, travel, rest = divided(network, dtype, resident, layout)
    lone = sum(up(part.weight.numel() * part.dtype.itemsize, BLOCK) for part in rest)
    travels = [unit.size for unit in travel]
    return Placing(sum(unit.size for unit in stay) + lone, len(travels[:2]) * max(travels, default=0),
                   sum(travels) if len(travels) > 2 else 0, sum(map(power_of_two, travels)))


def power_of_two(size: int) -> int:
    """What CUDA's allocator of host memory takes for so many bytes."""
    return 1 << max(0, size - 1).bit_length()


class Part(NamedTuple):
    """One weight of a unit: `weight.data` is what moves."""

    weight: Tensor
    dtype: torch.dtype
    offset: int = 0
    scale: int | None = None  # where that of its rows is, if it has one


class Unit:
    """A module that is called as a whole, and how some of its weights lie in a stretch of `size` bytes."""

    def __init__(
        self, module: nn.Module, weights: Iterable[Tensor], dtype: torch.dtype, matrices: torch.dtype | None = None,
    ) -> None:
        self.module, self.parts, end = module, list[Part](), 0
        for weight in weights:
            part = Part(weight, placed_dtype(weight, dtype, matrices), up(end, ALIGNED))
            self.parts.append(part)
            end = part.offset + weight.numel() * part.dtype.itemsize
        for number, part in enumerate(self.parts):
            if part.dtype == matrices:  # scales lie behind all weights, so that these stay side by side, and they too
                self.parts[number] = part._replace(scale=up(end, ALIGNED))
                end = up(end, ALIGNED) + len(part.weight) * SCALE.itemsize
        self.size = up(end, BLOCK)

    def views(self, flat: Tensor, shaped: Callable[[Tensor, Tensor], Tensor] = Tensor.view_as) -> list[Tensor]:
        """The weights in `flat`, which holds bytes; `shaped(numbers, weight)` says in which order those of each lie."""
        def cut(offset: int, count: int, dtype: torch.dtype) -> Tensor:
            return flat.narrow(0, offset, count * dtype.itemsize).view(dtype)

        return [scaled(shaped(cut(offset, weight.numel(), dtype), weight),
                       None if scale is None else cut(scale, len(weight), SCALE))
                for weight, dtype, offset, scale in self.parts]

    def stand(self, tensors: Iterable[Tensor]) -> None:
        """Has the module compute with `tensors`."""
        for part, tensor in zip(self.parts, tensors, strict=True):
            put(part.weight, tensor)


class Division(NamedTuple):
    stay: list[Unit]
    travel: list[Unit]  # in the order of execution
    rest: list[Part]  # weights of no unit, each by itself

    @property
    def parts(self) -> list[Part]:
        """All that move."""
        return [*(part for unit in (*self.stay, *self.travel) for part in unit.parts), *self.rest]


def divided(
    network: nn.Module, dtype: torch.dtype, resident: int | None, layout: Layout | None = None,
    device: torch.device | None = None,
) -> Division:
    """Who stays and who travels, of the weights that are not on `device` in `dtype` already."""
    layout = layout_of(network) if layout is None else layout
    exact = None if device is None or device.type == "cpu" else torch.empty(0, device=device).device  # with its index
    apart = {weight for part in (*layout.common, *layout.lent) for _, weight in weights_of(part)}

    def moving(module: nn.Module, matrices: torch.dtype | None = None) -> list[Tensor]:
        return [weight for _, weight in weights_of(module)
                if (weight.device, weight.dtype) != (exact, placed_dtype(weight, dtype, matrices))]

    made = {module: Unit(module, (weight for weight in moving(module, layout.matrices) if weight not in apart), dtype,
                         layout.matrices)
            for module in layout.units}
    ends = accumulate(unit.size for unit in made.values())
    stay = [unit for unit, end in zip(made.values(), ends, strict=True) if resident is None or end <= resident]
    order = [made[module] for module in network.modules() if module in made]
    shared = [weight for module in layout.common for weight in moving(module)]
    shared.sort(key=lambda weight: -weight.ndim)  # matrices beside matrices, biases beside biases
    common = [Unit(network, shared, dtype)] if shared else []
    united = apart.union(weight for module in layout.units for _, weight in weights_of(module))
    return Division([*common, *stay], [unit for unit in order if unit not in stay],
                    [Part(weight, placed_dtype(weight, dtype)) for weight in moving(network) if weight not in united])


def weights_of(module: nn.Module, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers, each with its name behind that of the module."""
    return chain(module.named_parameters(name), module.named_buffers(name))


def placed_dtype(weight: Tensor, dtype: torch.dtype, matrices: torch.dtype | None = None) -> torch.dtype:
    """The precision of a weight on the device: whole numbers keep theirs, matrices and kernels may have their own."""
    if not weight.is_floating_point():
        return weight.dtype
    return dtype if matrices is None or weight.ndim < 2 else matrices


def up(size: int, step: int) -> int:
    return -(-size // step) * step
