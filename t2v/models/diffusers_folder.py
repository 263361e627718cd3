"""The folder of a diffusers pipeline: model_index.json, and a folder with a config.json for each part.

What the parts are called in model_index.json is not looked at: it names Python classes, and some name wrong ones.
"""

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from t2v.errors import ModelError
from t2v.models.autoencoder import AutoencoderConfig, AutoencoderKL
from t2v.models.configuration import (
    Betas,
    Configuration,
    Diffusion,
    Files,
    checked,
    read_configuration,
    section,
    usual_colours,
)
from t2v.models.contents import Contents, weight_files
from t2v.models.disk import read_json
from t2v.models.text import TextConfig, TextTower
from t2v.models.unet import UNet3D, UNetConfig
from t2v.models.variants import variant_of

INDEX = "model_index.json"
CONFIG = "config.json"
SCHEDULER = "scheduler/scheduler_config.json"
FIRST_HEADS = 8  # of the transformer before the first level, whatever the configuration says
Values = Mapping[str, Any]


def recognises(found: Contents) -> bool:
    """Whether a folder is meant to be a text-to-video pipeline of diffusers."""
    unet = os.path.isfile(found.path / "unet" / CONFIG)
    return unet and (bool(found.holding(UNet3D)) or os.path.isfile(found.path / INDEX))


def configure(found: Contents, _folders: Iterable[Path] = ()) -> Configuration:
    """What the configurations of the parts say, in our terms; as published, where there is none.

    A configuration.json of ours beside them may say what a film is like by default, and the colours of the preview.
    ModelError naming the file where one is broken, or asks for what this program cannot do.
    """
    variant = variant_of(found.path)
    diffusion, betas, sampling = said(found.path / SCHEDULER, scheduling)
    ours = read_configuration(found.path, {**(variant.defaults if variant else {}), **sampling})
    vae = said(found.path / "vae" / CONFIG, autoencoder)
    tower = found.path / "text_encoder" / CONFIG
    made = replace(
        ours,
        files=Files(named(found, UNet3D, "unet/diffusion_pytorch_model.safetensors"),
                    named(found, AutoencoderKL, "vae/diffusion_pytorch_model.safetensors"),
                    named(found, TextTower, "text_encoder/model.safetensors")),
        unet=said(found.path / "unet" / CONFIG, unet),
        vae=vae,
        text=said(tower, text) if tower.exists() else None,
        diffusion=diffusion,
        betas=betas,
        latent_rgb=ours.latent_rgb if len(ours.latent_rgb) == vae.embed_dim + 1 else usual_colours(vae.embed_dim),
    )
    try:
        return checked(made)
    except ValueError as error:
        raise ModelError(found.path / "unet" / CONFIG, str(error), "The parts must be of one model") from error


def said(path: Path, translate: Any) -> Any:
    """What a config.json comes to; what its absence comes to, where there is none."""
    content = read_json(path) if path.exists() else {}
    if not isinstance(content, dict):
        raise ModelError(path, "holds no JSON object", "Download it again")
    try:
        return translate(content)
    except ValueError as error:
        raise ModelError(path, str(error), "This program cannot use such a model") from error


def named(found: Contents, kind: type[nn.Module], usual: str) -> str:
    """The file of a part below the folder: also one that nobody recognises, for it deserves to be named."""
    folder = found.path / Path(usual).parent
    files = [path for path in found.holding(kind) if path.parent == folder] or weight_files(folder)
    return f"{folder.name}/{files[0].name}" if files else usual


def unet(values: Values) -> UNetConfig:
    """UNet3DConditionModel. ValueError where it is another network than ours."""
    demand(values, act_fn="silu", norm_num_groups=32, norm_eps=1e-5, downsample_padding=1, mid_block_scale_factor=1,
           class_embed_type=None, time_cond_proj_dim=None, num_attention_heads=None, flip_sin_to_cos=True, freq_shift=0)
    down = blocks(values, "down_block_types", "DownBlock3D")
    if down is not None and down[::-1] != blocks(values, "up_block_types", "UpBlock3D"):
        raise ValueError("has up_block_types that are not those of down_block_types the other way round")
    scales = {"attn_scales": [0.5**level for level, attends in enumerate(down) if attends]} if down else {}
    return section(UNetConfig, renamed(
        values, in_channels="in_dim", out_channels="out_dim", cross_attention_dim="context_dim",
        attention_head_dim="head_dim", layers_per_block="res_blocks") | widths(values, "dim", "dim_mult") | scales | {
            "num_heads": FIRST_HEADS})


def blocks(values: Values, key: str, plain: str) -> list[bool] | None:
    """Which levels look at the text; None where nothing is said."""
    kinds = values.get(key)
    if kinds is None:
        return None
    if not isinstance(kinds, list) or not set(map(str, kinds)) <= {plain, f"CrossAttn{plain}"}:
        raise ValueError(f"has {key} that are not {plain} or CrossAttn{plain}")
    return [kind != plain for kind in kinds]


def autoencoder(values: Values) -> AutoencoderConfig:
    """AutoencoderKL. ValueError where it is another network than ours."""
    demand(values, act_fn="silu", norm_num_groups=32, in_channels=3, out_channels=3, mid_block_add_attention=True,
           use_quant_conv=True, use_post_quant_conv=True, shift_factor=None, latents_mean=None)
    size = renamed(values, latent_channels="z_channels")
    return section(AutoencoderConfig, renamed(
        values, layers_per_block="num_res_blocks", latent_channels="embed_dim", scaling_factor="scale_factor",
    ) | size | widths(values, "ch", "ch_mult"))


def text(values: Values) -> TextConfig:
    """CLIPTextModel, whose configurations leave out what is as usual there. ValueError as ever."""
    values = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 12, "num_attention_heads": 8,
              "hidden_act": "quick_gelu", **values}
    demand(values, hidden_act="gelu", layer_norm_eps=1e-5)
    made = section(TextConfig, renamed(
        values, hidden_size="width", num_hidden_layers="layers", num_attention_heads="heads", vocab_size="vocab_size",
        max_position_embeddings="context_length") | {"skip_last": 0})
    demand(values, intermediate_size=4 * made.width)
    return made


def scheduling(values: Values) -> tuple[Diffusion, Betas, dict[str, Any]]:
    """What the network was trained on, and the sampler and spacing that its makers chose."""
    demand(values, trained_betas=None)
    prediction = values.get("prediction_type", "epsilon")
    diffusion = section(Diffusion, renamed(values, num_train_timesteps="num_timesteps") | {
        "mean_type": PREDICTIONS.get(prediction, prediction) if isinstance(prediction, str) else prediction})
    betas = section(Betas, renamed(values, beta_schedule="name", beta_start="beta_start", beta_end="beta_end",
                                   rescale_betas_zero_snr="zero_terminal_snr"))
    sampler, usual = SAMPLERS.get(str(values.get("_class_name")), ("DDIM", "leading"))
    spacing = str(values.get("timestep_spacing", usual))
    if values.get("use_karras_sigmas"):
        spacing = "karras"
    elif spacing == "leading" and sampler == "DDIM" and not values.get("set_alpha_to_one", False):
        spacing = "modelscope"
    if spacing not in SPACINGS:
        raise ValueError(f"has timestep_spacing {spacing[:40]!r}, not one of {', '.join(SPACINGS)}")
    return diffusion, betas, {"sampler": sampler, "spacing": spacing}


def demand(values: Values, **expected: Any) -> None:
    """ValueError where a value is there and another than the one that this program knows."""
    for key, wanted in expected.items():
        if values.get(key, wanted) != wanted:
            raise ValueError(f"has {key} {str(values[key])[:40]}, not {wanted}")


def renamed(values: Values, **names: str) -> dict[str, Any]:
    """Some of the values, by our names for them."""
    return {ours: values[theirs] for theirs, ours in names.items() if theirs in values}


def widths(values: Values, first: str, multiples: str) -> dict[str, Any]:
    """The widths of the levels as that of the first and multiples of it."""
    channels = values.get("block_out_channels")
    if channels is None:
        return {}
    if not isinstance(channels, list) or not all(type(n) is int and n > 0 for n in channels) or not channels:
        raise ValueError("has block_out_channels that are no list of whole numbers")
    if any(n % channels[0] for n in channels):
        raise ValueError("has block_out_channels that are no multiples of the first")
    return {first: channels[0], multiples: [n // channels[0] for n in channels]}


PREDICTIONS = {"epsilon": "eps", "v_prediction": "v", "sample": "x0"}
SPACINGS = ("modelscope", "leading", "linspace", "trailing", "karras")
SAMPLERS = {  # schedulers, what we call them, and how they space their steps if they are not told
    "DDIMScheduler": ("DDIM", "leading"),
    "DDPMScheduler": ("DDPM", "leading"),
    "EulerDiscreteScheduler": ("Euler", "linspace"),
    "EulerAncestralDiscreteScheduler": ("Euler a", "linspace"),
    "HeunDiscreteScheduler": ("Heun", "linspace"),
    "DPMSolverMultistepScheduler": ("DPM++ 2M", "linspace"),
    "DPMSolverSDEScheduler": ("DPM++ SDE", "linspace"),
    "UniPCMultistepScheduler": ("UniPC", "linspace"),
    "LCMScheduler": ("LCM", "leading"),
}
