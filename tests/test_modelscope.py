"""Model folders: from configuration.json and four files to networks, and from a name to a folder."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from t2v.errors import RequestError
from t2v.models import catalog, configuration, modelscope
from t2v.models.autoencoder import AutoencoderConfig
from t2v.models.configuration import Defaults, read_configuration
from t2v.models.unet import UNetConfig
from t2v.request import VideoRequest
from t2v.sampling import find_sampler
from t2v.schedule import find_spacing, linear, scaled_linear
from tests import fixtures
from tests.fixtures import CONTAINERS, PUBLISHED, make_model, one_clear_sentence, save_zip, states
from tests.networks import normal

UNET, VAE, CLIP = "text2video_pytorch_model.pth", "VQGAN_autoencoder.pth", "open_clip_pytorch_model.bin"


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    """A tiny model of a test's own, to spoil."""
    return Path(shutil.copytree(original, tmp_path / "tiny"))


def write(folder: Path, content: dict[str, Any]) -> None:
    (folder / "configuration.json").write_text(json.dumps(content))


# ---- a folder that is right ----


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("container", CONTAINERS)
def test_every_container_makes_the_same_model(container: str, dtype: torch.dtype, tmp_path: Path) -> None:
    model = modelscope.load(make_model(tmp_path / "tiny", container, dtype))
    for network, state in zip((model.unet, model.vae, model.text), states(dtype).values(), strict=True):
        assert network.state_dict().keys() == state.keys()
        assert all(torch.equal(network.state_dict()[key], state[key]) for key in state)
        assert not network.training
    assert model.hash == HASHES[dtype]


# Of the random weights in fixtures.py; a change here means that the hash of every model changes.
HASHES = {torch.float32: "a6a8c29d3c", torch.float16: "815c0f3bfc"}


def test_the_networks_run(original: Path) -> None:
    model = modelscope.load(original)
    with torch.inference_mode():
        context = model.text(torch.tensor([[49406, 320, 49407]]))
        x = model.unet(normal(1, 4, 2, 8, 8), torch.tensor([500.0]), context)
        frames = model.vae.decode(x[:, :, 0])
    assert context.shape == (1, 3, 32)
    assert frames.shape == (1, 3, 64, 64)
    assert frames.isfinite().all()


def test_what_the_model_says_of_itself(folder: Path) -> None:
    write(folder, fixtures.configuration(card="Coloured shapes.", schedule={"name": "linear", "beta_end": 0.02},
                                         defaults={"width": 64, "cfg_scale": 7.5, "spacing": "leading"}))
    model = modelscope.load(folder)
    assert (model.name, model.folder, model.card) == ("tiny", folder, "Coloured shapes.")
    assert modelscope.load(folder, "another").name == "another"
    assert model.defaults == {"width": 64, "height": 256, "frames": 16, "fps": 8.0, "steps": 50, "cfg_scale": 7.5,
                              "sampler": "DDIM", "spacing": "leading"}
    assert torch.equal(model.schedule.alphas, linear(0.00085, 0.02).alphas)
    assert catalog.describe(folder).items() >= {**model.defaults, "card": "Coloured shapes."}.items()


def test_the_published_configuration_is_the_default_of_everything(tmp_path: Path) -> None:
    (tmp_path / "configuration.json").write_text(PUBLISHED)
    found = read_configuration(tmp_path)
    assert found.unet == UNetConfig()
    assert found.vae == AutoencoderConfig()
    assert found.text is None
    assert found.defaults == Defaults()
    assert (found.files.ckpt_unet, found.files.ckpt_autoencoder, found.files.ckpt_clip) == (UNET, VAE, CLIP)
    assert found.latent_rgb == configuration.STABLE_DIFFUSION
    assert torch.equal(found.schedule().alphas, scaled_linear().alphas)
    assert found.schedule().prediction == "eps"
    (tmp_path / "configuration.json").unlink()
    assert read_configuration(tmp_path) == found


def test_the_defaults_fill_a_request() -> None:
    request = VideoRequest(prompt="a cat", steps=20).filled(vars(Defaults()))
    assert (request.width, request.frames, request.steps, request.cfg_scale) == (256, 16, 20, 9.0)
    find_sampler(Defaults().sampler)
    find_spacing(Defaults().spacing)


@pytest.mark.parametrize("prediction", ["eps", "v", "x0"])
def test_the_prediction_is_what_mean_type_says(prediction: str, tmp_path: Path) -> None:
    content = json.loads(PUBLISHED)
    content["model"]["model_cfg"]["mean_type"] = prediction
    write(tmp_path, content)
    assert read_configuration(tmp_path).schedule().prediction == prediction


def test_the_colours_of_the_preview_are_those_of_the_file(folder: Path) -> None:
    rows = [[0.5, -1, 2], [0, 0, 0], [1, 1, 1], [0.25, 0.5, 0.75], [-0.5, 0, 0.5]]
    write(folder, fixtures.configuration(latent_rgb=rows))
    assert modelscope.load(folder).projection.tolist() == rows


def test_latents_that_nobody_knows_the_colours_of_are_shown_in_grey(tmp_path: Path) -> None:
    content = fixtures.configuration(autoencoder={"ch": 32, "embed_dim": 8})
    content["model"]["model_cfg"] |= {"unet_in_dim": 8, "unet_out_dim": 8}
    write(tmp_path, content)
    assert read_configuration(tmp_path).latent_rgb == ((0.125,) * 3,) * 8 + ((0.0,) * 3,)


@pytest.mark.parametrize(("written", "meant"), [("True", True), (True, True), ("False", False), (False, False)])
def test_temporal_attention_may_be_text(written: Any, meant: bool, tmp_path: Path) -> None:
    content = json.loads(PUBLISHED)
    content["model"]["model_cfg"]["temporal_attention"] = written
    write(tmp_path, content)
    assert read_configuration(tmp_path).unet == UNetConfig(temporal_attention=meant)


def test_max_frames_is_how_long_a_film_is_by_default(tmp_path: Path) -> None:
    content = json.loads(PUBLISHED)
    content["model"]["model_args"]["max_frames"] = 24
    write(tmp_path, content)
    assert read_configuration(tmp_path).defaults == replace(Defaults(), frames=24)


def test_a_byte_order_mark_does_no_harm(tmp_path: Path) -> None:
    (tmp_path / "configuration.json").write_text(PUBLISHED, "utf-8-sig")
    assert read_configuration(tmp_path).unet == UNetConfig()


def test_a_file_in_another_format_is_found_under_its_name(folder: Path, original: Path) -> None:
    (folder / UNET).rename(folder / "text2video_pytorch_model.safetensors")
    (folder / CLIP).rename(folder / "open_clip_pytorch_model.ckpt")
    assert modelscope.load(folder).hash == modelscope.load(original).hash


def test_a_plain_autoencoder_with_its_training_losses_is_fine(folder: Path) -> None:
    save_zip(states()[VAE] | {"loss.logvar": torch.ones(1), "model_ema.decay": torch.ones(1)}, folder / VAE)
    modelscope.load(folder)


def test_a_whole_openclip_file_gives_its_text_half(folder: Path) -> None:
    others = {"visual.proj": torch.ones(3, 3), "logit_scale": torch.tensor(1.0), "text_projection": torch.ones(32, 32),
              "transformer.text_model.embeddings.position_ids": torch.arange(77)}
    save_zip(states()[CLIP] | others, folder / CLIP)
    modelscope.load(folder)


# ---- a folder that is wrong ----


def spoiled(change: Callable[[dict[str, Any]], Any]) -> str:
    content = fixtures.configuration()
    change(content)
    return json.dumps(content)


def cfg(**values: Any) -> str:
    return spoiled(lambda content: content["model"]["model_cfg"].update(values))


def ours(**values: Any) -> str:
    return spoiled(lambda content: content["t2v"].update(values))


BAD: dict[str, tuple[str, str]] = {
    "a web page": ("  <!DOCTYPE html><html>", "is a web page, not JSON"),
    "empty": ("", "is not valid JSON, line 1"),
    "cut off": (PUBLISHED[:400], "is not valid JSON, line 1"),
    "a list": ("[1]", "holds no JSON object"),
    "nested": ("[" * 50_000, "is not valid JSON"),
    "long": (" " * 200_000, "far too long"),
    "not an object": (spoiled(lambda content: content.update(model=3)), '"model" that is not a JSON object'),
    "null": (cfg(unet_dim=None), 'an impossible setting {"dim": null}'),
    "text": (cfg(unet_dim="wide"), 'an impossible setting {"dim": "wide"}'),
    "fraction": (cfg(unet_dim=320.5), 'an impossible setting {"dim": 320.5}'),
    "list for a number": (cfg(unet_dim=[320]), 'an impossible setting {"dim": .320'),
    "number for a list": (cfg(unet_dim_mult=1), 'an impossible setting {"dim_mult": '),
    "interpolation": (cfg(unet_dim="${oc.env:HOME}"), "which have no meaning"),
    "missing marker": (cfg(unet_dim="???"), "which have no meaning"),
    "no levels": (cfg(unet_dim_mult=[]), "unet_dim_mult"),
    "too many levels": (cfg(unet_dim_mult=[1] * 5000), 'an impossible setting {"dim_mult": '),
    "huge": (cfg(unet_dim=32 * 10**9), "unet_dim 32000000000, not from 32 to 4096"),
    "negative": (cfg(unet_res_blocks=-1), "unet_res_blocks -1, not from 1 to 8"),
    "zero heads": (cfg(unet_head_dim=0), "unet_head_dim 0, not from 1"),
    "not a multiple of 32": (cfg(unet_dim=48), "no multiple of 32"),
    "heads that do not divide": (cfg(unet_head_dim=24), "do not divide the width"),
    "context": (cfg(unet_context_dim=64), "unet_context_dim 64 beside a text tower of width 32"),
    "channels": (cfg(unet_in_dim=9), "9 to 4 channels beside latents of 4"),
    "prediction": (cfg(mean_type="epsilon"), "mean_type 'epsilon', not one of eps, v, x0"),
    "timesteps": (cfg(num_timesteps=1), "num_timesteps 1, not from 2"),
    "unknown block": (ours(default={}), 'unknown block "default"'),
    "unknown setting": (ours(text={"widht": 32}), 'an impossible setting {"widht": 32}'),
    "every layer left out": (ours(text={"width": 32, "heads": 2, "layers": 1, "skip_last": 1}), "every layer"),
    "small vocabulary": (ours(text={"width": 32, "heads": 2, "vocab_size": 10}), "vocab_size 10, not from 49408"),
    "scale": (ours(autoencoder={"scale_factor": 0}), r"scale_factor 0\.0, not from"),
    "infinite scale": (ours(autoencoder={"scale_factor": float("inf")}), "scale_factor inf"),
    "schedule": (ours(schedule={"name": "cosine"}), "its name is one of linear, scaled_linear"),
    "betas": (ours(schedule={"beta_start": 0.5}), "an impossible schedule"),
    "no colours": (ours(latent_rgb="grey"), "latent_rgb that is no list of .red, green, blue., each at most 1000"),
    "two to a colour": (ours(latent_rgb=[[0.1, 0.2]] * 5), "latent_rgb that is no list"),
    "a word for a colour": (ours(latent_rgb=[[0.1, 0.2, "x"]] * 5), "latent_rgb that is no list"),
    "a truth for a colour": (ours(latent_rgb=[[0.1, 0.2, True]] * 5), "latent_rgb that is no list"),
    "an infinite colour": (ours(latent_rgb=[[0, 0, float("inf")]] * 5), "latent_rgb that is no list"),
    "no number for a colour": (ours(latent_rgb=[[0, 0, float("nan")]] * 5), "latent_rgb that is no list"),
    "a colour beyond floats": (ours(latent_rgb=[[0, 0, 10**400]] * 5), "latent_rgb that is no list"),
    "colours without the last row": (ours(latent_rgb=[[0, 0, 0]] * 4), "has 4 rows in t2v.latent_rgb, not 4 for the"),
    "not a number": (ours(schedule={"beta_start": float("nan")}), "an impossible schedule"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_configuration_that_is_wrong_is_named_for_what_is_wrong(name: str, tmp_path: Path) -> None:
    text, words = BAD[name]
    (tmp_path / "configuration.json").write_text(text)
    with one_clear_sentence("configuration.json: .*" + words):
        read_configuration(tmp_path)


def test_a_configuration_that_is_no_text_or_no_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "configuration.json").write_bytes(b"\xff\xfe{\x00}\x00")
    with one_clear_sentence("configuration.json: is not text"):
        read_configuration(tmp_path)
    (tmp_path / "configuration.json").unlink()
    (tmp_path / "configuration.json").mkdir()
    with one_clear_sentence("configuration.json: is a folder, not a file"):
        read_configuration(tmp_path)


@pytest.mark.parametrize("name", ["../secret.pth", "/etc/passwd", "a/b.pth", "..", "", "./x"])
def test_weights_are_only_taken_from_the_model_folder(name: str, folder: Path) -> None:
    content = fixtures.configuration()
    content["model"]["model_args"]["ckpt_unet"] = name
    write(folder, content)
    with one_clear_sentence("no file of its own folder"):
        modelscope.load(folder)


@pytest.mark.parametrize("name", ["null\0byte", "a" * 5000, "нет.pth"])
def test_a_name_that_no_file_can_have_is_a_file_that_is_not_there(name: str, folder: Path) -> None:
    content = fixtures.configuration()
    content["model"]["model_args"]["ckpt_unet"] = name
    write(folder, content)
    modelscope.load(folder)  # whatever its name is, the UNet is there
    (folder / UNET).unlink()
    with one_clear_sentence("is not there|cannot be read"):
        modelscope.load(folder)


@pytest.mark.parametrize("name", [UNET, VAE, CLIP])
def test_a_missing_file_is_named(name: str, folder: Path) -> None:
    (folder / name).unlink()
    with one_clear_sentence(f"{name}: is not there. Put the file there"):
        modelscope.load(folder)


@pytest.mark.parametrize(("name", "other", "words"), [
    (UNET, CLIP, "looks like an OpenCLIP text tower, not like a text2video UNet"),
    (VAE, UNET, "looks like a text2video UNet, not like an autoencoder"),
    (CLIP, VAE, "looks like an autoencoder, not like an OpenCLIP text tower")])
def test_a_file_under_the_name_of_another_is_found_out(name: str, other: str, words: str, folder: Path) -> None:
    shutil.copy(folder / other, folder / name)
    with one_clear_sentence(f"{name}: {words}"):
        modelscope.load(folder)


def test_weights_of_another_size_are_found_out(folder: Path) -> None:
    content = fixtures.configuration()
    content["model"]["model_cfg"]["unet_dim"] = 64
    write(folder, content)
    with one_clear_sentence("time_embed.0.weight 128x32 instead of 256x64.*configuration.json and this file"):
        modelscope.load(folder)


# ---- from a name to a folder ----


@pytest.fixture
def models(original: Path, tmp_path: Path) -> list[Path]:
    """models/ModelScope/t2v, models/text2video/t2v and models/text2video/zeroscope beside what is no model."""
    parents = [tmp_path / "models" / "ModelScope", tmp_path / "models" / "text2video", tmp_path / "nowhere"]
    for folder in parents[0] / "t2v", parents[1] / "t2v":
        shutil.copytree(original, folder)
    (parents[1] / "zeroscope").mkdir()
    (parents[1] / "zeroscope" / "text2video_pytorch_model.safetensors").touch()
    (parents[1] / "empty").mkdir()
    (parents[1] / "file").touch()
    (parents[1] / "loop").symlink_to(parents[1] / "loop")
    return parents


def test_models_are_found_by_the_names_of_their_folders(
        models: list[Path], monkeypatch: pytest.MonkeyPatch, original: Path) -> None:
    monkeypatch.setattr(catalog, "DEMO", original)
    assert catalog.find_models(models) == {
        "tiny": original, "t2v": models[0] / "t2v", "text2video/t2v": models[1] / "t2v",
        "zeroscope": models[1] / "zeroscope"}


def test_a_name_opens_its_model_and_so_does_the_path_of_a_folder(models: list[Path], original: Path) -> None:
    assert catalog.find_model("t2v", models) == models[0] / "t2v"
    assert catalog.open_model("t2v", models).name == "t2v"
    assert catalog.open_model(str(original), []).name == "tiny"
    assert catalog.describe(original)["width"] == 64


@pytest.mark.parametrize("name", ["../ModelScope/t2v", "..", ".", "", "/etc", "t2v/", "T2V", "x\0y"])
def test_a_name_never_leads_out_of_the_folders(name: str, models: list[Path]) -> None:
    with pytest.raises(RequestError, match=r"model: there is no .*; there are: .*t2v, .*zeroscope"):
        catalog.find_model(name, models)


def test_an_absolute_path_is_no_name(models: list[Path], original: Path) -> None:
    with pytest.raises(RequestError):
        catalog.find_model(str(original), models)


def test_a_folder_without_a_model_says_what_it_needs(models: list[Path]) -> None:
    with one_clear_sentence("empty: holds no model. It needs configuration.json"):
        catalog.open_model(str(models[1] / "empty"), models)
    with pytest.raises(RequestError, match="there is no 'nothing'"):
        catalog.open_model("nothing", models)
    assert configuration.FILE == "configuration.json"
