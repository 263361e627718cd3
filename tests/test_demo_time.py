"""The demo model over time: stories, loops, windows, and films between key frames, seen by the judge."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from t2v.generate import generate
from t2v.hosts.standalone import Standalone
from t2v.models import Model
from t2v.models.catalog import DEMO
from t2v.models.modelscope import load
from t2v.request import VideoRequest
from t2v.video import read_film
from training.judge import judge

Frames = NDArray[np.uint8]
THERE_AND_BACK = "0: a blue square moving right | 8: a blue square moving left"


@pytest.fixture(scope="module")
def demo() -> Model:
    return load(Path(DEMO))


def film(demo: Model, folder: Path, **settings: Any) -> Frames:
    """The frames of a film of the demo model, f h w 3."""
    host = Standalone(torch.device("cpu"), torch.float32, outputs=folder)
    (made,) = generate(VideoRequest(format="png", **settings), demo, host)
    return np.stack(list(read_film(made.path)[1]))


def changes(frames: Frames) -> NDArray[np.float64]:
    """How much each frame differs from the next, and the last from the first."""
    return np.abs(frames - np.roll(frames, -1, axis=0).astype(float)).mean(axis=(1, 2, 3))


@pytest.mark.parametrize("settings", [{}, {"window": 8, "overlap": 6, "jitter": True}])
def test_a_story_changes_direction_when_its_prompt_does(demo: Model, tmp_path: Path, settings: dict[str, Any]) -> None:
    frames = film(demo, tmp_path, prompt=THERE_AND_BACK, frames=16, transition=4, seed=2, **settings)
    there, back = judge(frames[:8]), judge(frames[8:])
    assert (there.direction, back.direction) == ("right", "left")
    assert (there.colour, there.shape) == (back.colour, back.shape) == ("blue", "square")


def test_a_loop_ends_where_it_begins(demo: Model, tmp_path: Path) -> None:
    frames = film(demo, tmp_path, prompt=THERE_AND_BACK, frames=16, transition=4, seed=2, loop=True)
    *inner, seam = changes(frames)
    assert seam <= 1.25 * max(inner)
    assert judge(frames).colour == "blue"
    *inner, seam = changes(film(demo, tmp_path, prompt="a red circle moving right", seed=1))
    assert seam > 2 * max(inner)  # without a loop


def test_coarse_to_fine_the_network_never_sees_more_than_suits_it(demo: Model, tmp_path: Path) -> None:
    seen = []
    hook = demo.unet.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[2]))
    frames = film(demo, tmp_path, prompt="a circle", seed=1, frames=40, window=4, depth=1, steps=2)
    hook.remove()
    assert len(frames) == 40
    assert set(seen) == {8, 4}  # windows of the 14 key frames, and the parts between them


def test_coarse_to_fine_the_key_frames_are_those_of_a_film_of_their_own(demo: Model, tmp_path: Path) -> None:
    prompt = "a green triangle moving right"
    fine = film(demo, tmp_path, prompt=prompt, seed=1, frames=22, window=4, depth=1)
    keys = film(demo, tmp_path, prompt=prompt, seed=1, frames=8)
    assert np.abs(fine[::3].astype(int) - keys).max() <= 1
    seen = judge(fine)
    assert (seen.colour, seen.shape, seen.direction) == ("green", "triangle", "right")
    assert changes(fine)[:-1].max() < changes(keys)[:-1].max()  # what lies between them is between them
