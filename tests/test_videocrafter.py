"""VideoCrafter2: the same network with a frame rate, in one file, trained on another table of noise."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from t2v.guidance import Denoiser
from t2v.models import catalog
from t2v.models.checkpoint import blank
from t2v.models.dialects import wanted
from t2v.models.unet import UNet3D, UNetConfig
from t2v.sampling import find_sampler, seeded_noise
from t2v.schedule import find_spacing, rescaled, scaled_linear
from tests import layouts
from tests.fixtures import one_clear_sentence, save_lightning, save_zip
from tests.networks import assert_equal, normal, randomised
from tests.oracles import modelscope_module

SMALL = UNetConfig(dim=64, dim_mult=(1, 2), num_heads=8, head_dim=16, res_blocks=1, attn_scales=(1.0, 0.5), fps=28.0)
BUFFERS = ("betas", "alphas_cumprod", "scale_arr")


def with_frame_rate(net: UNet3D) -> Any:
    """ModelScope's UNet, told the frame rate, with the weights of `net`, in float64."""
    config, module = net.config, modelscope_module("unet_sd")
    single: Any = module.sinusoidal_embedding  # type: ignore[attr-defined]
    module.sinusoidal_embedding = lambda *args: single(*args).double()  # type: ignore[attr-defined]
    with torch.device("meta"):
        other = module.UNetSD(
            in_dim=4, dim=config.dim, y_dim=768, context_dim=config.context_dim, out_dim=4,
            dim_mult=list(config.dim_mult), num_heads=config.num_heads, head_dim=config.head_dim,
            num_res_blocks=config.res_blocks, attn_scales=list(config.attn_scales), temporal_attention=True,
            use_fps_condition=True)
    other.load_state_dict(net.state_dict(), assign=True)
    return other.eval()


# ---- the network ----


@pytest.mark.parametrize("fps", [28.0, 8.0])
def test_it_equals_modelscope_told_the_frame_rate(fps: float) -> None:
    net = randomised(UNet3D(replace(SMALL, fps=fps))).double()
    args = normal(2, 4, 3, 8, 8).double(), torch.tensor([20, 3]), normal(2, 7, 1024, seed=1).double()
    with torch.no_grad():
        ours = net(*args)
        assert_equal(ours, with_frame_rate(net)(*args, fps=torch.full((2,), fps)), tolerance=1e-5)
        other = randomised(UNet3D(replace(SMALL, fps=fps + 1))).double()(*args)
    assert (ours - other).abs().max() > 1e-3


def test_a_network_that_does_not_ask_has_no_weights_for_it() -> None:
    asking, other = (blank(UNet3D, config).state_dict().keys() for config in (SMALL, replace(SMALL, fps=0.0)))
    assert asking - other == {f"fps_embedding.{layer}.{leaf}" for layer in (0, 2) for leaf in ("weight", "bias")}
    assert other < asking


def test_every_weight_of_the_published_file_has_a_place() -> None:
    ours = blank(UNet3D, UNetConfig(fps=28.0))
    published = layouts.videocrafter_state(ours.state_dict(), joint=False)
    assert wanted(published, ours).keys() == ours.state_dict().keys()
    assert len(published) - len(BUFFERS) == 1484


# ---- the file ----


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """VideoCrafter2 in small, with a configuration.json for its dimensions."""
    layouts.write_configuration(tmp_path / "VideoCrafter2")
    state = layouts.videocrafter_state(unet().state_dict())
    save_zip({"state_dict": state}, tmp_path / "VideoCrafter2" / "model.ckpt")  # type: ignore[dict-item]
    return tmp_path / "VideoCrafter2"


def unet() -> UNet3D:
    return randomised(UNet3D(replace(layouts.EIGHT_HEADS, fps=28.0)))


def test_the_file_makes_a_model(folder: Path) -> None:
    assert catalog.find_models([folder.parent])["VideoCrafter2"] == folder
    model = catalog.load_model(folder, "VideoCrafter2")
    expected = unet().state_dict()
    assert model.unet.config.fps == 28
    assert model.unet.state_dict().keys() == expected.keys()
    assert all(torch.equal(model.unet.state_dict()[key], expected[key]) for key in expected)
    assert all(torch.equal(weight, layouts.weights()["text"][key]) for key, weight in model.text.state_dict().items())
    assert all(torch.equal(weight, layouts.weights()["vae"][key]) for key, weight in model.vae.state_dict().items())
    assert catalog.describe(folder)["kind"] == "VideoCrafter2"
    assert model.notes == ()
    assert torch.equal(model.schedule.alphas, rescaled(scaled_linear(), 0.7).alphas)


def test_without_a_configuration_it_is_as_published(tmp_path: Path) -> None:
    save_lightning(layouts.videocrafter_state(unet().state_dict()), tmp_path / "model.ckpt")
    described = catalog.describe(tmp_path / "model.ckpt")
    assert [described[key] for key in ("width", "height", "frames", "cfg_scale", "steps", "sampler", "spacing")] == [
        512, 320, 16, 12, 50, "DDPM", "modelscope"]
    with one_clear_sentence("model.ckpt: .*of another shape"):  # this one is smaller
        catalog.load_model(tmp_path / "model.ckpt", "model")


def test_the_frame_rate_it_is_told_may_be_another(folder: Path) -> None:
    layouts.write_configuration(folder, schedule={"rescale": 0.5})
    text = (folder / "configuration.json").read_text().replace('"unet_dim":', '"unet_fps": 8, "unet_dim":')
    (folder / "configuration.json").write_text(text)
    model = catalog.load_model(folder, "")
    assert model.unet.config.fps == 8
    assert torch.equal(model.schedule.alphas, rescaled(scaled_linear(), 0.5).alphas)


# ---- the noise ----


def published_scale() -> Tensor:
    """scale_arr of the published code: from 1 to 0.7 over 400 timesteps, then 0.7."""
    return torch.cat([torch.linspace(1, 0.7, 400, dtype=torch.float64), torch.full((600,), 0.7, dtype=torch.float64)])


def test_noisy_latents_are_those_it_was_trained_on() -> None:
    plain, schedule = scaled_linear(), rescaled(scaled_linear(), 0.7)
    x0, eps = normal(1, 4, 2, 2, 2).double(), normal(1, 4, 2, 2, 2, seed=1).double()
    for t in (0, 1, 200, 399, 400, 999):
        published = plain.alphas[t] * published_scale()[t] * x0 + plain.sigmas[t] * eps
        sigma = schedule.noise_level(t)
        torch.testing.assert_close(schedule.to_network(x0 + sigma * eps, sigma), published, atol=1e-12, rtol=0)
    assert rescaled(plain, 1.0) is plain
    assert torch.equal(rescaled(scaled_linear(timesteps=100), 0.7).alphas,
                       scaled_linear(timesteps=100).alphas * published_scale()[:100])


def toy(x_t: Tensor, timestep: Tensor, context: Tensor) -> Tensor:  # noqa: ARG001
    return torch.tanh(0.7 * x_t + 0.001 * timestep.to(x_t.dtype))


def published_ddim(x: Tensor, steps: int) -> Tensor:
    """DDIM as VideoCrafter2 takes it, without noise of its own: p_sample_ddim with use_scale."""
    alphas, scale, stride = scaled_linear().alphas ** 2, published_scale(), 1000 // steps
    for t in range(1000 - stride + 1, 0, -stride):
        before = max(t - stride, 0)
        eps = toy(x, torch.tensor([t]), x)
        x0 = (x - (1 - alphas[t]).sqrt() * eps) / alphas[t].sqrt() / scale[t]
        x = alphas[before].sqrt() * scale[before] * x0 + (1 - alphas[before]).sqrt() * eps
    return x


@pytest.mark.parametrize("steps", [10, 25, 50])
def test_its_ddim_is_ours_on_another_table(steps: int) -> None:
    schedule = rescaled(scaled_linear(), 0.7)
    sigmas = find_spacing("modelscope")(schedule, steps)
    noise = normal(1, 4, 2, 4, 4).double()
    denoiser = Denoiser(toy, schedule, torch.zeros(1), torch.float64)
    *_, last = find_sampler("DDIM")(denoiser, schedule.from_network(noise, sigmas[0]), sigmas, seeded_noise(0), None)
    torch.testing.assert_close(schedule.to_network(last.x, sigmas[-1]), published_ddim(noise, steps), atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ["DDIM", "DDPM", "Euler a", "Heun", "DPM++ 2M", "DPM++ 2M SDE", "DPM++ SDE", "UniPC"])
def test_every_sampler_draws_from_what_was_noised(name: str) -> None:
    """Data that are normal with a spread of 2: a network that knows that, and many samples, which spread as widely."""
    schedule, spread = rescaled(scaled_linear(), 0.7), 2.0

    def knowing(x_t: Tensor, timestep: Tensor, context: Tensor) -> Tensor:  # noqa: ARG001
        sigma = schedule.noise_level(timestep.double()[0])
        x = schedule.from_network(x_t, sigma)
        return x * (sigma / (spread**2 + sigma**2))

    sigmas = find_spacing("karras")(schedule, 200)
    denoiser = Denoiser(knowing, schedule, torch.zeros(1), torch.float64)
    start = spread * normal(1, 4, 8, 32, 32, seed=2).double() + sigmas[0] * normal(1, 4, 8, 32, 32).double()
    *_, last = find_sampler(name)(denoiser, start, sigmas, seeded_noise(0), None)
    assert math.isclose(float(last.x.std()), spread, rel_tol=0.03)
