"""What is held stays, whatever the sampler; strength is where on the way a film begins."""

import math

import pytest
import torch
from torch import Tensor

from t2v.sampling import SAMPLERS, Denoise, Sampler, seeded_noise
from t2v.schedule import SPACINGS, scaled_linear
from t2v.start import Hold, Start, held, skipped
from tests.networks import normal

SCHEDULE = scaled_linear()
SHAPE = (1, 4, 6, 3, 5)
FILM = normal(*SHAPE, seed=1)
every_sampler = pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=list(SAMPLERS))


def mixing(x: Tensor, sigma: float) -> Tensor:
    """A denoiser in which every number depends on all frames and places."""
    return torch.tanh(x / (1 + sigma) + x.mean() + x.roll(1, 2) / 3)


def perfect(x: Tensor, sigma: float) -> Tensor:
    """The best denoiser for films of independent standard normal numbers, of which FILM is one."""
    return x / (1 + sigma**2)


def sampled(
    start: Start, sampler: Sampler, spacing: str = "leading", steps: int = 8, denoise: Denoise = mixing
) -> Tensor:
    sigmas, noise = SPACINGS[spacing](SCHEDULE, steps), seeded_noise(7)
    x = start.x(noise(torch.empty(SHAPE)), SCHEDULE, sigmas)
    for step in sampler(start.denoise(denoise, sigmas), x, sigmas[start.step(steps):], noise):
        x = step.x
    return start.kept(SCHEDULE.to_network(x, sigmas[-1]), sigmas)


def frames(*free: float) -> Tensor:
    return torch.tensor(free)[None, None, :, None, None]


# ---- holding ----


@pytest.mark.parametrize("spacing", ["modelscope", "leading", "karras"])
@every_sampler
def test_held_frames_are_exactly_what_they_were_and_the_others_are_not(sampler: Sampler, spacing: str) -> None:
    made = sampled(Start(hold=Hold(FILM, frames(0, 1, 1, 0, 1, 0))), sampler, spacing)
    assert torch.equal(made[:, :, [0, 3, 5]], FILM[:, :, [0, 3, 5]])
    assert ((made - FILM)[:, :, [1, 2, 4]].abs().amax(dim=(0, 1, 3, 4)) > 0.1).all()


@every_sampler
def test_what_is_free_everywhere_is_not_held_at_all(sampler: Sampler) -> None:
    assert torch.equal(sampled(Start(hold=Hold(FILM, torch.ones(1, 1, 1, 1, 1))), sampler), sampled(Start(), sampler))


@every_sampler
def test_the_free_part_sees_what_is_held_as_it_would_see_its_own(sampler: Sampler) -> None:
    """At every question of a sampler, the held part of x is what is known and noise of the level asked about."""
    seen: list[tuple[float, Tensor]] = []
    shape = (1, 4, 6, 24, 24)
    film, sigmas, noise = FILM.repeat(1, 1, 1, 8, 5)[..., :24, :24], SPACINGS["leading"](SCHEDULE, 8), seeded_noise(3)

    def wide(x: Tensor, sigma: float) -> Tensor:
        seen.append((sigma, (x - film)[:, :, :3] / sigma))
        return mixing(x, sigma)

    hold = Hold(film, frames(0, 0, 0, 1, 1, 1))
    x = Start(hold=hold).x(noise(torch.empty(shape)), SCHEDULE, sigmas)
    list(sampler(held(wide, hold, sigmas), x, sigmas, noise))
    assert len(seen) >= 8
    for sigma, eps in seen:
        assert math.isclose(float(eps.std()), 1, abs_tol=0.05), sigma
        assert math.isclose(float(eps.mean()), 0, abs_tol=0.05), sigma


@pytest.mark.parametrize("name", ["DDIM", "Euler"])
@pytest.mark.parametrize("part", [0.25, 0.5, 0.75])
def test_to_be_held_for_a_while_is_to_begin_where_a_film_of_that_strength_begins(name: str, part: float) -> None:
    for_a_while = sampled(Start(hold=Hold(FILM, torch.full((1, 1, 1, 1, 1), part))), SAMPLERS[name])
    begun_there = sampled(Start(FILM, part), SAMPLERS[name])
    torch.testing.assert_close(for_a_while, begun_there, rtol=0, atol=2e-5)


@every_sampler
def test_the_freer_a_part_is_the_farther_it_goes(sampler: Sampler) -> None:
    free = torch.linspace(0, 1, 5)[None, None, None, None]
    made = sampled(Start(hold=Hold(FILM, free)), sampler, steps=20, denoise=perfect)
    far = (made - FILM).abs().mean(dim=(0, 1, 2, 3))
    assert 0 == far[0] < far[1] < far[2:].min()  # where all beyond are nearly as far as two films can be


# ---- strength ----


@pytest.mark.parametrize(("steps", "strength", "first"), [
    (50, 0.6, 20), (50, 0.58, 21), (10, 0.3, 7), (10, 1, 0), (10, 0, 10), (3, 0.3, 3), (3, 0.34, 2)])
def test_strength_is_the_part_of_the_steps_that_is_taken(steps: int, strength: float, first: int) -> None:
    assert skipped(steps, strength) == first


@every_sampler
def test_at_full_strength_the_film_makes_no_difference(sampler: Sampler) -> None:
    assert torch.equal(sampled(Start(FILM, 1.0), sampler), sampled(Start(), sampler))


@pytest.mark.parametrize("spacing", SPACINGS)
def test_a_film_begins_with_as_much_noise_as_its_first_step_takes_away(spacing: str) -> None:
    sigmas = SPACINGS[spacing](SCHEDULE, 10)
    noise = normal(*SHAPE, seed=2)
    start = Start(FILM, 0.4)
    x = start.x(noise, SCHEDULE, sigmas)
    torch.testing.assert_close(x, FILM + float(sigmas[6]) * noise)


# ---- parts of films ----


def test_a_part_holds_what_the_film_holds_there_and_what_it_knows_itself() -> None:
    start = Start(hold=Hold(FILM, frames(0, 1, 1, 1, 0.5, 0)))
    like, own = torch.empty(1, 4, 4, 3, 5), normal(1, 4, 3, 5, seed=9)
    part = start.part(range(-2, 2), {0: own, 1: own}, None, like)
    assert part.hold is not None
    assert part.hold.free[0, 0, :, 0, 0].tolist() == [0, 0, 0, 1]
    assert torch.equal(part.hold.known[:, :, 1], own)
    assert torch.equal(part.hold.known[:, :, 2], FILM[:, :, 0])
    far = start.part(range(3, 9, 2), {}, None, torch.empty(1, 4, 3, 3, 5))
    assert far.hold is not None
    assert far.hold.free[0, 0, :, 0, 0].tolist() == [1, 0, 1]  # frames 3, 5 and, beyond the film, 7


def test_a_part_of_a_film_that_holds_nothing_holds_nothing() -> None:
    part = Start().part(range(4), {}, None, torch.empty(1, 4, 4, 3, 5))
    assert part.hold is None
    assert part.base is None
