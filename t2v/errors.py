"""What can go wrong, in words for the person in front of the screen.

    T2VError
    ├── RequestError    a setting is out of range, or two settings do not go together
    ├── ModelError      a weight file or model folder is missing, damaged or of another kind
    ├── MemoryShortage  the device or the machine has too little memory for the request
    ├── FilmError       a film cannot be written, or cannot be read
    └── DownloadError   a model cannot be fetched

The core raises these and nothing else of its own; only the edges (command line, API, tab) catch them.
An interrupt is an outcome, not an error: `generate` then returns the film as far as it got.
"""

from pathlib import Path


class T2VError(Exception):
    """Anything this package raises on purpose; `str(error)` is one line that a user can act on."""

    def __str__(self) -> str:
        return " ".join(super().__str__().split())


class RequestError(T2VError):
    """A setting is not acceptable. `field` is the name in `VideoRequest`, or "" where several are meant."""

    def __init__(self, field: str, problem: str) -> None:
        self.field, self.problem = field, problem
        super().__init__(f"{field}: {problem}" if field else problem)


class ModelError(T2VError):
    """A model cannot be used: which file, what is wrong with it, and what to do."""

    def __init__(self, path: Path | str, problem: str, remedy: str = "") -> None:
        self.path, self.problem, self.remedy = Path(path), problem, remedy
        super().__init__(f"{path}: {problem}." + (f" {remedy}." if remedy else ""))


class MemoryShortage(T2VError):
    """Too little memory; the message says what was needed, what there was, and what would fit."""


class FilmError(T2VError):
    """A film cannot be written or read; the message names the file."""


class DownloadError(T2VError):
    """A model cannot be fetched; the message says why, what is kept of it, and what to do."""
