"""What a request will need, told before anything is loaded.

`generate` brings one network at a time to the device, runs guidance one half after the other, and decodes frame by
frame. So the peak is that of one network, in nearly every film the UNet's: its weights, and the numbers that are
alive at once where its layers are hungriest. These grow with frames x height x width, by a factor that follows from
the configuration; the tests hold it against a count of every tensor of the real networks. Kernels want room for
themselves on top, which RESERVE stands for.

On the CPU nothing is copied: weights are read from mapped files, in the precision of the file, and the system may
drop what it has read. They count as needed, for reading them again at every step is slow; but it would work.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from torch import nn

from t2v.errors import T2VError
from t2v.hosts import Host, Memory
from t2v.models import catalog
from t2v.models.assembly import weights
from t2v.models.autoencoder import AutoencoderConfig, AutoencoderKL, decoder_numbers
from t2v.models.checkpoint import blank
from t2v.models.configuration import Defaults
from t2v.models.contents import contents, size_of
from t2v.models.text import TextConfig, TextTower
from t2v.models.unet import UNet3D, UNetConfig
from t2v.request import VideoRequest

RESERVE = 512 * 2**20  # bytes
TRANSFORMER = 20  # widths: input, two sums and a norm; in the GEGLU its projection (8), the gate's gelu and the product


@dataclass(frozen=True)
class Need:
    """Bytes at the peak, on the device that computes, and how many of them are weights."""

    device: int
    weights: int


@dataclass(frozen=True)
class Sizes:
    """How many numbers the networks of a model hold, and how many more are alive in them at once."""

    defaults: Mapping[str, Any]  # settings of a request
    unet: int
    vae: int
    text: int
    unet_file: int  # bytes, for the CPU
    per_latent: float  # in the UNet, for each latent of each frame
    autoencoder: AutoencoderConfig
    factor: int  # pixels a latent is wide


def need_of(request: VideoRequest, host: Host) -> int | None:
    """Bytes at the peak on the device that computes; None where there is no such model, or no telling."""
    found = need(request, host)
    return found.device if found else None


def verdict(request: VideoRequest, host: Host) -> str:
    """One sentence: what the request needs, what there is, and what to do if that is too little; "" where need_of is
    None."""
    found = need(request, host)
    return sentence(found, host) if found else ""


def sentence(found: Need, host: Host) -> str:
    """What is needed, what there is, and what to do if that is too little."""
    memory, cpu = host.memory, host.device.type == "cpu"
    needs = f"Needs about {amount(found.device)} {'of memory' if cpu else 'on the device'}"
    if memory is None:
        return f"{needs}."
    there = f"{amount(memory.free)} of {amount(memory.total)} are free"
    if found.device + RESERVE <= memory.free:
        return f"{needs}; {there}."
    return f"{needs}, and {there}: {(shortage_of_memory if cpu else shortage_on_device)(found, memory)}."


def shortage_on_device(found: Need, memory: Memory) -> str:
    """What it means that less than `found` and the reserve is free on a device of its own memory."""
    if found.weights > memory.total:
        return "the model alone is too large for it, so choose a smaller one or compute on the CPU"
    if found.device > memory.total:
        return "it does not fit, so take fewer frames or a smaller size"
    if found.device <= memory.free or found.device + RESERVE > memory.total:
        return "it will be tight, and easier with fewer frames or a smaller size"
    return "others have to make room"


def shortage_of_memory(found: Need, memory: Memory) -> str:
    """The same where weights need not stay in memory, and other programs cannot be sent away."""
    if found.device <= memory.free:
        return "it will be tight, and easier with fewer frames or a smaller size"
    if found.device - found.weights + RESERVE <= memory.free:
        return "it will be slow, reading the model from the disk at every step, unless other programs are closed"
    return "it does not fit, so take fewer frames or a smaller size, or close other programs"


def amount(size: int) -> str:
    """Memory as it stands on the box of a device, where a GB has 2**30 bytes."""
    return f"{size / 2**30:.1f} GB" if size >= 2**30 / 10 else f"{size / 2**20:.0f} MB"


def need(request: VideoRequest, host: Host) -> Need | None:
    """What the hungriest part of making a film of `request` takes; None where that cannot be told."""
    try:
        return need_of_model(catalog.find_model(request.model, host.model_folders), request, host)
    except T2VError:
        return None


def need_of_model(path: Path, request: VideoRequest, host: Host) -> Need | None:
    """The same with the model at `path`, whatever the request names."""
    try:
        files = [path] if path.is_file() else sorted(path.iterdir())
        states = tuple((file, status.st_mtime_ns, status.st_size) for file in files for status in (file.stat(),))
        return need_with(sizes_of(path, tuple(host.model_folders), states), request, host)
    except (T2VError, OSError):
        return None


def need_of_published(request: VideoRequest, host: Host) -> Need | None:
    """The same with the published model in half precision, which need not be there."""
    return need_with(published_sizes(), request, host)


def need_with(sizes: Sizes, request: VideoRequest, host: Host) -> Need | None:
    film = request.filled(sizes.defaults)
    if film.frames is None or film.height is None or film.width is None:
        return None
    size = round(film.height * film.upscale), round(film.width * film.upscale)  # of the second pass, where there is one
    latents = frames_at_once(film, film.frames) * size[0] * size[1] // sizes.factor**2
    return max(stages(sizes, latents, size, host), key=lambda stage: stage.device)


def frames_at_once(film: VideoRequest, frames: int) -> int:
    """Frames that the UNet sees together: those of a window, and when a film goes on, the ones before."""
    whole = frames + (film.overlap if film.extend else 0)
    return min(whole, film.window or whole)


def stages(sizes: Sizes, latents: int, size: tuple[int, int], host: Host) -> list[Need]:
    """UNet, autoencoder and text tower at work; 77 words are next to nothing beside the weights of the tower."""
    bytes_each, vae_bytes_each = host.dtype.itemsize, host.vae_dtype.itemsize
    weights = [sizes.unet * bytes_each, sizes.vae * vae_bytes_each, sizes.text * bytes_each]
    if host.device.type == "cpu":
        weights[0] = min(weights[0], sizes.unet_file)
    elif host.settings.keep == "device":
        weights = [sum(weights)] * len(weights)
    picture = decoder_numbers(sizes.autoencoder, size, host.vae_dtype)
    alive = [sizes.per_latent * latents * bytes_each, picture * vae_bytes_each, 0]
    return [Need(held + round(more), held) for held, more in zip(weights, alive, strict=True)]


@lru_cache(maxsize=32)
def sizes_of(path: Path, folders: tuple[Path, ...], files: object) -> Sizes:  # noqa: ARG001
    """The sizes of a model, for as long as its `files` stay the same. ModelError or OSError where there is none."""
    made = catalog.configured(path, folders)
    unet_file = weights(contents(path), UNet3D, made.files.ckpt_unet).resolve(strict=True)
    return sizes(catalog.networks(path, folders), size_of(unet_file), asdict(made.defaults))


@lru_cache(maxsize=1)
def published_sizes() -> Sizes:
    unet = blank(UNet3D, UNetConfig())
    networks = unet, blank(AutoencoderKL, AutoencoderConfig()), blank(TextTower, TextConfig())
    return sizes(networks, 2 * count(unet), asdict(Defaults()))


def sizes(networks: tuple[UNet3D, AutoencoderKL, TextTower], unet_file: int, defaults: Mapping[str, Any]) -> Sizes:
    unet, vae, text = networks
    return Sizes(defaults, count(unet), count(vae), count(text), unet_file, unet_numbers(unet.config),
                 vae.config, vae.factor)


def count(network: nn.Module) -> int:
    return sum(weight.numel() for weight in network.parameters())


def unet_numbers(config: UNetConfig) -> float:
    """Numbers alive at once in the UNet for each latent of each frame.

    In the published one these are most in its very first transformer, which is wider than the level that it stands
    in; in others, as a level of the decoder begins.
    """
    dim, inner = config.dim, config.num_heads * config.head_dim
    stem = dim + (TRANSFORMER - 1) * inner if config.temporal_attention else 0
    return max(float(stem), *(level_numbers(config, level) for level in range(len(config.dim_mult))))


def level_numbers(config: UNetConfig, level: int) -> float:
    """What came up from below, the same joined with a skip, the skips that still wait, and the layer at work."""
    dims = [config.dim * mult for mult in config.dim_mult]
    dim, below = dims[level], dims[min(level + 1, len(dims) - 1)]
    waiting = sum((config.res_blocks + 1) * dims[finer] / 4**finer for finer in range(level + 1)) - dim / 4**level
    attends = 0.5**level in config.attn_scales
    layer = TRANSFORMER * dim if attends else max(2 * (below + dim), 5 * dim)
    return waiting + (2 * below + dim + layer) / 4**level
