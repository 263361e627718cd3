"""Films from pictures and films, the whole way, with tiny random networks: what has to be the same is the same."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers.pipelines.deprecated.text_to_video_synthesis.pipeline_text_to_video_synth_img2img as img2img
import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, VideoToVideoSDPipeline
from PIL import Image
from torch import Tensor

from t2v.companions import companions
from t2v.denoising import Denoising
from t2v.errors import RequestError
from t2v.generate import Watch, encode, generate, read_inputs, unet_at_work
from t2v.hosts.standalone import Standalone
from t2v.infotext import request_from
from t2v.models import Model
from t2v.models.modelscope import load
from t2v.plan import planned
from t2v.request import VideoRequest
from t2v.sampling import SAMPLERS
from t2v.video import probe, read_film, write_film
from tests.fixtures import make_model
from tests.peers import diffusers_autoencoder, diffusers_unet

REQUEST = VideoRequest(
    prompt="a red circle", negative_prompt="blurry", model="tiny", width=32, height=32, frames=4, fps=8, steps=4,
    cfg_scale=3, sampler="DDIM", spacing="modelscope", seed=7, format="png")
every_sampler = pytest.mark.parametrize("sampler", SAMPLERS)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load(make_model(tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture
def host(tmp_path: Path) -> Standalone:
    return Standalone(torch.device("cpu"), torch.float32, outputs=tmp_path / "films")


def noisy(frames: int, size: int = 32, seed: int = 0) -> list[Any]:
    return list(np.random.default_rng(seed).integers(0, 256, (frames, size, size, 3), np.uint8))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Inputs that lose nothing on the way: a film of ten frames, two pictures, masks."""
    folder = tmp_path_factory.mktemp("inputs")
    for name, seed in {"one": 1, "two": 2}.items():
        Image.fromarray(noisy(1, seed=seed)[0]).save(folder / f"{name}.png")
    left = np.zeros((32, 32, 3), np.uint8)
    left[:, :16] = 255
    for name, mask in {"nothing": 0 * left, "all": 0 * left + 255, "left": left}.items():
        Image.fromarray(mask).save(folder / f"{name}.png")
    write_film([0 * left, 0 * left + 255, 0 * left, 0 * left], folder / "second", 8)
    write_film(noisy(10), folder / "film", 8)
    return {path.stem: str(path) for path in folder.iterdir()}


def latents(request: VideoRequest, model: Model, host: Standalone) -> Tensor:
    """What a request comes to before it is decoded."""
    plan = planned(request, model, companions(request, model, host))
    with torch.inference_mode(), unet_at_work(plan, host, Watch()) as network:
        start = read_inputs(plan, host, Watch(), None)
        made = Denoising(plan, encode(plan, host), network, host, Watch()).latents(start)
    assert made is not None
    return made


def encoded(frames: list[Any], model: Model) -> Tensor:
    """`frames` as latents 1 c f h w, by the autoencoder alone."""
    pictures = (torch.tensor(frame).permute(2, 0, 1)[None] / 127.5 - 1 for frame in frames)
    with torch.inference_mode():
        return torch.stack([model.vae.encode(picture) for picture in pictures], dim=2)


def frames_of(request: VideoRequest, model: Model, host: Standalone) -> Any:
    (film,) = generate(request, model, host)
    return np.stack(list(read_film(film.path)[1]))


def far(ours: Tensor, theirs: Tensor) -> list[float]:
    """The mean distance of each frame."""
    return (ours - theirs).abs().mean(dim=(0, 1, 3, 4)).tolist()  # type: ignore[no-any-return]


# ---- pictures ----


@every_sampler
def test_a_picture_is_held_exactly_and_moves_the_rest(
    model: Model, host: Standalone, files: dict[str, str], sampler: str
) -> None:
    request = replace(REQUEST, sampler=sampler)
    held, free = latents(replace(request, pictures=files["one"]), model, host), latents(request, model, host)
    assert torch.equal(held[:, :, 0], encoded(noisy(1, seed=1), model)[:, :, 0])
    assert min(far(held, free)) > 0.01


def test_several_pictures_stand_where_they_are_told_to(model: Model, host: Standalone, files: dict[str, str]) -> None:
    made = latents(replace(REQUEST, pictures=f"1: {files['one']} | -1: {files['two']}"), model, host)
    one, two = encoded(noisy(1, seed=1), model)[:, :, 0], encoded(noisy(1, seed=2), model)[:, :, 0]
    assert torch.equal(made[:, :, 1], one)
    assert torch.equal(made[:, :, 3], two)
    assert not torch.equal(made[:, :, 0], one)


def test_freedom_over_time_is_written_as_key_frames(model: Model, host: Standalone, files: dict[str, str]) -> None:
    """The weights of the extension before us, as its page showed them."""
    request = replace(REQUEST, pictures=files["one"], picture_weights='0:(t/max_i_f), "max_i_f":(1)', steps=8)
    plan = planned(request, model, companions(request, model, host))
    assert plan.inputs.pictures[0].free == pytest.approx((0, 1 / 3, 2 / 3, 1))
    distances = far(latents(request, model, host), encoded(noisy(1, seed=1) * 4, model))
    assert distances[0] == 0
    assert min(distances[1:]) > 0.1


def test_of_pictures_with_freedom_the_least_free_wins_in_every_frame(
    model: Model, host: Standalone, files: dict[str, str]
) -> None:
    both = f"0: {files['one']} | 3: {files['two']}"
    made = latents(replace(REQUEST, pictures=both, picture_weights="0:(t > 1) | 0:(t < 2)"), model, host)
    one, two = encoded(noisy(1, seed=1), model)[:, :, 0], encoded(noisy(1, seed=2), model)[:, :, 0]
    assert all(torch.equal(made[:, :, at], each) for at, each in enumerate((one, one, two, two)))


@pytest.mark.parametrize(("changes", "field", "words"), [
    ({"pictures": "4: {one}"}, "pictures", "no frame 4; the film has frames 0 to 3"),
    ({"pictures": "{one} | {two}"}, "pictures", "does not say at which frame"),
    ({"pictures": "nowhere.png"}, "pictures", "no such file"),
    ({"picture_weights": "0:(1)"}, "picture_weights", "there is none"),
    ({"pictures": "{one}", "picture_weights": "0:(0) | 0:(1)"}, "picture_weights", "1 pictures and 2 curves"),
    ({"pictures": "{one}", "picture_weights": "0:(open)"}, "picture_weights", "open"),
    ({"extend": True}, "extend", "needs an input film"),
    ({"mask": "{left}"}, "mask", "needs an input film"),
    ({"film": "{film}", "extend": True, "mask": "{left}"}, "mask", "choose one"),
    ({"film": "{film}", "extend": True, "loop": True}, "loop", "choose one"),
    ({"film": "{film}", "frames": 11}, "frames", "has 10 frames"),
    ({"film": "{film}", "film_start": 2}, "film_start", "ends at second 1.2"),
    ({"film": "{film}", "depth": 1}, "depth", "from pictures"),
    ({"film": "{film}", "free_init": 3}, "free_init", "noise of its own"),
    ({"fit": "fold"}, "fit", "crop"),
    ({"noise": "white"}, "noise", "fresh"),
    ({"upscale": 2, "upscale_by": "magic"}, "upscale_by", "latents"),
    ({"smooth_fps": 8}, "smooth_fps", "more than the 8"),
])
def test_what_does_not_go_together_is_said_before_any_work(
    model: Model, host: Standalone, files: dict[str, str], changes: dict[str, Any], field: str, words: str
) -> None:
    filled = {name: value.format(**files) if isinstance(value, str) else value for name, value in changes.items()}
    ticks: list[str] = []

    class Listener(Watch):
        def tick(self, stage: str, *_: object) -> None:
            ticks.append(stage)

    with pytest.raises(RequestError, match=words) as caught:
        list(generate(replace(REQUEST, **filled), model, host, Listener()))
    assert caught.value.field == field
    assert not ticks


# ---- films ----


@every_sampler
def test_no_strength_is_the_input_and_full_strength_is_no_input(
    model: Model, host: Standalone, files: dict[str, str], sampler: str
) -> None:
    request = replace(REQUEST, sampler=sampler, film=files["film"])
    assert torch.equal(latents(replace(request, strength=0), model, host), encoded(noisy(10)[:4], model))
    free = latents(replace(REQUEST, sampler=sampler), model, host)
    assert torch.equal(latents(replace(request, strength=1), model, host), free)


def test_the_stronger_the_farther_from_the_input(model: Model, host: Standalone, files: dict[str, str]) -> None:
    request, given = replace(REQUEST, film=files["film"], steps=10, cfg_scale=1), encoded(noisy(10)[:4], model)
    distances = [sum(far(latents(replace(request, strength=part / 10), model, host), given)) for part in range(0, 8)]
    assert distances == sorted(distances)
    assert len(set(distances)) == 8


@every_sampler
def test_a_black_mask_is_the_input_and_a_white_one_no_mask(
    model: Model, host: Standalone, files: dict[str, str], sampler: str
) -> None:
    request = replace(REQUEST, sampler=sampler, film=files["film"], strength=0.75)
    assert torch.equal(latents(replace(request, mask=files["nothing"]), model, host), encoded(noisy(10)[:4], model))
    free = latents(request, model, host)
    assert torch.equal(latents(replace(request, mask=files["all"]), model, host), free)


def test_only_what_is_white_changes_in_space_and_in_time(
    model: Model, host: Standalone, files: dict[str, str]
) -> None:
    request, given = replace(REQUEST, film=files["film"], strength=1.0), encoded(noisy(10)[:4], model)
    made = latents(replace(request, mask=files["left"]), model, host)
    assert torch.equal(made[..., 2:], given[..., 2:])
    assert (made - given)[..., :2].abs().mean() > 0.1
    made = latents(replace(request, mask=files["second"]), model, host)
    assert torch.equal(made[:, :, [0, 2, 3]], given[:, :, [0, 2, 3]])
    assert (made - given)[:, :, 1].abs().mean() > 0.1


def test_what_is_black_keeps_its_very_pixels(model: Model, host: Standalone, files: dict[str, str]) -> None:
    request = replace(REQUEST, film=files["film"], strength=1.0)
    assert np.array_equal(frames_of(replace(request, mask=files["nothing"]), model, host), noisy(10)[:4])
    made = frames_of(replace(request, mask=files["left"]), model, host)
    assert np.array_equal(made[:, :, 16:], np.stack(noisy(10)[:4])[:, :, 16:])
    still = frames_of(replace(REQUEST, pictures=files["one"], mask=files["left"]), model, host)
    assert np.array_equal(still[:, :, 16:], np.stack(noisy(1, seed=1) * 4)[:, :, 16:])
    assert np.abs(still[1:, :, :16].astype(int) - still[:1, :, :16]).mean() > 1


def test_a_mask_over_a_picture_brings_a_part_of_it_to_life(
    model: Model, host: Standalone, files: dict[str, str]
) -> None:
    made = latents(replace(REQUEST, pictures=files["one"], mask=files["left"]), model, host)
    still = encoded(noisy(1, seed=1) * 4, model)
    assert torch.equal(made[..., 2:], still[..., 2:])
    assert (made - still)[..., :2].abs().mean() > 0.1


def test_a_picture_is_held_in_a_film_that_changes(model: Model, host: Standalone, files: dict[str, str]) -> None:
    request = replace(REQUEST, film=files["film"], strength=0.5)
    made = latents(replace(request, pictures=f"2: {files['one']}"), model, host)
    assert torch.equal(made[:, :, 2], encoded(noisy(1, seed=1), model)[:, :, 0])
    assert far(made, encoded(noisy(10)[:4], model))[0] > 0.01


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("strength", [0.3, 0.6, 1.0])
def test_a_changed_film_equals_that_of_the_diffusers_pipeline(
    model: Model, host: Standalone, files: dict[str, str], monkeypatch: pytest.MonkeyPatch, strength: float
) -> None:
    """At full strength theirs still adds the film to the noise, where ours ignores it; there they add nothing."""
    request = replace(REQUEST, film=files["film"], strength=strength, steps=10)
    ours = latents(request, model, host)
    plan = planned(request, model, companions(request, model, host))
    with torch.inference_mode():
        positive, negative = (words(range(4)).at(0) for words in encode(plan, host))
    noise = torch.randn(plan.shape, generator=torch.Generator().manual_seed(7))
    monkeypatch.setattr(img2img, "randn_tensor", lambda *_, **__: noise[0].transpose(0, 1))
    scheduler: Any = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
                                   set_alpha_to_one=False, steps_offset=1, timestep_spacing="leading")
    if strength == 1:
        scheduler.add_noise = lambda _film, noise, _timestep: noise
    pipeline: Any = VideoToVideoSDPipeline(
        vae=diffusers_autoencoder(model.vae), text_encoder=None, tokenizer=None,  # type: ignore[arg-type]
        unet=diffusers_unet(model.unet), scheduler=scheduler)
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(video=encoded(noisy(10)[:4], model).transpose(1, 2), strength=strength, num_inference_steps=10,
                      guidance_scale=3, prompt_embeds=positive, negative_prompt_embeds=negative,
                      output_type="latent").frames
    assert (ours - theirs).abs().max() <= 1e-4 * theirs.abs().max()


# ---- going on, looping, longer, larger ----


def test_a_film_goes_on_after_its_own_frames(model: Model, host: Standalone, files: dict[str, str]) -> None:
    request = replace(REQUEST, film=files["film"], extend=True, overlap=3)
    frames = frames_of(request, model, host)
    assert len(frames) == 10 + 4
    assert np.array_equal(frames[:10], noisy(10))
    again = frames_of(request, model, host)
    assert np.array_equal(frames, again)
    other = frames_of(replace(request, film_start=0.5), model, host)
    assert np.array_equal(other[:6], frames[4:10])
    assert np.array_equal(other, frames[4:])  # for it ends in the same three frames


@pytest.mark.parametrize("changes", [
    {"pictures": "0: {one} | -1: {two}"}, {"film": "{film}"}, {"film": "{film}", "mask": "{left}"}, {"loop": True},
    {"window": 4, "overlap": 2, "frames": 9, "jitter": True, "noise": "shuffled"}, {"free_init": 2},
    {"depth": 1, "window": 3, "frames": 5, "pictures": "{one}"}, {"upscale": 1.5},
    {"upscale": 2, "upscale_by": "latents", "pictures": "{one}"}, {"prompt": "0: a cat | 2: a dog"},
    {"film": "{film}", "extend": True, "window": 4, "overlap": 2, "frames": 6, "pictures": "-1: {one}"},
    {"window": 4, "overlap": 2, "frames": 9, "pictures": "0: {one} | -1: {two}", "prompt": "0: a cat | 5: a dog"},
])
def test_the_same_seed_makes_the_same_film_in_every_mode(
    model: Model, host: Standalone, files: dict[str, str], changes: dict[str, Any]
) -> None:
    filled = {name: value.format(**files) if isinstance(value, str) else value for name, value in changes.items()}
    request = replace(REQUEST, sampler="Euler a", steps=3, **filled)
    first = frames_of(request, model, host)
    assert np.array_equal(first, frames_of(request, model, host))
    assert not np.array_equal(first, frames_of(replace(request, seed=8), model, host))


def test_a_long_film_holds_its_first_and_its_last_picture(
    model: Model, host: Standalone, files: dict[str, str]
) -> None:
    request = replace(REQUEST, window=4, overlap=2, frames=9, pictures=f"0: {files['one']} | -1: {files['two']}")
    made = latents(request, model, host)
    assert torch.equal(made[:, :, 0], encoded(noisy(1, seed=1), model)[:, :, 0])
    assert torch.equal(made[:, :, 8], encoded(noisy(1, seed=2), model)[:, :, 0])


def test_the_second_pass_makes_a_larger_film_near_the_first(model: Model, host: Standalone) -> None:
    small = frames_of(REQUEST, model, host)
    same = frames_of(replace(REQUEST, upscale=2, upscale_strength=0), model, host)
    assert same.shape == (4, 64, 64, 3)
    assert small.shape == (4, 32, 32, 3)


def test_the_stages_of_two_passes_come_in_order(model: Model, host: Standalone, files: dict[str, str]) -> None:
    seen: list[tuple[str, int, int]] = []

    class Listener(Watch):
        def tick(self, stage: str, done: int, total: int, x0: Tensor | None = None) -> None:  # noqa: ARG002
            seen.append((stage, done, total))

    request = replace(REQUEST, film=files["film"], pictures=files["one"], upscale=2, upscale_strength=0.5, strength=0.5)
    list(generate(request, model, host, Listener()))
    assert list(dict.fromkeys((stage, total) for stage, _, total in seen)) == [
        ("encode", 1), ("read", 5), ("denoise", 2), ("enlarge", 4), ("read", 1), ("refine", 2), ("decode", 4)]


def test_a_stop_in_the_second_pass_leaves_a_film(model: Model, host: Standalone) -> None:
    class Stopper(Watch):
        def __init__(self, *at: object) -> None:
            self.at = at

        def tick(self, stage: str, done: int, *_: object) -> None:
            self.stopped |= (stage, done) == self.at

    for at, size in {("denoise", 2): 32, ("enlarge", 1): 32, ("refine", 0): 64, ("refine", 1): 64}.items():
        (film,) = generate(replace(REQUEST, upscale=2), model, host, Stopper(*at))
        assert film.interrupted
        assert probe(film.path).width == size


# ---- what a film tells ----


def test_a_film_names_its_inputs_and_not_where_they_lay(
    model: Model, host: Standalone, files: dict[str, str]
) -> None:
    request = replace(REQUEST, film=files["film"], pictures=f"0: {files['one']} | -1: {files['two']}",
                      mask=files["left"])
    (film,) = generate(request, model, host)
    assert str(Path(files["film"]).parent) not in film.infotext
    assert film.request.film == files["film"]
    read = request_from(film.infotext)
    assert read.film == "film"
    assert read.pictures.startswith("0: one.png (")
    assert read.mask.startswith("left.png (")
    assert replace(read, film="", pictures="", mask="") == replace(film.request, film="", pictures="", mask="")


def test_a_film_that_used_none_of_this_tells_nothing_of_it(model: Model, host: Standalone) -> None:
    (film,) = generate(REQUEST, model, host)
    assert "Strength" not in film.infotext
    assert film.infotext.split("\n")[-1].count(": ") == 14, film.infotext




@pytest.mark.parametrize(("format", "film_fps", "kept"), [("mp4", 0, True), ("mp4", 4, False), ("gif", 0, False)])
def test_the_sound_of_the_input_film_stays_where_it_fits(
    model: Model, host: Standalone, tmp_path: Path, format: str, film_fps: float, kept: bool
) -> None:
    from tests.test_video import heard, tone
    loud = write_film(noisy(16), tmp_path / "loud.mp4", 8, soundtrack=str(tone(tmp_path / "a.wav", 2)))
    request = replace(REQUEST, film=str(loud), format=format, film_start=0.5, film_fps=film_fps, strength=0)
    plan = planned(request, model, companions(request, model, host))
    assert (plan.inputs.sound, plan.inputs.sound_start) == ((str(loud), 0.5) if kept else ("", 0.0))
    if kept:
        (film,) = generate(request, model, host)
        assert np.abs(heard(film.path)).max() > 0.1
