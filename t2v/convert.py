"""Writes a model again in another layout: smaller, faster to open, or for other programs.

Tensors go from file to file in blocks, so that no model is too large. The folder appears under its name once it is
whole and has been read back, never in the place of another; what is read is not changed.
"""

import gc
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from t2v.errors import ModelError, RequestError
from t2v.models import Model, catalog
from t2v.models.checkpoint import sample
from t2v.models.export import LAYOUTS, Export
from t2v.models.torchfile import gigabytes
from t2v.models.writing import size_of, write_safetensors, write_torch

PRECISIONS: dict[str, torch.dtype | None] = {"fp16": torch.float16, "keep": None}
RESERVE = 100 * 2**20  # bytes of disk that a conversion leaves to others


class Watch:
    """How a caller follows a conversion. Setting `stopped` ends it within a moment, and nothing is kept."""

    stopped = False

    def tick(self, done: int, total: int) -> None:
        """`done` of `total` bytes are written."""


class Stopped(Exception):
    """Unwinds a conversion that its watch has stopped."""


@dataclass
class Progress:
    """Counts what is written."""

    watch: Watch
    total: int
    done: int = 0

    def wrote(self, size: int) -> None:
        self.done += size
        self.watch.tick(self.done, self.total)
        if self.watch.stopped:
            raise Stopped


def convert(model: Model, target: Path, layout: str = "compact", precision: str = "fp16",
            folders: Iterable[Path] = (), watch: Watch | None = None) -> Path | None:
    """Writes `model` to the new folder `target` in one of LAYOUTS and PRECISIONS; None if the watch stopped it.

    `folders` are those that the model was opened with: what it lacked may have come from there.
    Raises RequestError where there is something at `target` or a name is unknown, and ModelError where the layout has
    no words for the model or the disk no room.
    """
    for field, name, known in (("to", layout, LAYOUTS), ("precision", precision, PRECISIONS)):
        if name not in known:
            raise RequestError(field, f"there is no {name!r}; there are: {', '.join(known)}")
    export, dtype = LAYOUTS[layout](model, catalog.configured(model.folder, folders)), PRECISIONS[precision]
    total = sum(size_of(tensor, dtype) for state in export.weights.values() for tensor in state.values())
    try:
        with staged(target, total) as folder:
            write(export, folder, dtype, Progress(watch or Watch(), total))
            check(folder, model, dtype)
    except Stopped:
        return None
    return target


@contextmanager
def staged(target: Path, size: int) -> Iterator[Path]:
    """A hidden folder beside `target`, which takes that name at the end of the block; or is gone, if it fails."""
    hidden = target.parent / f".{target.name}.{secrets.token_hex(4)}.convert"
    if os.path.lexists(target):
        raise RequestError("target", f"{target} is there already; choose another name, nothing is overwritten")
    try:
        hidden.mkdir(parents=True)
        free = shutil.disk_usage(hidden).free
        if size + RESERVE > free:
            raise ModelError(target, f"needs {gigabytes(size)}, and the disk has {gigabytes(free)} free",
                             "Make room, or choose another disk")
        yield hidden
        hidden.rename(target)
    except OSError as error:
        raise ModelError(target, f"cannot be written ({error.strerror or error})",
                         "Look at its permissions and at the disk") from error
    finally:
        shutil.rmtree(hidden, ignore_errors=True)


def write(export: Export, folder: Path, dtype: torch.dtype | None, progress: Progress) -> None:
    """Writes the files of `export`, the texts last: without them, nobody takes the folder for a model."""
    for name, state in export.weights.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        writer = write_safetensors if path.suffix == ".safetensors" else write_torch
        writer(path, state, dtype, progress.wrote)
        with path.open("r+b") as file:
            os.fsync(file.fileno())
    for name, text in export.texts.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8", newline="\n")


def check(folder: Path, model: Model, dtype: torch.dtype | None) -> None:
    """Reads back what was written and compares. ModelError where another model would come of it."""
    again = catalog.load_model(folder, model.name)
    differs = [part for part in ("unet", "vae", "text")
               if not same(getattr(model, part), getattr(again, part), dtype)]
    schedules = model.schedule, again.schedule
    if schedules[0].prediction != schedules[1].prediction or not all(
            torch.equal(getattr(schedules[0], table), getattr(schedules[1], table)) for table in ("alphas", "sigmas")):
        differs.append("schedule")
    if model.defaults != again.defaults:
        differs.append("defaults")
    if differs:
        raise ModelError(model.folder, f"does not survive this layout ({', '.join(differs)})", "Choose another layout")
    del again  # Windows renames no folder of which a file is still mapped
    gc.collect()


def same(network: nn.Module, again: nn.Module, dtype: torch.dtype | None) -> bool:
    """Whether `again` has what it reads from the weights of `network` brought to `dtype`, as far as samples tell."""
    before = network.state_dict()
    return all(torch.equal(sample(before[name]).to(dtype or tensor.dtype), sample(tensor))
               for name, tensor in again.state_dict().items())
