"""Samplers: how noise becomes latents, step by step.

All work in the coordinates of Karras et al. 2022: x = x0 + sigma eps, and a denoiser that estimates x0 from x and
sigma. Whatever the network predicts, whichever guidance it gets: that is inside `denoise` (see guidance.py).

Most steps below have one shape. On the way from sigma to the next level keep a part of the noise that is there, and
fill up with fresh noise:

    x' = x0 + (down / sigma) (x - x0) + up * noise        with down^2 + up^2 = next sigma^2

`torch.lerp(x0, x, down / sigma)` is its first half. Samplers differ in which x0 they take, and in `up`.

A sampler yields after every step, len(sigmas) - 1 times; progress, preview and stopping belong to whoever iterates.
The last of `sigmas` may be 0 or not. Levels are Python floats, so x keeps its dtype, and no device has to know float64.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from math import expm1, log, sqrt
from typing import NamedTuple

import torch
from torch import Tensor

from t2v.schedule import find

Denoise = Callable[[Tensor, float], Tensor]  # (x, sigma) -> x0, both b c f h w
Noise = Callable[[Tensor], Tensor]  # fresh standard normal numbers: shape, dtype and device of the argument


class Step(NamedTuple):
    """x after a step, and the latest x0 that led there, for previews and for stopping early; b c f h w."""

    x: Tensor
    x0: Tensor


Sampling = Callable[[Denoise, Tensor, Tensor, Noise, float], Iterator[Step]]


def seeded_noise(seed: int) -> Noise:
    """Noise that a seed determines: float32 from the CPU's generator, so that every device gets the same numbers.

    The first call is for the start of the film, the following for its steps.
    """
    generator = torch.Generator().manual_seed(seed)

    def noise(x: Tensor) -> Tensor:
        return torch.randn(x.shape, generator=generator, dtype=torch.float32).to(x.device, x.dtype)

    return noise


# ---- one estimate a step ----


def ddim(denoise: Denoise, x: Tensor, sigmas: Tensor, noise: Noise, eta: float) -> Iterator[Step]:
    """DDIM (Song et al. 2021, eq. 12 and 16), divided by alpha: four samplers in one.

    eta = 0 is Euler's method for dx/dsigma = (x - x0) / sigma (Karras et al. 2022, eq. 1 and 3). eta = 1 draws from the
    posterior q(x' | x, x0) of DDPM (Ho et al. 2020, eq. 6 and 7), called Euler ancestral in k-diffusion.
    """
    for sigma, next_sigma in pairwise(sigmas.tolist()):
        x0 = denoise(x, sigma)
        down, up = ancestral(sigma, next_sigma, eta)
        x = torch.lerp(x0, x, down / sigma)
        if up:
            x = x + up * noise(x)
        yield Step(x, x0)


def ancestral(sigma: float, next_sigma: float, eta: float) -> tuple[float, float]:
    """(down, up): the noise to keep, and the noise to draw, eta times the standard deviation of q(x' | x, x0)."""
    up = min(next_sigma, eta * next_sigma * sqrt(1 - (next_sigma / sigma) ** 2))
    return sqrt(next_sigma**2 - up**2), up


def lcm(denoise: Denoise, x: Tensor, sigmas: Tensor, noise: Noise, _eta: float) -> Iterator[Step]:
    """Multistep consistency sampling (Song et al. 2023, algorithm 1; Luo et al. 2023): make x0 noisy again.

    LCMs mean c_skip(t) x + c_out(t) x0. This is left out, because c_skip < 1e-5 and c_out > 0.99999 from t = 16 on.
    """
    for sigma, next_sigma in pairwise(sigmas.tolist()):
        x0 = denoise(x, sigma)
        x = x0 + next_sigma * noise(x0)
        yield Step(x, x0)


# ---- two estimates a step ----


def heun(denoise: Denoise, x: Tensor, sigmas: Tensor, _noise: Noise, _eta: float) -> Iterator[Step]:
    """Heun's method (Karras et al. 2022, algorithm 1): Euler's step again, with the mean of the slopes at its ends.

    Two estimates a step; one in a last step to sigma = 0, where there is no slope.
    """
    for sigma, next_sigma in pairwise(sigmas.tolist()):
        x0 = denoise(x, sigma)
        euler = torch.lerp(x0, x, next_sigma / sigma)
        if next_sigma:
            slope = (x - x0) / sigma
            x0 = denoise(euler, next_sigma)
            x = x + (next_sigma - sigma) * (slope + (euler - x0) / next_sigma) / 2
        else:
            x = euler
        yield Step(x, x0)


def dpm_sde(denoise: Denoise, x: Tensor, sigmas: Tensor, noise: Noise, eta: float) -> Iterator[Step]:
    """DPM-Solver++ for the SDE, single step, r = 1/2 (Lu et al. 2022), as "DPM++ SDE" in k-diffusion.

    An ancestral step to the middle of the way in log sigma shows the x0 for the whole way. Two estimates a step; one in
    a last step to sigma = 0, which has no middle.
    """
    for sigma, next_sigma in pairwise(sigmas.tolist()):
        x0 = denoise(x, sigma)
        if next_sigma:
            middle = sqrt(sigma * next_sigma)
            first, whole = brownian(noise, x, sigma, middle, next_sigma)
            down, up = ancestral(sigma, middle, eta)
            x0 = denoise(torch.lerp(x0, x, down / sigma) + up * first, middle)
            down, up = ancestral(sigma, next_sigma, eta)
            x = torch.lerp(x0, x, down / sigma) + up * whole
        else:
            x = x0
        yield Step(x, x0)


def brownian(noise: Noise, x: Tensor, sigma: float, middle: float, next_sigma: float) -> tuple[Tensor, Tensor]:
    """Noise of the way from sigma to middle, and of the whole way: increments of one path, each of variance 1.

    The clock of the Brownian motion is sigma, as in k-diffusion.
    """
    first, second = noise(x), noise(x)
    share = (sigma - middle) / (sigma - next_sigma)
    return first, sqrt(share) * first + sqrt(1 - share) * second


# ---- one estimate a step, and the one before ----


class Estimate(NamedTuple):
    """What the denoiser said: x0, at x, at noise level sigma."""

    sigma: float
    x: Tensor
    x0: Tensor


def dpm_2m(denoise: Denoise, x: Tensor, sigmas: Tensor, noise: Noise, eta: float) -> Iterator[Step]:
    """DPM-Solver++(2M), midpoint (Lu et al. 2022, algorithm 2); with eta = 1 its SDE version, as in k-diffusion.

    With h = log(sigma / next sigma), the noise that is kept is exp(-h (1 + eta)) of what there was.
    """
    last: Estimate | None = None
    for sigma, next_sigma in pairwise(sigmas.tolist()):
        now = Estimate(sigma, x, denoise(x, sigma))
        shrunk = next_sigma / sigma
        x = torch.lerp(halfway(now, last, next_sigma), x, shrunk ** (1 + eta))
        up = next_sigma * sqrt(1 - shrunk ** (2 * eta))
        if up:
            x = x + up * noise(x)
        last = now
        yield Step(x, now.x0)


def halfway(now: Estimate, last: Estimate | None, next_sigma: float) -> Tensor:
    """x0 in the middle of the step in log sigma, on the line through the last two estimates.

    The first step has no such line, and the step to sigma = 0 no middle: they take x0 as it is.
    """
    if last is None or next_sigma == 0:
        return now.x0
    h, last_h = log(now.sigma / next_sigma), log(last.sigma / now.sigma)
    return now.x0 + (now.x0 - last.x0) * (h / last_h / 2)


def unipc(denoise: Denoise, x: Tensor, sigmas: Tensor, _noise: Noise, _eta: float) -> Iterator[Step]:
    """UniPC of order 2 for x0, with B(h) = exp(-h) - 1, "bh2" (Zhao et al. 2023): a predictor and a corrector.

    The predictor UniP-2 is the step of DPM-Solver++(2M). Where it has led, the denoiser is asked, and the corrector
    UniC-2 takes the step again with the answer, which also serves the next step: still one estimate a step.
    """
    last: Estimate | None = None
    before: Estimate | None = None
    for sigma, next_sigma in pairwise(sigmas.tolist()):
        now = Estimate(sigma, x, denoise(x, sigma))
        if last is not None:
            now = now._replace(x=corrected(now, last, before))
        x = torch.lerp(halfway(now, last, next_sigma), now.x, next_sigma / sigma)
        last, before = now, last
        yield Step(x, now.x0)


def corrected(now: Estimate, last: Estimate, before: Estimate | None) -> Tensor:
    """UniC: the step from `last` to `now` once more, with x0 bent towards the estimate that it led to."""
    h = log(last.sigma / now.sigma)
    x0 = last.x0 + (now.x0 - last.x0) / 2
    if before is not None:
        last_h = log(before.sigma / last.sigma)
        rho_before, rho_now = unic_weights(h, last_h)
        slope = (last.x0 - before.x0) / last_h
        x0 = last.x0 + rho_before * h * slope + rho_now * (now.x0 - last.x0)
    return torch.lerp(x0, last.x, now.sigma / last.sigma)


def unic_weights(h: float, last_h: float) -> tuple[float, float]:
    """rho of UniC-2: the solution of rho_1 + rho_2 = b_1, r rho_1 + rho_2 = b_2 with r = -last_h / h."""
    r, b = -last_h / h, expm1(-h)
    phi_2 = b / -h - 1
    phi_3 = phi_2 / -h - 1 / 2
    b_1, b_2 = phi_2 / b, 2 * phi_3 / b
    rho_1 = (b_1 - b_2) / (1 - r)
    return rho_1, b_1 - rho_1


# ---- names ----


@dataclass(frozen=True)
class Sampler:
    """A way to sample, as people know it by name.

    eta: fresh noise per step unless someone asks for another amount, which has an effect only if `takes_eta`.
    evaluations: how often a step asks the denoiser; a last step to sigma = 0 always asks once.
    """

    sampling: Sampling
    eta: float = 0.0
    takes_eta: bool = False
    evaluations: int = 1

    def __call__(
        self, denoise: Denoise, x: Tensor, sigmas: Tensor, noise: Noise, eta: float | None = None
    ) -> Iterator[Step]:
        """From x at sigmas[0] to x at sigmas[-1], a Step for each; eta = None means the sampler's own."""
        chosen = eta if self.takes_eta and eta is not None else self.eta
        return self.sampling(denoise, x, sigmas, noise, chosen)


def find_sampler(name: str) -> Sampler:
    """The sampler called `name`; RequestError with the choices if there is none."""
    return find(SAMPLERS, "sampler", name)


SAMPLERS: dict[str, Sampler] = {
    "DDIM": Sampler(ddim, eta=0, takes_eta=True),
    "DDPM": Sampler(ddim, eta=1),
    "Euler": Sampler(ddim, eta=0),
    "Euler a": Sampler(ddim, eta=1, takes_eta=True),
    "Heun": Sampler(heun, evaluations=2),
    "DPM++ 2M": Sampler(dpm_2m, eta=0),
    "DPM++ 2M SDE": Sampler(dpm_2m, eta=1, takes_eta=True),
    "DPM++ SDE": Sampler(dpm_sde, eta=1, takes_eta=True, evaluations=2),
    "UniPC": Sampler(unipc),
    "LCM": Sampler(lcm),
}
