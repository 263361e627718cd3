"""What a call brings along, as query, form or JSON: one set of values by name, and files."""

import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

from fastapi import HTTPException, Request
from starlette.datastructures import UploadFile
from starlette.types import Message

from t2v.api.routes import Refusal, aside
from t2v.errors import RequestError

MAX_FIELDS = 1000
FORM, MULTIPART = "application/x-www-form-urlencoded", "multipart/form-data"


@dataclass
class Sent:
    """Values by name, as they came: text from a query or form, anything from JSON; and files by name, in order."""

    values: dict[str, Any] = field(default_factory=dict)
    files: list[tuple[str, UploadFile]] = field(default_factory=list)
    typed: bool = False  # whether values have types, as in JSON

    def close(self) -> None:
        """Lets go of the files."""
        for _, file in self.files:
            file.file.close()


async def read(request: Request, megabytes: int, query: bool) -> Sent:
    """Everything that was sent; what stands in the query wins, where `query` is looked at at all. Refusal (413) for
    more than so many megabytes, before they are there; RequestError for what cannot be read."""
    counted = within(request, megabytes * 10**6)
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    sent = await parts(counted, megabytes) if kind == MULTIPART else await plain(await counted.body(), kind)
    origins = dict.fromkeys(sent.values, "body")
    if query:
        asked = dict(parse_qsl(request.url.query, keep_blank_values=True))
        sent.values |= asked
        origins |= dict.fromkeys(asked, "query")
    request.state.text2video_origins = origins
    return sent


def within(request: Request, limit: int) -> Request:
    """The same request, which may bring no more than `limit` bytes, whatever it says of its length."""
    too_much = Refusal(413, f"more than {limit // 10**6} MB were sent; what is larger, put into a folder of inputs, "
                            "or raise the limit in the settings", {"Connection": "close"})
    length = request.headers.get("content-length", "")
    if length.isdecimal() and (len(length) > 18 or int(length) > limit):
        raise too_much
    come = 0

    async def receive() -> Message:
        nonlocal come
        message = await request.receive()
        come += len(message.get("body", b""))
        if come > limit:
            raise too_much
        return message

    return Request(request.scope, receive)


async def plain(body: bytes, kind: str) -> Sent:
    """Values of JSON, or of a form. What looks like JSON is taken for it, for curl calls everything a form."""
    if body.lstrip()[:1] == b"{" or (kind != FORM and body.strip()):
        return Sent(await aside(decoded, body), typed=True)
    try:
        text = body.decode()
        return Sent(dict(parse_qsl(text, keep_blank_values=True, max_num_fields=MAX_FIELDS)))
    except ValueError as error:
        raise RequestError("", f"the form cannot be read: {error}") from error


def decoded(body: bytes) -> dict[str, Any]:
    """The object that stands in a body."""
    try:
        values = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise RequestError("", f"the body is no JSON: {error}") from error
    if not isinstance(values, Mapping):
        raise RequestError("", "the body must be a JSON object, with settings by name")
    return dict(values)


async def parts(request: Request, megabytes: int) -> Sent:
    """Values and files of a form in several parts."""
    options = {"max_files": MAX_FIELDS, "max_fields": MAX_FIELDS, "max_part_size": megabytes * 10**6}
    known = inspect.signature(Request.form).parameters  # the last one came later than the others
    try:
        form = await request.form(**{name: value for name, value in options.items() if name in known})
    except Refusal:
        raise
    except HTTPException as error:
        raise RequestError("", f"the form cannot be read: {error.detail}") from error
    except Exception as error:  # each version of the parser has its own ways to fail on what is no form
        raise RequestError("", f"the form cannot be read ({type(error).__name__})") from error
    files = [(name, value) for name, value in form.multi_items() if isinstance(value, UploadFile)]
    return Sent({name: value for name, value in form.multi_items() if isinstance(value, str)}, files)
