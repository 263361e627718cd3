"""Where the weights of a network stand while it works: on the device, or in host memory and brought as they are needed.

    resident units    one allocation each, on the device for as long as the block lasts
    streamed units    two slots on the device, used in turn:

        copying      unit 1 ─▶ B   unit 2 ─▶ A   unit 3 ─▶ B   …   unit 0 ─▶ A, for the next forward
        computing    unit 0 in A   unit 1 in B   unit 2 in A   …

A unit is a module that is called as a whole. Its weights lie side by side in one stretch of bytes, so that what
belongs together (to_q, to_k and to_v of an attention) is one matrix wherever it stands.

Between two forwards `weight.data` of a streamed unit is a tensor in host memory, and whoever wants other weights may
put another there: it is looked at anew each time the unit is brought. The networks know nothing of all this.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import accumulate, chain
from traceback import clear_frames
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from t2v.float8 import put, scale_of, scaled, write

ALIGNED = 64  # bytes, between the weights of a unit
BLOCK = 512  # bytes; CUDA's allocator gives nothing smaller
SCALE = torch.float32  # of what a row of a matrix of 8 bits is multiplied by
PACKED = ("cpu", "cuda", "xpu", "meta")  # kinds of devices whose bytes may be taken for numbers of any precision
LAST = ("cuda",)  # kinds of devices that lay kernels of convolutions out anew where their channels are not last


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

    @property
    def device(self) -> int:
        return self.resident + self.slots


@contextmanager
def placed(
    network: nn.Module, device: torch.device, dtype: torch.dtype, resident: int | None = None, pin: bool = False,
    layout: Layout | None = None,
) -> Iterator[None]:
    """Weights of `network` on `device` in `dtype` for the time of a `with` block.

    With `resident` None all of them; on the CPU nothing moves then, because the layers bring each weight to the
    precision of their input as they use it, and a memory-mapped file costs no memory of its own. Otherwise only the
    first units of its layout, about `resident` bytes of them, and what belongs to no unit; the others are there for as
    long as their forward runs. `pin` keeps these in page-locked host memory in `dtype`, so that nothing but the bus
    limits them. What is there already is left alone.

    Afterwards the tensors that were there before are back, untouched, and device memory is free again.
    """
    kept = [(weight, scaled(weight.data, scale_of(weight))) for _, weight in weights_of(network)]
    with ExitStack() as undo:
        undo.callback(put_back, kept)
        if device.type != "cpu" or resident is not None:
            try:
                move(divided(network, dtype, resident, layout, device), device, pin, undo)
            except Exception as error:
                clear_frames(error.__traceback__)  # or memory of the device would live as long as the error
                raise
        yield


def put_back(kept: Iterable[tuple[Tensor, Tensor]]) -> None:
    for weight, data in kept:
        put(weight, data)


def size_of(network: nn.Module, dtype: torch.dtype, layout: Layout | None = None) -> int:
    """Bytes of all units on a device: what `resident` is a part of."""
    return sum(unit.size for unit in divided(network, dtype, None, layout).stay)


def taken(network: nn.Module, dtype: torch.dtype, resident: int | None, layout: Layout | None = None) -> Placing:
    """What `placed` with the same arguments will take where nothing is on the device yet."""
    stay, travel, rest = divided(network, dtype, resident, layout)
    lone = sum(up(part.weight.numel() * part.dtype.itemsize, BLOCK) for part in rest)
    travels = [unit.size for unit in travel]
    return Placing(sum(unit.size for unit in stay) + lone, len(travels[:2]) * max(travels, default=0),
                   sum(travels) if len(travels) > 2 else 0)


# ---- what stands where ----


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


# ---- how it gets there ----


def move(division: Division, device: torch.device, pin: bool, undo: ExitStack) -> None:
    """Brings what stays, and has the rest come and go until `undo`."""
    for part in division.rest:
        part.weight.data = part.weight.data.to(device, part.dtype)
    for unit in division.stay:
        settle(unit, device)
    if division.travel:
        traffic = Traffic(division.travel, Queue(device), pin)
        undo.callback(traffic.end)
        traffic.begin(undo)


def settle(unit: Unit, device: torch.device) -> None:
    """Brings a unit to stay, weight by weight: side by side, where the device lets us see numbers in bytes."""
    if device.type not in PACKED and all(part.scale is None for part in unit.parts):
        for part in unit.parts:
            part.weight.data = part.weight.data.to(device, part.dtype)
        return
    shaped = channels_last if device.type in LAST else Tensor.view_as
    for part, view in zip(unit.parts, unit.views(room(unit.size, device), shaped), strict=True):
        data = part.weight.data
        write(view, data.to(device) if data.dtype.itemsize <= part.dtype.itemsize else data)  # the fewer bytes travel
        put(part.weight, view)


def channels_last(numbers: Tensor, weight: Tensor) -> Tensor:
    """`numbers` in the shape of `weight`; kernels of convolutions, o i and axes of space, with i last in memory.

    Activations are laid out so, and cuDNN would lay out every other kernel anew in each forward. Kernels that travel
    stay as they are in their file: a GPU does that in less time than a CPU.
    """
    if weight.ndim < 4:
        return numbers.view_as(weight)
    out, channels, *space = weight.shape
    return numbers.view(out, *space, channels).movedim(-1, 1)


def room(size: int, device: torch.device, pinned: bool = False) -> Tensor:
    """So many bytes; page-locked if asked for and possible."""
    try:
        return torch.empty(size, dtype=torch.uint8, device=device, pin_memory=pinned)
    except RuntimeError:
        if not pinned:
            raise
        return torch.empty(size, dtype=torch.uint8, device=device)


class Queue:
    """Copies that run beside the computing of a device. Where it cannot do both at once, they take turns.

    An event is a moment in the work of the device, and None one that has passed already.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.kind: Any = getattr(torch, device.type) if device.type in ("cuda", "xpu") else None
        self.stream: Any = self.kind.Stream(device) if self.kind else None

    def now(self) -> Any:
        """The end of all computing that was asked for so far."""
        return self.kind.current_stream(self.device).record_event() if self.kind else None

    def copy(self, target: Tensor, source: Tensor, after: Any) -> Any:
        """Copies, once `after` has come, and gives the end of it. Until then `source` may not change."""
        if self.kind is None:
            target.copy_(source)
            return None
        with self.kind.stream(self.stream):
            self.stream.wait_event(after)
            target.copy_(source, non_blocking=True)
            return self.stream.record_event()

    def hold(self, event: Any) -> None:
        """Has the computing that is asked for from now on wait for `event`."""
        if event is not None:
            self.kind.current_stream(self.device).wait_event(event)

    def wait(self, event: Any) -> None:
        """Has the program itself wait for `event`."""
        if event is not None:
            event.synchronize()


class Buffer:
    """Bytes for one unit at a time: what they hold, and what it was made from."""

    def __init__(self, flat: Tensor) -> None:
        self.flat = flat
        self.unit: Unit | None = None
        self.sources: list[Tensor] = []
        self.arrived: Any = None  # the end of the last copy, into a slot or out of host memory
        self.cut: dict[Unit, list[Tensor]] = {}

    def views(self, unit: Unit) -> list[Tensor]:
        if unit not in self.cut:
            self.cut[unit] = unit.views(self.flat)
        return self.cut[unit]

    def holds(self, unit: Unit) -> bool:
        """Whether `unit` is here, with the weights that it has now."""
        return self.unit is unit and all(
            part.weight.data.is_set_to(source) for part, source in zip(unit.parts, self.sources, strict=True))

    def fill(self, unit: Unit) -> None:
        """The weights of `unit`, from wherever they are."""
        self.unit, self.sources = None, [part.weight.data for part in unit.parts]
        for view, source in zip(self.views(unit), self.sources, strict=True):
            write(view, source)
        self.unit = unit


class Slot(Buffer):
    """Room on the device, and the host memory that it is filled from where a unit has none of its own."""

    def __init__(self, size: int, queue: Queue, pin: bool) -> None:
        super().__init__(room(size, queue.device))
        self.free = queue.now()  # the end of what was computed with it
        self.stage = None if pin else host_buffer(size, queue)


def host_buffer(size: int, queue: Queue) -> Buffer:
    return Buffer(room(size, torch.device("cpu"), pinned=queue.kind is not None))


class Traffic:
    """Units that come for their forward and go after it."""

    def __init__(self, units: list[Unit], queue: Queue, pin: bool) -> None:
        size = max(unit.size for unit in units)
        self.queue = queue
        self.slots = [Slot(size, queue, pin) for _ in units[:2]]
        self.used: Slot | None = None  # the one that is computed with
        self.hosts: list[Tensor] = []  # what its unit has in host memory
        self.own: dict[Unit, Buffer] = {}  # host memory for each unit, with `pin`
        self.following = dict(zip(units, [*units[1:], units[0]], strict=True))

    def begin(self, undo: ExitStack) -> None:
        for unit in self.following:
            undo.callback(unit.module.register_forward_pre_hook(partial(self.enter, unit)).remove)
            undo.callback(unit.module.register_forward_hook(partial(self.go_on, unit)).remove)
            undo.callback(unit.module.register_forward_hook(self.leave, always_call=True).remove)

    def enter(self, unit: Unit, *_: object) -> None:
        """`unit` will compute next."""
        self.leave()  # whatever an interrupt has left standing
        self.used, self.hosts = self.brought(unit), [part.weight.data for part in unit.parts]
        self.queue.hold(self.used.arrived)
        unit.stand(self.used.views(unit))

    def go_on(self, unit: Unit, *_: object) -> None:
        """The device has been told all that `unit` computes, and is busy with it; what follows is sent on its way."""
        if len(self.slots) > 1:
            self.brought(self.following[unit])

    def leave(self, *_: object) -> None:
        """The unit at work has computed; or has failed to, perhaps before it was there."""
        if self.used is not None and self.used.unit is not None:
            self.used.unit.stand(self.hosts)
            self.used.free = self.queue.now()
        self.used, self.hosts = None, []

    def brought(self, unit: Unit) -> Slot:
        """The slot that `unit` stands in, or will: never the one in use, if it has to be filled."""
        for slot in self.slots:
            if slot.holds(unit):
                return slot
        slot = next(slot for slot in self.slots if slot is not self.used)
        stage = slot.stage or self.own.get(unit)
        if stage is None:
            stage = self.own[unit] = host_buffer(unit.size, self.queue)
        if not stage.holds(unit):
            self.queue.wait(stage.arrived)
            stage.fill(unit)
        slot.unit = None
        target, source = (buffer.flat.narrow(0, 0, unit.size) for buffer in (slot, stage))
        slot.arrived = stage.arrived = self.queue.copy(target, source, slot.free)
        slot.unit, slot.sources = unit, stage.sources
        return slot

    def end(self) -> None:
        """Gives all memory back; whatever is computed in it from now on waits for copies that are under way."""
        for slot in self.slots:
            self.queue.hold(slot.arrived)
        self.slots.clear()
        self.own.clear()
