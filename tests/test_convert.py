"""A model written again: the same weights in every layout, for us and for others, whole or not there at all."""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL as DiffusersAutoencoder
from diffusers import DiffusionPipeline, UNet3DConditionModel
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from t2v.cli import main
from t2v.convert import PRECISIONS, RESERVE, Watch, convert
from t2v.errors import ModelError, RequestError
from t2v.generate import generate
from t2v.hosts.standalone import Standalone
from t2v.models import Model, catalog, export, writing
from t2v.models.autoencoder import AutoencoderConfig, AutoencoderKL
from t2v.models.checkpoint import blank, read
from t2v.models.configuration import read_configuration
from t2v.models.text import TextConfig, TextTower
from t2v.models.unet import UNet3D, UNetConfig
from t2v.models.writing import blocks
from t2v.request import VideoRequest
from t2v.tokenizer import PAD, clip_tokenizer, token_ids
from t2v.video import read_film
from tests import layouts
from tests.fixtures import DEFAULTS
from tests.networks import normal
from tests.test_models_keys import published

PARTS = ("unet", "vae", "text")


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """The tiny model as published, in a folder that is looked after: nothing may change in it."""
    folder = tmp_path / "models" / "raw"
    layouts.raw(folder, torch.float32)
    ours = {**DEFAULTS, "sampler": "DPM++ 2M", "spacing": "trailing", "fps": 12.5}
    layouts.write_configuration(folder, card="Shapes.", defaults=ours)
    return folder


@pytest.fixture
def model(raw: Path) -> Model:
    return catalog.load_model(raw, "raw")


def used(network: nn.Module) -> dict[str, Tensor]:
    """The weights that have a say: all but those of blocks at the end of a text tower that are never asked."""
    config = getattr(network, "config", None)
    idle = range(config.layers - config.skip_last, config.layers) if isinstance(config, TextConfig) else ()
    return {name: weight for name, weight in network.state_dict().items()
            if not name.startswith(tuple(f"transformer.resblocks.{number}." for number in idle))}


def assert_same(model: Model, other: Model, dtype: torch.dtype | None = None) -> None:
    """`other` is `model` bit for bit, or `model` brought to `dtype`, and knows as much about itself."""
    for part in PARTS:
        ours, theirs = used(getattr(model, part)), used(getattr(other, part))
        assert ours.keys() == theirs.keys()
        for name, weight in ours.items():
            assert theirs[name].dtype == (dtype or weight.dtype)
            assert torch.equal(weight.to(dtype or weight.dtype), theirs[name]), name
    for table in ("alphas", "sigmas"):
        assert torch.equal(getattr(model.schedule, table), getattr(other.schedule, table))
    assert (model.schedule.prediction, model.defaults, model.card) == (
        other.schedule.prediction, other.defaults, other.card)
    assert torch.equal(model.projection, other.projection)
    assert model.unet.config == other.unet.config
    assert model.vae.config == other.vae.config


def digests(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in folder.rglob("*") if path.is_file()}


# ---- the same weights ----


@pytest.mark.parametrize("layout", export.LAYOUTS)
@pytest.mark.parametrize("source", [  # once loaded, all others are like one of these
    "as published", "from a trainer", "in one file", "mixed", "diffusers, fp16.safetensors", "diffusers, sharded bin"])
def test_any_layout_becomes_any_other_bit_for_bit(source: str, layout: str, tmp_path: Path) -> None:
    layouts.LAYOUTS[source](tmp_path / "source", torch.float16)
    model = catalog.load_model(tmp_path / "source", "source")
    before = digests(tmp_path / "source")
    target = convert(model, tmp_path / "target", layout, "keep")
    assert target == tmp_path / "target"
    assert_same(model, catalog.load_model(target, "target"))
    assert digests(tmp_path / "source") == before


@pytest.mark.parametrize("precision", PRECISIONS)
def test_there_and_back_the_files_are_the_same_to_the_last_byte(model: Model, tmp_path: Path, precision: str) -> None:
    model.text.config = replace(model.text.config, skip_last=0)  # so that nothing of the tower may be left out
    first = convert(model, tmp_path / "first", "published", precision)
    there = convert(catalog.load_model(tmp_path / "first", ""), tmp_path / "there", "diffusers", "keep")
    assert there is not None
    compact = convert(catalog.load_model(there, ""), tmp_path / "compact", "compact", "keep")
    assert compact is not None
    back = convert(catalog.load_model(compact, ""), tmp_path / "back", "published", "keep")
    assert first is not None
    assert back is not None
    assert digests(back) == digests(first)
    assert len(digests(back)) == 4


def test_half_precision_is_the_nearest_and_half_the_size(model: Model, tmp_path: Path) -> None:
    sizes = []
    for precision, dtype in PRECISIONS.items():
        target = convert(model, tmp_path / precision, "compact", precision)
        assert target is not None
        assert_same(model, catalog.load_model(target, ""), dtype)
        sizes.append((target / "text2video_pytorch_model.safetensors").stat().st_size)
    assert sizes[0] < 0.6 * sizes[1]


def test_the_compact_set_leaves_out_what_is_never_used(model: Model, tmp_path: Path) -> None:
    target = convert(model, tmp_path / "compact")
    assert target is not None
    assert model.text.config.skip_last == 1
    assert catalog.load_model(target, "").text.config == replace(model.text.config, layers=1, skip_last=0)


def test_videocrafter_survives_and_diffusers_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "vc"
    layouts.write_configuration(source)
    content = json.loads((source / "configuration.json").read_text())
    content["model"]["model_cfg"]["unet_fps"] = 28
    (source / "configuration.json").write_text(json.dumps(content))
    config = replace(layouts.EIGHT_HEADS, fps=28.0)
    unet = layouts.randomised(UNet3D(config)).state_dict()
    layouts.save_zip(layouts.videocrafter_state(unet), source / "model.ckpt")
    model = catalog.load_model(source, "vc")
    assert model.unet.config.fps == 28
    for layout in ("compact", "published"):
        target = convert(model, tmp_path / layout, layout, "keep")
        assert target is not None
        assert_same(model, catalog.load_model(target, ""))
    with pytest.raises(ModelError, match="not told the frame rate"):
        convert(model, tmp_path / "refused", "diffusers")
    assert not (tmp_path / "refused").exists()


@pytest.mark.parametrize("change", [
    {"num_heads": 2}, {"dim_mult": (2, 2)}, {"temporal_attention": False}])
def test_what_diffusers_has_no_words_for_is_refused(change: dict[str, Any], model: Model) -> None:
    model.unet.config = replace(model.unet.config, **change)
    with pytest.raises(ModelError, match="cannot be written for diffusers, whose"):
        export.diffusers(model, catalog.configured(model.folder))


# ---- for others ----


@pytest.mark.filterwarnings("ignore")
def test_diffusers_makes_the_same_film_of_what_was_written(model: Model, tmp_path: Path) -> None:
    folder = convert(model, tmp_path / "pipeline", "diffusers", "keep")
    pipeline = DiffusionPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    assert type(pipeline).__name__ == "TextToVideoSDPipeline"
    request = VideoRequest(prompt="a red circle!", negative_prompt="blurry", width=64, height=64, frames=4, fps=8,
                           steps=5, cfg_scale=9, sampler="DPM++ 2M", spacing="trailing", seed=7, format="png")
    host = Standalone(torch.device("cpu"), torch.float32, outputs=tmp_path / "films")
    (film,) = generate(request, model, host)
    noise = torch.randn(1, 4, 4, 8, 8, generator=torch.Generator().manual_seed(7))
    pictures = pipeline(request.prompt, negative_prompt="blurry", height=64, width=64, num_frames=4, output_type="np",
                        num_inference_steps=5, guidance_scale=9, latents=noise).frames[0]
    ours = np.stack(list(read_film(film.path)[1]))
    assert ours.std() > 10
    assert np.abs(ours - pictures * 255).max() <= 0.55  # half of it is ours to round


@cache
def their_tokenizer() -> CLIPTokenizer:
    with TemporaryDirectory() as folder:
        for name, text in export.tokenizer_files().items():
            (Path(folder) / Path(name).name).write_text(text, encoding="utf-8")
        return CLIPTokenizer.from_pretrained(folder)


@settings(max_examples=300, deadline=None)
@given(st.text(st.characters(min_codepoint=32, max_codepoint=126, exclude_characters="&"), max_size=40))
@example("Hello, WORLD!! it's 2023 !? a!b")
@example("日本語 🎉 café naïve Привет, мир!")
def test_the_tokenizer_for_diffusers_gives_our_numbers(text: str) -> None:
    assert their_tokenizer()(text, add_special_tokens=False).input_ids == clip_tokenizer().encode(text)


def test_the_tokenizer_for_diffusers_fills_up_as_we_do() -> None:
    for text in ("", "a red circle!", "word " * 100):
        tokens = clip_tokenizer().encode(text)[:75]
        theirs = their_tokenizer()(text, padding="max_length", truncation=True)
        assert theirs.input_ids == token_ids([(token, 1.0) for token in tokens])
    assert their_tokenizer().pad_token_id == PAD


@pytest.mark.parametrize("precision", ["keep", "fp16"])
def test_torch_and_safetensors_read_what_was_written(model: Model, tmp_path: Path, precision: str) -> None:
    convert(model, tmp_path / "p", "published", precision)
    convert(model, tmp_path / "c", "compact", precision)
    expected = {name: weight.to(PRECISIONS[precision] or weight.dtype)
                for name, weight in model.unet.state_dict().items()}
    theirs = torch.load(tmp_path / "p" / "text2video_pytorch_model.pth", weights_only=True)
    with safe_open(tmp_path / "c" / "text2video_pytorch_model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}
        for name, weight in expected.items():
            assert torch.equal(theirs[name], weight)
            assert torch.equal(file.get_tensor(name), weight)
    assert theirs.keys() == expected.keys() == read(tmp_path / "c" / "text2video_pytorch_model.safetensors").keys()
    vae = torch.load(tmp_path / "p" / "VQGAN_autoencoder.pth", weights_only=True)
    assert {name.partition(".")[0] for name in vae} == {"first_stage_model"}


@pytest.fixture(scope="module")
def full_size() -> Any:
    """The published model without its numbers."""
    unet, vae, text = blank(UNet3D, UNetConfig()), blank(AutoencoderKL, AutoencoderConfig()), blank(
        TextTower, TextConfig())
    return SimpleNamespace(folder=Path("full"), unet=unet, vae=vae, text=text)


def shapes(state: Any) -> dict[str, tuple[int, ...]]:
    return {name: tuple(weight.shape) for name, weight in state.items()}


def test_at_full_size_every_weight_has_its_place_in_diffusers(full_size: Any, tmp_path: Path) -> None:
    made = export.diffusers(full_size, read_configuration(tmp_path))
    with torch.device("meta"):
        unet = UNet3DConditionModel.from_config(json.loads(made.texts["unet/config.json"]))
        vae = DiffusersAutoencoder.from_config(json.loads(made.texts["vae/config.json"]))
        text = CLIPTextModel(CLIPTextConfig(**json.loads(made.texts["text_encoder/config.json"])))
    written = {name.partition("/")[0]: shapes(state) for name, state in made.weights.items()}
    assert written["unet"] == shapes(unet.state_dict())
    assert written["vae"] == shapes(vae.state_dict())
    assert {name.removeprefix("text_model.") for name in written["text_encoder"]} == {
        name.removeprefix("text_model.") for name in text.state_dict()}
    assert [len(state) for state in written.values()] == [1480, 248, 372]


def test_at_full_size_every_weight_has_its_published_name(full_size: Any, tmp_path: Path) -> None:
    made = export.published(full_size, read_configuration(tmp_path))
    unet, vae, text = made.weights.values()
    assert shapes(unet) == published("unet_raw")
    assert {name.partition(".")[2]: shape for name, shape in shapes(vae).items()} == published("vae_raw")
    assert shapes(text).items() <= published("open_clip_text").items()
    assert set(made.weights) == set(layouts.NAMES.values())


# ---- whole, or not there at all ----


def remains(folder: Path) -> set[str]:
    return set(os.listdir(folder)) - {"models"}


@pytest.mark.parametrize("there", [
    lambda path: path.mkdir(), lambda path: path.write_text("mine"), lambda path: path.symlink_to("nowhere")])
def test_nothing_is_overwritten(there: Callable[[Path], object], model: Model, tmp_path: Path) -> None:
    there(tmp_path / "mine")
    with pytest.raises(RequestError, match="is there already"):
        convert(model, tmp_path / "mine")
    assert remains(tmp_path) == {"mine"}
    if (tmp_path / "mine").is_file():
        assert (tmp_path / "mine").read_text() == "mine"


class Stopper(Watch):
    """Remembers what it is told, and stops after so many bytes."""

    def __init__(self, after: float = float("inf")) -> None:
        self.after, self.seen = after, list[tuple[int, int]]()

    def tick(self, done: int, total: int) -> None:
        self.seen.append((done, total))
        self.stopped = done > self.after


def test_progress_counts_every_byte_of_the_weights(model: Model, tmp_path: Path) -> None:
    watch = Stopper()
    folder = convert(model, tmp_path / "new", watch=watch)
    assert folder is not None
    done = [done for done, _ in watch.seen]
    assert done == sorted(done)
    size = 2 * sum(weight.numel() for part in PARTS for weight in used(getattr(model, part)).values())
    assert {total for _, total in watch.seen} == {size}
    assert done[-1] == size


@pytest.mark.parametrize("share", [0.0, 0.5, 0.999])
@pytest.mark.parametrize("layout", export.LAYOUTS)
def test_stopped_it_leaves_nothing(layout: str, share: float, model: Model, tmp_path: Path) -> None:
    total = sum(weight.nbytes for part in PARTS for weight in getattr(model, part).state_dict().values())
    watch = Stopper(share * total / 2.2)
    assert convert(model, tmp_path / "new", layout, watch=watch) is None
    assert len(watch.seen) >= 1
    assert remains(tmp_path) == set()


def test_while_it_is_written_nobody_takes_it_for_a_model(model: Model, tmp_path: Path) -> None:
    seen = set[str]()

    class Looker(Watch):
        def tick(self, done: int, total: int) -> None:  # noqa: ARG002
            seen.update(catalog.find_models([tmp_path]))

    convert(model, tmp_path / "new", watch=Looker())
    assert seen == {"demo", "raw"}
    assert set(catalog.find_models([tmp_path])) == {"demo", "raw", "new"}


def test_a_disk_without_room_is_said_before_anything_is_written(
        model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = 2 * sum(weight.numel() for part in PARTS for weight in used(getattr(model, part)).values())
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=size + RESERVE - 1))
    watch = Stopper()
    with pytest.raises(ModelError, match=r"needs .* MB, and the disk has"):
        convert(model, tmp_path / "new", watch=watch)
    assert not watch.seen
    assert remains(tmp_path) == set()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=size + RESERVE))
    assert convert(model, tmp_path / "new")


def test_a_disk_that_fills_up_leaves_nothing(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ModelError, match="No space left on device"):
        convert(model, tmp_path / "new")
    assert remains(tmp_path) == set()


def test_what_comes_back_another_is_thrown_away(
        model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def careless(*args: Any) -> None:
        for number, block in enumerate(blocks(args[3])):
            args[0].write((block.half() + (number == 0)).view(torch.uint8).numpy().data)

    monkeypatch.setattr(writing, "copy", careless)
    with pytest.raises(ModelError, match="does not survive"):
        convert(model, tmp_path / "new")
    assert remains(tmp_path) == set()


def test_numbers_that_half_precision_cannot_hold_are_not_made_infinite(model: Model, tmp_path: Path) -> None:
    weight = model.vae.decoder.conv_out.weight
    weight.data = torch.full_like(weight, 70_000.0)
    with pytest.raises(ModelError, match=r"cannot hold decoder\.conv_out\.weight.*float16"):
        convert(model, tmp_path / "new", "compact")
    assert remains(tmp_path) == set()
    assert convert(model, tmp_path / "new", precision="keep")


def test_eight_bits_pass_into_safetensors_and_not_into_pickles(tmp_path: Path) -> None:
    layouts.raw(tmp_path / "models" / "raw", torch.float8_e4m3fn, layouts.save_safetensors)
    model = catalog.load_model(tmp_path / "models" / "raw", "raw")
    target = convert(model, tmp_path / "compact", "compact", "keep")
    assert target is not None
    assert_same(model, catalog.load_model(target, ""))
    with pytest.raises(ModelError, match="cannot hold numbers of float8_e4m3fn"):
        convert(model, tmp_path / "published", "published", "keep")
    assert convert(model, tmp_path / "published", "published", "fp16")
    assert remains(tmp_path) == {"compact", "published"}


@pytest.mark.parametrize("arrange", [
    lambda x: x, lambda x: x.mT, lambda x: x[:, ::2], lambda x: x[0, 0], lambda x: x[:, :, :1].expand(-1, -1, 7)])
def test_tensors_go_in_blocks_in_the_order_of_their_numbers(
        arrange: Callable[[Tensor], Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "BLOCK", 10)
    tensor = arrange(normal(5, 4, 6))
    runs = list(blocks(tensor))
    assert torch.equal(torch.cat(runs), tensor.reshape(-1))
    assert max(map(len, runs)) <= 10


# ---- the command ----


def test_the_command_writes_a_model_that_can_be_named(
        raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "models" / "ModelScope" / "small"
    assert main(["convert", str(raw), str(target), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"folder": str(target)}
    assert "small" in catalog.find_models([target.parent])
    assert main(["convert", "small", str(tmp_path / "other"), "--to", "diffusers",
                 "--models-dir", str(tmp_path / "models")]) == 0
    assert (tmp_path / "other" / "model_index.json").is_file()


@pytest.mark.parametrize(("flags", "named"), [
    (["--to", "magic"], "to"), (["--precision", "fp3"], "precision"), ([], "target")])
def test_a_bad_order_is_one_line_and_exit_code_2(
        flags: list[str], named: str, raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "new" if flags else raw
    assert main(["convert", str(raw), str(target), *flags]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"t2v: {named}: ")
