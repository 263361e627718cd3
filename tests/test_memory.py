"""The ladder that work goes down where memory runs out, and the plan that picks a rung of it beforehand."""

import gc
import math
import re
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any
from unittest.mock import patch

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from t2v import verdict
from t2v.errors import MemoryShortage
from t2v.memory import SMALL, UNET, Ladder, MemoryPlan, UNetRung, rungs, shortage_explained
from t2v.models import fused
from t2v.needs import RESERVE, film_of, need_of_published, plan_of, published_sizes, unet_bytes
from t2v.request import VideoRequest
from t2v.verdict import largest
from tests.test_needs import GB, Machine, machine

GPU = torch.device("cuda")
SHORTAGES = [
    torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    MemoryError(),
    RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory"),
    RuntimeError("MPS backend out of memory (MPS allocated: 5.0 GB)"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("GET was unable to find an engine to execute this computation"),
    RuntimeError("Unable to find a valid cuDNN algorithm to run convolution"),
    RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
    RuntimeError("level_zero backend failed with error: 39 (UR_RESULT_ERROR_OUT_OF_DEVICE_MEMORY)"),
    RuntimeError("Could not allocate tensor with 4096 bytes. There is not enough GPU video memory available!"),
]
SIZES = [(24, 192, 192), (16, 256, 256), (24, 256, 256), (125, 256, 256), (24, 576, 320), (24, 1024, 576)]


@pytest.fixture(autouse=True, params=[True, False], ids=["kernels", "plain torch"])
def kernels(request: pytest.FixtureRequest) -> Iterator[None]:
    """On GPUs with fused kernels and on those without, whatever the machine that tests has."""
    with patch.object(fused, "ready", lambda _: request.param):
        yield


# ---- the ladder ----


class Events(list[str]):
    """What a ladder of three rungs does, in order."""

    def ladder(self, *rungs: str) -> Ladder[str]:
        return Ladder(rungs or ("first", "second", "third"), "denoising", lambda: self.append("release"), self.append)

    def failing(self, error: BaseException, *on: str) -> Callable[[str], str]:
        """Work that fails on some rungs."""
        def attempt(rung: str) -> str:
            self.append(rung)
            if rung in on:
                raise error
            return f"made on {rung}"

        return attempt


@pytest.mark.parametrize("error", SHORTAGES, ids=repr)
def test_where_memory_runs_out_work_goes_on_with_the_next_rung_and_stays_there(error: Exception) -> None:
    events = Events()
    ladder = events.ladder()
    assert ladder.climb(events.failing(error, "first")) == "made on second"
    assert events == ["first", "release", "memory ran out while denoising; went on with second", "second"]
    assert ladder.climb(events.failing(error)) == "made on second"
    assert ladder.climb(events.failing(error, "second")) == "made on third"


@pytest.mark.parametrize("error", [RuntimeError("the size of tensor a must match"), KeyError("memory"),
                                   KeyboardInterrupt(), SystemExit(1)], ids=repr)
def test_any_other_error_goes_through_untouched(error: BaseException) -> None:
    events = Events()
    ladder = events.ladder()
    with pytest.raises(type(error)) as caught:
        ladder.climb(events.failing(error, "first", "second", "third"))
    assert caught.value is error
    assert (events, ladder.rung) == (["first"], "first")


def test_at_the_end_of_the_ladder_the_error_comes_as_it_is() -> None:
    events = Events()
    ladder = events.ladder()
    with pytest.raises(RuntimeError) as caught:
        ladder.climb(events.failing(SHORTAGES[0], "first", "second", "third"))
    assert caught.value is SHORTAGES[0]
    assert [event for event in events if " " not in event] == [
        "first", "release", "second", "release", "third", "release", "third"]
    assert ladder.rung == "third"  # and there it stays, should anybody try again


def test_what_a_failed_attempt_has_computed_is_gone_before_anything_is_released() -> None:
    """Or it would still be there when the next attempt needs its memory: in the frames of what failed, and of what
    failed before that."""
    held: list[weakref.ref[Tensor]] = []

    def inner() -> None:
        big = torch.empty(1000)
        held.append(weakref.ref(big))
        try:
            raise RuntimeError("no engine for this")
        except RuntimeError:
            raise SHORTAGES[0] from None

    def attempt(rung: int) -> int:
        big = torch.empty(1000)
        held.append(weakref.ref(big))
        if rung == 1:
            inner()
        return rung

    released: list[list[Tensor | None]] = []
    ladder = Ladder([1, 2], "work", lambda: released.append([ref() for ref in held]), lambda _: None)
    assert ladder.climb(attempt) == 2
    assert released == [[None, None]]


def test_a_shortage_is_explained_with_what_would_fit_and_frees_what_failed() -> None:
    held: list[weakref.ref[Tensor]] = []

    def work() -> None:
        big = torch.empty(1000)
        held.append(weakref.ref(big))
        raise RuntimeError("CUDA out of memory")

    with pytest.raises(MemoryShortage) as caught, shortage_explained("24 frames", lambda: "12 frames or 192x192"):
        work()
    gc.collect()
    assert held[0]() is None  # while the error and its cause are alive
    assert str(caught.value) == "not enough memory for 24 frames. There is enough by now for 12 frames or 192x192."
    remedy = "Close other programs, or take fewer frames, a smaller size or a smaller model"
    with pytest.raises(MemoryShortage, match=remedy), shortage_explained("24 frames", str):
        work()


def test_what_is_only_taken_for_a_shortage_is_quoted() -> None:
    with pytest.raises(MemoryShortage, match=r"It was told as: GET was unable to find an engine here[.]$"), \
            shortage_explained("24 frames", str):
        raise RuntimeError("GET was unable to find an engine here.\nmore")


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), ValueError("out of memory"), KeyboardInterrupt()])
def test_what_is_no_shortage_is_not_explained(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught, shortage_explained("24 frames", str):
        raise error
    assert caught.value is error


# ---- in words ----


@pytest.mark.parametrize(("rung", "words"), [
    (UNetRung(), ""),
    (UNetRung(at_once=SMALL), ""),  # which costs nothing, and need not bother anybody
    (UNetRung(0.75, at_once=SMALL), "25% of the model streamed"),
    (UNetRung(pair=False), "guidance in two halves"),
    (UNetRung(0, False, SMALL / 4), "100% of the model streamed, guidance in two halves, in parts"),
])
def test_a_rung_says_what_is_done_to_save_memory(rung: UNetRung, words: str) -> None:
    assert str(rung) == words


def test_a_plan_says_what_is_done_at_each_stage() -> None:
    assert str(MemoryPlan()) == ""
    assert str(MemoryPlan(UNetRung(0.5), 0.0, 48)) == (
        "50% of the model streamed, the text tower streamed, decoding in tiles of 48x48 latents")


def test_on_the_cpu_nothing_is_streamed() -> None:
    assert rungs(GPU) == UNET
    assert [rung for rung in UNET if rung.share == 1] == list(rungs(torch.device("cpu")))


# ---- the plan ----


def planned(size: tuple[int, int, int], free: float, host: Machine | None = None) -> MemoryPlan:
    frames, width, height = size
    film = film_of(VideoRequest("", frames=frames, width=width, height=height, cfg_scale=9), 16)
    assert film is not None
    return plan_of(published_sizes(), film, host or machine("cuda"), free)


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(SIZES), st.integers(0, 9 * GB), st.integers(0, GB))
def test_the_plan_is_the_first_rung_that_fits_and_leaner_the_less_there_is(
        size: tuple[int, int, int], free: int, less: int) -> None:
    found, host = planned(size, free), machine("cuda")
    film = film_of(VideoRequest("", frames=size[0], width=size[1], height=size[2], cfg_scale=9), 16)
    assert film is not None
    for rung in UNET[: UNET.index(found.unet)]:
        assert sum(unet_bytes(published_sizes(), film, rung, host, 0)) + RESERVE > free
    assert found.peaks["denoise"] + RESERVE <= free or found.unet == UNET[-1]
    leaner = planned(size, free - less)
    assert UNET.index(leaner.unet) >= UNET.index(found.unet)
    assert leaner.text <= found.text
    assert (leaner.tile or math.inf) <= (found.tile or math.inf)


@pytest.mark.parametrize(("free", "size"), [
    *((3.4, size) for size in SIZES), *((1.4, size) for size in SIZES[:3])], ids=str)
def test_what_a_card_of_four_or_two_gigabytes_has_free_suffices(free: float, size: tuple[int, int, int]) -> None:
    found = planned(size, free * GB)
    assert found.device + RESERVE <= free * GB
    assert max(found.peaks, key=lambda stage: found.peaks[stage]) == "denoise"


def test_each_rung_of_the_ladder_is_leaner_than_the_one_before_or_not_much_worse() -> None:
    """Otherwise going down it, where memory has run out, would be of no use."""
    film = film_of(VideoRequest("", frames=24, width=576, height=320, cfg_scale=9), 16)
    assert film is not None
    host = machine("cuda")
    takes = [sum(unet_bytes(published_sizes(), film, rung, host, 0)) for rung in UNET]
    assert takes[-1] < takes[0] / 6
    assert all(later < 1.05 * earlier for earlier, later in pairwise(takes) if earlier > 0.6 * GB)


@pytest.mark.parametrize("free", [0.95, 1.1, 1.4, 2.0])
def test_the_largest_that_fits_does_and_the_next_larger_does_not(free: float, monkeypatch: pytest.MonkeyPatch) -> None:
    host = machine("cuda", free=free)
    monkeypatch.setattr(verdict, "need", need_of_published)
    request = VideoRequest("", frames=200, width=1280, height=720)

    def fits(**changes: Any) -> bool:
        found = need_of_published(replace(request, **changes), host, 0)
        assert found is not None
        return found.device + RESERVE <= free * GB

    said = largest(request, host)
    assert not fits()
    frames = re.search(r"(\d+) frames", said)
    count = int(frames[1]) if frames else 0
    assert not count or fits(frames=count)
    assert not fits(frames=count + 1)
    size = re.search(r"(\d+)x(\d+)", said)
    assert size
    width, height = int(size[1]), int(size[2])
    assert fits(width=width, height=height)
    assert not fits(width=round((height + 8) * 16 / 9 / 8) * 8, height=height + 8)


def test_there_is_nothing_to_say_of_a_film_that_should_have_fitted_or_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verdict, "need", need_of_published)
    request = VideoRequest("", frames=16, width=256, height=256)
    assert largest(request, machine("cuda", free=6)) == ""
    assert largest(request, machine("cuda", free=0.4)) == ""
    assert largest(request, replace(machine("cuda"), memory=None)) == ""
