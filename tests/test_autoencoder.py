"""AutoencoderKL beside the two published implementations, modelscope's and diffusers'."""

from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch

from t2v.models import autoencoder as network
from t2v.models import layers, strips
from t2v.models.autoencoder import AutoencoderConfig, AutoencoderKL, decoder_numbers, encoder_numbers
from tests import fixtures
from tests.footprint import activations
from tests.networks import assert_casts_at_use, assert_equal, gradients, normal, randomised
from tests.peers import diffusers_autoencoder, modelscope_autoencoder
from training import train

SMALL = AutoencoderConfig(ch=64, ch_mult=(1, 2, 1), num_res_blocks=1)
CONFIGS = {
    "small": SMALL,
    "four levels of two blocks, as published": AutoencoderConfig(ch=64, ch_mult=(1, 2, 2, 2)),
    "more latent channels": replace(SMALL, z_channels=7, embed_dim=7),
    "one level": replace(SMALL, ch_mult=(1,), num_res_blocks=2),
}


@cache
def autoencoder(config: AutoencoderConfig) -> AutoencoderKL:
    return randomised(AutoencoderKL(config))


@pytest.mark.parametrize("name", CONFIGS)
def test_it_encodes_as_modelscope_and_diffusers(name: str) -> None:
    net = autoencoder(CONFIGS[name])
    frames = normal(2, 3, 24, 40).clamp(-1, 1)
    mean, logvar = net.moments(frames)
    for theirs in (modelscope_autoencoder(net).encode(frames), diffusers_autoencoder(net).encode(frames).latent_dist):
        assert_equal(mean, theirs.mean)
        assert_equal(logvar, theirs.logvar)


@pytest.mark.parametrize("name", CONFIGS)
def test_it_decodes_as_modelscope_and_diffusers(name: str) -> None:
    net = autoencoder(CONFIGS[name])
    z = normal(2, net.config.embed_dim, 3, 5)
    frames = net.decode(z * net.config.scale_factor)
    assert_equal(frames, modelscope_autoencoder(net).decode(z))
    assert_equal(frames, diffusers_autoencoder(net).decode(z).sample)


def test_latents_may_have_other_channels_than_the_networks_around_them() -> None:
    net = autoencoder(replace(SMALL, z_channels=6, embed_dim=3))
    peer = modelscope_autoencoder(net)
    frames, z = normal(1, 3, 16, 8), normal(1, 3, 2, 3)
    assert_equal(net.moments(frames)[0], peer.encode(frames).mean)
    assert_equal(net.decode(z * net.config.scale_factor), peer.decode(z))


@pytest.mark.parametrize("size", [(4, 4), (25, 43), (7, 6)])
def test_sizes_that_do_not_halve_evenly_encode_as_in_modelscope(size: tuple[int, int]) -> None:
    net = randomised(AutoencoderKL(SMALL)).double()  # norms of a single position magnify rounding
    frames = normal(2, 3, *size).double()
    assert_equal(net.moments(frames)[0], modelscope_autoencoder(net).double().encode(frames).mean, 1e-10)


def test_extreme_variances_are_clamped_as_in_modelscope() -> None:
    net = randomised(AutoencoderKL(SMALL))
    net.quant_conv.weight.mul_(100)
    frames = normal(1, 3, 16, 16)
    logvar = net.moments(frames)[1]
    assert_equal(logvar, modelscope_autoencoder(net).encode(frames).logvar, 1e-3)
    assert (logvar.min().item(), logvar.max().item()) == (-30, 20)


def test_in_float64_only_rounding_is_left_between_the_three() -> None:
    net = randomised(AutoencoderKL(SMALL)).double()
    modelscope, diffusers = modelscope_autoencoder(net).double(), diffusers_autoencoder(net).double()
    frames, z = normal(1, 3, 24, 40).double(), normal(1, 4, 3, 5).double()
    mean, image = net.moments(frames)[0], net.decode(z * net.config.scale_factor)
    assert_equal(mean, modelscope.encode(frames).mean, 1e-13)
    assert_equal(mean, diffusers.encode(frames).latent_dist.mean, 1e-13)
    assert_equal(image, modelscope.decode(z), 1e-13)
    assert_equal(image, diffusers.decode(z).sample, 1e-13)


@pytest.mark.parametrize("scale_factor", [0.18215, 1.0, 2.0])
def test_latents_are_scaled_means(scale_factor: float) -> None:
    net, plain = AutoencoderKL(replace(SMALL, scale_factor=scale_factor)), autoencoder(replace(SMALL, scale_factor=1.0))
    net.load_state_dict(plain.state_dict())
    net.requires_grad_(False)
    frames, z = normal(1, 3, 8, 12), normal(1, 4, 2, 3)
    assert_equal(net.encode(frames), plain.moments(frames)[0] * scale_factor, 0)
    assert_equal(net.decode(z * scale_factor), plain.decode(z))


@pytest.mark.parametrize("name", CONFIGS)
def test_the_factor_is_how_much_smaller_latents_are(name: str) -> None:
    net = autoencoder(CONFIGS[name])
    latents = net.encode(normal(1, 3, 3 * net.factor, 2 * net.factor))
    assert latents.shape == (1, net.config.embed_dim, 3, 2)
    assert net.decode(latents).shape == (1, 3, 3 * net.factor, 2 * net.factor)


def test_the_published_factor_is_eight() -> None:
    with torch.device("meta"):
        assert AutoencoderKL().factor == 8


def test_pictures_of_a_batch_do_not_know_of_each_other() -> None:
    net = autoencoder(SMALL)
    frames, z = normal(3, 3, 8, 8), normal(3, 4, 2, 2)
    assert_equal(net.encode(frames), torch.cat([net.encode(each[None]) for each in frames]), 5e-6)
    assert_equal(net.decode(z), torch.cat([net.decode(each[None]) for each in z]), 2e-5)


def test_attention_in_parts_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    net = autoencoder(SMALL)
    frames, z = normal(5, 3, 8, 12), normal(5, 4, 2, 3)
    latents, images = net.encode(frames), net.decode(z)
    monkeypatch.setattr(layers, "MAX_ROWS", 2)
    assert_equal(net.encode(frames), latents, 1e-5)
    assert_equal(net.decode(z), images, 1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_weights_compute_in_float32_as_if_converted_beforehand(dtype: torch.dtype) -> None:
    net = randomised(AutoencoderKL(SMALL))
    assert_casts_at_use(net, dtype, lambda: net.decode(net.encode(normal(1, 3, 8, 12))))


def test_every_weight_takes_part() -> None:
    net = randomised(AutoencoderKL(SMALL)).requires_grad_()
    mean, logvar = net.moments(normal(1, 3, 8, 12))
    (mean.square().sum() + logvar.square().sum() + net.decode(normal(1, 4, 2, 3)).square().sum()).backward()
    strengths = gradients(net)
    shifts = [name for name in strengths if name.endswith("attn_1.k.bias")]  # one for all keys: softmax cannot see it
    assert len(shifts) == 2
    assert max(strengths.pop(name) for name in shifts) < 1e-4
    assert min(strengths.values()) > 1e-3, min(strengths, key=strengths.__getitem__)


# ---- strips ----


@pytest.mark.parametrize("numbers", [2**8, 2**11, 2**13])
@pytest.mark.parametrize("size", [(24, 40), (25, 43), (33, 18), (130, 10)])
def test_strips_change_nothing_but_rounding(
        numbers: int, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    net = randomised(AutoencoderKL(replace(SMALL, ch=32, ch_mult=(1, 2, 1, 1)))).double()
    frames, z = normal(2, 3, *size).double(), normal(2, 4, size[0] // 4, size[1] // 4).double()
    means, images = net.moments(frames)[0], net.decode(z)
    for place, name in ((strips, "WHOLE"), (strips, "STRIP"), (network, "SCORES")):
        monkeypatch.setattr(place, name, numbers)
    with torch.no_grad():
        found, seen = net.moments(frames)[0], net.decode(z)
    torch.testing.assert_close(found, means, atol=1e-12, rtol=0)
    torch.testing.assert_close(seen, images, atol=1e-12, rtol=0)
    if numbers == 2**8:
        assert not torch.equal(seen, images)  # something was cut


def test_where_gradients_are_recorded_nothing_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    net, frames = autoencoder(SMALL), normal(1, 3, 24, 40)
    means = net.moments(frames)[0]
    monkeypatch.setattr(strips, "WHOLE", 0)
    assert torch.equal(net.moments(frames)[0], means)


# ---- what is alive at once, against a count of every tensor ----

ALIVE = {"published": AutoencoderConfig(), "demo": train.AUTOENCODER, "tiny": fixtures.AUTOENCODER,
         "two levels": AutoencoderConfig(ch=32, ch_mult=(1, 4))}


def alive(config: AutoencoderConfig, size: tuple[int, int], dtype: torch.dtype, way: str, tile: int = 0) -> int:
    def run(net: Any) -> object:
        shape = [config.embed_dim, *(side // net.factor for side in size)] if way == "decode" else [3, *size]
        return getattr(net, way)(torch.empty(1, *shape, dtype=dtype, device="cuda"), tile)

    return activations(lambda: AutoencoderKL(config), dtype, run)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize(("size", "tile"), [((256, 256), 0), ((576, 1024), 0), ((512, 768), 48)])
@pytest.mark.parametrize("name", ALIVE)
def test_the_estimates_are_what_a_picture_has_alive(
        name: str, size: tuple[int, int], tile: int, dtype: torch.dtype) -> None:
    for way, numbers in (("decode", decoder_numbers), ("encode", encoder_numbers)):
        found = numbers(ALIVE[name], size, dtype, tile) * dtype.itemsize
        assert found == pytest.approx(alive(ALIVE[name], size, dtype, way, tile), rel=0.08), way


def test_a_frame_of_1024_by_576_is_decoded_within_a_gigabyte_weights_included() -> None:
    weights = 4 * 83_653_863
    assert weights + alive(AutoencoderConfig(), (576, 1024), torch.float32, "decode") < 2**30
