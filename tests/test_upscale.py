"""Ways between two passes, of ours and of the program around us: what they are called, and what they make of a film."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fastapi import FastAPI
from fastapi.testclient import TestClient
from PIL import Image

from t2v.api.access import Access
from t2v.api.attach import attach
from t2v.api.service import Service
from t2v.errors import RequestError
from t2v.generate import Watch, generate
from t2v.hosts.standalone import Standalone
from t2v.infotext import request_from
from t2v.jobs import Runner
from t2v.models import Model
from t2v.models.modelscope import load
from t2v.request import VideoRequest
from t2v.ui.handlers import FILLED, Handlers
from t2v.ui.library import Library
from t2v.ui.tab import build_tab
from t2v.upscale import UPSCALERS, find_upscaler, upscalers
from t2v.video import read_film
from tests.fixtures import make_model

REQUEST = VideoRequest(prompt="a red circle", model="tiny", width=32, height=24, frames=3, fps=8, steps=4, seed=7,
                       format="png", upscale=2, upscale_by="Sharp 4x+")


class Upscaling(Standalone):
    """A host with upscalers, of which two names differ in their punctuation only, and one is ours."""

    upscalers = ("Sharp 4x+", "Sharp 4x", "frames")  # type: ignore[assignment]

    def upscaled(self, picture: Image.Image, size: tuple[int, int], name: str) -> Image.Image:
        self.__dict__.setdefault("asked", []).append((picture.mode, picture.size, size, name))
        return picture.resize(size, Image.Resampling.NEAREST)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load(make_model(tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture
def host(tmp_path: Path) -> Upscaling:
    return Upscaling(torch.device("cpu"), torch.float32, models=tmp_path, outputs=tmp_path / "films")


def frames_of(request: VideoRequest, model: Model, host: Standalone) -> Any:
    (film,) = generate(request, model, host)
    assert request_from(film.infotext).upscale_by == request.upscale_by
    return np.stack(list(read_film(film.path)[1]))


# ---- what they are called ----


def test_ours_come_first_and_keep_their_names(host: Upscaling) -> None:
    assert list(upscalers(host)) == ["frames", "latents", "Sharp 4x+", "Sharp 4x"]
    assert upscalers(host)["frames"] is UPSCALERS["frames"]
    assert upscalers(Standalone(torch.device("cpu"))) == UPSCALERS


@pytest.mark.parametrize(("typed", "meant"), [
    ("Sharp 4x+", "Sharp 4x+"), ("Sharp 4x", "Sharp 4x"), ("Frames", "frames"), ("sharp-4X", "Sharp 4x")])
def test_a_name_is_found_and_what_is_spelt_exactly_before_all_else(host: Upscaling, typed: str, meant: str) -> None:
    known = upscalers(host)
    assert find_upscaler(typed, host) == known[meant]


def test_one_that_is_not_there_is_told_with_those_that_are_before_any_work(model: Model, host: Upscaling) -> None:
    with pytest.raises(RequestError, match=r"no 'Dull'; .* frames, latents, Sharp 4x\+, Sharp 4x$") as caught:
        list(generate(replace(REQUEST, upscale_by="Dull"), model, host))
    assert caught.value.field == "upscale_by"
    assert not host.outputs.exists()


# ---- films ----


def test_every_frame_goes_through_the_hosts_upscaler(model: Model, host: Upscaling) -> None:
    assert frames_of(replace(REQUEST, upscale_strength=0.5), model, host).shape == (3, 48, 64, 3)
    assert vars(host)["asked"] == [("RGB", (32, 24), (64, 48), "Sharp 4x+")] * 3


def test_without_strength_the_film_is_what_the_upscaler_made(model: Model, host: Upscaling) -> None:
    small = frames_of(replace(REQUEST, upscale=1), model, host)
    film = frames_of(replace(REQUEST, upscale_strength=0), model, host)
    assert np.array_equal(film, small.repeat(2, 1).repeat(2, 2))


@pytest.mark.parametrize(("at", "frames", "size"), [(("denoise", 2), 3, 32), (("decode", 1), 1, 64)])
def test_stopped_while_it_is_only_enlarged_a_film_has_the_frames_that_there_are(
    model: Model, host: Upscaling, at: tuple[str, int], frames: int, size: int
) -> None:
    class Stopper(Watch):
        def tick(self, stage: str, done: int, *_: object) -> None:
            self.stopped |= (stage, done) == at

    (film,) = generate(replace(REQUEST, upscale_strength=0), model, host, Stopper())
    facts = np.stack(list(read_film(film.path)[1]))
    assert (film.interrupted, facts.shape[0], facts.shape[2]) == (True, frames, size)


# ---- where they can be chosen ----


def test_the_tab_offers_them(host: Upscaling) -> None:
    async def built() -> Any:  # outside of an event loop, gradio makes some that it never closes
        return build_tab(Runner(host))[1]

    choices = [each[0] if isinstance(each, tuple) else each for each in asyncio.run(built())["upscale_by"].choices]
    assert choices == list(upscalers(host))


@pytest.mark.parametrize("known", [True, False])
def test_settings_of_a_film_bring_an_upscaler_back_where_it_is_there(host: Upscaling, known: bool) -> None:
    runner = Runner(host if known else Standalone(torch.device("cpu"), models=host.models, outputs=host.outputs))
    values = {name: getattr(VideoRequest(), name) for name in FILLED}
    values["prompt"] = "x\nSteps: 4, Seed: 7, Size: 32x24, Upscale: 2, Upscale by: Sharp 4x+"
    changes = Handlers(runner, Library(runner)).paste(values)
    assert changes["upscale_by"] == ("Sharp 4x+" if known else "frames")
    assert ("Sharp 4x+" in changes["message"]) is not known


def test_the_api_tells_them_and_refuses_others_at_once(host: Upscaling) -> None:
    app, runner = FastAPI(), Runner(host)
    attach(app, Service(runner), Access({}))
    client = TestClient(app)
    told = client.get("/t2v/v1/upscalers").json()["upscalers"]
    assert told == [{"name": name} for name in upscalers(host)]
    order = {"prompt": "a red circle", "model": "demo", "upscale": 2}
    assert client.post("/t2v/v1/plan", json={**order, "upscale_by": "Sharp 4x+"}).status_code == 200
    answer = client.post("/t2v/v1/jobs", json={**order, "upscale_by": "Dull"})
    assert (answer.status_code, "Sharp 4x+" in answer.text) == (422, True)
    assert not runner.jobs
    runner.close()
