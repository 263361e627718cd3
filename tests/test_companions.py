"""Films with LoRAs and learnt words, from the files in a host's folders to the frames and back to none."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from t2v.companions import companions
from t2v.errors import RequestError
from t2v.generate import Film, Watch, generate
from t2v.hosts.standalone import Standalone
from t2v.infotext import request_from
from t2v.models import Model
from t2v.models.library import files, find
from t2v.models.modelscope import load
from t2v.request import VideoRequest
from t2v.video import read_film, read_infotext
from tests.fixtures import make_model
from tests.loras import NAMED, drawn

REQUEST = VideoRequest(prompt="a red circle", model="tiny", width=64, height=64, frames=2, fps=8, steps=4, cfg_scale=3,
                       sampler="DDIM", spacing="trailing", seed=7, format="png")
UNET = {"input_blocks_1_1_transformer_blocks_0_attn1_to_v": (32, 32), "out_2": (4, 32, 3, 3)}
TEXT = {"text_encoder:encoder.layers.0.self_attn.v_proj": (32, 32)}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load(make_model(tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture
def host(tmp_path: Path) -> Standalone:
    """A host with a LoRA of the UNet, one of the text tower, and one that is a folder of PEFT's."""
    folder = tmp_path / "models" / "Lora"
    (folder / "few steps").mkdir(parents=True)
    NAMED["kohya.safetensors"](drawn(UNET), folder / "style.safetensors")
    NAMED["diffusers.safetensors"](drawn(TEXT), folder / "words.safetensors")
    NAMED["peft"](drawn({"conv_out": (4, 32, 3, 3)}), folder / "few steps" / "mcm-webvid")
    return Standalone(torch.device("cpu"), torch.float32, models=tmp_path / "models", outputs=tmp_path / "outputs")


def film_of(model: Model, host: Standalone, watch: Watch | None = None, **settings: Any) -> Film:
    (film,) = generate(replace(REQUEST, **settings), model, host, watch)
    return film


def frames(model: Model, host: Standalone, **settings: Any) -> Any:
    return np.stack(list(read_film(film_of(model, host, **settings).path)[1]))


def same(first: Any, second: Any) -> bool:
    return bool(np.array_equal(first, second))


@pytest.mark.parametrize("name", ["style", "words", "mcm-webvid"])
def test_a_lora_changes_the_film_and_leaves_nothing_behind(model: Model, host: Standalone, name: str) -> None:
    before = {key: (weight.data_ptr(), weight.clone()) for network in (model.unet, model.text)
              for key, weight in network.state_dict().items()}
    plain, changed = frames(model, host), frames(model, host, loras=name)
    assert not same(plain, changed)
    for network in (model.unet, model.text):
        for key, weight in network.state_dict().items():
            assert weight.data_ptr() == before[key][0]
            assert torch.equal(weight, before[key][1])
    assert same(plain, frames(model, host))
    assert same(changed, frames(model, host, loras=name))


def test_a_tag_and_the_field_say_the_same_and_are_added_up(model: Model, host: Standalone) -> None:
    field = frames(model, host, loras="style:0.6")
    assert same(field, frames(model, host, prompt="a red circle<lora:style:0.6>"))
    assert same(field, frames(model, host, prompt="a <lora:style:0.1:0.6>red circle"))
    assert same(field, frames(model, host, negative_prompt="<lora:style:0.6>"))
    assert same(frames(model, host, prompt="a red circle<lora:style:0.5>", loras="style:0.25"),
                frames(model, host, loras="style:0.5, style:0.25"))
    assert not same(field, frames(model, host, prompt="a red circle<lora:style:-0.6>"))


@pytest.mark.parametrize("nothing", ["style:0", "words:0, style:0@0,0@1", "style:1, style:-1"])
def test_a_lora_of_no_weight_makes_the_film_without_it(model: Model, host: Standalone, nothing: str) -> None:
    film = frames(model, host, loras=nothing)
    if "-1" in nothing:  # in sum only: float32 takes away what it added, but for a rounding
        assert np.abs(film.astype(int) - frames(model, host)).max() <= 1
    else:
        assert same(film, frames(model, host))


def test_a_strength_over_the_steps_begins_and_ends_where_it_says(model: Model, host: Standalone) -> None:
    plain, whole = frames(model, host), frames(model, host, loras="style")
    assert same(whole, frames(model, host, loras="style:1@0,1@1"))
    assert same(plain, frames(model, host, loras="style:0@0.75,1@1"))  # the last of four steps begins at 0.75
    part = frames(model, host, loras="style:0@0.5,1@0.5")
    assert not same(part, plain)
    assert not same(part, whole)


def test_a_film_tells_its_loras_as_they_were_typed(model: Model, host: Standalone) -> None:
    film = film_of(model, host, prompt="a cat, <lora:style:0@0,1@0.5>", loras="words:0.5, style:-0.2")
    request = request_from(read_infotext(film.path))
    assert request == film.request
    assert request.prompt == "a cat, <lora:style:0@0,1@0.5>"
    assert request.loras == "words:0.5, style:-0.2"
    assert "LoRAs" not in film_of(model, host).infotext


def test_few_steps_without_guidance_ask_the_network_once_a_step(model: Model, host: Standalone) -> None:
    """A motion consistency LoRA, as its makers use it."""
    calls: list[int] = []
    hook = model.unet.register_forward_hook(lambda *_: calls.append(1))
    try:
        frames(model, host, loras="mcm-webvid", sampler="LCM", spacing="lcm", cfg_scale=1, steps=4)
    finally:
        hook.remove()
    assert len(calls) == 4


class Silent(Watch):
    """Is to see nothing."""

    def tick(self, *_: object) -> None:  # type: ignore[override]
        raise AssertionError


@pytest.mark.parametrize(("loras", "words"), [
    ("stile", "there is no 'stile'; there are: few steps/mcm-webvid, style, words"),
    ("style:much", "'much' is no weight"),
    ("../../secret", r"there is no '\.\./\.\./secret'"),
])
def test_what_cannot_be_is_told_before_any_work(model: Model, host: Standalone, loras: str, words: str) -> None:
    with pytest.raises(RequestError, match=f"^loras: {words}"):
        film_of(model, host, Silent(), loras=loras)


# ---- files by name ----


def test_files_are_listed_by_their_paths_and_none_is_opened(tmp_path: Path) -> None:
    for name in ("a.safetensors", "A/b.pt", "A/b.safetensors", "A/c/v1.5-x.bin", "A/notes.txt", "P/adapter_config.json",
                 "P/adapter_model.safetensors"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "loop").symlink_to(tmp_path)
    found = {name: path for name, path in files([tmp_path, tmp_path / "missing"]).items() if "loop" not in name}
    assert found == {"a": tmp_path / "a.safetensors", "A/b": tmp_path / "A/b.safetensors",
                     "A/c/v1.5-x": tmp_path / "A/c/v1.5-x.bin", "P": tmp_path / "P"}


def test_a_file_is_found_by_its_name_its_path_and_in_either_spelling() -> None:
    found = {name: Path(name) for name in ("a", "x/a", "x/b", "y/b", "y/C", "y/v1.5")}
    for name, path in {"a": "a", "x/a": "x/a", "x\\a": "x/a", "x/b": "x/b", "C": "y/C", "c": "y/C",
                       "c.safetensors": "y/C", " v1.5 ": "y/v1.5", "v1.5.PT": "y/v1.5"}.items():
        assert find(name, found) == Path(path)
    with pytest.raises(RequestError, match="several files are called 'b'; write one of x/b, y/b"):
        find("b", found)
    for name in ("", "/", ".", "v1", "/etc/passwd"):
        with pytest.raises(RequestError, match="there is no"):
            find(name, found)
    with pytest.raises(RequestError, match="there are: none yet"):
        find("a", {})
    with pytest.raises(RequestError, match=r"there are: 0, .*, 11, \.\.\.$"):
        find("z", {str(number): Path() for number in range(99)})


def test_a_lora_that_is_asked_for_twice_is_read_once(model: Model, host: Standalone) -> None:
    first, second = companions(replace(REQUEST, loras="style, style:2"), model, host).loras
    assert first.lora is second.lora
    assert (first.unet.peak, second.unet.peak) == (1, 2)
