"""What the tab knows of films and models: names instead of paths wherever the browser has a say."""

from collections.abc import Sequence
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from threading import Thread
from typing import Any

from t2v import download
from t2v.errors import FilmError, ModelError
from t2v.jobs import Runner
from t2v.models import catalog, library
from t2v.models.configuration import Defaults
from t2v.ui import show
from t2v.ui.compat import file_url
from t2v.ui.controls import MODEL_OWNED
from t2v.upscale import upscalers
from t2v.video import FORMATS, read_infotext, recent_films

MIMES = {format.extension: format.mime for format in FORMATS.values()}
ONLY_DEMO = ("So far only the demo is here, which knows coloured shapes and nothing else. For real films put the files "
             "of damo-vilab/modelscope-damo-text-to-video-synthesis into {}, and press 🔄.")


class Library:
    """The films and models of a runner's host."""

    def __init__(self, runner: Runner) -> None:
        self.runner, self.host = runner, runner.host
        self.hashing: Thread | None = None

    # ---- films ----

    def exhibits(self, own: Sequence[show.Exhibit] = ()) -> list[show.Exhibit]:
        """`own`, and then the recent films that are not among them."""
        keys = {film.key for film in own}
        recent = [self.exhibit(path) for path in recent_films(self.outputs, self.host.settings.recent)]
        return [*own, *(film for film in recent if film.key not in keys)]

    def exhibit(self, path: Path, infotext: str | None = None) -> show.Exhibit:
        """A film for the page, which from now on may fetch it."""
        path = path.resolve()
        shown = min(path.glob("*.png"), default=path) if path.is_dir() else path
        self.host.offer(shown)
        kind = "folder" if path.is_dir() else MIMES.get(path.suffix, "").partition("/")[0]
        text = carried(path, path.stat().st_mtime_ns) if infotext is None else infotext
        place = "" if self.host.private_folders else str(path)
        return show.Exhibit(self.key(path), path.name, file_url(shown), kind, text, place)

    @property
    def outputs(self) -> Path:
        return self.host.outputs.resolve()

    def key(self, path: Path) -> str:
        """What the browser calls a film."""
        return path.relative_to(self.outputs).as_posix() if path.is_relative_to(self.outputs) else path.name

    def path_of(self, key: str) -> Path:
        """The film that the browser calls `key`: one of ours, or FilmError."""
        if not key:
            raise FilmError("There is no film in the player yet; make one, or choose one of the strip")
        path = self.outputs / key.replace("\0", "")
        if not path.resolve().is_relative_to(self.outputs) or not path.exists():
            raise FilmError(f"{key}: this film is not there any more")
        return path

    def infotext_of(self, key: str) -> str:
        """The settings of one of our films, also where the file itself carries none."""
        path = self.path_of(key)
        made = {film.path.resolve(): film.infotext for job in self.runner.jobs.values() for film in job.films}
        return made.get(path.resolve()) or read_infotext(path)

    def uploaded_infotext(self, path: Path) -> str:
        """The settings that an upload carries. Where it lies for the moment is nothing to bother people with."""
        try:
            return read_infotext(path)
        except FilmError as error:
            raise FilmError(str(error).replace(str(path), path.name)) from error

    # ---- models ----

    def models(self) -> list[str]:
        return list(catalog.find_models(self.host.model_folders))

    def loras(self) -> list[str]:
        """Names of the LoRAs that are there; whether one fits the model shows when it is used."""
        return list(library.files(self.host.lora_folders))

    def upscalers(self) -> list[str]:
        """Names of the ways to enlarge a film, the host's own among them."""
        return list(upscalers(self.host))

    def known(self) -> list[str]:
        """Names of the models that can be fetched."""
        return [model.name for model in download.known()]

    def look_up_hashes(self) -> None:
        """Has the hash of every model looked up in the background, for the next card that is shown."""
        if self.hashing is None or not self.hashing.is_alive():
            self.hashing = catalog.look_up_hashes(self.host.model_folders)

    def first_choice(self) -> str:
        """The first real model, else the demo."""
        return next((name for name in self.models() if name != catalog.DEMO.name), catalog.DEMO.name)

    def defaults(self, model: str) -> dict[str, Any]:
        """What a model chooses for the settings it owns; as published, where it is broken or gone."""
        try:
            described = self.described(catalog.find_models(self.host.model_folders)[model])
        except (KeyError, ModelError):
            described = asdict(Defaults())
        return {name: described.get(name) for name in MODEL_OWNED}

    def card(self, model: str) -> str:
        """What a model is, in words, or what is wrong with it."""
        found = catalog.find_models(self.host.model_folders)
        if model not in found:
            return show.card(model, {}, problem=f"There is no model {model!r} any more.")
        hint = "" if set(found) > {catalog.DEMO.name} else ONLY_DEMO.format(
            self.public(str(self.host.model_folders[0].absolute() / "t2v")))
        try:
            return show.card(model, self.described(found[model]), hint=hint)
        except ModelError as error:
            return show.card(model, {}, problem=self.public(str(error)))

    def described(self, folder: Path) -> dict[str, Any]:
        """What is to know of the model in a folder; what it lacks is looked for in the models around it."""
        return catalog.describe(folder, self.host.model_folders)

    # ---- what may be said ----

    def public(self, words: str) -> str:
        """`words`, without the folders of this machine where they are nobody's business."""
        if self.host.private_folders:
            for folder in sorted([self.outputs, *self.host.model_folders], key=lambda path: -len(str(path))):
                words = words.replace(str(folder), folder.name)
        return words


@lru_cache(maxsize=256)
def carried(path: Path, changed: int) -> str:  # noqa: ARG001
    """The settings in a film, "" where it has none; `changed` tells one state of the file from the next."""
    try:
        return read_infotext(path)
    except FilmError:
        return ""
