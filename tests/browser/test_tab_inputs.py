"""Films that start from what a person uploads: pictures, films, and the film in the player."""

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from t2v.video import probe, read_film, write_film
from tests.browser.page import QUICK, ROOT, OpenTab, Tab
from training.world import Scene, film

Pixels = NDArray[np.float64]
START, TIME, LATER = "Start from a picture or a film", "Long films and time", "Upscale and smooth"
CIRCLE = QUICK | {"prompt": "a red circle moving right", "steps": 10, "seed": 7}
SQUARE = Scene("blue", "square", "right", radius=13.0, travel=24.0, start=(20.0, 32.0))
ALIKE = 10.0  # of 255, between a frame and what the autoencoder and the film's codec make of it; others differ by 20
SAME = 1.0  # between two films of the same settings; the browser's own arithmetic, and a codec's, may round elsewhere

OVER_THE_EDGE = """(settings) => {
    const {left, right} = settings.getBoundingClientRect();
    return [...settings.querySelectorAll("label, button, input:not([type=file]), textarea, img")].filter((part) => {
        const box = part.getBoundingClientRect();
        return part.checkVisibility() && box.width > 1 && (box.left < left - 1 || box.right > right + 1);
    }).map((part) => part.outerHTML.slice(0, 300));
}"""


@pytest.fixture
def square() -> NDArray[np.uint8]:
    """A film of a blue square, f h w c."""
    shown = ((film(SQUARE, 4) + 1) * 127.5).round().permute(0, 2, 3, 1)
    return shown.numpy().astype(np.uint8)


@pytest.fixture
def picture(square: NDArray[np.uint8], tmp_path: Path) -> Path:
    Image.fromarray(square[0]).save(tmp_path / "square.png")
    return tmp_path / "square.png"


@pytest.fixture
def moving(square: NDArray[np.uint8], tmp_path: Path) -> Path:
    return write_film(square, tmp_path / "moving.mp4", 8)


def seen(tab: Tab, second: float = 0) -> Pixels:
    """The film in the player at one moment."""
    data = base64.b64decode(tab.frame(second).partition(",")[2])
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), np.float64)


def made(tab: Tab, **values: object) -> Pixels:
    """The first frame of a new film."""
    before = set(tab.films)
    assert tab.generate(**CIRCLE | values) == "done", tab.message
    assert tab.message == ""
    tab.until(lambda: set(tab.films) != before, "the film in the strip")
    newest = next(name for name in tab.films if name not in before)
    tab.until(lambda: tab.playing()["address"].endswith(newest), f"{newest} in the player")
    return seen(tab)


def apart(one: Pixels, other: Pixels | NDArray[np.uint8]) -> float:
    """How far two pictures differ, in the mean, of 255."""
    return float(np.abs(one - other).mean())


def test_a_film_begins_with_the_picture_that_was_uploaded_and_without_it_is_as_before(
        tab: Tab, square: NDArray[np.uint8], picture: Path, shots: Path | None) -> None:
    plain = made(tab)
    assert apart(plain, square[0]) > 1.5 * ALIKE
    tab.upload("start_picture", picture, START)
    tab.shoot(shots, "picture-uploaded")
    assert apart(made(tab), square[0]) < ALIKE
    assert "Pictures: " in tab.get("infotext")
    tab.shoot(shots, "picture-done")
    tab.take_out("start_picture")
    assert apart(made(tab), plain) < SAME
    assert "Pictures: " not in tab.get("infotext")


def test_a_film_ends_with_the_picture_that_was_uploaded_for_its_last_frame(
        tab: Tab, square: NDArray[np.uint8], picture: Path) -> None:
    tab.upload("end_picture", picture, START)
    made(tab)
    assert apart(seen(tab, 3.5 / 8), square[0]) < ALIKE


def test_a_film_that_was_uploaded_comes_back_where_nothing_may_change(
        tab: Tab, square: NDArray[np.uint8], moving: Path, tmp_path: Path, shots: Path | None) -> None:
    plain = made(tab)
    tab.upload("film", moving, START)
    tab.shoot(shots, "film-uploaded")
    made(tab, strength=0)
    (tmp_path / "back.mp4").write_bytes(tab.download()[0])
    back = list(read_film(tmp_path / "back.mp4")[1])
    assert len(back) == len(square)
    assert [apart(one.astype(np.float64), other) < ALIKE for one, other in zip(back, square, strict=True)] == [True] * 4
    assert "moving.mp4" in tab.get("infotext")
    tab.take_out("film")
    assert apart(made(tab), plain) < SAME


def test_the_film_in_the_player_is_continued(tab: Tab, tmp_path: Path, shots: Path | None) -> None:
    first = made(tab)
    tab.press("go_on")
    tab.until(lambda: "goes on where" in tab.message, "what Generate does now")
    tab.shoot(shots, "continue")
    again = made(tab, frames=6)
    tab.shoot(shots, "continued")
    assert tab.playing()["duration"] == pytest.approx((4 + 6) / 8, rel=0.05)
    assert apart(again, first) < ALIKE  # it begins as the one that it continues
    (tmp_path / "longer.mp4").write_bytes(tab.download()[0])
    assert probe(tmp_path / "longer.mp4").frames == 4 + 6
    tab.take_out("film")
    made(tab)
    assert tab.playing()["duration"] == pytest.approx(4 / 8, rel=0.05)


@pytest.mark.parametrize(("part", "name", "problem"), [
    ("start_picture", "broken.png", "picture"), ("film", "broken.mp4", "no film"), ("mask", "broken.png", "mask")])
def test_what_is_no_picture_or_film_is_refused_in_plain_words(
        tab: Tab, tmp_path: Path, shots: Path | None, part: str, name: str, problem: str) -> None:
    (tmp_path / name).write_bytes(b"neither one nor the other")
    tab.upload(part, tmp_path / name, START)
    tab.set(**CIRCLE)
    tab.press("generate")
    tab.until(lambda: problem in tab.message, f"a message about {problem}")
    tab.shoot(shots, f"broken-{part}")
    assert not {"Error", "Traceback", "/tmp"} & set(tab.message.replace(":", " ").split())
    tab.take_out(part)
    made(tab)


@pytest.mark.parametrize("width", [1400, 400])
def test_what_a_film_may_start_from_sticks_out_of_no_window(
        open_tab: OpenTab, moving: Path, picture: Path, shots: Path | None, width: int) -> None:
    tab = open_tab(width=width)
    tab.upload("start_picture", picture, START)
    tab.upload("film", moving, START)
    tab.unfold("window", TIME)
    tab.unfold("upscale", LATER)
    tab.shoot(shots, f"unfolded-{width}")
    over = tab.page.locator(f"{ROOT} .t2v-settings").evaluate(OVER_THE_EDGE)
    assert over == []
