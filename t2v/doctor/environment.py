"""What we run on: versions, the device and its attention kernels, encoders of films, memory and disk."""

import platform
import shutil
from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from t2v import __version__
from t2v.doctor.files import Entry
from t2v.errors import T2VError
from t2v.hosts import Host
from t2v.models.ram import available_memory
from t2v.models.torchfile import gigabytes
from t2v.needs import RESERVE
from t2v.tokenizer import clip_tokenizer
from t2v.verdict import amount
from t2v.video import encoders

PACKAGES = ("einops", "safetensors", "open_clip_torch", "omegaconf", "av", "pillow", "numpy", "tqdm", "huggingface_hub")
SMALL_DISK = 2**30  # bytes; less is worth a word
SDPA = {0: "math", 1: "flash", 2: "memory-efficient", 3: "cuDNN"}  # torch.nn.attention.SDPBackend


def surroundings(host: Host) -> list[Entry]:
    """Everything around the models, what a helper would ask about first."""
    told = {"t2v": __version__, "host": host.name, "python": f"{platform.python_version()}, {platform.platform()}",
            "torch": torch.__version__, "device": device_name(host.device),
            "precision": f"{str(host.dtype)[6:]}, of the autoencoder {str(host.vae_dtype)[6:]}",
            "attention": kernels(host.device, host.dtype)}
    told |= {key: value for key, value in host.environment.items() if key not in told}
    return [*(Entry(name, what) for name, what in told.items()), packages(), words(), *films(),
            *memory(host), *disks(host)]


def device_name(device: torch.device) -> str:
    """The device as its maker calls it."""
    if device.type in ("cuda", "xpu"):
        backend = getattr(torch, device.type)
        toolkit = torch.version.cuda or getattr(torch.version, "hip", None) or ""
        return f"{device} {backend.get_device_name(device)} {toolkit}".strip()
    return f"{device}, {torch.get_num_threads()} threads" if device.type == "cpu" else str(device)


def kernels(device: torch.device, dtype: torch.dtype) -> str:
    """The kernel that torch takes for attention here, and those it could take. Asks, and computes nothing."""
    try:
        tokens = torch.empty(1, 8, 64, 64, device=device, dtype=dtype)
        chosen = SDPA.get(int(torch._fused_sdp_choice(tokens, tokens, tokens)), "another")
    except (RuntimeError, AttributeError, NotImplementedError):  # not every device and torch can be asked
        return "torch's own choice"
    allowed = {"flash": "flash_sdp_enabled", "memory-efficient": "mem_efficient_sdp_enabled",
               "cuDNN": "cudnn_sdp_enabled", "math": "math_sdp_enabled"}
    off = [name for name, flag in allowed.items()
           if device.type == "cuda" and not getattr(torch.backends.cuda, flag, lambda: True)()]
    return chosen + (f"; switched off: {', '.join(off)}" if off else "")


def packages() -> Entry:
    """The versions of what we stand on."""
    found, missing = [], []
    for package in PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            missing.append(package)
    if missing:
        return Entry("packages", ", ".join(found), f"there is no {', '.join(missing)}",
                     f"pip install {' '.join(missing)}", serious=True)
    return Entry("packages", ", ".join(found))


def words() -> Entry:
    """Whether prompts can be read."""
    try:
        clip_tokenizer()
    except T2VError as error:
        return Entry("tokenizer", "", str(error), serious=True)
    return Entry("tokenizer", "open_clip's vocabulary")


def films() -> Iterator[Entry]:
    """What each format of films is encoded by."""
    for name, encoder in encoders().items():
        if encoder:
            yield Entry(name, encoder)
        else:
            yield Entry(name, "", "PyAV has no encoder for it", "Install the package av from PyPI, or use another "
                        "format", serious=True)


def memory(host: Host) -> Iterator[Entry]:
    """Of the device, and of the machine where that is another."""
    if (device := host.memory) is not None:
        what = f"{amount(device.free)} of {amount(device.total)} are free"
        short = device.free < RESERVE
        yield Entry("memory", what, *(("is nearly full", "Close other programs") if short else ()))
    ram = available_memory()
    if ram is not None and host.device.type != "cpu":
        yield Entry("RAM", f"{amount(ram)} are free")


def disks(host: Host) -> Iterator[Entry]:
    """Room where models and films go."""
    for name, folder in (("models", next(iter(host.model_folders), host.outputs)), ("films", host.outputs)):
        there = next((path for path in (folder, *folder.absolute().parents) if path.is_dir()), Path("."))
        with suppress(OSError):
            free = shutil.disk_usage(there).free
            short = free < SMALL_DISK
            yield Entry(f"disk for {name}", f"{gigabytes(free)} are free",
                        *(("is nearly full", "Make room") if short else ()))
