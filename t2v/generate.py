"""From a request to films: start reading here.

    prompt ─ text tower ─▶ context ─┐
    seed ─── noise ───────▶ x ──▶ denoise, step by step ──▶ latents ─ autoencoder ─▶ frames ──▶ film
"""

import time
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from t2v.companions import Companions, companions
from t2v.errors import RequestError
from t2v.guidance import Denoiser, guided
from t2v.hosts import Host
from t2v.infotext import infotext
from t2v.memory import placed, shortage_explained
from t2v.models import Model
from t2v.models.embeddings import taught
from t2v.models.lora.merge import Mixture, changes_of, mixed
from t2v.prompt import Contexts, contexts
from t2v.request import VideoRequest
from t2v.sampling import Sampler, find_sampler, seeded_noise
from t2v.schedule import find_spacing
from t2v.video import check_film, next_path, write_film

T = TypeVar("T")


class Watch:
    """How a caller follows a generation and stops it.

    Setting `stopped` ends everything within one step or frame, with a film of what there is by then. Setting `skipped`
    gives up the item at hand and goes on with the next.
    """

    stopped = False
    skipped = False

    def begin(self, item: int, items: int) -> None:
        """Item number `item` of `items` is next; they count from 0."""

    def tick(self, stage: str, done: int, total: int, x0: Tensor | None = None) -> None:
        """`done` of `total` parts of a stage are over; `x0` is the latest estimate of the latents, 1 c f h w."""


@dataclass(frozen=True)
class Film:
    """What came of a request: the file, and the request that makes it again."""

    path: Path
    request: VideoRequest
    infotext: str
    seconds: float
    interrupted: bool


@dataclass(frozen=True)
class Plan:
    """What a request comes to with a model: names looked up, nothing left open."""

    request: VideoRequest
    beside: Companions
    sampler: Sampler
    sigmas: Tensor
    cfg_scale: float
    shape: tuple[int, int, int, int, int]  # of the latents, 1 c f h w
    fps: float
    extension: str

    @property
    def steps(self) -> int:
        return len(self.sigmas) - 1


def generate(request: VideoRequest, model: Model, host: Host, watch: Watch | None = None) -> Iterator[Film]:
    """The films of `request`, one by one; item i of a batch is the single film of seed + i.

    Stopped, the film at hand is finished from what there is, and is the last.
    """
    watch = watch or Watch()
    filled = replace(request.filled(model.defaults), model=model.name)
    beside, items = companions(filled, model, host), filled.items()
    for number, item in enumerate(items):
        watch.begin(number, len(items))
        with shortage_explained(f"{item.frames} frames of {item.width}x{item.height} with the model {model.name}"):
            film = make_film(planned(item, model, beside), model, host, watch)
        watch.skipped = False
        if film is not None:
            yield film
        if watch.stopped:
            return


def planned(request: VideoRequest, model: Model, beside: Companions) -> Plan:
    """RequestError for what only registries and the model can tell, before any work is done."""
    fps, factor = given(request.fps, "fps"), model.vae.factor
    return Plan(
        request=request,
        beside=beside,
        sampler=find_sampler(given(request.sampler, "sampler")),
        sigmas=find_spacing(given(request.spacing, "spacing"))(model.schedule, given(request.steps, "steps")),
        cfg_scale=given(request.cfg_scale, "cfg_scale"),
        shape=(1, model.unet.config.in_dim, given(request.frames, "frames"),
               given(request.height, "height") // factor, given(request.width, "width") // factor),
        fps=fps,
        extension=check_film(request.format, fps, request.soundtrack).extension,
    )


@torch.inference_mode()
def make_film(plan: Plan, model: Model, host: Host, watch: Watch) -> Film | None:
    """One film; None if it was skipped, or stopped before there was anything to see."""
    began, loras = time.monotonic(), plan.beside.loras
    with mixed(model.text, changes_of(loras, "text")) as mixture, placed(model.text, host.device, host.dtype):
        watch.tick("encode", 0, 1)
        mixture.at(0)
        prompts = encode(plan, model, host)
        watch.tick("encode", 1, 1)

    with mixed(model.unet, changes_of(loras, "unet")) as mixture, placed(model.unet, host.device, host.dtype):
        latents = denoise(plan, prompts, mixture, model, host, watch)
    if latents is None:
        return None

    with placed(model.vae, host.device, host.vae_dtype):
        text = infotext(plan.request, model_hash=model.hash, **({"interrupted": "yes"} if watch.stopped else {}))
        request = plan.request
        path = write_film(
            decode(latents.to(host.vae_dtype), model, watch),
            next_path(host.outputs, request.prompt, request.seed, plan.extension),
            plan.fps,
            quality=request.quality,
            infotext=text if host.settings.metadata else "",
            soundtrack=request.soundtrack,
        )
    return Film(path, request, text, time.monotonic() - began, watch.stopped or watch.skipped)


def encode(plan: Plan, model: Model, host: Host) -> list[Contexts]:
    """What the prompt and the negative prompt say at every step."""
    def tower(tokens: Tensor) -> Tensor:
        return model.text(tokens.to(host.device), host.dtype)

    with taught(model.text, plan.beside.vectors):
        return contexts(plan.beside.prompts, plan.steps, tower, words=plan.beside.words)


def denoise(
    plan: Plan, prompts: list[Contexts], mixture: Mixture, model: Model, host: Host, watch: Watch
) -> Tensor | None:
    """Latents 1 c f h w out of the seed's noise; stopped, the estimate so far; None before the first, and skipped."""
    levels = (-plan.sigmas).tolist()

    def denoiser(prompt: Contexts) -> Denoiser:
        def context_at(sigma: float) -> Tensor:
            return prompt.at(bisect_right(levels, -sigma) - 1)  # of the step that starts at sigma, or that it lies in

        return Denoiser(model.unet, model.schedule, context_at, host.dtype)

    positive, negative = map(denoiser, prompts)
    noise = seeded_noise(plan.request.seed)
    start = model.schedule.from_network(noise(torch.empty(plan.shape, device=host.device)), plan.sigmas[0])
    guide = guided(positive, negative, plan.cfg_scale)
    watch.tick("denoise", 0, plan.steps)
    if watch.stopped or watch.skipped:
        return None
    mixture.at(0)
    for done, step in enumerate(plan.sampler(guide, start, plan.sigmas, noise, plan.request.eta), start=1):
        watch.tick("denoise", done, plan.steps, step.x0)
        if watch.skipped:
            return None
        if watch.stopped:
            return step.x0
        mixture.at(min(done, plan.steps - 1) / plan.steps)
    return model.schedule.to_network(step.x, plan.sigmas[-1])


def decode(latents: Tensor, model: Model, watch: Watch) -> Iterator[NDArray[np.uint8]]:
    """The frames h w 3 of latents 1 c f h w, one at a time, so that no film is too long for the memory.

    A stop or skip in here ends the film with the frame at hand; after a stop before, all frames are still shown.
    """
    frames, stoppable = latents[0].transpose(0, 1), not watch.stopped
    watch.tick("decode", 0, len(frames))
    for done, latent in enumerate(frames, start=1):
        yield to_uint8(model.vae.decode(latent[None])[0])
        watch.tick("decode", done, len(frames))
        if stoppable and (watch.stopped or watch.skipped):
            return


def to_uint8(picture: Tensor) -> NDArray[np.uint8]:
    """A picture 3 h w in -1..1 as h w 3 in 0..255, to the nearest level."""
    return ((picture.permute(1, 2, 0).float() + 1) * 127.5).clamp(0, 255).round().to("cpu", torch.uint8).numpy()


def given(value: T | None, name: str) -> T:
    """The value of a setting that by now must have one."""
    if value is None:
        raise RequestError(name, "is not set, and the model has no default for it")
    return value
