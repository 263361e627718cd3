"""configuration.json of a ModelScope folder: everything about a model but its weights.

What the published file leaves to the code (the autoencoder, the text tower, the schedule, the size and length of
a film, the colours of the preview) may stand in a block "t2v" of ours, which other programs ignore:

    "t2v": {"card": "Coloured shapes that move.",
            "defaults": {"width": 64, "height": 64, "frames": 8},
            "autoencoder": {"ch": 32, "ch_mult": [1, 1, 2, 2], "num_res_blocks": 1, "scale_factor": 0.18215},
            "text": {"width": 64, "layers": 2, "heads": 4, "skip_last": 1},
            "schedule": {"name": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
            "latent_rgb": [[0.4, 0.2, 0.3], [0.3, 0.5, 0.2], [-0.3, 0.2, 0.3], [-0.2, -0.3, -0.7], [0, 0, 0]]}

"latent_rgb" is for the preview: how red, green and blue each channel of the latents is, and in the last row the
colour of all zeros, -1 (dark) to 1. What is left out is as published, and so is a folder without the file.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar, cast, get_args

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from t2v.errors import ModelError
from t2v.models.autoencoder import AutoencoderConfig
from t2v.models.disk import read_json
from t2v.models.text import TextConfig
from t2v.models.unet import UNetConfig
from t2v.schedule import SCHEDULES, Prediction, Schedule, rescaled

FILE = "configuration.json"
Section = TypeVar("Section")
Colours = tuple[tuple[float, float, float], ...]


@dataclass(frozen=True)
class Files:
    """Names of the weight files, and how long a film is: `model_args`."""

    ckpt_unet: str = "text2video_pytorch_model.pth"
    ckpt_autoencoder: str = "VQGAN_autoencoder.pth"
    ckpt_clip: str = "open_clip_pytorch_model.bin"
    max_frames: int = 16


@dataclass(frozen=True)
class Diffusion:
    """What the UNet was trained to say, and on how many noise levels: part of `model_cfg`."""

    num_timesteps: int = 1000
    mean_type: str = "eps"


@dataclass(frozen=True)
class Betas:
    """Block "schedule": a name in SCHEDULES and its arguments."""

    name: str = "scaled_linear"
    beta_start: float = 0.00085
    beta_end: float = 0.012
    zero_terminal_snr: bool = False
    rescale: float = 1.0  # of the signal from timestep 400 on, see schedule.rescaled


@dataclass(frozen=True)
class Defaults:
    """Block "defaults": settings of a request, as ModelScope published them."""

    width: int = 256
    height: int = 256
    frames: int = 16
    fps: float = 8.0
    steps: int = 50
    cfg_scale: float = 9.0
    sampler: str = "DDIM"
    spacing: str = "modelscope"


@dataclass(frozen=True)
class Configuration:
    """What configuration.json says, completed and checked."""

    files: Files
    unet: UNetConfig
    vae: AutoencoderConfig
    text: TextConfig | None  # None: as published, with as many layers as the file has
    diffusion: Diffusion
    betas: Betas
    defaults: Defaults
    latent_rgb: Colours
    card: str
    notes: tuple[str, ...] = ()  # what was not as expected, and what was done about it

    def schedule(self) -> Schedule:
        """The noise that the UNet was trained on."""
        betas, prediction = self.betas, cast(Prediction, self.diffusion.mean_type)
        trained = SCHEDULES[betas.name](
            betas.beta_start, betas.beta_end, self.diffusion.num_timesteps, prediction, betas.zero_terminal_snr)
        return rescaled(trained, betas.rescale)


def read_configuration(folder: Path, usual: Mapping[str, Any] | None = None) -> Configuration:
    """The configuration of a model folder, with the `usual` defaults of such a model where the file says nothing.

    ModelError where the file is no such thing or asks for the impossible.
    """
    path = folder / FILE
    content = read_json(path) if path.exists() else {}
    try:
        return _configuration(content, usual or {})
    except ValueError as error:
        raise ModelError(path, str(error), "Correct it, or download it again") from error


def _configuration(content: Any, usual: Mapping[str, Any]) -> Configuration:
    """ValueError in words where something is wrong."""
    if not isinstance(content, dict):
        raise ValueError("holds no JSON object")
    model = _block(content, "model")
    arguments, values, ours = _block(model, "model_args"), _block(model, "model_cfg"), _block(content, "t2v")
    unknown = ours.keys() - {"card", "defaults", "autoencoder", "text", "schedule", "latent_rgb"}
    if unknown:
        raise ValueError(f"has an unknown block {json.dumps(min(unknown))[:60]} in its block \"t2v\"")
    files, vae = section(Files, _known(Files, arguments)), section(AutoencoderConfig, _block(ours, "autoencoder"))
    for name in (files.ckpt_unet, files.ckpt_autoencoder, files.ckpt_clip):
        if not name.strip(".") or name != Path(name).name:
            raise ValueError(f"names {name[:100]!r}, no file of its own folder")
    made = Configuration(
        files=files,
        unet=section(UNetConfig, _known(UNetConfig, {key.removeprefix("unet_"): values[key] for key in values})),
        vae=vae,
        text=section(TextConfig, _block(ours, "text")) if "text" in ours else None,
        diffusion=section(Diffusion, _known(Diffusion, values)),
        betas=section(Betas, _block(ours, "schedule")),
        defaults=section(Defaults, {"frames": files.max_frames, **usual, **_block(ours, "defaults")}),
        latent_rgb=_colours(ours["latent_rgb"]) if "latent_rgb" in ours else usual_colours(vae.embed_dim),
        card=str(ours.get("card", "")),
    )
    return checked(made)


def checked(made: Configuration) -> Configuration:
    """`made`, if a model can be so; ValueError in words otherwise."""
    for complaint in _complaints(made):
        raise ValueError(complaint)
    return made


def _block(parent: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The object called `name`, empty where there is none."""
    block = parent.get(name, {})
    if not isinstance(block, dict):
        raise ValueError(f'has a "{name}" that is not a JSON object')
    return block


def _known(section: type[Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """The values that a section has a field for: other programs' settings are none of our business."""
    return {spec.name: values[spec.name] for spec in fields(section) if spec.name in values}


def section(kind: type[Section], values: Mapping[str, Any]) -> Section:
    """`values` in the types of a section (the text "True" is True, as published), its defaults for what is missing."""
    if any(mark in json.dumps(values) for mark in ("${", "???")):
        raise ValueError("holds ${...} or ???, which have no meaning here")
    config = OmegaConf.structured(kind)
    for key, value in values.items():
        problem = ValueError(f"has an impossible setting {json.dumps({key: value})[:60]}")
        if isinstance(value, list) and len(value) > MAX_LEVELS:
            raise problem
        try:
            config = OmegaConf.merge(config, {key: value})
        except OmegaConfBaseException as error:
            raise problem from error
    made: Any = OmegaConf.to_object(config)
    tuples = {key: tuple(value) for key, value in vars(made).items() if isinstance(value, list)}
    return cast(Section, replace(made, **tuples))  # OmegaConf has made lists of them before version 2.4


def _colours(rows: Any) -> Colours:
    """The rows of "latent_rgb" as floats."""
    triples = isinstance(rows, list) and all(isinstance(row, list) and len(row) == 3 for row in rows)
    if not triples or not all(type(n) in (int, float) and abs(n) <= MAX_COLOUR for row in rows for n in row):
        raise ValueError(f"has a t2v.latent_rgb that is no list of [red, green, blue], each at most {MAX_COLOUR}")
    return tuple((float(red), float(green), float(blue)) for red, green, blue in rows)


def usual_colours(channels: int) -> Colours:
    """The colours of latents where the file names none: those of Stable Diffusion, or if these are others, grey."""
    if len(STABLE_DIFFUSION) == channels + 1:
        return STABLE_DIFFUSION
    return ((1 / channels,) * 3,) * channels + ((0.0,) * 3,)


def _complaints(made: Configuration) -> Iterator[str]:
    """What is wrong with a configuration whose types are right."""
    unet, vae, text = made.unet, made.vae, made.text or TextConfig()
    for name, section in {"unet_": unet, "t2v.autoencoder.": vae, "t2v.text.": text, "": made.diffusion}.items():
        for key, (low, high) in RANGES[type(section)].items():
            value = getattr(section, key)
            numbers = value if isinstance(value, tuple) else (value,)
            if not numbers or not all(low <= number <= high for number in numbers):
                yield f"has {name}{key} {str(value)[:40]}, not from {low} to {high}"
    if unet.dim % 32 or vae.ch % 32:
        yield "has a width that is no multiple of 32, the number of groups in each norm (unet_dim, t2v.autoencoder.ch)"
    if any(unet.dim * mult % unet.head_dim for mult in unet.dim_mult) or text.width % text.heads:
        yield "has attention heads that do not divide the width (unet_head_dim, t2v.text.heads)"
    if text.skip_last >= text.layers:
        yield "leaves out every layer of the text tower (t2v.text.skip_last)"
    if unet.context_dim != text.width:
        yield f"has unet_context_dim {unet.context_dim} beside a text tower of width {text.width} (t2v.text.width)"
    if not unet.in_dim == unet.out_dim == vae.embed_dim:
        yield f"has a UNet of {unet.in_dim} to {unet.out_dim} channels beside latents of {vae.embed_dim}"
    if len(made.latent_rgb) != vae.embed_dim + 1:
        yield f"has {len(made.latent_rgb)} rows in t2v.latent_rgb, not {vae.embed_dim} for the channels and one more"
    if made.diffusion.mean_type not in get_args(Prediction):
        yield f"has mean_type {made.diffusion.mean_type[:40]!r}, not one of {', '.join(get_args(Prediction))}"
    if not 0 < made.betas.rescale <= 1:
        yield f"has a t2v.schedule.rescale of {made.betas.rescale}, not above 0 and up to 1"
    if made.betas.name not in SCHEDULES or not 0 < made.betas.beta_start <= made.betas.beta_end < 1:
        yield f"has an impossible schedule; its name is one of {', '.join(SCHEDULES)} and its betas are between 0 and 1"


MAX_LEVELS = 8
MAX_COLOUR = 1000
# A fit that the community made for the latents of Stable Diffusion 1, whose autoencoder ModelScope uses as it is.
STABLE_DIFFUSION: Colours = (
    (0.3512, 0.2297, 0.3227), (0.3250, 0.4974, 0.2350), (-0.2829, 0.1762, 0.2721), (-0.2120, -0.2616, -0.7177),
    (0.0, 0.0, 0.0))
RANGES: dict[type[Any], dict[str, tuple[float, float]]] = {
    UNetConfig: {"dim": (32, 4096), "dim_mult": (1, 16), "res_blocks": (1, 8), "num_heads": (1, 64),
                 "head_dim": (1, 1024), "in_dim": (1, 64), "out_dim": (1, 64), "fps": (0, 240)},
    AutoencoderConfig: {"ch": (32, 1024), "ch_mult": (1, 16), "num_res_blocks": (1, 8), "z_channels": (1, 64),
                        "embed_dim": (1, 64), "scale_factor": (1e-6, 1e6)},
    # The tokenizer knows 49,408 tokens, and gives 77 at a time.
    TextConfig: {"width": (1, 8192), "layers": (1, 64), "heads": (1, 128), "skip_last": (0, 63),
                 "vocab_size": (49_408, 1_000_000), "context_length": (77, 4096)},
    Diffusion: {"num_timesteps": (2, 100_000)},
}
