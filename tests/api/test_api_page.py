"""The API in the app of a page, with whatever gradio there is: its routes are reached, and its logins count."""

import asyncio
import os
from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr
import pytest
from fastapi.testclient import TestClient

from t2v.api.access import Access
from t2v.api.attach import attach
from tests.api.conftest import TINY, Api
from tests.api.test_api_safety import basic

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")


@pytest.fixture
def page(api: Api) -> Iterator[Callable[..., TestClient]]:
    """Launches a page with the API in its app, as hosts do."""
    launched: list[Any] = []

    def start(**how: Any) -> TestClient:
        async def launch() -> Any:  # outside of an event loop, gradio makes some that it never closes
            with gr.Blocks() as blocks:
                gr.Textbox(label="a page")
            launched.append(blocks)
            return blocks.launch(prevent_thread_lock=True, quiet=True, show_error=False, inbrowser=False, **how)

        app, _, _ = asyncio.run(launch())
        attach(app, api.service, Access())
        return TestClient(app)

    yield start
    for blocks in launched:
        blocks.close(verbose=False)


def test_a_page_and_the_api_share_an_app(page: Callable[..., TestClient]) -> None:
    client = page()
    assert client.post("/t2v/run", json={"prompt": "x", "model": "demo", **TINY}).status_code == 200
    job = client.post("/t2v/v1/generate", json={"prompt": "x", **TINY}).json()
    assert client.get(job["films"][0]["url"], headers={"Range": "bytes=0-3"}).status_code == 206
    assert client.get("/config").status_code == 200
    assert client.get("/t2v/v1/nothing").status_code == 404


def test_a_login_to_the_page_opens_the_api(page: Callable[..., TestClient]) -> None:
    client = page(auth=("anna", "secret"))
    assert client.get("/t2v/v1/jobs").status_code == 401
    assert client.get("/t2v/v1/jobs", headers=basic("anna", "secret")).status_code == 200
    assert client.post("/login", data={"username": "anna", "password": "wrong"}).status_code != 200
    assert client.get("/t2v/v1/jobs").status_code == 401
    answer = client.post("/login", data={"username": "anna", "password": "secret"})
    assert answer.status_code == 200
    cookie = "; ".join(part.partition(";")[0] for part in answer.headers.get_list("set-cookie"))
    assert client.get("/t2v/v1/jobs", headers={"Cookie": cookie}).status_code == 200
