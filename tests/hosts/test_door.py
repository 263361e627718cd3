"""A web UI's app gets our API if its user asked for one, and asks for the names that its user has set."""

import base64
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from tests.hosts.house import House
from tests.hosts.orders import until

FILM = {"prompt": "a red circle", "model": "demo", "frames": 1, "width": 16, "height": 16, "steps": 1, "seed": 1}


def basic(name: str, password: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()}


@pytest.fixture
def flags(house: House, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What the host is started with."""
    options = SimpleNamespace(**{**vars(house.shared.cmd_opts), "api": True})
    monkeypatch.setattr(house.shared, "cmd_opts", options)
    return options


@pytest.fixture
def entry(house: House) -> Iterator[Any]:
    """Our entry, as if nothing had been loaded before."""
    from t2v.hosts import entry

    entry.runner.cache_clear()
    entry.service.cache_clear()
    house.modules.script_callbacks.clear_callbacks()
    entry.register()
    yield entry
    if entry.service.cache_info().currsize:
        entry.runner().close()
        entry.service().close()
    entry.runner.cache_clear()
    entry.service.cache_clear()


def started(house: House, page: object = None) -> tuple[FastAPI, TestClient]:
    """An app, as the host has it when it starts or reloads; without a page it is one for its API alone."""
    app = FastAPI()
    house.modules.script_callbacks.app_started_callback(page, app)
    assert house.events.reported == []
    return app, TestClient(app)


@pytest.mark.parametrize(("asked", "served"), [
    ({"api": True}, True), ({"api": False, "nowebui": True}, True), ({"api": False}, False),
    ({"api": False, "nowebui": False}, False)])
def test_an_api_is_there_if_the_user_wants_one(house: House, flags: Any, entry: Any, asked: dict[str, bool],
                                               served: bool) -> None:
    del entry
    vars(flags).update(asked)
    _, client = started(house)
    for path in ("/t2v/version", "/t2v/v1/jobs"):
        assert client.get(path).status_code == (200 if served else 404)


def test_a_film_is_made_in_the_hosts_turn(house: House, flags: Any, entry: Any, tmp_path: Path) -> None:
    del flags, entry
    _, client = started(house)
    answer = client.post("/t2v/run", json=FILM)
    assert answer.status_code == 200, answer.text
    assert answer.json()["mp4s"][0].startswith("data:video/mp4;base64,")
    assert Path(answer.json()["paths"][0]).is_relative_to(tmp_path)
    assert any("begin" in event for event in house.seen)


def test_after_a_reload_the_jobs_are_still_there(house: House, flags: Any, entry: Any) -> None:
    del flags
    _, client = started(house)
    job = client.post("/t2v/v1/generate", json=FILM).json()
    house.modules.script_callbacks.script_unloaded_callback()
    house.modules.script_callbacks.clear_callbacks()
    entry.register()
    _, client = started(house, page=object())
    assert client.get(job["url"]).json() == job
    assert client.post("/t2v/v1/generate", json=FILM).status_code == 200


def test_the_hosts_names_and_passwords_are_asked_for(house: House, flags: Any, entry: Any) -> None:
    del entry
    flags.api_auth = "anna:a:b,bert:b"
    app, client = started(house)
    assert client.get("/t2v/version").status_code == 401
    assert client.get("/t2v/v1/jobs", headers=basic("anna", "a:b")).status_code == 200
    assert client.get("/t2v/v1/jobs", headers=basic("bert", "a:b")).status_code == 401
    app.auth, app.tokens = {"carl": "c"}, {"t": "carl"}  # type: ignore[attr-defined]
    assert client.get("/t2v/v1/jobs", headers={"Cookie": "access-token=t"}).status_code == 200
    assert client.get("/t2v/v1/jobs", headers=basic("carl", "c")).status_code == 401


@pytest.mark.only("sdnext")
def test_in_sdnext_page_and_api_have_the_same_names(flags: Any, tmp_path: Path) -> None:
    from t2v.hosts.door import api_users

    (tmp_path / "names").write_text("carl:c\n\n", encoding="utf8")
    flags.auth, flags.auth_file = '"anna:a,bert:b"', str(tmp_path / "names")
    assert api_users() == {"anna": "a", "bert": "b", "carl": "c"}


def test_a_login_to_the_page_is_asked_for_where_only_that_is_set(house: House, flags: Any, entry: Any) -> None:
    del flags, entry
    app, client = started(house, page=object())
    app.auth, app.tokens = {"carl": "c"}, {"t": "carl"}  # type: ignore[attr-defined]
    assert client.get("/t2v/v1/jobs").status_code == 401
    assert client.get("/t2v/v1/jobs", headers=basic("carl", "c")).status_code == 200


def test_the_hosts_buttons_end_our_jobs(house: House, flags: Any, entry: Any) -> None:
    """As /sdapi/v1/interrupt does, and its progress shows them."""
    del flags
    _, client = started(house)
    job = client.post("/t2v/v1/jobs", json={**FILM, "steps": 1000}).json()
    until(lambda: client.get(job["url"]).json()["stage"] == "denoise")
    assert house.state.job == "Text2Video"
    assert house.state.sampling_steps == 1000
    house.state.interrupted = True
    until(lambda: entry.runner().running is None)
    assert client.get(job["url"]).json()["state"] == "interrupted"


def test_outputs_are_the_hosts_also_for_the_list_of_jobs(house: House, flags: Any, entry: Any, tmp_path: Path) -> None:
    del flags, entry
    started(house)
    assert list(tmp_path.rglob(".text2video/jobs.sqlite3"))

