"""Weighted words to token ids, 75 at a time: the byte-pair vocabulary of CLIP (Radford et al. 2021, section 2.4).

The vocabulary comes with open_clip_torch. Its file `tokenizer.py` is loaded by itself: importing the whole package
would also import torchvision and every image model, which nothing here needs. Tried with 2.20 to 3.3.
"""

import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple, Protocol, cast

from t2v.errors import ModelError

START, END, PAD = 49406, 49407, 0  # OpenCLIP pads with 0, where OpenAI's CLIP repeats END
COMMA = 267
CHUNK = 75  # tokens of a chunk; with START and END around them the text network reads 77
BACKTRACK = 20  # the web UI's default: how near to the end of a full chunk a comma must be to end it there
REMEDY = "Install it with `pip install open_clip_torch ftfy regex`"


class Piece(NamedTuple):
    """Some text and how much it weighs, 1 being usual."""

    text: str
    weight: float


Chunk = list[tuple[int, float]]
"""Up to 75 tokens, each with its weight; without START, END and padding."""

Words = Mapping[tuple[int, ...], Sequence[int]]
"""Words learnt beside the vocabulary: the tokens of each in the vocabulary, and those that stand for it instead."""
NO_WORDS: Words = MappingProxyType({})


def chunks(sections: Sequence[Sequence[Piece]], words: Words = NO_WORDS) -> list[Chunk]:
    """The tokens of a prompt, at least one chunk. Each section begins a new one, unless nothing at all follows."""
    result = [chunk for section in sections for chunk in section_chunks(section, words)]
    return result[:-1] if len(result) > 1 and not result[-1] else result


def section_chunks(section: Sequence[Piece], words: Words) -> list[Chunk]:
    """The tokens of one section in as many chunks as they fill, at least one; a learnt word is never torn apart."""
    result: list[Chunk] = [[]]
    for piece in section:
        for tokens in with_words(clip_tokenizer().encode(piece.text), words):
            if len(result[-1]) == CHUNK:
                result.append([] if tokens[0] == COMMA else taken_after_comma(result[-1]))
            if len(result[-1]) + len(tokens) > CHUNK:
                result.append([])
            result[-1] += [(token, piece.weight) for token in tokens]
    return result


def with_words(tokens: Sequence[int], words: Words) -> Iterator[Sequence[int]]:
    """`tokens` one by one, or, where they spell one of `words` (the longest of them), all that stand for it."""
    lengths, start = sorted({len(word) for word in words}, reverse=True), 0
    while start < len(tokens):
        spelt = [tuple(tokens[start : start + length]) for length in lengths]
        word = next((word for word in spelt if word in words), None)
        yield words[word] if word else tokens[start : start + 1]
        start += len(word) if word else 1


def taken_after_comma(chunk: Chunk) -> Chunk:
    """Takes the phrase behind the last comma away from a full `chunk`, so that the next one has it whole."""
    for start in range(CHUNK, CHUNK - BACKTRACK, -1):
        if chunk[start - 1][0] == COMMA:
            phrase, chunk[start:] = chunk[start:], []
            return phrase
    return []


def token_ids(chunk: Chunk) -> list[int]:
    """The 77 numbers that the text network reads: START, the tokens, END, padding."""
    return [START, *(token for token, _ in chunk), END] + [PAD] * (CHUNK - len(chunk))


def token_weights(chunk: Chunk) -> list[float]:
    """The 77 weights that go with `token_ids`; START, END and padding always weigh 1."""
    return [1.0, *(weight for _, weight in chunk), 1.0] + [1.0] * (CHUNK - len(chunk))


class Tokenizer(Protocol):
    """What we use of open_clip's SimpleTokenizer. No text makes these methods raise."""

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`, without START and END; letter case, blanks and HTML escapes make no difference."""

    def decode(self, tokens: list[int]) -> str:
        """The text of token ids, a blank behind every word."""


@lru_cache(maxsize=1)
def clip_tokenizer() -> Tokenizer:
    """The tokenizer of every CLIP text network: loaded once (half a second), then kept. ModelError if not installed."""
    path = tokenizer_file()
    spec = importlib.util.spec_from_file_location("t2v_clip_tokenizer", path)
    assert spec and spec.loader, "a path that ends in .py has both"  # noqa: PT018
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except ModuleNotFoundError as missing:
        raise ModelError(path, f"this tokenizer needs the Python package {missing.name}", REMEDY) from missing
    return cast(Tokenizer, module.SimpleTokenizer())


def tokenizer_file() -> Path:
    """Where open_clip keeps its tokenizer; the package is looked up, but not imported."""
    package = importlib.util.find_spec("open_clip")
    for folder in (package and package.submodule_search_locations) or []:
        if (path := Path(folder, "tokenizer.py")).is_file():
            return path
    raise ModelError("open_clip_torch", "this Python package is not installed, and the tokenizer is in it", REMEDY)
