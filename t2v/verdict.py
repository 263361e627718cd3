"""Whether a film fits into the memory there is, in words: what it needs, and what would fit instead."""

from bisect import bisect_left
from dataclasses import replace
from typing import Any

from t2v.hosts import Host, Memory
from t2v.memory import MemoryPlan
from t2v.needs import RESERVE, need
from t2v.request import VideoRequest


def verdict(request: VideoRequest, host: Host) -> str:
    """One sentence: what the request needs, what there is, and how it fits; "" where need_of is None."""
    found = need(request, host)
    return sentence(found, host) if found else ""


def sentence(found: MemoryPlan, host: Host) -> str:
    """What is needed, what there is, what is done to make it fit, or what to do if it does not."""
    memory, cpu = host.memory, host.device.type == "cpu"
    needs = f"Needs about {amount(found.device)} {'of memory' if cpu else 'on the device'}"
    how = f" ({found})" if str(found) else ""
    if memory is None:
        return f"{needs}{how}."
    there = f"{amount(memory.free)} of {amount(memory.total)} are free"
    if found.device + RESERVE <= memory.free:
        return f"{needs}; {there}{how}."
    return f"{needs}, and {there}{how}: {(shortage_of_memory if cpu else shortage_on_device)(found, memory)}."


def shortage_on_device(found: MemoryPlan, memory: Memory) -> str:
    """What it means that less than the leanest plan and the reserve is free on a device of its own memory."""
    if found.device > memory.total:
        return "it does not fit, so take fewer frames or a smaller size"
    if found.device <= memory.free or found.device + RESERVE > memory.total:
        return "it will be tight, and easier with fewer frames or a smaller size"
    return "others have to make room"


def shortage_of_memory(found: MemoryPlan, memory: Memory) -> str:
    """The same where weights need not stay in memory, and other programs cannot be sent away."""
    if found.device <= memory.free:
        return "it will be tight, and easier with fewer frames or a smaller size"
    if found.device - found.weights + RESERVE <= memory.free:
        return "it will be slow, reading the model from the disk at every step, unless other programs are closed"
    return "it does not fit, so take fewer frames or a smaller size, or close other programs"


def largest(request: VideoRequest, host: Host) -> str:
    """What would fit of a film that does not, by now: fewer frames of its size, as many of a smaller one; "" for
    nothing, for a film that should have fitted, or no telling."""
    memory, found = host.memory, need(request, host, 0)
    if memory is None or found is None or not (request.frames and request.width and request.height):
        return ""

    def fits(**changes: Any) -> bool:
        plan = need(replace(request, **changes), host, 0)
        weights = plan.weights if plan and host.device.type == "cpu" else 0  # which need not stay in memory
        return plan is not None and plan.device - weights + RESERVE <= memory.free

    if fits():
        return ""
    shape = request.width / request.height
    frames = bisect_left(range(1, request.frames), True, key=lambda frames: not fits(frames=frames))
    rows = bisect_left(range(16, request.height, 8), True,
                       key=lambda height: not fits(height=height, width=across(height, shape)))
    height = 8 + 8 * rows
    return " or ".join([*([f"{frames} frames"] if frames else []),
                        *([f"{across(height, shape)}x{height}"] if rows else [])])


def across(height: int, shape: float) -> int:
    """The width to a height, as VideoRequest takes it."""
    return max(16, round(height * shape / 8) * 8)


def amount(size: int) -> str:
    """Memory as it stands on the box of a device, where a GB has 2**30 bytes."""
    return f"{size / 2**30:.1f} GB" if size >= 2**30 / 10 else f"{size / 2**20:.0f} MB"
