"""From what was sent to a request that can be made: names known, limits kept, files in their place.

What can be told before a film is made is told now: a job that waits for an hour, to fail over a misspelt sampler, helps
nobody.
"""

import difflib
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from t2v.api.files import PLACES, Inbox, place
from t2v.errors import RequestError
from t2v.extra import listed, taken_out
from t2v.hosts import Host
from t2v.models import catalog
from t2v.models.library import files, find
from t2v.request import VideoRequest, shown, value_type
from t2v.sampling import find_sampler
from t2v.schedule import find_spacing
from t2v.upscale import find_upscaler
from t2v.video import check_film

SPECS = {spec.name: spec for spec in fields(VideoRequest)}
MAX_TEXT = 20_000  # characters of a setting that is no file


def settings_of(values: Mapping[str, Any], typed: bool) -> dict[str, Any]:
    """The settings among the values, which must know nothing else. `typed`: numbers are numbers and not spelt."""
    for name in values:
        if name not in SPECS:
            near = difflib.get_close_matches(name, SPECS, n=1)
            raise RequestError(str(name), "there is no such setting" + (f"; is {near[0]} meant?" if near else ""))
    stated = {name: value for name, value in values.items() if value is not None}
    if typed:
        for name, value in stated.items():
            check_type(name, value)
    return {name: clean(name, value) for name, value in stated.items()
            if value != "" or value_type(SPECS[name]) is str}  # an empty box of a form says nothing about a number


def check_type(name: str, value: Any) -> None:
    """RequestError for a number or switch that is spelt as text, where it need not be."""
    kind = value_type(SPECS[name])
    fits = isinstance(value, (int, float) if kind in (int, float) else kind)
    if not fits or isinstance(value, bool) != (kind is bool):
        words = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
        raise RequestError(name, f"must be {words[kind]}, not {shown(value)}")


def clean(name: str, value: Any) -> Any:
    """Text of a sane length that can be written down; all else as it is."""
    if not isinstance(value, str) or name in PLACES:
        return value
    if len(value) > MAX_TEXT:
        raise RequestError(name, f"must have at most {MAX_TEXT} characters, not {len(value)}")
    return value.encode("utf-8", "replace").decode()  # halves of characters, which JSON can spell and nothing can keep


def order(values: Mapping[str, Any], host: Host, inbox: Inbox) -> VideoRequest:
    """The request that settings describe, checked as far as that can be done without making it. RequestError,
    ModelError."""
    placed = dict(values)
    place(placed, host, inbox)
    request = VideoRequest(**placed)
    check(request, host)
    return request


def check(request: VideoRequest, host: Host) -> None:
    """What only registries, the model and the host's limits can tell."""
    filled = filled_of(request, host)
    find_sampler(filled.sampler or "")
    find_spacing(filled.spacing or "")
    check_film(filled.format, filled.fps or 0, filled.soundtrack)
    check_loras(request, host)
    if request.upscale > 1:
        find_upscaler(request.upscale_by, host)
    pixels = filled.batch_count * (filled.frames or 0) * (filled.width or 0) * (filled.height or 0) / 1e6
    if pixels > host.settings.api_pixels:
        raise RequestError("frames", f"{pixels:.0f} million pixels are asked for, frames x width x height x films, and "
                                     f"{host.settings.api_pixels} million are allowed; take fewer or smaller ones")


def filled_of(request: VideoRequest, host: Host) -> VideoRequest:
    """The request with its model's own choices. RequestError for a model that is not there."""
    path = catalog.find_model(request.model, host.model_folders)
    defaults = catalog.describe(path, host.model_folders)
    missing: dict[str, Any] = {name: defaults.get(name) for name in SPECS if getattr(request, name) is None}
    return replace(request, **missing)


def check_loras(request: VideoRequest, host: Host) -> None:
    """RequestError for a LoRA that is not there."""
    wishes = [*taken_out(request.prompt)[1], *taken_out(request.negative_prompt)[1], *listed(request.loras)]
    known = files(host.lora_folders) if wishes else {}
    for wish in wishes:
        find(wish.name, known)
