"""One tiny model in every shape of folder that people have it in.

Names are those of tests/mappings.py, which was written apart from the package's own tables.
"""

import json
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from t2v.models.autoencoder import AutoencoderKL
from t2v.models.text import TextTower
from t2v.models.unet import UNet3D
from tests.fixtures import AUTOENCODER, DEFAULTS, TEXT, UNET, configuration, save_lightning, save_safetensors, save_zip
from tests.mappings import autoencoder_to_diffusers, text_to_transformers, unet_to_diffusers
from tests.networks import randomised

State = Mapping[str, Tensor]
EIGHT_HEADS = replace(UNET, num_heads=8)  # diffusers knows no other number
NAMES = {"unet": "text2video_pytorch_model.pth", "vae": "VQGAN_autoencoder.pth", "text": "open_clip_pytorch_model.bin"}
PREFIXES = {"unet": "model.diffusion_model.", "vae": "first_stage_model.", "text": "cond_stage_model.model."}


@cache
def weights(dtype: torch.dtype = torch.float32) -> dict[str, dict[str, Tensor]]:
    """The tiny model by its parts."""
    parts = {"unet": UNet3D(EIGHT_HEADS), "vae": AutoencoderKL(AUTOENCODER), "text": TextTower(TEXT)}
    return {part: {key: weight.to(dtype) for key, weight in randomised(network).state_dict().items()}
            for part, network in parts.items()}


def write_configuration(folder: Path, **ours: Any) -> None:
    """configuration.json of the tiny model."""
    content = configuration(**ours)
    content["model"]["model_cfg"]["unet_num_heads"] = 8
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "configuration.json").write_text(json.dumps(content))


def prefixed(prefix: str, state: State) -> dict[str, Tensor]:
    return {prefix + key: tensor for key, tensor in state.items()}


# ---- as published ----


def raw(folder: Path, dtype: torch.dtype, save: Callable[[State, Path], None] = save_zip,
        names: Mapping[str, str] = NAMES, change: Callable[[State], State] = dict) -> None:
    write_configuration(folder)
    for part, state in weights(dtype).items():
        save(change(state), folder / names[part])


def wrapped(state: State, path: Path, key: str) -> None:
    torch.save({"step": 3, key: OrderedDict(state), "optimizer": {"lr": 0.1}}, path)


def one_file(folder: Path, dtype: torch.dtype) -> None:
    write_configuration(folder)
    joint = {prefix + key: tensor for part, prefix in PREFIXES.items() for key, tensor in weights(dtype)[part].items()}
    save_safetensors(joint, folder / "everything.safetensors")


def whole_openclip(folder: Path, dtype: torch.dtype) -> None:
    raw(folder, dtype)
    others = {"visual.proj": torch.ones(3, 3), "visual.transformer.resblocks.0.ln_1.weight": torch.ones(3),
              "logit_scale": torch.tensor(1.0), "text_projection": torch.ones(32, 32),
              "transformer.text_model.embeddings.position_ids": torch.arange(77)}
    save_zip(weights(dtype)["text"] | others, folder / NAMES["text"])


# ---- as diffusers has them ----


def pipeline_states(dtype: torch.dtype) -> dict[str, dict[str, Tensor]]:
    made = weights(dtype)
    return {"unet": unet_to_diffusers(made["unet"], EIGHT_HEADS),
            "vae": autoencoder_to_diffusers(made["vae"], AUTOENCODER),
            "text_encoder": text_to_transformers(made["text"], TEXT.layers - TEXT.skip_last)}


def pipeline_configs(**scheduler: Any) -> dict[str, dict[str, Any]]:
    """The JSON files of the published pipeline, in the dimensions of the tiny model."""
    return {
        "model_index.json": {"_class_name": "TextToVideoSDPipeline", "unet": ["models.unet", "UNet3DConditionModel"]},
        "unet/config.json": {
            "_class_name": "UNet3DConditionModel", "act_fn": "silu", "attention_head_dim": 16,
            "block_out_channels": [32, 64], "cross_attention_dim": 32, "in_channels": 4, "out_channels": 4,
            "down_block_types": ["CrossAttnDownBlock3D"] * 2, "up_block_types": ["CrossAttnUpBlock3D"] * 2,
            "layers_per_block": 1, "norm_eps": 1e-05, "norm_num_groups": 32, "sample_size": 32},
        "vae/config.json": {
            "_class_name": "AutoencoderKL", "act_fn": "silu", "block_out_channels": [32] * 4, "in_channels": 3,
            "latent_channels": 4, "layers_per_block": 1, "norm_num_groups": 32, "out_channels": 3},
        "text_encoder/config.json": {
            "architectures": ["CLIPTextModel"], "hidden_act": "gelu", "hidden_size": 32, "intermediate_size": 128,
            "layer_norm_eps": 1e-05, "max_position_embeddings": 77, "num_attention_heads": 2, "num_hidden_layers": 1,
            "projection_dim": 512, "vocab_size": 49408},
        "scheduler/scheduler_config.json": {
            "_class_name": "DDIMScheduler", "beta_end": 0.012, "beta_schedule": "scaled_linear", "beta_start": 0.00085,
            "clip_sample": False, "num_train_timesteps": 1000, "prediction_type": "epsilon",
            "set_alpha_to_one": False, "steps_offset": 1, "trained_betas": None} | scheduler,
    }


def write_pipeline(folder: Path, dtype: torch.dtype = torch.float32, suffix: str = ".safetensors",
                   change: Callable[[str, State], State] = lambda _, state: state, parts: int = 1,
                   **scheduler: Any) -> None:
    """A diffusers folder, its weights in files that end in `suffix`, each in so many `parts`."""
    for name, content in pipeline_configs(**scheduler).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(content))
    (folder / "configuration.json").write_text(json.dumps({"t2v": {"defaults": DEFAULTS}}))
    save = save_safetensors if suffix.endswith(".safetensors") else save_zip
    for part, state in pipeline_states(dtype).items():
        stem = ("model" if suffix.endswith(".safetensors") else "pytorch_model") if part == "text_encoder" else (
            "diffusion_pytorch_model")
        state = change(part, state)
        if parts == 1:
            save(state, folder / part / (stem + suffix))
        else:
            write_shards(folder / part, state, stem, suffix, parts, save)


def write_shards(folder: Path, state: State, stem: str, suffix: str, parts: int,
                 save: Callable[[State, Path], None]) -> None:
    """The weights of one network in several files and an index, as save_pretrained writes them."""
    places = {key: f"{stem}-{1 + i % parts:05d}-of-{parts:05d}{suffix}" for i, key in enumerate(state)}
    for name in set(places.values()):
        save({key: tensor for key, tensor in state.items() if places[key] == name}, folder / name)
    index = {"metadata": {"total_size": 1}, "weight_map": places}
    (folder / f"{stem}{suffix}.index.json").write_text(json.dumps(index))


def of_old(part: str, state: State) -> State:
    """The names of diffusers 0.15 and transformers 4."""
    olden = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
    if part == "text_encoder":
        return prefixed("text_model.", state) | {"text_model.embeddings.position_ids": torch.arange(77)[None]}
    return {replaced(key, olden): tensor for key, tensor in state.items()} if part == "vae" else state


def replaced(text: str, words: Mapping[str, str]) -> str:
    for old, new in words.items():
        text = text.replace(old, new)
    return text


def both_precisions(folder: Path, dtype: torch.dtype) -> None:
    """As the published repositories are: fp16 beside fp32, pickles beside safetensors. fp16 is what is taken."""
    write_pipeline(folder, torch.float32, ".bin", lambda _, state: {key: 2 * tensor for key, tensor in state.items()})
    write_pipeline(folder, torch.float32, ".safetensors", lambda _, state: {k: 2 * v for k, v in state.items()})
    write_pipeline(folder, dtype, ".fp16.safetensors")


def mixed(folder: Path, dtype: torch.dtype) -> None:
    """A UNet of diffusers beside a plain autoencoder and transformers' text encoder, with names of no kind."""
    write_configuration(folder, text={"width": 32, "layers": 1, "heads": 2, "skip_last": 0})
    save_zip(pipeline_states(dtype)["unet"], folder / "network one.pt")
    save_file(dict(weights(dtype)["vae"]), folder / "vae-ft-mse-840000.safetensors")
    save_zip(prefixed("text_model.", pipeline_states(dtype)["text_encoder"]), folder / "слова.bin")


LAYOUTS: dict[str, Callable[[Path, torch.dtype], None]] = {
    "as published": raw,
    "safetensors": partial(raw, save=save_safetensors, names={part: f"{name.split('.')[0]}.safetensors"
                                                              for part, name in NAMES.items()}),
    "of other names": partial(raw, names={"unet": "zs2.ckpt", "vae": "vae.pt", "text": "モデル"}),
    "pickles that end in .safetensors": partial(raw, names={part: f"{part}.safetensors" for part in NAMES}),
    "behind module.": partial(raw, change=partial(prefixed, "module.")),
    "behind model.diffusion_model.": partial(raw, change=partial(prefixed, "model.diffusion_model.")),
    "inside state_dict": partial(raw, save=partial(wrapped, key="state_dict")),
    "inside model": partial(raw, save=partial(wrapped, key="model")),
    "from a trainer": partial(raw, save=save_lightning),
    "with the whole OpenCLIP": whole_openclip,
    "in one file": one_file,
    "diffusers, safetensors": write_pipeline,
    "diffusers, fp16.safetensors": partial(write_pipeline, suffix=".fp16.safetensors"),
    "diffusers, bin": partial(write_pipeline, suffix=".bin"),
    "diffusers, fp16.bin": partial(write_pipeline, suffix=".fp16.bin"),
    "diffusers, sharded": partial(write_pipeline, parts=3),
    "diffusers, sharded bin": partial(write_pipeline, suffix=".bin", parts=2),
    "diffusers, of old": partial(write_pipeline, suffix=".bin", change=of_old),
    "mixed": mixed,
}


# ---- as VideoCrafter has it ----


def videocrafter_state(unet: State, joint: bool = True, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """model.ckpt: three names of its own, matrices for temporal projections, and buffers of its schedule."""
    made: dict[str, Tensor] = {}
    for key, tensor in unet.items():
        name = re.sub(r"^(input_blocks\.\d+)\.op\.", r"\1.0.op.", key).replace("input_blocks.0.1.", "init_attn.0.")
        flat = tensor.ndim == 3 and not name.startswith("init_attn")
        made[PREFIXES["unet"] + name] = tensor.squeeze(-1) if flat else tensor
    buffers = {name: torch.linspace(1, 0.1, 1000) for name in ("betas", "alphas_cumprod", "scale_arr")}
    others = {PREFIXES[part] + key: tensor for part in ("vae", "text") for key, tensor in weights(dtype)[part].items()}
    return buffers | made | (others if joint else {})

