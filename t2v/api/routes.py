"""How a route answers: JSON, also where it refuses, in the form that web UIs use.

The form is kept by the routes themselves (`Route`): an app's handlers and middleware belong to whoever made the app.
"""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from fastapi import HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute

from t2v.errors import FilmError, MemoryShortage, ModelError, RequestError, T2VError

log = logging.getLogger(__name__)
T = TypeVar("T")
POOL = ThreadPoolExecutor(8, "text2video-api")  # not the app's own threads, which long calls of others may all hold
SLOW = ThreadPoolExecutor(1, "text2video-api-slow")  # for what takes seconds, one at a time
STATUSES: dict[type[Exception], int] = {RequestError: 422, MemoryShortage: 507, ModelError: 500, FilmError: 500}
SAFE = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}


class Refusal(T2VError):
    """What is answered instead of what was asked for: a status, and why."""

    def __init__(self, status: int, reason: str, headers: Mapping[str, str] | None = None) -> None:
        self.status, self.headers = status, dict(headers or {})
        super().__init__(reason)


async def aside(work: Callable[..., T], *args: Any, pool: ThreadPoolExecutor = POOL) -> T:
    """`work(*args)` in a thread, while the event loop goes on."""
    return await asyncio.get_running_loop().run_in_executor(pool, work, *args)


async def answer(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """`content` as JSON. What is in it stays text: browsers are told not to guess."""
    body = await aside(json.dumps, content) if heavy(content) else json.dumps(content)
    return Response(body, status, {**SAFE, **(headers or {})}, "application/json")


def heavy(content: Any) -> bool:
    """Whether films are in it, which take long to write down."""
    return isinstance(content, dict) and "mp4s" in content


class Route(APIRoute):
    """A route whose refusals have the host's form, whatever app it is in."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler: Callable[[Request], Awaitable[Response]] = super().get_route_handler()

        async def handled(request: Request) -> Response:
            try:
                return await handler(request)
            except Exception as problem:
                return await refused(problem, request)

        return handled


async def refused(problem: Exception, request: Request) -> Response:
    """The answer to a call that led to `problem`."""
    if isinstance(problem, RequestValidationError):
        detail: Any = [{"loc": list(error["loc"]), "msg": str(error["msg"]), "type": str(error["type"])}
                       for error in problem.errors()]
        return await complaint(422, "RequestValidationError", detail, "; ".join(error["msg"] for error in detail))
    if isinstance(problem, RequestError):
        usual = "query" if request.headers.get("content-length", "0") == "0" else "body"
        place = [getattr(request.state, "text2video_origins", {}).get(problem.field, usual)]
        place += [problem.field] if problem.field else []
        detail = [{"loc": place, "msg": problem.problem, "type": "value_error"}]
        return await complaint(422, "RequestError", detail, str(problem))
    if isinstance(problem, Refusal | HTTPException):
        status = problem.status if isinstance(problem, Refusal) else problem.status_code
        reason = str(problem) if isinstance(problem, Refusal) else str(problem.detail)
        return await complaint(status, "HTTPException", reason, reason, problem.headers)
    if isinstance(problem, T2VError):
        return await complaint(STATUSES.get(type(problem), 500), type(problem).__name__, str(problem), str(problem))
    log.error("Text2Video: %s %s failed", request.method, request.url.path, exc_info=problem)
    words = f"a fault of Text2Video itself: {type(problem).__name__} (the console shows where)"
    return await complaint(500, type(problem).__name__, words, words)


async def complaint(status: int, kind: str, detail: Any, errors: str,
                    headers: Mapping[str, str] | None = None) -> Response:
    """A refusal in the form of web UIs: `detail` as FastAPI has it, and `error` and `errors` as they add them."""
    return await answer({"error": kind, "detail": detail, "body": "", "errors": errors}, status, headers)
