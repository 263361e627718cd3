"""From noise to latents: whatever a film is made of, every part of it goes through here."""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from math import ceil

import torch
from torch import Tensor

from t2v import weaving
from t2v.freeinit import reinitialised
from t2v.guidance import Denoiser, between, guided
from t2v.hosts import Host
from t2v.lean import LeanUNet
from t2v.plan import Plan
from t2v.prompt import Contexts
from t2v.ring import ring
from t2v.sampling import Denoise, seeded_noise
from t2v.start import GUESSED, Start, skipped
from t2v.story import Told
from t2v.watch import Watch
from t2v.windows import part_size, windowed

Words = Callable[[Sequence[int]], Contexts | Told]  # frames of a film -> what a prompt says in them, at every step


class Denoising:
    """One pass over a film: `latents` makes it. `network`: the UNet of the plan, at work."""

    def __init__(self, plan: Plan, words: list[Words], network: LeanUNet, host: Host, watch: Watch) -> None:
        self.plan, self.words, self.network, self.host, self.watch = plan, words, network, host, watch
        self.noise = seeded_noise(plan.request.seed)
        self.levels = (-plan.sigmas).tolist()
        self.done = self.total = 0

    def latents(self, start: Start) -> Tensor | None:
        """Latents 1 c f h w; stopped, the estimate so far; None before the first, and skipped."""
        frames, window, depth = self.plan.shape[2], self.window(start.held), self.plan.request.depth
        self.total = self.rounds * self.count(start)
        self.watch.tick(self.plan.stage, 0, self.total)
        make = partial(self.part, start)
        if start.before is not None:
            latents = weaving.continued(start.before, frames, window, make)
        elif depth:
            latents = weaving.woven(frames, window, depth, make)
        else:
            latents = self.film(range(frames), start)
        return None if self.watch.skipped else latents

    def count(self, start: Start) -> int:
        """The steps that a round takes."""
        frames, window, steps = self.plan.shape[2], self.window(start.held), self.plan.steps
        own = steps - start.step(steps)
        if start.before is not None and window:
            return own * -(-frames // (window - start.before.shape[2]))
        guessed = steps - skipped(steps, GUESSED)
        return own + guessed * (weaving.parts(frames, window, self.plan.request.depth) - 1)

    @property
    def rounds(self) -> int:
        return max(1, self.plan.request.free_init)

    def window(self, held: int) -> int:
        """Frames of a part, where a film is made of several."""
        return part_size(self.plan.request, self.plan.model.defaults["frames"], held)

    def part(self, start: Start, part: weaving.Part) -> Tensor | None:
        """A part of a film of which `start` is the start."""
        return self.film(part.frames, start.part(part.frames, part.known, part.guess, self.like(part.frames)))

    def like(self, frames: range) -> Tensor:
        """Latents of some frames, of any value."""
        _, channels, _, height, width = self.plan.shape
        return torch.empty(1, channels, len(frames), height, width, device=self.host.device)

    @property
    def over(self) -> bool:
        return self.watch.stopped or self.watch.skipped

    def film(self, frames: range, start: Start) -> Tensor | None:
        """The latents of some frames of the film: once, or as often as FreeInit wants."""
        plan, schedule, like = self.plan, self.plan.model.schedule, self.like(frames)
        first = noise = plan.noise(self.noise, like, plan.windows)
        latents = self.sampled(frames, start, noise)
        for _ in range(self.rounds - 1):
            if latents is None or self.over:
                break
            noise = reinitialised(latents, first, self.noise(like), schedule)
            latents = self.sampled(frames, start, noise)
        return latents

    def sampled(self, frames: range, start: Start, noise: Tensor) -> Tensor | None:
        """Step by step from `noise` to latents."""
        plan, schedule, first = self.plan, self.plan.model.schedule, start.step(self.plan.steps)
        if self.over:
            return None
        if start.base is not None and first == plan.steps:
            return start.kept(start.base, plan.sigmas)
        x = start.x(noise, schedule, plan.sigmas)
        self.network.forget()
        denoise = start.denoise(windowed(self.denoiser, frames, plan.windows), plan.sigmas)
        self.network.at(first / plan.steps)
        with ring(plan.model.unet) if plan.request.loop and not plan.windows.several(len(frames)) else nullcontext():
            for number, step in enumerate(
                    plan.sampler(denoise, x, plan.sigmas[first:], self.noise, plan.request.eta), start=first + 1):
                x = step.x
                self.done += 1
                self.watch.tick(plan.stage, self.done, self.total, step.x0)
                if self.watch.skipped:
                    return None
                if self.watch.stopped:
                    return step.x0
                self.network.at(min(number, plan.steps - 1) / plan.steps)
        return start.kept(schedule.to_network(x, plan.sigmas[-1]), plan.sigmas)

    def denoiser(self, frames: Sequence[int]) -> Denoise:
        """What the network makes of `frames` and of what the prompts say in them, with guidance."""
        def of(words: Words) -> Denoiser:
            said, network = words(frames), self.network.seeing((*frames, words), self.plan.request.reuse)

            def context_at(sigma: float) -> Tensor:
                return said.at(bisect_right(self.levels, -sigma) - 1)  # of the step that starts there, or that it is in

            return Denoiser(network, self.plan.model.schedule, context_at, self.host.dtype)

        positive, negative = map(of, self.words)
        both = guided(positive, negative, self.plan.cfg_scale, self.network.both)
        parts = self.plan.request.cfg_from, self.plan.request.cfg_until
        if both is positive or parts == (0, 1):
            return both
        high, low = (float(self.plan.sigmas[ceil(part * self.plan.steps - 1e-4)]) for part in parts)
        return between(both, positive, high, low)
