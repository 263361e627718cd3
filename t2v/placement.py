"""Weights of a network on the device while it works: there all the time, or brought as they are needed.

Units that stay (layout.py) have one allocation each, for as long as the `with` block lasts; the others share two slots
(traffic.py). The networks know nothing of all this.
"""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from traceback import clear_frames

import torch
from torch import Tensor, nn

from t2v.float8 import put, scale_of, scaled, write
from t2v.layout import Division, Layout, Unit, divided
from t2v.traffic import Queue, Traffic, room

PACKED = ("cpu", "cuda", "xpu", "meta")  # kinds of devices whose bytes may be taken for numbers of any precision
LAST = ("cuda",)  # kinds of devices that lay kernels of convolutions out anew where their channels are not last


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
    if device.type == "cpu" and resident is None:
        yield
        return
    division = divided(network, dtype, resident, layout, device)
    kept = [(part.weight, scaled(part.weight.data, scale_of(part.weight))) for part in division.parts]
    with ExitStack() as undo:
        undo.callback(put_back, kept)
        try:
            move(division, device, pin, undo)
        except Exception as error:
            clear_frames(error.__traceback__)  # or memory of the device would live as long as the error
            raise
        yield


LIFTED: dict[nn.Module, tuple[object, ExitStack]] = {}  # where they are, and how they get down


def lift(network: nn.Module, device: torch.device, dtype: torch.dtype, layout: Layout | None = None) -> None:
    """Weights of `network` on `device` from now on, where `placed` leaves them alone; until `lower`."""
    place = device, dtype, layout and layout.matrices
    if network in LIFTED and LIFTED[network][0] == place:
        return
    lower(network)
    with ExitStack() as stack:
        stack.enter_context(placed(network, device, dtype, layout=layout))
        LIFTED[network] = place, stack.pop_all()


def lower(*networks: nn.Module) -> None:
    """Weights of `networks`, or of all that were lifted, back to where they came from."""
    for network in networks or [*LIFTED]:
        if network in LIFTED:
            LIFTED.pop(network)[1].close()


def put_back(kept: Iterable[tuple[Tensor, Tensor]]) -> None:
    for weight, data in kept:
        put(weight, data)


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
