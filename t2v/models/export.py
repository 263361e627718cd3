"""A model as the files of a folder, not yet written: what each holds, and what it is called there.

    compact     as ModelScope lays a model out, in three files of safetensors that open at once
    published   the same in the containers and under the names of the published files, for programs that insist on them
    diffusers   a folder of diffusers' TextToVideoSDPipeline, tokenizer and all, with our own block beside it

What a layout has no words for ends in a ModelError: a model that comes back as another would be worse than none.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from torch import Tensor

from t2v.errors import ModelError
from t2v.models import Model
from t2v.models.autoencoder import AutoencoderConfig
from t2v.models.configuration import FILE, Configuration, Files
from t2v.models.dialects import diffusers_names, text_names
from t2v.models.diffusers_folder import FIRST_HEADS, PREDICTIONS, SAMPLERS
from t2v.models.text import TextConfig, TextTower
from t2v.models.unet import UNetConfig
from t2v.tokenizer import CHUNK, END, PAD, START, clip_tokenizer

WEIGHTS = "diffusion_pytorch_model.safetensors"
THEIR_PREDICTIONS = {ours: theirs for theirs, ours in PREDICTIONS.items()}
State = Mapping[str, Tensor]


@dataclass(frozen=True)
class Export:
    """Weight files and texts by their path in the folder; and what its configuration says, if it is one of ours."""

    weights: Mapping[str, State]
    texts: Mapping[str, str]
    configuration: Configuration | None = None


def compact(model: Model, made: Configuration) -> Export:
    """Without the last block of the text tower, if that is never used."""
    files = Files("text2video_pytorch_model.safetensors", "VQGAN_autoencoder.safetensors",
                  "open_clip_pytorch_model.safetensors", made.files.max_frames)
    config, text = used(model.text)
    return in_our_layout(model, replace(made, files=files, text=config), text)


def published(model: Model, made: Configuration) -> Export:
    """With all that the tower has."""
    made = replace(made, files=Files(max_frames=made.files.max_frames), text=model.text.config)
    return in_our_layout(model, made, model.text.state_dict())


def in_our_layout(model: Model, made: Configuration, text: State) -> Export:
    vae = model.vae.state_dict()
    if made.files.ckpt_autoencoder == Files.ckpt_autoencoder:  # where others look for the autoencoder in that file
        vae = {f"first_stage_model.{name}": tensor for name, tensor in vae.items()}
    weights = {made.files.ckpt_unet: model.unet.state_dict(), made.files.ckpt_autoencoder: vae,
               made.files.ckpt_clip: text}
    return Export(weights, {FILE: pretty(as_published(made))}, made)


def used(tower: TextTower) -> tuple[TextConfig, State]:
    """The tower without blocks at its end that nobody asks."""
    config = tower.config
    layers = config.layers - config.skip_last
    idle = tuple(f"transformer.resblocks.{number}." for number in range(layers, config.layers))
    state = {name: tensor for name, tensor in tower.state_dict().items() if not name.startswith(idle)}
    return replace(config, layers=layers, skip_last=0), state


def as_published(made: Configuration) -> dict[str, Any]:
    """configuration.json: what the published one says, and all the rest in our own block."""
    unet = {f"unet_{name}": value for name, value in asdict(made.unet).items() if name != "temporal_attention"}
    # Others compare with the text "True", and want the width of a conditioning and a dropout that are not used.
    unet |= {"temporal_attention": str(made.unet.temporal_attention), "unet_y_dim": 768, "unet_dropout": 0.1}
    kind = {"type": "latent-text-to-video-synthesis"}
    return {
        "framework": "pytorch", "task": "text-to-video-synthesis",
        "model": {**kind, "model_args": {**asdict(made.files), "tiny_gpu": 1},
                  "model_cfg": {**unet, **asdict(made.diffusion), "var_type": "fixed_small", "loss_type": "mse"}},
        "pipeline": kind,
        "t2v": own_block(made),
    }


def own_block(made: Configuration) -> dict[str, Any]:
    """What only we ask for."""
    return {
        "card": made.card, "defaults": asdict(made.defaults), "autoencoder": asdict(made.vae),
        "text": asdict(made.text or TextConfig()), "schedule": asdict(made.betas),
        "latent_rgb": [list(row) for row in made.latent_rgb]}


def pretty(content: Any) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


# ---- diffusers ----


def diffusers(model: Model, made: Configuration) -> Export:
    """ModelError where diffusers has no such network."""
    unet, vae = model.unet.config, model.vae.config
    problem = next((problem for wrong, problem in (*strange_unet(unet), *strange_vae(vae)) if wrong), "")
    problem = problem or ("whose noise is never rescaled" if made.betas.rescale != 1 else "")
    if problem:
        raise ModelError(model.folder, f"cannot be written for diffusers, {problem}", "Choose the compact layout")
    text, tower = used(model.text)
    return Export(
        {f"unet/{WEIGHTS}": renamed(model.unet.state_dict(), diffusers_names(model.unet)),
         f"vae/{WEIGHTS}": renamed(model.vae.state_dict(), diffusers_names(model.vae)),
         "text_encoder/model.safetensors": renamed(tower, {name: text_names(name) for name in tower}, "text_model.")},
        {FILE: pretty({"t2v": {key: own_block(made)[key] for key in ("card", "defaults", "latent_rgb")}}),
         "model_index.json": pretty(INDEX | {"scheduler": ["diffusers", scheduler_class(made)]}),
         "unet/config.json": pretty(unet_config(unet)),
         "vae/config.json": pretty(vae_config(vae)),
         "text_encoder/config.json": pretty(text_config(text)),
         "scheduler/scheduler_config.json": pretty(scheduler_config(made)),
         **tokenizer_files()})


def strange_unet(config: UNetConfig) -> list[tuple[bool, str]]:
    """Whether the UNet is one of those for which diffusers has no words, and why."""
    return [
        (config.num_heads != FIRST_HEADS, f"whose UNet begins with {FIRST_HEADS} heads, not {config.num_heads}"),
        (config.dim_mult[0] != 1, "whose UNet is as wide on the first level as before it"),
        (not config.temporal_attention, "whose UNet attends along time"),
        (config.fps > 0, "whose UNet is not told the frame rate"),
    ]


def strange_vae(config: AutoencoderConfig) -> list[tuple[bool, str]]:
    return [
        (config.ch_mult[0] != 1, "whose autoencoder is as wide on the first level as before it"),
        (config.z_channels != config.embed_dim, "whose autoencoder has one number of channels for latents"),
    ]


def renamed(state: State, names: Mapping[str, tuple[str, ...]], prefix: str = "") -> dict[str, Tensor]:
    """`state` by the names of diffusers; what it keeps apart is taken apart, and what it has as matrices is made so."""
    return {
        prefix + theirs: flat(name, piece)
        for name, tensor in state.items()
        for theirs, piece in zip(names[name], tensor.chunk(len(names[name])), strict=True)}


def flat(name: str, weight: Tensor) -> Tensor:
    """Kernels of length one along time, and those of 1x1 in the autoencoder's attention, without these axes."""
    return weight.flatten(1) if weight.ndim == 3 or (".attn_1." in name and weight.ndim == 4) else weight


def unet_config(config: UNetConfig) -> dict[str, Any]:
    attends = [0.5**level in config.attn_scales for level in range(len(config.dim_mult))]
    kinds = ["CrossAttn" if yes else "" for yes in attends]
    return {
        "_class_name": "UNet3DConditionModel", "act_fn": "silu", "attention_head_dim": config.head_dim,
        "block_out_channels": [config.dim * mult for mult in config.dim_mult],
        "cross_attention_dim": config.context_dim, "down_block_types": [f"{kind}DownBlock3D" for kind in kinds],
        "downsample_padding": 1, "in_channels": config.in_dim, "layers_per_block": config.res_blocks,
        "mid_block_scale_factor": 1, "norm_eps": 1e-5, "norm_num_groups": 32, "out_channels": config.out_dim,
        "sample_size": 32, "up_block_types": [f"{kind}UpBlock3D" for kind in reversed(kinds)]}


def vae_config(config: AutoencoderConfig) -> dict[str, Any]:
    levels = len(config.ch_mult)
    return {
        "_class_name": "AutoencoderKL", "act_fn": "silu",
        "block_out_channels": [config.ch * mult for mult in config.ch_mult],
        "down_block_types": ["DownEncoderBlock2D"] * levels, "in_channels": 3, "latent_channels": config.embed_dim,
        "layers_per_block": config.num_res_blocks, "norm_num_groups": 32, "out_channels": 3,
        "sample_size": 32 * 2 ** (levels - 1), "scaling_factor": config.scale_factor,
        "up_block_types": ["UpDecoderBlock2D"] * levels}


def text_config(config: TextConfig) -> dict[str, Any]:
    return {
        "architectures": ["CLIPTextModel"], "attention_dropout": 0.0, "bos_token_id": START, "eos_token_id": END,
        "hidden_act": "gelu", "hidden_size": config.width, "intermediate_size": 4 * config.width,
        "layer_norm_eps": 1e-5, "max_position_embeddings": config.context_length, "model_type": "clip_text_model",
        "num_attention_heads": config.heads, "num_hidden_layers": config.layers, "pad_token_id": PAD,
        "projection_dim": config.width, "vocab_size": config.vocab_size}


def scheduler_config(made: Configuration) -> dict[str, Any]:
    """The noise that the network was trained on, and the sampler that its makers chose, if diffusers has it."""
    betas, spacing = made.betas, made.defaults.spacing
    return {
        "_class_name": scheduler_class(made), "beta_end": betas.beta_end, "beta_schedule": betas.name,
        "beta_start": betas.beta_start, "clip_sample": False, "num_train_timesteps": made.diffusion.num_timesteps,
        "prediction_type": THEIR_PREDICTIONS[made.diffusion.mean_type],
        "rescale_betas_zero_snr": betas.zero_terminal_snr, "set_alpha_to_one": False, "steps_offset": 1,
        "timestep_spacing": spacing if spacing in ("linspace", "trailing") else "leading",
        "trained_betas": None, "use_karras_sigmas": spacing == "karras"}


def scheduler_class(made: Configuration) -> str:
    return next((theirs for theirs, (ours, _) in SAMPLERS.items() if ours == made.defaults.sampler), "DDIMScheduler")


def tokenizer_files() -> dict[str, str]:
    """CLIP's vocabulary as transformers' CLIPTokenizer reads it; it has other names for the two ends.

    Padding has a name of its own. Published folders call it "!", the word of that number, with the effect that every
    exclamation mark in a prompt is taken for padding.
    """
    ends = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>"}
    others = {"pad_token": "<|pad|>", "unk_token": ends["eos_token"]}
    ours: Any = clip_tokenizer()
    vocabulary = {word: number for word, number in ours.encoder.items() if number < START}
    vocabulary |= {ends["bos_token"]: START, ends["eos_token"]: END, others["pad_token"]: PAD}
    merges = [" ".join(pair) for pair in sorted(ours.bpe_ranks, key=ours.bpe_ranks.get)]
    return {f"tokenizer/{name}": text for name, text in {
        "vocab.json": json.dumps(vocabulary, ensure_ascii=False),
        "merges.txt": "\n".join(["#version: 0.2", *merges, ""]),
        "special_tokens_map.json": pretty(ends | others),
        "tokenizer_config.json": pretty({
            "tokenizer_class": "CLIPTokenizer", "model_max_length": CHUNK + 2, "do_lower_case": True,
            "add_prefix_space": False, "errors": "replace", **ends, **others}),
    }.items()}


INDEX = {
    "_class_name": "TextToVideoSDPipeline", "_diffusers_version": "0.18.0",
    "scheduler": ["diffusers", "DDIMScheduler"], "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"], "unet": ["diffusers", "UNet3DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}
LAYOUTS: dict[str, Callable[[Model, Configuration], Export]] = {
    "compact": compact, "diffusers": diffusers, "published": published}
