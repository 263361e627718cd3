"""/t2v/run, /t2v/version and /t2v/api_version, as the sd-webui-text2video extension had them.

Names, defaults and the shape of the answer are its own; so that its clients work, settings may stand in the query, a
form or JSON, and files may also be base64. What failed there with a film of an error message fails here with a status.
"""

import base64
import io
import json
from collections.abc import Mapping
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

from fastapi import Request, Response

import t2v
from t2v.api.body import Sent
from t2v.api.files import Inbox, confined, decoded, public
from t2v.api.history import Facts
from t2v.api.orders import clean
from t2v.api.routes import answer, aside
from t2v.api.schema import Schema, Words
from t2v.api.service import Order
from t2v.api.status import task_of
from t2v.api.v1 import Calls, failure, key_of
from t2v.api.weights import weights
from t2v.errors import FilmError, RequestError
from t2v.hosts import Host
from t2v.models import catalog
from t2v.request import VideoRequest, checked, shown
from t2v.sampling import find_sampler
from t2v.video import probe

VERSION = "1.0"  # of this API
CHOSEN = "<modelscope>"  # the model that was taken where none was named
FOLDER = "t2v"  # where it was, and what clients call it
SAME = {"prompt": "", "steps": 30, "frames": 24, "seed": -1, "cfg_scale": 17.0, "width": 256, "height": 256,
        "batch_count": 1, "fps": 15.0, "strength": 0.75}  # as in VideoRequest
OTHERS: dict[str, tuple[str, Any, str]] = {  # type, default, meaning
    "n_prompt": ("string", "text, watermark, copyright, blurry, nsfw", "What the film should not show."),
    "model": ("string", CHOSEN, "Name of a model."),
    "sampler": ("string", "DDIM_Gaussian", "How the noise is taken away; DDIM_Gaussian is DDIM."),
    "eta": ("number", 0.0, "Fresh noise per step, where the sampler takes any."),
    "do_vid2vid": ("boolean", False, "Start from vid2vid_input."),
    "vid2vid_startFrame": ("integer", 0, "Where in it to begin, in frames."),
    "inpainting_frames": ("integer", 0, "Over how many frames inpainting_image is held; 0 leaves it out."),
    "inpainting_weights": ("string", '0:(t/max_i_f), "max_i_f":(1)', "How free of it each frame is, 0 to 1."),
    "add_soundtrack": ("string", "None", "None, File or Init Video."),
    "soundtrack_path": ("string", "https://deforum.github.io/a1/A1.mp3", "A file of this server; nothing is fetched."),
}
FILES = {"vid2vid_input": "film", "inpainting_image": "pictures"}
ALIASES = {"cfg": "cfg_scale", "negative_prompt": "n_prompt"}
SPECS = {spec.name: spec for spec in fields(VideoRequest)}


class DropIn(Calls):
    """The three routes."""

    async def t2v_version(self, request: Request) -> Response:
        """The version of Text2Video."""
        self.caller(request)
        return await answer({"version": t2v.__version__})

    async def t2v_api_version(self, request: Request) -> Response:
        """The version of this API."""
        self.caller(request)
        return await answer({"version": VERSION})

    async def t2v_run(self, request: Request) -> Response:
        """Makes films and answers with them, as data URIs."""
        caller, key = self.caller(request), key_of(request)
        sent = await self.sent(request, query=True)
        order = Order(caller, key)
        try:
            id, new = await aside(self.service.submit, partial(translated, sent, self.host, order.warnings), order)
        finally:
            sent.close()
        facts = await self.finished(id, request, new, bool(key))
        if refusal := failure(facts):
            raise refusal
        return await answer(await aside(self.result, facts, request))

    def result(self, facts: Facts, request: Request) -> dict[str, Any]:
        """What clients read first, and what they would have liked to know."""
        said = self.status(facts, request)
        paths = [Path(film["path"]) for film in facts["films"]]
        try:
            films = [base64.b64encode(path.read_bytes()).decode() for path in paths]
        except OSError as error:
            raise FilmError("a film is not there any more") from error
        films = ["data:video/mp4;base64," + film for film in films]
        return {"mp4s": films, "seeds": [film["seed"] for film in said["films"]],
                "infotexts": [film["infotext"] for film in said["films"]],
                "paths": [public(str(path), self.host) for path in paths], "parameters": said["request"],
                "info": json.dumps({"job_id": facts["id"], "state": said["state"]}), "warnings": said["warnings"],
                "job_id": facts["id"], "task": task_of(facts["id"]), "status_url": said["url"]}


# ---- from its settings to ours ----


def translated(sent: Sent, host: Host, warnings: list[str], inbox: Inbox) -> dict[str, Any]:
    """Settings of a request, from what was sent in the words of that extension."""
    given = named(sent, warnings)
    values: dict[str, Any] = {name: checked(SPECS[name], given.get(name, default)) for name, default in SAME.items()}
    if "prompt" not in given:
        raise RequestError("prompt", "field required")
    values["prompt"] = clean("prompt", values["prompt"])
    values["negative_prompt"] = clean("n_prompt", text(given, "n_prompt"))
    values |= sampling(given) | {"model": model(given, host, warnings), "format": "mp4"}
    film, picture = (content(name, given, sent, inbox) for name in FILES)
    values |= from_film(given, film, warnings) | from_picture(given, picture, values, warnings)
    return values | {"soundtrack": soundtrack(given, film, host)}


def named(sent: Sent, warnings: list[str]) -> dict[str, Any]:
    """The values by their usual names, without those that say nothing."""
    known = {*SAME, *OTHERS, *FILES, *ALIASES}
    if unknown := [str(name) for name in sent.values if name not in known]:
        warnings.append(f"passed over, for there are no such settings: {', '.join(map(shown, unknown[:20]))}")
    values = {name: value for name, value in sent.values.items()
              if name in known and (value not in (None, "None") or name == "add_soundtrack")
              and (value != "" or name in ("prompt", "n_prompt"))}
    for alias, name in ALIASES.items():
        if alias in values:
            values.setdefault(name, values.pop(alias))
    return values


def text(given: Mapping[str, Any], name: str) -> str:
    """A value that is text."""
    value = given.get(name, OTHERS[name][1])
    if not isinstance(value, str):
        raise RequestError(name, f"must be text, not {shown(value)}")
    return value


def number(given: Mapping[str, Any], name: str, most: float) -> float:
    """A value that is a number from 0 to `most`."""
    value = given.get(name, OTHERS[name][1])
    try:
        exact = float(value) if not isinstance(value, bool) else -1.0
    except (TypeError, ValueError, OverflowError):
        exact = -1.0
    if not 0 <= exact <= most or (OTHERS[name][0] == "integer" and not exact.is_integer()):
        raise RequestError(name, f"must be a number from 0 to {most:g}, not {shown(value)}")
    return exact


def switch(given: Mapping[str, Any], name: str) -> bool:
    """A value that is yes or no."""
    try:
        return bool(checked(SPECS["loop"], given.get(name, OTHERS[name][1])))
    except RequestError as error:
        raise RequestError(name, error.problem) from error


def sampling(given: Mapping[str, Any]) -> dict[str, Any]:
    """The sampler, and eta for those that take it."""
    name, eta = text(given, "sampler"), number(given, "eta", 2)
    name = "DDIM" if name.casefold() == "ddim_gaussian" else name
    return {"sampler": name, "eta": eta if find_sampler(name).takes_eta else None}


def model(given: Mapping[str, Any], host: Host, warnings: list[str]) -> str:
    """The name of a model; where that of old is asked for and not there, the first real one."""
    name, known = text(given, "model"), catalog.find_models(host.model_folders)
    if name != CHOSEN:
        return name
    if FOLDER in known:
        return FOLDER
    chosen = next((other for other in known if other != catalog.DEMO.name), catalog.DEMO.name)
    warnings.append(f"there is no model {FOLDER!r} here; {chosen!r} was taken")
    return chosen


def content(name: str, given: Mapping[str, Any], sent: Sent, inbox: Inbox) -> Path | None:
    """The file that was sent as a part of a form or as base64; None if there was none."""
    for part, file in sent.files:
        if part == name and (file.filename or file.size):
            return inbox.add(FILES[name], file.file, file.filename or "")
    if name not in given:
        return None
    if not isinstance(given[name], str):
        raise RequestError(name, "must be a file, or text in base64")
    return inbox.add(FILES[name], io.BytesIO(decoded(given[name], name)))


def from_film(given: Mapping[str, Any], film: Path | None, warnings: list[str]) -> dict[str, Any]:
    """What vid2vid comes to."""
    start = number(given, "vid2vid_startFrame", 10**6)
    if not switch(given, "do_vid2vid"):
        if film is not None:
            warnings.append("vid2vid_input was passed over, for do_vid2vid is false")
        return {}
    if film is None:
        raise RequestError("vid2vid_input", "is needed where do_vid2vid is true")
    return {"film": str(film), "film_start": start / (probe(film).fps or 1)}


def from_picture(given: Mapping[str, Any], picture: Path | None, values: Mapping[str, Any],
                 warnings: list[str]) -> dict[str, Any]:
    """What a picture to begin with comes to."""
    held, written = int(number(given, "inpainting_frames", 10_000)), text(given, "inpainting_weights")
    if picture is None or not held:
        if picture is not None:
            warnings.append("inpainting_image was passed over, for inpainting_frames is 0")
        return {}
    try:
        return {"pictures": str(picture), "picture_weights": weights(written, held, values["frames"], values["seed"])}
    except RequestError as error:
        raise RequestError("inpainting_weights", error.problem) from error


def soundtrack(given: Mapping[str, Any], film: Path | None, host: Host) -> str:
    """The sound of the film."""
    kind, path = text(given, "add_soundtrack").casefold(), text(given, "soundtrack_path")
    if kind in ("none", ""):
        return ""
    if kind == "file":
        return str(confined(path, "soundtrack_path", host.input_folders))
    if kind != "init video":
        raise RequestError("add_soundtrack", f"must be None, File or Init Video, not {shown(kind)}")
    if film is None:
        raise RequestError("add_soundtrack", "Init Video needs vid2vid_input")
    return str(film)


# ---- for OpenAPI ----


def parameters(words: Words) -> list[Schema]:
    """Every setting as a parameter of the query; none is required there, since it may stand in the body."""
    return [{"name": name, "in": "query", "required": False, "schema": schema,
             "description": schema["description"]} for name, schema in properties(words).items()]


def properties(words: Words) -> dict[str, Schema]:
    same = {name: {**words.setting(SPECS[name]), "default": default} for name, default in SAME.items()}
    others = {name: {"type": kind, "default": default, "description": meaning}
              for name, (kind, default, meaning) in OTHERS.items()}
    return same | others


def form(words: Words, files: bool) -> Schema:
    """The same as a body, with the files as parts of a form or as base64."""
    kind = {"type": "string", **({"format": "binary"} if files else {"description": "base64, or a data URI"})}
    return {"type": "object", "properties": properties(words) | dict.fromkeys(FILES, kind)}
