"""Calls of the UNet recorded once, as CUDA graphs, and played back: one launch in the place of a thousand.

    first call     computed, beside the work of the device: kernels are chosen and compiled meanwhile
    second call    recorded, and played
    from then on   played: the inputs are copied to where the recording reads them

So a text that is another at every step is never recorded. A recording knows addresses, no tensors: `clear` has to be
called before the weights move, and may be when the texts are others anyway. It holds the memory that a call takes.

Written by the documentation of CUDA and torch, and tested with a recorder on the CPU; not yet run on a GPU.
"""

import logging
import math
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from traceback import clear_frames
from typing import Any, Protocol

import torch
from torch import Tensor

from t2v.models.transformer import Heard
from t2v.models.unet import UNet3D

log = logging.getLogger(__name__)
Work = Callable[[], Tensor]


class Recording(Protocol):
    """What has been recorded, as torch.cuda.CUDAGraph."""

    def replay(self) -> object: ...


class Recorder(Protocol):
    """What is asked of a device."""

    def warm_up(self, work: Work) -> Tensor:
        """What `work` gives, on a stream of its own."""

    def record(self, work: Work) -> tuple[Recording, Tensor]:
        """The launches of `work`, and where it leaves what it gives; nothing is computed."""

    def free(self, recordings: Sequence[Recording]) -> None:
        """Gives the memory of recordings back."""


class CudaRecorder:
    """Graphs of a CUDA device, which share their memory: they are played one at a time, and what is in it is copied
    before the next is."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.beside: Any = None  # a stream
        self.pool: Any = None

    def warm_up(self, work: Work) -> Tensor:
        self.beside = self.beside or torch.cuda.Stream(self.device)
        here = torch.cuda.current_stream(self.device)
        self.beside.wait_stream(here)
        try:
            with torch.cuda.stream(self.beside):
                said = work()
        finally:
            here.wait_stream(self.beside)
        said.record_stream(here)
        return said

    def record(self, work: Work) -> tuple[Recording, Tensor]:
        graph = torch.cuda.CUDAGraph()
        self.pool = self.pool or torch.cuda.graph_pool_handle()
        mode = "thread_local"  # other threads draw previews
        with torch.cuda.device(self.device):
            here = torch.cuda.current_stream(self.device)
            try:
                with torch.cuda.graph(graph, self.pool, self.beside, capture_error_mode=mode):
                    said = work()
            except BaseException:
                self.abandon()
                raise
            finally:
                torch.cuda.set_stream(here)  # where a capture cannot be ended, torch stays beside
        return graph, said

    def abandon(self) -> None:
        """Takes the pool away from the allocator, to which torch leaves it where a capture cannot be ended."""
        pool, self.pool = self.pool, None
        with suppress(Exception):  # of torch's own functions; and where it has been taken away, that is an error
            index = torch.cuda.current_device()
            end = getattr(torch._C, "_cuda_endAllocateToPool", None)
            (end or torch._C._cuda_endAllocateCurrentStreamToPool)(index, pool)  # type: ignore[attr-defined]
            torch._C._cuda_releasePool(index, pool)  # as a graph does that has been captured

    def free(self, recordings: Sequence[Any]) -> None:
        torch.cuda.synchronize(self.device)  # an interrupt may have left one playing
        for graph in recordings:
            graph.reset()
        self.pool = None
        torch.cuda.empty_cache()


@dataclass
class Take:
    """A call that has come once, and is recorded when it comes again. It keeps the text, whose memory is read."""

    text: Heard
    inputs: tuple[Tensor, ...] = ()
    recording: Recording | None = None
    said: Tensor | None = None

    def play(self, inputs: tuple[Tensor, ...]) -> Tensor:
        assert self.recording is not None
        assert self.said is not None
        for target, source in zip(self.inputs, inputs, strict=True):
            target.copy_(source)
        self.recording.replay()
        return self.said.clone()


class Graphed:
    """Answers as `unet` does, whose weights are all on the device. `note`: is told in words if that cannot be done."""

    def __init__(self, unet: UNet3D, recorder: Recorder, note: Callable[[str], None], size: int = 8) -> None:
        self.unet, self.recorder, self.note, self.size = unet, recorder, note, size
        self.hooks = [hooks for module in unet.modules()
                      for hooks in (module._forward_pre_hooks, module._forward_hooks)]
        self.takes: OrderedDict[Hashable, Take] = OrderedDict()
        self.failed = False

    def __call__(self, x_t: Tensor, timestep: Tensor, text: Heard, at_once: float = math.inf) -> Tensor:
        """As UNet3D.forward. A text that is another in each frame is read by weights that are not on the device."""
        if not self.failed and text.keys:
            try:
                return self.played((x_t, timestep), text, at_once)
            except Exception as error:  # whatever it is, without recordings there is more memory, and less to go wrong
                clear_frames(error.__traceback__)
                problem = str(error)
            self.give_up(problem)
        return self.unet(x_t, timestep, text, at_once)

    def played(self, inputs: tuple[Tensor, ...], text: Heard, at_once: float) -> Tensor:
        """The same, computed or played."""
        key = (*((each.shape, each.stride(), each.dtype, each.device) for each in inputs), id(text), at_once,
               tuple(hook for hooks in self.hooks for hook in hooks.values()))
        take = self.takes.get(key)
        if take is None:
            said = self.recorder.warm_up(partial(self.unet, *inputs, text, at_once))
            self.takes[key] = Take(text)
            if len(self.takes) > self.size:
                self.free(self.takes.popitem(last=False)[1])
            return said
        self.takes.move_to_end(key)
        if take.recording is None:
            take.inputs = tuple(each.clone() for each in inputs)
            take.recording, take.said = self.recorder.record(partial(self.unet, *take.inputs, text, at_once))
        return take.play(inputs)

    def give_up(self, problem: str) -> None:
        """From now on without recordings."""
        self.failed = True
        self.clear()
        log.warning("steps cannot be recorded (%s); goes on without", problem)
        self.note("steps could not be recorded; went on without CUDA graphs")

    def clear(self) -> None:
        """Forgets all calls, and gives the memory of their recordings back."""
        takes = [*self.takes.values()]
        self.takes.clear()
        self.free(*takes)

    def free(self, *takes: Take) -> None:
        recordings = [take.recording for take in takes if take.recording is not None]
        for take in takes:
            take.recording = take.said = None
        if recordings:
            self.recorder.free(recordings)


def graphed(unet: UNet3D, device: torch.device, wanted: bool, note: Callable[[str], None]) -> Graphed | None:
    """`unet` recorded, if that is wanted and the device can."""
    return Graphed(unet, CudaRecorder(device), note) if wanted and device.type == "cuda" else None
