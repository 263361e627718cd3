"""Running alone: the best device there is, and folders under the one we were started in."""

import gc
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

import torch
from PIL.Image import Image

from t2v.hosts import Memory, Wishes, Work
from t2v.models.ram import available_memory
from t2v.settings import Settings
from t2v.traffic import give_pinned_back


def best_device() -> torch.device:
    """CUDA, XPU or MPS where there is one, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    if hasattr(torch, "xpu") and torch.xpu.is_available():
        return torch.device("xpu")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def best_dtype(device: torch.device) -> torch.dtype:
    """float16 on accelerators; float32 on the CPU, which has no fast half precision everywhere."""
    return torch.float32 if device.type == "cpu" else torch.float16


def measured(device: torch.device) -> Memory | None:
    """Memory of `device` by the system's own account; what torch holds and does not use counts as free.

    None for kinds of devices whose memory torch does not tell.
    """
    if device.type in ("cuda", "xpu"):
        backend = getattr(torch, device.type)
        free, total = backend.mem_get_info(device)
        return Memory(free + backend.memory_reserved(device) - backend.memory_allocated(device), total)
    if device.type not in ("cpu", "mps"):
        return None
    free_ram = available_memory()
    if free_ram is None or not hasattr(os, "sysconf"):
        return Memory(free_ram, free_ram) if free_ram is not None else None
    return Memory(free_ram, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def collect(device: torch.device) -> None:
    """Frees what is unreachable, and hands torch's unused memory on `device` back."""
    gc.collect()
    if device.type in ("cuda", "xpu", "mps"):
        getattr(torch, device.type).empty_cache()
    give_pinned_back(device)


@dataclass(frozen=True)
class Standalone:
    """The host of the command line; each value may be chosen by the user. `precision` None: what suits the device."""

    device: torch.device = field(default_factory=best_device)
    precision: torch.dtype | None = None
    models: Path = Path("models")
    outputs: Path = Path("outputs")
    settings: Settings = field(default_factory=Settings)
    lock: Lock = field(default_factory=Lock, repr=False)

    name = "t2v"
    private_folders = False
    styles = ()
    upscalers = ()

    @property
    def dtype(self) -> torch.dtype:
        return self.precision or best_dtype(self.device)

    @property
    def vae_dtype(self) -> torch.dtype:
        return self.dtype if self.settings.vae_precision == "network" else torch.float32

    @property
    def memory(self) -> Memory | None:
        return measured(self.device)

    @property
    def model_folders(self) -> list[Path]:
        """Where web UIs keep text-to-video models, the models folder itself, and the one of the settings."""
        more = [Path(self.settings.models)] if self.settings.models else []
        return [self.models / "ModelScope", self.models / "text2video", self.models, *more]

    @property
    def lora_folders(self) -> list[Path]:
        return [self.models / "Lora", self.models / "lora"]

    @property
    def embedding_folders(self) -> list[Path]:
        return [Path("embeddings"), self.models / "embeddings"]

    @property
    def input_folders(self) -> list[Path]:
        return [folder.absolute() for folder in (self.outputs, Path(self.settings.inputs)) if folder != Path()]

    def announce(self, job_id: str) -> None:
        """Nobody else is here to be told."""

    withdraw = announce

    @contextmanager
    def turn(self, work: Work, need: int | None) -> Iterator[None]:  # noqa: ARG002
        with self.lock:
            yield

    def publish(self, work: Work) -> Wishes:  # noqa: ARG002
        return Wishes()

    def collect(self) -> None:
        collect(self.device)

    def reclaim(self, need: int) -> None:  # noqa: ARG002
        self.collect()

    def upscaled(self, picture: Image, size: tuple[int, int], name: str) -> Image:  # noqa: ARG002
        raise KeyError(name)  # there is none to be asked for

    def offer(self, film: Path) -> None:
        """The server is started with the folder of films open to the browser."""

    def styled(self, prompt: str, negative_prompt: str, styles: Sequence[str]) -> tuple[str, str]:  # noqa: ARG002
        return prompt, negative_prompt

    @property
    def environment(self) -> Mapping[str, str]:
        return {"torch": torch.__version__, "device": str(self.device), "precision": str(self.dtype)}
