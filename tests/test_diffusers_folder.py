"""Folders that diffusers and transformers themselves have written, and what their configurations come to."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL as DiffusersAutoencoder
from diffusers import DDIMScheduler, UNet3DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

from t2v.models import catalog, dialects
from t2v.models.autoencoder import AutoencoderConfig, AutoencoderKL
from t2v.models.checkpoint import blank
from t2v.models.text import TextConfig, TextTower
from t2v.models.unet import UNet3D, UNetConfig
from t2v.sampling import find_sampler
from t2v.schedule import find_spacing
from tests import layouts
from tests.fixtures import one_clear_sentence
from tests.networks import assert_equal, normal, randomised

Change = Callable[[dict[str, Any]], None]


# ---- every name at full size ----


def full_size(kind: type[nn.Module]) -> nn.Module:
    """The network of others that ours of this kind is compared with, without numbers."""
    with torch.device("meta"):
        if kind is UNet3D:
            return UNet3DConditionModel()  # type: ignore[no-untyped-call]
        if kind is AutoencoderKL:
            return DiffusersAutoencoder(  # type: ignore[no-untyped-call]
                layers_per_block=2, block_out_channels=(128, 256, 512, 512),
                down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4)
        return CLIPTextModel(CLIPTextConfig(hidden_size=1024, intermediate_size=4096, num_hidden_layers=24))


@pytest.mark.parametrize(("ours", "count"), [
    (blank(UNet3D, UNetConfig()), 1480), (blank(AutoencoderKL, AutoencoderConfig()), 248),
    (blank(TextTower, TextConfig()), 292)], ids=["unet", "autoencoder", "text"])
def test_every_weight_has_one_name_there_and_the_same_shape(ours: Any, count: int) -> None:
    theirs = {key.removeprefix("text_model."): weight for key, weight in full_size(type(ours)).state_dict().items()
              if not key.endswith("position_ids")}
    table, expected = dialects.diffusers_names(ours), ours.state_dict()
    assert table.keys() == expected.keys()
    assert len(table) == count
    assert sorted(name for names in table.values() for name in names) == sorted(theirs)
    state = dialects.stacked({name: theirs[there] for name, there in dialects.wanted(list(theirs), ours).items()})
    assert {name: weight.numel() for name, weight in state.items()} == {
        name: weight.numel() for name, weight in expected.items()}
    flat = [name for name in state if state[name].shape != expected[name].shape]
    assert all(name.split(".")[-2] in ("proj_in", "proj_out", "q", "k", "v") for name in flat)


# ---- folders as save_pretrained writes them ----


@pytest.fixture(scope="module")
def theirs() -> dict[str, Any]:
    """Tiny networks of diffusers and transformers. Wider than 32, so that a group in a norm is more than a channel."""
    unet = UNet3DConditionModel(  # type: ignore[no-untyped-call]
        block_out_channels=(64, 128, 128), layers_per_block=1, cross_attention_dim=64, attention_head_dim=16,
        down_block_types=("CrossAttnDownBlock3D", "DownBlock3D", "CrossAttnDownBlock3D"),
        up_block_types=("CrossAttnUpBlock3D", "UpBlock3D", "CrossAttnUpBlock3D"))
    vae = DiffusersAutoencoder(  # type: ignore[no-untyped-call]
        layers_per_block=1, block_out_channels=(64, 64, 128), scaling_factor=0.2,
        down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3)
    text = CLIPTextModel(CLIPTextConfig(
        hidden_size=64, intermediate_size=256, num_hidden_layers=3, num_attention_heads=2, hidden_act="gelu",
        bos_token_id=49406, eos_token_id=49407, pad_token_id=0))
    return {"unet": randomised(unet), "vae": randomised(vae), "text_encoder": randomised(text)}


@pytest.mark.parametrize("how", [
    {}, {"variant": "fp16"}, {"safe_serialization": False}, {"safe_serialization": False, "variant": "fp16"},
    {"max_shard_size": "1MB"}, {"max_shard_size": "1MB", "variant": "fp16"}], ids=str)
def test_what_diffusers_saves_makes_the_same_here(how: dict[str, Any], theirs: dict[str, Any], tmp_path: Path) -> None:
    for part, network in theirs.items():
        known = {key: value for key, value in how.items() if part != "text_encoder" or key != "safe_serialization"}
        network.save_pretrained(tmp_path / "made" / part, **known)
    DDIMScheduler(clip_sample=False).save_pretrained(tmp_path / "made" / "scheduler")
    model = catalog.load_model(tmp_path / "made", "made")
    tokens = torch.tensor([[49406, 320, 1000, 49407]])
    with torch.inference_mode():
        context = model.text(tokens)
        assert_equal(context, theirs["text_encoder"](tokens).last_hidden_state)
        args = normal(1, 4, 3, 8, 8), torch.tensor([321]), context
        assert_equal(model.unet(*args), theirs["unet"](*args).sample)
        frames = normal(1, 3, 32, 32)
        assert_equal(model.vae.decode(args[0][:, :, 0] * 0.2), theirs["vae"].decode(args[0][:, :, 0]).sample)
        assert_equal(model.vae.encode(frames) / 0.2, theirs["vae"].encode(frames).latent_dist.mode())


# ---- the scheduler's word ----


def configured(folder: Path, **scheduler: Any) -> Any:
    layouts.write_pipeline(folder, **scheduler)
    return catalog.configured(folder)


@pytest.mark.parametrize(("theirs", "ours"), [("epsilon", "eps"), ("v_prediction", "v"), ("sample", "x0")])
def test_the_prediction_is_the_schedulers(theirs: str, ours: str, tmp_path: Path) -> None:
    assert configured(tmp_path / "made", prediction_type=theirs).schedule().prediction == ours


@pytest.mark.parametrize("values", [
    {}, {"beta_schedule": "linear", "beta_start": 0.0001, "beta_end": 0.02}, {"beta_schedule": "squaredcos_cap_v2"},
    {"num_train_timesteps": 500}, {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}], ids=str)
def test_the_noise_is_that_of_diffusers(values: dict[str, Any], tmp_path: Path) -> None:
    config = layouts.pipeline_configs(**values)["scheduler/scheduler_config.json"]
    expected = DDIMScheduler.from_config(config).alphas_cumprod.double()
    found = configured(tmp_path / "made", **values).schedule().alphas ** 2
    torch.testing.assert_close(found, expected, atol=2e-6, rtol=1e-4)


@pytest.mark.parametrize(("values", "sampler", "spacing"), [
    ({}, "DDIM", "modelscope"),
    ({"set_alpha_to_one": True}, "DDIM", "leading"),
    ({"timestep_spacing": "trailing"}, "DDIM", "trailing"),
    ({"_class_name": "DPMSolverMultistepScheduler"}, "DPM++ 2M", "linspace"),
    ({"_class_name": "DPMSolverMultistepScheduler", "use_karras_sigmas": True}, "DPM++ 2M", "karras"),
    ({"_class_name": "EulerAncestralDiscreteScheduler", "timestep_spacing": "leading"}, "Euler a", "leading"),
    ({"_class_name": "SomethingNew"}, "DDIM", "modelscope"),
])
def test_the_way_of_sampling_is_the_schedulers(
        values: dict[str, Any], sampler: str, spacing: str, tmp_path: Path) -> None:
    defaults = configured(tmp_path / "made", **values).defaults
    assert (defaults.sampler, defaults.spacing) == (sampler, spacing)
    find_sampler(defaults.sampler)
    find_spacing(defaults.spacing)


def test_a_configuration_of_ours_beside_them_has_the_last_word(tmp_path: Path) -> None:
    layouts.write_pipeline(tmp_path / "made", timestep_spacing="trailing")
    rows = [[0.1, 0.2, 0.3]] * 5
    block = {"t2v": {"card": "Mine.", "defaults": {"spacing": "karras", "frames": 3}, "latent_rgb": rows}}
    (tmp_path / "made" / "configuration.json").write_text(json.dumps(block))
    described = catalog.describe(tmp_path / "made")
    assert (described["card"], described["spacing"], described["frames"]) == ("Mine.", "karras", 3)
    assert catalog.configured(tmp_path / "made").latent_rgb == tuple(map(tuple, rows))


# ---- what is not there, or is not right ----


@pytest.mark.parametrize("missing", ["scheduler/scheduler_config.json", "model_index.json"])
def test_what_is_as_published_may_be_missing(missing: str, tmp_path: Path) -> None:
    layouts.write_pipeline(tmp_path / "made")
    (tmp_path / "made" / missing).unlink()
    assert catalog.load_model(tmp_path / "made", "made").schedule.prediction == "eps"


BAD: dict[str, tuple[str, dict[str, Any] | str, str]] = {
    "no JSON": ("unet/config.json", "{", "is not valid JSON"),
    "a web page": ("vae/config.json", " <html>", "is a web page"),
    "a list": ("scheduler/scheduler_config.json", "[]", "holds no JSON object"),
    "activation": ("unet/config.json", {"act_fn": "relu"}, "has act_fn relu, not silu"),
    "groups": ("unet/config.json", {"norm_num_groups": 16}, "has norm_num_groups 16, not 32"),
    "guidance embedding": ("unet/config.json", {"time_cond_proj_dim": 256}, "has time_cond_proj_dim 256, not None"),
    "blocks": ("unet/config.json", {"down_block_types": ["DownBlock2D"]}, "down_block_types that are not DownBlock3D"),
    "up": ("unet/config.json", {"up_block_types": ["UpBlock3D"] * 2}, "the other way round"),
    "widths": ("unet/config.json", {"block_out_channels": [64, 96]}, "no multiples of the first"),
    "widths of text": ("unet/config.json", {"block_out_channels": "wide"}, "no list of whole numbers"),
    "no widths": ("unet/config.json", {"block_out_channels": []}, "no list of whole numbers"),
    "huge": ("unet/config.json", {"block_out_channels": [32 * 10**9, 32 * 10**9]}, "not from 32 to 4096"),
    "heads": ("unet/config.json", {"attention_head_dim": 24}, "do not divide the width"),
    "context": ("unet/config.json", {"cross_attention_dim": 768}, "beside a text tower of width 32"),
    "quick": ("text_encoder/config.json", {"hidden_act": "quick_gelu"}, "has hidden_act quick_gelu, not gelu"),
    "narrow": ("text_encoder/config.json", {"intermediate_size": 64}, "has intermediate_size 64, not 128"),
    "shifted": ("vae/config.json", {"shift_factor": 0.1}, "has shift_factor 0.1, not None"),
    "prediction": ("scheduler/scheduler_config.json", {"prediction_type": "flow"}, "mean_type 'flow', not one of"),
    "betas": ("scheduler/scheduler_config.json", {"trained_betas": [0.1]}, "has trained_betas"),
    "schedule": ("scheduler/scheduler_config.json", {"beta_schedule": "sigmoid"}, "an impossible schedule"),
    "spacing": ("scheduler/scheduler_config.json", {"timestep_spacing": "odd"}, "has timestep_spacing 'odd', not one"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_configuration_that_is_wrong_is_named_for_what_is_wrong(name: str, tmp_path: Path) -> None:
    file, content, words = BAD[name]
    layouts.write_pipeline(tmp_path / "made")
    whole = content if isinstance(content, str) else json.dumps(layouts.pipeline_configs()[file] | content)
    (tmp_path / "made" / file).write_text(whole)
    with one_clear_sentence("config.json: .*" + words):
        catalog.load_model(tmp_path / "made", "made")


@pytest.mark.parametrize(("content", "words"), [
    (b"", "is empty"), (b"version https://git-lfs.github.com/spec/v1", "is a Git LFS pointer"),
    (b"<!DOCTYPE html>", "is a web page"), (b"\x10\0\0\0\0\0\0\0{", "is damaged or incomplete")])
@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_a_weight_file_that_is_none_is_named(part: str, content: bytes, words: str, tmp_path: Path) -> None:
    layouts.write_pipeline(tmp_path / "made")
    (path,) = (tmp_path / "made" / part).glob("*.safetensors")
    path.write_bytes(content)
    with one_clear_sentence(f"{part}/{path.name}: {words}"):
        catalog.load_model(tmp_path / "made", "made")


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_a_part_that_is_missing_is_named(part: str, tmp_path: Path) -> None:
    layouts.write_pipeline(tmp_path / "made")
    (path,) = (tmp_path / "made" / part).glob("*.safetensors")
    path.unlink()
    with one_clear_sentence(f"{part}/{path.name}: is not there"):
        catalog.load_model(tmp_path / "made", "made")
