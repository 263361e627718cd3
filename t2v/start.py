"""Where a film begins, and what of it is known beforehand: pictures, another film, the frames that it goes on from.

In the samplers' coordinates x = x0 + sigma eps, a film that is to come close to a known one begins at known + sigma
noise, on the way instead of at its start (Meng et al. 2021, SDEdit). And what is to be kept is held: wherever the
denoiser is asked, its answer is what is known. Whatever a sampler makes of that answer is then what is known with as
much noise as there should be, so that the rest sees it as it would see its own; and without noise, it is what is known.

Between held and free lie parts that are held for a while: those of freedom 0.3 begin to change where a film of
strength 0.3 begins (Levin & Fried 2023, Differential Diffusion, arXiv 2306.00950).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from t2v.sampling import Denoise
from t2v.schedule import Schedule

GUESSED = 0.75  # the strength with which a guess between two known frames becomes a film


def skipped(steps: int, strength: float) -> int:
    """How many of the steps lie behind a film that begins at this strength: all at 0, none at 1."""
    return steps - int(steps * strength + 1e-4)


@dataclass(frozen=True)
class Hold:
    """Latents that are `known`, 1 c f h w, and how `free` each frame or place is of them, 0 held to 1 free: 1 1 f h w,
    where f, h and w may be 1."""

    known: Tensor
    free: Tensor

    def until(self, sigmas: Tensor) -> Tensor:
        """The noise level down to which each part is held, like `free`; -1 for what is never let go."""
        levels = torch.cat([sigmas[:-1], sigmas.new_tensor([-1.0])]).float().to(self.free.device)
        steps = len(sigmas) - 1
        return levels[steps - (steps * self.free + 1e-4).long()]


def held(denoise: Denoise, hold: Hold, sigmas: Tensor) -> Denoise:
    """`denoise` that knows the answer where the film is held, while it is. `sigmas` of all steps."""
    until = hold.until(sigmas)

    def denoise_the_rest(x: Tensor, sigma: float) -> Tensor:
        return torch.where(until < sigma, hold.known, denoise(x, sigma))

    return denoise_the_rest


@dataclass(frozen=True)
class Start:
    """What sampling starts from, and what it keeps. As it stands: noise alone, and nothing.

    base: latents 1 c f h w to stay close to; `strength` is how far to go from them, 1 ignores them.
    before: latents 1 c o h w of what comes before the first frame.
    """

    base: Tensor | None = None
    strength: float = 1.0
    hold: Hold | None = None
    before: Tensor | None = None

    @property
    def frames(self) -> int:
        """How many frames it says something about."""
        return self.hold.known.shape[2] if self.hold else self.base.shape[2] if self.base is not None else 0

    @property
    def held(self) -> int:
        """How many frames come before the first."""
        return 0 if self.before is None else self.before.shape[2]

    def step(self, steps: int) -> int:
        """The first of the `steps` that is taken, counted from 0; `steps` where there is nothing to do."""
        return skipped(steps, self.strength) if self.base is not None else 0

    def part(self, frames: range, known: Mapping[int, Tensor], guess: Tensor | None, like: Tensor) -> "Start":
        """The start of a part of the film, `like` 1 c f h w, in which latents are known by their position."""
        at = torch.tensor(frames, device=like.device)
        inside = ((at >= 0) & (at < self.frames))[:, None, None]
        at = at.clamp(0, max(0, self.frames - 1))
        free, latents = torch.ones_like(like[:, :1]), torch.zeros_like(like)
        if self.hold is not None:
            whole = self.hold.free.expand(-1, -1, self.frames, -1, -1)
            free = torch.where(inside, whole[:, :, at], free)
            latents = self.hold.known[:, :, at].clone()
        base = self.base[:, :, at].clone() if self.base is not None else guess
        for position, latent in known.items():
            free[:, :, position], latents[:, :, position] = 0, latent
            if self.base is not None and base is not None:
                base[:, :, position] = latent
        strength = self.strength if self.base is not None else GUESSED
        return Start(base, strength, Hold(latents, free) if known or self.hold is not None else None)

    def x(self, noise: Tensor, schedule: Schedule, sigmas: Tensor) -> Tensor:
        """Where the sampler begins; `noise` 1 c f h w of unit variance, `sigmas` of all steps."""
        first = self.step(len(sigmas) - 1)
        sigma = float(sigmas[first])
        x = self.base + sigma * noise if self.base is not None and first else schedule.from_network(noise, sigma)
        if self.hold is not None:
            x = torch.where(self.hold.until(sigmas) < sigma, self.hold.known + sigma * noise, x)
        return x

    def kept(self, latents: Tensor, sigmas: Tensor) -> Tensor:
        """`latents` with what was never let go exactly as it is known: schedules may end with a little noise."""
        if self.hold is None:
            return latents
        return torch.where(self.hold.until(sigmas) < 0, self.hold.known, latents)

    def denoise(self, denoise: Denoise, sigmas: Tensor) -> Denoise:
        """`denoise` with what is held in its answer."""
        return denoise if self.hold is None else held(denoise, self.hold, sigmas)
