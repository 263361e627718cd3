"""Checking and fetching models from the tab: nothing comes before its terms were shown, and everything can be ended."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from t2v.download import catalogue, transfer
from t2v.hosts.standalone import Standalone
from t2v.jobs import Runner
from t2v.ui.care import Care
from t2v.ui.library import Library
from tests import hub as hubs
from tests.hub import Hub

REPOSITORY = "someone/a-model"
FILES = {"configuration.json": b'{"model": {}}', "text2video_pytorch_model.pth": bytes(range(256)) * 400}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    with hubs.running() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setattr(transfer, "PAUSE", 0.0)
        monkeypatch.setattr(catalogue, "FILE", tmp_path / "known.json")
        hub.add(REPOSITORY, FILES)
        hubs.write_catalogue(catalogue.FILE, "a-model", REPOSITORY, FILES)
        yield hub


@pytest.fixture
def care(tmp_path: Path) -> Care:
    host = Standalone(torch.device("cpu"), models=tmp_path / "models", outputs=tmp_path / "films")
    return Care(Library(Runner(host)))


def fetched(care: Care) -> str:
    """What the page says in the end about fetching the model."""
    said = care.fetch({"known": "a-model"})
    while "data-look" in said["care"]:
        said = care.look({})
    return str(said["care"])


def test_the_check_is_a_page_about_the_machine(care: Care) -> None:
    page = care.examine({})["care"]
    assert "Text2Video doctor" in page
    assert "torch" in page


def test_a_model_is_fetched_once_its_terms_were_shown(hub: Hub, care: Care, tmp_path: Path) -> None:
    terms = fetched(care)
    assert "Licence" in terms
    assert not [asked for asked in hub.asked if asked.method == "GET" and asked.name.endswith(".pth")]
    assert "is here" in fetched(care)
    (found,) = (tmp_path / "models" / "ModelScope").glob("*/*.pth")
    assert found.read_bytes() == FILES["text2video_pytorch_model.pth"]


def test_terms_of_one_model_are_no_consent_to_another(hub: Hub, care: Care) -> None:
    care.terms({"known": "a-model"})
    assert "no model called" in care.fetch({"known": "b-model"})["care"]
    assert not [asked for asked in hub.asked if asked.method == "GET" and asked.name.endswith(".pth")]


def test_a_download_can_be_ended_and_goes_on_later(hub: Hub, care: Care) -> None:
    care.terms({"known": "a-model"})
    hub.slow = 0.05
    care.fetch({"known": "a-model"})
    care.cancel({})
    assert care.errand
    care.errand.thread.join()
    ended = care.look({})["care"]
    assert 'data-kind="note"' in ended
    assert not care.library.models() or care.library.models() == ["demo"]
    hub.slow = 0.0
    care.terms({"known": "a-model"})
    assert "is here" in fetched(care)


def test_what_goes_wrong_is_said(hub: Hub, care: Care) -> None:
    hub.status["text2video_pytorch_model.pth"] = 404
    said = care.terms({"known": "a-model"})["care"]
    assert 'role="alert"' in said
    assert care.agreed_to is None
