"""Living in a web UI: its Reload UI, its progress, its Interrupt.

Reload UI comes first. On gradio 3 it hangs, also without us, once a page has been closed while it was still loading,
as pages of other tests are.
"""

import json
from urllib.request import Request

import pytest
from playwright.sync_api import expect

from tests.browser.page import PAGE, QUICK, ROOT, Tab
from tests.browser.places import DIRECT, Place

pytestmark = pytest.mark.usefixtures("hosted")
CIRCLE = QUICK | {"prompt": "a green circle moving left"}


def test_reload_ui_leaves_one_tab_that_works(tab: Tab, place: Place) -> None:
    if not tab.page.locator("#settings_restart_gradio").count():
        pytest.skip("SD.Next cannot reload its UI, only start its whole server again")
    assert tab.generate(**CIRCLE) == "done"
    tab.page.locator("#tabs > .tab-nav button").filter(has_text="Settings").first.click()
    with tab.page.expect_navigation(timeout=PAGE * 1000):  # the web UI's own script loads the page when it is back
        tab.page.locator("#settings_restart_gradio").click()
    tab.open()
    expect(place.tabs(tab.page)).to_have_count(1)
    assert tab.page.locator(ROOT).count() == 1
    assert tab.generate(**CIRCLE) == "done"
    assert tab.playing()["error"] is None


def test_the_web_ui_sees_our_progress_and_its_interrupt_reaches_us(tab: Tab, place: Place) -> None:
    tab.start(**CIRCLE | {"steps": 1000, "frames": 24})
    tab.underway()
    seen: set[float] = set()

    def moves() -> bool:
        seen.add(progress(place))
        return len(seen - {0.0}) > 1

    tab.until(moves, "progress in the web UI's own API")
    assert max(seen) <= 1
    with DIRECT.open(Request(place.url + "sdapi/v1/interrupt", method="POST"), timeout=30) as answer:
        assert answer.status in (200, 204)  # SD.Next has nothing to add
    assert tab.finish() == "interrupted"
    assert tab.playing()["duration"] == pytest.approx(24 / 8, rel=0.05)


def test_the_frame_that_is_shown_goes_to_img2img(tab: Tab) -> None:
    if not tab.part("to_img2img").count():
        pytest.skip("this web UI has no way to bind such a button")
    assert tab.generate(**CIRCLE | {"width": 96}) == "done"
    tab.playing()
    tab.press("to_img2img")
    sent = "() => [...document.querySelectorAll('#tab_img2img img')].some(i => i.naturalWidth == 96 && i.offsetParent)"
    tab.until(lambda: bool(tab.page.evaluate(sent)), "the frame in img2img, and that tab in front")


def progress(place: Place) -> float:
    """How far the web UI says that it is."""
    with DIRECT.open(place.url + "sdapi/v1/progress?skip_current_image=true", timeout=30) as answer:
        return float(json.load(answer)["progress"])
