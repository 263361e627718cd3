"""How much signal and how much noise: what a network was trained on, and which noise levels a sampler visits.

A network knows x_t = alphas[t] x0 + sigmas[t] eps at the timesteps t = 0 ... T-1. Samplers know neither t nor alphas:
they work on x = x_t / alphas[t] = x0 + sigma eps (Karras et al. 2022), where sigma = sigmas[t] / alphas[t] is the noise
level. A table that does not preserve variance (alphas^2 + sigmas^2 other than 1) is then simply another table.

    betas ── SCHEDULES ──▶ Schedule ── SPACINGS ──▶ sigmas of the steps, descending
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeVar

import torch
from torch import Tensor

from t2v.errors import RequestError, T2VError

Prediction = Literal["eps", "v", "x0"]
Spacing = Callable[["Schedule", int], Tensor]
Entry = TypeVar("Entry")

# A terminal SNR of exactly zero would be an infinite noise level. With this alpha instead of 0, sigma is 4096, and what
# the network sees is still noise but for 0.0002 x0.
ALMOST_ZERO_ALPHA = 2.0**-12


@dataclass(frozen=True, eq=False)
class Schedule:
    """What a network was trained on: x_t = alphas[t] x0 + sigmas[t] eps, and what it says when it sees x_t.

    alphas, sigmas: float64 [T] on the CPU, T >= 2; their quotient, the noise level, rises with every timestep.
    prediction: "eps", "x0", or "v" = alphas[t] eps - sigmas[t] x0 (Salimans & Ho 2022).
    """

    alphas: Tensor
    sigmas: Tensor
    prediction: Prediction = "eps"

    def __post_init__(self) -> None:
        levels = self.noise_levels
        if len(levels) < 2 or not (levels.isfinite().all() and levels[0] > 0 and (levels.diff() > 0).all()):
            raise T2VError("the noise schedule of the model is damaged: noise must grow with every timestep")

    @cached_property
    def noise_levels(self) -> Tensor:
        """sigma of every timestep, float64 [T], ascending."""
        return self.sigmas / self.alphas

    def noise_level(self, timestep: Tensor | float) -> Tensor:
        """sigma at a timestep, which may lie between two: log sigma is linear there. The table's ends hold beyond."""
        last = len(self.noise_levels) - 1
        timestep = torch.as_tensor(timestep, dtype=torch.float64).clamp(0, last)
        low = timestep.long()
        high, part = (low + 1).clamp(max=last), timestep - low
        return self.noise_levels[low] ** (1 - part) * self.noise_levels[high] ** part

    def timestep(self, sigma: Tensor | float) -> Tensor:
        """The timestep, whole or not, that has this noise level: the inverse of `noise_level`, exact on the table."""
        sigma = torch.as_tensor(sigma, dtype=torch.float64)
        low = (torch.searchsorted(self.noise_levels, sigma, right=True) - 1).clamp(0, len(self.noise_levels) - 2)
        floor, ceiling = self.noise_levels[low], self.noise_levels[low + 1]
        return low + ((sigma / floor).log() / (ceiling / floor).log()).clamp(0, 1)

    def alpha(self, sigma: Tensor | float) -> Tensor:
        """alpha at a noise level: exact on the table, and 1 without noise.

        alpha = length / sqrt(1 + sigma^2), where length = sqrt(alphas^2 + sigmas^2) is linear between timesteps. So
        alpha is exact everywhere if variance is preserved, because then all lengths are 1.
        """
        sigma = torch.as_tensor(sigma, dtype=torch.float64)
        timestep, lengths = self.timestep(sigma), torch.hypot(self.alphas, self.sigmas)
        low = timestep.long().clamp(max=len(lengths) - 2)
        length = torch.lerp(lengths[low], lengths[low + 1], timestep - low)
        return torch.where(sigma > 0, length / (1 + sigma**2).sqrt(), 1.0)

    def to_network(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        """x_t = alpha x: from the coordinates of the samplers to those of the network, at noise level sigma."""
        return x * float(self.alpha(sigma))

    def from_network(self, x_t: Tensor, sigma: Tensor | float) -> Tensor:
        """x = x_t / alpha. Sampling from nothing begins at from_network(noise, sigmas[0]): x_t is the noise itself."""
        return x_t / float(self.alpha(sigma))


# ---- betas -> Schedule; beta_t is the share of variance that timestep t replaces by noise ----


def from_betas(betas: Tensor, prediction: Prediction = "eps", zero_terminal_snr: bool = False) -> Schedule:
    """The variance-preserving schedule alphas[t]^2 = prod (1 - beta) of Ho et al. 2020, from betas [T].

    zero_terminal_snr moves and scales alphas so that the last is (almost) 0 and the first stays (Lin et al. 2023,
    algorithm 1). A network that predicts eps has nothing to say about x0 there: use it with "v" or "x0".
    """
    alphas = (1 - betas.double()).cumprod(0).sqrt()
    if zero_terminal_snr:
        alphas = (alphas - alphas[-1]) * (alphas[0] / (alphas[0] - alphas[-1]))
        alphas[-1] = ALMOST_ZERO_ALPHA
    return Schedule(alphas, (1 - alphas**2).sqrt(), prediction)


def linear(
    beta_start: float = 0.0001,
    beta_end: float = 0.02,
    timesteps: int = 1000,
    prediction: Prediction = "eps",
    zero_terminal_snr: bool = False,
) -> Schedule:
    """Betas that rise linearly (Ho et al. 2020)."""
    betas = torch.linspace(beta_start, beta_end, timesteps, dtype=torch.float64)
    return from_betas(betas, prediction, zero_terminal_snr)


def scaled_linear(
    beta_start: float = 0.00085,
    beta_end: float = 0.012,
    timesteps: int = 1000,
    prediction: Prediction = "eps",
    zero_terminal_snr: bool = False,
) -> Schedule:
    """Betas whose roots rise linearly; as it stands, what ModelScope and Stable Diffusion were trained on."""
    betas = torch.linspace(math.sqrt(beta_start), math.sqrt(beta_end), timesteps, dtype=torch.float64) ** 2
    return from_betas(betas, prediction, zero_terminal_snr)


def squaredcos_cap_v2(
    _beta_start: float = 0.0,
    _beta_end: float = 0.999,
    timesteps: int = 1000,
    prediction: Prediction = "eps",
    zero_terminal_snr: bool = False,
) -> Schedule:
    """alphas^2 is a squared cosine, and betas end at 0.999 (Nichol & Dhariwal 2021, eq. 17), whatever they are told."""
    u = torch.linspace(0, 1, timesteps + 1, dtype=torch.float64)
    alphas_squared = torch.cos((u + 0.008) / 1.008 * (math.pi / 2)) ** 2
    betas = (1 - alphas_squared[1:] / alphas_squared[:-1]).clamp(max=0.999)
    return from_betas(betas, prediction, zero_terminal_snr)


def rescaled(schedule: Schedule, end: float, over: int = 400) -> Schedule:
    """The signal made smaller, evenly from 1 at timestep 0 to `end` at `over` - 1 and beyond; noise as it was.

    How VideoCrafter2 was trained (Chen et al. 2024, arXiv 2401.09047), with `end` 0.7.
    """
    if end == 1:
        return schedule
    scale = torch.full_like(schedule.alphas, end)
    scale[:over] = torch.linspace(1, end, over, dtype=scale.dtype)[: len(scale)]
    return Schedule(schedule.alphas * scale, schedule.sigmas, schedule.prediction)


# ---- Schedule -> the noise levels of so many steps; float64 [steps + 1], strictly descending ----


def modelscope(schedule: Schedule, steps: int) -> Tensor:
    """ModelScope's own: the timesteps 1 + k (T // steps), and the end at timestep 0, where a little noise is left.

    Always exactly `steps` steps. modelscope itself takes more where `steps` does not divide T, 31 for 30, because it
    fills the whole table with strides of T // steps.
    """
    return torch.cat([schedule.noise_level(strided(schedule, steps)), schedule.noise_levels[:1]])


def leading(schedule: Schedule, steps: int) -> Tensor:
    """The timesteps 1 + k (T // steps), then no noise: "leading" with steps_offset = 1 in diffusers."""
    return to_zero(schedule.noise_level(strided(schedule, steps)))


def linspace(schedule: Schedule, steps: int) -> Tensor:
    """Evenly spaced timesteps from T - 1 to 0, whole or not, then no noise (k-diffusion's default)."""
    last = checked(schedule, steps) - 1
    return to_zero(schedule.noise_level(torch.linspace(last, 0, steps, dtype=torch.float64)))


def trailing(schedule: Schedule, steps: int) -> Tensor:
    """The timesteps k T / steps - 1 for k = steps ... 1, rounded, then no noise (Lin et al. 2023, table 2)."""
    count = checked(schedule, steps)
    return to_zero(schedule.noise_level((torch.arange(steps, 0, -1, dtype=torch.float64) * count / steps).round() - 1))


def lcm(schedule: Schedule, steps: int, distilled: int = 50) -> Tensor:
    """Evenly chosen from the 50 timesteps on which consistency models are distilled, then no noise (Luo et al. 2023).

    With more steps than those, as many as needed.
    """
    count = checked(schedule, steps)
    grid = min(count, max(distilled, steps))
    timesteps = torch.arange(grid, 0, -1, dtype=torch.float64) * (count // grid) - 1
    return to_zero(schedule.noise_level(timesteps[torch.arange(steps) * grid // steps]))


def karras(schedule: Schedule, steps: int, rho: float = 7.0) -> Tensor:
    """sigma^(1 / rho) evenly spaced over the table, then no noise (Karras et al. 2022, eq. 5)."""
    checked(schedule, steps)
    low, high = schedule.noise_levels[0] ** (1 / rho), schedule.noise_levels[-1] ** (1 / rho)
    return to_zero((high + torch.linspace(0, 1, steps, dtype=torch.float64) * (low - high)) ** rho)


def checked(schedule: Schedule, steps: int) -> int:
    """T, the number of timesteps; RequestError unless 1 <= steps <= T."""
    count = len(schedule.noise_levels)
    if not 1 <= steps <= count:
        raise RequestError("steps", f"must be between 1 and {count}, the timesteps of this model, not {steps}")
    return count


def strided(schedule: Schedule, steps: int) -> Tensor:
    """The timesteps 1 + k (T // steps) for k = steps-1 ... 0."""
    count = checked(schedule, steps)
    timesteps = 1 + torch.arange(steps - 1, -1, -1, dtype=torch.float64) * (count // steps)
    # Only with steps = T is the highest past the table: then all are drawn together a little.
    return timesteps * min(1.0, (count - 1) / float(timesteps[0]))


def to_zero(sigmas: Tensor) -> Tensor:
    """The same noise levels, and at last none."""
    return torch.cat([sigmas, sigmas.new_zeros(1)])


# ---- names ----


def find(registry: Mapping[str, Entry], field: str, name: str) -> Entry:
    """The entry called `name`, however it is capitalised, spaced or punctuated; RequestError about `field` if none."""
    entries = {plain(known): entry for known, entry in registry.items()}
    if plain(name) not in entries:
        raise RequestError(field, f"there is no {name!r}; choose one of {', '.join(registry)}")
    return entries[plain(name)]


def plain(name: str) -> str:
    """Letters and digits only, in small letters: "DPM++ 2M" is "dpm2m", also after a URL turned its + into spaces."""
    return "".join(letter for letter in name.casefold() if letter.isalnum())


def find_spacing(name: str) -> Spacing:
    """The spacing called `name`; RequestError with the choices if there is none."""
    return find(SPACINGS, "spacing", name)


SCHEDULES: dict[str, Callable[[float, float, int, Prediction, bool], Schedule]] = {
    "linear": linear,
    "scaled_linear": scaled_linear,
    "squaredcos_cap_v2": squaredcos_cap_v2,
}

SPACINGS: dict[str, Spacing] = {
    "modelscope": modelscope,
    "leading": leading,
    "linspace": linspace,
    "trailing": trailing,
    "karras": karras,
    "lcm": lcm,
}
