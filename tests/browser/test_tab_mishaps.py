"""What goes wrong is said in plain words, nothing that is typed becomes code, and the tab goes on working."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from t2v.models.catalog import DEMO
from t2v.video import write_film
from tests.browser.page import OVER, QUICK, Tab
from tests.browser.places import Place

SQUARE = QUICK | {"prompt": "a blue square moving up"}
JARGON = re.compile(r"Traceback|File \"|line \d+|Exception|\w+Error\b|\bNone\b|<class|/site-packages/")
TRAP = '<img src=x onerror="window.hacked=1">'


def complaint(tab: Tab) -> str:
    """What the tab says once it says something; it has to be for people."""
    tab.until(lambda: tab.message != "", "a message")
    assert not JARGON.search(tab.message), tab.message
    return tab.message


def works(tab: Tab) -> None:
    """Makes a film, and asserts that nothing is left of the trouble before."""
    assert tab.generate(**SQUARE) == "done"
    assert tab.message == ""
    assert tab.playing()["error"] is None


@pytest.mark.parametrize(("typed", "problem"), [
    (65, "multiple of 8, not 65"), (100_000, "between 16 and 4096, not 100000"), (-8, "between 16 and 4096, not -8")])
def test_a_width_that_cannot_be_is_explained(tab: Tab, typed: int, problem: str) -> None:
    tab.set(**SQUARE | {"width": typed})
    tab.press("generate")
    assert re.search(f"width.*{problem}", complaint(tab), re.IGNORECASE)
    assert tab.state not in OVER
    works(tab)




def test_a_file_without_settings_is_refused_and_changes_nothing(tab: Tab, tmp_path: Path) -> None:
    bare = write_film(np.zeros((4, 64, 64, 3), np.uint8), tmp_path / "bare.mp4", 8)
    (tmp_path / "broken.mp4").write_bytes(b"this is no film")
    tab.set(**SQUARE)
    said: list[str] = []
    for film in (bare, tmp_path / "broken.mp4"):
        tab.read_from(film)
        tab.until(lambda: tab.message not in ("", *said), f"a message about {film.name}")
        said.append(complaint(tab))
    assert (tab.get("prompt"), tab.get("steps")) == (SQUARE["prompt"], "3")
    works(tab)


def test_what_looks_like_html_in_a_prompt_stays_text(tab: Tab) -> None:
    assert tab.generate(**SQUARE | {"prompt": TRAP, "negative_prompt": TRAP}) == "done"
    tab.until(lambda: TRAP in tab.get("infotext"), "the prompt in the infotext, letter by letter")
    tab.show(0)
    tab.open()
    tab.until(lambda: bool(tab.films), "the strip of films")
    tab.show(0)
    tab.until(lambda: TRAP in tab.get("infotext"), "the prompt in the infotext, letter by letter")
    assert tab.page.evaluate("() => window.hacked") is None
    assert tab.page.locator('img[src="x"]').count() == 0


@pytest.mark.usefixtures("alone")
def test_a_model_that_vanishes_is_explained_and_the_others_still_work(tab: Tab, place: Place) -> None:
    assert place.models is not None
    folder = place.models / "ModelScope" / "fleeting"
    shutil.copytree(DEMO, folder)
    tab.press("refresh")
    tab.choose("model", "fleeting")
    shutil.rmtree(folder)
    tab.set(**SQUARE)
    tab.press("generate")
    assert "fleeting" in complaint(tab)
    tab.press("refresh")
    tab.until(lambda: tab.get("model") == "demo", "another model in the place of the lost one")
    works(tab)
