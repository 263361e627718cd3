"""LoRAs as they are asked for: tags in a prompt, a list in a field, and strengths over the steps."""

from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from t2v.errors import RequestError
from t2v.extra import MAX_WEIGHT, Point, Strength, Wish, listed, taken_out
from t2v.prompt import count_tokens


def constant(text: float, unet: float | None = None, name: str = "x") -> Wish:
    return Wish(name, Strength.constant(text), Strength.constant(text if unet is None else unet))


@pytest.mark.parametrize(("tag", "wish"), [
    ("<lora:x>", constant(1)),
    ("<lora:x:0.8>", constant(0.8)),
    ("<lora:x:-.5>", constant(-0.5)),
    ("<lora: x : 2 >", constant(2)),
    ("<lora:x:0.8:0.5>", constant(0.8, 0.5)),
    ("<lora:x:te=0.2:unet=0.3>", constant(0.2, 0.3)),
    ("<lora:x:1:te=0.5>", constant(0.5)),
    ("<lora:x:unet=0>", constant(1, 0)),
    ("<lora:some folder/v1.5 (new):1>", constant(1, name="some folder/v1.5 (new)")),
])
def test_a_tag_is_read_as_in_the_web_ui(tag: str, wish: Wish) -> None:
    assert taken_out(f"a {tag}cat, {tag}") == ("a cat, ", [wish, wish])


def test_other_words_in_angles_are_words() -> None:
    assert taken_out("a <b> <hypernet:c:1> lora:d") == ("a <b> <hypernet:c:1> lora:d", [])


@pytest.mark.parametrize("tag", [
    "<lora:>", "<lora::1>", "<lora:x:a>", "<lora:x:1:2:3>", "<lora:x:dyn=4>", "<lora:x:nan>", "<lora:x:1e9>",
    f"<lora:x:{MAX_WEIGHT + 1}>", "<lora:x:1@2>", "<lora:x:0,1>", "<lora:x:0@0,1>", "<lora:x:>", "<lora:x:1@-1>"])
def test_a_tag_without_sense_is_refused_where_it_stands(tag: str) -> None:
    with pytest.raises(RequestError, match=r"^prompt: ") as caught:
        taken_out(tag)
    assert caught.value.field == "prompt"
    with pytest.raises(RequestError, match=r"^loras: "):
        listed(tag)


def test_a_list_has_names_weights_and_tags() -> None:
    assert listed("a:0.8, b\n c : -1;<lora:x:2> ,") == [
        constant(2), constant(0.8, name="a"), constant(1, name="b"), constant(-1, name="c")]
    assert listed("") == []


def test_commas_between_points_do_not_end_an_entry() -> None:
    a, b = listed("a:0@0, 1@0.5, b:2")
    assert (a.name, a.unet.points, a.text) == ("a", (Point(0, 0), Point(0.5, 1)), a.unet)
    assert b == constant(2, name="b")
    assert listed("a:0@0,1@0.5") == taken_out("<lora:a:1@0.5,0@0>")[1]


def test_a_strength_is_linear_between_its_points_and_constant_outside() -> None:
    (wish,) = listed("a:-1@0.25,3@0.75")
    assert [wish.unet.at(part / 8) for part in range(9)] == [-1, -1, -1, 0, 1, 2, 3, 3, 3]
    assert wish.unet.peak == 3
    assert listed("a:-4@0,3@1")[0].text.peak == -4


def test_two_points_at_one_place_are_a_jump() -> None:
    (wish,) = listed("a:0@0.5,1@0.5")
    assert [wish.unet.at(part) for part in (0, 0.49, 0.5, 1)] == [0, 0, 1, 1]


def test_tags_are_no_tokens() -> None:
    assert count_tokens("a cat<lora:some long name of a file:0.8>") == count_tokens("a cat")


@settings(derandomize=True, deadline=None)
@given(st.text(st.sampled_from("<>lora:,@.;0123 -=x\n"), max_size=40))
def test_any_text_is_read_or_refused(text: str) -> None:
    for read in (taken_out, listed):
        with suppress(RequestError):
            read(text)
