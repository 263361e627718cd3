"""Every setting has a meaning and limits, and nothing outside them gets in."""

import dataclasses
import math
import random
from dataclasses import Field, fields, replace
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from t2v.errors import RequestError
from t2v.request import MAX_SEED, VideoRequest, checked, value_type

FIELDS = fields(VideoRequest)
NUMBERS = [spec for spec in FIELDS if value_type(spec) in (int, float)]
WHOLE = [spec for spec in NUMBERS if value_type(spec) is int]
TEXTS = [spec for spec in FIELDS if value_type(spec) is str]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.integers().map(str),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3), max_leaves=5)


def each(specs: list[Field[Any]] | tuple[Field[Any], ...]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("spec", specs, ids=lambda spec: spec.name)


def problem(name: str, value: Any) -> str:
    """The message with which a request refuses `value` for the field `name`."""
    with pytest.raises(RequestError) as caught:
        VideoRequest(**{name: value})
    assert caught.value.field == name
    assert str(caught.value) == f"{name}: {caught.value.problem}"
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 200
    return caught.value.problem


def given_to(spec: Field[Any], value: Any) -> Any:
    return getattr(VideoRequest(**{spec.name: value}), spec.name)


@each(FIELDS)
def test_every_field_can_be_derived_from(spec: Field[Any]) -> None:
    """Command line, API, tab and infotext read nothing but this."""
    assert spec.metadata["label"].strip()
    assert spec.metadata["description"].endswith(".")
    assert value_type(spec) in (str, int, float, bool)
    assert spec.type in (value_type(spec), value_type(spec) | None)
    assert (type(None) in get_args(spec.type)) == (spec.default is None)


def test_labels_are_distinct() -> None:
    assert len({spec.metadata["label"].lower() for spec in FIELDS}) == len(FIELDS)


@each(NUMBERS)
def test_every_number_has_limits_and_reaches_them(spec: Field[Any]) -> None:
    for limit in (spec.metadata["ge"], spec.metadata["le"]):
        assert given_to(spec, limit) == limit
        assert type(given_to(spec, limit)) is value_type(spec)


@each(NUMBERS)
def test_a_number_outside_its_limits_is_refused_with_the_limits(spec: Field[Any]) -> None:
    low, high = spec.metadata["ge"], spec.metadata["le"]
    step = spec.metadata.get("multiple_of", 1) if spec in WHOLE else 1e-9
    for beyond in (low - step, high + step, -10**9, 10**12, 1e300, -1e300):
        assert f"between {low} and {high}" in problem(spec.name, beyond)


@each(NUMBERS)
def test_what_is_no_number_is_refused(spec: Field[Any]) -> None:
    for value in (math.nan, math.inf, -math.inf, "nan", "inf", True, False, "", " ", "many", "0x10", "1,5", "8 8", [8],
                  (8,), {8: 8}, object(), 8j, 10**400, -(10**5000), "9" * 5000, "\n".join("wrong"), b"\xff"):
        problem(spec.name, value)


@each(NUMBERS)
def test_digits_are_taken_for_the_number_they_spell(spec: Field[Any]) -> None:
    for number in (16, 16.0, "16", " 16 ", "16.0", "1.6e1"):
        if spec.metadata["ge"] <= 16 <= spec.metadata["le"]:
            assert given_to(spec, number) == 16
            assert type(given_to(spec, number)) is value_type(spec)


@each(WHOLE)
@pytest.mark.parametrize("value", [16.5, "16.5", 1e-9])
def test_a_whole_number_has_no_fraction(spec: Field[Any], value: Any) -> None:
    assert problem(spec.name, value).startswith("must be a whole number")


@each([spec for spec in NUMBERS if "multiple_of" in spec.metadata])
def test_a_multiple_is_required_where_the_model_needs_one(spec: Field[Any]) -> None:
    step = spec.metadata["multiple_of"]
    assert given_to(spec, 3 * step) == 3 * step
    assert problem(spec.name, 3 * step + 1) == f"must be a multiple of {step}, not {3 * step + 1}"


@each(TEXTS)
def test_text_is_text(spec: Field[Any]) -> None:
    for value in (1, 1.5, True, ["a\nb"] * 99, {"a": "b"}, b"bytes", 10**5000):
        assert problem(spec.name, value).startswith("must be text, not ")


@each(FIELDS)
def test_a_field_may_be_left_open_only_where_the_model_fills_it(spec: Field[Any]) -> None:
    if spec.default is None:
        assert given_to(spec, None) is None
    else:
        assert problem(spec.name, None).endswith("not None")


@given(st.sampled_from(FIELDS), JSON)
def test_any_value_makes_a_valid_request_or_a_line_that_names_the_field(spec: Field[Any], value: Any) -> None:
    try:
        kept = given_to(spec, value)
    except RequestError:
        problem(spec.name, value)
    else:
        assert kept is None or type(kept) is value_type(spec)
        assert checked(spec, kept) == kept


@each(FIELDS)
def test_a_request_cannot_be_changed(spec: Field[Any]) -> None:
    request = VideoRequest()
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(request, spec.name, spec.default)
    assert hash(request) == hash(VideoRequest())


def test_the_models_defaults_fill_what_is_open_and_nothing_else() -> None:
    request = VideoRequest(prompt="a", width=64, seed=5)
    filled = request.filled({"width": 256, "height": 320, "fps": 8, "prompt": "b", "unknown": 1})
    assert filled == VideoRequest(prompt="a", width=64, height=320, fps=8.0, seed=5)
    assert request.height is None


def test_a_models_defaults_are_held_to_the_limits_too() -> None:
    with pytest.raises(RequestError) as caught:
        VideoRequest().filled({"frames": 0})
    assert caught.value.field == "frames"


def test_an_open_seed_is_drawn_and_a_given_one_kept() -> None:
    assert len({VideoRequest().filled({}).seed for _ in range(20)}) > 10
    assert VideoRequest(seed=0).filled({}).seed == 0


@pytest.mark.parametrize("count", [1, 1000])
def test_a_drawn_seed_may_be_any_that_leaves_room_for_the_batch(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    request = VideoRequest(batch_count=count)
    monkeypatch.setattr(random.SystemRandom, "randint", lambda _self, low, _high: low)
    assert request.filled({}).seed == 0
    monkeypatch.setattr(random.SystemRandom, "randint", lambda _self, _low, high: high)
    assert request.filled({}).items()[-1].seed == MAX_SEED


@given(st.integers(0, MAX_SEED), st.integers(1, 9))
def test_item_i_of_a_batch_is_the_single_film_of_seed_plus_i(seed: int, count: int) -> None:
    request = VideoRequest(prompt="a", seed=seed, batch_count=count)
    assert request.items() == [replace(request, seed=(seed + i) % 2**32, batch_count=1) for i in range(count)]


def test_a_batch_without_a_seed_draws_one_for_all() -> None:
    first, *others = [item.seed for item in VideoRequest(batch_count=5).items()]
    assert others == [first + i for i in range(1, 5)]
