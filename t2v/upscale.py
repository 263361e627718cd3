"""A second pass over a film: its plan, and the latents of the first in the size of the second."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from t2v.companions import Companions
from t2v.errors import RequestError
from t2v.hosts import Host
from t2v.memory import placed
from t2v.models import Model
from t2v.plan import Plan, planned
from t2v.schedule import find
from t2v.watch import Watch

LARGEST = 4096  # pixels, as in the request

Enlarge = Callable[[Tensor, Plan, Plan, Host], Iterator[Tensor]]  # latents 1 c f h w of a pass -> 1 c h w for another


def refined(plan: Plan, model: Model, beside: Companions) -> Plan:
    """`plan` and then a second pass, with `model`, over a film as much larger as the request says.

    The same pictures are held; what the first pass has made takes the place of the input film.
    """
    request, (width, height) = plan.request, plan.size
    width, height = (round(side * request.upscale / 8) * 8 for side in (width, height))
    if max(width, height) > LARGEST:
        raise RequestError("upscale", f"makes a film of {width}x{height}, and {LARGEST} is the most")
    find(UPSCALERS, "upscale_by", request.upscale_by)
    if request.upscale_by == "latents" and plan.model.vae.config != model.vae.config:
        raise RequestError("upscale_by", f"{model.name} and {plan.model.name} have latents of two kinds; choose frames")
    window = request.window or (plan.model.defaults["frames"] if request.depth else 0)  # as long as the parts were
    overlap = min(request.overlap, max(window - 1, 0)) if request.depth else request.overlap
    larger = replace(request, width=width, height=height, strength=request.upscale_strength, window=window,
                     overlap=overlap, depth=0, free_init=0)
    then = planned(larger, model, beside)
    kept = plan.inputs if plan.inputs.mask else replace(plan.inputs, film=None)
    return replace(plan, then=replace(then, stage="refine", inputs=kept))


def enlarged(latents: Tensor, plan: Plan, host: Host, watch: Watch) -> Tensor | None:
    """The latents 1 c f h w of a pass in the size of the next, in the way that its request names; None if stopped."""
    assert plan.then is not None
    found: list[Tensor] = []
    watch.tick("enlarge", 0, latents.shape[2])
    for latent in find(UPSCALERS, "upscale_by", plan.request.upscale_by)(latents, plan, plan.then, host):
        found.append(latent)
        watch.tick("enlarge", len(found), latents.shape[2])
        if watch.stopped or watch.skipped:
            return None
    return torch.stack(found, dim=2)


def by_frames(latents: Tensor, small: Plan, large: Plan, host: Host) -> Iterator[Tensor]:
    """Decoded, enlarged as pictures are, and encoded again, frame by frame. Any two models can work together so."""
    (width, height), dtype = large.size, host.vae_dtype
    with placed(small.model.vae, host.device, dtype), placed(large.model.vae, host.device, dtype):
        for latent in latents.unbind(2):
            picture = small.model.vae.decode(latent.to(dtype)).float()
            picture = F.interpolate(picture, (height, width), mode="bicubic", antialias=True).clamp(-1, 1)
            yield large.model.vae.encode(picture.to(dtype)).float()


def by_latents(latents: Tensor, _small: Plan, large: Plan, _host: Host) -> Iterator[Tensor]:
    """The latents themselves, bilinear: no detour, softer, and for models that share an autoencoder."""
    for latent in latents.unbind(2):
        yield F.interpolate(latent, large.shape[-2:], mode="bilinear", antialias=True)


UPSCALERS: dict[str, Enlarge] = {"frames": by_frames, "latents": by_latents}
