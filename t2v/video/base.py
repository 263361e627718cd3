"""What every writer of films is given: the recording's settings, and the frames one at a time."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from t2v.errors import FilmError

# For opening files that somebody else made: a playlist in them must not make us fetch what it names, and a tag in an
# old encoding must not keep the rest from being read.
FOREIGN: dict[str, Any] = {"options": {"protocol_whitelist": ""}, "metadata_errors": "replace"}

Frame = NDArray[np.uint8]  # h w 3, RGB, 0..255
PyAVError: Any = av.error.FFmpegError  # Any: the stubs of old PyAV versions do not know it


@dataclass(frozen=True)
class Recording:
    """How a film is recorded: `fps` exactly, `quality` 0..100, the `infotext` to carry, "" or a sound file's path, and
    the second of that sound at which the film begins."""

    fps: Fraction
    quality: int
    infotext: str
    soundtrack: str
    sound_start: float = 0.0

    def ticks(self, index: int, per_second: int) -> int:
        """How long frame `index` is shown in a format that counts 1 / `per_second` seconds.

        The rounding is shared out, so that the durations of n frames always add up to round(n / fps).
        """
        return round((index + 1) * per_second / self.fps) - round(index * per_second / self.fps)


Add = Callable[[Frame], None]
Writer = Callable[[Path, Recording], AbstractContextManager[Add]]


def decodable(streams: Iterable[Any]) -> Any:
    """The first of the `streams` of a container that PyAV has a decoder for, or None.

    PyAV gives the others no codec context, and some of its versions crash when asked to decode them.
    """
    return next((stream for stream in streams if stream.codec_context), None)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Around everything that writes the film `path`: the system's and PyAV's errors become a FilmError."""
    try:
        yield
    except (OSError, PyAVError) as error:
        raise FilmError(f"{path}: the film cannot be written: {reason(error)}. "
                        f"Look at the free space and the rights of {path.parent}.") from error


def reason(error: Exception) -> str:
    """What went wrong, in the system's words where it has some."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
