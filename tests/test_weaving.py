"""Coarse to fine, and going on: which parts are made, of what, and what they come to."""

import pytest
import torch
from torch import Tensor

from t2v.errors import RequestError
from t2v.weaving import Part, continued, parts, woven
from tests.networks import normal


class Maker:
    """Makes films that show the numbers of their frames, and holds what is known; None from part `end` on."""

    def __init__(self, end: int = 10**9) -> None:
        self.asked: list[Part] = []
        self.end = end

    def __call__(self, part: Part) -> Tensor | None:
        if part.number == self.end:
            return None
        self.asked.append(part)
        film = torch.tensor(list(part.frames), dtype=torch.float32).view(1, 1, -1, 1, 1).repeat(1, 4, 1, 2, 2)
        for position, latents in part.known.items():
            assert torch.equal(film[:, :, position], latents)  # what is known belongs there
        return film


def shown(film: Tensor | None) -> list[int]:
    assert film is not None
    assert film.shape[:2] == (1, 4)
    assert (film == film[:, :1, :, :1, :1]).all()
    return [int(number) for number in film[0, 0, :, 0, 0]]


@pytest.mark.parametrize(("window", "depth"), [(3, 1), (5, 0), (5, 1), (5, 2), (16, 1), (3, 4)])
def test_a_window_of_key_frames_comes_to_a_power_of_frames(window: int, depth: int) -> None:
    make, frames = Maker(), (window - 1) ** (depth + 1) + 1
    assert shown(woven(frames, window, depth, make)) == list(range(frames))
    assert len(make.asked) == parts(frames, window, depth) == sum((window - 1) ** level for level in range(depth + 1))
    assert all(len(part.frames) == window for part in make.asked)


@pytest.mark.parametrize("frames", [1, 2, 7, 16, 17, 18, 40, 64])
def test_a_film_of_any_length_takes_no_more_parts_than_it_needs(frames: int) -> None:
    make = Maker()
    assert shown(woven(frames, 5, 2, make)) == list(range(frames))
    assert len(make.asked) == parts(frames, 5, 2)
    assert all(part.frames[0] < max(1, frames - 1) for part in make.asked)
    assert [part.number for part in make.asked] == list(range(len(make.asked)))


def test_a_part_lies_between_its_ends() -> None:
    make = Maker()
    woven(17, 5, 1, make)
    keys, *between = make.asked
    assert (keys.frames, keys.known, keys.guess) == (range(0, 20, 4), {}, None)
    assert [part.frames for part in between] == [range(begin, begin + 5) for begin in (0, 4, 8, 12)]
    for part in between:
        assert list(part.known) == [0, 4]
        assert shown(part.guess) == list(part.frames)


def test_end_points_are_met_whatever_comes_between_them() -> None:
    def make(part: Part) -> Tensor:
        film = normal(1, 4, len(part.frames), 2, 2, seed=part.number)
        for position, latents in part.known.items():
            film[:, :, position] = latents
        return film

    film = woven(50, 8, 1, make)
    assert film is not None
    assert torch.equal(film[:, :, ::7], normal(1, 4, 8, 2, 2, seed=0))
    assert film.diff(dim=2).abs().amin(dim=(0, 1, 3, 4)).min() > 0


@pytest.mark.parametrize(("end", "expected"), [(1, [0, 4, 8, 12, 16]), (2, [0, 1, 2, 3]), (4, list(range(12)))])
def test_a_film_that_is_ended_early_is_what_there_is(end: int, expected: list[int]) -> None:
    assert shown(woven(17, 5, 1, Maker(end))) == expected
    assert woven(17, 5, 1, Maker(0)) is None


def test_two_frames_leave_nothing_between_them() -> None:
    with pytest.raises(RequestError, match="window: must be 3 frames or more"):
        woven(17, 2, 1, Maker())


def before(frames: int) -> Tensor:
    """The last `frames` of a film that somebody has."""
    return torch.arange(-frames, 0.0).view(1, 1, -1, 1, 1).repeat(1, 4, 1, 2, 2)


@pytest.mark.parametrize("frames", [1, 3, 4, 5, 17])
@pytest.mark.parametrize("window", [0, 8])
def test_a_film_goes_on_for_as_long_as_asked(frames: int, window: int) -> None:
    make = Maker()
    assert shown(continued(before(4), frames, window, make)) == list(range(frames))
    assert len(make.asked) == (-(-frames // 4) if window else 1)
    for part in make.asked:
        assert list(part.known) == list(range(len(part.known)))
        assert len(part.frames) == (8 if window and frames >= 4 else len(part.known) + frames)
        assert len(part.known) >= 4


def test_the_last_part_is_no_shorter_but_holds_more() -> None:
    make = Maker()
    continued(before(2), 9, 6, make)
    assert [part.frames for part in make.asked] == [range(-2, 4), range(2, 8), range(3, 9)]
    assert [len(part.known) for part in make.asked] == [2, 2, 5]


def test_a_continuation_that_is_ended_early_is_what_there_is() -> None:
    assert shown(continued(before(4), 17, 8, Maker(2))) == list(range(8))
    assert continued(before(4), 17, 8, Maker(0)) is None


def test_parts_that_only_hold_what_is_known_would_never_end() -> None:
    with pytest.raises(RequestError, match="overlap: must be less than the window of 4 frames, not 4"):
        continued(before(4), 17, 4, Maker())
