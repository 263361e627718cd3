"""The program we run in: what it lends us, and where its files are."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from PIL.Image import Image

from t2v.settings import Settings


@dataclass(frozen=True)
class Memory:
    """Of the device that computes, in bytes."""

    free: int
    total: int


@dataclass(frozen=True)
class Wishes:
    """What was asked for at the host's own buttons since the last time: stop, skip, end after the film at hand."""

    stop: bool = False
    skip: bool = False
    last: bool = False


class Work(Protocol):
    """What a host may show of a job."""

    id: str  # task(...), as web UIs call theirs
    title: str
    item: int  # of `items`, counting from 0
    items: int
    stage: str  # load, or one of Watch.tick
    step: int
    steps: int
    stopped: bool

    @property
    def text(self) -> str:
        """What is going on, on one line."""

    def new_picture(self) -> Image | None:
        """What the film looks like by now, if that has changed since the last time it was asked."""


class Host(Protocol):
    """What generation, jobs and tab ask of the program around them."""

    name: str

    # ---- what generation computes on, and where files are ----

    @property
    def device(self) -> torch.device:
        """Where networks compute."""

    @property
    def dtype(self) -> torch.dtype:
        """The precision they compute in."""

    @property
    def vae_dtype(self) -> torch.dtype:
        """The precision in which the autoencoder computes."""

    @property
    def memory(self) -> Memory | None:
        """Of the device, measured now; None where that cannot be known."""

    @property
    def model_folders(self) -> list[Path]:
        """Folders whose sub-folders are models; the first is where users are told to put theirs."""

    @property
    def lora_folders(self) -> list[Path]:
        """Folders with LoRAs in them, at any depth."""

    @property
    def embedding_folders(self) -> list[Path]:
        """Folders with textual inversion embeddings in them, at any depth."""

    @property
    def outputs(self) -> Path:
        """Where films go; absolute."""

    @property
    def input_folders(self) -> list[Path]:
        """Folders whose files may be named from afar, as something to start a film from; absolute."""

    @property
    def settings(self) -> Settings:
        """What the user has settled, as of now."""

    @property
    def private_folders(self) -> bool:
        """Whether folders of the machine are nobody's business in the browser."""

    # ---- a job's way through the host ----

    def announce(self, job_id: str) -> None:
        """The job waits."""

    def withdraw(self, job_id: str) -> None:
        """The job no longer waits, and never ran."""

    def turn(self, work: Work, need: int | None) -> AbstractContextManager[None]:
        """The host's turn for `work`: waits for it, makes room for `need` bytes on the device (None: all it can), and
        afterwards, whatever happened, gives the host back what it had, in its place."""

    def publish(self, work: Work) -> Wishes:
        """Shows how far `work` has come; waits while the host is paused."""

    def collect(self) -> None:
        """Hands device memory that nobody uses any more back to the system."""

    def reclaim(self, need: int) -> None:
        """Makes room for `need` bytes once more, in the middle of a turn: memory has run out."""

    # ---- upscalers of pictures ----

    @property
    def upscalers(self) -> Sequence[str]:
        """Names of those that the host has."""

    def upscaled(self, picture: Image, size: tuple[int, int], name: str) -> Image:
        """`picture`, in RGB, as large as `size` (width, height) by the upscaler called `name`."""

    # ---- what the tab shows ----

    def offer(self, film: Path) -> None:
        """The browser may fetch `film`."""

    @property
    def styles(self) -> Sequence[str]:
        """Names of the host's prompt styles."""

    def styled(self, prompt: str, negative_prompt: str, styles: Sequence[str]) -> tuple[str, str]:
        """The prompts with `styles` applied."""

    @property
    def environment(self) -> Mapping[str, str]:
        """Versions worth knowing, for people who help."""
