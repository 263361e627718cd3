"""What a file in a model folder is, and whether it is whole: told by its head and its directory of tensors.

Nothing is run and hardly anything is read, so that a folder of any size is looked at in a moment. Only `hashed` reads
a file from end to end.
"""

import hashlib
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from t2v.download.catalogue import known
from t2v.errors import ModelError
from t2v.models.autoencoder import AutoencoderKL
from t2v.models.checkpoint import kind, read
from t2v.models.contents import LARGE, SUFFIXES
from t2v.models.dialects import AnyNetwork, spoken
from t2v.models.disk import head_of, read_json
from t2v.models.text import TextTower
from t2v.models.torchfile import ZIP_MAGIC, gigabytes
from t2v.models.unet import UNet3D

NAMES: dict[type[AnyNetwork], str] = {UNet3D: "UNet", AutoencoderKL: "autoencoder", TextTower: "text tower"}
PRECISIONS = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16", "float64": "fp64"}
UNFINISHED = (".crdownload", ".part", ".partial", ".download", ".opdownload", ".aria2", ".incomplete", ".tmp")
SETTINGS = ("configuration.json", "model_index.json", "config.json", "scheduler_config.json")  # which are read
LONG_JSON = 16 * 2**20  # bytes; the vocabulary of a tokenizer has one million
BLOCK = 2**22
Heed = Callable[[int], None]  # told how many bytes have just been read


@dataclass(frozen=True)
class Entry:
    """A thing looked at: what it is and, where it is not as it should be, what is wrong and what to do."""

    name: str
    what: str = ""
    problem: str = ""
    remedy: str = ""
    serious: bool = False  # whether something will not work because of it


def entry_of(path: Path, name: str) -> Entry:
    """What the file at `path` is; people read of it as `name`."""
    try:
        size = path.stat().st_size
        if path.suffix.lower() in UNFINISHED:
            return Entry(name, gigabytes(size), "is a download that was not finished", "Finish it, or delete it")
        return looked_at(path, Entry(name, gigabytes(size)), size)
    except ModelError as error:
        named = "" if error.path.name == path.name else f"{error.path.name} "
        return Entry(name, gigabytes(size), named + error.problem, error.remedy, serious=True)
    except OSError as error:
        return Entry(name, "", f"cannot be read ({error.strerror})", "Look at its permissions and at the disk", True)


def looked_at(path: Path, entry: Entry, size: int) -> Entry:
    """ModelError where a file that a model needs is broken; a file that none needs may be whatever it is."""
    if ".index." in path.name or path.suffix.lower() in SUFFIXES:
        return with_weights(entry, read_or_zip(path))
    if path.suffix.lower() == ".json":
        return with_settings(path, entry)
    if size >= LARGE or head_of(path).startswith(ZIP_MAGIC):
        with suppress(ModelError):
            return with_weights(entry, read(path))
        if packed(path):
            return replace(entry, problem="is a zip archive with a model in it", remedy="Unpack it into a folder")
    return replace(entry, what="no part of a model")


def with_settings(path: Path, entry: Entry) -> Entry:
    try:
        read_json(path, LONG_JSON)
    except ModelError as error:
        if path.name in SETTINGS:
            raise
        return replace(entry, problem=f"{error.problem}, but is not needed here either", remedy="")
    return replace(entry, what="settings")


def read_or_zip(path: Path) -> dict[str, Tensor]:
    try:
        return read(path)
    except ModelError as error:
        if head_of(path).startswith(ZIP_MAGIC) and packed(path):
            raise ModelError(path, "is a zip archive with a whole model in it, not weights",
                             "Unpack it into this folder") from error
        raise


def packed(path: Path) -> bool:
    """Whether a zip archive has model files in it."""
    with suppress(OSError, zipfile.BadZipFile, NotImplementedError, ValueError), zipfile.ZipFile(path) as archive:
        return any(name.endswith((*SUFFIXES, "configuration.json", "model_index.json")) for name in archive.namelist())
    return False


def with_weights(entry: Entry, tensors: dict[str, Tensor]) -> Entry:
    """What the weights in a file are of."""
    held = [name for network, name in NAMES.items() if spoken(list(tensors), network)[0] is not None]
    kept = precision(tensors.values())
    facts = f"{kept}, {len(tensors):,} tensors, {entry.what}"
    if held:
        coarse = ("has 8 bits a number, and films lose by it", "Take fp16 if there is room") if "fp8" in kept else ()
        return Entry(entry.name, f"{' and '.join(held)}, {facts}", *coarse)
    what = kind(tensors)
    where = "Put it into the folder of LoRAs" if what == "a LoRA" else "It may go away"
    return replace(entry, what=facts, problem=f"is {what}, no part of a text-to-video model", remedy=where)


def precision(tensors: Iterable[Tensor]) -> str:
    """That of most of the numbers."""
    counts: Counter[str] = Counter()
    for tensor in tensors:
        counts[str(tensor.dtype).removeprefix("torch.")] += tensor.numel()
    (most, _), *_ = counts.most_common(1)
    return PRECISIONS.get(most, f"fp8 ({most})" if most.startswith("float8") else most)


def hashed(path: Path, entry: Entry, heed: Heed) -> Entry:
    """`entry` with the SHA-256 of the file, and what is known about that."""
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
            size += len(block)
            heed(len(block))
    found = digest.hexdigest()
    published = [(model.name, name, of) for model in known() for name, of in model.files.items() if of.sha256]
    exact = next((f"as published in {model}" for model, _, of in published if of.sha256 == found), "")
    if exact:
        return replace(entry, what=f"{entry.what}, {exact}")
    alike = next((model for model, name, of in published
                  if of.size == size and Path(name).name == path.name and not entry.problem), "")
    if alike:
        return replace(entry, problem=f"has the name and size of the file in {alike}, but other content",
                       remedy="If nobody has changed it on purpose, download it again")
    return replace(entry, what=f"{entry.what}, sha256 {found[:10]}")
