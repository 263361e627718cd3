"""The demo model on from pictures and films, seen by the judge."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from t2v.generate import Film, generate
from t2v.hosts.standalone import Standalone
from t2v.models import Model
from t2v.models.catalog import DEMO
from t2v.models.modelscope import load
from t2v.request import VideoRequest
from t2v.video import read_film, write_film
from training.judge import centre, colour_of, foreground, judge
from training.world import COLOURS, GROUND

Frames = NDArray[np.uint8]
BLUE = {"prompt": "a blue square moving right", "seed": 1}


@pytest.fixture(scope="module")
def demo() -> Model:
    return load(Path(DEMO))


@pytest.fixture(scope="module")
def blue(demo: Model, tmp_path_factory: pytest.TempPathFactory) -> Film:
    """A film of a blue square that moves to the right."""
    return make(demo, tmp_path_factory.mktemp("blue"), **BLUE)


def make(demo: Model, folder: Path, **settings: Any) -> Film:
    host = Standalone(torch.device("cpu"), torch.float32, outputs=folder)
    (film,) = generate(VideoRequest(format="png", **settings), demo, host)
    return film


def seen(film: Film) -> Frames:
    return np.stack(list(read_film(film.path)[1]))


def places(frames: Frames) -> NDArray[np.float64]:
    """Where the shape is in each frame, x and y."""
    return np.array([centre(foreground(frame)) for frame in frames])


@pytest.mark.parametrize("weights", ["", "0:(0)", "0:(0), 4:(1)"])
def test_a_held_picture_of_a_blue_square_stays_blue_and_a_square(
    demo: Model, tmp_path: Path, blue: Film, weights: str
) -> None:
    Image.fromarray(seen(blue)[0]).save(tmp_path / "blue.png")
    frames = seen(make(demo, tmp_path, **BLUE | {"seed": 5}, pictures=str(tmp_path / "blue.png"),
                       picture_weights=weights))
    verdict = judge(frames)
    assert (verdict.colour, verdict.shape) == ("blue", "square")
    assert np.abs(frames[0].astype(int) - seen(blue)[0]).mean() < 3
    assert (verdict.travel > 15) == (weights != "0:(0)")  # held in every frame, it stands still


def test_at_half_strength_the_path_stays_and_the_colour_changes(demo: Model, tmp_path: Path) -> None:
    """Low in the frame, where the model by itself never shows anything."""
    drawn = np.full((8, 64, 64, 3), GROUND, np.uint8)
    for number, frame in enumerate(drawn):
        frame[38:56, 4 + 5 * number:22 + 5 * number] = COLOURS["blue"]
    path = write_film(iter(drawn), tmp_path / "low.mp4", 8)
    asked = {"prompt": "a red square moving right", "seed": 3, "cfg_scale": 6}
    frames = seen(make(demo, tmp_path, **asked, film=str(path), strength=0.5))
    verdict = judge(frames)
    assert (verdict.colour, verdict.shape, verdict.direction) == ("red", "square", "right")
    assert np.abs(places(frames) - places(drawn)).max() < 8
    free = seen(make(demo, tmp_path, **asked))
    assert np.abs(places(free) - places(drawn)).max() > 15


def test_a_film_goes_on_from_where_it_was(demo: Model, tmp_path: Path, blue: Film) -> None:
    frames = seen(make(demo, tmp_path, **BLUE | {"seed": 4}, film=str(blue.path), extend=True, frames=8))
    assert np.array_equal(frames[:8], seen(blue))
    verdict = judge(frames)
    assert (verdict.colour, verdict.shape) == ("blue", "square")
    assert np.abs(np.diff(places(frames), axis=0)).max() < 8  # no leap


def test_the_second_pass_shows_the_same_film_larger(demo: Model, tmp_path: Path, blue: Film) -> None:
    frames = seen(make(demo, tmp_path, **BLUE, upscale=1.5, upscale_strength=0.4))
    verdict = judge(frames)
    assert frames.shape == (8, 96, 96, 3)
    assert (verdict.colour, verdict.shape, verdict.direction) == ("blue", "square", "right")
    assert np.abs(places(frames) / 1.5 - places(seen(blue))).max() < 3


def test_only_the_white_half_of_a_film_is_made_anew(demo: Model, tmp_path: Path, blue: Film) -> None:
    mask = np.zeros((64, 64, 3), np.uint8)
    mask[:, 40:] = 255
    Image.fromarray(mask).save(tmp_path / "right.png")
    frames = seen(make(demo, tmp_path, prompt="a yellow circle moving down", seed=3, film=str(blue.path), strength=1,
                       mask=str(tmp_path / "right.png")))
    assert np.array_equal(frames[:, :, :40], seen(blue)[:, :, :40])
    new = frames[0].copy()
    new[:, :40] = 24
    assert colour_of(new, foreground(new)) == "yellow"
