"""Who may call: whoever the host lets in, known by name, or everybody where the host has no names.

A host knows people in two ways: names and passwords that are sent along (HTTP Basic), and a login to its page, which a
cookie stands for. Where either is set, one of the two is asked for.
"""

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass, field
from secrets import compare_digest
from typing import Any

from fastapi import Request
from fastapi.security import HTTPBasic

from t2v.api.routes import Refusal

CHALLENGE = {"WWW-Authenticate": "Basic"}


@dataclass(frozen=True)
class Access:
    """The names and passwords of an API; logins to the page around it are taken from the app itself."""

    users: Mapping[str, str] = field(default_factory=dict, repr=False)

    def caller(self, request: Request) -> str:
        """The name of who calls, "" where nobody needs one; Refusal (401) for those who should have told theirs."""
        page = getattr(request.app, "auth", None)  # of a gradio app: names and passwords, or a function, or None
        if not self.users and page is None:
            return ""
        name = self.by_password(request, page) or by_cookie(request)
        if not name:
            raise Refusal(401, "Incorrect username or password", CHALLENGE)
        return name

    def by_password(self, request: Request, page: Any) -> str:
        """The name that is sent along, if its password is right."""
        name, password = credentials(request.headers.get("authorization", ""))
        if self.users or isinstance(page, Mapping):
            users = self.users or page
            known = compare_digest(str(users.get(name, "")).encode(), password.encode())
            return name if known and name in users else ""
        return name if callable(page) and name and page(name, password) else ""


class Basic(HTTPBasic):
    """Says in the OpenAPI document that a name and a password are asked for. Asking is up to `Access`, since FastAPI's
    own class knows no letters beyond ASCII and no cookies."""

    async def __call__(self, request: Request) -> None:  # type: ignore[override]  # noqa: ARG002
        return None


def credentials(header: str) -> tuple[str, str]:
    """Name and password of an Authorization header; both "" where it has none."""
    kind, _, text = header.partition(" ")
    try:
        name, colon, password = base64.b64decode(text.strip(), validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError, ValueError):
        return "", ""
    return (name, password) if kind.lower() == "basic" and colon else ("", "")


def by_cookie(request: Request) -> str:
    """The name that is logged in to the page, as gradio 3 and later remember it."""
    app: Any = request.app
    tokens = getattr(app, "tokens", None) or {}
    mark = f"-{app.cookie_id}" if hasattr(app, "cookie_id") else ""
    cookies = (request.cookies.get(f"{name}{mark}") for name in ("access-token", "access-token-unsecure"))
    return next((str(tokens[cookie]) for cookie in cookies if cookie in tokens), "")
