"""Puts the routes into an app. What others serve there already stays theirs."""

import logging
from collections.abc import Callable
from typing import Any

from fastapi import APIRouter, Depends, FastAPI
from starlette.routing import Match

from t2v.api import dropin, schema
from t2v.api.about import About, Downloads
from t2v.api.access import Access, Basic
from t2v.api.dropin import DropIn
from t2v.api.routes import Route
from t2v.api.schema import Words, binary, body, listed, refusals, said, thing
from t2v.api.service import Service
from t2v.api.status import PREFIX
from t2v.api.v1 import MAX_KEY, Jobs
from t2v.video import FORMATS

log = logging.getLogger(__name__)
OLD = {"/t2v/run": "POST", "/t2v/version": "GET", "/t2v/api_version": "GET"}
EVENTS = {"description": "status, status, ..., end; the data of each is a job as JSON.",
          "content": {"text/event-stream": {"schema": {}}}}
TAG, OLD_TAG = "text2video", "text2video: as sd-webui-text2video"


def attach(app: FastAPI, service: Service, access: Access) -> None:
    """Serves the jobs of `service` in `app`, to those whom `access` lets in."""
    if served(app, f"{PREFIX}/version", "GET"):
        return
    words = Words(app.openapi_version)
    taken = [path for path, method in OLD.items() if served(app, path, method)]
    if taken:
        log.warning("Text2Video: %s belongs to another extension, which keeps it; use %s", ", ".join(taken), PREFIX)
    dependencies = [Depends(Basic())] if access.users else []
    router = APIRouter(route_class=Route, dependencies=dependencies)
    add_jobs(router, Jobs(service, access), words)
    add_about(router, About(service, access, words, "another extension" if taken else "text2video"), words)
    add_downloads(router, Downloads(service, access))
    if not taken:
        add_drop_in(router, DropIn(service, access), words)
    app.include_router(router)
    app.openapi_schema = None  # it may have been asked for before


def served(app: FastAPI, path: str, method: str) -> bool:
    """Whether somebody answers there already."""
    scope = {"type": "http", "path": path, "method": method, "root_path": "", "headers": [], "query_string": b""}
    return any(getattr(route, "path", path) == path and route.matches(dict(scope))[0] is Match.FULL
               for route in app.router.routes)


def add(router: APIRouter, path: str, method: str, call: Callable[..., Any], responses: Any, **more: Any) -> None:
    """A route that says of itself what `responses` and `more` have."""
    router.add_api_route(path, call, methods=[method], response_model=None, responses=responses,
                         tags=[more.pop("tag", TAG)], summary=(call.__doc__ or "").partition(".")[0],
                         status_code=next(iter(responses)), openapi_extra=more or None)


def add_jobs(router: APIRouter, jobs: Jobs, words: Words) -> None:
    job, base, one = words.job(), f"{PREFIX}/jobs", f"{PREFIX}/jobs/{{id}}"
    asked = body(True, json=words.settings(), multipart=words.form())
    key = [{"name": "Idempotency-Key", "in": "header", "required": False,
            "schema": {"type": "string", "maxLength": MAX_KEY},
            "description": "The same key and request again give the same job, and make no second film."}]
    full = refusals(409, 413, 429, 507)
    add(router, base, "POST", jobs.submit, said(job, "The job, and in Location where to ask for it.", 202) | full,
        **asked, parameters=key)
    add(router, f"{PREFIX}/generate", "POST", jobs.generate, said(job, "The job, which is over.") | full,
        **asked, parameters=key)
    add(router, base, "GET", jobs.list, said(listed("jobs", job), "Jobs, the newest first.") | refusals())
    add(router, one, "GET", jobs.get, said(job, "The job as it stands.") | refusals(404))
    add(router, one, "DELETE", jobs.delete, {204: {"description": "It is forgotten."}} | refusals(404, 409))
    add(router, f"{one}/cancel", "POST", jobs.cancel, said(job, "The job, which is over or soon will be.")
        | refusals(404))
    add(router, f"{one}/events", "GET", jobs.events, {200: EVENTS} | refusals(404))
    add(router, f"{one}/preview", "GET", jobs.preview, {200: binary("An animated WebP.", "image/webp")} | refusals(404))
    kinds = [kind.mime if kind.extension else "application/zip" for kind in FORMATS.values()]
    film = {200: binary("The film.", *kinds), 206: binary("A part of the film.", *kinds)} | refusals(404, 410, 416)
    add(router, f"{one}/films/{{number}}", "GET", jobs.film, film)
    router.add_api_route(f"{one}/films/{{number}}", jobs.film, methods=["HEAD"], include_in_schema=False)


def add_about(router: APIRouter, about: About, words: Words) -> None:
    number, text = words.optional({"type": "integer"}), schema.TEXT
    anything = {"type": "object"}
    plan = thing(request=anything, needed=number, weights=number, peaks=anything, plan=text, free=number, total=number,
                 verdict=text)
    add(router, f"{PREFIX}/version", "GET", about.version, said(
        thing(version=text, api=text, host=text, drop_in=text, environment=anything), "Versions.") | refusals())
    add(router, f"{PREFIX}/models", "GET", about.models, said(
        listed("models", {"type": "object", "required": ["name", "problem"]}), "Models.") | refusals())
    add(router, f"{PREFIX}/samplers", "GET", about.samplers, said(
        listed("samplers", thing(name=text, takes_eta={"type": "boolean"}, evaluations=schema.COUNT)), "Samplers.")
        | refusals())
    add(router, f"{PREFIX}/upscalers", "GET", about.upscalers, said(
        listed("upscalers", thing(name=text)), "Upscalers.") | refusals())
    add(router, f"{PREFIX}/formats", "GET", about.formats, said(
        listed("formats", thing(name=text, label=text, extension=text, type=text, sound={"type": "boolean"})),
        "Formats.") | refusals())
    add(router, f"{PREFIX}/schema", "GET", about.schema, said(anything, "A JSON schema.") | refusals())
    add(router, f"{PREFIX}/plan", "POST", about.plan, said(plan, "Bytes, and a sentence about them.") | refusals(413),
        **body(True, json=words.settings(), multipart=words.form()))
    add(router, f"{PREFIX}/doctor", "GET", about.doctor, said(
        thing(well={"type": "boolean"}, text=text, sections={"type": "array"}), "What was found.") | refusals())


def add_downloads(router: APIRouter, downloads: Downloads) -> None:
    count, text, base = schema.COUNT, schema.TEXT, f"{PREFIX}/downloads"
    item = thing(name=text, about=text, licence=text, size=count, state=text, stage=text, file=text, done=count,
                 total=count, speed=schema.NUMBER, error=text)
    consent = {"type": "object", "required": ["accept_licence"], "properties": {"accept_licence": {"type": "boolean"}}}
    add(router, base, "GET", downloads.list, said(listed("downloads", item), "Known models.") | refusals())
    add(router, f"{base}/{{name}}", "GET", downloads.get, said(item, "How far it is.") | refusals(404))
    add(router, f"{base}/{{name}}", "POST", downloads.start, said(item, "It has begun.", 202) | refusals(404, 413, 502),
        requestBody={"required": True, "content": {"application/json": {
            "schema": consent, "example": {"accept_licence": True}}}})
    add(router, f"{base}/{{name}}/cancel", "POST", downloads.cancel, said(item, "It ends within a moment.")
        | refusals(404))


def add_drop_in(router: APIRouter, old: DropIn, words: Words) -> None:
    text, many = schema.TEXT, {"type": "array", "items": schema.TEXT}
    version = said(thing(version=text), "A version.") | refusals()
    run = thing(mp4s=many, seeds={"type": "array", "items": schema.COUNT}, infotexts=many, paths=many,
                parameters={"type": "object"}, info=text, warnings=many, job_id=text, task=text, status_url=text)
    add(router, "/t2v/run", "POST", old.t2v_run, said(run, "Films as data URIs.") | refusals(409, 413, 429, 507),
        tag=OLD_TAG, parameters=dropin.parameters(words), **body(
            False, json=dropin.form(words, False), multipart=dropin.form(words, True), form=dropin.form(words, False)))
    add(router, "/t2v/version", "GET", old.t2v_version, version, tag=OLD_TAG)
    add(router, "/t2v/api_version", "GET", old.t2v_api_version, version, tag=OLD_TAG)
