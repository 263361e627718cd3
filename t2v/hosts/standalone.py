"""Running alone: the best device there is, and folders under the one we were started in."""

from dataclasses import dataclass, field
from pathlib import Path

import torch


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


@dataclass(frozen=True)
class Standalone:
    """The host of the command line; each value may be chosen by the user. `precision` None: what suits the device."""

    device: torch.device = field(default_factory=best_device)
    precision: torch.dtype | None = None
    models: Path = Path("models")
    outputs: Path = Path("outputs")

    @property
    def dtype(self) -> torch.dtype:
        return self.precision or best_dtype(self.device)

    @property
    def model_folders(self) -> list[Path]:
        """Where web UIs keep text-to-video models, and the models folder itself."""
        return [self.models / "ModelScope", self.models / "text2video", self.models]
