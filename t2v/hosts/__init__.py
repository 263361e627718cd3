"""The program we run in: what it lends us, and where its files are."""

from pathlib import Path
from typing import Protocol

import torch


class Host(Protocol):
    """What `generate` and the command line ask of the program around them."""

    @property
    def device(self) -> torch.device:
        """Where networks compute."""

    @property
    def dtype(self) -> torch.dtype:
        """The precision they compute in."""

    @property
    def model_folders(self) -> list[Path]:
        """Folders whose sub-folders are models."""

    @property
    def outputs(self) -> Path:
        """Where films go."""
