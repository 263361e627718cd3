"""What is to know of a model before it is loaded: what it is, how large, and the hash of its weights.

All of it is quick but the hash, which looks into every tensor of the UNet. It is known once somebody has asked for
it, or had it looked up in the background, and stays known until the file changes.
"""

import logging
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from t2v.errors import T2VError
from t2v.models.assembly import network, weights
from t2v.models.autoencoder import AutoencoderKL
from t2v.models.checkpoint import fingerprint
from t2v.models.configuration import Configuration
from t2v.models.contents import Contents, contents, precision_of, size_of
from t2v.models.text import TextTower
from t2v.models.unet import UNet3D, UNetConfig
from t2v.models.variants import variant_of

PUBLISHED = "ModelScope 1.7B"
log = logging.getLogger(__name__)
known: dict[tuple[str, int, int], str] = {}  # hashes of UNets by path, size and time of change
turn = threading.Lock()  # one at a time: disks do not like it otherwise


@dataclass(frozen=True)
class Facts:
    """What a model is."""

    kind: str
    precision: str  # of the UNet: fp16, bf16, fp32; "" where that cannot be told
    size: int  # bytes of its own networks
    hash: str  # ten hex digits, see checkpoint.fingerprint; "" as long as it is not known
    notes: tuple[str, ...]  # what is missing, and what is used instead


def facts_of(found: Contents, made: Configuration) -> Facts:
    """What is to know of a model without opening its files."""
    unet = weights(found, UNet3D, made.files.ckpt_unet)
    held = [unet, *(path for kind in (AutoencoderKL, TextTower) for path in found.holding(kind)[:1])]
    missing = [f"It has no {words}; that of another model is used." for kind, words in
               ((AutoencoderKL, "autoencoder"), (TextTower, "text tower")) if not found.holding(kind)]
    return Facts(kind_of(found, made), precision_of(unet), sum(map(size_of, set(held))), known.get(key(unet), ""),
                 (*made.notes, *missing))


def kind_of(found: Contents, made: Configuration) -> str:
    """What a model is called: its published name where its folder says so, the network's where it does not."""
    if made.unet.fps:
        return "VideoCrafter2"
    if made.unet != UNetConfig():
        return "small model"
    variant = variant_of(found.path)
    return variant.kind if variant else PUBLISHED


def key(path: Path) -> tuple[str, int, int]:
    """What changes whenever a file does."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return str(path), 0, 0
    return str(path), status.st_size, status.st_mtime_ns


def hash_of(found: Contents, made: Configuration) -> str:
    """The hash of a model, by looking into its UNet if nobody has. ModelError where it is broken."""
    path = weights(found, UNet3D, made.files.ckpt_unet)
    with turn:
        if key(path) not in known:
            known[key(path)] = fingerprint(network(UNet3D, made, path))
        return known[key(path)]


def hashed_in_background(paths: Iterable[Path], configure: Callable[[Path], Configuration]) -> threading.Thread:
    """Looks up the hashes of the models at `paths`, one after the other; those that are broken are left out."""
    def work() -> None:
        for path in waiting:
            try:
                hash_of(contents(path), configure(path))
            except (T2VError, OSError) as error:
                log.info("no hash of %s: %s", path, error)

    waiting = list(paths)
    thread = threading.Thread(target=work, name="text2video hashes", daemon=True)
    thread.start()
    return thread
