"""Denoisers and guidance: against modelscope's own diffusion, against algebra, and on a table of another kind."""

import math

import pytest
import torch

from t2v.guidance import Denoiser, guided
from t2v.sampling import SAMPLERS
from t2v.schedule import SPACINGS, Schedule, scaled_linear
from tests.oracles import modelscope_module

PUBLISHED = scaled_linear()
SHAPE = (2, 4, 3, 8, 8)
SIGMA = float(PUBLISHED.noise_levels[700])


@pytest.fixture(autouse=True)
def _same_numbers_every_time():
    torch.manual_seed(0)


class Toy:
    """A network in miniature, which bends, sees timestep and context, and remembers what it was shown."""

    def __init__(self):
        self.seen = []

    def __call__(self, x_t, timestep, context):
        self.seen.append((x_t, timestep, context))
        shift = 0.001 * timestep + context.float().mean(dim=(1, 2))
        return torch.tanh(0.7 * x_t + shift.view(-1, 1, 1, 1, 1).to(x_t.dtype))


def context(tokens=77, batch=2):
    return torch.randn(batch, tokens, 16)


def pair(network, tokens=(77, 77), **settings):
    return [Denoiser(network, PUBLISHED, context(count), **settings) for count in tokens]


def last_of(steps):
    *_, last = steps
    return last


# ---- the whole chain ----


@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("steps", [10, 25, 50])
def test_ddim_with_guidance_is_modelscopes_own_diffusion(steps, eta):
    network, prompt, negative = Toy(), context(), context()
    module = modelscope_module("diffusion")
    diffusion = module.GaussianDiffusion(
        module.beta_schedule("linear_sd", 1000, init_beta=0.00085, last_beta=0.0120), "eps", "fixed_small"
    )
    start = torch.randn(SHAPE)
    torch.manual_seed(1)
    theirs = diffusion.ddim_sample_loop(
        start, network, [{"context": prompt}, {"context": negative}], guide_scale=9.0, ddim_timesteps=steps, eta=eta
    )

    sigmas = SPACINGS["modelscope"](PUBLISHED, steps)
    denoise = guided(Denoiser(network, PUBLISHED, prompt), Denoiser(network, PUBLISHED, negative), 9.0)
    torch.manual_seed(1)
    x = PUBLISHED.from_network(start, sigmas[0])
    x = last_of(SAMPLERS["DDIM"](denoise, x, sigmas, torch.randn_like, eta)).x
    torch.testing.assert_close(PUBLISHED.to_network(x, sigmas[-1]), theirs, rtol=0, atol=5e-5)


# ---- what a network says, and what it is shown ----


@pytest.mark.parametrize("zero_terminal_snr", [False, True])
@pytest.mark.parametrize("prediction", ["eps", "v", "x0"])
def test_x0_is_found_whatever_the_network_predicts(prediction, zero_terminal_snr):
    schedule = scaled_linear(prediction=prediction, zero_terminal_snr=zero_terminal_snr)
    x0, eps = torch.randn(SHAPE).double(), torch.randn(SHAPE).double()
    for t in (0, 1, 500, 999):
        alpha, sigma = schedule.alphas[t], schedule.sigmas[t]
        said = {"eps": eps, "x0": x0, "v": alpha * eps - sigma * x0}[prediction]
        denoise = Denoiser(lambda *_, said=said: said, schedule, context(), torch.float64)
        x = x0 + float(schedule.noise_levels[t]) * eps
        torch.testing.assert_close(denoise(x, float(schedule.noise_levels[t])), x0, rtol=0, atol=1e-9)


def test_the_network_sees_scaled_latents_and_its_own_timestep():
    network, words = Toy(), context()
    x = torch.randn(SHAPE)
    Denoiser(network, PUBLISHED, words)(x, SIGMA)
    x_t, timestep, seen = network.seen[0]
    torch.testing.assert_close(x_t, x * float(PUBLISHED.alphas[700]))
    assert timestep.tolist() == [700, 700]
    assert seen is words


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_network_works_in_its_precision_and_x0_comes_back_in_that_of_x(dtype):
    network, x = Toy(), torch.randn(SHAPE)
    low = Denoiser(network, PUBLISHED, context(), dtype)
    x0 = low(x, SIGMA)
    x_t, timestep, words = network.seen[0]
    assert (x_t.dtype, timestep.dtype, words.dtype, x0.dtype) == (dtype, torch.float32, dtype, torch.float32)
    exact = Denoiser(network, PUBLISHED, low.context)(x, SIGMA)
    torch.testing.assert_close(x0, exact, rtol=0, atol=SIGMA * 10 * torch.finfo(dtype).eps)


def test_the_context_may_change_with_the_noise_level():
    early, late, network = context(), context(), Toy()
    denoise = Denoiser(network, PUBLISHED, lambda sigma: early if sigma > 1 else late)
    for sigma in (10.0, 1.5, 0.9, 0.1):
        denoise(torch.randn(SHAPE), sigma)
    assert [words is early for _, _, words in network.seen] == [True, True, False, False]


# ---- guidance ----


@pytest.mark.parametrize("prediction", ["eps", "v", "x0"])
@pytest.mark.parametrize("cfg_scale", [0.0, 0.5, 9.0])
def test_guiding_x0_is_guiding_what_the_network_predicts_on_every_channel(cfg_scale, prediction):
    schedule, network = scaled_linear(prediction=prediction), Toy()
    prompt, negative, x = context(), context(), torch.randn(SHAPE)

    def guided_network(x_t, timestep, _context):
        said, otherwise = network(x_t, timestep, prompt), network(x_t, timestep, negative)
        return otherwise + cfg_scale * (said - otherwise)

    denoise = guided(Denoiser(network, schedule, prompt), Denoiser(network, schedule, negative), cfg_scale)
    expected = Denoiser(guided_network, schedule, prompt)(x, SIGMA)
    torch.testing.assert_close(denoise(x, SIGMA), expected, rtol=0, atol=5e-5)


def test_guidance_changes_all_four_channels():
    cond, uncond = pair(Toy())
    x = torch.randn(SHAPE)
    difference = guided(cond, uncond, 9.0)(x, SIGMA) - cond(x, SIGMA)
    assert (difference.abs().amax(dim=(0, 2, 3, 4)) > 0.01).all()


def join(*contexts):
    return torch.cat(contexts)


@pytest.mark.parametrize("joined", [None, join])
def test_without_guidance_the_network_runs_once_and_never_sees_the_negative_prompt(joined):
    network = Toy()
    cond, uncond = pair(network)
    x = torch.randn(SHAPE)
    x0 = guided(cond, uncond, 1.0, joined)(x, SIGMA)
    assert [words is cond.context for _, _, words in network.seen] == [True]
    assert torch.equal(x0, cond(x, SIGMA))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_batch_of_both_is_the_same_as_two_passes(dtype):
    one_pass, two_passes = Toy(), Toy()
    cond, uncond = pair(two_passes, dtype=dtype)
    x = torch.randn(SHAPE)
    expected = guided(cond, uncond, 9.0)(x, SIGMA)
    batch = [Denoiser(one_pass, PUBLISHED, denoiser.context, dtype) for denoiser in (cond, uncond)]
    torch.testing.assert_close(guided(*batch, 9.0, join=join)(x, SIGMA), expected, rtol=0, atol=1e-5)
    assert [len(x_t) for x_t, _, _ in one_pass.seen] == [4]
    assert [len(x_t) for x_t, _, _ in two_passes.seen] == [2, 2]


def test_a_single_film_is_given_to_the_network_once_for_both():
    one_pass = Toy()
    cond, uncond = (Denoiser(one_pass, PUBLISHED, context(batch=1)) for _ in range(2))
    x = torch.randn(1, *SHAPE[1:])
    x0 = guided(cond, uncond, 9.0, join=join)(x, SIGMA)
    assert [(len(x_t), len(timestep), len(words)) for x_t, timestep, words in one_pass.seen] == [(1, 1, 2)]
    torch.testing.assert_close(x0, guided(cond, uncond, 9.0)(x, SIGMA), rtol=0, atol=1e-5)


def test_contexts_of_unequal_length_take_two_passes_even_if_batched():
    network = Toy()
    cond, uncond = pair(network, tokens=(154, 77))
    x = torch.randn(SHAPE)
    x0 = guided(cond, uncond, 9.0, join=join)(x, SIGMA)
    assert [tuple(words.shape[:2]) for _, _, words in network.seen] == [(2, 154), (2, 77)]
    assert torch.equal(x0, guided(cond, uncond, 9.0)(x, SIGMA))


def test_a_changing_prompt_is_batched_wherever_its_length_allows():
    network, long, short = Toy(), context(154), context(77)
    cond = Denoiser(network, PUBLISHED, lambda sigma: long if sigma > 1 else short)
    denoise = guided(cond, Denoiser(network, PUBLISHED, context(77)), 9.0, join=join)
    denoise(torch.randn(SHAPE), 5.0)
    denoise(torch.randn(SHAPE), 0.5)
    assert [len(x_t) for x_t, _, _ in network.seen] == [2, 2, 4]


# ---- a table that does not preserve variance ----

FADING = torch.cat([torch.linspace(1, 0.7, 400, dtype=torch.float64), torch.full((600,), 0.7, dtype=torch.float64)])
FADED = Schedule(PUBLISHED.alphas * FADING, PUBLISHED.sigmas)  # x_t = sqrt(abar) s_t x0 + sqrt(1 - abar) eps


def test_ddim_on_such_a_table_is_videocrafters_loop():
    """The update of VideoCrafter2 with dynamic rescale: x0 is divided by s_t, and multiplied by the next one."""
    network, words, sigmas = Toy(), context(), SPACINGS["modelscope"](FADED, 50)
    x_t = start = torch.randn(SHAPE).double()
    for t in range(981, 0, -20):
        previous = max(t - 20, 0)
        eps = network(x_t, torch.full((2,), float(t)), words)
        x0 = (x_t - PUBLISHED.sigmas[t] * eps) / PUBLISHED.alphas[t] / FADING[t]
        x_t = PUBLISHED.alphas[previous] * FADING[previous] * x0 + PUBLISHED.sigmas[previous] * eps
    denoise = Denoiser(network, FADED, words, torch.float64)
    x = last_of(SAMPLERS["DDIM"](denoise, FADED.from_network(start, sigmas[0]), sigmas, torch.randn_like)).x
    torch.testing.assert_close(FADED.to_network(x, sigmas[-1]), x_t, rtol=0, atol=1e-10)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_sees_the_data_on_such_a_table_and_only_there(name, spacing):
    """The perfect network for data that is a single film says eps = (x_t - alpha film) / sigma, on its own table."""
    film = torch.randn(SHAPE).double()

    def network(x_t, timestep, _context):
        t = timestep[0].double()
        low = t.long().clamp(max=998)
        alpha, sigma = (torch.lerp(table[low], table[low + 1], t - low) for table in (FADED.alphas, FADED.sigmas))
        return (x_t - alpha * film) / sigma

    def error(schedule):
        sigmas = SPACINGS[spacing](schedule, 20)
        x = schedule.from_network(torch.randn(SHAPE).double(), sigmas[0])
        denoise = Denoiser(network, schedule, context(), torch.float64)
        path = SAMPLERS[name](denoise, x, sigmas, torch.randn_like)
        return max(float((step.x0 - film).abs().max()) for step in path)

    assert error(FADED) < 0.01  # between two timesteps the network above is not perfect
    assert error(PUBLISHED) > 0.5


def test_such_a_table_has_its_own_variance_at_every_timestep():
    lengths = (FADED.alphas**2 + FADED.sigmas**2).sqrt()
    assert math.isclose(float(lengths[0]), 1)
    assert float(lengths.min()) < 0.9
