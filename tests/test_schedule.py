"""Tables against modelscope and diffusers, conversions against their definition, spacings against diffusers."""

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler, LCMScheduler
from hypothesis import given, settings
from hypothesis import strategies as st

from t2v.errors import RequestError, T2VError
from t2v.schedule import (
    SCHEDULES,
    SPACINGS,
    Schedule,
    find_spacing,
    from_betas,
    plain,
    scaled_linear,
    squaredcos_cap_v2,
)
from tests.oracles import modelscope_module

repeatably = settings(derandomize=True, deadline=None)

# diffusers hands torch tensors to numpy in a way that numpy 2 is about to drop.
numpy_in_diffusers = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

PUBLISHED = scaled_linear()
DIFFUSERS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
FADING = torch.cat([torch.linspace(1, 0.7, 400, dtype=torch.float64), torch.full((600,), 0.7, dtype=torch.float64)])
NOT_PRESERVING = Schedule(PUBLISHED.alphas * FADING, PUBLISHED.sigmas)  # as VideoCrafter2 was trained
ALL = {
    "published": PUBLISHED,
    "not preserving variance": NOT_PRESERVING,
    "zero terminal SNR": scaled_linear(zero_terminal_snr=True),
    "cosine": squaredcos_cap_v2(),
    "short": scaled_linear(timesteps=7),
    "shortest": scaled_linear(timesteps=2),
}


def timesteps(spacing: str, steps: int, schedule: Schedule = PUBLISHED) -> list[float]:
    return [float(t) for t in schedule.timestep(SPACINGS[spacing](schedule, steps)[:-1])]


# ---- tables ----


def test_the_published_table_is_modelscopes():
    module = modelscope_module("diffusion")
    betas = module.beta_schedule("linear_sd", 1000, init_beta=0.00085, last_beta=0.0120)
    theirs = module.GaussianDiffusion(betas, var_type="fixed_small")
    torch.testing.assert_close(PUBLISHED.alphas, theirs.sqrt_alphas_cumprod, rtol=1e-12, atol=0)
    torch.testing.assert_close(PUBLISHED.sigmas, theirs.sqrt_one_minus_alphas_cumprod, rtol=1e-12, atol=0)
    assert float(PUBLISHED.alphas[999] ** 2) == pytest.approx(0.0046601, rel=1e-5)


@pytest.mark.parametrize("zero_terminal_snr", [False, True])
@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_is_the_one_diffusers_makes_from_the_same_settings(name, zero_terminal_snr):
    ours = SCHEDULES[name](0.00085, 0.012, 1000, "eps", zero_terminal_snr)
    theirs = EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule=name, rescale_betas_zero_snr=zero_terminal_snr
    ).alphas_cumprod
    # Theirs is a product of a thousand float32 factors, and the rescaled one a difference of small numbers.
    torch.testing.assert_close((ours.alphas**2).float(), theirs, rtol=2e-4, atol=1e-7)
    torch.testing.assert_close(ours.alphas**2 + ours.sigmas**2, torch.ones_like(ours.alphas), rtol=0, atol=1e-15)


def test_zero_terminal_snr_keeps_the_first_alpha_and_ends_almost_in_pure_noise():
    rescaled = scaled_linear(zero_terminal_snr=True)
    assert float(rescaled.alphas[0]) == pytest.approx(float(PUBLISHED.alphas[0]), rel=1e-15)
    assert float(rescaled.noise_levels[-1]) == pytest.approx(4096, rel=1e-6)


@pytest.mark.parametrize(
    "betas", [[0.1], [0.1, 0.0, 0.1], [0.0, 0.1], [0.1, -0.2], [0.1, 1.0], [0.1, float("nan")], [0.1, 1.5]]
)
def test_a_schedule_whose_noise_does_not_grow_is_refused(betas):
    with pytest.raises(T2VError, match="noise must grow"):
        from_betas(torch.tensor(betas))


# ---- between timesteps, noise levels and alphas ----


@pytest.mark.parametrize("schedule", ALL.values(), ids=ALL)
def test_timestep_and_noise_level_are_exact_on_the_table(schedule):
    count = len(schedule.alphas)
    assert schedule.timestep(schedule.noise_levels).tolist() == list(range(count))
    assert torch.equal(schedule.noise_level(torch.arange(count)), schedule.noise_levels)
    assert float(schedule.timestep(schedule.noise_levels[1])) == 1.0


@repeatably
@given(timestep=st.floats(0, 999))
def test_timestep_undoes_noise_level_between_the_entries_too(timestep):
    assert float(PUBLISHED.timestep(PUBLISHED.noise_level(timestep))) == pytest.approx(timestep, abs=1e-9)


@repeatably
@given(sigma=st.floats(0.03, 14.6))
def test_timestep_is_what_diffusers_interpolates(sigma):
    theirs = EulerDiscreteScheduler(**DIFFUSERS)
    log_sigmas = PUBLISHED.noise_levels.log().numpy()
    assert float(PUBLISHED.timestep(sigma)) == pytest.approx(theirs._sigma_to_t(np.array(sigma), log_sigmas), abs=1e-9)


def test_noise_levels_beyond_the_table_are_its_ends():
    assert PUBLISHED.timestep(torch.tensor([0.0, 1e-9, 1e9])).tolist() == [0, 0, 999]
    assert PUBLISHED.noise_level(torch.tensor([-1.0, 1e9])).tolist() == PUBLISHED.noise_levels[[0, -1]].tolist()


@pytest.mark.parametrize("schedule", ALL.values(), ids=ALL)
def test_alpha_is_the_tables_on_the_table_and_one_without_noise(schedule):
    torch.testing.assert_close(schedule.alpha(schedule.noise_levels), schedule.alphas, rtol=1e-14, atol=0)
    assert float(schedule.alpha(0.0)) == 1


@repeatably
@given(sigma=st.floats(0, 20))
def test_alpha_preserves_variance_at_every_noise_level_if_the_table_does(sigma):
    assert float(PUBLISHED.alpha(sigma)) ** 2 * (1 + sigma**2) == pytest.approx(1, rel=1e-12)


def test_to_network_and_from_network_are_the_two_directions_of_one_scaling():
    x = torch.randn(1, 4, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    x_t = NOT_PRESERVING.to_network(x, NOT_PRESERVING.noise_levels[500])
    torch.testing.assert_close(x_t, x * NOT_PRESERVING.alphas[500].float())
    torch.testing.assert_close(NOT_PRESERVING.from_network(x_t, NOT_PRESERVING.noise_levels[500]), x)


# ---- spacings ----


@pytest.mark.parametrize("schedule", ALL.values(), ids=ALL)
@pytest.mark.parametrize("spacing", SPACINGS.values(), ids=SPACINGS)
def test_every_spacing_descends_for_every_number_of_steps(spacing, schedule):
    lowest, highest = (float(level) for level in schedule.noise_levels[[0, -1]])
    for steps in range(1, len(schedule.alphas) + 1):
        sigmas = spacing(schedule, steps)
        assert sigmas.shape == (steps + 1,)
        assert sigmas.dtype == torch.float64
        assert sigmas.isfinite().all()
        assert (sigmas.diff() < 0).all(), steps
        assert sigmas[0] <= highest * (1 + 1e-12)
        assert sigmas[-1] == 0 or float(sigmas[-1]) == lowest


@pytest.mark.parametrize("steps", [-1, 0, 1001])
@pytest.mark.parametrize("spacing", SPACINGS.values(), ids=SPACINGS)
def test_every_spacing_refuses_numbers_of_steps_the_model_does_not_have(spacing, steps):
    with pytest.raises(RequestError, match=f"steps: must be between 1 and 1000, .* not {steps}") as error:
        spacing(PUBLISHED, steps)
    assert error.value.field == "steps"


def test_modelscope_spacing_visits_the_timesteps_of_its_pipeline_and_ends_at_timestep_zero():
    assert timesteps("modelscope", 50) == list(range(981, 0, -20))
    assert timesteps("modelscope", 30) == list(range(958, 0, -33))  # theirs: 31 steps, from 991
    assert SPACINGS["modelscope"](PUBLISHED, 50)[-1] == PUBLISHED.noise_levels[0]


@pytest.mark.parametrize("steps", [1, 3, 4, 5, 6, 7, 8, 25, 50])
def test_lcm_visits_the_timesteps_of_diffusers_lcm(steps):
    theirs = LCMScheduler(**DIFFUSERS)
    theirs.set_timesteps(steps)
    assert timesteps("lcm", steps) == theirs.timesteps.tolist()


@pytest.mark.parametrize("steps", [1, 2, 10, 25, 30, 50, 333, 999])
def test_leading_and_trailing_are_diffusers_timesteps(steps):
    for spacing in ("leading", "trailing"):
        theirs = DDIMScheduler(**DIFFUSERS, timestep_spacing=spacing, steps_offset=int(spacing == "leading"))
        theirs.set_timesteps(steps)
        assert timesteps(spacing, steps) == theirs.timesteps.tolist()


@numpy_in_diffusers
@pytest.mark.parametrize("steps", [2, 10, 25, 50])
def test_linspace_is_eulers_of_diffusers(steps):
    theirs = EulerDiscreteScheduler(**DIFFUSERS, timestep_spacing="linspace")
    theirs.set_timesteps(steps)
    assert timesteps("linspace", steps) == pytest.approx(theirs.timesteps.tolist(), rel=1e-6)
    # Between two timesteps theirs is linear in sigma, ours in log sigma, so that `timestep` inverts it.
    torch.testing.assert_close(SPACINGS["linspace"](PUBLISHED, steps).float(), theirs.sigmas, rtol=1e-4, atol=0)


@numpy_in_diffusers
@pytest.mark.parametrize("steps", [2, 10, 25, 50])
def test_karras_is_that_of_diffusers_over_the_whole_table(steps):
    theirs = EulerDiscreteScheduler(**DIFFUSERS, use_karras_sigmas=True)
    theirs.set_timesteps(steps)
    torch.testing.assert_close(SPACINGS["karras"](PUBLISHED, steps).float(), theirs.sigmas, rtol=2e-5, atol=0)


@pytest.mark.parametrize("name", ["karras", "Karras", " KARRAS", "kar-ras"])
def test_a_spacing_is_found_however_its_name_is_written(name):
    assert find_spacing(name) is SPACINGS["karras"]


def test_an_unknown_spacing_is_answered_with_the_choices():
    with pytest.raises(RequestError, match="spacing: there is no 'sgm'; choose one of modelscope, leading, ") as error:
        find_spacing("sgm")
    assert error.value.field == "spacing"


def test_no_two_spacings_have_the_same_plain_name():
    assert len({plain(name) for name in SPACINGS}) == len(SPACINGS)
