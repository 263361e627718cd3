"""A request survives being written as text, and other web UIs' texts are understood."""

import time
from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from t2v.errors import RequestError
from t2v.infotext import infotext, parse_infotext, request_from
from t2v.request import VideoRequest, value_type

WEB_UI = """girl with a beret, (big eyes:1.2), desert
by the sea
Negative prompt: ugly, fat
blurry
Steps: 20, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 7.5, Seed: 965400086, Size: 512x768, \
Model hash: 45dee52b, Model: v1-5, Lora hashes: "a: 1234, b: 5678", Denoising strength: 0.7, Version: v1.10.1"""

PREDECESSOR = """a cat
Negative prompt: text, watermark
steps: 30, frames: 24, seed: 7, scale: 17, width: 256, height: 320, eta: 0.0, cpu_vae: GPU (half precision), \
device: cuda, skip_steps: 0, strength: 1, is_vid2vid: 0, sampler: DDIM"""

DECEPTIVE = st.lists(st.sampled_from([
    "a red circle", "Negative prompt:", "Negative prompt: b", "\n", "Steps: 3, Sampler: x, Seed: 5", ", ", ": ", '"',
    "\\", "Prompt: ", " ", "\r\n", "Size: 8x8, FPS: 3, Eta: 1", "\0", "\ud83d", "🎈", "猫", "\x85", "\u2028"]),
    max_size=8)
ALL_TEXT = st.text(st.characters(), max_size=40) | DECEPTIVE.map("".join)


def any_value(spec: Any) -> st.SearchStrategy[Any]:
    limits, kind = spec.metadata, value_type(spec)
    if kind is str:
        values: st.SearchStrategy[Any] = ALL_TEXT
    elif kind is bool:
        values = st.booleans()
    elif kind is int:
        step = limits.get("multiple_of", 1)
        values = st.integers(-(-limits["ge"] // step), limits["le"] // step).map(lambda n: n * step)
    else:
        values = st.floats(limits["ge"], limits["le"])
    return st.none() | values if spec.default is None else values


REQUESTS = st.builds(VideoRequest, **{spec.name: any_value(spec) for spec in fields(VideoRequest)})


@settings(max_examples=150, deadline=None, derandomize=True)
@given(REQUESTS)
def test_every_request_comes_back_equal_from_a_text_that_any_file_can_store(request: VideoRequest) -> None:
    text = infotext(request)
    assert request_from(text) == request
    assert "\0" not in text
    assert text.encode().decode() == text


@settings(max_examples=50, deadline=None, derandomize=True)
@given(REQUESTS, ALL_TEXT)
def test_further_facts_do_not_disturb_the_request_and_can_be_read(request: VideoRequest, fact: str) -> None:
    text = infotext(request, model_hash=fact, frames_made=3)
    assert request_from(text) == request
    assert parse_infotext(text)["Model hash"] == fact
    assert parse_infotext(text)["Frames made"] == "3"


def test_the_text_looks_as_users_of_web_uis_know_it() -> None:
    request = VideoRequest(prompt="a red circle, (big:1.2)", negative_prompt="text, watermark", model="zeroscope",
                           width=256, height=320, frames=16, fps=8, steps=30, cfg_scale=9.0, sampler="ddim", seed=1)
    prompt, negative, line = infotext(request, model_hash="abcdef1234").split("\n")
    assert prompt == "a red circle, (big:1.2)"
    assert negative == "Negative prompt: text, watermark"
    assert line.startswith("Steps: 30, Sampler: ddim, CFG scale: 9, Seed: 1, Size: 256x320, Model: zeroscope, "
                           "Frames: 16, FPS: 8, ")
    assert ", Model hash: abcdef1234, Version: t2v " in line


def test_values_with_commas_colons_quotes_or_line_breaks_stand_in_json_quotes() -> None:
    line = infotext(VideoRequest(prompt="a", soundtrack='C:\\my, "music"\n.mp3')).split("\n")[-1]
    assert r'Soundtrack: "C:\\my, \"music\"\n.mp3"' in line


def test_only_a_prompt_that_would_be_misread_is_written_twice() -> None:
    assert "Prompt:" not in infotext(VideoRequest(prompt="a\nb: c, d: e, f: g\nStyle: 3", negative_prompt="x"))[1:]
    text = infotext(VideoRequest(prompt="a\nNegative prompt: b"))
    assert text.startswith("a\nNegative prompt: b\n")
    assert text.endswith(r'Prompt: "a\nNegative prompt: b", Negative prompt: ""')


def test_the_settings_of_a_web_uis_picture_are_understood_and_unknown_ones_passed_over() -> None:
    request = request_from(WEB_UI)
    assert request == VideoRequest(
        prompt="girl with a beret, (big eyes:1.2), desert\nby the sea", negative_prompt="ugly, fat\nblurry",
        steps=20, sampler="DPM++ 2M", cfg_scale=7.5, seed=965400086, width=512, height=768, model="v1-5")
    assert parse_infotext(WEB_UI)["Lora hashes"] == "a: 1234, b: 5678"


def test_the_settings_in_a_film_of_the_predecessor_are_understood() -> None:
    assert request_from(PREDECESSOR) == VideoRequest(
        prompt="a cat", negative_prompt="text, watermark", steps=30, frames=24, seed=7, cfg_scale=17, width=256,
        height=320, eta=0, sampler="DDIM", strength=1)


def test_a_text_without_settings_is_all_prompt() -> None:
    assert request_from("a cat: big, red\nin the sun") == VideoRequest(prompt="a cat: big, red\nin the sun")
    assert request_from("") == VideoRequest()
    assert request_from("Negative prompt: only this") == VideoRequest(negative_prompt="only this")


@pytest.mark.parametrize(("setting", "field"), [
    ("Steps: 0", "steps"), ("Steps: many", "steps"), ("Size: 513x512", "width"), ("Size: 512x8", "height"),
    ("Seed: 99999999999", "seed"), ("CFG scale: nan", "cfg_scale"), ("FPS: ", "fps"), ("Frames: 2.5", "frames")])
def test_a_setting_out_of_range_is_named(setting: str, field: str) -> None:
    with pytest.raises(RequestError) as caught:
        request_from(f"a cat\nFirst: 1, Second: 2, {setting}")
    assert caught.value.field == field


@settings(max_examples=100, deadline=None, derandomize=True)
@given(ALL_TEXT | st.text('":,\\ab \n'))
def test_any_text_is_parsed_without_an_error(text: str) -> None:
    parsed = parse_infotext(text)
    assert {"Prompt", "Negative prompt"} <= parsed.keys()
    assert all(isinstance(value, str) for value in parsed.values())


@pytest.mark.parametrize("unit", ["word ", 'a:"', '\\"', "Negative prompt:\n", "a: b, ", "a" * 99 + ":"])
def test_the_time_to_parse_a_text_grows_with_its_length_and_no_faster(unit: str) -> None:
    began = time.process_time()
    parse_infotext(unit * (300_000 // len(unit)))
    assert time.process_time() - began < 5  # a fraction of a second; the square of the length would take minutes
