"""The memory plan of a film, made before anything is loaded: what it will need, and how it fits.

`generate` brings one network at a time to the device, and decodes frame by frame. So the peak is that of one network:
the weights of it that stay there, and the numbers that are alive at once where its layers are hungriest (alive.py).
Of each ladder in memory.py the plan takes the first rung that fits into what is free. Kernels want room for themselves
on top, which RESERVE stands for.

On the CPU nothing is copied: weights are read from mapped files, in the precision of the file, and the system may
drop what it has read. They count as needed, for reading them again at every step is slow; but it would work.
"""

import math
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import nn

from t2v import float8
from t2v.alive import Activations
from t2v.errors import T2VError
from t2v.hosts import Host
from t2v.layout import Placing, layout_of, resident_of, taken
from t2v.memory import MemoryPlan, UNetRung, rungs, text_rungs
from t2v.models import Model, catalog, fused
from t2v.models.assembly import weights
from t2v.models.autoencoder import AutoencoderConfig, AutoencoderKL, decoder_numbers, encoder_numbers
from t2v.models.checkpoint import blank
from t2v.models.configuration import Defaults
from t2v.models.contents import contents, size_of
from t2v.models.ram import available_memory
from t2v.models.text import TextConfig, TextTower
from t2v.models.tiles import sides
from t2v.models.unet import UNet3D, UNetConfig
from t2v.request import VideoRequest
from t2v.windows import longest_part, second_pass, seen_together, windows_of

RESERVE = 512 * 2**20  # bytes
RAM = 2 * 2**30  # bytes of memory that pinned weights leave to everybody else


@dataclass(frozen=True)
class Sizes:
    """A model without its weights: its networks, and what else is to know."""

    defaults: Mapping[str, Any]  # settings of a request
    unet: UNet3D
    vae: AutoencoderKL
    text: TextTower
    unet_file: int  # bytes, for the CPU


@dataclass(frozen=True)
class Film:
    """What of a request counts: sides in pixels, of its largest pass, and the frames that the UNet sees together."""

    width: int
    height: int
    frames: int
    guided: bool
    started: bool  # from pictures, a film or a pass before, which are encoded
    kept: int = 0  # films of so many frames of which the features of deep layers are kept


# ---- from a request to its plan ----


def need_of(request: VideoRequest, host: Host) -> int | None:
    """Bytes that the fastest plan takes on the device that computes; None for no such model, or no telling."""
    found = need(request, host, math.inf)
    return found.device if found else None


def need(request: VideoRequest, host: Host, free: float | None = None) -> MemoryPlan | None:
    """The plan for `free` bytes, or for what is free by now; None where there is no such model, or no telling."""
    try:
        return need_of_model(catalog.find_model(request.model, host.model_folders), request, host, free)
    except T2VError:
        return None


def need_of_model(path: Path, request: VideoRequest, host: Host, free: float | None = None) -> MemoryPlan | None:
    """The same with the model at `path`, whatever the request names."""
    try:
        files = [path] if path.is_file() else sorted(path.iterdir())
        states = tuple((file, status.st_mtime_ns, status.st_size) for file in files for status in (file.stat(),))
        return need_with(sizes_of(path, tuple(host.model_folders), states), request, host, free)
    except (T2VError, OSError):
        return None


def need_of_published(request: VideoRequest, host: Host, free: float | None = None) -> MemoryPlan | None:
    """The same with the published model in half precision, which need not be there."""
    return need_with(published_sizes(), request, host, free)


def need_with(sizes: Sizes, request: VideoRequest, host: Host, free: float | None = None) -> MemoryPlan | None:
    film = film_of(request.filled(sizes.defaults), sizes.defaults["frames"])
    return plan_of(sizes, film, host, free) if film else None


def film_of(request: VideoRequest, usual: int) -> Film | None:
    """What of a request counts, if all of it is settled, with a model whose films have `usual` frames."""
    if request.frames is None or request.height is None or request.width is None:
        return None
    width, height = (round(side * request.upscale / 8) * 8 for side in (request.width, request.height))
    started = bool(request.pictures or request.film or request.upscale > 1)
    passes = [request, *([second_pass(request, usual)] if request.upscale > 1 else [])]
    return Film(width, height, max(seen_together(each, usual) for each in passes), request.cfg_scale != 1, started,
                max(remembered(each, usual) for each in passes))


def remembered(request: VideoRequest, usual: int) -> int:
    """What the features of deep layers are kept of: every window of a part of the film, with each prompt. The next
    part begins with nothing. RequestError where windows cannot overlap as is asked."""
    if request.reuse == 1:
        return 0
    windows = windows_of(request, usual).starts(longest_part(request, usual))
    return len(windows) * (2 if request.cfg_scale != 1 else 1)


def plan_with(model: Model, request: VideoRequest, host: Host) -> MemoryPlan:
    """The plan of a film with all its settings filled in, and a model that has been opened, for what is free by now."""
    film = film_of(request, model.defaults["frames"])
    assert film is not None
    weights = sum(weight.nbytes for weight in model.unet.parameters())
    return plan_of(Sizes(model.defaults, model.unet, model.vae, model.text, weights), film, host)


# ---- from a film to its plan ----


def plan_of(sizes: Sizes, film: Film, host: Host, free: float | None = None) -> MemoryPlan:
    """The first rung of each ladder that fits into `free` bytes beside the reserve, or else the last.

    Where weights should stay on the device between films, they do if that costs no film a rung.
    """
    if free is None:
        memory = host.memory
        free = memory.free if memory else math.inf
    room, kept = free - RESERVE + there_already(sizes, host), lifted(sizes, host)
    plan = plan_in(room, sizes, film, host, 0)
    if kept:
        held = plan_in(room, sizes, film, host, kept)
        if held.device <= room and (held.unet, held.text, held.tile) == (plan.unet, plan.text, plan.tile):
            return replace(held, lifted=True)
    return plan


def plan_in(room: float, sizes: Sizes, film: Film, host: Host, kept: int) -> MemoryPlan:
    """The same in `room`, with `kept` bytes of weights in each stage, or those of its network where that is 0."""
    encode = first(text_rungs(host.device), room, lambda share: text_bytes(sizes, share, host, kept))
    unet = first(rungs(host.device), room, lambda rung: unet_bytes(sizes, film, rung, host, kept))
    tile = first(sides(film.height // sizes.vae.factor, film.width // sizes.vae.factor), room,
                 lambda tile: vae_bytes(sizes, film, tile, host, kept))
    stages = {"encode": encode, "denoise": unet, "decode": tile}
    most = max(stages.values(), key=lambda stage: stage.peak)
    return MemoryPlan(unet.rung, encode.rung, tile.rung, {name: stage.peak for name, stage in stages.items()},
                      most.weights)


class Stage(NamedTuple):
    """A rung, and bytes on the device: of weights, and at the peak."""

    rung: Any
    weights: int
    peak: int


def first(ladder: Iterable[Any], room: float, bytes_of: Callable[[Any], tuple[int, float]]) -> Stage:
    """The first rung of a ladder whose weights and activations fit into `room`, or the last."""
    stage = Stage(None, 0, 0)
    for rung in ladder:
        held, more = bytes_of(rung)
        stage = Stage(rung, held, held + round(more))
        if stage.peak <= room:
            break
    return stage


def unet_bytes(sizes: Sizes, film: Film, rung: UNetRung, host: Host, kept: int) -> tuple[int, float]:
    """Weights and activations of the UNet on a rung. As `kept`, weights of all networks stay on the device."""
    bytes_each = host.dtype.itemsize
    if host.device.type == "cpu":
        held = min(weights_of(sizes.unet, host.dtype, 1.0), sizes.unet_file)
    else:
        held = kept or weights_of(sizes.unet, host.dtype, rung.share, matrices(host))
    films, factor = 2 if film.guided and rung.pair else 1, sizes.vae.factor
    work = Activations(sizes.unet.config, film.frames, film.height // factor, film.width // factor, films,
                       rung.at_once, host.device.type, copies(host.device), film.kept)
    return held, bytes_each * work.peak


def copies(device: torch.device) -> bool:
    """Whether norms lay out their input anew; torch does not on the CPU, nor do our kernels."""
    return device.type != "cpu" and not fused.runs(device)


def vae_bytes(sizes: Sizes, film: Film, tile: int, host: Host, kept: int) -> tuple[int, float]:
    """The same of the autoencoder at a frame, both ways where the film starts from something."""
    held, size, dtype = kept or weights_of(sizes.vae, host.vae_dtype, 1.0), (film.height, film.width), host.vae_dtype
    ways = [decoder_numbers, *([encoder_numbers] if film.started else [])]
    return held, dtype.itemsize * max(way(sizes.vae.config, size, dtype, tile) for way in ways)


def text_bytes(sizes: Sizes, share: float, host: Host, kept: int) -> tuple[int, float]:
    """The same of the text tower; 77 words are little beside its weights."""
    held = kept or weights_of(sizes.text, host.dtype, share)
    return held, host.dtype.itemsize * 77 * 16 * sizes.text.config.width


def lifted(sizes: Sizes, host: Host) -> int:
    """Bytes of the weights that should stay on the device between films, and so in each stage; 0 if none should."""
    if host.device.type == "cpu" or host.settings.keep != "device":
        return 0
    return (weights_of(sizes.unet, host.dtype, 1.0, matrices(host)) + weights_of(sizes.text, host.dtype, 1.0)
            + weights_of(sizes.vae, host.vae_dtype, 1.0))


def there_already(sizes: Sizes, host: Host) -> int:
    """Bytes of weights that are on the device by now."""
    return sum(weight.nbytes for network in (sizes.unet, sizes.vae, sizes.text) for weight in network.parameters()
               if weight.device.type == host.device.type != "cpu")


def matrices(host: Host) -> torch.dtype | None:
    """The precision that matrices of the UNet have on the device of a host; None for that of everything."""
    wanted = host.settings.weights == "float8" and host.device.type != "cpu"
    return float8.FLOAT8 if wanted and float8.usable(host.device) else None


def weights_of(network: nn.Module, dtype: torch.dtype, share: float, matrices: torch.dtype | None = None) -> int:
    """Bytes on the device of the weights of a network, a share of which stays there."""
    known = KNOWN.setdefault(network, {})
    if (dtype, share, matrices) not in known:
        known[dtype, share, matrices] = counted(network, dtype, share, matrices)
    return known[dtype, share, matrices]


KNOWN: MutableMapping[nn.Module, dict[tuple[torch.dtype, float, torch.dtype | None], int]] = WeakKeyDictionary()


def counted(network: nn.Module, dtype: torch.dtype, share: float, matrices: torch.dtype | None = None) -> int:
    """The same, and room for one matrix in `dtype` where matrices have a precision of their own."""
    largest = max(weight.numel() for weight in network.parameters()) * dtype.itemsize if matrices else 0
    return placing(network, dtype, share, matrices).device + largest


def placing(network: nn.Module, dtype: torch.dtype, share: float, matrices: torch.dtype | None = None) -> Placing:
    """What a network takes with a share of its weights on the device."""
    layout = layout_of(network, matrices)
    return taken(network, dtype, resident_of(network, dtype, share, layout), layout)


def pinned(unet: UNet3D, rung: UNetRung, host: Host) -> bool:
    """Whether there is enough memory for a page-locked copy of what is streamed; otherwise it comes from the file."""
    there = available_memory()
    if rung.share == 1 or there is None:
        return False
    return placing(unet, host.dtype, rung.share, matrices(host)).pinned + RAM < there


# ---- sizes of models ----


@lru_cache(maxsize=32)
def sizes_of(path: Path, folders: tuple[Path, ...], files: object) -> Sizes:  # noqa: ARG001
    """The sizes of a model, for as long as its `files` stay the same. ModelError or OSError where there is none."""
    made = catalog.configured(path, folders)
    unet_file = weights(contents(path), UNet3D, made.files.ckpt_unet).resolve(strict=True)
    return Sizes(asdict(made.defaults), *catalog.networks(path, folders), size_of(unet_file))


@lru_cache(maxsize=1)
def published_sizes() -> Sizes:
    networks = blank(UNet3D, UNetConfig()), blank(AutoencoderKL, AutoencoderConfig()), blank(TextTower, TextConfig())
    return Sizes(asdict(Defaults()), *networks, 2 * sum(weight.numel() for weight in networks[0].parameters()))
