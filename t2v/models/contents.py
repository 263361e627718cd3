"""What a model folder holds, told by what is in its files and not by their names.

torch and safetensors write the names of the weights before the numbers, so the first MiB of a file tells whose
weights it has, for a fraction of a millisecond and without touching a tensor. Files are looked at once, and again
when they have changed.
"""

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from torch import nn

from t2v.errors import ModelError
from t2v.models.autoencoder import AutoencoderKL
from t2v.models.dialects import DIALECTS
from t2v.models.disk import head_of
from t2v.models.text import TextTower
from t2v.models.torchfile import ZIP_MAGIC
from t2v.models.unet import UNet3D
from t2v.models.variants import variant_of

LOOK = 2**20  # bytes; a directory of 2,000 weights has some 500,000
MAX_FILES = 64  # weight files in one folder; a folder with more is some program's collection, and no model
SUFFIXES = (".safetensors", ".pth", ".ckpt", ".bin", ".pt")
LARGE = 2**20  # bytes; a file of another suffix is only looked at from here on
HOMES: dict[type[nn.Module], tuple[str, ...]] = {  # folders in which diffusers and ComfyUI keep networks
    UNet3D: ("unet",), AutoencoderKL: ("vae",), TextTower: ("text_encoder", "text_encoders", "clip")}
OTHER_LATENTS = re.compile(r"xl|flux|sd3|sd_3|cascade|video", re.IGNORECASE)  # autoencoders that look like ours
STRANGERS = (".lora_", "conditioner.embedders.")  # LoRAs, and Stable Diffusion XL, whose autoencoder looks like ours
SMALL_TOWER = "cond_stage_model.transformer."  # of Stable Diffusion 1: another text tower, beside the same autoencoder
PRECISIONS = {
    "fp16": ('"F16"', "HalfStorage"), "bf16": ('"BF16"', "BFloat16Storage"), "fp32": ('"F32"', "FloatStorage")}


class Look(NamedTuple):
    """What the first bytes of a file tell."""

    networks: frozenset[type[nn.Module]] = frozenset()  # whose weights it has
    precision: str = ""
    pickled: bool = False
    videocrafter: bool = False
    parts: frozenset[str] = frozenset()  # names of the files that an index speaks of


@dataclass(frozen=True)
class Contents:
    """The weight files of a model: of a folder and of those in it where diffusers puts networks, or one by itself."""

    path: Path
    files: tuple[Path, ...]

    @property
    def folder(self) -> Path:
        """Where its files are."""
        return self.path.parent if self.path in self.files else self.path

    def holding(self, kind: type[nn.Module]) -> list[Path]:
        """The files with weights of a network of this `kind`, the best first.

        What lies where it belongs goes before what does not, a network by itself before a whole checkpoint,
        safetensors before pickles, the smaller precision before the larger.
        """
        def rank(path: Path) -> tuple[object, ...]:
            seen = look(path)
            return (path.parent.name not in HOMES[kind], len(seen.networks), seen.pickled, size_of(path), path.name)

        return sorted((path for path in self.files if kind in look(path).networks), key=rank)


def contents(path: Path) -> Contents:
    """What is in a model folder, or in a single file."""
    if path.is_file():
        return Contents(path, (path,))
    homes = sorted({home for names in HOMES.values() for home in names})
    return Contents(path, tuple(file for folder in (path, *(path / home for home in homes))
                                for file in weight_files(folder)))


def weight_files(folder: Path) -> list[Path]:
    """The files in a folder that may hold weights, in the order of their names; the parts of one only as its index."""
    try:
        with os.scandir(folder) as entries:
            found = sorted(Path(entry.path) for entry in entries if _may_hold_weights(entry))
    except (OSError, ValueError):
        return []
    parts = {name for path in found if path.suffix == ".json" for name in look(path).parts}
    own = [path for path in found if path.suffix == ".json" or path.name not in parts]
    return own if len(found) <= MAX_FILES else []


def _may_hold_weights(entry: os.DirEntry[str]) -> bool:
    suffix = os.path.splitext(entry.name)[1].lower()
    usual = suffix in SUFFIXES or (suffix == ".json" and ".index." in entry.name)
    try:
        return entry.is_file() and (usual or (suffix != ".json" and entry.stat().st_size >= LARGE))
    except OSError:
        return False


def look(path: Path) -> Look:
    """What the first bytes of a file tell; nothing where it cannot be read."""
    try:
        status = path.stat()
        return _look(path, status.st_size, status.st_mtime_ns)
    except (OSError, ValueError, ModelError):
        return Look()


@lru_cache(maxsize=4096)
def _look(path: Path, _size: int, _changed: int) -> Look:
    head = head_of(path, LOOK)
    text = directory(head).decode("latin-1")
    index, safetensors = path.suffix == ".json", head[8:9] == b"{"
    if any(sign in text for sign in STRANGERS) or not (index or safetensors or head.startswith((ZIP_MAGIC, b"\x80"))):
        return Look()
    found = [kind for kind, dialects in DIALECTS.items()
             if any(all(sign in text for sign in dialect.signs) for dialect in dialects)
             and not (kind is TextTower and SMALL_TOWER in text)]
    counts = {name: sum(map(text.count, signs)) for name, signs in PRECISIONS.items()}
    return Look(
        frozenset(found),
        max(counts, key=lambda name: counts[name]) if any(counts.values()) else "",
        pickled=".safetensors" not in text if index else not safetensors,
        videocrafter="init_attn." in text,
        parts=frozenset(re.findall(r':\s*"([^"]+)"', text)) if index else frozenset(),
    )


def directory(head: bytes) -> bytes:
    """The names at the beginning of a file, without the numbers behind them where their place is known."""
    if head.startswith(ZIP_MAGIC):
        end = head.find(ZIP_MAGIC, max(0, head.find(b"data.pkl")))
        return head[:end] if end > 0 else head
    if head[8:9] == b"{":
        return head[: 8 + int.from_bytes(head[:8], "little")]
    return head


def parts_of(path: Path) -> list[Path]:
    """The files that an index speaks of; otherwise the file itself."""
    return [path.with_name(part) for part in sorted(look(path).parts) if part == Path(part).name] or [path]


def size_of(path: Path) -> int:
    """Bytes in a file, or in its parts; those that are gone count nothing."""
    return sum(os.path.getsize(part) for part in parts_of(path) if os.path.isfile(part))


def precision_of(path: Path) -> str:
    """The precision of most weights in a file: fp16, bf16 or fp32; "" where that cannot be told."""
    return look(parts_of(path)[0]).precision


def subfolders(parent: Path) -> list[Path]:
    """The folders in `parent` in the order of their names, but for hidden ones; none where it is no folder, or is
    not ours to read."""
    try:
        return sorted(folder for folder in parent.iterdir() if folder.is_dir() and not folder.name.startswith("."))
    except OSError:
        return []


def neighbours(found: Contents, folders: Iterable[Path]) -> Iterator[Contents]:
    """Other models, in the folders around this one and in `folders`."""
    parents = dict.fromkeys([*([found.folder] if found.path != found.folder else []), found.folder.parent, *folders])
    for parent in parents:
        for folder in subfolders(parent):
            if folder != found.path:
                other = contents(folder)
                if other.holding(UNet3D):
                    yield other


def stand_ins(found: Contents, kind: type[nn.Module], folders: Iterable[Path]) -> Iterator[Path]:
    """Files elsewhere that may do for the network of this `kind` that a model has not: beside a file that lies there
    by itself, in other models, and where the programs around us keep autoencoders and text towers."""
    folders = list(folders)
    if found.path != found.folder:
        yield from Contents(found.folder, tuple(weight_files(found.folder))).holding(kind)
    for other in neighbours(found, folders):
        variant = variant_of(other.path)
        if not (kind is TextTower and variant and variant.own_text):
            yield from other.holding(kind)
    homes = {home for name in HOMES[kind] for home in (name, name.upper())}
    for parent in dict.fromkeys([found.folder.parent, found.folder.parent.parent, *folders]):
        for folder in subfolders(parent):
            if folder.name in homes:
                yield from (path for path in Contents(folder, tuple(weight_files(folder))).holding(kind)
                            if not OTHER_LATENTS.search(path.name))
