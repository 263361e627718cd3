"""Films made with the tab: seen while they emerge, played, stopped, skipped, found again."""

from pathlib import Path

import pytest

from t2v.video import probe, read_infotext
from tests.browser.page import QUICK, Tab

CIRCLE = "a red circle moving right"
SHORT = QUICK | {"prompt": CIRCLE}
LONG = SHORT | {"steps": 1000, "frames": 24}  # there is time to press a button, however fast the machine


def saved(tab: Tab, folder: Path) -> Path:
    """The film in the player, as a person who downloads it has it."""
    film = folder / "film.mp4"
    film.write_bytes(tab.download()[0])
    return film


def test_a_film_can_be_watched_emerging_then_played_and_saved(tab: Tab, tmp_path: Path, shots: Path | None) -> None:
    tab.start(**SHORT | {"steps": 100, "frames": 16, "seed": 7})
    tab.underway(percent=10)
    tab.shoot(shots, "generating")
    assert tab.finish() == "done"
    percents = [sight.percent for sight in tab.sights() if sight.state == "running"]
    assert len(set(percents)) > 1
    assert percents == sorted(percents)
    assert len({sight.picture for sight in tab.sights() if sight.picture}) > 1

    film = tab.playing()
    tab.shoot(shots, "done")
    assert (film["ready"], film["error"], film["width"], film["height"]) == (4, None, 64, 64)
    assert film["duration"] == pytest.approx(16 / 8, rel=0.05)

    content, headers = tab.download()
    assert headers["content-type"] == "video/mp4"
    assert int(headers["content-length"]) == len(content) > 1000
    facts = probe(saved(tab, tmp_path))
    assert (facts.width, facts.height, facts.frames) == (64, 64, 16)
    shown = tab.get("infotext")
    assert shown.startswith(CIRCLE)
    assert "Seed: 7," in shown
    assert shown == read_infotext(tmp_path / "film.mp4")


def test_interrupt_makes_a_film_of_what_there_is_and_the_next_film_is_whole(tab: Tab) -> None:
    tab.start(**LONG)
    tab.underway()
    steps = len(tab.sights())
    tab.press("interrupt")
    assert tab.finish() == "interrupted"
    assert max(sight.percent for sight in tab.sights()[:steps]) < 90  # it was not over anyway
    stopped = tab.playing()
    assert stopped["duration"] == pytest.approx(24 / 8, rel=0.05)
    assert tab.message == ""

    assert tab.generate(**SHORT) == "done"
    tab.until(lambda: tab.playing()["address"] != stopped["address"], "the new film in the player")
    assert tab.playing()["duration"] == pytest.approx(4 / 8, rel=0.05)


def test_skip_in_a_batch_of_three_leaves_two_films(tab: Tab) -> None:
    before = set(tab.films)
    tab.start(**SHORT | {"steps": 100, "batch_count": 3})
    tab.underway()
    tab.press("skip")
    assert tab.finish() == "done"
    tab.until(lambda: len(set(tab.films) - before) > 1, "films in the strip")
    assert len(set(tab.films) - before) == 2


def test_a_film_of_the_strip_comes_to_the_player_with_its_settings(tab: Tab) -> None:
    for seed in (101, 102, 103):
        assert tab.generate(**SHORT | {"seed": seed}) == "done"
    for index, seed in ((2, 101), (0, 103), (1, 102)):
        tab.show(index)
        assert f"Seed: {seed}," in tab.get("infotext")


def test_a_page_that_is_loaded_anew_during_a_job_shows_it_again_and_its_film(tab: Tab) -> None:
    tab.start(**LONG | {"seed": 23})
    tab.underway()
    tab.open()
    tab.underway()
    tab.press("interrupt")
    assert tab.finish() == "interrupted"
    assert tab.playing()["duration"] == pytest.approx(24 / 8, rel=0.05)
    assert "Seed: 23," in tab.get("infotext")


def test_settings_are_read_back_from_a_film(tab: Tab, tmp_path: Path) -> None:
    tab.choose("sampler", "DDIM")
    made = SHORT | {"steps": 5, "seed": 4711, "cfg_scale": 4, "negative_prompt": "blurry"}
    assert tab.generate(**made) == "done"
    film = saved(tab, tmp_path)
    tab.choose("sampler", "Euler")
    tab.set(prompt="something else", negative_prompt="", steps=9, seed=1, cfg_scale=2, width=128)
    tab.read_from(film)
    tab.until(lambda: tab.get("prompt") == CIRCLE, "the prompt of the film")
    names = ("negative_prompt", "sampler", "steps", "seed", "width", "frames")
    tab.until(lambda: [tab.get(name) for name in names] == ["blurry", "DDIM", "5", "4711", "64", "4"],
              "the settings of the film", patience=10)
    assert float(tab.get("cfg_scale")) == 4
    assert tab.message == ""
