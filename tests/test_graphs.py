"""Recordings of the UNet's calls, with a recorder that computes on the CPU what a GPU would play back."""

import inspect
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from t2v import lean
from t2v.extra import Point, Strength
from t2v.graphs import CudaRecorder, Graphed, Work, graphed
from t2v.hosts.standalone import Standalone
from t2v.lean import LeanUNet
from t2v.memory import UNET, MemoryPlan
from t2v.models.lora.merge import mixed
from t2v.models.lora.parts import Change, Target
from t2v.models.transformer import Heard
from t2v.models.unet import UNet3D
from t2v.ring import ring
from tests import fixtures
from tests.networks import normal, randomised

TIME = torch.tensor([981.0])


class Tape:
    """Computes `work` again, from what is at its inputs by now, into where it left what it gave."""

    def __init__(self, work: Work, said: Tensor) -> None:
        self.work, self.said = work, said

    def replay(self) -> None:
        self.said.copy_(self.work())


class Tapes:
    """A recorder; `fails` with an error where one is told."""

    def __init__(self, record_fails: str = "", replay_fails: str = "") -> None:
        self.record_fails, self.replay_fails = record_fails, replay_fails
        self.warmed = self.recorded = self.freed = 0

    def warm_up(self, work: Work) -> Tensor:
        self.warmed += 1
        return work()

    def record(self, work: Work) -> tuple[Tape, Tensor]:
        if self.record_fails:
            raise RuntimeError(self.record_fails)
        self.recorded += 1
        said = torch.full_like(work(), torch.nan)  # recording computes nothing
        return Tape(self.fail if self.replay_fails else work, said), said

    def fail(self) -> Tensor:
        raise RuntimeError(self.replay_fails)

    def free(self, recordings: Sequence[object]) -> None:
        self.freed += len(recordings)


@pytest.fixture(autouse=True)
def no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def net() -> UNet3D:
    return randomised(UNet3D(fixtures.UNET))


@pytest.fixture(scope="module")
def text(net: UNet3D) -> Heard:
    with torch.no_grad():
        return net.heard(normal(2, 7, 32))


def x(seed: int = 0, frames: int = 2) -> Tensor:
    return normal(1, 4, frames, 4, 4, seed=seed)


def nothing(words: str) -> None:
    raise AssertionError(words)


def test_a_call_is_recorded_when_it_comes_again_and_played_from_then_on(net: UNet3D, text: Heard) -> None:
    tapes = Tapes()
    network = Graphed(net, tapes, nothing)
    found = []
    for number, counts in enumerate([(1, 0), (1, 1), (1, 1), (1, 1)]):
        found.append(network(x(number), TIME - number, text))
        assert (tapes.warmed, tapes.recorded) == counts
    for number, said in enumerate(found):  # now, when later ones have been played over them
        assert torch.equal(said, net(x(number), TIME - number, text))


def test_whatever_a_recording_cannot_know_has_one_of_its_own(net: UNet3D, text: Heard) -> None:
    tapes, other = Tapes(), net.heard(normal(2, 7, 32, seed=5))
    network = Graphed(net, tapes, nothing)

    def closed(*args: Any) -> Tensor:
        with ring(net):
            return network(*args)

    calls: list[Callable[[], Tensor]] = [
        partial(network, x(), TIME, text), partial(network, x(frames=3), TIME, text),
        partial(network, x().double(), TIME, net.heard(text.context.double())), partial(network, x(), TIME, other),
        partial(network, x(), TIME, text, 1e3), partial(closed, x(), TIME, text)]
    first = [call() for call in calls]
    for _ in range(2):
        for call, said in zip(calls, first, strict=True):
            assert torch.equal(call(), said)
    assert (tapes.warmed, tapes.recorded) == (len(calls), len(calls))
    assert not torch.equal(first[0], first[-1])


def test_a_text_that_is_another_at_every_step_is_never_recorded_nor_kept(net: UNet3D) -> None:
    tapes = Tapes()
    network = Graphed(net, tapes, nothing, size=3)
    for seed in range(5):
        network(x(), TIME, net.heard(normal(2, 7, 32, seed=seed)))
    assert (tapes.recorded, len(network.takes)) == (0, 3)


def test_the_recording_that_was_used_last_longest_ago_goes_first(net: UNet3D, text: Heard) -> None:
    tapes = Tapes()
    network = Graphed(net, tapes, nothing, size=2)
    for frames in (1, 1, 2, 2, 1, 3):
        network(x(frames=frames), TIME, text)
    assert (tapes.recorded, tapes.freed) == (2, 1)
    assert {key[0][0][2] for key in network.takes} == {1, 3}  # type: ignore[index]


def test_a_text_of_each_frame_is_not_recorded(net: UNet3D) -> None:
    """Its keys are made as they are needed, by weights that are not on the device."""
    tapes, text = Tapes(), net.heard(normal(2, 2, 7, 32))
    network = Graphed(net, tapes, nothing)
    assert torch.equal(network(x(), TIME, text), net(x(), TIME, text))
    assert not tapes.warmed


@pytest.mark.parametrize("tapes", [Tapes("operation not permitted"), Tapes(replay_fails="CUDA out of memory")])
def test_where_recording_fails_all_goes_on_without_for_good_and_is_told_once(
    net: UNet3D, text: Heard, tapes: Tapes, caplog: pytest.LogCaptureFixture
) -> None:
    notes: list[str] = []
    network = Graphed(net, tapes, notes.append)
    with caplog.at_level(logging.WARNING):
        for number in range(5):
            assert torch.equal(network(x(number), TIME, text), net(x(number), TIME, text))
    assert notes == ["steps could not be recorded; went on without CUDA graphs"]
    assert len(caplog.records) == 1
    assert (tapes.record_fails or tapes.replay_fails) in caplog.text
    assert tapes.warmed == 1
    assert tapes.freed == tapes.recorded
    assert not network.takes


def test_an_error_of_the_network_itself_stays_what_it_is(net: UNet3D, text: Heard) -> None:
    with pytest.raises(RuntimeError, match="channels"):
        Graphed(net, Tapes(), lambda _: None)(normal(1, 5, 2, 4, 4), TIME, text)


# ---- at work ----


@pytest.fixture
def tapes(monkeypatch: pytest.MonkeyPatch) -> Tapes:
    tapes = Tapes()
    monkeypatch.setattr(lean, "graphed", lambda unet, _device, _wanted, note: Graphed(unet, tapes, note))
    return tapes


@pytest.fixture
def host(tmp_path: Path) -> Standalone:
    return Standalone(torch.device("cpu"), torch.float32, outputs=tmp_path)


def test_steps_are_those_of_a_network_that_is_not_recorded_and_memory_is_given_back(
    net: UNet3D, tapes: Tapes, host: Standalone
) -> None:
    context = normal(2, 7, 32)
    with mixed(net, []) as mixture, LeanUNet(net, mixture, MemoryPlan(), host, nothing) as network:
        for number in range(4):
            assert torch.equal(network(x(number), TIME, context), net(x(number), TIME, context))
        assert (tapes.recorded, tapes.freed) == (1, 0)
    assert (tapes.recorded, tapes.freed) == (1, 1)


def test_halves_of_guidance_are_not_recorded(net: UNet3D, tapes: Tapes, host: Standalone) -> None:
    with mixed(net, []) as mixture, LeanUNet(net, mixture, MemoryPlan(UNET[3]), host, nothing) as network:
        network(x(), TIME, normal(2, 7, 32))
    assert not tapes.warmed


def test_a_lora_that_changes_over_the_steps_changes_what_is_played(
    net: UNet3D, tapes: Tapes, host: Standalone
) -> None:
    name, context = "output_blocks.0.0.in_layers.2.weight", normal(2, 7, 32)
    weight = net.get_parameter(name)
    change = Change(Target("unet", name, tuple(weight.shape)), normal(len(weight), 2),
                    normal(2, weight[0].numel(), seed=1), 1.0)
    falling = Strength((Point(0, 1), Point(1, 0)))
    with mixed(net, [(falling, change)]) as mixture, LeanUNet(net, mixture, MemoryPlan(), host, nothing) as network:
        for number, part in enumerate([0.0, 0.5, 1.0]):
            network.at(part)
            for _ in range(3):
                assert torch.equal(network(x(), TIME, context), net(x(), TIME, context))
            assert (tapes.recorded, tapes.freed) == (number + 1, number)


def test_no_recording_outlives_a_step_down_the_ladder_of_memory(
    net: UNet3D, tapes: Tapes, host: Standalone
) -> None:
    context = normal(2, 7, 32)
    with mixed(net, []) as mixture, LeanUNet(net, mixture, MemoryPlan(), host, nothing) as network:
        network(x(), TIME, context)
        network(x(), TIME, context)
        network.release()
        assert (tapes.recorded, tapes.freed) == (1, 1)
        del network.ladder.rungs[0]
        network(x(), TIME, context)
        assert tapes.warmed == 2


def test_only_cuda_is_asked_to_record_and_only_if_that_is_wanted(net: UNet3D) -> None:
    assert graphed(net, torch.device("cpu"), True, nothing) is None
    assert graphed(net, torch.device("cuda"), False, nothing) is None
    assert graphed(net, torch.device("cuda"), True, nothing) is not None
    assert not Standalone(torch.device("cpu")).settings.graphs


class Stream:
    def __init__(self, name: str, log: list[str]) -> None:
        self.name, self.log = name, log

    def wait_stream(self, other: "Stream") -> None:
        self.log.append(f"{self.name} waits for {other.name}")


def test_the_recorder_asks_cuda_in_the_order_that_torch_prescribes(monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[str] = []
    cuda = torch.cuda

    class Graph:
        def reset(self) -> None:
            log.append("reset")

    @contextmanager
    def on(stream: Stream) -> Iterator[None]:
        log.append(f"on {stream.name}")
        yield

    @contextmanager
    def capture(graph: Graph, pool: str, stream: Stream, capture_error_mode: str) -> Iterator[None]:
        assert isinstance(graph, Graph)
        log.append(f"records on {stream.name} into {pool}, {capture_error_mode}")
        yield

    fakes: dict[str, Any] = {
        "Stream": lambda _: Stream("beside", log), "current_stream": lambda _: Stream("here", log), "stream": on,
        "CUDAGraph": Graph, "graph": capture, "graph_pool_handle": lambda: "pool", "device": lambda _: nullcontext(),
        "set_stream": lambda stream: log.append(f"back {stream.name}"),
        "synchronize": lambda _: log.append("all is over"), "empty_cache": lambda: log.append("empty")}
    for name, fake in fakes.items():
        monkeypatch.setattr(cuda, name, fake)
    monkeypatch.setattr(Tensor, "record_stream", lambda _, stream: log.append(f"kept for {stream.name}"))

    recorder = CudaRecorder(torch.device("cuda"))
    assert float(recorder.warm_up(lambda: torch.ones(1))) == 1
    graph, said = recorder.record(lambda: torch.ones(1))
    recorder.free([graph])
    assert float(said) == 1
    assert log == ["beside waits for here", "on beside", "here waits for beside", "kept for here",
                   "records on beside into pool, thread_local", "back here", "all is over", "reset", "empty"]


class Device:
    """As much of torch.cuda as a recording touches. `bad`: where a capture cannot be begun, or not be ended."""

    def __init__(self, bad: str) -> None:
        self.bad, self.here, self.filling, self.pools = bad, "default", [""], 0
        self.log: list[str] = []

    @contextmanager
    def graph(self, graph: object, pool: str, stream: str, capture_error_mode: str) -> Iterator[None]:  # noqa: ARG002
        """As torch.cuda.graph: what comes after an error of `capture_begin` or `capture_end` is left out."""
        self.filling.append(pool)
        self.here = stream
        if self.bad == "begin":
            raise RuntimeError("cannot begin")
        try:
            yield
        finally:
            if self.bad == "end":
                raise RuntimeError("operation failed due to a previous error during capture")
            self.filling.remove(pool)
            self.here = "default"

    def handle(self) -> str:
        self.pools += 1
        return f"pool {self.pools}"

    def set_stream(self, stream: str) -> None:
        self.here = stream

    def leave(self, index: int, pool: str) -> None:
        if pool not in self.filling:
            raise RuntimeError("endAllocatePool: not currently recording to mempool_id")
        self.filling.remove(pool)
        self.log.append(f"{index}: left {pool}")

    def release(self, index: int, pool: str) -> None:
        self.log.append(f"{index}: released {pool}")


@pytest.mark.parametrize("end", ["_cuda_endAllocateToPool", "_cuda_endAllocateCurrentStreamToPool", ""])
@pytest.mark.parametrize(("bad", "problem"), [("begin", "cannot begin"), ("end", "operation failed"), ("", "no such")])
def test_after_a_recording_that_failed_work_goes_on_where_it_was(
    bad: str, problem: str, end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = Device(bad)
    fakes: dict[str, Any] = {
        "current_stream": lambda _: device.here, "set_stream": device.set_stream, "CUDAGraph": object,
        "graph": device.graph, "graph_pool_handle": device.handle, "device": lambda _: nullcontext(),
        "current_device": lambda: 1}
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    for name in ("_cuda_endAllocateToPool", "_cuda_endAllocateCurrentStreamToPool", "_cuda_releasePool"):
        monkeypatch.delattr(torch._C, name, raising=False)
    monkeypatch.setattr(torch._C, "_cuda_releasePool", device.release, raising=False)
    if end:
        monkeypatch.setattr(torch._C, end, device.leave, raising=False)

    def work() -> Tensor:
        raise KeyError("no such kernel")

    recorder = CudaRecorder(torch.device("cuda"))
    recorder.beside = "beside"
    with pytest.raises((RuntimeError, KeyError), match=problem):
        recorder.record(work)
    assert device.here == "default"
    assert device.log == (["1: left pool 1", "1: released pool 1"] if bad and end else [])
    assert device.filling == (["", "pool 1"] if bad and not end else [""])

    device.bad = ""
    assert float(recorder.record(lambda: torch.ones(1))[1]) == 1
    assert recorder.pool == "pool 2"  # what has been released is not to be filled again


def test_torch_takes_what_its_recorder_is_told() -> None:
    told = inspect.signature(torch.cuda.graph).bind("graph", "pool", "stream", capture_error_mode="thread_local")
    assert (told.arguments["pool"], told.arguments["stream"]) == ("pool", "stream")


# ---- what can be recorded ----


class Unasked(TorchDispatchMode):
    """Refuses what would have the program wait for a number from the device."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        waiting = ("_local_scalar_dense", "item", "nonzero", "is_nonzero", "equal", "masked_select", "unique")
        assert func.overloadpacket.__name__.split(".")[-1] not in waiting, func
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("closed", [False, True])
@pytest.mark.parametrize("at_once", [1e12, 1e3])
@pytest.mark.parametrize("fps", [0.0, 8.0])
def test_nothing_in_the_network_waits_for_the_device(closed: bool, at_once: float, fps: float) -> None:
    net = randomised(UNet3D(replace(fixtures.UNET, fps=fps)))
    text = net.heard(normal(2, 7, 32))
    with Unasked():
        if closed:
            with ring(net):
                net(x(), TIME, text, at_once)
        else:
            net(x(), TIME, text, at_once)


def test_waiting_is_noticed() -> None:
    with pytest.raises(AssertionError, match="_local_scalar_dense"), Unasked():
        float(normal(1))
