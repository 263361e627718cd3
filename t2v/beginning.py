"""The inputs of a film read into latents: what it starts from, what it holds, what it goes on from."""

from collections.abc import Iterable
from itertools import islice

import torch
import torch.nn.functional as F
from torch import Tensor

from t2v.fitting import find_fit, lightness
from t2v.hosts import Host
from t2v.latents import Frame, encoded
from t2v.lean import LeanVAE
from t2v.plan import Plan
from t2v.start import Hold, Start
from t2v.watch import Watch


class Reader:
    """Reads the inputs of a plan. `vae`: its model's autoencoder, at work."""

    def __init__(self, plan: Plan, vae: LeanVAE, host: Host, watch: Watch) -> None:
        self.plan, self.vae, self.host, self.watch, self.inputs = plan, vae, host, watch, plan.inputs
        self.size, self.fit = plan.size, find_fit(plan.request.fit)
        clips = (self.inputs.film, self.inputs.ending)
        self.total = len(self.inputs.pictures) + sum(clip.frames for clip in clips if clip)
        self.done = 0

    def start(self, base: Tensor | None = None) -> Start:
        """What the film starts from; `base`, the latents of a pass before, takes the place of the input film."""
        if self.total:
            self.watch.tick("read", 0, self.total)
        film = self.latents(self.inputs.film.read(self.size, self.fit)) if self.inputs.film else None
        before = self.inputs.ending
        return Start(
            base=film if base is None else base,
            strength=self.plan.request.strength,
            hold=self.hold(film),
            before=self.latents(before.read(self.size, self.fit)) if before else None,
        )

    def hold(self, film: Tensor | None) -> Hold | None:
        """Held is what the mask leaves of the film, and the pictures in their frames, which win over the film."""
        mask = self.mask()
        known = film if film is not None else torch.zeros(self.plan.shape, device=self.host.device)
        free = mask if film is not None and mask is not None else torch.ones(1, 1, 1, 1, 1, device=self.host.device)
        for picture in self.inputs.pictures:
            own = torch.tensor(picture.free, device=self.host.device)[None, None, :, None, None]
            if film is None and mask is not None:
                own = torch.maximum(own, mask)
            latents = self.latents([picture.read(self.size, self.fit)])
            nearer = own < (free if film is None else 1)
            known, free = torch.where(nearer, latents, known), torch.where(nearer, own, free)
        return Hold(known, free) if self.inputs.pictures or mask is not None else None

    def mask(self) -> Tensor | None:
        """How free each place is, 1 1 f h w or 1 1 1 h w: the lightness of the mask there."""
        clip, (*_, frames, height, width) = self.inputs.mask, self.plan.shape
        if clip is None:
            return None
        needed = islice(clip.standing(self.size, self.fit), frames if clip.frames > 1 else 1)
        light = [torch.tensor(lightness(frame), dtype=torch.float32) for frame in needed]
        return torch.cat([F.adaptive_avg_pool2d(each[None], (height, width)) for each in light])[None, None].clamp(
            0, 1).to(self.host.device)

    def latents(self, frames: Iterable[Frame]) -> Tensor:
        """Latents 1 c f h w of `frames`, of which never more than one is in memory."""
        found = []
        for latent in encoded(frames, self.vae):
            found.append(latent)
            self.done += 1
            self.watch.tick("read", self.done, self.total)
        return torch.stack(found, dim=2)
