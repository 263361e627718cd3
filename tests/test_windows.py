"""Windows: what they cover and weigh, what comes of them, and noise for long films."""

from collections.abc import Callable, Sequence
from itertools import pairwise

import pytest
import torch
from diffusers.models.attention import FreeNoiseTransformerBlock
from diffusers.pipelines.free_noise_utils import AnimateDiffFreeNoiseMixin
from torch import Tensor

from t2v.errors import RequestError
from t2v.sampling import SAMPLERS, Denoise, seeded_noise
from t2v.schedule import modelscope, scaled_linear
from t2v.windows import NOISES, Windows, find_noise, pyramid, shuffled, windowed
from tests.networks import assert_equal, normal

SIGMA = 2.5


def alone(frames: Sequence[int]) -> Denoise:
    """A denoiser that sees no other frame: only the frame, its number and the noise level."""
    numbers = torch.tensor(list(frames), dtype=torch.float32)[:, None, None]
    return lambda x, sigma: (x * 1.7).sin() * sigma + numbers / 10


def together(_frames: Sequence[int]) -> Denoise:
    """A denoiser that sees all frames."""
    return lambda x, sigma: x - x.mean(dim=2, keepdim=True) * x.std() * sigma


class Recorder:
    """`denoise_of` as given, and the frames that it was asked for."""

    def __init__(self, denoise_of: Callable[[Sequence[int]], Denoise]) -> None:
        self.denoise_of = denoise_of
        self.asked: list[list[int]] = []

    def __call__(self, frames: Sequence[int]) -> Denoise:
        self.asked.append(list(frames))
        return self.denoise_of(frames)


@pytest.mark.parametrize("jitter", [False, True])
@pytest.mark.parametrize("loop", [False, True])
@pytest.mark.parametrize(("frames", "size", "overlap"), [
    (9, 8, 4), (16, 8, 4), (17, 8, 3), (100, 16, 8), (7, 3, 2), (5, 4, 0)])
def test_every_frame_lies_in_a_window_and_no_window_beyond_the_film(
    frames: int, size: int, overlap: int, loop: bool, jitter: bool
) -> None:
    windows = Windows(size, overlap, jitter, loop, seed=3)
    for sigma in (0.0, 0.7, 14.6):
        starts = windows.starts(frames, sigma)
        covered = {(start + i) % frames for start in starts for i in range(size)}
        assert covered == set(range(frames))
        assert len(starts) <= -(-frames // windows.stride) + 1
        if not loop:
            assert min(starts) == 0
            assert max(starts) == frames - size  # the last ends with the film
            assert all(after - before <= windows.stride for before, after in pairwise(starts))


def test_windows_on_a_ring_lie_over_its_seam() -> None:
    starts = Windows(8, 4, loop=True).starts(16)
    assert starts == [0, 4, 8, 12]


def test_jitter_depends_on_the_seed_and_the_noise_level_alone() -> None:
    def places(seed: int) -> list[list[int]]:
        return [Windows(8, 2, jitter=True, seed=seed).starts(30, sigma) for sigma in (14.6, 7.0, 2.5, 0.7)]

    assert places(1) == places(1)
    assert places(1) != places(2)
    assert len({tuple(starts) for starts in places(1)}) > 1


def test_an_overlap_as_long_as_the_window_leads_nowhere() -> None:
    with pytest.raises(RequestError, match="overlap: must be less than the window of 8 frames, not 8"):
        Windows(8, 8)
    Windows(0, 8)


@pytest.mark.parametrize("size", [1, 2, 5, 8, 16])
def test_weights_are_the_pyramid_of_diffusers_and_positive(size: int) -> None:
    block = FreeNoiseTransformerBlock(8, 1, 8, context_length=size)
    assert pyramid(size).tolist() == block._get_frame_weights(size, "pyramid")
    assert (pyramid(size) > 0).all()


@pytest.mark.parametrize("size", [0, 8, 9])
def test_one_window_is_the_plain_denoiser_bit_for_bit(size: int) -> None:
    x, asked = normal(1, 4, 8, 2, 2), Recorder(together)
    x0 = windowed(asked, range(8), Windows(size, 2, jitter=True, loop=True))(x, SIGMA)
    assert torch.equal(x0, together(range(8))(x, SIGMA))
    assert asked.asked == [list(range(8))]


@pytest.mark.parametrize("jitter", [False, True])
@pytest.mark.parametrize("loop", [False, True])
@pytest.mark.parametrize("frames", [range(21), range(0, 63, 3)])
def test_a_denoiser_that_ignores_neighbours_makes_the_same_in_windows(frames: range, loop: bool, jitter: bool) -> None:
    x, asked = normal(2, 4, 21, 2, 3), Recorder(alone)
    x0 = windowed(asked, frames, Windows(8, 3, jitter, loop))(x, SIGMA)
    assert_equal(x0, alone(frames)(x, SIGMA), tolerance=1e-5)
    assert {len(window) for window in asked.asked} == {8}


def test_the_network_never_sees_more_than_a_window() -> None:
    asked = Recorder(together)
    windowed(asked, range(1000), Windows(16, 4))(normal(1, 4, 1000, 1, 1), SIGMA)
    assert asked.asked == [list(range(start, start + 16)) for start in range(0, 984, 12)] + [list(range(984, 1000))]


def test_where_windows_overlap_the_weighted_mean_counts() -> None:
    x0 = windowed(lambda frames: lambda x, _: x * 0 + float(frames[0] > 0), range(6), Windows(4, 2))
    assert x0(torch.zeros(1, 1, 6, 1, 1), SIGMA).flatten().tolist() == pytest.approx([0, 0, 1 / 3, 2 / 3, 1, 1])


def test_the_precision_of_the_latents_is_kept() -> None:
    assert windowed(alone, range(9), Windows(4, 2))(normal(1, 4, 9, 2, 2).half(), SIGMA).dtype == torch.float16


def test_on_a_ring_windows_treat_the_seam_like_any_other_place() -> None:
    x, denoise = normal(1, 4, 16, 2, 2), windowed(together, range(16), Windows(8, 4, loop=True))
    assert_equal(denoise(x.roll(4, dims=2), SIGMA).roll(-4, dims=2), denoise(x, SIGMA), tolerance=1e-5)


@pytest.mark.parametrize("name", SAMPLERS)
def test_any_sampler_makes_the_same_film_of_a_denoiser_that_ignores_neighbours(name: str) -> None:
    sigmas, start = modelscope(scaled_linear(), 4), normal(1, 4, 20, 2, 2) * 10

    def film(windows: Windows) -> Tensor:
        denoise = windowed(alone, range(20), windows)
        return [step.x for step in SAMPLERS[name](denoise, start, sigmas, seeded_noise(3))][-1]

    plain = film(Windows(0, 0))
    assert (film(Windows(8, 3, jitter=True, seed=5)) - plain).abs().max() <= 1e-4 * plain.abs().max()


# ---- noise ----


class Theirs(AnimateDiffFreeNoiseMixin):
    """As much of a pipeline as FreeNoise asks for when it makes noise."""

    vae_scale_factor = 1
    _free_noise_noise_type = "shuffle_context"

    def __init__(self, windows: Windows) -> None:
        self._free_noise_context_length, self._free_noise_context_stride = windows.size, windows.stride


@pytest.mark.parametrize("frames", [9, 16, 21, 40])
@pytest.mark.parametrize("windows", [Windows(8, 4), Windows(8, 6), Windows(8, 3)])
def test_noise_is_shuffled_as_in_diffusers(frames: int, windows: Windows, monkeypatch: pytest.MonkeyPatch) -> None:
    random = torch.Generator().manual_seed(7)
    ours = shuffled(lambda x: torch.randn(x.shape, generator=random), torch.empty(1, 4, frames, 2, 2), windows)
    monkeypatch.setattr(torch, "randperm", lambda n, generator: torch.randn(n, generator=generator).argsort())
    theirs = Theirs(windows)._prepare_latents_free_noise(
        1, 4, frames, 2, 2, torch.float32, torch.device("cpu"), torch.Generator().manual_seed(7))
    assert torch.equal(ours, theirs)


def test_shuffled_noise_is_that_of_the_first_window_in_every_window() -> None:
    like, windows = torch.empty(1, 4, 32, 2, 2), Windows(8, 4)
    noise = shuffled(seeded_noise(1), like, windows)
    first = {tuple(frame.flatten().tolist()) for frame in noise[:, :, :8].unbind(2)}
    for start in windows.starts(32):
        assert {tuple(frame.flatten().tolist()) for frame in noise[:, :, start : start + 8].unbind(2)} == first
    assert not torch.equal(noise[:, :, :8], noise[:, :, 8:16])


@pytest.mark.parametrize("name", NOISES)
def test_where_one_window_is_enough_any_noise_is_that_of_the_seed(name: str) -> None:
    like = torch.empty(1, 4, 8, 2, 2)
    assert torch.equal(find_noise(name)(seeded_noise(1), like, Windows(8, 4)), seeded_noise(1)(like))


def test_a_noise_that_is_not_there_is_refused() -> None:
    with pytest.raises(RequestError, match="noise: there is no 'pink'; choose one of fresh, shuffled"):
        find_noise("pink")
