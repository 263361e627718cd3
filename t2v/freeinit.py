"""FreeInit (Wu et al. 2023, arXiv 2312.07537): noise that already knows what changes slowly in a film.

In training the noisiest latents still show a little of the film, in low frequencies of space and time; pure noise does
not. So a film is made, taken back to that noise, and its low frequencies start the next round; the high ones are new.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from t2v.schedule import Schedule

STOP = 0.25  # the normalised frequency where the low ones end, in space and in time
ORDER = 4  # of the Butterworth filter


def reinitialised(
    latents: Tensor, noise: Tensor, fresh: Tensor, schedule: Schedule, method: str = "butterworth"
) -> Tensor:
    """The noise of the next round, from the `latents` of this one, the first `noise` and new noise; all b c f h w."""
    noised = float(schedule.alphas[-1]) * latents + float(schedule.sigmas[-1]) * noise
    return exchanged(noised, fresh, FILTERS[method](squared_frequencies(*latents.shape[-3:])).to(latents.device))


def exchanged(low: Tensor, high: Tensor, share: Tensor) -> Tensor:
    """The frequencies of `low` as far as the filter `share` [f h w] lets them through, and of `high` the rest."""
    axes = (-3, -2, -1)
    spectra = [torch.fft.fftshift(torch.fft.fftn(x.float(), dim=axes), dim=axes) for x in (low, high)]
    mixed = torch.lerp(spectra[1], spectra[0], share.to(spectra[0].dtype))
    return torch.fft.ifftn(torch.fft.ifftshift(mixed, dim=axes), dim=axes).real.to(low.dtype)


def squared_frequencies(frames: int, height: int, width: int) -> Tensor:
    """d^2 of every frequency [f h w] of a centred spectrum, each axis from -1 to 1 (exclusive)."""
    f, h, w = (torch.arange(size) * 2 / size - 1 for size in (frames, height, width))
    return f[:, None, None] ** 2 + h[:, None] ** 2 + w**2


def butterworth(squared: Tensor) -> Tensor:
    """1 / (1 + (d / stop)^2n)."""
    return 1 / (1 + (squared / STOP**2) ** ORDER)


def gaussian(squared: Tensor) -> Tensor:
    """exp(-d^2 / 2 stop^2)."""
    return torch.exp(-squared / (2 * STOP**2))


FILTERS: dict[str, Callable[[Tensor], Tensor]] = {"butterworth": butterworth, "gaussian": gaussian}
