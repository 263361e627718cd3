"""Upscalers of pictures, as hosts have them, between the passes of a film."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from t2v.hosts import Host
from t2v.jobs import Job, Runner, State
from t2v.video import read_film
from tests.hosts.house import HOST, House
from tests.hosts.orders import made

NETWORK, PLAIN = ("RealESRGAN 4x+", "Resize Nearest") if HOST == "sdnext" else ("R-ESRGAN 4x+", "Nearest")
KNOWN = {"standalone": [], "sdnext": ["Resize Nearest", "Resize Lanczos", "RealESRGAN 4x+"]}
everywhere = pytest.mark.only("a1111", "forge", "reforge", "sdnext")


def frames(job: Job) -> NDArray[np.uint8]:
    assert (job.state, job.error) == (State.DONE, "")
    return np.stack(list(read_film(job.films[0].path)[1]))


def test_those_are_told_that_can_enlarge_a_picture(host: Host) -> None:
    assert list(host.upscalers) == KNOWN.get(HOST, ["Lanczos", "Nearest", "R-ESRGAN 4x+"])


@everywhere
@pytest.mark.parametrize("size", [(32, 32), (40, 40), (128, 128), (136, 128), (264, 400)])
def test_a_picture_becomes_exactly_so_large(host: Host, size: tuple[int, int]) -> None:
    picture = Image.new("RGB", (32, 32), (200, 100, 50))
    for name in host.upscalers:
        larger = host.upscaled(picture, size, name)
        assert (larger.size, larger.mode) == (size, "RGB")
        assert larger.getpixel((16, 16)) == (200, 100, 50)


@everywhere
def test_it_is_the_upscaler_of_that_name(host: Host, house: House) -> None:
    dot = Image.fromarray(np.pad(np.full((1, 1, 3), 255, np.uint8), ((4, 3), (4, 3), (0, 0))))
    host.upscaled(dot, (16, 16), PLAIN)
    assert "upscale" not in house.events.seen
    assert np.array_equal(np.asarray(host.upscaled(dot, (32, 32), NETWORK)), np.asarray(dot).repeat(4, 0).repeat(4, 1))
    assert house.events.seen.count("upscale") == 1


@everywhere
@pytest.mark.parametrize("side", [24, 56, 88, 104])
def test_no_side_is_made_too_small_first(host: Host, house: House, monkeypatch: pytest.MonkeyPatch, side: int) -> None:
    """Hosts round down what a factor comes to, which a factor a hair too small would make a step smaller."""
    seen: list[tuple[int, int]] = []
    scaler = type(next(each for each in house.shared.sd_upscalers if each.name == PLAIN).scaler)
    original = scaler.upscale

    def noted(self: Any, *args: Any) -> Image.Image:
        larger: Image.Image = original(self, *args)
        seen.append(larger.size)
        return larger

    monkeypatch.setattr(scaler, "upscale", noted)
    for target in range(side, 8 * side + 1, 8):
        host.upscaled(Image.new("RGB", (side, side)), (target, target), PLAIN)
        assert min(seen[-1]) >= target


@everywhere
def test_a_film_is_enlarged_by_it_which_leaves_the_device_before_the_next_pass(
    runner: Runner, house: House, at_tick: Callable[..., None]
) -> None:
    at_tick(lambda job, stage, done: house.events.seen.append(stage))  # noqa: ARG005
    film = frames(made(runner, format="png", width=64, height=64, steps=4, upscale=1.5, upscale_by=NETWORK))
    assert film.shape == (2, 96, 96, 3)
    seen = house.events.seen
    assert seen.count("upscale") == 2
    after = seen[len(seen) - seen[::-1].index("upscale"):]
    assert after.index("collect") < after.index("encode") < after.index("refine")


@everywhere
def test_without_strength_the_frames_as_enlarged_are_the_film(runner: Runner) -> None:
    order = {"format": "png", "steps": 4}
    small = frames(made(runner, **order))
    film = frames(made(runner, **order, upscale=2, upscale_by=PLAIN, upscale_strength=0))
    assert film.shape == (2, 64, 64, 3)
    assert np.array_equal(film, small.repeat(2, 1).repeat(2, 2))


@everywhere
def test_what_the_host_keeps_of_an_upscaler_is_fit_for_its_own_use(runner: Runner, house: House) -> None:
    made(runner, upscale=2, upscale_by=NETWORK)
    scaler = next(each for each in house.shared.sd_upscalers if each.name == NETWORK).scaler
    assert not any(weight.is_inference() for weight in scaler._network.parameters())


@everywhere
def test_an_upscaler_that_fails_is_named_and_the_next_film_is_made(runner: Runner, house: House) -> None:
    house.events.broken.add("upscale")
    job = made(runner, upscale=2, upscale_by=NETWORK)
    assert job.state is State.FAILED
    assert job.error == f"the upscaler {NETWORK} failed: the host cannot upscale (the console shows where)"
    house.events.broken.clear()
    assert made(runner, upscale=2, upscale_by=NETWORK).state is State.DONE


@everywhere
@pytest.mark.parametrize("button", ["interrupted", "skipped"])
def test_the_hosts_buttons_work_meanwhile(
    runner: Runner, host: Host, house: House, monkeypatch: pytest.MonkeyPatch, button: str
) -> None:
    """Pressed before the host's upscaler begins, or while it works."""
    original = type(host).upscale  # type: ignore[attr-defined]
    for press_before in (True, False):
        def pressed(self: Any, *args: Any, first: bool = press_before) -> Any:
            larger = None if first else original(self, *args)
            setattr(house.state, button, True)
            return original(self, *args) if first else larger

        monkeypatch.setattr(type(host), "upscale", pressed)
        job = made(runner, upscale=2, upscale_by=NETWORK)
        assert job.state is (State.INTERRUPTED if button == "interrupted" else State.DONE)
        assert len(job.films) == (button == "interrupted")


def test_one_that_is_not_there_is_told_with_those_that_are(runner: Runner, host: Host) -> None:
    job = made(runner, upscale=2, upscale_by="R-ESRGAN 9x")
    assert job.state is State.FAILED
    assert job.error == "upscale_by: there is no 'R-ESRGAN 9x'; choose one of " + ", ".join(
        ["frames", "latents", *host.upscalers])
