"""The page itself: keys instead of a mouse, narrow windows, names for all."""

from collections import Counter
from pathlib import Path

import pytest

from tests.browser.page import QUICK, ROOT, OpenTab, Tab
from tests.browser.places import Place

CIRCLE = QUICK | {"prompt": "a green circle moving left"}
KEYS = 80  # to get from anywhere to anywhere


def walk(tab: Tab, selector: str) -> None:
    """Presses the Tab key until what is in focus matches."""
    for _ in range(KEYS):
        tab.page.keyboard.press("Tab")
        if tab.page.evaluate("(selector) => document.activeElement.matches(selector)", selector):
            return
    raise AssertionError(f"{KEYS} presses of the Tab key do not lead to {selector}")


def test_a_film_is_made_and_shown_with_keys_alone(tab: Tab) -> None:
    tab.set(**CIRCLE)
    prompt = tab.part("prompt").locator("textarea")
    prompt.focus()
    tab.page.keyboard.press("Control+a")
    tab.page.keyboard.type("a yellow square moving down")
    before = set(tab.films)
    tab.start(lambda: tab.page.keyboard.press("Control+Enter"))
    assert tab.finish() == "done"
    tab.until(lambda: set(tab.films) != before, "the film in the strip")
    assert len(set(tab.films) - before) == 1  # a web UI knows Ctrl+Enter, too
    assert tab.get("infotext").startswith("a yellow square moving down")
    first = tab.playing()["address"]

    prompt.focus()
    walk(tab, "#text2video_generate")
    tab.start(lambda: tab.page.keyboard.press("Enter"))
    assert tab.finish() == "done"
    tab.until(lambda: tab.playing()["address"] != first, "the second film in the player")

    walk(tab, "#text2video_films button")
    tab.page.keyboard.press("Tab")
    tab.page.keyboard.press("Enter")
    tab.until(lambda: tab.playing()["address"] == first, "the older film, chosen from the strip")


def test_there_is_one_tab_and_every_id_is_given_once(tab: Tab, place: Place) -> None:
    ids = tab.page.eval_on_selector_all(  # gradio 3 repeats the id of HTML on what is in it, which leads nobody astray
        "[id^=text2video_]",
        "(parts) => parts.filter((part) => !part.parentElement.closest('#' + part.id)).map((part) => part.id)")
    assert {"text2video_prompt", "text2video_generate", "text2video_player"} <= set(ids)
    assert [name for name, count in Counter(ids).items() if count > 1] == []
    assert tab.place.tabs(tab.page).count() == (1 if place.hosted else 0)


def test_every_button_says_what_it_does(tab: Tab) -> None:
    nameless = tab.page.locator(f"{ROOT} button").evaluate_all(
        "(all) => all.filter((b) => b.checkVisibility() && !/[a-z]{2}/i.test("
        "  b.innerText + (b.ariaLabel ?? '') + b.title)).map((b) => b.outerHTML)")
    assert nameless == []


@pytest.mark.parametrize(("width", "query"), [(1400, ""), (1400, "?__theme=dark"), (400, ""), (400, "?__theme=dark")])
def test_nothing_sticks_out_of_a_window(open_tab: OpenTab, shots: Path | None, width: int, query: str) -> None:
    tab = open_tab(query, width=width)
    tab.shoot(shots, f"{'narrow' if width < 500 else 'wide'}{'-dark' if query else ''}")
    left, right, inner, outer = tab.page.locator(ROOT).evaluate(
        "(root) => { const box = root.getBoundingClientRect();"
        "  return [box.left, box.right, root.scrollWidth, root.clientWidth]; }")
    assert (left >= 0, right <= width + 1, inner <= outer + 1) == (True, True, True)
