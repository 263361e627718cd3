"""Frames between frames: where things stand in them, how many they are, and when they come."""

from collections.abc import Iterator
from itertools import islice

import numpy as np
import pytest

from t2v.video.base import Frame
from t2v.video.smoothing import smoothed

GROUND = 24


def square(x: float, height: int = 96, width: int = 128) -> Frame:
    """A red square whose left edge is at x."""
    frame = np.full((height, width, 3), GROUND, dtype=np.uint8)
    frame[height // 3 : 2 * height // 3, round(x) : round(x) + width // 4] = (220, 40, 40)
    return frame


def place(frame: Frame) -> float:
    """The middle of what is red."""
    return float(np.nonzero(frame[..., 0] > 120)[1].mean())


def moving(frames: int, step: int = 6) -> list[Frame]:
    return [square(4 + step * i) for i in range(frames)]


@pytest.mark.parametrize(("fps", "to"), [
    (8, 8), (8, 16), (8, 24), (8, 20), (8, 60), (24, 10), (24000 / 1001, 60), (0.5, 2)])
@pytest.mark.parametrize("frames", [1, 2, 3, 12])
def test_a_film_keeps_its_duration(frames: int, fps: float, to: float) -> None:
    assert len(list(smoothed(moving(frames), fps, to))) == round(frames * to / fps)


@pytest.mark.parametrize("to", [16, 24, 32])
def test_what_moves_is_between_its_places_in_between(to: int) -> None:
    film = list(smoothed(moving(10), 8, to))
    seen, expected = [place(frame) for frame in film], [19.5 + 6 * i * 8 / to for i in range(len(film))]
    inner = slice(to // 8, -2 * to // 8)  # near the ends nothing is known of the motion before or after
    assert np.abs(np.subtract(seen, expected))[inner].max() < 1.6
    assert min(np.diff(seen)) > -0.5


def test_the_frames_there_were_are_still_there() -> None:
    film = list(smoothed(moving(8), 8, 24))
    for before, after in zip(moving(8), film[::3], strict=True):
        assert np.abs(before.astype(int) - after).mean() < 1


def test_what_stands_still_stays_as_it_was() -> None:
    frame = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    for after in smoothed([frame] * 4, 8, 24):
        assert np.abs(frame.astype(int) - after).max() <= 2  # to YUV and back


@pytest.mark.parametrize(("height", "width"), [(16, 16), (33, 17), (64, 24), (24, 200)])
def test_any_size_of_frames_will_do(height: int, width: int) -> None:
    film = list(smoothed([square(i, height, width) for i in range(4)], 8, 16))
    assert {frame.shape for frame in film} == {(height, width, 3)}
    assert film[0][height // 2, 1, 0] > 200


def test_a_cut_stays_a_cut() -> None:
    dark, bright = np.full((64, 64, 3), 10, np.uint8), np.full((64, 64, 3), 240, np.uint8)
    for frame in smoothed([dark] * 4 + [bright] * 4, 8, 32):
        assert frame.mean() < 20 or frame.mean() > 230


def test_frames_are_taken_as_they_are_needed() -> None:
    taken = 0

    def endless() -> Iterator[Frame]:
        nonlocal taken
        while True:
            taken += 1
            yield square(taken % 60)

    list(islice(smoothed(endless(), 8, 24), 90))
    assert taken <= 90 / 3 + 4


def test_of_nothing_comes_nothing() -> None:
    assert list(smoothed([], 8, 24)) == []
