"""A second pass over a film: its plan, and the latents of the first in the size of the second."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from t2v.companions import Companions
from t2v.errors import RequestError
from t2v.hosts import Host
from t2v.latents import Frame, encoded, to_uint8
from t2v.lean import LeanVAE
from t2v.models import Model
from t2v.plan import Plan, planned
from t2v.schedule import find
from t2v.watch import Watch
from t2v.windows import second_pass

LARGEST = 4096  # pixels, as in the request

# Latents 1 c f h w of a pass -> 1 c h w for another.
Enlarge = Callable[[Tensor, Plan, Plan, Host, Watch], Iterator[Tensor]]


def refined(plan: Plan, model: Model, beside: Companions, host: Host) -> Plan:
    """`plan` and then a second pass, with `model`, over a film as much larger as the request says.

    The same pictures are held; what the first pass has made takes the place of the input film.
    """
    request, (width, height) = plan.request, plan.size
    width, height = (round(side * request.upscale / 8) * 8 for side in (width, height))
    if max(width, height) > LARGEST:
        raise RequestError("upscale", f"makes a film of {width}x{height}, and {LARGEST} is the most")
    by = find_upscaler(request.upscale_by, host)
    if by is by_latents and plan.model.vae.config != model.vae.config:
        raise RequestError("upscale_by", f"{model.name} and {plan.model.name} have latents of two kinds; choose frames")
    larger = replace(second_pass(request, plan.model.defaults["frames"]), width=width, height=height,
                     strength=request.upscale_strength, free_init=0)
    kept = plan.inputs if plan.inputs.mask else replace(plan.inputs, film=None)
    then = planned(larger, model, beside, kept)
    return replace(plan, then=replace(then, stage="refine"))


def only_enlarging(plan: Plan, host: Host) -> "ByHost | None":
    """The upscaler of the host that is all there is to a second pass, which has no strength to change anything."""
    by = find_upscaler(plan.request.upscale_by, host) if plan.then is not None else None
    return by if isinstance(by, ByHost) and plan.request.upscale_strength == 0 else None


def enlarged(latents: Tensor, plan: Plan, host: Host, watch: Watch) -> Tensor | None:
    """The latents 1 c f h w of a pass in the size of the next, in the way that its request names; None if stopped."""
    assert plan.then is not None
    found: list[Tensor] = []
    watch.tick("enlarge", 0, latents.shape[2])
    for latent in find_upscaler(plan.request.upscale_by, host)(latents, plan, plan.then, host, watch):
        found.append(latent)
        watch.tick("enlarge", len(found), latents.shape[2])
        if watch.stopped or watch.skipped:
            return None
    return torch.stack(found, dim=2)


def by_frames(latents: Tensor, small: Plan, large: Plan, host: Host, watch: Watch) -> Iterator[Tensor]:
    """Decoded, enlarged as pictures are, and encoded again, frame by frame. Any two models can work together so."""
    width, height = large.size
    with autoencoders(small, large, host, watch) as (decoder, encoder):
        for latent in latents.unbind(2):
            picture = decoder.decode(latent).float()
            picture = F.interpolate(picture, (height, width), mode="bicubic", antialias=True).clamp(-1, 1)
            yield encoder.encode(picture)


@contextmanager
def autoencoders(small: Plan, large: Plan, host: Host, watch: Watch) -> Iterator[tuple[LeanVAE, LeanVAE]]:
    """Those of both passes, at work; where they are one, its weights are on the device once."""
    with (LeanVAE(small.model.vae, small.memory, small.shape[3:], host, watch.note) as decoder,
          LeanVAE(large.model.vae, large.memory, large.shape[3:], host, watch.note, "encoding") as encoder):
        yield decoder, encoder


def by_latents(latents: Tensor, _small: Plan, large: Plan, _host: Host, _watch: Watch) -> Iterator[Tensor]:
    """The latents themselves, bilinear: no detour, softer, and for models that share an autoencoder."""
    for latent in latents.unbind(2):
        yield F.interpolate(latent, large.shape[-2:], mode="bilinear", antialias=True)


@dataclass(frozen=True)
class ByHost:
    """An upscaler of the host, by its name there."""

    name: str

    def __call__(self, latents: Tensor, small: Plan, large: Plan, host: Host, watch: Watch) -> Iterator[Tensor]:
        """As `by_frames`."""
        with autoencoders(small, large, host, watch) as (decoder, encoder):
            frames = (to_uint8(decoder.decode(latent)[0]) for latent in latents.unbind(2))
            yield from encoded(self.frames(frames, large.size, host), encoder)
        host.collect()  # hosts let go of the weights of an upscaler, but not of the memory that they were in

    def frames(self, frames: Iterable[Frame], size: tuple[int, int], host: Host) -> Iterator[Frame]:
        """`frames` as large as `size`, width and height."""
        for frame in frames:
            yield np.asarray(host.upscaled(Image.fromarray(frame), size, self.name))


def upscalers(host: Host) -> dict[str, Enlarge]:
    """The ways between two passes: ours, and then those that are `host`'s, by their names there."""
    return UPSCALERS | {name: ByHost(name) for name in host.upscalers if name not in UPSCALERS}


def find_upscaler(name: str, host: Host) -> Enlarge:
    """The way called `name`; RequestError with the choices if there is none."""
    known = upscalers(host)  # files of the host may differ in nothing but a dash, so what is spelt exactly comes first
    return known[name] if name in known else find(known, "upscale_by", name)


UPSCALERS: dict[str, Enlarge] = {"frames": by_frames, "latents": by_latents}
