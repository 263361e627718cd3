"""FreeInit against that of diffusers."""

import pytest
import torch
from diffusers import DDIMScheduler
from diffusers.pipelines.free_init_utils import FreeInitMixin

from t2v.freeinit import FILTERS, ORDER, STOP, exchanged, reinitialised, squared_frequencies
from t2v.schedule import scaled_linear
from tests.networks import assert_equal, normal

SHAPE = (1, 4, 8, 6, 10)


class Theirs(FreeInitMixin):
    """As much of a pipeline as FreeInit asks for."""

    def __init__(self, method: str) -> None:
        self.scheduler = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
        self.enable_free_init(method=method, order=ORDER, spatial_stop_frequency=STOP, temporal_stop_frequency=STOP)


@pytest.mark.parametrize("method", FILTERS)
@pytest.mark.parametrize("size", [(8, 6, 10), (5, 7, 9), (1, 2, 3)])
def test_filters_are_those_of_diffusers(method: str, size: tuple[int, int, int]) -> None:
    theirs = Theirs(method)._get_free_init_freq_filter((1, 4, *size), "cpu", method, ORDER, STOP, STOP)
    ours = FILTERS[method](squared_frequencies(*size)).expand_as(theirs)
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("method", FILTERS)
def test_the_noise_of_the_next_round_is_that_of_diffusers(method: str) -> None:
    noise, latents, fresh = normal(*SHAPE), normal(*SHAPE, seed=1), normal(*SHAPE, seed=2)
    theirs = Theirs(method)
    settings = {"num_inference_steps": 5, "device": "cpu", "dtype": torch.float32,
                "generator": torch.Generator().manual_seed(2)}
    theirs._apply_free_init(noise, 0, **settings)
    expected, _ = theirs._apply_free_init(latents, 1, **settings)
    assert_equal(reinitialised(latents, noise, fresh, scaled_linear(), method), expected)


def test_a_filter_that_lets_all_or_nothing_through_changes_nothing() -> None:
    low, high = normal(*SHAPE), normal(*SHAPE, seed=1)
    assert_equal(exchanged(low, high, torch.ones(SHAPE[2:])), low)
    assert_equal(exchanged(low, high, torch.zeros(SHAPE[2:])), high)


def test_what_never_changes_is_kept_and_what_flickers_is_not() -> None:
    still = normal(1, 4, 1, 1, 1).expand(SHAPE)
    flicker = torch.tensor([1.0, -1.0]).repeat(4)[:, None, None].expand(SHAPE)
    share = FILTERS["butterworth"](squared_frequencies(*SHAPE[2:]))
    kept = exchanged(still + flicker, torch.zeros(SHAPE), share)
    assert_equal(kept, still, tolerance=1e-3)


def test_the_precision_of_the_latents_is_kept() -> None:
    half = normal(*SHAPE).half()
    assert reinitialised(half, half, half, scaled_linear()).dtype == torch.float16
