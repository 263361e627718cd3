"""Within the memory there is: the memory plan of a film, and how work goes on when memory runs out all the same.

A plan says how each network works: which share of its weights stays on the device while the rest is streamed, whether
both halves of guidance are one batch, how much a layer may hold at once, in which tiles frames are decoded. For each
there is a ladder, from what is fastest to what needs least. `needs.py` predicts bytes and picks the first rung that
fits; where a prediction does not hold, because others have taken the memory meanwhile, work goes on one rung lower.
"""

import gc
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from traceback import clear_frames
from typing import Generic, TypeVar

import torch

from t2v.errors import MemoryShortage

log = logging.getLogger(__name__)
Rung = TypeVar("Rung")
Result = TypeVar("Result")


@dataclass(frozen=True)
class UNetRung:
    """How the UNet works."""

    share: float = 1.0  # of the weights that could be streamed, those that stay on the device
    pair: bool = True  # both halves of guidance in one batch
    at_once: float = math.inf  # numbers that a layer may hold, see UNet3D.forward

    def __str__(self) -> str:
        """What is done to save memory, in words; "" for nothing."""
        share = f"{1 - self.share:.0%} of the model streamed" if self.share < 1 else ""
        halves = "" if self.pair else "guidance in two halves"
        return ", ".join(filter(None, (share, halves, "in parts" if self.at_once < SMALL else "")))


SMALL = 32e6  # numbers at once; layers of this size and more are as fast as whole ones
# Streaming is overlapped with computing, and costs nothing as long as there is enough of that; halves of guidance
# would have every weight travel twice. So that comes first, and small parts, which keep no GPU busy, come last.
UNET: tuple[UNetRung, ...] = (
    UNetRung(),
    UNetRung(at_once=4 * SMALL),
    UNetRung(at_once=SMALL),
    UNetRung(at_once=SMALL, pair=False),
    *(UNetRung(eighths / 8, at_once=SMALL) for eighths in range(7, -1, -1)),
    UNetRung(0, at_once=SMALL, pair=False),
    UNetRung(0, at_once=SMALL / 4, pair=False),
    UNetRung(0, at_once=SMALL / 16, pair=False),
)
TEXT: tuple[float, ...] = (1.0, 0.0)  # share of the text tower's weights that stays on the device
STREAMS = ("cuda", "xpu")  # devices with memory of their own to which can be copied while they compute


def rungs(device: torch.device) -> tuple[UNetRung, ...]:
    """The ladder of the UNet on a device. Where memory is shared, streaming would save none."""
    return tuple(rung for rung in UNET if rung.share == 1 or device.type in STREAMS)


def text_rungs(device: torch.device) -> tuple[float, ...]:
    """The ladder of the text tower."""
    return tuple(share for share in TEXT if share == 1 or device.type in STREAMS)


@dataclass(frozen=True)
class MemoryPlan:
    """How a film is made, and what that takes. `peaks`: bytes on the device that computes, by stage."""

    unet: UNetRung = UNET[0]
    text: float = 1.0
    tile: int = 0  # side of what the autoencoder sees at once, in latents; 0 is the whole frame
    peaks: Mapping[str, int] = field(default_factory=dict)
    weights: int = 0  # bytes of them in the stage that needs most
    lifted: bool = False  # those of all networks may stay on the device, in every stage and between films

    @property
    def device(self) -> int:
        """Bytes at the peak."""
        return max(self.peaks.values(), default=0)

    def __str__(self) -> str:
        """What is done to save memory, in words; "" for nothing."""
        tile = f"decoding in tiles of {self.tile}x{self.tile} latents" if self.tile else ""
        return ", ".join(filter(None, (str(self.unet), "the text tower streamed" if self.text < 1 else "", tile)))


def downwards(ladder: tuple[Rung, ...], rung: Rung) -> tuple[Rung, ...]:
    """A ladder from `rung` on."""
    return ladder[ladder.index(rung):]


class Ladder(Generic[Rung]):
    """One part of the work, and how lean it is by now.

    Going down, `release` is called to let go of what can be let go, and `note` is told in words what happened.
    """

    def __init__(self, rungs: Iterable[Rung], work: str, release: Callable[[], None], note: Callable[[str], None],
                 words: Callable[[Rung], str] = str) -> None:
        self.rungs, self.work, self.release, self.note, self.words = list(rungs), work, release, note, words

    @property
    def rung(self) -> Rung:
        return self.rungs[0]

    def climb(self, attempt: Callable[[Rung], Result]) -> Result:
        """`attempt(rung)`; where memory runs out, again on the next rung, and so on.

        On the last it is tried once more, with all let go that can be; then the error is raised as it came. Any other
        error is.
        """
        again = True
        while True:
            try:
                return attempt(self.rung)
            except Exception as error:
                if not is_shortage(error) or (len(self.rungs) == 1 and not again):
                    raise
                clear_frames(error.__traceback__)  # which still hold what they had computed
                problem = str(error)
            again = len(self.rungs) > 1
            how = f"went on with {self.words(self.rungs[1])}" if again else "tried again"
            del self.rungs[:again]
            log.warning("memory ran out while %s (%s); %s", self.work, problem, how)
            gc.collect()
            self.release()
            self.note(f"memory ran out while {self.work}; {how}")


@contextmanager
def shortage_explained(wanted: str, fitting: Callable[[], str]) -> Iterator[None]:
    """Turns "out of memory" in its many forms into a MemoryShortage: what was `wanted`, and what would be `fitting`."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_shortage(error):
            raise
        clear_frames(error.__traceback__)
        smaller = fitting()
        remedy = f"There is enough by now for {smaller}" if smaller else (
            "Close other programs, or take fewer frames, a smaller size or a smaller model")
        said = str(error).strip().partition("\n")[0].rstrip(".")
        guessed = "" if "memory" in said.lower() or not said else f" It was told as: {said}."
        raise MemoryShortage(f"not enough memory for {wanted}. {remedy}.{guessed}") from error


SHORTAGES = (  # words of an error that means that memory has run out
    "out of memory", "out_of_memory", "can't allocate memory", "not enough memory", "failed to allocate",
    "alloc_failed",
    "out_of_device_memory", "out_of_host_memory", "out_of_resources",  # XPU
    "not enough gpu video memory", "could not allocate tensor",  # DirectML
    # cuDNN has tried all its ways, and each may have wanted more than there was: torch takes no note of why.
    "unable to find an engine", "unable to find a valid cudnn algorithm",
    "cublas_status_not_initialized", "cudnn_status_not_initialized")  # what libraries say that lack room to begin with


def is_shortage(error: BaseException) -> bool:
    """Whether an exception means that the device or the machine has no memory left, or most likely does."""
    said = str(error).lower()
    return isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)) or any(words in said for words in SHORTAGES)
