"""What approximations cost is measured as it is said; with networks so small that it takes seconds."""

import pytest
import torch

from benchmarks import drift
from benchmarks.drift import WAYS, Way
from tests import fixtures


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.name)
def test_what_is_left_of_the_work_is_less_but_for_8_bits_and_exact(way: Way) -> None:
    left = drift.work_left(way, fixtures.UNET, "4x64x64", 10)
    assert left == 1 if not way.changes else 0.1 < left < 1


def test_work_is_that_of_the_calls() -> None:
    """Ten steps in blocks of 1 without, 7 with, 2 without guidance; of those each first and third asks deep layers."""
    def calls(told: int, full: int, reused: int) -> int:
        return (full * drift.work(fixtures.UNET, "4x64x64", told, False)
                + reused * drift.work(fixtures.UNET, "4x64x64", told, True))

    way = Way("both", {"cfg_from": 0.1, "cfg_until": 0.8, "reuse": 2})
    counted = calls(1, 2, 1) + calls(2, 4, 3)
    exact = calls(2, 10, 0)
    assert drift.work_left(way, fixtures.UNET, "4x64x64", 10) == pytest.approx(counted / exact)


def test_one_step_is_off_by_little_in_8_bits() -> None:
    found = dict(drift.one_step(fixtures.UNET, "4x64x64"))
    rows, matrix, *reused = found.values()
    assert 0.001 < rows < 0.2
    assert 0.001 < matrix < 0.2
    assert all(0 < number < 1 for number in reused)


def test_a_row_tells_what_was_seen_in_films_and_how_far_they_are_off() -> None:
    exact, eight = drift.demo(1, (1,), (WAYS[0], WAYS[-1]))
    assert exact[0] == "exact"
    assert exact[5:7] == (0.0, 1.0)
    assert isinstance(eight[5], float)
    assert 0 < eight[5] < 50


def test_weights_are_as_they_were() -> None:
    net = drift.random_unet(fixtures.UNET, torch.float32)
    before = {name: weight.data for name, weight in net.named_parameters()}
    with drift.rounded(net, drift.per_tensor):
        pass
    assert all(weight.data.is_set_to(before[name]) for name, weight in net.named_parameters())
