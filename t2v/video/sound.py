"""The sound of a film: any file that PyAV can hear, decoded as it is needed, cut or filled up with silence."""

import logging
from collections.abc import Iterator
from contextlib import suppress
from itertools import repeat
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from t2v.errors import RequestError
from t2v.video.base import FOREIGN, PyAVError, decodable, reason

RATE = 48_000

log = logging.getLogger(__name__)


def check_soundtrack(path: str) -> None:
    """RequestError unless `path` is a file with a sound that can be decoded."""
    if not Path(path).is_file():
        raise RequestError("soundtrack", f"there is no file {path}")
    try:
        first = next(_decoded(path), None)
    except (OSError, PyAVError) as error:
        raise RequestError("soundtrack", f"{path} cannot be read: {reason(error)}") from error
    if first is None:
        raise RequestError("soundtrack", f"{path} has no sound in it")


def has_sound(path: Path | str) -> bool:
    """Whether the film `path` comes with a sound; False also where it cannot be read."""
    container: Any
    with suppress(OSError, PyAVError, ValueError), open(path, "rb") as file, av.open(file, **FOREIGN) as container:
        return bool(decodable(container.streams.audio))
    return False


class Soundtrack:
    """A sound file as stereo samples at 48 kHz, read from the second `start` on; silence after its end."""

    def __init__(self, path: str, start: float = 0.0) -> None:
        self.path = path
        self._blocks = _resampled(path)
        self._rest = np.zeros((2, 0), np.float32)
        whole, part = divmod(round(start * RATE), RATE)
        for samples in (*repeat(RATE, whole), part):
            self.read(samples)

    def read(self, samples: int) -> NDArray[np.float32]:
        """The next `samples` samples, [2, samples]. Only what has been asked for is decoded."""
        while self._rest.shape[1] < samples:
            self._rest = np.concatenate([self._rest, self._next(samples - self._rest.shape[1])], axis=1)
        taken, self._rest = np.split(self._rest, [samples], axis=1)
        return taken

    def _next(self, missing: int) -> NDArray[np.float32]:
        """More sound, or `missing` samples of silence. A damaged sound file costs its rest, never the film."""
        silence = np.zeros((2, missing), np.float32)
        try:
            return next(self._blocks, silence)
        except (OSError, PyAVError) as error:
            log.warning("%s: the sound breaks off (%s); the film goes on in silence.", self.path, reason(error))
            return silence


def _resampled(path: str) -> Iterator[NDArray[np.float32]]:
    resampler: Any = av.AudioResampler(format="fltp", layout="stereo", rate=RATE)
    for frame in _decoded(path):
        frame.pts = None  # gaps and jumps in the time stamps are played through
        yield from (block.to_ndarray() for block in resampler.resample(frame))
    yield from (block.to_ndarray() for block in resampler.resample(None))


def _decoded(path: str) -> Iterator[Any]:
    """The frames of the first audio stream; none where there is no such stream."""
    container: Any
    with open(path, "rb") as file, av.open(file, **FOREIGN) as container:
        if stream := decodable(container.streams.audio):
            yield from container.decode(stream)
