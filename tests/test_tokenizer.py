"""Token ids against open_clip's own, and where a long prompt is cut."""

import importlib.util
import sys
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from t2v import tokenizer
from t2v.errors import ModelError
from t2v.tokenizer import (
    BACKTRACK,
    CHUNK,
    COMMA,
    END,
    PAD,
    START,
    Piece,
    chunks,
    clip_tokenizer,
    token_ids,
    token_weights,
    tokenizer_file,
)

CAT, DOG = 2368, 1929


def chunked(*sections: str) -> list[list[int]]:
    """The tokens of each chunk of some sections of weight 1."""
    parts = chunks([[Piece(section, 1.0)] for section in sections])
    return [[token for token, _ in part] for part in parts]


@pytest.fixture(scope="module")
def open_clip_tokenizer() -> ModuleType:
    """The reference: a second copy of open_clip's file, used through its own entry, `tokenize`."""
    spec = importlib.util.spec_from_file_location("reference_tokenizer", tokenizer_file())
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# ---- ids ----


def test_known_words_have_their_published_ids() -> None:
    assert clip_tokenizer().encode("a red circle") == [320, 736, 7117]
    assert clip_tokenizer().encode("cat DOG") == [CAT, DOG]


def test_the_constants_are_those_of_the_vocabulary() -> None:
    assert clip_tokenizer().encode("<start_of_text><end_of_text>,") == [START, END, COMMA]


@pytest.mark.parametrize("text", [
    "", "a red circle", "A Cat,  and (a dog) -- it's 3 o'clock!", "straße &amp; naïve &lt;b&gt;", "漢字 \U0001f600 ñ",
    "word " * 75, "\n\ttabs and lines\n",
])
def test_ids_of_a_short_prompt_are_those_of_open_clip(open_clip_tokenizer: ModuleType, text: str) -> None:
    [chunk] = chunks([[Piece(text, 1.0)]])
    assert [token_ids(chunk)] == open_clip_tokenizer.tokenize(text).tolist()


def test_an_empty_prompt_is_start_end_and_padding() -> None:
    assert [token_ids(chunk) for chunk in chunks([[]])] == [[START, END] + [PAD] * 75]


def test_decoding_gives_the_words_back() -> None:
    text = "a photo of an astronaut riding a horse on mars , 4 k !"
    assert clip_tokenizer().decode(clip_tokenizer().encode(text)).strip() == text


@settings(deadline=None, max_examples=200, derandomize=True)
@given(st.text(st.characters(exclude_categories=()), max_size=60))
def test_no_text_is_too_strange_to_tokenize(text: str) -> None:
    for chunk in chunks([[Piece(text, 1.0)]]):
        assert len(token_ids(chunk)) == len(token_weights(chunk)) == CHUNK + 2
        assert all(0 <= token <= END for token in token_ids(chunk))


# ---- chunks ----


def test_weights_stand_where_their_tokens_stand() -> None:
    [chunk] = chunks([[Piece("cat", 1.5), Piece("dog cat", 0.5)]])
    assert token_ids(chunk)[:5] == [START, CAT, DOG, CAT, END]
    assert token_weights(chunk) == [1.0, 1.5, 0.5, 0.5] + [1.0] * 73


def test_75_tokens_are_one_chunk_and_76_are_two() -> None:
    assert chunked("cat " * 75) == [[CAT] * 75]
    assert chunked("cat " * 76) == [[CAT] * 75, [CAT]]
    assert chunked("cat " * 151) == [[CAT] * 75, [CAT] * 75, [CAT]]


def test_a_phrase_behind_a_late_comma_moves_whole_into_the_next_chunk() -> None:
    assert chunked("cat " * 70 + ", " + "dog " * 10) == [[CAT] * 70 + [COMMA], [DOG] * 10]


@pytest.mark.parametrize(("behind", "moves"), [(0, True), (19, True), (20, False)])
def test_a_comma_counts_among_the_last_twenty_tokens_of_a_chunk(behind: int, moves: bool) -> None:
    first, second = chunked("cat " * (74 - behind) + ", " + "dog " * (behind + 1))
    assert first == [CAT] * (74 - behind) + [COMMA] + [DOG] * (0 if moves else behind)
    assert second == [DOG] * (behind + 1 if moves else 1)


def test_a_comma_that_no_longer_fits_begins_the_next_chunk() -> None:
    assert chunked("cat " * 60 + ", " + "cat " * 14 + ", dog") == [[CAT] * 60 + [COMMA] + [CAT] * 14, [COMMA, DOG]]


def test_moved_tokens_keep_their_weights() -> None:
    _, second = chunks([[Piece("cat " * 70 + ",", 1.0), Piece("dog " * 10, 1.2)]])
    assert second == [(DOG, 1.2)] * 10


def test_sections_begin_new_chunks_and_an_empty_last_one_none() -> None:
    assert chunked("cat", "dog") == [[CAT], [DOG]]
    assert chunked("cat", "") == [[CAT]]
    assert chunked("", "dog") == [[], [DOG]]
    assert chunked("cat", "", "dog") == [[CAT], [], [DOG]]
    assert chunked("", "") == [[]]


@settings(deadline=None, max_examples=100, derandomize=True)
@given(st.lists(st.sampled_from(["cat", "dog", ",", "red circle", "cat dog cat dog"]), max_size=200).map(" ".join))
def test_no_token_is_lost_or_doubled_however_a_prompt_is_cut(text: str) -> None:
    parts = chunked(text)
    assert [token for part in parts for token in part] == clip_tokenizer().encode(text)
    assert all(CHUNK - BACKTRACK < len(part) <= CHUNK for part in parts[:-1])


# ---- loading ----


def test_the_tokenizer_is_loaded_once() -> None:
    assert clip_tokenizer() is clip_tokenizer()


@pytest.fixture
def not_yet_loaded():
    clip_tokenizer.cache_clear()
    yield
    clip_tokenizer.cache_clear()


@pytest.mark.usefixtures("not_yet_loaded")
def test_loading_the_tokenizer_imports_neither_open_clip_nor_torchvision(monkeypatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] in ("open_clip", "torchvision")]:
        monkeypatch.delitem(sys.modules, name)
    clip_tokenizer()
    assert not {"open_clip", "torchvision"} & set(sys.modules)


@pytest.mark.usefixtures("not_yet_loaded")
def test_a_missing_open_clip_is_said_with_how_to_install_it(monkeypatch) -> None:
    monkeypatch.setattr(tokenizer.importlib.util, "find_spec", {"open_clip": None}.__getitem__)
    with pytest.raises(ModelError, match=r"open_clip_torch: .* not installed.*`pip install open_clip_torch"):
        clip_tokenizer()


def test_a_folder_that_is_merely_called_open_clip_does_not_count(monkeypatch, tmp_path) -> None:
    (tmp_path / "open_clip").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(ModelError, match="not installed"):
        tokenizer_file()


@pytest.mark.usefixtures("not_yet_loaded")
def test_a_package_that_the_tokenizer_misses_is_named(monkeypatch, tmp_path) -> None:
    file = tmp_path / "tokenizer.py"
    file.write_text("import a_package_nobody_has")
    monkeypatch.setattr(tokenizer, "tokenizer_file", lambda: file)
    with pytest.raises(ModelError, match="needs the Python package a_package_nobody_has"):
        clip_tokenizer()
