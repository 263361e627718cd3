"""Our step as a film has it: within its memory plan, and with weights that come as they are needed."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from statistics import median

import torch

from benchmarks.measure import machine, problem, release, seconds, table
from benchmarks.peers import Inputs, Peer
from t2v.hosts.standalone import Standalone
from t2v.layout import divided, layout_of, taken
from t2v.lean import LeanUNet, Note, Remembered
from t2v.memory import SMALL, MemoryPlan, UNetRung
from t2v.models.lora.merge import mixed
from t2v.models.unet import UNet3D
from t2v.needs import Film, Sizes, pinned, plan_of, published_sizes
from t2v.placement import placed
from t2v.traffic import Queue, Traffic

WARM = 2  # steps that are not counted
HEAD = ("film", "a step, all weights there, s", "all streamed, s", "of all there", "bringing them alone, s",
        "GB brought", "GB/s", "overlap")


# ---- within the memory plan ----


def plan_within(cap: float, net: UNet3D, size: tuple[int, int, int], host: Standalone) -> MemoryPlan:
    """The plan for a film of a `size` f h w, in latents, with guidance, where a device has `cap` bytes."""
    sizes = sizes_of(net)
    frames, height, width = size
    return plan_of(sizes, Film(width * sizes.vae.factor, height * sizes.vae.factor, frames, True, False), host, cap)


@contextmanager
def planned(net: UNet3D, plan: MemoryPlan, host: Standalone, note: Note) -> Iterator[Peer]:
    """Ours as `plan` says, leaner where memory runs out all the same, which `note` is told."""
    with mixed(net, []) as mixture, LeanUNet(net, mixture, plan, host, note) as lean:
        yield Peer(net, lean)


def sizes_of(net: UNet3D) -> Sizes:
    """`net` in a model that is the published one otherwise."""
    return replace(published_sizes(), unet=net, unet_file=sum(weight.nbytes for weight in net.parameters()))


def host_of(inputs: Inputs) -> Standalone:
    """One with default settings that computes where and in what `inputs` are."""
    return Standalone(inputs[0].device, inputs[0].dtype)


# ---- weights that are streamed ----


@dataclass(frozen=True)
class Streaming:
    """Seconds of a step with all weights there, of one with all streamed, and of bringing these without computing."""

    resident: float = 0.0
    streamed: float = 0.0
    brought: float = 0.0
    moved: int = 0  # bytes brought for a step
    pinned: bool = False  # from page-locked memory
    problem: str = ""

    @property
    def overlap(self) -> float:
        """The share of the bringing that a step does not wait for."""
        return 1 - (self.streamed - self.resident) / self.brought


def streaming(net: UNet3D, inputs: Inputs, rounds: int) -> Streaming:
    """What streaming costs a step, in the parts in which the memory plan makes it; or why that is not known."""
    device, dtype = inputs[0].device, inputs[0].dtype
    pin = device.type != "cpu" and pinned(net, UNetRung(0.0), host_of(inputs))
    try:
        return Streaming(step_with(None, net, inputs, pin, rounds), step_with(0, net, inputs, pin, rounds),
                         bringing(net, device, dtype, pin, rounds), taken(net, dtype, 0).moved, pin)
    except RuntimeError as error:
        return Streaming(problem=problem(error))


@torch.no_grad()
def step_with(resident: int | None, net: UNet3D, inputs: Inputs, pin: bool, rounds: int) -> float:
    """Seconds of a step with so many bytes of the weights that stay, None for all."""
    (x, timestep, contexts), heard = inputs, Remembered(net.heard)
    release()
    with placed(net, x.device, x.dtype, resident, pin, layout_of(net)):
        return typical(x.device, lambda: net(x, timestep, heard(contexts), SMALL), rounds)


def bringing(net: UNet3D, device: torch.device, dtype: torch.dtype, pin: bool, rounds: int) -> float:
    """Seconds for the way of all weights that a step has streamed, by turns into both slots, with nothing beside it."""
    release()
    traffic = Traffic(divided(net, dtype, 0, layout_of(net), device).travel, Queue(device), pin)

    def bring() -> None:
        for unit in traffic.following:
            traffic.used = slot = traffic.brought(unit)  # as if in use, so the next unit goes into the other
        traffic.queue.hold(slot.arrived)  # which the clock, looking at what computes, would not wait for

    try:
        return typical(device, bring, rounds)
    finally:
        traffic.end()


def typical(device: torch.device, run: Callable[[], object], rounds: int) -> float:
    """The median of `rounds`, once `run` has warmed up."""
    return median([seconds(device, run) for _ in range(WARM + rounds)][WARM:])


def streaming_report(measured: Mapping[str, Streaming], device: torch.device, dtype: torch.dtype) -> str:
    """A table in markdown."""
    kind = "of the processor" if device.type == "cpu" else "on the device"
    memory = "page-locked" if all(each.pinned for each in measured.values() if not each.problem) else "pageable"
    return "\n".join((
        f"{machine(device)}, {str(dtype).removeprefix('torch.')}. Seconds {kind}, medians of rounds. Weights come from",
        f"{memory} memory. Overlap: the share of bringing them that a step does not wait for.",
        "", table(HEAD, (row(size, each) for size, each in measured.items()))))


def row(size: str, each: Streaming) -> tuple[object, ...]:
    if each.problem:
        return size, each.problem, *[None] * (len(HEAD) - 2)
    return (size, each.resident, each.streamed, each.streamed / each.resident, each.brought, each.moved / 1e9,
            each.moved / 1e9 / each.brought, each.overlap)
