"""Without gradients on every device, in torch's own mode where the device can take it."""

from pathlib import Path

import pytest
import torch

from t2v import inference as module
from t2v.bench import Bench
from t2v.generate import generate
from t2v.hosts.standalone import Standalone
from t2v.inference import inference
from t2v.models import catalog
from t2v.request import VideoRequest
from t2v.video import read_film

REQUEST = VideoRequest("a blue square", model="demo", frames=2, width=32, height=32, steps=2, seed=1, format="png")


@pytest.mark.parametrize(("kind", "mode"), [
    ("cpu", True), ("cuda:1", True), ("xpu", True), ("mps", True), ("meta", True),
    ("privateuseone:0", False), ("hpu", False)])  # the first of these is DirectML's
def test_the_kind_of_a_device_decides_about_the_mode(kind: str, mode: bool) -> None:
    with torch.enable_grad():
        with inference(torch.device(kind)):
            assert (torch.is_inference_mode_enabled(), torch.is_grad_enabled()) == (mode, False)
        assert (torch.is_inference_mode_enabled(), torch.is_grad_enabled()) == (False, True)


def test_without_the_mode_films_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host, model = Standalone(torch.device("cpu"), torch.float32, tmp_path, tmp_path), catalog.open_model("demo", [])
    films = [*generate(REQUEST, model, host)]
    monkeypatch.setattr(module, "TORCH", ())
    films += generate(REQUEST, model, host)
    first, second = ([frame.tobytes() for frame in read_film(film.path)[1]] for film in films)
    assert first == second
    assert not Bench(host).speed(model, REQUEST).problem
