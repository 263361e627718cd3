"""Jobs that outlive the program: a row each in a small database beside the films.

What is not over when the program begins was cut off when it last ended. Where the database cannot be kept, the list
lasts as long as the program; no film fails over it.
"""

import json
import logging
import sqlite3
import threading
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)
KEPT = 10_000  # jobs
CUT = "the server stopped before this was done"
TABLE = """
    CREATE TABLE IF NOT EXISTS jobs (
        number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT UNIQUE NOT NULL, owner TEXT NOT NULL, state TEXT NOT NULL,
        key TEXT, fingerprint TEXT NOT NULL, facts TEXT NOT NULL);
    CREATE INDEX IF NOT EXISTS keys ON jobs (owner, key);
"""
Facts = dict[str, Any]


class History:
    """What is known of jobs, the ones of earlier runs too. Any thread may ask."""

    def __init__(self, path: Path) -> None:
        self.lock = threading.Lock()
        self.base = opened(path)
        self.end_those_cut_off()

    def end_those_cut_off(self) -> None:
        """Jobs that were queued or running when the program ended will never be done."""
        with self.lock, self.base:
            rows = self.base.execute("SELECT facts FROM jobs WHERE state IN ('queued', 'running')").fetchall()
            for (text,) in rows:
                facts = json.loads(text) | {"state": "interrupted", "error": CUT}
                self.base.execute("UPDATE jobs SET state = ?, facts = ? WHERE id = ?",
                                  (facts["state"], json.dumps(facts), facts["id"]))

    def save(self, facts: Facts, key: str = "", fingerprint: str = "") -> None:
        """A job as it stands."""
        with self.lock, self.base:
            self.base.execute(
                "INSERT INTO jobs (id, owner, state, key, fingerprint, facts) VALUES (?, ?, ?, ?, ?, ?) "
                "ON CONFLICT (id) DO UPDATE SET state = excluded.state, facts = excluded.facts",
                (facts["id"], facts["owner"], facts["state"], key or None, fingerprint, json.dumps(facts)))
            self.base.execute("DELETE FROM jobs WHERE number <= (SELECT MAX(number) FROM jobs) - ?", (KEPT,))

    def get(self, id: str) -> Facts | None:
        """A job by its id."""
        with self.lock:
            row = self.base.execute("SELECT facts FROM jobs WHERE id = ?", (id,)).fetchone()
        return json.loads(row[0]) if row else None

    def find(self, owner: str, key: str) -> tuple[str, str] | None:
        """Id and fingerprint of the job that somebody submitted under a key."""
        with self.lock:
            return self.base.execute("SELECT id, fingerprint FROM jobs WHERE owner = ? AND key = ?",
                                     (owner, key)).fetchone()

    def list(self, owner: str | None, states: Iterable[str], limit: int, offset: int) -> list[Facts]:
        """Jobs, the newest first; of one owner or, None, of all."""
        wanted = list(states)
        with self.lock:
            rows = self.base.execute(
                f"SELECT facts FROM jobs WHERE (? IS NULL OR owner = ?) AND state IN ({', '.join('?' * len(wanted))}) "
                "ORDER BY number DESC LIMIT ? OFFSET ?", (owner, owner, *wanted, limit, offset)).fetchall()
        return [json.loads(text) for (text,) in rows]

    def delete(self, id: str) -> None:
        """Forgets a job. Its films stay."""
        with self.lock, self.base:
            self.base.execute("DELETE FROM jobs WHERE id = ?", (id,))

    def close(self) -> None:
        with self.lock:
            self.base.close()


def opened(path: Path) -> sqlite3.Connection:
    """The database at `path`; a new one where that is damaged, and one in memory where it cannot be kept."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return prepared(str(path))
    except sqlite3.DatabaseError as error:
        if not isinstance(error, sqlite3.OperationalError):
            log.warning("%s is damaged (%s); a new list of jobs is begun, the old one kept beside it", path, error)
            with suppress(OSError):
                path.replace(path.with_suffix(".damaged"))
                return prepared(str(path))
        log.warning("%s cannot be kept (%s); the list of jobs ends with the program", path, error)
    except OSError as error:
        log.warning("%s cannot be kept (%s); the list of jobs ends with the program", path, error)
    return prepared(":memory:")


def prepared(name: str) -> sqlite3.Connection:
    """An open database with its table."""
    base = sqlite3.connect(name, check_same_thread=False, timeout=10)
    try:
        base.executescript(TABLE)
        base.execute("SELECT COUNT(*) FROM jobs")
    except sqlite3.DatabaseError:
        base.close()
        raise
    return base
