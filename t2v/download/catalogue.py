"""The models that can be fetched by name; what is to know of them stands in known_models.json."""

import json
from dataclasses import dataclass
from pathlib import Path

from t2v.errors import RequestError

FILE = Path(__file__).parent / "known_models.json"


@dataclass(frozen=True)
class Listed:
    """A file of a known model: its size in bytes, roughly, and where it is known its sha256."""

    size: int
    sha256: str = ""


@dataclass(frozen=True)
class Known:
    """A model that can be fetched by its name."""

    name: str
    about: str
    repository: str
    folder: str
    licence: str
    files: dict[str, Listed]

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files.values())


def known() -> list[Known]:
    """Every model of the catalogue."""
    entries = json.loads(FILE.read_text(encoding="utf-8"))
    return [Known(**{**entry, "name": name, "files": {file: Listed(**of) for file, of in entry["files"].items()}})
            for name, entry in entries.items()]


def find(name: str) -> Known:
    """The known model called `name`, in whatever case. RequestError if there is none."""
    models = {model.name.casefold(): model for model in known()}
    if name.casefold() not in models:
        raise RequestError("model", f"no model called {name!r} is known; known are "
                                    f"{', '.join(model.name for model in models.values())}")
    return models[name.casefold()]
