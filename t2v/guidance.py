"""From a network to the function that samplers ask: `denoise(x, sigma) -> x0`. Whatever changes the answer wraps it."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from t2v.sampling import Denoise
from t2v.schedule import Schedule

Network = Callable[[Tensor, Tensor, Tensor], Tensor]  # (x_t, timestep [b], context) -> eps, v or x0 like x_t
ContextAt = Callable[[float], Tensor]  # sigma -> context, for a prompt that changes on the way
Join = Callable[[Tensor, Tensor], Tensor]  # two contexts -> both, one after the other


@dataclass(frozen=True)
class Denoiser:
    """A network, the schedule it was trained on and what it shall show: denoise(x, sigma) -> x0, b c f h w.

    context: [b n d], or a function of sigma that gives it. The network works in `dtype`; x0 comes back in that of x.
    """

    network: Network
    schedule: Schedule
    context: Tensor | ContextAt
    dtype: torch.dtype = torch.float32

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        """The network's estimate of x0, from x at noise level sigma > 0."""
        timestep = x.new_full(x.shape[:1], float(self.schedule.timestep(sigma)), dtype=torch.float32)
        x_t = self.schedule.to_network(x, sigma).to(self.dtype)
        prediction = self.network(x_t, timestep, self.context_at(sigma).to(self.dtype))
        return self.x0(x, sigma, prediction.to(x.dtype))

    def context_at(self, sigma: float) -> Tensor:
        """The context at noise level sigma."""
        return self.context if isinstance(self.context, Tensor) else self.context(sigma)

    def x0(self, x: Tensor, sigma: float, prediction: Tensor) -> Tensor:
        """x0 from what the network says about x, by x = x0 + sigma eps and v = alpha (eps - sigma x0)."""
        if self.schedule.prediction == "x0":
            return prediction
        if self.schedule.prediction == "eps":
            return x - sigma * prediction
        alpha = float(self.schedule.alpha(sigma))
        return (x - sigma / alpha * prediction) / (1 + sigma**2)


def guided(cond: Denoiser, uncond: Denoiser, cfg_scale: float, join: Join | None = None) -> Denoise:
    """Classifier-free guidance (Ho & Salimans 2022) on all channels: x0_u + cfg_scale (x0_c - x0_u).

    x0 is linear in eps and in v, so this is the same as guiding what the network predicts. cfg_scale = 1 is `cond`
    alone. With `join` the network is told both contexts at once: faster, and more memory. Contexts of unequal length
    cannot be joined; they are told one after the other all the same.
    """
    if cfg_scale == 1:
        return cond

    def denoise(x: Tensor, sigma: float) -> Tensor:
        x0_cond, x0_uncond = together(cond, uncond, x, sigma, join) if join else in_turn(cond, uncond, x, sigma)
        return x0_uncond + cfg_scale * (x0_cond - x0_uncond)

    return denoise


def between(guided: Denoise, cond: Denoise, high: float, low: float) -> Denoise:
    """`guided` at noise levels of high and less, down to but without low; `cond` alone, half the work, elsewhere.

    Guidance in an interval (Kynkäänniemi et al. 2024, arXiv 2404.07724): at high noise it harms, at low it does little.
    """
    return lambda x, sigma: (guided if low < sigma <= high else cond)(x, sigma)


def in_turn(cond: Denoiser, uncond: Denoiser, x: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
    """x0 of both, in two passes of the network."""
    return cond(x, sigma), uncond(x, sigma)


def together(cond: Denoiser, uncond: Denoiser, x: Tensor, sigma: float, join: Join) -> tuple[Tensor, Tensor]:
    """x0 of both, in one pass of the network of `cond` if the contexts have one shape.

    A single film, which is the same for both, is given to the network once.
    """
    contexts = cond.context_at(sigma), uncond.context_at(sigma)
    if contexts[0].shape != contexts[1].shape:
        return in_turn(cond, uncond, x, sigma)
    films = x if len(x) == 1 else torch.cat([x, x])
    x0_cond, x0_uncond = replace(cond, context=join(*contexts))(films, sigma).chunk(2)
    return x0_cond, x0_uncond
