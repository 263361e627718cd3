"""How far a job is, while a film is made in more than one pass; and which weights stay on the device after it."""

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from t2v import needs, shelf
from t2v.hosts.standalone import Standalone
from t2v.jobs import STAGES, Job, Runner, State
from t2v.memory import MemoryPlan
from t2v.models.unet import UNet3D
from t2v.placement import LIFTED
from t2v.request import VideoRequest
from t2v.settings import Settings
from tests.fixtures import make_model
from tests.loras import NAMED, drawn
from tests.test_companions import UNET

SMALL = VideoRequest(model="tiny", width=32, height=32, frames=3, steps=4, seed=1, format="png")


class Diary(Standalone):
    """A host that writes down what it is told."""

    def publish(self, work):  # type: ignore[no-untyped-def]
        self.__dict__.setdefault("seen", []).append((work.stage, work.fraction, work.text))
        return super().publish(work)


@pytest.fixture
def host(tmp_path: Path) -> Diary:
    make_model(tmp_path / "models" / "tiny")
    make_model(tmp_path / "models" / "large")
    return Diary(torch.device("cpu"), torch.float32, models=tmp_path / "models", outputs=tmp_path / "films")


def done(request: VideoRequest, host: Diary) -> Job:
    runner = Runner(host)
    job = runner.submit(request)
    while not job.over:
        job.wait(job.version, 10)
    runner.close()
    return job


@pytest.mark.parametrize("changes", [{}, {"upscale": 2}, {"upscale": 2, "upscale_model": "large", "batch_count": 2}])
def test_progress_never_goes_back_and_ends_at_the_end(host: Diary, tmp_path: Path, changes: dict[str, object]) -> None:
    Image.new("RGB", (32, 32), "blue").save(tmp_path / "blue.png")
    request = VideoRequest(**vars(SMALL) | changes | {"pictures": str(tmp_path / "blue.png")})
    job = done(request, host)
    assert (job.state, job.error) == (State.DONE, "")
    seen = vars(host)["seen"]
    fractions = [fraction for _, fraction, _ in seen]
    assert fractions == sorted(fractions)
    assert fractions[-1] == pytest.approx(1)
    assert {stage for stage, *_ in seen} == {"load", "encode", "read", "denoise", "decode"} | (
        {"enlarge", "refine"} if request.upscale > 1 else set())
    assert all(any(words in text for words in STAGES.values()) for _, _, text in seen)


def test_a_second_model_that_is_not_there_is_told_before_anything_waits(host: Diary) -> None:
    with pytest.raises(Exception, match="nowhere"):
        Runner(host).submit(VideoRequest(**vars(SMALL) | {"upscale": 2, "upscale_model": "nowhere"}))


# ---- weights that stay on the device between films ----


@pytest.fixture
def keeping(host: Diary, monkeypatch: pytest.MonkeyPatch) -> Diary:
    """A host whose device has room enough for all weights; on a CPU they stay where they are, and count as lifted."""
    planned = needs.plan_of
    monkeypatch.setattr(needs, "plan_of", lambda *args: replace(planned(*args), lifted=True))
    return replace(host, settings=Settings(keep="device"))


def lifted_after(request: VideoRequest, runner: Runner) -> int:
    """How many networks stay when the job is over, and a film has been made."""
    job = runner.submit(request)
    while not job.over:
        job.wait(job.version, 10)
    if runner.worker is not None:
        runner.worker.join()
    assert (job.state, job.error, len(job.films)) == (State.DONE, "", 1)
    return len(LIFTED)


def test_weights_stay_where_there_is_room_and_go_when_there_is_none(
    keeping: Diary, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = Runner(keeping)
    assert lifted_after(SMALL, runner) == 3
    assert lifted_after(SMALL, runner) == 3
    with monkeypatch.context() as patch:
        patch.setattr(needs, "plan_of", lambda *_: MemoryPlan())
        assert lifted_after(SMALL, runner) == 0
    assert lifted_after(SMALL, runner) == 3
    assert lifted_after(replace(SMALL, upscale=2, upscale_model="large"), runner) == 0
    assert lifted_after(SMALL, runner) == 3
    runner.close()
    assert not LIFTED


def test_films_with_loras_and_those_that_memory_runs_out_of_take_them_down(
    keeping: Diary, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = Runner(keeping)
    (keeping.models / "Lora").mkdir()
    NAMED["kohya.safetensors"](drawn(UNET), keeping.models / "Lora" / "style.safetensors")
    assert lifted_after(replace(SMALL, loras="style"), runner) == 0
    forward, calls = UNet3D.forward, list[int]()

    def once_short(self: UNet3D, *args: Any) -> Tensor:
        calls.append(len(LIFTED))
        if len(calls) == 2:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        return forward(self, *args)

    monkeypatch.setattr(UNet3D, "forward", once_short)
    assert lifted_after(SMALL, runner) == 0
    assert calls[:3] == [3, 3, 0]
    runner.close()


def test_a_model_that_cannot_be_lifted_makes_its_film_all_the_same(
    keeping: Diary, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nothing of it is left on the device; what is no shortage is a fault."""
    def second_fails(network: nn.Module, *_: object) -> None:
        if isinstance(network, UNet3D):
            raise error
        LIFTED[network] = (), ExitStack()

    monkeypatch.setattr(shelf, "lift", second_fails)
    error: Exception = torch.cuda.OutOfMemoryError("CUDA out of memory.")
    assert lifted_after(SMALL, Runner(keeping)) == 0
    error = RuntimeError("no such device")
    job = done(SMALL, keeping)
    assert "no such device" in job.error
    assert not LIFTED
