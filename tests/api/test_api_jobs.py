"""Jobs over HTTP: from a request to films, in order, once, and found again."""

import io
import json
import sqlite3
import threading
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from t2v.video import FORMATS, probe, read_infotext
from tests.api.conftest import LONG, TINY, Api, until


def test_a_job_is_taken_on_followed_and_fetched(api: Api, tmp_path: Path) -> None:
    answer = api.post("/t2v/v1/jobs", json={"prompt": "a red circle", **TINY})
    assert answer.status_code == 202
    job = answer.json()
    assert answer.headers["location"] == job["url"] == f"/t2v/v1/jobs/{job['id']}"
    assert job["state"] in ("queued", "running")
    job = api.ended(job)
    assert (job["state"], job["progress"], job["error"]) == ("done", 1.0, "")
    (film,) = job["films"]
    assert (film["seed"], film["type"]) == (3, "video/mp4")
    fetched = api.get(film["url"])
    assert (fetched.status_code, fetched.headers["content-type"]) == (200, "video/mp4")
    saved = tmp_path / "saved.mp4"
    saved.write_bytes(fetched.content)
    assert probe(saved).frames == 2
    assert read_infotext(saved) == film["infotext"]


def test_a_film_is_made_while_the_caller_waits(api: Api) -> None:
    answer = api.post("/t2v/v1/generate", json={"prompt": "a red circle", **TINY, "batch_count": 2})
    assert answer.status_code == 200
    assert [film["seed"] for film in answer.json()["films"]] == [3, 4]


@pytest.mark.parametrize("format", FORMATS)
def test_every_format_has_its_type_and_a_name(api: Api, format: str) -> None:
    (film,) = api.post("/t2v/v1/generate", json={"prompt": "é <b>", **TINY, "format": format}).json()["films"]
    answer = api.get(film["url"])
    assert answer.headers["content-type"] == film["type"]
    assert film["name"].isprintable()
    assert answer.headers["content-disposition"].startswith('inline; filename="')
    if format == "png":
        assert zipfile.ZipFile(io.BytesIO(answer.content)).testzip() is None
        assert answer.content == api.get(film["url"]).content
    else:
        assert int(answer.headers["content-length"]) == len(answer.content)


@pytest.mark.parametrize(("asked", "status", "span"), [
    ("bytes=0-9", 206, (0, 10)), ("bytes=10-", 206, (10, None)), ("bytes=-7", 206, (-7, None)),
    ("bytes=5-5", 206, (5, 6)), ("bytes=0-999999999", 206, (0, None)), ("bytes=999999999-", 416, None),
    ("bytes=-0", 416, None), ("bytes=9-2", 200, (0, None)), ("bytes=a-b", 200, (0, None)),
    ("bytes=0-1,4-5", 200, (0, None)), ("lines=0-1", 200, (0, None))])
def test_parts_of_a_film(made: tuple[Api, Any, bytes], asked: str, status: int, span: Any) -> None:
    api, film, whole = made
    answer = api.get(film["url"], headers={"Range": asked})
    assert answer.status_code == status
    if span is None:
        assert answer.headers["content-range"] == f"bytes */{len(whole)}"
        return
    part = whole[slice(*span)]
    assert answer.content == part
    if status == 206:
        start = whole.index(part) if span[0] >= 0 else len(whole) - len(part)
        assert answer.headers["content-range"] == f"bytes {start}-{start + len(part) - 1}/{len(whole)}"


def test_a_part_of_what_has_changed_is_all_of_it(made: tuple[Api, Any, bytes]) -> None:
    api, film, whole = made
    tag = api.get(film["url"]).headers["etag"]
    assert api.get(film["url"], headers={"Range": "bytes=0-1", "If-Range": tag}).status_code == 206
    answer = api.get(film["url"], headers={"Range": "bytes=0-1", "If-Range": '"other"'})
    assert (answer.status_code, answer.content) == (200, whole)
    head = api.client.head(film["url"])
    assert (head.headers["content-length"], head.content) == (str(len(whole)), b"")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A film, and all of its bytes."""
    api = Api(tmp_path_factory.mktemp("made"))
    (film,) = api.post("/t2v/v1/generate", json={"prompt": "a red circle", **TINY}).json()["films"]
    yield api, film, Path(film["path"]).read_bytes()
    api.close()


def test_a_film_that_was_deleted_is_gone(api: Api) -> None:
    (film,) = api.post("/t2v/v1/generate", json={"prompt": "a red circle", **TINY}).json()["films"]
    Path(film["path"]).unlink()
    assert api.get(film["url"]).status_code == 410
    assert api.get(film["url"][:-1] + "7").status_code == 404
    assert api.get(film["url"][:-1] + "x").status_code == 422


def test_events_end_with_the_films(api: Api) -> None:
    job = api.submit(steps=20)
    with api.client.stream("GET", job["events"]) as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        lines = [line for line in stream.iter_lines() if line]
    kinds = [line.removeprefix("event: ") for line in lines if line.startswith("event: ")]
    told = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]
    assert kinds == ["status"] * (len(kinds) - 1) + ["end"]
    assert [one["progress"] for one in told] == sorted(one["progress"] for one in told)
    assert told[-1]["state"] == "done"
    assert len(told[-1]["films"]) == 1
    assert {"denoise"} <= {one["stage"] for one in told}


def test_a_preview_moves(api: Api) -> None:
    job = api.submit(**{**LONG, "frames": 8})
    until(lambda: bool(api.get(job["url"]).json()["preview"]))
    status = api.get(job["url"]).json()
    answer = api.get(status["preview"])
    assert answer.headers["content-type"] == "image/webp"
    with Image.open(io.BytesIO(answer.content)) as picture:
        assert picture.n_frames > 1  # type: ignore[attr-defined]
    assert 0 < status["progress"] < 1
    api.post(f"{job['url']}/cancel")
    assert api.get(api.ended(job)["url"] + "/preview").status_code == 404


def test_fifty_jobs_are_made_in_their_order(api: Api) -> None:
    """The first one blocks the queue until all have come."""
    blocker = api.submit(**LONG)
    api.running(blocker)
    jobs = [api.submit(steps=1, frames=1, seed=seed) for seed in range(50)]
    assert [api.get(job["url"]).json()["position"] for job in jobs] == list(range(1, 51))
    refused = api.post("/t2v/v1/jobs", json={"prompt": "one more", **TINY})
    assert refused.status_code == 429
    assert int(refused.headers["retry-after"]) > 0
    api.post(f"{blocker['url']}/cancel")
    ended = [api.ended(job) for job in jobs]
    assert {job["state"] for job in ended} == {"done"}
    starts = [job["started"] for job in ended]
    assert starts == sorted(starts)
    assert [job["films"][0]["seed"] for job in ended] == list(range(50))
    listed = api.get("/t2v/v1/jobs", params={"limit": 50}).json()["jobs"]
    assert [job["id"] for job in listed] == [job["id"] for job in reversed(jobs)]


def test_a_queued_and_a_running_job_are_cancelled(api: Api) -> None:
    first, second = api.submit(**LONG), api.submit()
    api.running(first)
    assert api.post(f"{second['url']}/cancel").json()["state"] == "interrupted"
    assert api.get(second["url"]).json()["films"] == []
    assert api.post(f"{first['url']}/cancel").status_code == 200
    ended = api.ended(first)
    assert ended["state"] == "interrupted"
    assert ended["films"][0]["interrupted"]
    assert api.post(f"{first['url']}/cancel").json()["state"] == "interrupted"


def test_two_calls_that_wait_are_served_one_after_the_other(api: Api) -> None:
    with api.client, ThreadPoolExecutor(2) as pool:  # one event loop for both
        calls = [pool.submit(api.post, "/t2v/v1/generate", json={"prompt": "a red circle", **TINY, "seed": seed})
                 for seed in (1, 2)]
        first, second = sorted((call.result().json() for call in calls), key=lambda job: job["started"])
    assert first["ended"] <= second["started"]


def test_many_calls_that_wait_leave_room_for_others(make_api: Callable[..., Api]) -> None:
    """More than an app has threads."""
    api = make_api()
    with api.client, ThreadPoolExecutor(48) as pool:
        calls = [pool.submit(api.post, "/t2v/v1/generate", json={"prompt": "a red circle", **TINY, "steps": 1})
                 for _ in range(48)]
        until(lambda: len(api.runner.jobs) > 45)
        assert api.get("/t2v/v1/jobs").status_code == 200
        assert {call.result().status_code for call in calls} == {200}


def test_a_key_makes_one_film(api: Api) -> None:
    call = {"json": {"prompt": "a red circle", **TINY}, "headers": {"Idempotency-Key": "k-1"}}
    first, again = api.post("/t2v/v1/jobs", **call), api.post("/t2v/v1/jobs", **call)
    assert first.json()["id"] == again.json()["id"]
    waited = api.post("/t2v/v1/generate", **call)
    assert (waited.status_code, waited.json()["id"]) == (200, first.json()["id"])
    assert len(list(api.outputs.rglob("*.mp4"))) == 1
    other = api.post("/t2v/v1/jobs", json={"prompt": "a blue circle", **TINY}, headers=call["headers"])
    assert other.status_code == 422
    assert "Idempotency-Key" in other.json()["detail"]


def test_a_key_makes_one_film_however_many_call_at_once(api: Api) -> None:
    def call(_: int) -> Any:
        return api.post("/t2v/v1/jobs", json={"prompt": "x", **TINY}, headers={"Idempotency-Key": "k"}).json()

    with api.client, ThreadPoolExecutor(8) as pool:
        assert len({job["id"] for job in pool.map(call, range(8))}) == 1


def test_a_job_is_forgotten_when_it_is_over_and_its_film_stays(api: Api) -> None:
    job = api.submit(**LONG)
    api.running(job)
    assert api.client.delete(job["url"]).status_code == 409
    api.post(f"{job['url']}/cancel")
    film = api.ended(job)["films"][0]
    assert api.client.delete(job["url"]).status_code == 204
    assert api.get(job["url"]).status_code == 404
    assert api.client.delete(job["url"]).status_code == 404
    assert Path(film["path"]).is_file()


def test_jobs_of_an_earlier_run_are_found_and_those_cut_off_say_so(make_api: Callable[..., Api]) -> None:
    first = make_api()
    done = first.ended(first.submit())
    key = {"Idempotency-Key": "before"}
    kept = first.post("/t2v/v1/generate", json={"prompt": "a red circle", **TINY, "seed": 9}, headers=key).json()
    running, waiting = first.submit(**LONG), first.submit()
    first.running(running)

    second = make_api()  # which opens the same list, as after a kill
    assert second.get(done["url"]).json() == done
    assert second.get(done["films"][0]["url"]).status_code == 200
    for job in (running, waiting):
        found = second.get(job["url"]).json()
        assert (found["state"], found["progress"]) == ("interrupted", 1.0)
        assert "the server stopped" in found["error"]
    again = second.post("/t2v/v1/generate", json={"prompt": "a red circle", **TINY, "seed": 9}, headers=key)
    assert again.json()["id"] == kept["id"]
    assert len(second.get("/t2v/v1/jobs").json()["jobs"]) == 4
    assert [job["id"] for job in second.get("/t2v/v1/jobs?state=done&limit=1").json()["jobs"]] == [kept["id"]]


def test_a_damaged_list_is_put_aside(make_api: Callable[..., Api], tmp_path: Path) -> None:
    place = tmp_path / "outputs" / ".text2video"
    place.mkdir(parents=True)
    (place / "jobs.sqlite3").write_bytes(b"this is no database, but it is long enough to be one" * 100)
    api = make_api()
    assert api.ended(api.submit())["state"] == "done"
    assert (place / "jobs.damaged").exists()
    with sqlite3.connect(place / "jobs.sqlite3") as base:
        assert base.execute("SELECT COUNT(*) FROM jobs").fetchone() == (1,)
    base.close()


def test_a_list_that_cannot_be_kept_costs_no_film(make_api: Callable[..., Api], tmp_path: Path) -> None:
    (tmp_path / "outputs").mkdir()
    (tmp_path / "outputs" / ".text2video").write_text("in the way")
    api = make_api()
    assert api.ended(api.submit())["state"] == "done"


def test_jobs_of_the_tab_are_listed_too(api: Api) -> None:
    from t2v.request import VideoRequest

    api.runner.submit(VideoRequest(prompt="from the tab", **TINY))  # type: ignore[arg-type]
    until(lambda: api.get("/t2v/v1/jobs?state=done").json()["jobs"] != [])
    (job,) = api.get("/t2v/v1/jobs").json()["jobs"]
    assert job["request"]["prompt"] == "from the tab"


def test_what_fails_says_why(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    from t2v import jobs
    from t2v.errors import MemoryShortage

    def short(*_: Any) -> Any:
        raise MemoryShortage("too little memory; take fewer frames")

    monkeypatch.setattr(jobs, "generate", short)
    answer = api.post("/t2v/v1/generate", json={"prompt": "a red circle", **TINY})
    assert (answer.status_code, answer.json()["detail"]) == (507, "too little memory; take fewer frames")
    job = api.ended(api.submit())
    assert (job["state"], job["error"]) == ("failed", "too little memory; take fewer frames")


def test_what_was_interrupted_before_there_was_anything_is_no_success(api: Api) -> None:
    blocker = api.submit(**LONG)
    api.running(blocker)
    with api.client, ThreadPoolExecutor(1) as pool:
        call = pool.submit(api.post, "/t2v/v1/generate", json={"prompt": "a red circle", **TINY})
        until(lambda: len(api.runner.waiting) == 1)
        api.runner.interrupt(api.runner.waiting[0])
        assert call.result().status_code == 409
    api.post(f"{blocker['url']}/cancel")


def test_a_plan_tells_what_is_needed_and_makes_nothing(api: Api) -> None:
    answer = api.post("/t2v/v1/plan", json={"prompt": "a red circle", "frames": 24})
    assert answer.status_code == 200
    plan = answer.json()
    assert plan["needed"] >= plan["weights"] > 0
    assert plan["verdict"].startswith("Needs about")
    assert (plan["request"]["frames"], plan["request"]["steps"]) == (24, 15)
    assert api.get("/t2v/v1/jobs").json() == {"jobs": []}


def test_what_there_is_to_choose_from(api: Api) -> None:
    models = {model["name"]: model for model in api.get("/t2v/v1/models").json()["models"]}
    assert set(models) == {"demo", "t2v"}
    assert models["demo"]["defaults"]["width"] == 64
    assert "DDIM" in [sampler["name"] for sampler in api.get("/t2v/v1/samplers").json()["samplers"]]
    assert [kind["name"] for kind in api.get("/t2v/v1/formats").json()["formats"]] == list(FORMATS)
    schema = api.get("/t2v/v1/schema").json()
    assert schema["properties"]["steps"]["maximum"] == 1000
    assert api.get("/t2v/v1/version").json()["drop_in"] == "text2video"
    report = api.get("/t2v/v1/doctor").json()
    assert report["well"]
    assert report["text"].startswith("Text2Video doctor")


def test_nothing_of_ours_stays_behind(api: Api) -> None:
    before = threading.active_count()
    for _ in range(3):
        api.post("/t2v/v1/generate", json={"prompt": "a red circle", **TINY})
    until(lambda: threading.active_count() <= before + 8)  # our own pool
    until(lambda: not list((api.outputs / ".text2video").glob("uploads/*")))
