"""Every setting of a film: its meaning, its limits, its default.

`VideoRequest` is the one place where a setting is defined. The flags of the command line, the fields of
the API, the controls of the tab and the settings written into a film are all derived from its fields.

A setting whose default is None belongs to the model (a film of 256x256 for ModelScope, 64x64 for the demo):
`filled` puts the model's own value there. Nothing here knows a model, a sampler or a framework, and
annotations stay real types (no `from __future__ import annotations`), because FastAPI reads them.
"""

import random
import reprlib
from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields, replace
from typing import Any, get_args

from t2v.errors import RequestError

MAX_SEED = 2**32 - 1


def setting(default: Any, label: str, description: str, **limits: Any) -> Any:
    """A field and its words. `limits`: ge, le, multiple_of of a number; choices, a registry or its name, of a word."""
    return field(default=default, metadata={"label": label, "description": description, **limits})


def extra(default: Any, label: str, description: str, **limits: Any) -> Any:
    """A setting that most films leave alone: a film tells about it only where it is not the default."""
    return setting(default, label, description, extra=True, **limits)


@dataclass(frozen=True)
class VideoRequest:
    """What film to make. Construction checks every limit and raises RequestError naming the field."""

    prompt: str = setting("", "Prompt", "What the film shows; (word:1.2), [a:b:0.5] and BREAK work as in the web UI.")
    negative_prompt: str = setting("", "Negative prompt", "What the film should not show.")
    loras: str = setting(
        "", "LoRAs", "LoRAs by name and weight, as in style:0.8, motion:1.2; or <lora:style:0.8> in the prompt.")
    model: str = setting("demo", "Model", "Name of a model, or the path of its folder.", choices="models")
    width: int | None = setting(None, "Width", "Width in pixels, a multiple of 8.", ge=16, le=4096, multiple_of=8)
    height: int | None = setting(None, "Height", "Height in pixels, a multiple of 8.", ge=16, le=4096, multiple_of=8)
    frames: int | None = setting(None, "Frames", "How many frames the film has.", ge=1, le=10_000)
    fps: float | None = setting(None, "FPS", "Frames shown in a second.", ge=0.1, le=240)
    steps: int | None = setting(None, "Steps", "How many denoising steps to take.", ge=1, le=1000)
    cfg_scale: float | None = setting(
        None, "CFG scale", "How strongly the film follows the prompt; 1 switches guidance off.", ge=0, le=100)
    cfg_from: float = extra(
        0.0, "Guidance from", "The part of the steps before which the prompt alone is asked, in half the time.",
        ge=0, le=1)
    cfg_until: float = extra(
        1.0, "Guidance until", "The part of the steps after which the prompt alone is asked, in half the time.",
        ge=0, le=1)
    reuse: int = extra(
        1, "Reuse", "The inner layers are computed at every Nth call of the network, and what they said is used again "
        "in between; a step is one call, of Heun and DPM++ SDE two. 1 is exact.", ge=1, le=10)
    sampler: str | None = setting(None, "Sampler", "How the noise is taken away.", choices="samplers")
    spacing: str | None = setting(None, "Spacing", "Which noise levels the steps visit.", choices="spacings")
    eta: float | None = setting(
        None, "Eta", "Fresh noise per step: 0 none, 1 as in DDPM; empty for the sampler's own.", ge=0, le=2)
    seed: int = setting(
        -1, "Seed", "Start of the noise; -1 draws one. The same seed makes the same film.", ge=-1, le=MAX_SEED)
    batch_count: int = setting(
        1, "Batch count", "How many films to make, with seeds seed, seed + 1, ...", ge=1, le=1000)
    format: str = setting("mp4", "Format", "File format of the film.", choices="formats")
    quality: int = setting(80, "Quality", "Picture quality of the file, 0 (small) to 100 (best).", ge=0, le=100)
    soundtrack: str = setting("", "Soundtrack", "Path of a sound or video file to play along with the film.")

    # ---- starting from pictures and films ----
    pictures: str = extra(
        "", "Pictures", "Pictures to hold: a path for the first frame, or several as in 0: a.png | -1: b.png.")
    picture_weights: str = extra(
        "", "Freedom over time", "How free of its picture each frame is, 0 held to 1 free, as in 0:(0), 8:(1); of "
        "several pictures with | between. Empty holds each in its own frame.")
    fit: str = extra("crop", "Fit", "How a picture or film of another shape fills the frame.", choices="fits")
    film: str = extra("", "Input film", "Path of a film to start from.")
    film_start: float = extra(0.0, "Start", "Where in the input film to begin, in seconds.", ge=0, le=1e6)
    film_fps: float = extra(
        0.0, "Input FPS", "Frames taken from a second of the input film; 0 keeps its speed.", ge=0, le=240)
    strength: float = extra(
        0.75, "Strength", "How far the film may go from the input film: 0 is the input, 1 ignores it.", ge=0, le=1)
    extend: bool = extra(False, "Continue", "Go on where the input film ends, instead of changing it.")
    mask: str = extra("", "Mask", "Path of a picture or film: white is made anew, black stays as in the input.")

    # ---- time ----
    loop: bool = extra(False, "Loop", "The film ends where it begins.")
    transition: int = extra(
        8, "Transition", "Frames over which one prompt of 0: a calm sea | 24: a storm becomes the next.", ge=0, le=1000)
    window: int = extra(0, "Window", "Frames denoised together in a long film; 0 is all.", ge=0, le=1000)
    overlap: int = extra(4, "Overlap", "Frames that neighbouring windows, or a film and its continuation, share.",
                           ge=0, le=1000)
    jitter: bool = extra(False, "Jitter", "Windows begin elsewhere at each step, which hides their seams.")
    noise: str = extra("fresh", "Noise", "Where the noise of a long film comes from.", choices="noises")
    depth: int = extra(
        0, "Depth", "Coarse to fine: how often to fill in films between the frames of the last.", ge=0, le=4)
    free_init: int = extra(0, "FreeInit", "Rounds of noise that keeps the film's slow changes; 0 is off.", ge=0, le=5)

    # ---- afterwards ----
    upscale: float = extra(1.0, "Upscale", "Size of a second pass over the film, as a factor; 1 is none.", ge=1, le=8)
    upscale_by: str = extra(
        "frames", "Upscale by", "What grows between the passes: latents, or frames, also by an upscaler of the web UI.",
        choices="upscalers")
    upscale_strength: float = extra(
        0.6, "Upscale strength", "How far the second pass may go from the first.", ge=0, le=1)
    upscale_model: str = extra("", "Upscale model", "Model of the second pass; empty is the same.", choices="models")
    smooth_fps: float = extra(0.0, "Smooth to FPS", "Frames to interpolate up to; 0 is off.", ge=0, le=240)

    def __post_init__(self) -> None:
        for spec in fields(self):
            object.__setattr__(self, spec.name, checked(spec, getattr(self, spec.name)))

    def filled(self, defaults: Mapping[str, Any]) -> "VideoRequest":
        """The same request with the model's `defaults` where the user left a setting open, and a drawn seed."""
        values: dict[str, Any] = {f.name: defaults.get(f.name) for f in fields(self) if getattr(self, f.name) is None}
        if self.seed == -1:
            values["seed"] = random.SystemRandom().randint(0, MAX_SEED + 1 - self.batch_count)
        return replace(self, **values)

    def items(self) -> list["VideoRequest"]:
        """One request a film: item i of a batch is the single film of seed + i (modulo 2**32), an open seed drawn."""
        start = self.filled({}).seed
        return [replace(self, seed=(start + i) % (MAX_SEED + 1), batch_count=1) for i in range(self.batch_count)]


def value_type(spec: Field[Any]) -> type:
    """The plain type of a field, str, int, float or bool: that of `int | None` is int."""
    kind = next(iter(get_args(spec.type)), spec.type)
    assert isinstance(kind, type)
    return kind


def checked(spec: Field[Any], value: Any) -> Any:
    """`value` as the field's type, inside the field's limits; RequestError otherwise."""
    if value is None and spec.default is None:
        return None
    if value_type(spec) is bool:
        return checked_switch(spec, value)
    if value_type(spec) is not str:
        return checked_number(spec, value)
    if not isinstance(value, str):
        raise RequestError(spec.name, f"must be text, not {shown(value)}")
    return value


def checked_switch(spec: Field[Any], value: Any) -> bool:
    """The truth that `value` is or, coming from a flag or a query, spells."""
    words = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}
    if str(value).lower() not in words:
        raise RequestError(spec.name, f"must be yes or no, not {shown(value)}")
    return words[str(value).lower()]


def checked_number(spec: Field[Any], value: Any) -> int | float:
    """The number that `value` is or, coming from a flag or a query, spells."""
    kind, limits = value_type(spec), spec.metadata
    try:
        number = float(value) if not isinstance(value, bool) else None
    except (TypeError, ValueError, OverflowError):
        number = None
    if number is None or (kind is int and not number.is_integer()):
        raise RequestError(spec.name, f"must be {'a whole number' if kind is int else 'a number'}, not {shown(value)}")
    exact: int | float = kind(number)
    if not limits["ge"] <= exact <= limits["le"]:  # nan is nowhere between
        raise RequestError(spec.name, f"must be between {limits['ge']} and {limits['le']}, not {shown(exact)}")
    if "multiple_of" in limits and exact % limits["multiple_of"]:
        raise RequestError(spec.name, f"must be a multiple of {limits['multiple_of']}, not {exact}")
    return exact


def shown(value: Any) -> str:
    """`value` for a message: on one line, and cut short."""
    try:
        return " ".join(reprlib.repr(value).split())
    except ValueError:  # a whole number with more digits than Python is willing to print
        return "a number of thousands of digits"
