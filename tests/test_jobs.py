"""How far a job is, while a film is made in more than one pass."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from t2v.hosts.standalone import Standalone
from t2v.jobs import STAGES, Job, Runner, State
from t2v.request import VideoRequest
from tests.fixtures import make_model

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
