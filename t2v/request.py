"""Every setting of a film: its meaning, its limits, its default.

`VideoRequest` is the one place where a setting is defined. The flags of the command line, the fields of
the API, the controls of the tab and the settings written into a film are all derived from its fields.

A setting whose default is None belongs to the model (a film of 256x256 for ModelScope, 64x64 for the demo):
`filled` puts the model's own value there. Nothing here knows a model, a sampler or a framework, and
annotations stay real types (no `from __future__ import annotations`), because FastAPI reads them.
"""

import math
import random
from dataclasses import Field, dataclass, field, fields, replace
from types import UnionType
from typing import Any, Mapping, Optional, Union, get_args, get_origin

from t2v.errors import RequestError

MAX_SEED = 2**32 - 1


def setting(default: Any, label: str, description: str, **limits: Any) -> Any:
    """A request field. `limits`: ge, le, multiple_of for numbers; choices (a name for a registry) for words."""
    return field(default=default, metadata={"label": label, "description": description, **limits})


@dataclass(frozen=True)
class VideoRequest:
    """What film to make. Construction checks every limit and raises RequestError naming the field."""

    prompt: str = setting("", "Prompt", "What the film shows; (word:1.2), [a:b:0.5] and BREAK work as in the web UI.")
    negative_prompt: str = setting("", "Negative prompt", "What the film should not show.")
    model: str = setting("demo", "Model", "Name of a model, or the path of its folder.", choices="models")
    width: Optional[int] = setting(
        None, "Width", "Width in pixels, a multiple of 8.", ge=16, le=4096, multiple_of=8)
    height: Optional[int] = setting(
        None, "Height", "Height in pixels, a multiple of 8.", ge=16, le=4096, multiple_of=8)
    frames: Optional[int] = setting(None, "Frames", "How many frames the film has.", ge=1, le=10_000)
    fps: Optional[float] = setting(None, "FPS", "Frames shown in a second.", ge=0.1, le=240)
    steps: Optional[int] = setting(None, "Steps", "How many denoising steps to take.", ge=1, le=1000)
    cfg_scale: Optional[float] = setting(
        None, "CFG scale", "How strongly the film follows the prompt; 1 switches guidance off.", ge=0, le=100)
    sampler: Optional[str] = setting(None, "Sampler", "How the noise is taken away.", choices="samplers")
    spacing: Optional[str] = setting(
        None, "Spacing", "Which noise levels the steps visit.", choices="spacings")
    eta: Optional[float] = setting(
        None, "Eta", "Fresh noise per step: 0 none, 1 as in DDPM; empty for the sampler's own.", ge=0, le=2)
    seed: int = setting(-1, "Seed", "Start of the noise; -1 draws one. The same seed makes the same film.",
                        ge=-1, le=MAX_SEED)
    batch_count: int = setting(1, "Batch count", "How many films to make, with seeds seed, seed + 1, ...",
                               ge=1, le=1000)
    format: str = setting("mp4", "Format", "File format of the film.", choices="formats")
    quality: int = setting(80, "Quality", "Picture quality of the file, 0 (small) to 100 (best).", ge=0, le=100)
    soundtrack: str = setting("", "Soundtrack", "Path of a sound or video file to play along with the film.")

    def __post_init__(self) -> None:
        for spec in fields(self):
            object.__setattr__(self, spec.name, checked(spec, getattr(self, spec.name)))

    def filled(self, defaults: Mapping[str, Any]) -> "VideoRequest":
        """The same request with the model's `defaults` where the user left a setting empty, and a drawn seed."""
        empty = {f.name: defaults[f.name] for f in fields(self)
                 if getattr(self, f.name) is None and f.name in defaults}
        if self.seed == -1:
            empty["seed"] = random.SystemRandom().randint(0, MAX_SEED - self.batch_count)
        return replace(self, **empty)

    def items(self) -> list["VideoRequest"]:
        """One request a film: item i of a batch is the single request with seed + i (modulo 2**32)."""
        return [replace(self, seed=(self.seed + i) % (MAX_SEED + 1), batch_count=1)
                for i in range(self.batch_count)]


def value_type(spec: "Field[Any]") -> type:
    """The plain type of a field: `Optional[int]` is int."""
    if get_origin(spec.type) in (Union, UnionType):
        return next(kind for kind in get_args(spec.type) if kind is not type(None))
    assert isinstance(spec.type, type)
    return spec.type


def checked(spec: "Field[Any]", value: Any) -> Any:
    """`value` as the field's type, inside the field's limits; RequestError otherwise."""
    kind, limits = value_type(spec), spec.metadata
    if value is None and spec.default is None:
        return None
    if kind is str:
        if not isinstance(value, str):
            raise RequestError(spec.name, f"must be text, not {value!r}")
        return value
    try:
        number = kind(value) if not isinstance(value, bool) else None
    except (TypeError, ValueError, OverflowError):
        number = None
    if number is None or (kind is int and number != float(value)):
        raise RequestError(spec.name, f"must be {'a whole number' if kind is int else 'a number'}, not {value!r}")
    if not math.isfinite(number):
        raise RequestError(spec.name, f"must be a finite number, not {value}")
    low, high, step = limits.get("ge"), limits.get("le"), limits.get("multiple_of")
    if (low is not None and number < low) or (high is not None and number > high):
        raise RequestError(spec.name, f"must be between {low} and {high}, not {number}")
    if step and number % step:
        raise RequestError(spec.name, f"must be a multiple of {step}, not {number}")
    return number
