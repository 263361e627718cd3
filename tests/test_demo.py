"""The demo model, from the prompt to the file and back: does the film show what the sentence says?"""

from pathlib import Path

import numpy as np
import pytest

from t2v.models.catalog import DEMO
from training.evaluate import SEEDS, score, verdicts
from training.judge import judge
from training.world import all_captions, film, random_scene


def test_the_judge_sees_the_truth_in_drawn_films() -> None:
    rng = np.random.default_rng(0)
    for _ in range(100):
        scene = random_scene(rng)
        frames = ((film(scene, 8) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
        seen = judge(frames)
        assert (seen.colour, seen.shape, seen.direction) == (scene.colour, scene.shape, scene.direction)
        assert seen.travel == pytest.approx(scene.travel, abs=1)


def test_the_judge_sees_nothing_in_an_empty_film() -> None:
    assert judge(np.full((8, 64, 64, 3), 24, dtype=np.uint8)).colour == ""


def test_the_demo_model_obeys_every_caption() -> None:
    seen = list(verdicts(SEEDS[:1]))  # the others take long, and `python -m training.evaluate` sees them
    assert len(seen) == len(all_captions()) == 72
    shares = score(seen)
    assert shares.colour >= 0.95, shares
    assert shares.direction >= 0.90, shares
    assert shares.shape >= 0.85, shares
    assert shares.travel >= 15, shares


def test_the_demo_model_fits_in_the_box() -> None:
    assert sum(path.stat().st_size for path in Path(DEMO).iterdir()) <= 16e6
