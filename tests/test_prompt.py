"""What the prompt box means: the web UI's own examples, its emphasis formula, and the laws both should keep."""

import random
import time
from dataclasses import dataclass
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from t2v.prompt import Stage, TokenCount, contexts, count_tokens, emphasised, encode, schedule, sections
from t2v.tokenizer import END, START, clip_tokenizer


class Tower:
    """A stand-in for the text network, whose output depends on token, place and width; it counts what it encodes."""

    def __init__(self, width: int = 8, mean: float = 1.0) -> None:
        noise = torch.Generator().manual_seed(1)
        self.table = torch.randn(997, width, generator=noise) + mean
        self.place = torch.randn(77, width, generator=noise)
        self.rows: list[tuple[int, ...]] = []

    def __call__(self, tokens: Tensor) -> Tensor:
        self.rows += [tuple(row) for row in tokens.tolist()]
        return self.table[tokens % 997] + self.place


def tokens_of(text: str) -> Tensor:
    """One chunk of `text` as the text network reads it."""
    ids = clip_tokenizer().encode(text)
    return torch.tensor([[START, *ids, END] + [0] * (75 - len(ids))])


def spoken(prompt: str, steps: int) -> list[str]:
    """The text of `prompt` at every step."""
    stages = schedule(prompt, steps)
    return [next(stage.text for stage in stages if step < stage.until_step) for step in range(steps)]


def weighted(text: str) -> list[tuple[str, float]]:
    """The pieces of a text without BREAK."""
    [section] = sections(text)
    return [tuple(piece) for piece in section]


# ---- schedules ----


@pytest.mark.parametrize(("prompt", "stages"), [
    ("test", [(10, "test")]),
    ("", [(10, "")]),
    ("a [b:3]", [(3, "a "), (10, "a b")]),
    ("a [b: 3 ]", [(3, "a "), (10, "a b")]),
    ("a [b::3]", [(3, "a b"), (10, "a ")]),
    ("a [[[b]]:2]", [(2, "a "), (10, "a [[b]]")]),
    ("[(a:2):3]", [(3, ""), (10, "(a:2)")]),
    ("a [b : c : 1] d", [(1, "a b  d"), (10, "a  c  d")]),
    ("a[b:[c:d:2]:1]e", [(1, "abe"), (2, "ace"), (10, "ade")]),
    ("a [b:.5] c", [(5, "a  c"), (10, "a b c")]),
    ("((a][:b:c [d:3]", [(3, "((a][:b:c "), (10, "((a][:b:c d")]),
    ("[a:b:0.5] [c:d:5]", [(5, "a c"), (10, "b d")]),
    ("[a|b:c:5]", [(10, "[a|b:c:5]")]),
    ("[[a|b]:8]", [(8, ""), (9, "a"), (10, "b")]),
])
def test_the_schedules_of_the_web_ui_at_10_steps(prompt: str, stages: list[tuple[int, str]]) -> None:
    assert schedule(prompt, 10) == [Stage(*stage) for stage in stages]


def test_the_landscape_of_the_web_ui_at_100_steps() -> None:
    prompt = ("fantasy landscape with a [mountain:lake:0.25] and [an oak:a christmas tree:0.75]"
              "[ in foreground::0.6][ in background:0.25] [shoddy:masterful:0.5]")
    assert schedule(prompt, 100) == [
        (25, "fantasy landscape with a mountain and an oak in foreground shoddy"),
        (50, "fantasy landscape with a lake and an oak in foreground in background shoddy"),
        (60, "fantasy landscape with a lake and an oak in foreground in background masterful"),
        (75, "fantasy landscape with a lake and an oak in background masterful"),
        (100, "fantasy landscape with a lake and a christmas tree in background masterful"),
    ]


@pytest.mark.parametrize(("prompt", "texts"), [
    ("[a|(b:1.1)]", ["a", "(b:1.1)"]),
    ("[fe|]male", ["female", "male"]),
    ("[fe|||]male", ["female", "male", "male", "male"]),
    ("[a|b|c] [1|2]", ["a 1", "b 2", "c 1", "a 2", "b 1", "c 2"]),
    ("[a [x|y]|b]", ["a x", "b"]),
])
def test_alternatives_take_one_step_each(prompt: str, texts: list[str]) -> None:
    assert spoken(prompt, 13) == [texts[step % len(texts)] for step in range(13)]


@pytest.mark.parametrize(("time", "until"), [
    ("0", 0), ("1", 1), ("12", 12), ("19", 19), ("20", 20), ("21", 20), ("1e9999", 20), ("1e1", 10), ("-3", 0),
    ("0.0", 0), ("0.5", 10), (".5", 10), ("+.5", 10), ("0.29", 5), ("1.0", 20), ("3.", 20), ("0.01", 0), ("-0.5", 0),
])
def test_whole_numbers_are_steps_and_numbers_with_a_point_fractions(time: str, until: int) -> None:
    assert spoken(f"[a:b:{time}]", 20) == ["a"] * until + ["b"] * (20 - until)


@pytest.mark.parametrize("prompt", [
    "a [unbalanced", "unbalanced] a", "[a:b]", "[a:b:c]", "[a:b:c:3]", "(a:b:c)", "[a:b:3)", "(a:b:3]", "[a:(b:c:d):3]",
    "[a:b:3 4]", "[a:b:0x3]", "[a:b:\\3]", "[a:b:(3)]", "[a:(b]:3]", "[(a:b:3]", r"\[a:b:3]", r"[a:b:3\]", "a : b",
    "[a:b:3] | c", "(a|b) [c:d:3]", "[a:b:3] \\", "[a:b:3] \\\n", "\\", "][", ")(", "[", ":", "|", "[]", "()", "[[]]",
])
def test_what_is_no_schedule_is_taken_literally(prompt: str) -> None:
    assert schedule(prompt, 10) == [Stage(10, prompt)]


@pytest.mark.parametrize(("prompt", "later"), [
    (r"[a\:b:c\]:0]", r"c\]"), (r"[a\|b:0]", r"a\|b"), (r"\\[a:0]", r"\\a"), ("[a:(b:c):0]", "(b:c)"),
    ("[x:[a:b:0]]", "[x:b]"), ("(a:[b:0]:c)", "(a:b:c)"), ("[a:0])", "a)"), ("([a:0]", "(a"),
    ("[a:b:[3:0]]", "[a:b:3]"),
])
def test_schedules_inside_and_beside_literal_text(prompt: str, later: str) -> None:
    assert schedule(prompt, 10) == [Stage(10, later)]


@dataclass
class Phrase:
    """A prompt made from parts whose meaning is known: how it is typed, and what it says at each step of 12."""

    typed: str
    said: list[str]


def plain(text: str) -> Phrase:
    return Phrase(text, [text] * 12)


def joined(parts: list[Phrase]) -> Phrase:
    said = ["".join(part.said[step] for part in parts) for step in range(12)]
    return Phrase("".join(part.typed for part in parts), said)


def bracketed(inner: Phrase, opening: str, closing: str) -> Phrase:
    return joined([plain(opening), inner, plain(closing)])


def switched(before: Phrase, after: Phrase, step: int) -> Phrase:
    return Phrase(f"[{before.typed}:{after.typed}:{step}]", before.said[:step] + after.said[step:])


def alternated(choices: list[Phrase]) -> Phrase:
    said = [choices[step % len(choices)].said[step] for step in range(12)]
    return Phrase("[" + "|".join(choice.typed for choice in choices) + "]", said)


phrases = st.recursive(
    st.sampled_from(["cat", " ", "dog, ", "3", r"\(", r"\]", r"\|"]).map(plain),
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map(joined),
        st.builds(bracketed, inner, st.just("("), st.sampled_from([")", ":1.2)"])),
        st.builds(bracketed, inner, st.just("["), st.just("]")),
        st.builds(switched, inner, inner, st.integers(0, 12)),
        st.lists(inner, min_size=2, max_size=3).map(alternated),
    ),
    max_leaves=12,
)


@settings(deadline=None, max_examples=150, derandomize=True)
@given(phrases)
def test_nested_schedules_say_at_every_step_what_they_were_built_to_say(phrase: Phrase) -> None:
    assert spoken(phrase.typed, 12) == phrase.said


@settings(deadline=None, max_examples=150, derandomize=True)
@given(st.text("ab01. :|()[]\\,\n", max_size=40), st.integers(0, 30))
def test_any_text_has_a_schedule_that_covers_all_steps_and_only_lists_changes(prompt: str, steps: int) -> None:
    stages = schedule(prompt, steps)
    ends = [stage.until_step for stage in stages]
    assert ends == sorted(set(ends))
    assert ends[-1] == max(steps, 1)
    assert all(one.text != other.text for one, other in pairwise(stages))
    assert stages == schedule(prompt, steps)


# ---- emphasis ----


@pytest.mark.parametrize(("text", "pieces"), [
    ("normal text", [("normal text", 1.0)]),
    ("an (important) word", [("an ", 1.0), ("important", 1.1), (" word", 1.0)]),
    ("(unbalanced", [("unbalanced", 1.1)]),
    ("[unbalanced", [("unbalanced", 1 / 1.1)]),
    ("un) bal] anced", [("un) bal] anced", 1.0)]),
    (r"\(literal\]", [("(literal]", 1.0)]),
    (r"a\\b \c", [(r"a\b c", 1.0)]),
    ("(unnecessary)(parens)", [("unnecessaryparens", 1.1)]),
    ("[a]", [("a", 1 / 1.1)]),
    ("(a: 1.5 )", [("a", 1.5)]),
    ("(a:-.5)", [("a", -0.5)]),
    ("(a:0)", [("a", 0.0)]),
    ("[a:1.5]", [("a:1.5", 1 / 1.1)]),
    ("a:1.5)", [("a:1.5)", 1.0)]),
    ("(a:b:1.5)", [("a:b", 1.5)]),
    ("(a:1.2.3)", [("a:1.2.3", 1.1)]),
    ("(a:.)", [("a:.", 1.1)]),
    ("(a[b)c]", [("a", 1.1), ("b", 1.1 / 1.1), ("c", 1 / 1.1)]),
    ("a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).", [
        ("a ", 1.0), ("house", 1.3 * 1.1 * 1.1), (" ", 1.1), ("on", 1.0), (" a ", 1.1), ("hill", 0.55),
        (", sun, ", 1.1), ("sky", 1.1**4), (".", 1.1)]),
])
def test_the_emphasis_of_the_web_ui(text: str, pieces: list[tuple[str, float]]) -> None:
    found = weighted(text)
    assert [text for text, _ in found] == [text for text, _ in pieces]
    assert [weight for _, weight in found] == pytest.approx([weight for _, weight in pieces], rel=1e-12)


def test_break_begins_a_section_in_brackets_and_out_of_them() -> None:
    words = [[(text.strip(), weight) for text, weight in section if text.strip()] for section in
             sections("a BREAK (b BREAK c) BREAKER")]
    assert words == [[("a", 1.0)], [("b", 1.1)], [("c", 1.1), ("BREAKER", 1.0)]]


def test_weights_stay_finite_under_any_number_of_brackets() -> None:
    assert weighted("(" * 10_000 + "a") == [("a", 1000.0)]
    assert weighted("(a:" + "9" * 400 + ")") == [("a", 1000.0)]
    assert weighted("(a:-" + "9" * 400 + ")") == [("a", -1000.0)]


@settings(deadline=None, max_examples=150, derandomize=True)
@given(st.text("ab01. :()[]\\,\n", max_size=40))
def test_emphasis_loses_nothing_but_brackets_weights_and_backslashes(text: str) -> None:
    kept = "".join(word for word, _ in weighted(text))
    letters = iter(text)
    assert all(letter in letters for letter in kept), "what is kept comes in the order of the text"
    assert kept.count("a") == text.count("a")
    assert kept.count("b") == text.count("b")


# ---- hostile prompts ----


@pytest.mark.parametrize("prompt", [
    "(" * 10_000, "[" * 10_000, "]" * 10_000, "[" * 5_000 + "a" + "]" * 5_000, "(a" * 5_000 + ")" * 5_000,
    "[a:" * 5_000 + ":3]" * 5_000, "[a|" * 5_000 + "]" * 5_000, "[a:b:.5]" * 2_000, "[(|:" * 3_000, ":" * 10_000,
    "(a:" + "1" * 10_000, "[a:" + "1" * 10_000, "\\" * 10_001, " " * 10_000, "BREAK " * 2_000,
], ids=lambda prompt: prompt[:12])
def test_ten_thousand_brackets_take_no_more_than_moments(prompt: str) -> None:
    start = time.process_time()
    text = schedule(prompt, 30)[-1].text
    pieces = [piece for section in sections(text) for piece in section]
    assert all(abs(piece.weight) <= 1000 for piece in pieces)
    assert time.process_time() - start < 10


def test_deep_nesting_is_still_understood() -> None:
    deep = "[" * 5_000 + "cat" + "::5]" * 5_000
    assert schedule(deep, 10) == [(5, "cat"), (10, "")]


# ---- the counter ----


@pytest.mark.parametrize(("prompt", "count"), [
    ("", (0, 75)), ("a red circle", (3, 75)), ("(a:1.2) [red] circle", (3, 75)), ("cat " * 75, (75, 75)),
    ("cat " * 76, (76, 150)), ("cat BREAK dog dog", (77, 150)), ("[cat:cat dog bird:0.5]", (3, 75)),
    ("[" + "cat " * 80 + "::0.1]", (80, 150)),
])
def test_tokens_are_counted_at_their_most(prompt: str, count: tuple[int, int]) -> None:
    assert count_tokens(prompt) == TokenCount(*count)


# ---- encoding ----


def test_without_emphasis_the_context_is_the_output_of_the_text_network_to_the_bit() -> None:
    tower = Tower()
    context = encode("a photo of (a cat:1) and \\(a dog\\)", tower)
    assert context.shape == (1, 77, 8)
    assert torch.equal(context, tower(tokens_of("a photo of a cat and (a dog)")))


def test_chunks_are_encoded_together_and_stand_one_behind_the_other() -> None:
    tower = Tower()
    context = encode("cat BREAK dog BREAK bird", tower)
    assert context.shape == (1, 3 * 77, 8)
    expected = [tower(tokens_of(word)) for word in ("cat", "dog", "bird")]
    assert torch.equal(context, torch.cat(expected, dim=1))


def test_emphasis_follows_the_formula_of_the_web_ui() -> None:
    tower = Tower(width=64)
    plain_vectors = tower(tokens_of("a cat and a dog"))
    weights = torch.ones(77)
    weights[2], weights[5] = 1.3, 1 / 1.1
    scaled = plain_vectors * weights[:, None]
    context = encode("a (cat:1.3) and a [dog]", tower)
    torch.testing.assert_close(context, scaled * (plain_vectors.mean() / scaled.mean()))
    torch.testing.assert_close(encode("a (cat:1.3) and a [dog]", tower, restore_mean=False), scaled)


@pytest.mark.parametrize("text", ["(cat)", "a (cat:1.5), [[dog]]", "(all of it:3)", "(all of it:0.2)", "no (cat:0)"])
def test_emphasis_keeps_the_mean(text: str) -> None:
    words = " ".join(word for word, _ in weighted(text))
    tower = Tower(width=64)
    assert encode(text, tower).mean() == pytest.approx(tower(tokens_of(words)).mean().item(), rel=1e-5)


def test_only_the_chunks_with_emphasis_change() -> None:
    tower = Tower()
    context = encode("cat BREAK (dog:1.4)", tower)
    assert torch.equal(context[:, :77], tower(tokens_of("cat")))
    assert not torch.allclose(context[:, 77:], tower(tokens_of("dog")))


def test_there_is_no_mean_to_restore_where_vectors_cancel() -> None:
    weights = torch.ones(77)
    weights[3] = 1.2
    for seed in range(200):
        vectors = torch.randn(77, 16, generator=torch.Generator().manual_seed(seed))
        vectors -= vectors.mean() * (1 - 1e-3 * (seed % 3))
        result = emphasised(vectors, weights, restore_mean=True)
        factor = (result / (vectors * weights[:, None])).mean().item()
        assert 1 / 1.2 - 1e-5 <= factor <= 1.2 + 1e-5


def test_taking_the_loudest_word_away_does_not_make_the_others_shout() -> None:
    vectors, weights = torch.zeros(77, 16), torch.ones(77)
    vectors[0], vectors[3], weights[3] = 1e-4, 1.0, 0.0
    assert torch.equal(emphasised(vectors, weights, restore_mean=True)[0], vectors[0])


@pytest.mark.parametrize("weight", [0.0, -1.0, 1e-30, 1000.0, -1000.0])
def test_no_weight_makes_a_context_infinite_or_turns_its_sign(weight: float) -> None:
    weights = torch.ones(77)
    weights[1:60] = weight
    for mean in (-1.0, 0.0, 1.0):
        vectors = torch.randn(77, 16, generator=torch.Generator().manual_seed(0)) + mean
        result = emphasised(vectors, weights, restore_mean=True)
        assert result.isfinite().all()
        assert (result[0] * vectors[0] >= 0).all()
    assert torch.equal(emphasised(torch.zeros(77, 16), weights, restore_mean=True), torch.zeros(77, 16))


def test_half_precision_comes_back_as_half_precision() -> None:
    tower = Tower()
    context = encode("a (cat:1.3)", lambda tokens: tower(tokens).half())
    assert context.dtype == torch.float16
    torch.testing.assert_close(context.float(), encode("a (cat:1.3)", tower), atol=2e-3, rtol=2e-3)


# ---- contexts over the steps ----


def test_the_denoiser_finds_the_context_of_each_step() -> None:
    tower = Tower()
    [prompt] = contexts(["a [cat:dog:0.5]"], 10, tower)
    cat, dog = tower(tokens_of("a cat")), tower(tokens_of("a dog"))
    assert all(torch.equal(prompt.at(step), cat) for step in range(5))
    assert all(torch.equal(prompt.at(step), dog) for step in range(5, 10))
    assert prompt.at(10) is prompt.at(9), "a step behind the last has the last context"


def test_each_distinct_text_is_encoded_once() -> None:
    tower = Tower()
    positive, negative = contexts(["[cat|dog]", "dog"], 50, tower)
    assert len(tower.rows) == 2
    assert len(positive.contexts) == 50
    assert positive.at(0) is positive.at(2)
    assert positive.at(1) is negative.at(0)


def test_restoring_the_mean_can_be_switched_off_for_all_prompts() -> None:
    tower = Tower()
    [prompt] = contexts(["a (cat:1.4)"], 4, tower, restore_mean=False)
    assert torch.equal(prompt.at(0), encode("a (cat:1.4)", tower, restore_mean=False))
    assert not torch.equal(prompt.at(0), encode("a (cat:1.4)", tower))


def test_shorter_prompts_are_filled_up_with_empty_ones() -> None:
    tower = Tower()
    positive, negative = contexts(["[cat:cat BREAK dog BREAK bird:3]", "blurry"], 6, tower)
    empty = tower(tokens_of(""))
    assert {found.at(step).shape for found in (positive, negative) for step in range(6)} == {(1, 3 * 77, 8)}
    assert torch.equal(positive.at(0), torch.cat([tower(tokens_of("cat")), empty, empty], dim=1))
    assert torch.equal(negative.at(0), torch.cat([tower(tokens_of("blurry")), empty, empty], dim=1))
    assert torch.equal(positive.at(5), encode("cat BREAK dog BREAK bird", tower))


def test_the_same_prompts_give_the_same_contexts() -> None:
    words = ["cat", "(dog:1.2)", "[red:blue:0.3]", "BREAK", "[a|b]", ","]
    prompt = " ".join(random.Random(5).choices(words, k=60))
    [first], [second] = contexts([prompt], 8, Tower()), contexts([prompt], 8, Tower())
    assert first.until_steps == second.until_steps
    assert all(torch.equal(one, other) for one, other in zip(first.contexts, second.contexts, strict=True))
