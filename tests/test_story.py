"""Stories: which prompts are some, which part is in which frame, and what the network is told."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from t2v.errors import RequestError
from t2v.extra import taken_out
from t2v.prompt import contexts
from t2v.story import Segment, Told, segments, shares, told
from tests.networks import assert_equal


@pytest.mark.parametrize(("prompt", "expected"), [
    ("0: a calm sea | 24: a storm", [(0, "a calm sea"), (24, "a storm")]),
    ("0:a|5:b|9:c", [(0, "a"), (5, "b"), (9, "c")]),
    (" 0 : a\n| 3s: b\n| 4.5 s : c", [(0, "a"), (24, "b"), (36, "c")]),  # at 8 frames a second
    ("0s: a | 1.25s: b", [(0, "a"), (10, "b")]),
    ("0: | 8: b", [(0, ""), (8, "b")]),
    ("0: a (red:1.2) sea BREAK blue | 8: [x:y:0.5] [b|c]", [(0, "a (red:1.2) sea BREAK blue"), (8, "[x:y:0.5] [b|c]")]),
    ("0: one | two | 8: three", [(0, "one | two"), (8, "three")]),
    ("0: at 12:30 | 8: ratio 3:4", [(0, "at 12:30"), (8, "ratio 3:4")]),
    ("0: [cat|24: dog] | 8: b", [(0, "[cat|24: dog]"), (8, "b")]),
    ("0: (cat | 24: dog) ( | 8: b", [(0, "(cat | 24: dog) ("), (8, "b")]),
    (r"0: a \( b | 8: c \) d", [(0, r"a \( b"), (8, r"c \) d")]),
    ("0: a :] | 8: b", [(0, "a :]"), (8, "b")]),
])
def test_a_story_is_read_part_by_part(prompt: str, expected: list[tuple[int, str]]) -> None:
    assert segments(prompt, 8) == [Segment(*part) for part in expected]


@pytest.mark.parametrize("prompt", [
    "", "a calm sea", "a | b", "a calm sea | 24: a storm", "2001: a space odyssey",
    "2001: a space odyssey | 2010: the year we make contact",
    "0: a calm sea", "[a:b:0.5]", "[a|24: b]", "0: [a | 24: b]", "12:30 | 13:45", "(a:1.2) | 3", "1: a | 24: b",
    "0.5: a | 24: b", "0: a | b | c", "0: a | 2.5: b", "10: ten", "0: a || b:", "a 0: b | 24: c", "00x: a | 24: b",
])
def test_every_other_text_is_one_prompt_as_it_was(prompt: str) -> None:
    assert segments(prompt, 8) == [Segment(0, prompt)]


@pytest.mark.parametrize("prompt", ["0: a | 0: b", "0: a | 24: b | 8: c", "0: a | 24: b | 3s: c", "0: a | 0.01s: b"])
def test_time_only_goes_forward(prompt: str) -> None:
    with pytest.raises(RequestError, match="comes at frame") as raised:
        segments(prompt, 8, "negative_prompt")
    assert raised.value.field == "negative_prompt"


def test_loras_are_taken_out_before_and_leave_a_story() -> None:
    rest, wishes = taken_out("0: a <lora:x:0@0,1@0.5> | 24: b <lora:y:0.5>")
    assert [wish.name for wish in wishes] == ["x", "y"]
    assert segments(rest, 8) == [Segment(0, "a"), Segment(24, "b")]


@given(st.text(alphabet="0123s:| []()ab.\\", max_size=40))
def test_any_text_is_a_story_or_a_prompt_or_runs_back(prompt: str) -> None:
    try:
        parts = segments(prompt, 8)
    except RequestError:
        return
    starts = [part.start for part in parts]
    assert starts == sorted(set(starts))
    assert len(parts) > 1 or parts[0].text == prompt


# ---- shares ----


def test_a_part_is_whole_at_its_frame_and_comes_in_straight_lines() -> None:
    assert shares([0, 6], range(8), 3)[:, 1].tolist() == pytest.approx([0, 0, 0, 0.25, 0.5, 0.75, 1, 1])
    assert shares([0, 6], range(8), 0)[:, 1].tolist() == [0, 0, 0, 0, 0, 0, 1, 1]


def test_a_short_part_has_a_short_transition() -> None:
    assert shares([0, 2, 3], range(5), 8).tolist() == [[1, 0, 0], [0.5, 0.5, 0], [0, 1, 0], [0, 0, 1], [0, 0, 1]]


def test_frames_may_be_any_frames() -> None:
    every = shares([0, 9, 20], range(30), 4)
    assert torch.equal(shares([0, 9, 20], range(3, 30, 5), 4), every[3::5])
    assert shares([0, 9], [-4, 100], 4).tolist() == [[1, 0], [0, 1]]


def test_in_a_loop_the_last_part_becomes_the_first() -> None:
    assert shares([0, 4], range(8), 1, around=8)[:, 0].tolist() == [1, 1, 1, 0.5, 0, 0, 0, 0.5]
    assert torch.equal(shares([0, 4, 9], range(8), 1, around=8), shares([0, 4, 9], range(8), 1))  # 9 never comes


@given(st.sets(st.integers(1, 60), max_size=6), st.integers(0, 20))
def test_shares_add_up_and_only_neighbours_mix(starts: set[int], transition: int) -> None:
    parts = shares([0, *sorted(starts)], range(70), transition)
    torch.testing.assert_close(parts.sum(1), torch.ones(70))
    assert (parts >= 0).all()
    for row in parts:
        mixed = row.nonzero().flatten().tolist()
        assert mixed in ([mixed[0]], [mixed[0], mixed[0] + 1])
    for part, start in enumerate([0, *sorted(starts)]):
        assert parts[start, part] == 1


# ---- contexts ----


def tower(tokens: Tensor) -> Tensor:
    """Vectors that tell the tokens, d = 6."""
    return torch.stack([(tokens * i).float().sin() for i in range(1, 7)], dim=-1)


def test_a_story_of_one_part_is_the_prompt() -> None:
    (only,) = contexts(["a calm sea"], 4, tower)
    assert told([only], [0], range(8), 4) is only


def test_frames_are_told_their_part_and_a_mixture_between() -> None:
    sea, storm = contexts(["a calm sea", "a storm"], 4, tower)
    context = told([sea, storm], [0, 4], range(8), 1).at(0)
    assert context.shape == (1, 8, 77, 6)
    for frame in range(8):
        share = 0.0 if frame < 3 else 0.5 if frame == 3 else 1.0
        assert_equal(context[:, frame], torch.lerp(sea.at(0), storm.at(0), share), tolerance=1e-6)


def test_frames_of_one_part_are_told_it_all_at_once() -> None:
    parts = contexts(["a calm sea", "a storm"], 4, tower)
    assert told(parts, [0, 8], range(7), 1) is parts[0]
    assert told(parts, [0, 8], range(8, 24), 1) is parts[1]
    assert isinstance(told(parts, [0, 8], range(7, 12), 1), Told)


def test_parts_of_unequal_length_are_told_with_the_same_number_of_tokens() -> None:
    parts = contexts(["a calm sea", "a storm BREAK with waves BREAK and ships"], 4, tower)
    assert told(parts, [0, 4], range(8), 0).at(0).shape == (1, 8, 3 * 77, 6)


def test_schedules_of_parts_keep_their_sampling_steps() -> None:
    parts = contexts(["a [calm:rough:0.5] sea", "a storm"], 4, tower)
    story = told(parts, [0, 4], range(8), 0)
    for step in range(4):
        assert_equal(story.at(step)[:, 0], parts[0].at(step), tolerance=0)
        assert_equal(story.at(step)[:, 7], parts[1].at(step), tolerance=0)
    assert not torch.equal(story.at(1)[:, 0], story.at(2)[:, 0])
    assert story.at(0) is story.at(1)


def test_a_story_is_told_in_the_precision_of_its_parts() -> None:
    (part,) = contexts(["a storm"], 4, lambda tokens: tower(tokens).half())
    assert Told([part, part], shares([0, 4], range(8), 2)).at(0).dtype == torch.float16
