"""The preview: latents as colours, films as small animations and as grids of stills."""

import io
import itertools
import time

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from t2v.models import configuration, modelscope
from t2v.models.catalog import DEMO
from t2v.preview import animated, pictures, strip
from tests.networks import normal
from training.preview import examples, fitted, r_squared

STABLE_DIFFUSION = torch.tensor(configuration.STABLE_DIFFUSION)


def moving(frames: int, height: int = 32, width: int = 32) -> NDArray[np.uint8]:
    """A soft light that wanders: no two frames are alike."""
    y, x = np.mgrid[:height, :width]
    angles = 2 * np.pi * np.arange(frames)[:, None, None] / frames
    distance = (y / height - 0.5 - 0.3 * np.sin(angles)) ** 2 + (x / width - 0.5 - 0.3 * np.cos(angles)) ** 2
    light = 255 * np.exp(-10 * distance)
    return np.stack([light, 255 - light, light / 2], axis=-1).astype(np.uint8)


def opened(file: bytes) -> Image.Image:
    return Image.open(io.BytesIO(file))


def durations(file: bytes) -> list[int]:
    """Milliseconds of each frame of an animation."""
    animation, lengths = opened(file), []
    for index in range(getattr(animation, "n_frames", 1)):
        animation.seek(index)
        animation.load()
        lengths.append(animation.info["duration"])
    return lengths


# ---- latents to pictures ----


def test_each_channel_adds_its_colour_to_that_of_all_zeros() -> None:
    x0, projection = normal(1, 4, 3, 5, 6), normal(5, 3, seed=1)
    frames = pictures(x0, projection)
    assert frames.shape == (3, 5, 6, 3)
    assert frames.dtype == np.uint8
    colour = sum(float(x0[0, c, 2, 4, 1]) * projection[c] for c in range(4)) + projection[4]
    assert torch.equal(torch.from_numpy(frames[2, 4, 1]), ((colour.clamp(-1, 1) + 1) * 127.5).round().byte())
    assert {0, 255} < set(frames.flat)  # some are beyond, and most are not


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_every_precision_shows_the_same(dtype: torch.dtype) -> None:
    x0 = normal(1, 4, 2, 4, 4).to(torch.bfloat16)
    assert np.array_equal(pictures(x0.to(dtype), STABLE_DIFFUSION), pictures(x0.float(), STABLE_DIFFUSION))


@pytest.mark.parametrize(("broken", "level"), [(float("nan"), 128), (float("inf"), 255), (-float("inf"), 0)])
def test_what_is_no_number_is_a_level_all_the_same(broken: float, level: int) -> None:
    x0, expected = torch.zeros(1, 1, 2, 4, 4), np.full((2, 4, 4, 3), 128)
    x0[0, 0, 1, 2, 3], expected[1, 2, 3] = broken, level
    assert np.array_equal(pictures(x0, torch.tensor([[1.0] * 3, [0.0] * 3])), expected)


def test_the_preview_of_the_demo_is_about_as_good_as_one_matrix_can_make_it() -> None:
    model = modelscope.load(DEMO)
    latents, colours = examples(model.vae, 32, seed=7)
    reached, best = (r_squared(rows, latents, colours) for rows in (model.projection, fitted(latents, colours).float()))
    assert reached > 0.5
    assert reached > best - 0.03


def test_the_colours_of_stable_diffusion_tell_light_from_dark_and_blue_from_yellow() -> None:
    """In its latents the first two channels are light and the fourth, upside down, is mostly blue."""
    latents = torch.zeros(1, 4, 3, 1, 1)
    latents[0, :, 0, 0, 0] = torch.tensor([1.0, 1.0, 0.0, 0.0])
    latents[0, :, 1, 0, 0] = torch.tensor([0.0, 0.0, 0.0, -1.0])
    latents[0, :, 2, 0, 0] = torch.tensor([-1.0, -1.0, 0.0, 0.0])
    light, blue, dark = pictures(latents, STABLE_DIFFUSION)[:, 0, 0].astype(int)
    assert (light > 160).all()
    assert (dark < 95).all()
    assert blue[2] > 200 > max(blue[:2])


# ---- animations ----


def test_an_animation_plays_endlessly_as_long_as_the_film() -> None:
    file = animated(moving(16), 8)
    animation = opened(file)
    assert (animation.format, animation.size) == ("WEBP", (256, 256))
    assert animation.info["loop"] == 0
    assert durations(file) == [125] * 16


def test_it_shows_the_frames_in_their_order() -> None:
    frames = moving(6)
    animation = opened(animated(frames, 8))
    for index, frame in enumerate(frames):
        animation.seek(index)
        shown = np.asarray(animation.convert("RGB").resize((32, 32), Image.Resampling.BOX)).astype(int)
        errors = [np.abs(shown - other).mean() for other in frames]
        assert np.argmin(errors) == index
        assert np.abs(shown - frame).mean() < 5


@pytest.mark.parametrize(("frames", "fps", "shown"), [(24, 8, 24), (25, 8, 24), (125, 8, 24), (60, 24, 24),
                                                       (2, 0.1, 2)])
def test_a_long_film_is_thinned_and_keeps_its_pace(frames: int, fps: float, shown: int) -> None:
    lengths = durations(animated(moving(frames, 8, 8), fps))
    assert len(lengths) == shown
    assert sum(lengths) == round(1000 * frames / fps)
    assert max(lengths) - min(lengths) <= 1000 / fps + 1


def test_nothing_is_shown_for_less_time_than_browsers_accept() -> None:
    assert durations(animated(moving(16), 240)) == [20] * 16


def test_one_frame_is_a_still() -> None:
    still = opened(animated(moving(1), 8))
    assert (still.format, still.size) == ("WEBP", (256, 256))
    assert not getattr(still, "is_animated", False)


@pytest.mark.parametrize(("height", "width", "size"), [
    (40, 72, (256, 142)), (72, 40, (142, 256)), (8, 8, (256, 256)), (2, 512, (256, 1)), (512, 512, (256, 256))])
def test_the_longer_side_is_always_the_same(height: int, width: int, size: tuple[int, int]) -> None:
    assert opened(animated(moving(2, height, width), 8)).size == size


def test_an_animation_is_small_and_quickly_made() -> None:
    frames = pictures(torch.nn.functional.interpolate(normal(1, 4, 4, 8, 8), (16, 32, 32)), STABLE_DIFFUSION)
    seconds = []
    for _ in range(5):
        began = time.perf_counter()
        file = animated(frames, 8)
        seconds.append(time.perf_counter() - began)
    assert len(file) < 120_000  # noise that changes with every fourth frame; what a film looks like is much smaller
    assert len(animated(moving(16), 8)) < 60_000
    assert min(seconds) < 0.3  # a busy machine; about 0.04 otherwise


# ---- stills ----


@pytest.mark.parametrize(("frames", "height", "width", "columns", "rows"), [
    (16, 32, 32, 4, 2), (8, 32, 32, 4, 2), (7, 32, 32, 3, 2), (5, 32, 32, 2, 2), (3, 32, 32, 3, 1), (2, 32, 32, 2, 1),
    (1, 32, 32, 1, 1), (24, 40, 72, 2, 4), (24, 72, 40, 4, 2)])
def test_a_strip_is_a_full_grid(frames: int, height: int, width: int, columns: int, rows: int) -> None:
    grid = strip(moving(frames, height, width))
    tile = (round(128 * width / max(height, width)), round(128 * height / max(height, width)))
    assert grid.size == (columns * tile[0], rows * tile[1])
    assert grid.mode == "RGB"


def test_a_strip_goes_row_by_row_from_the_first_frame_to_the_last() -> None:
    frames = np.broadcast_to(np.arange(16, dtype=np.uint8)[:, None, None, None] * 10, (16, 4, 4, 3))
    grid = np.asarray(strip(frames))
    seen = [int(grid[64 + 128 * row, 64 + 128 * column, 0]) for row, column in itertools.product(range(2), range(4))]
    assert seen == [0, 20, 40, 60, 90, 110, 130, 150]
