"""Jobs for callers: whose they are, which call they came from, and what stays of them when they are over."""

import hashlib
import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from t2v.api.files import Inbox, hidden, sweep
from t2v.api.history import Facts, History
from t2v.api.orders import order
from t2v.api.routes import Refusal
from t2v.api.status import facts_of, id_of, task_of
from t2v.jobs import QUEUE, Job, Runner, State

STATES = [state.value for state in State]
BUSY = {"Retry-After": "30"}


@dataclass
class Order:
    """Where a job comes from."""

    owner: str = ""
    key: str = ""
    fingerprint: str = ""
    inbox: Inbox | None = None
    warnings: list[str] = field(default_factory=list)


class Service:
    """The jobs of a runner, those of earlier runs included."""

    def __init__(self, runner: Runner) -> None:
        self.runner, self.host = runner, runner.host
        self.uploads = hidden(self.host) / "uploads"
        sweep(self.uploads)
        self.history = History(hidden(self.host) / "jobs.sqlite3")
        self.turn = threading.Lock()  # so that two calls with one key make one film
        runner.listeners.append(self.note)

    def close(self) -> None:
        """Listens no more, and lets go of the list of jobs."""
        self.runner.listeners.remove(self.note)
        self.history.close()

    def note(self, job: Job) -> None:
        """Something about a job is new, whoever submitted it."""
        order = job.origin if isinstance(job.origin, Order) else Order()
        self.history.save(facts_of(job, order.owner, order.warnings), order.key, order.fingerprint)
        if job.over and order.inbox is not None:
            order.inbox.close()

    def submit(self, prepare: Callable[[Inbox], Mapping[str, Any]], origin: Order) -> tuple[str, bool]:
        """The id of the job that makes what `prepare` says, and whether it is a new one. Uploads go to the inbox.

        RequestError, ModelError; Refusal where too many wait, or a key was used for something else.
        """
        inbox = Inbox(self.uploads)
        try:
            values = prepare(inbox)
            origin.fingerprint = fingerprint(values, inbox)
            id = self.known(origin) or self.begin(values, origin, inbox)
        except BaseException:
            inbox.close()
            raise
        if origin.inbox is not inbox:
            inbox.close()
        return id, origin.inbox is inbox

    def begin(self, values: Mapping[str, Any], origin: Order, inbox: Inbox) -> str:
        """A new job, unless another call with the same key has been faster."""
        request = order(values, self.host, inbox)
        with self.turn:
            if known := self.known(origin):
                return known
            waiting = len(self.runner.waiting)
            if waiting >= min(self.host.settings.api_queue, QUEUE):
                raise Refusal(429, f"{waiting} films are waiting already; try again when some are done", BUSY)
            origin.inbox = inbox
            return id_of(self.runner.submit(request, origin))

    def known(self, order: Order) -> str:
        """The job that was submitted under the same key before; "" if none was."""
        found = self.history.find(order.owner, order.key) if order.key else None
        if found is None:
            return ""
        if found[1] != order.fingerprint:
            raise Refusal(422, "this Idempotency-Key was used for another request; take a new one")
        return found[0]

    def job(self, id: str) -> Job | None:
        """The job itself, as long as this program knows it."""
        return self.runner.jobs.get(task_of(id))

    def facts(self, id: str, caller: str) -> Facts:
        """What is known of one of the caller's jobs. Refusal (404) where it is nobody's, or somebody else's."""
        job = self.job(id)
        order = job.origin if job is not None and isinstance(job.origin, Order) else Order()
        facts = facts_of(job, order.owner, order.warnings) if job is not None else self.history.get(id)
        if facts is None or (caller and facts["owner"] != caller):
            raise Refusal(404, f"there is no job {id!r}")
        return facts

    def jobs(self, caller: str, state: str, limit: int, offset: int) -> list[Facts]:
        """The caller's jobs, the newest first."""
        return self.history.list(caller or None, [state] if state else STATES, limit, offset)

    def interrupt(self, id: str, caller: str) -> None:
        """Ends one of the caller's jobs, if it is not over yet."""
        self.facts(id, caller)
        self.runner.interrupt(self.job(id))

    def delete(self, id: str, caller: str) -> None:
        """Forgets one of the caller's jobs. Refusal (409) while it is not over."""
        facts, job = self.facts(id, caller), self.job(id)
        if job is not None and not self.runner.drop(job):
            raise Refusal(409, f"the job is {facts['state']}; cancel it first")
        self.history.delete(id)


def fingerprint(values: Mapping[str, Any], inbox: Inbox) -> str:
    """The same for the same request, wherever its uploads lie."""
    text = json.dumps(dict(values), sort_keys=True, default=str).replace(inbox.folder.name, "")
    digest = hashlib.sha256(text.encode())
    for path in sorted(inbox.folder.iterdir()) if inbox.folder.exists() else ():
        digest.update(path.read_bytes())
    return digest.hexdigest()


