r"""From the words in the prompt box to what the UNet attends to, in the syntax of AUTOMATIC1111's web UI 1.10.1.

    prompt ── schedule ──▶ texts ── sections ──▶ pieces ── chunks ──▶ tokens ── encode ──▶ context
                          by step              weighted           75 at a time        [1, 77 k, d]

    [a:b:0.5]  [a:b:12]   a, and b after half of the steps, after 12 steps; [b:0.5] adds, [a::0.5] takes away
    [a|b|c]               a, b, c, a, ... one step each
    (a)  (a:1.3)  [a]     a weighs 1.1, 1.3, 1/1.1; nested brackets multiply
    BREAK                 what follows begins a new chunk
    \( \) \[ \] \\        the character itself

No text is an error. A bracket without a partner is a letter to schedules, and emphasis up to the end of the prompt.
A `|` outside of [a|b], or a backslash at the end, switches off all schedules of a prompt. All this is as in the web
UI. We differ from it on purpose where it slips:
- [a:b:12] shows `a` for 12 steps; there for 13, because its loop counts from 0 and its schedule from 1.
- BREAK inside brackets is a BREAK; there it becomes a word of negative weight.
- (a:1.2.3) is `a:1.2.3` with the weight 1.1, and the time 1e999 is the last step; there both are exceptions.
- Weights end at 1000, so that no number of brackets makes infinity.
- Each text of a schedule restores its own mean; there all of them share one.
And two things are left to others: AND is a word like any other here, and <lora:...> is taken out before (extra.py).
"""

import re
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor

from t2v.extra import TAG
from t2v.tokenizer import CHUNK, NO_WORDS, Piece, Words, chunks, token_ids, token_weights

MAX_WEIGHT = 1000.0

# ---- prompt -> texts: schedules over the sampling steps ----


class Stage(NamedTuple):
    """`text` is what the prompt says at every step before `until_step`; steps count from 0."""

    until_step: int
    text: str


def schedule(prompt: str, steps: int) -> list[Stage]:
    """What `prompt` says during `steps` sampling steps: one stage for as long as it does not change."""
    items = parsed(prompt, steps)
    stages: list[Stage] = []
    for step in range(max(steps, 1)):
        text = text_at(items, step)
        if stages and stages[-1].text == text:
            stages.pop()
        stages.append(Stage(step + 1, text))
    return stages


@dataclass(frozen=True, eq=False)
class Switch:
    """A bracket that says something else from step `when` on, or another of its choices at each step (None)."""

    choices: list[list["Item"]]
    when: int | None = None

    def at(self, step: int) -> list["Item"]:
        return self.choices[step % len(self.choices) if self.when is None else int(step >= self.when)]


Item = str | Switch

SCHEDULE_TOKEN = re.compile(r"[^\\\[\]():|]+|\\.|[\[\]():|]")
TIME = re.compile(r"\s*([+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)\s*")


def text_at(items: Sequence[Item], step: int) -> str:
    """What `items` say at one step. A loop instead of a recursion: brackets may be nested without limit."""
    words: list[str] = []
    todo = list(reversed(items))
    while todo:
        item = todo.pop()
        if isinstance(item, str):
            words.append(item)
        else:
            todo.extend(reversed(item.at(step)))
    return "".join(words)


def parsed(prompt: str, steps: int) -> list[Item]:
    """`prompt` as letters and switches: all is letters until a bracket closes and turns out to mean something.

    Inside of a switch every bracket has to mean something, so one that does not makes letters of all still open.
    """
    tokens = SCHEDULE_TOKEN.findall(prompt)
    items: list[Item] = []
    opened: list[int] = []
    for token in tokens:
        items.append(token)
        if token in ("(", "["):
            opened.append(len(items) - 1)
        elif token in (")", "]") and opened:
            start = opened.pop()
            if switch := as_switch(items[start:], steps):
                items[start:] = [switch]
            else:
                opened.clear()
    stray_backslash = "".join(tokens) != prompt
    return [prompt] if stray_backslash or "|" in items else items


def as_switch(bracket: list[Item], steps: int) -> Switch | None:
    """What `bracket`, given with its opening and its closing character, means; None if it means nothing."""
    parts: list[list[Item]] = [[]]
    marks = ""
    for item in bracket[1:-1]:
        if isinstance(item, str) and item in (":", "|"):
            marks += item
            parts.append([])
        else:
            parts[-1].append(item)
    kind = f"{bracket[0]}{bracket[-1]}"
    if (kind in ("()", "[]") and not marks) or (kind == "()" and marks == ":"):
        return Switch([bracket])  # emphasis, which is read later: the same letters at every step
    if kind == "[]" and set(marks) == {"|"}:
        return Switch(parts)
    if kind == "[]" and marks in (":", "::") and (when := switching_step(parts.pop(), steps)) is not None:
        return Switch([[], *parts][-2:], when)
    return None


def switching_step(part: list[Item], steps: int) -> int | None:
    """When the later text comes: "12" after 12 steps; "0.5", with a point, after half of them; None if not a time."""
    time = TIME.fullmatch(part[0]) if len(part) == 1 and isinstance(part[0], str) else None
    if time is None:
        return None
    when = float(time[1]) * (steps if "." in time[1] else 1)
    return int(max(0, min(when, steps)))


# ---- text -> pieces: emphasis ----

EMPHASIS_TOKEN = re.compile(r"\\[()\[\]\\]?|[(\[]|:\s*([+-]?(?:\d+(?:\.\d*)?|\.\d+))\s*\)|[)\]]|[^\\()\[\]:]+|:")
BREAK = re.compile(r"\b(BREAK)\b")
OPENING = {")": "(", "]": "["}
FACTOR = {"(": 1.1, "[": 1 / 1.1}


def sections(text: str) -> list[list[Piece]]:
    """The weighted pieces of `text`, one list of them for each section between a BREAK and the next."""
    texts: list[str] = []
    weights: list[float] = []
    opened: dict[str, list[int]] = {"(": [], "[": []}  # where in `texts` the brackets still open begin

    def multiply(start: int, factor: float) -> None:
        weights[start:] = [weight * factor for weight in weights[start:]]

    for match in EMPHASIS_TOKEN.finditer(text):
        token = match[0]
        bracket = OPENING.get(token[-1], "") if token[0] != "\\" else ""
        if token in opened:
            opened[token].append(len(texts))
        elif opened.get(bracket):
            multiply(opened[bracket].pop(), float(match[1] or FACTOR[bracket]))
        else:
            texts += BREAK.split(token.removeprefix("\\"))
            weights += [1.0] * (len(texts) - len(weights))
    for bracket, starts in opened.items():
        for start in starts:
            multiply(start, FACTOR[bracket])
    return merged(texts, weights)


def merged(texts: Sequence[str], weights: Sequence[float]) -> list[list[Piece]]:
    """Neighbours of equal weight as one piece, in sections: "(un)(real)" is one word, as in the web UI."""
    result: list[list[Piece]] = [[]]
    runs = groupby(zip(texts, weights, strict=True), key=lambda pair: (pair[0] == "BREAK", pair[1]))
    for (is_break, weight), run in runs:
        if is_break:
            result.append([])
        else:
            limited = max(-MAX_WEIGHT, min(MAX_WEIGHT, weight))
            result[-1].append(Piece("".join(text for text, _ in run), limited))
    return result


# ---- pieces -> context ----


class TokenCount(NamedTuple):
    """How long a prompt is, and how long it may get before it needs one more chunk."""

    tokens: int
    limit: int


def count_tokens(prompt: str, steps: int = 20) -> TokenCount:
    """The length of `prompt` for the counter beside it, at its longest over the sampling steps."""
    variants = [chunks(sections(stage.text)) for stage in schedule(TAG.sub("", prompt), steps)]
    tokens = max(CHUNK * (len(variant) - 1) + len(variant[-1]) for variant in variants)
    return TokenCount(tokens, CHUNK * max(len(variant) for variant in variants))


Tower = Callable[[Tensor], Tensor]
"""The text network: token ids [k, 77] (int64, on the CPU) to their vectors [k, 77, d]."""


def encode(text: str, tower: Tower, restore_mean: bool = True, words: Words = NO_WORDS) -> Tensor:
    """`text` without schedules as a context [1, 77 k, d], its k chunks one after the other.

    Where nothing is emphasised this is exactly what `tower` returns. `restore_mean` chooses between the web UI's
    emphasis "Original" (True) and "No norm". `words` beyond the vocabulary are those that `tower` knows, too.
    """
    parts = chunks(sections(text), words)
    vectors = tower(torch.tensor([token_ids(part) for part in parts]))
    weights = torch.tensor([token_weights(part) for part in parts]).to(vectors.device)
    weighted = [emphasised(*chunk, restore_mean) for chunk in zip(vectors, weights, strict=True)]
    return rearrange(weighted, "k n d -> 1 (k n) d")


def emphasised(vectors: Tensor, weights: Tensor, restore_mean: bool) -> Tensor:
    """`vectors` [n, d] of one chunk times `weights` [n]; with `restore_mean` scaled back to the mean they had.

    The web UI multiplies by old mean / new mean. Where the vectors nearly cancel (as they do behind a layer norm
    that has hardly been trained) both means are chance, and their ratio may be huge or negative. Vectors of one sign
    keep it between 1 / largest weight and 1 / smallest weight. So beyond the wider of these two, up or down, there
    is no level to restore, and none is. Weights below 0.1 count as 0.1 in this.
    """
    if (weights == 1).all():
        return vectors
    scaled = vectors * weights[:, None]
    if restore_mean:
        ratio = vectors.to(scaled.dtype).mean() / scaled.mean()
        limit = torch.maximum(weights.abs().max(), 1 / weights.abs().min().clamp(min=0.1))
        scaled = scaled * torch.where((1 / limit <= ratio) & (ratio <= limit), ratio, 1.0)
    return scaled.to(vectors.dtype)


# ---- prompts -> the context of every step ----


@dataclass(frozen=True)
class Contexts:
    """One prompt over all steps: `contexts[i]` [1, n, d] holds before step `until_steps[i]`, n being always the same.

    Steps of equal text share one tensor object, so that `is` tells whether anything changed.
    """

    until_steps: list[int]
    contexts: list[Tensor]

    def at(self, step: int) -> Tensor:
        """The context of a step, counted from 0; the last one for all steps after the end."""
        return self.contexts[min(bisect_right(self.until_steps, step), len(self.contexts) - 1)]


def contexts(
    prompts: Sequence[str], steps: int, tower: Tower, restore_mean: bool = True, words: Words = NO_WORDS
) -> list[Contexts]:
    """The contexts of several prompts, as in `positive, negative = contexts([prompt, negative_prompt], 30, tower)`.

    Each distinct text is encoded once. All get the same n: shorter ones are filled up with empty prompts.
    """
    schedules = [schedule(prompt, steps) for prompt in prompts]
    texts = dict.fromkeys(stage.text for stages in schedules for stage in stages)
    encoded = {text: encode(text, tower, restore_mean, words) for text in texts}
    length = max(context.shape[1] for context in encoded.values())
    if any(context.shape[1] < length for context in encoded.values()):
        empty = encode("", tower)
        encoded = {text: lengthened(context, empty, length) for text, context in encoded.items()}
    return [Contexts([until for until, _ in stages], [encoded[text] for _, text in stages]) for stages in schedules]


def lengthened(context: Tensor, empty: Tensor, length: int) -> Tensor:
    """`context` [1, n, d] with copies of `empty` [1, 77, d] behind it, up to n = `length`."""
    missing = (length - context.shape[1]) // empty.shape[1]
    return torch.cat([context, empty.repeat(1, missing, 1)], dim=1)
