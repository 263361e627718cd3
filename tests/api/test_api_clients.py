"""The clients that are out there, each as it calls, and what reaches it when something fails."""

import base64
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from PIL import Image

from t2v.api.access import Access
from t2v.api.attach import attach
from t2v.api.body import Sent
from t2v.api.dropin import translated
from t2v.api.files import Inbox
from t2v.api.weights import weights
from t2v.errors import RequestError
from t2v.request import VideoRequest
from t2v.video import probe, write_film
from tests.api.conftest import TINY, Api, until

PLACEHOLDER = 192_675  # bytes of the film that stood for every failure


def png() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (16, 16), "red").save(file, "PNG")
    return file.getvalue()


def film(path: Path, fps: float = 8, frames: int = 6) -> bytes:
    return write_film((np.full((16, 16, 3), 40 * n, np.uint8) for n in range(frames)), path, fps).read_bytes()


def asked(api: Api, **values: Any) -> VideoRequest:
    """The request that a call comes to, without making it."""
    inbox = Inbox(api.service.uploads)
    return VideoRequest(**translated(Sent({"prompt": "x", **values}, typed=True), api.host, [], inbox))


def saved(uri: str, path: Path) -> Path:
    """What a client makes of an item of mp4s."""
    assert uri.startswith("data:video/mp4;base64,")
    data = base64.b64decode(uri.removeprefix("data:video/mp4;base64,"))
    assert len(data) != PLACEHOLDER
    path.write_bytes(data)
    return path


# ---- a storyboard service in Go: all in the query; with a picture, all in the form ----


class Storyboard:
    """Asks for the version first, reads the first film only, and calls its model t2v."""

    def __init__(self, api: Api) -> None:
        self.api = api

    def film(self, prompt: str, picture: bytes = b"") -> Any:
        if self.api.get("/t2v/version").status_code != 200:
            raise ConnectionError("not installed")
        settings = {"prompt": prompt, "n_prompt": "text", "model": "t2v", "sampler": "DDIM_Gaussian", "cfg_scale": "17",
                    **{name: str(value) for name, value in TINY.items()}, "fps": "8", "inpainting_frames": "2"}
        if picture:
            return self.api.post("/t2v/run", data=settings, files={"inpainting_image": ("a.png", picture, "image/png")})
        return self.api.post("/t2v/run", params=settings)


def test_the_storyboard_gets_its_film(api: Api, tmp_path: Path) -> None:
    answer = Storyboard(api).film("a red circle")
    assert answer.status_code == 200
    assert next(iter(answer.json())) == "mp4s"
    assert probe(saved(answer.json()["mp4s"][0], tmp_path / "a.mp4")).fps == 8


def test_the_storyboard_sends_a_picture_in_the_form(api: Api) -> None:
    answer = Storyboard(api).film("a red circle", png())
    assert answer.status_code == 200, answer.text
    said = answer.json()["parameters"]
    assert (said["prompt"], said["negative_prompt"], said["model"]) == ("a red circle", "text", "t2v")
    assert said["pictures"] == "pictures-1.png"
    assert said["picture_weights"] == "0:(0), 1:(1)"
    until(lambda: not list((api.outputs / ".text2video").glob("uploads/*")))


# ---- a script in Python: a query beside an empty JSON body, cfg, the word None, files in the query ----


def test_the_script_gets_its_film_and_the_seed_it_wished_for(api: Api) -> None:
    data = {"prompt": "a red circle", "n_prompt": None, "cfg": 7.5, "model": "t2v", "sampler": "DDIM_Gaussian",
            **TINY, "seed": -1, "do_vid2vid": False}
    answer = api.post(f"/t2v/run?{urlencode(data)}", headers={"Content-Type": "application/json"})
    assert answer.status_code == 200, answer.text
    said = answer.json()
    assert (said["parameters"]["cfg_scale"], said["parameters"]["negative_prompt"]) == (
        7.5, "text, watermark, copyright, blurry, nsfw")
    assert said["seeds"][0] >= 0
    assert f"Seed: {said['seeds'][0]}" in said["infotexts"][0]


@pytest.mark.parametrize("spelt", [
    lambda data: base64.b64encode(data).decode(),
    lambda data: "data:image/png;base64," + base64.b64encode(data).decode(),
    lambda data: base64.encodebytes(data).decode()])
def test_the_script_sends_a_picture_in_the_query(api: Api, spelt: Any) -> None:
    data = {"prompt": "a red circle", "inpainting_image": spelt(png()), "inpainting_frames": 2, "model": "t2v", **TINY}
    answer = api.post(f"/t2v/run?{urlencode(data)}", headers={"Content-Type": "application/json"})
    assert answer.status_code == 200, answer.text
    assert answer.json()["parameters"]["pictures"].startswith("pictures-1")


# ---- a benchmark in JavaScript: every parameter, relevant or not, thousands of times ----


def test_the_benchmark_finds_its_film_and_its_settings_without_searching(api: Api) -> None:
    every = {"prompt": "a red circle", "n_prompt": "", "model": "t2v", "sampler": "UniPC", "steps": 3, "frames": 2,
             "seed": 5, "cfg_scale": 17, "width": 16, "height": 16, "eta": 0, "batch_count": 1, "do_vid2vid": "false",
             "strength": 0.75, "vid2vid_startFrame": 0, "inpainting_frames": 0, "fps": 15, "add_soundtrack": "None",
             "inpainting_weights": '0:(t/max_i_f), "max_i_f":(1)',
             "soundtrack_path": "https://deforum.github.io/a1/A1.mp3"}
    answer = api.post("/t2v/run", params=every)
    assert answer.status_code == 200, answer.text
    said = answer.json()
    assert Path(said["paths"][0]).is_file()
    assert {"steps": 3, "sampler": "UniPC", "seed": 5, "negative_prompt": ""}.items() <= said["parameters"].items()
    assert said["warnings"] == []


# ---- a service in Rust: prompt and n_prompt; reads statuses, and logs status_url ----


def test_the_service_may_look_where_its_film_is(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    from t2v.api import dropin

    monkeypatch.setattr(dropin, "SAME", {**dropin.SAME, **TINY})  # the real defaults take minutes here
    answer = api.post("/t2v/run", params={"prompt": "a red circle", "n_prompt": "blurry"})
    assert answer.status_code == 200
    assert len(answer.json()["mp4s"]) == 1
    assert api.get(answer.json()["status_url"]).json()["state"] == "done"


# ---- a bot in Python: JSON ----


def test_the_bot_speaks_json(api: Api) -> None:
    answer = api.post("/t2v/run", json={"prompt": "a red circle", "model": "t2v", **TINY, "batch_count": 2})
    assert answer.status_code == 200
    assert (len(answer.json()["mp4s"]), answer.json()["seeds"]) == (2, [3, 4])


def test_the_bot_hears_what_was_passed_over(api: Api) -> None:
    answer = api.post("/t2v/run", json={"prompt": "a red circle", "model": "t2v", **TINY, "loops": 3})
    assert "'loops'" in answer.json()["warnings"][0]


# ---- a client in Go, generated from the OpenAPI document ----


def test_the_generated_client_finds_its_operations(api: Api) -> None:
    paths = api.app.openapi()["paths"]
    operations = {name: next(iter(paths[f"/t2v/{name}"].values()))["operationId"]
                  for name in ("run", "version", "api_version")}
    assert operations == {"run": "t2v_run_t2v_run_post", "version": "t2v_version_t2v_version_get",
                          "api_version": "t2v_api_version_t2v_api_version_get"}
    assert api.get("/t2v/api_version").json() == {"version": "1.0"}
    assert isinstance(api.get("/t2v/version").json()["version"], str)
    asked = {one["name"]: one["schema"]["default"] for one in paths["/t2v/run"]["post"]["parameters"]}
    assert {"steps": 30, "frames": 24, "cfg_scale": 17, "width": 256, "fps": 15, "sampler": "DDIM_Gaussian",
            "vid2vid_startFrame": 0, "soundtrack_path": "https://deforum.github.io/a1/A1.mp3"}.items() <= asked.items()


# ---- what stands where ----


def test_what_is_explicit_wins(api: Api) -> None:
    answer = api.post("/t2v/run", params={"seed": 8}, json={"prompt": "a red circle", "model": "t2v", **TINY})
    assert answer.json()["seeds"] == [8]


def test_json_that_curl_calls_a_form_is_json(api: Api) -> None:
    answer = api.post("/t2v/run", content=json.dumps({"prompt": "a red circle", "model": "t2v", **TINY}),
                      headers={"Content-Type": "application/x-www-form-urlencoded"})
    assert answer.status_code == 200


# ---- failures: a status, and a reason in the form that each client reads ----


@pytest.mark.parametrize(("wrong", "field"), [
    ({"model": "sd15"}, "model"), ({"sampler": "Karras"}, "sampler"), ({"frames": 0}, "frames"),
    ({"frames": "many"}, "frames"), ({"strength": 2}, "strength"), ({"width": 100}, "width"), ({"cfg_scale": "x"},
     "cfg_scale"), ({"steps": 0}, "steps"), ({"eta": -1}, "eta"), ({"do_vid2vid": "perhaps"}, "do_vid2vid"),
    ({"do_vid2vid": True}, "vid2vid_input"), ({"vid2vid_startFrame": 1.5}, "vid2vid_startFrame"),
    ({"add_soundtrack": "File"}, "soundtrack_path"), ({"add_soundtrack": "Loud"}, "add_soundtrack"),
    ({"add_soundtrack": "Init Video"}, "add_soundtrack"), ({"inpainting_image": "no base64!", "inpainting_frames": 1},
     "inpainting_image"), ({"fps": 1000}, "fps"), ({"prompt": "<lora:nobody:1>"}, "loras")])
@pytest.mark.parametrize("how", ["params", "data", "json"])
def test_each_failure_is_a_status_and_names_its_setting(
    api: Api, wrong: Mapping[str, Any], field: str, how: str
) -> None:
    answer = api.post("/t2v/run", **{how: {"prompt": "x", "model": "t2v", **TINY, **wrong}})
    assert answer.status_code == 422, answer.text
    said = answer.json()
    assert [place["loc"][-1] for place in said["detail"]] == [field]
    assert set(said["detail"][0]) == {"loc", "msg", "type"}
    assert said["error"] == "RequestError"
    assert field in said["errors"]
    assert "mp4s" not in said
    assert not list((api.outputs / ".text2video").glob("uploads/*"))


def test_a_prompt_is_needed_and_may_be_empty(api: Api) -> None:
    answer = api.post("/t2v/run")
    assert (answer.status_code, answer.json()["detail"][0]["loc"]) == (422, ["query", "prompt"])
    assert api.post("/t2v/run?prompt=&model=t2v", json=TINY).status_code == 200


def test_a_fault_of_ours_is_a_fault(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    from t2v import jobs

    def broken(*_: Any) -> Any:
        raise ZeroDivisionError("by 0")

    monkeypatch.setattr(jobs, "generate", broken)
    answer = api.post("/t2v/run", params={"prompt": "x", "model": "t2v", **TINY})
    assert answer.status_code == 500
    assert "ZeroDivisionError" in answer.json()["detail"]


# ---- what the old settings come to ----


def test_a_film_is_begun_in_the_middle(api: Api, tmp_path: Path) -> None:
    data = base64.b64encode(film(tmp_path / "in.mp4", fps=4)).decode()
    request = asked(api, do_vid2vid=True, vid2vid_input=data, vid2vid_startFrame=2, strength=0.5,
                    add_soundtrack="Init Video")
    assert probe(request.film).frames == 6
    assert (request.film_start, request.strength, request.soundtrack) == (0.5, 0.5, request.film)
    assert asked(api, vid2vid_input=data).film == ""


def test_a_soundtrack_of_the_inputs_is_taken(api: Api) -> None:
    sound = api.folder / "inputs" / "a.mp3"
    sound.write_bytes(b"sound")
    assert asked(api, add_soundtrack="File", soundtrack_path="a.mp3").soundtrack == str(sound)
    assert asked(api, add_soundtrack="None", soundtrack_path="a.mp3").soundtrack == ""


@pytest.mark.parametrize(("given", "taken", "eta"), [
    ("DDIM_Gaussian", "DDIM", 0.5), ("DDIM", "DDIM", 0.5), ("UniPC", "UniPC", None), ("Euler a", "Euler a", 0.5)])
def test_samplers_of_old(api: Api, given: str, taken: str, eta: float | None) -> None:
    request = asked(api, sampler=given, eta=0.5)
    assert (request.sampler, request.eta) == (taken, eta)


def test_the_model_of_old_is_the_folder_of_old_or_what_there_is(api: Api) -> None:
    assert asked(api).model == asked(api, model="None").model == asked(api, model="<modelscope>").model == "t2v"
    (api.folder / "models" / "ModelScope" / "t2v").unlink()
    answer = api.post("/t2v/run", params={"prompt": "x", **TINY})
    assert answer.json()["parameters"]["model"] == "demo"
    assert "'demo' was taken" in answer.json()["warnings"][0]


@pytest.mark.parametrize(("written", "held", "comes_to"), [
    ('0:(t/max_i_f), "max_i_f":(1)', 5, [0, 0.25, 0.5, 0.75, 1]),
    ('0:(0), "max_i_f/4":(1), "3*max_i_f/4":(1), "max_i_f-1":(0)', 9, [0, 0.5, 1, 1, 1, 1, 1, 0, 0]),
    ("0:(0.5)", 3, [0.5, 0.5, 0.5]), ("2:(1)", 4, [1, 1, 1, 1]), ("0:(0), 4:(1)", 6, [0, 0.25, 0.5, 0.75, 1, 1]),
    ("0:(where(t<2, 0, 1))", 4, [0, 0, 1, 1]), ("0:(2), 1:(-1)", 2, [1, 0]), ('0:(t/max_i_f), "max_i_f":(1)', 1, [0]),
    ("0:(sin(3.14159265*t/2))", 3, [0, 1, 0]), ("0:(s-41)", 1, [1])])
def test_key_frames_of_old_become_numbers(written: str, held: int, comes_to: list[float]) -> None:
    found = weights(written, held, 24, 42)
    assert [float(part.split("(")[1][:-1]) for part in found.split(", ")] == pytest.approx(comes_to, abs=1e-3)


@pytest.mark.parametrize("written", [
    "", "0", "0:(", "0:(t", "0:()", "0:(x)", "0:(__import__('os'))", "0:(t.real)", "0:(2**9**9**9)", "0:(sin)",
    "0:([1])", "0:(1e999)", "t:(1)", "0:(1) and more", "0:(" + "(" * 900 + "1" + ")" * 901, "0:(lambda: 1)",
    "0:(sin(t=1))",
    "0:('a')", "0:(open('x'))", "0:(max_i_f:=3)", "0:(" + "1+" * 990 + "1)"])
def test_key_frames_that_make_no_sense_are_refused(written: str) -> None:
    with pytest.raises(RequestError):
        weights(written, 4, 24, 0)


# ---- beside others ----


def test_paths_of_another_extension_stay_its_own(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    app = FastAPI()

    @app.post("/t2v/run")
    def run() -> str:
        return "of another"

    attach(app, api.service, Access())
    api.client = TestClient(app)
    assert "belongs to another extension" in caplog.text
    assert api.post("/t2v/run").json() == "of another"
    assert api.get("/t2v/v1/version").json()["drop_in"] == "another extension"
    assert api.get("/t2v/v1/jobs").status_code == 200


def test_what_others_say_of_their_own_mistakes_is_as_it_was(api: Api) -> None:
    @api.app.get("/other")
    def other(number: int) -> int:
        return number

    bare = FastAPI()
    bare.get("/other")(other)
    assert api.get("/other?number=x").json() == TestClient(bare).get("/other?number=x").json()
    assert api.app.exception_handlers == bare.exception_handlers
    assert api.app.user_middleware == bare.user_middleware


def test_an_app_gets_our_routes_once(api: Api) -> None:
    before = len(api.app.router.routes)
    attach(api.app, api.service, Access())
    assert len(api.app.router.routes) == before
