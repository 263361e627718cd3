"""Samplers against closed forms, against diffusers, and the properties that every entry of SAMPLERS has.

Data that is normal with deviation S has the denoiser D(x; sigma) = x S^2 / (S^2 + sigma^2), and then all is known: the
solution of the ODE, and the variance at every noise level.
"""

import inspect
import itertools
import math

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    DPMSolverSDEScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    LCMScheduler,
    UniPCMultistepScheduler,
)

from t2v.errors import RequestError
from t2v.guidance import Denoiser
from t2v.sampling import SAMPLERS, ancestral, find_sampler, seeded_noise
from t2v.schedule import SPACINGS, plain, scaled_linear

PUBLISHED = scaled_linear()
S = 0.5
SHAPE = (2, 4, 3, 8, 8)

every_sampler = pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)
every_spacing = pytest.mark.parametrize("spacing", SPACINGS.values(), ids=SPACINGS)


@pytest.fixture(autouse=True)
def _same_numbers_every_time():
    torch.manual_seed(0)


def last_of(steps):
    *_, last = steps
    return last


def no_noise(_x):
    raise AssertionError("a deterministic sampler asked for noise")


def gaussian(x, sigma):
    return x * (S**2 / (S**2 + sigma**2))


def consistent(x, sigma):
    """What LCM expects of its network: not the mean of x0, but the end of the ODE through x."""
    return x * (S / math.sqrt(S**2 + sigma**2))


def levels(steps, high=10.0, low=0.05):
    ramp = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    return (high ** (1 / 7) + ramp * (low ** (1 / 7) - high ** (1 / 7))) ** 7


# ---- closed forms ----

# UniPC's predictor has order 2, and its corrector adds one. A sampler that is not listed has to converge at all.
ORDERS = {"DDIM": 1, "Euler": 1, "Heun": 2, "DPM++ 2M": 2, "UniPC": 3,
          "DDPM": 1, "Euler a": 1, "DPM++ 2M SDE": 2, "DPM++ SDE": 2}


def is_deterministic(sampler):
    try:
        last_of(sampler(gaussian, torch.ones(1), levels(3), no_noise))
    except AssertionError:
        return False
    return True


DETERMINISTIC = [name for name, sampler in SAMPLERS.items() if is_deterministic(sampler)]
STOCHASTIC = [name for name in SAMPLERS if name not in DETERMINISTIC]


def ode_error(sampler, steps):
    """Relative distance from x(sigma) = x(sigma_max) sqrt((S^2 + sigma^2) / (S^2 + sigma_max^2))."""
    sigmas = levels(steps)
    x = last_of(sampler(gaussian, torch.ones(1, dtype=torch.float64), sigmas, no_noise)).x
    return abs(float(x) / math.sqrt((S**2 + sigmas[-1] ** 2) / (S**2 + sigmas[0] ** 2)) - 1)


class UnitVectors:
    """Noise whose k-th draw is the k-th unit vector.

    Every step is linear in x and in the noise, so the coordinates of x are the weights of all independent draws, and
    the sum of their squares is the variance over all seeds: exact, without drawing a single sample.
    """

    def __init__(self, count):
        self.vectors = iter(torch.eye(count, dtype=torch.float64))

    def __call__(self, _x):
        return next(self.vectors)


def variance(sampler, steps, denoise=gaussian, eta=None):
    """The variance at the last noise level, as a multiple of the true one, S^2 + sigma^2."""
    sigmas, noise = levels(steps), UnitVectors(2 * steps + 1)
    start = noise(None) * math.sqrt(S**2 + sigmas[0] ** 2)
    x = last_of(sampler(denoise, start, sigmas, noise, eta)).x
    return float(x.square().sum() / (S**2 + sigmas[-1] ** 2))


def assert_converges(name, errors):
    """errors: of 80, 160 and 320 steps."""
    assert errors[-1] < 0.02
    for coarse, fine in itertools.pairwise(errors):
        order = math.log2(coarse / fine)
        assert order == pytest.approx(ORDERS[name], abs=0.15) if name in ORDERS else order > 0.8


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_deterministic_samplers_converge_to_the_ode_with_their_order(name):
    assert_converges(name, [ode_error(SAMPLERS[name], steps) for steps in (80, 160, 320)])


@pytest.mark.parametrize("name", [name for name in STOCHASTIC if name != "LCM"])
def test_stochastic_samplers_converge_to_the_variance_of_the_data_with_their_order(name):
    assert_converges(name, [abs(variance(SAMPLERS[name], steps) - 1) for steps in (80, 160, 320)])


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0, 1.3])
@pytest.mark.parametrize("name", [name for name, sampler in SAMPLERS.items() if sampler.takes_eta])
def test_any_eta_leads_to_the_same_variance(name, eta):
    coarse, fine = (abs(variance(SAMPLERS[name], steps, eta=eta) - 1) for steps in (160, 320))
    assert fine < 0.03
    assert fine < 0.6 * coarse


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_lcm_has_the_variance_of_the_data_after_any_number_of_steps(steps):
    assert variance(SAMPLERS["LCM"], steps, consistent) == pytest.approx(1, rel=1e-12)


@pytest.mark.parametrize("name", STOCHASTIC)
def test_films_of_a_seed_vary_as_much_as_that_analysis_says(name):
    noise, sigmas = seeded_noise(0), levels(40)
    start = math.sqrt(S**2 + sigmas[0] ** 2) * noise(torch.empty(50_000, dtype=torch.float64))
    films = last_of(SAMPLERS[name](gaussian, start, sigmas, noise)).x
    expected = variance(SAMPLERS[name], 40) * (S**2 + float(sigmas[-1]) ** 2)
    assert float(films.var()) == pytest.approx(expected, rel=0.03)  # the deviation of this estimate is 0.6 %


@pytest.mark.parametrize(("sigma", "next_sigma"), [(14.6, 12.0), (1.0, 0.01), (0.03, 0.0)])
@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0, 2.0])
def test_what_is_kept_and_what_is_drawn_make_up_the_next_noise_level(sigma, next_sigma, eta):
    down, up = ancestral(sigma, next_sigma, eta)
    assert min(down, up) >= 0
    assert math.hypot(down, up) == pytest.approx(next_sigma)


# ---- diffusers ----

TABLE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
LEADING = {"timestep_spacing": "leading", "steps_offset": 1}
TRAILING = {"timestep_spacing": "trailing"}
CLIPLESS = {"clip_sample": False}
KARRAS = {"use_karras_sigmas": True}
TO_THE_TABLES_END = {"final_sigmas_type": "sigma_min"}

# Two settings put aside what diffusers does on top of the papers. UniPC takes a first-order last step even where it
# does not lead to sigma = 0 (lower_order_final). LCM's skip connection vanishes with a large timestep_scaling.
PEERS = {
    "DDIM": ("DDIM", None, "leading", DDIMScheduler, {**LEADING, **CLIPLESS}),
    "DDIM, eta 0.7": ("DDIM", 0.7, "leading", DDIMScheduler, {**LEADING, **CLIPLESS}),
    "DDIM, eta 1, to timestep 0": ("DDIM", 1.0, "modelscope", DDIMScheduler,
                                   {**LEADING, **CLIPLESS, "set_alpha_to_one": False}),
    "DDPM": ("DDPM", None, "leading", DDPMScheduler, {**LEADING, **CLIPLESS}),
    "Euler": ("Euler", None, "linspace", EulerDiscreteScheduler, {}),
    "Euler, Karras": ("Euler", None, "karras", EulerDiscreteScheduler, KARRAS),
    "Euler a": ("Euler a", None, "trailing", EulerAncestralDiscreteScheduler, TRAILING),
    "Heun": ("Heun", None, "linspace", HeunDiscreteScheduler, {}),
    "Heun, Karras": ("Heun", None, "karras", HeunDiscreteScheduler, KARRAS),
    "DPM++ 2M": ("DPM++ 2M", None, "trailing", DPMSolverMultistepScheduler, TRAILING),
    "DPM++ 2M, to timestep 0": ("DPM++ 2M", None, "trailing", DPMSolverMultistepScheduler,
                                {**TRAILING, **TO_THE_TABLES_END}),
    "DPM++ 2M SDE": ("DPM++ 2M SDE", None, "trailing", DPMSolverMultistepScheduler,
                     {**TRAILING, "algorithm_type": "sde-dpmsolver++"}),
    "UniPC": ("UniPC", None, "trailing", UniPCMultistepScheduler, TRAILING),
    "UniPC, to timestep 0": ("UniPC", None, "trailing", UniPCMultistepScheduler,
                             {**TRAILING, **TO_THE_TABLES_END, "lower_order_final": False}),
    "LCM": ("LCM", None, "trailing", LCMScheduler, {"timestep_scaling": 1e6}),
}

# diffusers hands torch tensors to numpy in a way that numpy 2 is about to drop.
numpy_in_diffusers = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def toy(x_t, timestep, _context=None):
    """A network in miniature: it bends, and it sees the timestep."""
    return torch.tanh(0.7 * x_t + 0.001 * torch.as_tensor(timestep, dtype=torch.float32).view(-1, 1, 1, 1, 1))


def timeless(x_t, _timestep, _context=None):
    return torch.tanh(0.7 * x_t)


def denoiser(network=toy):
    return Denoiser(network, PUBLISHED, torch.zeros(1, 1, 1))


def works_on_x(scheduler):
    """Whether a scheduler of diffusers has our coordinates, x = x0 + sigma eps; the others have the network's."""
    return isinstance(scheduler, (EulerDiscreteScheduler, EulerAncestralDiscreteScheduler, HeunDiscreteScheduler,
                                  DPMSolverSDEScheduler))


def theirs(scheduler, x, sigma, network=toy, eta=None, seed=5):
    """The film that diffusers makes from x at noise level sigma, in its coordinates."""
    options = {"eta": eta} if eta is not None else {}
    if "generator" in inspect.signature(scheduler.step).parameters:
        options["generator"] = torch.Generator().manual_seed(seed)
    if not works_on_x(scheduler):
        x = PUBLISHED.to_network(x, sigma)
    for timestep in scheduler.timesteps:
        prediction = network(scheduler.scale_model_input(x, timestep), timestep)
        x = scheduler.step(prediction, timestep, x, **options).prev_sample
    return x


def ours(sampler, x, sigmas, scheduler, network=toy, eta=None, noise=None):
    """The film that we make from the same start, in the coordinates of that scheduler."""
    steps = SAMPLERS[sampler](denoiser(network), x, sigmas, noise or seeded_noise(5), eta)
    return last_of(steps).x if works_on_x(scheduler) else PUBLISHED.to_network(last_of(steps).x, sigmas[-1])


def set_timesteps(scheduler, sigmas):
    """As many steps as we take. LCM has a spacing of its own, and takes ours if told so."""
    if isinstance(scheduler, LCMScheduler):
        scheduler.set_timesteps(timesteps=[int(t) for t in PUBLISHED.timestep(sigmas[:-1])])
    else:
        scheduler.set_timesteps(len(sigmas) - 1)


@numpy_in_diffusers
@pytest.mark.parametrize("steps", [25, 50])
@pytest.mark.parametrize("peer", PEERS.values(), ids=PEERS)
def test_samplers_are_those_of_diffusers(peer, steps):
    name, eta, spacing, scheduler_class, settings = peer
    scheduler, sigmas = scheduler_class(**TABLE, **settings), SPACINGS[spacing](PUBLISHED, steps)
    if settings.get("final_sigmas_type") == "sigma_min":
        sigmas[-1] = PUBLISHED.noise_levels[0]
    set_timesteps(scheduler, sigmas)
    x = PUBLISHED.from_network(torch.randn(SHAPE), sigmas[0])
    film = theirs(scheduler, x, sigmas[0], eta=eta)
    # Their tables and their arithmetic are float32, and x begins with values up to 60.
    torch.testing.assert_close(ours(name, x, sigmas, scheduler, eta=eta), film, rtol=0, atol=1e-4)


@pytest.mark.parametrize("steps", [4, 5, 6, 8])
def test_a_few_steps_of_lcm_are_those_of_motion_consistency_models(steps):
    """Their scheduler (timestep_scaling 4) chooses its own timesteps; what is left out of ours is below 1e-6 there."""
    scheduler, sigmas = LCMScheduler(**TABLE, timestep_scaling=4.0), SPACINGS["lcm"](PUBLISHED, steps)
    scheduler.set_timesteps(steps)
    x = PUBLISHED.from_network(torch.randn(SHAPE), sigmas[0])
    torch.testing.assert_close(ours("LCM", x, sigmas, scheduler), theirs(scheduler, x, sigmas[0]), rtol=0, atol=1e-4)


@numpy_in_diffusers
@pytest.mark.parametrize("scheduler_class", [DPMSolverMultistepScheduler, UniPCMultistepScheduler])
def test_multistep_samplers_are_those_of_diffusers_on_karras_levels_too(scheduler_class):
    # Between two timesteps diffusers shows these networks the nearest one, so this network does not look at it.
    name = "UniPC" if scheduler_class is UniPCMultistepScheduler else "DPM++ 2M"
    scheduler, sigmas = scheduler_class(**TABLE, **KARRAS), SPACINGS["karras"](PUBLISHED, 25)
    set_timesteps(scheduler, sigmas)
    x = sigmas[0].float() * torch.randn(SHAPE)
    film = theirs(scheduler, x, sigmas[0], timeless)
    torch.testing.assert_close(ours(name, x, sigmas, scheduler, timeless), film, rtol=0, atol=1e-4)


class BrownianPath:
    """W(sigma) on the levels of DPM++ SDE: independent increments, summed up; stands in for torchsde's tree."""

    def __init__(self, sigmas):
        inner = sigmas[:-1].tolist()
        self.nodes = torch.tensor([*itertools.chain(*((a, math.sqrt(a * b)) for a, b in itertools.pairwise(inner))),
                                   inner[-1]])
        generator = torch.Generator().manual_seed(1)
        self.increments = torch.randn(len(self.nodes) - 1, *SHAPE, generator=generator)
        self.one_by_one = iter(self.increments)

    def __call__(self, sigma, next_sigma):
        """Their question: the normalised increment from sigma to next_sigma."""
        first, last = ((self.nodes - level).abs().argmin() for level in (sigma, next_sigma))
        scales = -self.nodes.diff()[first:last]
        total = (self.increments[first:last] * scales.sqrt().view(-1, 1, 1, 1, 1, 1)).sum(0)
        return total / scales.sum().sqrt()

    def noise(self, _x):
        """Our question: fresh noise."""
        return next(self.one_by_one)


@numpy_in_diffusers
@pytest.mark.parametrize(("spacing", "settings"), [("trailing", TRAILING), ("karras", KARRAS)])
def test_dpm_sde_is_that_of_diffusers_on_the_same_brownian_path(spacing, settings):
    scheduler, sigmas = DPMSolverSDEScheduler(**TABLE, **settings), SPACINGS[spacing](PUBLISHED, 25)
    set_timesteps(scheduler, sigmas)
    path = scheduler.noise_sampler = BrownianPath(sigmas)
    x = sigmas[0].float() * torch.randn(SHAPE)
    film = theirs(scheduler, x, sigmas[0])
    torch.testing.assert_close(ours("DPM++ SDE", x, sigmas, scheduler, noise=path.noise), film, rtol=0, atol=1e-4)


# ---- what holds for every sampler on every spacing ----


def run(sampler, sigmas, x, denoise=None, seed=3):
    return list(sampler(denoise or denoiser(), x, sigmas, seeded_noise(seed)))


@every_spacing
@every_sampler
def test_every_step_is_yielded_and_finite_and_keeps_shape_and_precision(sampler, spacing):
    for steps, dtype in itertools.product((1, 2, 3, 20), (torch.float32, torch.float64)):
        sigmas = spacing(PUBLISHED, steps)
        x = (sigmas[0] * torch.randn(SHAPE)).to(dtype)
        path = run(sampler, sigmas, x)
        assert len(path) == steps
        for tensor in itertools.chain(*path):
            assert (tensor.shape, tensor.dtype) == (x.shape, dtype)
            assert tensor.isfinite().all()


@every_spacing
@every_sampler
def test_the_denoiser_is_asked_as_often_as_the_registry_says(sampler, spacing):
    asked = []

    def denoise(x, sigma):
        asked.append(sigma)
        return 0.9 * x

    sigmas = spacing(PUBLISHED, 12)
    run(sampler, sigmas, torch.randn(SHAPE), denoise)
    saved = sampler.evaluations - 1 if sigmas[-1] == 0 else 0
    assert len(asked) == 12 * sampler.evaluations - saved
    assert all(sigma > 0 for sigma in asked)
    assert {sigma for sigma in sigmas.tolist() if sigma > float(sigmas[-1])} <= set(asked)


@every_spacing
@every_sampler
def test_a_denoiser_that_always_says_the_same_is_believed(sampler, spacing):
    target = torch.randn(SHAPE)
    sigmas = spacing(PUBLISHED, 15)
    path = run(sampler, sigmas, sigmas[0].float() * torch.randn(SHAPE), lambda *_: target)
    assert all(torch.equal(step.x0, target) for step in path)
    if sigmas[-1] == 0:
        assert torch.equal(path[-1].x, target)
    else:
        left_over = (path[-1].x - target).std()
        assert float(left_over) == pytest.approx(float(sigmas[-1]), rel=0.15)


@every_spacing
@every_sampler
def test_items_of_a_batch_do_not_see_each_other(sampler, spacing):
    sigmas = spacing(PUBLISHED, 6)
    x = sigmas[0].float() * torch.randn(SHAPE)

    def films(*rows):
        noises = [seeded_noise(100 + row) for row in rows]

        def each_its_own(x):
            return torch.stack([noise(item) for noise, item in zip(noises, x, strict=True)])

        return last_of(sampler(denoiser(), x[list(rows)], sigmas, each_its_own)).x

    together, alone = films(0, 1), torch.cat([films(0), films(1)])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)


@every_spacing
@every_sampler
def test_a_seed_makes_the_same_film_again_to_the_bit(sampler, spacing):
    sigmas = spacing(PUBLISHED, 8)
    first, again = (run(sampler, sigmas, seeded_noise(9)(torch.empty(SHAPE)), seed=4)[-1].x for _ in range(2))
    assert torch.equal(first, again)


@every_sampler
def test_another_seed_makes_another_film_exactly_if_the_sampler_is_stochastic(sampler):
    sigmas = SPACINGS["leading"](PUBLISHED, 8)
    x = sigmas[0].float() * torch.randn(SHAPE)
    one, other = (run(sampler, sigmas, x, seed=seed)[-1].x for seed in (1, 2))
    assert torch.equal(one, other) == is_deterministic(sampler)


@every_sampler
def test_double_precision_says_the_same_as_single(sampler):
    sigmas = SPACINGS["trailing"](PUBLISHED, 20)
    x = sigmas[0].float() * torch.randn(SHAPE)
    single, double = run(sampler, sigmas, x), run(sampler, sigmas, x.double())
    torch.testing.assert_close(single[-1].x, double[-1].x.float(), rtol=0, atol=5e-5)


@every_sampler
def test_samplers_use_the_device_of_x_and_no_numbers_from_another(sampler):
    # Tensors on "meta" have no values: whatever would copy some to the CPU, or mix devices, fails.
    x = torch.empty(SHAPE, device="meta")
    steps = sampler(lambda x, _sigma: 0.5 * x, x, SPACINGS["karras"](PUBLISHED, 5), torch.randn_like)
    assert all(step.x.device.type == "meta" and step.x.dtype == torch.float32 for step in steps)


@every_sampler
def test_eta_has_an_effect_exactly_if_the_registry_says_so(sampler):
    sigmas = SPACINGS["leading"](PUBLISHED, 5)
    x = sigmas[0].float() * torch.randn(SHAPE)
    own, same, other = (
        last_of(sampler(denoiser(), x, sigmas, seeded_noise(0), eta)).x for eta in (None, sampler.eta, 0.6)
    )
    assert torch.equal(own, same)
    assert torch.equal(own, other) != sampler.takes_eta


# ---- noise and names ----


def test_seeded_noise_is_torchs_cpu_generator_in_single_precision():
    noise = seeded_noise(1234)
    first, second = noise(torch.empty(SHAPE)), noise(torch.empty(SHAPE, dtype=torch.float64))
    torch.manual_seed(1234)
    assert torch.equal(first, torch.randn(SHAPE))
    assert torch.equal(second, torch.randn(SHAPE).double())
    assert second.dtype == torch.float64


def test_seeded_noise_leaves_the_global_generator_alone():
    before = torch.random.get_rng_state()
    seeded_noise(0)(torch.empty(SHAPE))
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("name", ["DPM++ 2M SDE", "dpm++_2m_sde", "dpm++2m-SDE", "DPM   2M SDE"])
def test_a_sampler_is_found_however_its_name_is_written(name):
    assert find_sampler(name) is SAMPLERS["DPM++ 2M SDE"]


def test_an_unknown_sampler_is_answered_with_the_choices():
    with pytest.raises(RequestError, match=r"sampler: there is no 'PLMS'; choose one of DDIM, .*, LCM$") as error:
        find_sampler("PLMS")
    assert error.value.field == "sampler"


def test_no_two_samplers_have_the_same_plain_name():
    assert len({plain(name) for name in SAMPLERS}) == len(SAMPLERS)
