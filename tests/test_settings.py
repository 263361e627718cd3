"""What users settle: limits, and a host whose options are missing or nonsense."""

import logging
from dataclasses import Field, fields
from typing import Any

import pytest

from t2v.errors import RequestError
from t2v.settings import KEEP, Settings, option_key, read_settings


@pytest.mark.parametrize(("name", "value"), [
    ("keep", "everything"), ("keep", 1), ("vae_precision", "float8"), ("preview", "maybe"), ("preview_every", 0),
    ("recent", -1), ("metadata", None), ("models", 3)])
def test_a_setting_out_of_its_limits_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(RequestError, match=f"^{name}: must be"):
        Settings(**{name: value})


@pytest.mark.parametrize(("value", "meant"), [(True, True), ("no", False), ("1", True), ("False", False), (0, False)])
def test_a_switch_is_also_what_a_flag_spells(value: Any, meant: bool) -> None:
    assert Settings(preview=value).preview is meant


def test_settings_are_read_from_whatever_a_host_has(caplog: pytest.LogCaptureFixture) -> None:
    options: dict[str, Any] = {"text2video_keep": "nothing", "text2video_preview_every": "often",
                               "text2video_recent": 3.0}

    def option(spec: "Field[Any]") -> Any:
        return options.get(option_key(spec), spec.default)

    with caplog.at_level(logging.WARNING):
        settings = read_settings(option)
    assert (settings.keep, settings.recent) == ("nothing", 3)
    assert settings.preview_every == Settings().preview_every
    assert "preview_every" in caplog.text


def test_every_setting_has_its_words() -> None:
    for spec in fields(Settings):
        assert spec.metadata["label"], spec.name
        assert spec.metadata["description"].endswith("."), spec.name
    assert Settings().keep in KEEP
    assert len({spec.metadata["label"] for spec in fields(Settings)}) == len(fields(Settings))
