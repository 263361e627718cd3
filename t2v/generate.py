"""From a request to films: start reading here.

    prompt ─ text tower ─▶ words ───────┐
    seed ─── noise ───────▶ x ──▶ denoise, step by step ──▶ latents ─ autoencoder ─▶ frames ──▶ film
    pictures, film, mask ─▶ start ──────┘

What a request comes to is in plan.py, where a film begins in start.py and beginning.py, the steps in denoising.py.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor

from t2v.beginning import Reader
from t2v.companions import companions
from t2v.denoising import Denoising, Words
from t2v.errors import T2VError
from t2v.fitting import find_fit
from t2v.hosts import Host
from t2v.inference import inference
from t2v.infotext import infotext
from t2v.inputs import suggested, told
from t2v.latents import decoded
from t2v.layout import resident_of
from t2v.lean import LeanUNet, LeanVAE, make_room, name_of, safer
from t2v.memory import Ladder, downwards, shortage_explained, text_rungs
from t2v.models import Model
from t2v.models.embeddings import taught
from t2v.models.lora.merge import changes_of, mixed
from t2v.needs import plan_with
from t2v.placement import lower, placed
from t2v.plan import Plan, planned
from t2v.prompt import contexts
from t2v.request import VideoRequest
from t2v.start import Start
from t2v.story import segments
from t2v.story import told as said
from t2v.upscale import enlarged, only_enlarging, refined
from t2v.verdict import largest
from t2v.video import Frame, next_path, write_film
from t2v.video.smoothing import smoothed
from t2v.watch import Watch

__all__ = ["Film", "Watch", "generate"]


@dataclass(frozen=True)
class Film:
    """What came of a request: the file, and the request that makes it again."""

    path: Path
    request: VideoRequest
    infotext: str
    seconds: float
    interrupted: bool
    notes: tuple[str, ...] = ()  # what had to be done differently, because memory ran out for instance


def generate(
    request: VideoRequest, model: Model, host: Host, watch: Watch | None = None, refiner: Model | None = None
) -> Iterator[Film]:
    """The films of `request`, one by one; item i of a batch is the single film of seed + i.

    Stopped, the film at hand is finished from what there is, and is the last. `refiner`: the request's upscale_model.
    """
    watch, refiner = watch or Watch(), refiner or model
    filled = replace(request.filled({**model.defaults, **suggested(request, model.defaults)}), model=model.name)
    beside, items = companions(filled, model, host), filled.items()
    for number, item in enumerate(items):
        watch.begin(number, len(items))
        watch.notes = ()
        wanted = f"{item.frames} frames of {item.width}x{item.height} with the model {model.name}"
        with shortage_explained(wanted, partial(largest, item, host)):
            plan = planned(item, model, beside)
            if item.upscale > 1:
                plan = refined(plan, refiner, beside if refiner is model else companions(item, refiner, host), host)
            with inference(host.device):
                film = make_film(within_memory(plan, host), host, watch)
        watch.skipped = False
        if film is not None:
            yield film
        if watch.stopped:
            return


def make_film(plan: Plan, host: Host, watch: Watch) -> Film | None:
    """One film; None if it was skipped, or stopped before there was anything to see."""
    began, request, name = time.monotonic(), plan.request, plan.model.hash
    latents, upscaler = one_pass(plan, host, watch), only_enlarging(plan, host)
    while latents is not None and upscaler is None and (then := plan.then) is not None:
        if watch.stopped or watch.skipped:
            break
        larger = enlarged(latents, plan, host, watch)
        if larger is not None:
            plan, latents = then, one_pass(then, host, watch, larger)
    if latents is None or watch.skipped:
        return None

    with LeanVAE(plan.model.vae, plan.memory, plan.shape[3:], host, watch.note) as vae:
        frames = decoded(latents, vae, watch)
        if upscaler is not None and plan.then is not None and not watch.stopped:
            frames, plan = upscaler.frames(frames, plan.then.size, host), plan.then
        text = infotext(told(request), model_hash=name, **({"interrupted": "yes"} if watch.stopped else {}))
        path = write_film(
            shown(frames, plan),
            next_path(host.outputs, request.prompt, request.seed, plan.extension),
            request.smooth_fps or plan.fps,
            quality=request.quality,
            infotext=text if host.settings.metadata else "",
            soundtrack=plan.inputs.sound,
            sound_start=plan.inputs.sound_start,
        )
    return Film(path, request, text, time.monotonic() - began, watch.stopped or watch.skipped, watch.notes)


def within_memory(plan: Plan, host: Host) -> Plan:
    """`plan`, and how each pass is made within the memory there is by now."""
    then = within_memory(plan.then, host) if plan.then is not None else None
    own = replace(plan.request, upscale=1.0)  # each pass has its own size
    return replace(plan, memory=plan_with(plan.model, own, host), then=then)


def one_pass(plan: Plan, host: Host, watch: Watch, base: Tensor | None = None) -> Tensor | None:
    """Latents 1 c f h w: from what the prompts say and the inputs are, or `base`, the film of the pass before."""
    if not plan.memory.lifted:
        lower()
    words, start = read_prompts(plan, host, watch), read_inputs(plan, host, watch, base)
    with unet_at_work(plan, host, watch) as unet:
        latents = Denoising(plan, words, unet, host, watch).latents(start)
    return base if latents is None and not watch.skipped else latents


@contextmanager
def unet_at_work(plan: Plan, host: Host, watch: Watch) -> Iterator[LeanUNet]:
    """The UNet with its LoRAs, within the memory that is planned."""
    unet = plan.model.unet
    with (mixed(unet, changes_of(plan.beside.loras, "unet")) as mixture,
          LeanUNet(unet, mixture, plan.memory, host, watch.note) as network):
        yield network


def read_prompts(plan: Plan, host: Host, watch: Watch) -> list[Words]:
    """What the prompt and the negative prompt say, with the text tower at work only for as long as it takes."""
    text = plan.model.text

    def attempt(share: float) -> list[Words]:
        with mixed(text, changes_of(plan.beside.loras, "text")) as mixture, placed(
                text, host.device, host.dtype, resident_of(text, host.dtype, share)):
            mixture.at(0)
            for dtype in safer(host.dtype, host.device):
                with suppress(FloatingPointError):
                    return encode(plan, host, dtype)
                watch.note(f"the prompt came to no numbers in {name_of(dtype)}")
        raise T2VError("what the text encoder says is no numbers, not even in 32 bits: its weights are damaged, or a "
                       "LoRA or an embedding is too strong")

    watch.tick("encode", 0, 1)
    ladder = Ladder(downwards(text_rungs(host.device), plan.memory.text), "reading the prompt",
                    partial(make_room, host, plan.memory.device), watch.note, lambda _: "a text tower that is streamed")
    words = ladder.climb(attempt)
    watch.tick("encode", 1, 1)
    return words


def encode(plan: Plan, host: Host, dtype: torch.dtype | None = None) -> list[Words]:
    """What the prompt and the negative prompt say in each frame, at every step; FloatingPointError where that is
    no numbers in the precision `dtype`, or that of the host."""
    def tower(tokens: Tensor) -> Tensor:
        said: Tensor = plan.model.text(tokens.to(host.device), dtype or host.dtype)
        if not bool(said.isfinite().all()):
            raise FloatingPointError
        return said

    fields = zip(plan.beside.prompts, ("prompt", "negative_prompt"), strict=True)
    stories = [segments(prompt, plan.fps, field) for prompt, field in fields]
    texts = [segment.text for story in stories for segment in story]
    with taught(plan.model.text, plan.beside.vectors):
        parts = iter(contexts(texts, plan.steps, tower, words=plan.beside.words))
    return [partial(said, [next(parts) for _ in story], [segment.start for segment in story],
                    transition=plan.request.transition, around=plan.shape[2] if plan.request.loop else 0)
            for story in stories]


def read_inputs(plan: Plan, host: Host, watch: Watch, base: Tensor | None) -> Start:
    """What the film starts from, with the autoencoder at work only if there is anything."""
    if not plan.inputs and base is None:
        return Start()
    with LeanVAE(plan.model.vae, plan.memory, plan.shape[3:], host, watch.note, "encoding") as vae:
        return Reader(plan, vae, host, watch).start(base)


def shown(frames: Iterator[Frame], plan: Plan) -> Iterator[Frame]:
    """What is seen of the decoded `frames`: only what the mask lets through, after the film that they continue, and
    with others in between."""
    inputs, fit, request = plan.inputs, find_fit(plan.request.fit), plan.request
    frames = inputs.pasted(frames, plan.size, fit)
    if inputs.before:
        frames = chain(inputs.before.read(plan.size, fit), frames)
    return smoothed(frames, plan.fps, request.smooth_fps) if request.smooth_fps else frames
