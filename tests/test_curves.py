"""Key frames: what the strings people have mean, and that no string does anything else."""

import math
import time
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from t2v.curves import FUNCTIONS, MAX_TEXT, curve
from t2v.errors import RequestError

CONTINUE = '0:(t/max_i_f), "max_i_f":(1)'  # the strings of the extension before us
LOOP = '0:(0), "max_i_f/4":(1), "3*max_i_f/4":(1), "max_i_f-1":(0)'


def test_numbers_are_joined_by_lines() -> None:
    assert curve("0:(0), 8:(1)", 10) == pytest.approx([*(i / 8 for i in range(9)), 1])


def test_before_the_first_key_and_after_the_last_their_values_hold() -> None:
    assert curve("2:(-.5), 4:(1.5)", 7) == pytest.approx([-0.5, -0.5, -0.5, 0.5, 1.5, 1.5, 1.5])


def test_an_expression_says_what_it_says_up_to_the_next_key() -> None:
    assert curve("0:(t), 3:(10), 5:(t*2)", 8) == [0, 1, 2, 10, 10, 10, 12, 14]
    assert curve("0:(1+0), 4:(5)", 6) == [1, 1, 1, 1, 5, 5]  # no plain number: it holds, and there is no line


@pytest.mark.parametrize("frames", [2, 3, 8, 24, 125])
def test_the_string_for_going_on_from_a_picture_means_what_it_meant(frames: int) -> None:
    assert curve(CONTINUE, frames) == pytest.approx([i / (frames - 1) for i in range(frames)])


@pytest.mark.parametrize("frames", [8, 24, 125])
def test_the_string_for_loops_means_what_it_meant(frames: int) -> None:
    last = frames - 1
    expected = np.interp(range(frames), [0, int(last / 4), int(3 * last / 4), last - 1], [0, 1, 1, 0])
    assert curve(LOOP, frames) == pytest.approx(expected)


@pytest.mark.parametrize("text", [CONTINUE, LOOP])
@pytest.mark.parametrize("frames", [1, 2, 3])
def test_both_strings_work_for_the_shortest_films(text: str, frames: int) -> None:
    assert len(curve(text, frames)) == frames


def test_the_picture_may_be_held_for_fewer_frames_than_there_are() -> None:
    assert curve(CONTINUE, 9, held=5) == pytest.approx([0, 0.25, 0.5, 0.75, 1, 1, 1, 1, 1])


def test_of_two_keys_for_one_frame_the_later_counts_and_keys_outside_do_not() -> None:
    assert curve("0:(3), 0:(4), 9:(100)", 5) == [4] * 5
    assert curve("'0-1':(7), 0:(1)", 2) == [1, 1]


def test_a_number_alone_is_that_of_every_frame() -> None:
    assert curve(" 0.25 ", 3) == [0.25] * 3


@pytest.mark.parametrize(("text", "expected"), [
    ("where(t<3,0,1)", lambda t: float(t >= 3)),
    ("min(t, 4, max_f-t)", lambda t: min(t, 4, 11 - t)),
    ("max(0, sin(t)/2) ** 2", lambda t: max(0, math.sin(t) / 2) ** 2),
    ("(t > 2) & (t <= 5) | (t == 8)", lambda t: float(2 < t <= 5 or t == 8)),
    ("~(t > 2) * 2", lambda t: 2.0 * (not t > 2)),
    ("t & 3", lambda t: t & 3),
    ("t % 4 + s", lambda t: t % 4 + 7),
    ("-3 % (t + 2)", lambda t: math.fmod(-3, t + 2)),
    ("exp(-t) + log(t + 1) - sqrt(abs(t - 5))", lambda t: math.exp(-t) + math.log(t + 1) - math.sqrt(abs(t - 5))),
    ("floor(t / 2) - ceil(t / 3) + arctan2(t, 2)", lambda t: t // 2 - math.ceil(t / 3) + math.atan2(t, 2)),
    ("tan(t/max_f) + cos(t) - +t // 2", lambda t: math.tan(t / 11) + math.cos(t) - t // 2),
])
def test_formulas_are_those_of_arithmetic(text: str, expected: object) -> None:
    assert callable(expected)
    assert curve(f"0:({text})", 12, seed=7) == pytest.approx([expected(t) for t in range(12)])


@pytest.mark.parametrize("name", [name for name in FUNCTIONS if name not in ("where", "min", "max")])
def test_functions_are_numpys_of_that_name(name: str) -> None:
    numbers = [1.5 if name == "arccosh" else 0.5] * FUNCTIONS[name][1]
    assert curve(f"0:({name}({', '.join(map(str, numbers))}))", 1) == [getattr(np, name)(*numbers)]


@pytest.mark.parametrize(("text", "place", "problem"), [
    ("0:(0), 8:(foo(1))", 11, "there is no function foo; there are sin"),
    ("0:(0), 8:(x + 1)", 11, "there is no x; there are max_f"),
    ("0:(0), 8:(1 + )", 15, "cannot make sense of this"),
    ("0:(0), 8", 7, "this is no key frame"),
    ("0:(0), :(1)", 8, "something is missing"),
    ("0:(0), 8 (1)", 7, "this is no key frame; write frame:(value)"),
    ("0:(0), 8:", 10, "something is missing"),
    ("0:(0), 8:(1", 10, "this bracket is not closed"),
    ("0:(0), 8:1)", 11, "this bracket closes none"),
    ("0:(1/t)", 3, "this is no number at frame 0"),
    ("0:(log(3-t))", 3, "this is no number at frame 3"),
    ("0:(0), t:(1)", 8, "there is no t; there are max_f"),
    ("0:(0), '1/0':(1)", 9, "this is no frame"),
    ("0:(where(1, 2))", 4, "where takes 3 numbers"),
    ("0:(min())", 4, "min takes 1 or more numbers"),
    ("0:(t.real)", 5, "this has no place in a formula"),
    ("0:(t | 0.5)", 4, "&, |, ^ and ~ take comparisons or whole numbers"),
    ("0:(0 < t < 2)", 4, "this is no arithmetic"),
    ("0:(1 if t else 2)", 4, "this is no arithmetic"),
    ("0:((t, 1))", 4, "this is no arithmetic"),
    ("0:(sin(x=t))", 9, "this has no place in a formula"),
    ("0:(sin t)", 4, "cannot make sense of this"),
    ("0:(1e999)", 3, "this is no number at frame 0"),
    ("0:(" + "9" * 400 + ")", 3, "this is no number at frame 0"),
    ("0:(9**9**9**9)", 3, "this is no number at frame 0"),
    ("0:(" + "-" * 100 + "1)", 65, "there are more than 60 operations in one another"),
    ("0:(" + "1+" * 300 + "1)", 3, "this is longer than the 500 characters"),
    ("0:(" + "(" * 220 + "1" + ")" * 220 + ")", 202, "cannot make sense of this"),
    ("9:(1)", 1, "no key lies within the 4 frames"),
    ("", 1, "there are no key frames"),
])
def test_an_error_points_at_its_place(text: str, place: int, problem: str) -> None:
    with pytest.raises(RequestError) as raised:
        curve(text, 4)
    assert raised.value.field == "picture_weights"
    assert raised.value.problem.startswith(problem)
    assert f", at character {place}, near " in raised.value.problem


def test_a_very_long_text_is_not_read() -> None:
    with pytest.raises(RequestError, match="characters long"):
        curve("0:(1)," * MAX_TEXT, 4)


@pytest.mark.parametrize("attack", [
    "__import__('os').system('true')", "().__class__", "[].append(1)", "{}", "lambda: 1", "'a'*9", "f(*t)", "yield",
    "True", "None", "(t:=1)", "t[0]", "`t`", "a.b()", "...", "1j", "0x10", "1if 1else 2", "t!", "t\x00", "\u0661",
])
def test_only_arithmetic_is_worked_out(attack: str) -> None:
    with pytest.raises(RequestError):
        curve(f"0:({attack})", 4)


# Pieces that keys are made of, so that many of the texts are nearly right.
PIECES = st.sampled_from([
    *"0123456789.+-*/%()<>=!&|^~,:'\" \n", "**", "//", "t", "max_f", "max_i_f", "s", "e9", "1e9", "0:(", "where(",
    "min(", "if", "lambda", "\\", "[", "{", "\x00", "é", *FUNCTIONS])


@settings(max_examples=400, deadline=None)
@given(st.one_of(st.text(max_size=200), st.lists(PIECES, max_size=60).map("".join)))
def test_any_text_is_a_curve_or_a_request_error(text: str) -> None:
    try:
        numbers = curve(text, 7, seed=2**32 - 1)
    except RequestError:
        return
    assert len(numbers) == 7
    assert all(type(number) is float and math.isfinite(number) for number in numbers)


@pytest.mark.parametrize("text", [
    ",".join(f"{i}:(sin(t)+{i})" for i in range(600)),
    ",".join(["0:(" + "max(t," * 50 + "1" + ")" * 50 + ")"] * 20),
    "0:(" + "9**" * 59 + "9)", "0:(" + "(" * 190 + "1 1" + ")" * 190 + ")", "0:t," * (MAX_TEXT // 4), "," * MAX_TEXT,
    "(" * MAX_TEXT, "0:'" * (MAX_TEXT // 3), " " * MAX_TEXT,
])
def test_no_text_takes_long(text: str) -> None:
    began = time.process_time()
    with suppress(RequestError):
        curve(text, 10_000)
    assert time.process_time() - began < 2
