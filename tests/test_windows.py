"""Windows: what they cover and weigh, what comes of them, and noise for long films."""

from itertools import pairwise

import pytest
import torch
from diffusers.models.attention import FreeNoiseTransformerBlock
from diffusers.pipelines.free_noise_utils import AnimateDiffFreeNoiseMixin
from torch import Tensor

from t2v.errors import RequestError
from t2v.guidance import Denoiser
from t2v.sampling import SAMPLERS, seeded_noise
from t2v.schedule import modelscope, scaled_linear
from t2v.windows import NOISES, Windows, find_noise, pyramid, shuffled, windowed
from tests.networks import assert_equal, normal

CONTEXT = normal(1, 5, 6)
TIMESTEP = torch.tensor([500.0])


class Recorder:
    """A network that says what `say` makes of what it sees, and remembers how much that was."""

    def __init__(self, say: object = None) -> None:
        self.say = say
        self.seen: list[tuple[int, int]] = []

    def __call__(self, x: Tensor, timestep: Tensor, context: Tensor) -> Tensor:
        self.seen.append((x.shape[2], context.shape[1]))
        return self.say(x, timestep, context) if callable(self.say) else x


def alone(x: Tensor, timestep: Tensor, context: Tensor) -> Tensor:
    """What depends on no other frame: on the frame, the timestep and the frame's context."""
    words = context.mean(dim=(-2, -1))  # b | b f
    return (x * 1.7).sin() * timestep[:, None, None, None, None] / 500 + words.reshape(x.shape[0], 1, -1, 1, 1)


def together(x: Tensor, _timestep: Tensor, _context: Tensor) -> Tensor:
    """What depends on all frames seen."""
    return x - x.mean(dim=2, keepdim=True) * x.std()


@pytest.mark.parametrize("jitter", [False, True])
@pytest.mark.parametrize("loop", [False, True])
@pytest.mark.parametrize(("frames", "size", "overlap"), [
    (9, 8, 4), (16, 8, 4), (17, 8, 3), (100, 16, 8), (7, 3, 2), (5, 4, 0)])
def test_every_frame_lies_in_a_window_and_no_window_beyond_the_film(
    frames: int, size: int, overlap: int, loop: bool, jitter: bool
) -> None:
    windows = Windows(size, overlap, jitter, loop, seed=3)
    for timestep in (0.0, 17.0, 999.0):
        starts = windows.starts(frames, timestep)
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


def test_jitter_depends_on_the_seed_and_the_timestep_alone() -> None:
    def places(seed: int) -> list[list[int]]:
        return [Windows(8, 2, jitter=True, seed=seed).starts(30, t) for t in (999.0, 750.5, 500.0, 250.0)]

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
def test_one_window_is_the_plain_network_bit_for_bit(size: int) -> None:
    x, network = normal(1, 4, 8, 2, 2), Recorder(together)
    said = windowed(network, Windows(size, 2, jitter=True, loop=True))(x, TIMESTEP, CONTEXT)
    assert torch.equal(said, together(x, TIMESTEP, CONTEXT))
    assert network.seen == [(8, 5)]


@pytest.mark.parametrize("jitter", [False, True])
@pytest.mark.parametrize("loop", [False, True])
@pytest.mark.parametrize("per_frame", [False, True])
def test_a_network_that_ignores_neighbours_says_the_same_in_windows(loop: bool, jitter: bool, per_frame: bool) -> None:
    x, context = normal(2, 4, 21, 2, 3), normal(2, 21, 5, 6) if per_frame else normal(2, 5, 6)
    timestep = TIMESTEP.expand(2)
    network = Recorder(alone)
    said = windowed(network, Windows(8, 3, jitter, loop))(x, timestep, context)
    assert_equal(said, alone(x, timestep, context), tolerance=1e-5)
    assert set(network.seen) == {(8, 8 if per_frame else 5)}


def test_the_network_never_sees_more_than_a_window() -> None:
    network = Recorder(together)
    windowed(network, Windows(16, 4))(normal(1, 4, 1000, 1, 1), TIMESTEP, CONTEXT)
    assert network.seen == [(16, 5)] * 83  # 82 strides of 12, and the end


def test_where_windows_overlap_the_weighted_mean_counts() -> None:
    told = iter([torch.zeros(1, 1, 4, 1, 1), torch.ones(1, 1, 4, 1, 1)])
    said = windowed(lambda *_: next(told), Windows(4, 2))(torch.zeros(1, 1, 6, 1, 1), TIMESTEP, CONTEXT)
    assert said.flatten().tolist() == pytest.approx([0, 0, 1 / 3, 2 / 3, 1, 1])  # weights 1 2 2 1


def test_the_precision_of_the_latents_is_kept() -> None:
    said = windowed(Recorder(), Windows(4, 2))(normal(1, 4, 9, 2, 2).half(), TIMESTEP, CONTEXT)
    assert said.dtype == torch.float16


def test_on_a_ring_windows_treat_the_seam_like_any_other_place() -> None:
    x = normal(1, 4, 16, 2, 2)
    network = windowed(together, Windows(8, 4, loop=True))
    rolled = network(x.roll(4, dims=2), TIMESTEP, CONTEXT).roll(-4, dims=2)
    assert_equal(rolled, network(x, TIMESTEP, CONTEXT), tolerance=1e-5)


@pytest.mark.parametrize("name", SAMPLERS)
def test_any_sampler_makes_the_same_film_of_a_network_that_ignores_neighbours(name: str) -> None:
    schedule = scaled_linear()
    sigmas, start = modelscope(schedule, 4), normal(1, 4, 20, 2, 2)

    def film(windows: Windows) -> Tensor:
        denoiser = Denoiser(windowed(alone, windows), schedule, CONTEXT)
        return [step.x for step in SAMPLERS[name](denoiser, start * 10, sigmas, seeded_noise(3))][-1]

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
