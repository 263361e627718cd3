"""Films longer than a network should see at once: overlapping windows in time, denoised together.

At every step the network sees a window of frames at a time, and where windows overlap the film follows a weighted
mean of what it says (MultiDiffusion, Bar-Tal et al. 2023, along time; Gen-L-Video, Wang et al. 2023). To the sampler
this is a denoiser like any other. It needs the memory of one window, and the latents.

How many frames are seen at once, also where a film is made of several (weaving.py), is settled here for all: for those
who denoise, and for the memory plan.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from t2v.errors import RequestError
from t2v.request import VideoRequest
from t2v.sampling import Denoise, Noise
from t2v.schedule import find
from t2v.weaving import key_frames


@dataclass(frozen=True)
class Windows:
    """Windows of `size` frames, neighbours sharing at least `overlap`; 0 is one window, whatever the film's length.

    jitter: they begin elsewhere at each noise level, determined by `seed`.
    loop: the film is a ring, and windows also lie over its seam.
    """

    size: int
    overlap: int
    jitter: bool = False
    loop: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if self.size and self.overlap >= self.size:
            raise RequestError("overlap", f"must be less than the window of {self.size} frames, not {self.overlap}")

    @property
    def stride(self) -> int:
        """Frames from the beginning of a window to that of the next."""
        return self.size - self.overlap

    def several(self, frames: int) -> bool:
        """Whether a film of so many frames takes more than one window."""
        return 0 < self.size < frames

    def starts(self, frames: int, sigma: float = 0.0) -> list[int]:
        """The first frame of each window at a noise level; every frame of the film lies in at least one.

        The last window ends with the film. On a ring windows go on past the end, at the beginning.
        """
        if not self.several(frames):
            return [0]
        shift = random.Random(f"{self.seed} {sigma}").randrange(self.stride) if self.jitter else 0
        if self.loop:
            return [(start + shift) % frames for start in range(0, frames, self.stride)]
        return sorted({0, *range(shift, frames - self.size, self.stride), frames - self.size})


# ---- what a request comes to, with a model whose films have `usual` frames ----


def windows_of(request: VideoRequest, usual: int) -> Windows:
    """The windows of a film, or of each part of it. RequestError where they cannot overlap as is asked."""
    size = window_size(request, usual)
    overlap = min(request.overlap, size - 1) if request.depth else request.overlap
    return Windows(size, overlap, request.jitter, request.loop, request.seed)


def window_size(request: VideoRequest, usual: int) -> int:
    """Frames of a window; 0 is all. From coarse to fine there may be more key frames than suit the model, and then
    windows of as many as do: never fewer, because only the key frames see the film as a whole."""
    return max(request.window, usual) if request.depth else request.window


def part_size(request: VideoRequest, usual: int, held: int) -> int:
    """Frames of a part, where a film is made of several: what suits the model, and room for more than is held."""
    assert request.frames is not None
    if request.window or not (held or request.depth):
        return request.window
    return max(usual, held + 1) if held else min(usual, request.frames)


def held_before(request: VideoRequest) -> int:
    """Frames of the film before that a continuation begins with; it may have fewer."""
    return max(1, request.overlap) if request.extend else 0


def longest_part(request: VideoRequest, usual: int) -> int:
    """Frames of the longest part that a film is made of, or of the film if it is made at once."""
    frames, held = request.frames, held_before(request)
    assert frames is not None
    size = part_size(request, usual, held)
    if held:
        return min(size, held + frames)
    if request.depth and frames > 1 and size > 2:  # smaller parts are refused
        return max(size, key_frames(frames, size, request.depth))
    return frames


def seen_together(request: VideoRequest, usual: int) -> int:
    """The most frames that the network is asked about at once."""
    longest = longest_part(request, usual)
    return min(longest, window_size(request, usual) or longest)


def second_pass(request: VideoRequest, usual: int) -> VideoRequest:
    """The request of a pass over a film that is there: through windows as long as the parts were, coarse to fine."""
    if not request.depth:
        return request
    window = request.window or usual
    return replace(request, window=window, overlap=min(request.overlap, window - 1), depth=0)


# ---- at work ----


def windowed(denoise_of: Callable[[Sequence[int]], Denoise], frames: Sequence[int], windows: Windows) -> Denoise:
    """`denoise_of(frames)`, asked window by window: what it makes of all frames where they fit into one.

    denoise_of: from the numbers of some frames of the film to their denoiser, so that each window has its own prompts.
    """
    if not windows.several(len(frames)):
        return denoise_of(frames)

    def denoise(x: Tensor, sigma: float) -> Tensor:
        weights = pyramid(windows.size).to(x.device)[:, None, None]
        total, weight = torch.zeros_like(x, dtype=torch.float32), torch.zeros_like(x[:1, :1, :, :1, :1]).float()
        for start in windows.starts(len(frames), sigma):
            seen = [position % len(frames) for position in range(start, start + windows.size)]
            x0 = denoise_of([frames[position] for position in seen])(x[:, :, seen], sigma)
            total[:, :, seen] += weights * x0
            weight[:, :, seen] += weights
        return (total / weight).to(x.dtype)

    return denoise


def pyramid(size: int) -> Tensor:
    """1, 2, 3, ..., 3, 2, 1: how much a window has to say about each of its frames (Qiu et al. 2023, FreeNoise)."""
    rising = torch.arange(1, size + 1, dtype=torch.float32)
    return torch.minimum(rising, rising.flip(0))


# ---- the noise that a long film starts from: (noise, latents of the film's shape, windows) -> noise like them ----

StartNoise = Callable[[Noise, Tensor, Windows], Tensor]


def fresh(noise: Noise, like: Tensor, _windows: Windows) -> Tensor:
    """Every frame has noise of its own."""
    return noise(like)


def shuffled(noise: Noise, like: Tensor, windows: Windows) -> Tensor:
    """FreeNoise (Qiu et al. 2023, arXiv 2310.15169): beyond the first window, the noise of the window before, shuffled.

    Each stride of frames repeats the stride that lies a window earlier, in another order. So all windows hold the same
    noise, and the film stays the same scene; where one window is enough, this is `fresh`.
    """
    start, frames = noise(like), like.shape[2]
    if not windows.several(frames):
        return start
    for begin in range(windows.size, frames, windows.stride):
        order = noise(start.new_empty(windows.stride)).argsort()[: frames - begin]
        start[:, :, begin : begin + windows.stride] = start[:, :, begin - windows.size + order]
    return start


def find_noise(name: str) -> StartNoise:
    """The kind of noise called `name`; RequestError with the choices if there is none."""
    return find(NOISES, "noise", name)


NOISES: dict[str, StartNoise] = {"fresh": fresh, "shuffled": shuffled}
