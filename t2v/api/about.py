"""What there is to choose from, what a film would need, how things are, and models fetched from the hub."""

import threading
from dataclasses import asdict, fields
from typing import Any

from fastapi import Request, Response

import t2v
from t2v import doctor, download
from t2v.api.access import Access
from t2v.api.files import Inbox, public, publisher
from t2v.api.orders import filled_of, order
from t2v.api.routes import SLOW, Refusal, answer, aside
from t2v.api.schema import Words
from t2v.api.service import Service
from t2v.api.v1 import Calls, prepared
from t2v.errors import DownloadError, ModelError
from t2v.models import catalog
from t2v.needs import need
from t2v.request import VideoRequest
from t2v.sampling import SAMPLERS
from t2v.upscale import upscalers
from t2v.verdict import sentence
from t2v.video import FORMATS


class About(Calls):
    """The routes that tell, and change nothing."""

    def __init__(self, service: Service, access: Access, words: Words, drop_in: str) -> None:
        super().__init__(service, access)
        self.words, self.drop_in = words, drop_in

    async def version(self, request: Request) -> Response:
        """Versions, and whether /t2v/run is ours."""
        self.caller(request)
        return await answer({"version": t2v.__version__, "api": "1", "host": self.host.name, "drop_in": self.drop_in,
                             "environment": dict(self.host.environment)})

    async def models(self, request: Request) -> Response:
        """The models there are, what they are made for, or what is wrong with them."""
        self.caller(request)
        return await answer({"models": await aside(self.all_models)})

    def all_models(self) -> list[dict[str, Any]]:
        folders = self.host.model_folders
        return [{"name": name, **self.described(path)} for name, path in catalog.find_models(folders).items()]

    def described(self, path: Any) -> dict[str, Any]:
        try:
            found = catalog.describe(path, self.host.model_folders)
        except ModelError as error:
            return {"problem": public(str(error), self.host)}
        defaults = {name: found[name] for name in found if name in {spec.name for spec in fields(VideoRequest)}}
        return {"defaults": defaults, **{name: found[name] for name in ("card", "kind", "precision", "size", "hash")},
                "notes": list(found["notes"]), "problem": ""}

    async def samplers(self, request: Request) -> Response:
        """The samplers, by the names that a request takes."""
        self.caller(request)
        return await answer({"samplers": [{"name": name, "takes_eta": sampler.takes_eta,
                                           "evaluations": sampler.evaluations} for name, sampler in SAMPLERS.items()]})

    async def upscalers(self, request: Request) -> Response:
        """The ways to enlarge a film between two passes, those of the web UI among them."""
        self.caller(request)
        return await answer({"upscalers": [{"name": name} for name in upscalers(self.host)]})

    async def formats(self, request: Request) -> Response:
        """The file formats of films."""
        self.caller(request)
        return await answer({"formats": [
            {"name": name, "label": kind.label, "extension": kind.extension or ".zip", "sound": kind.sound,
             "type": kind.mime if kind.extension else "application/zip"} for name, kind in FORMATS.items()]})

    async def schema(self, request: Request) -> Response:
        """Every setting of a film as a JSON schema."""
        self.caller(request)
        return await answer(self.words.settings())

    async def plan(self, request: Request) -> Response:
        """What a film would need, without making it."""
        self.caller(request)
        sent = await self.sent(request)
        try:
            return await answer(await aside(self.planned, sent))
        finally:
            sent.close()

    def planned(self, sent: Any) -> dict[str, Any]:
        inbox = Inbox(self.service.uploads)
        try:
            asked = order(prepared(sent, inbox), self.host, inbox)
        finally:
            inbox.close()
        request, found, memory = filled_of(asked, self.host), need(asked, self.host), self.host.memory
        clean = publisher(self.host)
        return {"request": {name: clean(value) if isinstance(value, str) else value
                            for name, value in asdict(request).items()},
                "needed": found.device if found else None, "weights": found.weights if found else None,
                "peaks": dict(found.peaks) if found else {}, "plan": str(found) if found else "",
                "free": memory.free if memory else None, "total": memory.total if memory else None,
                "verdict": sentence(found, self.host) if found else ""}

    async def doctor(self, request: Request) -> Response:
        """Everything looked at: files, versions, memory, disk."""
        self.caller(request)
        report = await aside(doctor.examine, None, self.host, pool=SLOW)
        return await answer({"well": report.well, "text": report.text, "sections": asdict(report)["sections"]})


class Errand(download.Errand):
    """A download, and what has become of it."""

    @property
    def state(self) -> str:
        if self.thread.is_alive():
            return "running"
        return "cancelled" if self.stopped else "failed" if self.error else "done"


class Downloads(Calls):
    """Known models, fetched when a person asks and accepts the licence."""

    def __init__(self, service: Service, access: Access) -> None:
        super().__init__(service, access)
        self.errands: dict[str, Errand] = {}
        self.turn = threading.Lock()

    async def list(self, request: Request) -> Response:
        """The models that can be fetched, and how far those are that are on their way."""
        self.caller(request)
        return await answer({"downloads": [self.told(model) for model in download.known()]})

    async def get(self, request: Request, name: str) -> Response:
        """How far a download is."""
        self.caller(request)
        return await answer(self.told(known(name)))

    async def start(self, request: Request, name: str) -> Response:
        """Fetches a model, once its licence is accepted."""
        self.caller(request)
        model, sent = known(name), await self.sent(request)
        sent.close()
        if sent.values.get("accept_licence") not in (True, "true"):
            raise Refusal(422, f"{model.name}: {model.size / 1e9:.1f} GB, licence {model.licence}; "
                               "accept_licence: true accepts that")
        try:
            await aside(self.begin, model)
        except DownloadError as error:
            raise Refusal(502, public(str(error), self.host)) from error
        return await answer(self.told(model), 202)

    def begin(self, model: download.Known) -> None:
        with self.turn:
            errand = self.errands.get(model.name)
            if errand is None or errand.state != "running":
                self.errands[model.name] = Errand(download.plan(model.name, self.host.model_folders[0]))

    async def cancel(self, request: Request, name: str) -> Response:
        """Ends a download; what has come by then is kept for the next one."""
        self.caller(request)
        model = known(name)
        if errand := self.errands.get(model.name):
            errand.stopped = True
        return await answer(self.told(model))

    def told(self, model: download.Known) -> dict[str, Any]:
        errand = self.errands.get(model.name)
        now = errand.now if errand else download.Progress("", "", 0, model.size, 0.0)
        return {"name": model.name, "about": model.about, "licence": model.licence, "size": model.size,
                "state": errand.state if errand else "", "stage": now.stage, "file": now.file, "done": now.done,
                "total": now.total, "speed": now.speed, "error": public(errand.error, self.host) if errand else ""}


def known(name: str) -> download.Known:
    """The model of a name. Refusal (404)."""
    for model in download.known():
        if model.name.casefold() == name.casefold():
            return model
    raise Refusal(404, f"no model called {name!r} is known")
