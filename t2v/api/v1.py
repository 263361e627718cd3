"""/t2v/v1: films as jobs, with progress, cancel and results, or made while one waits."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from fastapi import Query, Request, Response
from fastapi.responses import StreamingResponse

from t2v.api import body, films
from t2v.api.access import Access
from t2v.api.body import Sent
from t2v.api.files import PLACES, Inbox
from t2v.api.history import Facts
from t2v.api.orders import settings_of
from t2v.api.routes import SAFE, STATUSES, Refusal, answer, aside
from t2v.api.service import Order, Service
from t2v.api.status import JOBS, status
from t2v.errors import RequestError
from t2v.jobs import Job, State

LOOK = 0.05  # seconds between two looks at a job that somebody waits for
BREATH = 15.0  # seconds after which a stream shows that it lives
BETWEEN = 0.1  # seconds at least between two events
MAX_KEY = 200
FAULTS = {kind.__name__: code for kind, code in STATUSES.items()}


class Calls:
    """What every group of routes needs: the jobs, and who may see them."""

    def __init__(self, service: Service, access: Access) -> None:
        self.service, self.access = service, access
        self.runner, self.host = service.runner, service.host

    def caller(self, request: Request) -> str:
        return self.access.caller(request)

    def status(self, facts: Facts, request: Request) -> dict[str, Any]:
        return status(facts, self.runner, root(request))

    async def facts(self, id: str, request: Request) -> Facts:
        """One of the caller's jobs; without a thread, where it is known here."""
        caller = self.caller(request)
        if self.service.job(id) is not None:
            return self.service.facts(id, caller)
        return await aside(self.service.facts, id, caller)

    async def sent(self, request: Request, query: bool = False) -> Sent:
        return await body.read(request, self.host.settings.api_upload, query)

    async def finished(self, id: str, request: Request, new: bool, keyed: bool) -> Facts:
        """A job when it is over. One that nobody waits for any more is ended, unless a key lets others ask for it."""
        caller = self.caller(request)
        while (job := self.service.job(id)) is not None and not job.over:
            if new and not keyed and await request.is_disconnected():
                await aside(self.service.interrupt, id, caller)
            await asyncio.sleep(LOOK)
        return await aside(self.service.facts, id, caller)


def root(request: Request) -> str:
    """What stands before our paths where the app is mounted below another."""
    return str(request.scope.get("root_path", "")).rstrip("/")


def key_of(request: Request) -> str:
    """The Idempotency-Key of a call; "" without one."""
    key = request.headers.get("idempotency-key", "")
    if len(key) > MAX_KEY:
        raise Refusal(422, f"an Idempotency-Key has at most {MAX_KEY} characters")
    return key


def prepared(sent: Sent, inbox: Inbox) -> dict[str, Any]:
    """The settings that were sent, files among them in the inbox."""
    values = settings_of(sent.values, sent.typed)
    arrived: dict[str, list[str]] = {}
    for field, file in sent.files:
        if field not in PLACES:
            raise RequestError(field, f"is no file; files are {', '.join(PLACES)}")
        if file.filename or file.size:
            arrived.setdefault(field, []).append(str(inbox.add(field, file.file, file.filename or "")))
    for field, paths in arrived.items():
        if len(paths) > (2 if field == "pictures" else 1):
            raise RequestError(field, "must be one file; of pictures two, for the first frame and the last")
        values[field] = paths[0] if len(paths) == 1 else f"0: {paths[0]} | -1: {paths[1]}"
    return values


def failure(facts: Facts) -> Refusal | None:
    """What to answer who waited for a job that brought nothing; None if it brought a film."""
    if facts["state"] == "failed":
        return Refusal(FAULTS.get(facts["fault"], 500), facts["error"])
    if not facts["films"]:
        return Refusal(409, facts["error"] or "it was interrupted or skipped before there was anything to see")
    return None


class Jobs(Calls):
    """The routes of jobs and their films."""

    async def submit(self, request: Request) -> Response:
        """Takes a film on and answers at once; the answer says where to ask for it."""
        id, _ = await self.taken_on(request)
        facts = await aside(self.service.facts, id, self.caller(request))
        said = self.status(facts, request)
        return await answer(said, 202, {"Location": said["url"]})

    async def generate(self, request: Request) -> Response:
        """Makes films while the caller waits."""
        id, new = await self.taken_on(request)
        facts = await self.finished(id, request, new, bool(key_of(request)))
        if refusal := failure(facts):
            raise refusal
        return await answer(self.status(facts, request), 200, {"Location": f"{root(request)}{JOBS}/{id}"})

    async def taken_on(self, request: Request) -> tuple[str, bool]:
        caller = self.caller(request)
        sent = await self.sent(request)
        try:
            return await aside(self.service.submit, partial(prepared, sent), Order(caller, key_of(request)))
        finally:
            sent.close()

    async def list(self, request: Request, state: State | None = None, limit: int = Query(50, ge=1, le=200),
                   offset: int = Query(0, ge=0, le=10**6)) -> Response:
        """The caller's jobs, the newest first; those of earlier runs too."""
        found = await aside(self.service.jobs, self.caller(request), state.value if state else "", limit, offset)
        fresh = [await self.facts(facts["id"], request) if self.service.job(facts["id"]) else facts for facts in found]
        return await answer({"jobs": [self.status(facts, request) for facts in fresh]})

    async def get(self, request: Request, id: str) -> Response:
        """How far a job is, and what has come of it."""
        return await answer(self.status(await self.facts(id, request), request))

    async def cancel(self, request: Request, id: str) -> Response:
        """Ends a job: one that waits is taken out of the queue, one that runs leaves a film of what there is."""
        await aside(self.service.interrupt, id, self.caller(request))
        return await answer(self.status(await self.facts(id, request), request))

    async def delete(self, request: Request, id: str) -> Response:
        """Forgets a job that is over. Its films stay where they are."""
        await aside(self.service.delete, id, self.caller(request))
        return Response(status_code=204)

    async def events(self, request: Request, id: str) -> Response:
        """The job as server-sent events: "status" whenever something is new, and "end" when it is over."""
        await self.facts(id, request)
        return StreamingResponse(self.stream(id, request), 200, {**SAFE, "X-Accel-Buffering": "no"},
                                 "text/event-stream")

    async def stream(self, id: str, request: Request) -> AsyncIterator[bytes]:
        job: Job | None = self.service.job(id)
        version, said = -1, 0.0
        while job is not None and not job.over:
            if job.version != version:
                version, said = job.version, time.monotonic()
                yield event("status", self.status(await self.facts(id, request), request))
            elif time.monotonic() - said > BREATH:
                said = time.monotonic()
                yield b": still here\n\n"
            await asyncio.sleep(BETWEEN)
        yield event("end", self.status(await self.facts(id, request), request))

    async def preview(self, request: Request, id: str) -> Response:
        """What the film looks like by now: a small picture that moves."""
        facts = await self.facts(id, request)
        job = self.service.job(id)
        picture = await aside(job.preview, facts["request"]["fps"] or 8) if job is not None and not job.over else b""
        if not picture:
            raise Refusal(404, "there is nothing to see of this job at the moment")
        return Response(picture, 200, SAFE, "image/webp")

    async def film(self, request: Request, id: str, number: int) -> Response:
        """A film of a job; parts of it, if a range is asked for."""
        facts = await self.facts(id, request)
        if not 0 <= number < len(facts["films"]):
            raise Refusal(404, f"this job has no film number {number}; it has {len(facts['films'])}, counted from 0")
        said = self.status(facts, request)["films"][number]
        return await films.sent(Path(facts["films"][number]["path"]), said["type"], said["name"], request)


def event(kind: str, content: Mapping[str, Any]) -> bytes:
    return f"event: {kind}\ndata: {json.dumps(content)}\n\n".encode()


