"""The OpenAPI document is true: a short attack; `python tests/api/attack.py` makes longer ones, on other stacks too."""

import os
import sys
from importlib.util import find_spec
from typing import Any

import pytest

from t2v.request import VideoRequest
from tests.api.attack import attack
from tests.api.conftest import Api


@pytest.mark.skipif("T2V_HOST" in os.environ, reason="schemathesis goes with newer packages than web UIs pin")
def test_no_answer_is_other_than_the_document_says() -> None:
    assert find_spec("schemathesis"), "schemathesis is missing; make test installs it"
    assert attack(sys.executable, 3, "fuzzing") == 0


def walk(node: Any) -> Any:
    yield node
    for inner in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from walk(inner)


def test_the_document_names_every_setting_with_its_limits(api: Api) -> None:
    document = api.app.openapi()
    body = document["paths"]["/t2v/v1/jobs"]["post"]["requestBody"]["content"]["application/json"]
    settings = body["schema"]["properties"]
    assert set(settings) == set(VideoRequest.__dataclass_fields__)
    assert all(setting["description"].endswith(".") for setting in settings.values())
    assert (settings["width"]["minimum"], settings["width"]["multipleOf"]) == (16, 8)
    assert "DDIM" in settings["sampler"]["enum"]
    assert body["example"]["prompt"]


def test_null_is_spelt_as_the_version_of_the_document_wants(api: Api) -> None:
    document = api.app.openapi()
    old = document["openapi"].startswith("3.0")
    ours = {path: value for path, value in document["paths"].items() if path.startswith("/t2v")}
    assert any(isinstance(node, dict) and node.get("nullable") for node in walk(ours)) is old
    assert any(isinstance(node, dict) and isinstance(node.get("type"), list) for node in walk(ours)) is not old
