"""Units of a network that come to the device for their forward and go after it, through two slots, used in turn:

    copying      unit 1 ─▶ B   unit 2 ─▶ A   unit 3 ─▶ B   …   unit 0 ─▶ A, for the next forward
    computing    unit 0 in A   unit 1 in B   unit 2 in A   …

Between two forwards `weight.data` of a unit is a tensor in host memory, and whoever wants other weights may put another
there: it is looked at anew each time the unit is brought.
"""

from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor

from t2v.float8 import write
from t2v.layout import Unit


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


def room(size: int, device: torch.device, pinned: bool = False) -> Tensor:
    """So many bytes; page-locked if asked for and possible."""
    try:
        return torch.empty(size, dtype=torch.uint8, device=device, pin_memory=pinned)
    except RuntimeError:
        if not pinned:
            raise
        return torch.empty(size, dtype=torch.uint8, device=device)


def give_pinned_back(device: torch.device) -> None:
    """Page-locked memory that nobody uses, which torch would keep for `device`; older versions keep it."""
    empty = getattr(getattr(torch, "accelerator", None), "empty_host_cache", None) or getattr(
        torch._C, "_host_emptyCache", None)
    if empty is not None and device.type in ("cuda", "xpu"):
        empty()
