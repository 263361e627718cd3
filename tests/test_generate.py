"""The whole way from a request to a film, with tiny random networks."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, TextToVideoSDPipeline
from torch import Tensor

from t2v import lean, needs
from t2v.companions import companions
from t2v.denoising import Denoising
from t2v.errors import FilmError, MemoryShortage, RequestError
from t2v.generate import Film, Watch, encode, generate, unet_at_work
from t2v.hosts.standalone import Standalone
from t2v.infotext import request_from
from t2v.memory import UNetRung
from t2v.models import Model
from t2v.models.modelscope import load
from t2v.plan import planned
from t2v.request import VideoRequest
from t2v.settings import Settings
from t2v.start import Start
from t2v.video import probe, read_film, read_infotext
from tests.fixtures import make_model
from tests.peers import diffusers_autoencoder, diffusers_unet

REQUEST = VideoRequest(
    prompt="a red circle", negative_prompt="blurry", model="tiny", width=64, height=64, frames=4, fps=8, steps=5,
    cfg_scale=9, sampler="DDIM", spacing="modelscope", seed=7, format="png")
PUBLISHED = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load(make_model(tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture
def host(tmp_path: Path) -> Standalone:
    return Standalone(torch.device("cpu"), torch.float32, outputs=tmp_path)


class Recorder(Watch):
    """Remembers every tick, and stops at the one it was told to."""

    def __init__(self, stop_at: tuple[str, int] | None = None) -> None:
        self.seen: list[tuple[str, int, int]] = []
        self.stop_at = stop_at

    def tick(self, stage: str, done: int, total: int, x0: Tensor | None = None) -> None:  # noqa: ARG002
        self.seen.append((stage, done, total))
        self.stopped = self.stopped or (stage, done) == self.stop_at


def only_film(request: VideoRequest, model: Model, host: Standalone, watch: Watch | None = None) -> Film:
    (film,) = generate(request, model, host, watch)
    return film


def frames_of(film: Film) -> Any:
    return np.stack(list(read_film(film.path)[1]))


def diffusers_pipeline(model: Model, scheduler: Any) -> Any:
    pipeline = TextToVideoSDPipeline(
        vae=diffusers_autoencoder(model.vae), text_encoder=None, tokenizer=None, unet=diffusers_unet(model.unet),
        scheduler=scheduler)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("sampler", "spacing", "scheduler"), [
    ("DDIM", "modelscope", DDIMScheduler(
        **PUBLISHED, clip_sample=False, set_alpha_to_one=False, steps_offset=1, timestep_spacing="leading")),
    ("DPM++ 2M", "trailing", DPMSolverMultistepScheduler(**PUBLISHED, timestep_spacing="trailing")),
])
def test_a_film_equals_that_of_the_diffusers_pipeline(
    model: Model, host: Standalone, sampler: str, spacing: str, scheduler: Any
) -> None:
    request = replace(REQUEST, sampler=sampler, spacing=spacing)
    plan = planned(request, model, companions(request, model, host))
    with torch.inference_mode(), unet_at_work(plan, host, Watch()) as network:
        words = encode(plan, host)
        ours = Denoising(plan, words, network, host, Watch()).latents(Start())
    positive, negative = (said(range(4)) for said in words)
    noise = torch.randn(plan.shape, generator=torch.Generator().manual_seed(7))
    pipeline = diffusers_pipeline(model, scheduler)
    settings = {"height": 64, "width": 64, "num_frames": 4, "num_inference_steps": 5, "guidance_scale": 9,
                "latents": noise, "prompt_embeds": positive.at(0), "negative_prompt_embeds": negative.at(0)}
    theirs = pipeline(**settings, output_type="latent").frames
    assert ours is not None
    assert (ours - theirs).abs().max() <= 1e-4 * theirs.abs().max()
    pictures = pipeline(**settings, output_type="np").frames[0]
    film = only_film(request, model, host)
    assert np.abs(frames_of(film) - pictures * 255).max() <= 0.51


def test_the_same_request_makes_the_same_film(model: Model, host: Standalone) -> None:
    first, second = only_film(REQUEST, model, host), only_film(REQUEST, model, host)
    assert first.path != second.path
    assert np.array_equal(frames_of(first), frames_of(second))


@pytest.mark.parametrize("sampler", ["DDIM", "Euler a", "DPM++ SDE"])
def test_an_item_of_a_batch_is_the_single_film_of_its_seed(model: Model, host: Standalone, sampler: str) -> None:
    batch = list(generate(replace(REQUEST, sampler=sampler, batch_count=3), model, host))
    assert [film.request.seed for film in batch] == [7, 8, 9]
    for film in batch:
        single = only_film(replace(REQUEST, sampler=sampler, seed=film.request.seed), model, host)
        assert np.array_equal(frames_of(film), frames_of(single))
    assert not np.array_equal(frames_of(batch[0]), frames_of(batch[1]))


def test_the_settings_in_a_film_make_the_same_film(model: Model, host: Standalone) -> None:
    first = only_film(replace(REQUEST, prompt="a (red:1.3) circle\n[a:b:0.5]", seed=-1, eta=0.5), model, host)
    again = request_from(read_infotext(first.path))
    assert again == first.request
    assert np.array_equal(frames_of(first), frames_of(only_film(again, model, host)))


def test_what_is_left_open_is_the_models_choice(model: Model, host: Standalone) -> None:
    bare = VideoRequest(prompt="x", frames=2, steps=2, format="png")
    request = only_film(bare, model, host).request
    assert {name: getattr(request, name) for name in ("width", "fps", "sampler")} == {
        name: model.defaults[name] for name in ("width", "fps", "sampler")}
    assert (request.frames, request.steps, request.model) == (2, 2, model.name)
    assert request.seed >= 0


def test_progress_counts_every_step_and_frame(model: Model, host: Standalone) -> None:
    watch = Recorder()
    only_film(REQUEST, model, host, watch)
    assert watch.seen == [
        *(("encode", done, 1) for done in range(2)),
        *(("denoise", done, 5) for done in range(6)),
        *(("decode", done, 4) for done in range(5))]


def test_stopping_while_denoising_leaves_a_whole_film_of_the_estimate(model: Model, host: Standalone) -> None:
    watch = Recorder(stop_at=("denoise", 2))
    (film,) = generate(replace(REQUEST, batch_count=3), model, host, watch)
    assert film.interrupted
    assert max(done for stage, done, _ in watch.seen if stage == "denoise") == 2
    assert probe(film.path).frames == 4
    assert "Interrupted: yes" in film.infotext


def test_stopping_while_decoding_leaves_a_shorter_film(model: Model, host: Standalone) -> None:
    (film,) = generate(REQUEST, model, host, Recorder(stop_at=("decode", 3)))
    assert film.interrupted
    assert probe(film.path).frames == 3


def test_stopping_before_the_first_step_leaves_nothing(model: Model, host: Standalone) -> None:
    assert list(generate(REQUEST, model, host, Recorder(stop_at=("encode", 1)))) == []
    assert not list(host.outputs.rglob("*.png"))


class Skipper(Watch):
    """Skips at one tick of one item, and remembers the items that began."""

    def __init__(self, item: int, stage: str, done: int) -> None:
        self.at = (item, stage, done)
        self.items: list[tuple[int, int]] = []

    def begin(self, item: int, items: int) -> None:
        self.items.append((item, items))

    def tick(self, stage: str, done: int, total: int, x0: Tensor | None = None) -> None:  # noqa: ARG002
        self.skipped = self.skipped or (self.items[-1][0], stage, done) == self.at


@pytest.mark.parametrize(("stage", "done"), [("encode", 0), ("denoise", 0), ("denoise", 2)])
def test_a_skipped_item_leaves_no_film_and_the_others_are_made(
    model: Model, host: Standalone, stage: str, done: int
) -> None:
    watch = Skipper(1, stage, done)
    films = list(generate(replace(REQUEST, batch_count=3), model, host, watch))
    assert [film.request.seed for film in films] == [7, 9]
    assert watch.items == [(0, 3), (1, 3), (2, 3)]
    assert not any(film.interrupted for film in films)


def test_skipping_while_decoding_ends_the_film_there(model: Model, host: Standalone) -> None:
    films = list(generate(replace(REQUEST, batch_count=2), model, host, Skipper(0, "decode", 1)))
    assert [(probe(film.path).frames, film.interrupted) for film in films] == [(1, True), (4, False)]


def test_settings_decide_whether_a_film_tells_how_it_was_made(model: Model, host: Standalone) -> None:
    silent = replace(host, settings=Settings(metadata=False))
    film = only_film(replace(REQUEST, format="mp4"), model, silent)
    with pytest.raises(FilmError):
        read_infotext(film.path)
    assert film.infotext


def test_the_autoencoder_may_compute_in_the_precision_of_the_unet(model: Model, host: Standalone) -> None:
    exact = only_film(REQUEST, model, host)
    halves = replace(host, precision=torch.bfloat16, settings=Settings(vae_precision="network"))
    seen: list[torch.dtype] = []
    hook = model.vae.decoder.register_forward_hook(lambda *args: seen.append(args[2].dtype))
    try:
        close = only_film(REQUEST, model, halves)
    finally:
        hook.remove()
    assert set(seen) == {torch.bfloat16}
    assert np.abs(frames_of(exact).astype(int) - frames_of(close)).mean() < 30


def test_guidance_is_one_pass_of_the_network_a_step_that_is_told_both_prompts(model: Model, host: Standalone) -> None:
    told: list[int] = []
    hook = model.unet.register_forward_pre_hook(lambda _, args: told.append(len(args[2].context)))
    try:
        only_film(replace(REQUEST, cfg_scale=1), model, host)
        assert told == [1] * 5
        only_film(REQUEST, model, host)
        assert told[5:] == [2] * 5
    finally:
        hook.remove()


def test_guidance_in_two_halves_is_the_same_film(
    model: Model, host: Standalone, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = frames_of(only_film(REQUEST, model, host))
    monkeypatch.setattr(lean, "rungs", lambda _: [UNetRung(), UNetRung(pair=False)])
    monkeypatch.setattr(needs, "rungs", lambda _: [UNetRung(pair=False)])
    told: list[int] = []
    hook = model.unet.register_forward_pre_hook(lambda _, args: told.append(len(args[2].context)))
    try:
        apart = frames_of(only_film(REQUEST, model, host))
    finally:
        hook.remove()
    assert told == [1] * 10
    assert np.abs(together.astype(int) - apart).max() <= 1


def test_a_frame_is_decoded_only_when_the_one_before_is_written(
    model: Model, host: Standalone, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []

    class Listener(Watch):
        def tick(self, stage: str, done: int, *_: object) -> None:
            events.append(f"{stage} {done}")

    decode = model.vae.decode
    monkeypatch.setattr(model.vae, "decode", lambda z, tile: (events.append(f"{len(z)} frame"), decode(z, tile))[1])
    only_film(REQUEST, model, host, Listener())
    assert events[-9:] == ["decode 0", *(event for i in range(1, 5) for event in ("1 frame", f"decode {i}"))]


@pytest.mark.parametrize(("frames", "width", "height"), [(1, 64, 64), (3, 40, 24), (2, 16, 72)])
def test_any_number_of_frames_and_any_multiple_of_eight(
    model: Model, host: Standalone, frames: int, width: int, height: int
) -> None:
    info = probe(only_film(replace(REQUEST, frames=frames, width=width, height=height), model, host).path)
    assert (info.frames, info.width, info.height) == (frames, width, height)


@pytest.mark.parametrize(("field", "value"), [("sampler", "magic"), ("spacing", "magic"), ("format", "avi")])
def test_a_name_that_no_registry_knows_is_refused_before_any_work(
    model: Model, host: Standalone, field: str, value: str
) -> None:
    watch = Recorder()
    with pytest.raises(RequestError) as caught:
        list(generate(replace(REQUEST, **{field: value}), model, host, watch))  # type: ignore[arg-type]
    assert caught.value.field == field
    assert not watch.seen


def test_a_shortage_of_memory_says_what_was_wanted(
    model: Model, host: Standalone, monkeypatch: pytest.MonkeyPatch
) -> None:
    def starve(*_: object) -> Tensor:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(model.unet, "forward", starve)
    with pytest.raises(MemoryShortage, match="4 frames of 64x64"):
        only_film(REQUEST, model, host)


def test_the_weights_are_as_they_were_after_a_film(model: Model, host: Standalone) -> None:
    before = {key: (tensor.data_ptr(), tensor.dtype) for key, tensor in model.unet.state_dict().items()}
    only_film(REQUEST, model, host)
    assert {key: (t.data_ptr(), t.dtype) for key, t in model.unet.state_dict().items()} == before
