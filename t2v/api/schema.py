"""What OpenAPI says of requests and answers. Requests are derived from the fields of `VideoRequest`.

Schemas stand in the document as they are, without models of pydantic, whose versions agree on little. The one thing
that OpenAPI 3.0 and 3.1 spell differently is that something may be null (`Words.optional`).
"""

from collections.abc import Mapping
from dataclasses import Field, fields
from typing import Any

from t2v.api.body import FORM, MULTIPART
from t2v.api.files import PLACES
from t2v.api.orders import MAX_TEXT
from t2v.jobs import State
from t2v.request import VideoRequest, value_type
from t2v.sampling import SAMPLERS
from t2v.schedule import SPACINGS
from t2v.video import FORMATS

Schema = dict[str, Any]
CHOICES: Mapping[str, Any] = {"samplers": SAMPLERS, "spacings": SPACINGS, "formats": FORMATS}
TYPES = {int: "integer", float: "number", bool: "boolean", str: "string"}
EXAMPLE = {"prompt": "a red circle moving right", "model": "demo", "steps": 10, "seed": 7}
PLACE = " A file of this server's films or inputs, by its path there, or data:...;base64,...; or a part of a form."
TEXT: Schema = {"type": "string"}
NUMBER: Schema = {"type": "number"}
COUNT: Schema = {"type": "integer", "minimum": 0}
URL: Schema = {"type": "string", "description": "Where, on this server."}
ERROR: Schema = {
    "type": "object", "required": ["error", "detail", "errors"], "properties": {
        "error": {"type": "string", "description": "The kind of error."},
        "detail": {"description": "What is wrong: a sentence, or with status 422 a list of places and sentences."},
        "body": TEXT, "errors": {"type": "string", "description": "The same in one sentence."}}}
REFUSALS = {401: "Name and password are asked for.", 404: "There is no such thing.", 409: "Not in this state.",
            410: "The film is not there any more.", 413: "Too much was sent.", 416: "The film has no such part.",
            422: "Something about the request is not as it must be.", 429: "Too many films are waiting.",
            500: "It failed on this server's side.", 502: "The hub does not answer.", 507: "Too little memory."}


class Words:
    """The schemas as one version of OpenAPI spells them."""

    def __init__(self, openapi: str) -> None:
        self.modern = not openapi.startswith("3.0")

    def optional(self, schema: Schema) -> Schema:
        """The same, or null."""
        if not self.modern:
            return {**schema, "nullable": True, **({"enum": [*schema["enum"], None]} if "enum" in schema else {})}
        null = {"type": [schema["type"], "null"]} if "type" in schema else {}
        return {**schema, **null, **({"enum": [*schema["enum"], None]} if "enum" in schema else {})}

    def setting(self, spec: "Field[Any]") -> Schema:
        """One setting of a film."""
        limits, kind = spec.metadata, value_type(spec)
        schema: Schema = {"type": TYPES[kind], "title": limits["label"], "description": limits["description"]}
        for word, limit in {"ge": "minimum", "le": "maximum", "multiple_of": "multipleOf"}.items():
            if word in limits:
                schema[limit] = limits[word]
        if known := CHOICES.get(limits.get("choices", "")):
            schema["enum"] = list(known)
        if spec.name in PLACES:
            schema["description"] += PLACE
        elif kind is str and not known:
            schema["maxLength"] = MAX_TEXT
        if spec.default is None:
            schema["description"] += " Left out: the model's own."
            return schema
        return {**schema, "default": spec.default}

    def settings(self) -> Schema:
        """All settings of a film."""
        properties = {spec.name: self.optional(self.setting(spec)) for spec in fields(VideoRequest)}
        return {"type": "object", "title": "VideoRequest", "properties": properties, "additionalProperties": False}

    def form(self) -> Schema:
        """The same as parts of a form, with files."""
        properties = {spec.name: self.setting(spec) for spec in fields(VideoRequest)}
        return {"type": "object", "properties": properties | {
            name: {**properties[name], "format": "binary"} for name in PLACES}}

    def job(self) -> Schema:
        """How far a job is."""
        film = thing(url=URL, name=TEXT, type=TEXT, path=TEXT, seed=COUNT, infotext=TEXT, seconds=NUMBER,
                     interrupted={"type": "boolean"})
        return thing(
            id=TEXT, task={"type": "string", "description": "Its name in the web UI's own progress."},
            state={"type": "string", "enum": [state.value for state in State]},
            stage={"type": "string", "description": "load, encode, read, denoise, enlarge, refine or decode."},
            step=COUNT, steps=COUNT, item={**COUNT, "description": "The film at hand, counted from 0."}, items=COUNT,
            progress={"type": "number", "minimum": 0, "maximum": 1},
            eta=self.optional({"type": "number", "description": "Seconds that are left."}),
            position={**COUNT, "description": "Its place in the queue; 0 when it does not wait."}, text=TEXT,
            preview=self.optional(URL), created=NUMBER, started=self.optional(NUMBER), ended=self.optional(NUMBER),
            error=TEXT, warnings={"type": "array", "items": TEXT}, request={"type": "object"},
            films={"type": "array", "items": film}, url=URL, events=URL)


def thing(**properties: Schema) -> Schema:
    """An object that has all of these."""
    return {"type": "object", "required": list(properties), "properties": properties}


def listed(name: str, item: Schema) -> Schema:
    return thing(**{name: {"type": "array", "items": item}})


def said(schema: Schema, description: str, status: int = 200, example: Any = None) -> dict[int | str, Schema]:
    """An answer in JSON."""
    content: Schema = {"schema": schema} | ({"example": example} if example is not None else {})
    return {status: {"description": description, "content": {"application/json": content}}}


def refusals(*statuses: int) -> dict[int | str, Schema]:
    """The refusals that a route knows; every route knows 401 and 422."""
    return {status: {"description": REFUSALS[status], "content": {"application/json": {"schema": ERROR}}}
            for status in sorted({401, 422, 500, *statuses})}


def binary(description: str, *kinds: str) -> Schema:
    """An answer that is a file."""
    return {"description": description, "content": {kind: {"schema": {"type": "string", "format": "binary"}}
                                                    for kind in kinds}}


def body(required: bool, **contents: Schema) -> Schema:
    """A request body by content type: `json`, `multipart` or `form`."""
    names = {"json": "application/json", "multipart": MULTIPART, "form": FORM}
    return {"requestBody": {"required": required, "content": {
        names[kind]: {"schema": schema, **({"example": EXAMPLE} if kind == "json" else {})}
        for kind, schema in contents.items()}}}
