"""A job as JSON: facts that are kept, and what only a living job can tell."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from t2v.api.files import publisher
from t2v.api.history import Facts
from t2v.jobs import Job, Runner, State
from t2v.video import FORMATS

KEPT = ("id", "state", "created", "started", "ended", "items", "request", "warnings")  # as they are
PREFIX, JOBS = "/t2v/v1", "/t2v/v1/jobs"


def id_of(job: Job) -> str:
    """The name of a job in URLs: that of its task in a web UI, without the brackets."""
    return job.id.removeprefix("task(").removesuffix(")")


def task_of(id: str) -> str:
    """The name of a job's task."""
    return f"task({id})"


def facts_of(job: Job, owner: str, warnings: list[str]) -> Facts:
    """What is worth keeping of a job. Paths are as they are on this machine."""
    public = publisher(job.host)
    request = {name: public(value) if isinstance(value, str) else value
               for name, value in asdict(job.request).items()}
    films = [{"path": str(film.path), "format": film.request.format, "seed": film.request.seed,
              "infotext": public(film.infotext), "seconds": round(film.seconds, 2),
              "interrupted": film.interrupted} for film in list(job.films)]
    notes = [note for film in list(job.films) for note in film.notes]
    return {"id": id_of(job), "owner": owner, "state": job.state.value, "error": job.error,
            "fault": job.fault.__name__ if job.fault else "", "created": job.created, "started": job.started or None,
            "ended": job.ended or None, "items": job.items, "request": request, "films": films,
            "warnings": [*warnings, *dict.fromkeys(notes)]}


def status(facts: Facts, runner: Runner, root: str) -> dict[str, Any]:
    """What is told of a job: to its facts, how far it is. `root` stands before our paths in URLs."""
    public, job = publisher(runner.host), runner.jobs.get(task_of(facts["id"]))
    url = f"{root}{JOBS}/{facts['id']}"
    kept = {name: facts[name] for name in KEPT}
    films = [film_of(film, f"{url}/films/{number}", public) for number, film in enumerate(facts["films"])]
    now = live(job, runner, url) if job is not None and not job.over else resting(facts)
    return {**kept, **now, "task": task_of(facts["id"]), "error": public(facts["error"]), "films": films,
            "url": url, "events": f"{url}/events"}


def live(job: Job, runner: Runner, url: str) -> dict[str, Any]:
    """How far a job is."""
    queued = job.state is State.QUEUED
    position = next((place for place, other in enumerate(runner.waiting, 1) if other is job), 0) if queued else 0
    return {"state": job.state.value, "stage": job.stage, "step": job.step, "steps": job.steps, "item": job.item,
            "progress": round(job.fraction, 4), "eta": None if job.eta is None else round(job.eta, 1),
            "position": position, "text": job.text, "preview": f"{url}/preview" if job.pictures is not None else None}


def resting(facts: Facts) -> dict[str, Any]:
    """The same of a job that is over."""
    return {"stage": "", "step": 0, "steps": 0, "item": max(len(facts["films"]) - 1, 0), "progress": 1.0, "eta": None,
            "position": 0, "text": facts["state"].capitalize(), "preview": None}


def film_of(film: Facts, url: str, public: Callable[[str], str]) -> dict[str, Any]:
    """A film as others see it."""
    name = film["path"].replace("\\", "/").rpartition("/")[2]
    packed = not FORMATS[film["format"]].extension
    return {"url": url, "name": f"{name}.zip" if packed else name,
            "type": "application/zip" if packed else FORMATS[film["format"]].mime,
            "path": public(film["path"]),
            **{key: film[key] for key in ("seed", "infotext", "seconds", "interrupted")}}
