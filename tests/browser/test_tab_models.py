"""What the tab does with models and LoRAs that lie in folders, as a person uses it."""

import pytest

from tests.browser.page import QUICK, Tab
from tests.browser.places import Place
from tests.loras import drawn, kohya

# 128 wide, because x264 makes the same file of the same frames only where they are a multiple of that; PNG always does.
CIRCLE = QUICK | {"prompt": "a red circle moving right", "seed": 5, "width": 128}
LAST = {"out_2": (4, 64, 3, 3)}  # the last convolution of the demo's UNet


def test_a_check_of_all_models_is_a_page_to_paste(tab: Tab) -> None:
    tab.unfold("examine", "Check or fetch models")
    tab.press("examine")
    tab.until(lambda: "demo" in tab.get("care") and "torch" in tab.get("care"), "the doctor's page")


@pytest.mark.usefixtures("alone")
def test_a_lora_is_offered_changes_the_film_and_leaves_no_trace(tab: Tab, place: Place) -> None:
    assert place.models is not None
    file = place.models / "Lora" / "wild.safetensors"
    file.parent.mkdir(parents=True, exist_ok=True)
    kohya(drawn(LAST), file)
    tab.press("refresh")
    plain = film(tab)
    tab.pick("lora", "wild")
    tab.until(lambda: tab.get("loras") == "wild:1", "the LoRA among those that are asked for")
    assert film(tab) != plain
    assert film(tab, loras="", prompt=CIRCLE["prompt"] + " <lora:wild:1>") != plain
    assert film(tab) == plain


def film(tab: Tab, **values: object) -> str:
    """What a film of these settings looks like, at one moment."""
    assert tab.generate(**CIRCLE | {"loras": tab.get("loras")} | values) == "done", tab.message
    return tab.frame(0.3)
