"""Fields of the request as components, and what is in the components as a request."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import Field, fields
from typing import Any

import gradio as gr

from t2v.errors import RequestError
from t2v.fitting import FITS
from t2v.models.configuration import Defaults
from t2v.request import VideoRequest, value_type
from t2v.sampling import SAMPLERS
from t2v.schedule import SPACINGS
from t2v.ui import compat
from t2v.video import FORMATS
from t2v.windows import NOISES

PREFIX = "text2video_"
SPECS = {spec.name: spec for spec in fields(VideoRequest)}
MODEL_OWNED = [name for name, spec in SPECS.items() if spec.default is None]
OPEN = set(MODEL_OWNED) - {spec.name for spec in fields(Defaults)}  # no model says anything, and that means something
REGISTRIES: dict[str, Sequence[str]] = {
    "samplers": list(SAMPLERS), "spacings": list(SPACINGS), "formats": list(FORMATS), "fits": list(FITS),
    "noises": list(NOISES)}
# A browser has no paths of this machine to offer.
UPLOADS = {"soundtrack": ["audio", "video"], "film": ["video", "image"], "mask": ["image", "video"]}
PICTURES = {"start_picture": 0, "end_picture": -1}  # pictures by the frame that they are held in
NO_PICTURE = "what was uploaded is no picture that can be read; choose a PNG, JPEG or WebP"
LINES = {"prompt": 3, "negative_prompt": 2, "loras": 2, "picture_weights": 2}
RATIOS = ((1, 1), (3, 2), (16, 9), (2, 3), (9, 16))
SHORT = 100  # so many values are still comfortable on a slider


def control(spec: "Field[Any]", value: Any, choices: Sequence[str] = ()) -> Any:
    """The component of a field. Limits are the request's to check, because it says what is wrong in plain words."""
    label, known = spec.metadata["label"], choices or REGISTRIES.get(spec.metadata.get("choices", ""), ())
    common = {"label": label, "elem_id": PREFIX + spec.name}
    if spec.name in UPLOADS:
        return gr.File(file_types=UPLOADS[spec.name], **common)
    if value_type(spec) is bool:
        return gr.Checkbox(value=value, **common)
    if known:
        return gr.Dropdown(choices=list(known), value=value, **common)
    if spec.name in OPEN:
        return gr.Textbox(value=in_control(spec.name, value), **common)
    if value_type(spec) is str:
        return gr.Textbox(value=value, lines=LINES.get(spec.name, 1), placeholder=spec.metadata["description"],
                          **common)
    return number(spec, value, common)


def number(spec: "Field[Any]", value: Any, common: Mapping[str, Any]) -> Any:
    """A slider where that can be precise, else a box."""
    low, high, whole = spec.metadata["ge"], spec.metadata["le"], value_type(spec) is int
    if high - low <= (SHORT if whole else 1):
        return gr.Slider(minimum=low, maximum=high, step=1 if whole else 0.01, value=value, **common)
    step = spec.metadata.get("multiple_of", 1) if whole else 0.5 if high > 10 else 0.1
    return gr.Number(value=value, precision=0 if whole else None, step=step, **common)


def picture(name: str, label: str) -> Any:
    """Where the picture of a frame is uploaded."""
    return compat.by_path(gr.Image(type="filepath", height=240, label=label, elem_id=PREFIX + name))


def in_control(name: str, value: Any) -> Any:
    """`value` as the control of a field takes it: a box for numbers would make 0 of nothing."""
    return value if name not in OPEN else "" if value is None else f"{value:g}"


def request_of(values: Mapping[str, Any]) -> VideoRequest:
    """The request that the controls describe; what is left empty is left open. RequestError as ever."""
    stated = {name: uploaded(values[name]) for name in SPECS if name in values}
    pictures = {frame: values[name] for name, frame in PICTURES.items() if values.get(name)}
    if compat.UNREADABLE in pictures.values():
        raise RequestError("pictures", NO_PICTURE)
    stated["pictures"] = " | ".join(f"{frame}: {path}" for frame, path in pictures.items())
    return VideoRequest(**{name: value for name, value in stated.items() if value is not None and value != ""})


def uploaded(value: Any) -> Any:
    """The path of what was uploaded, which comes as a string or as an open file; anything else as it is."""
    return getattr(value, "name", value)


def sizes(width: int, height: int) -> list[str]:
    """Sizes of about the area of a model's own, in the usual proportions: "256x256 (1:1)"."""
    area, unit = width * height, 32 if width * height >= 128 * 128 else 8
    found: dict[str, str] = {}
    for across, down in RATIOS:
        w, h = (max(unit, unit * round(math.sqrt(area * ratio) / unit)) for ratio in (across / down, down / across))
        found.setdefault(f"{w}x{h}", f"{w}x{h} ({across}:{down})")
    own = f"{width}x{height}"
    return list(({own: f"{own} (the model's own)"} | found).values())


def size_named(width: Any, height: Any, known: Sequence[str]) -> str | None:
    """That of the `known` sizes which is this one."""
    return next((size for size in known if size.split()[0] == f"{width}x{height}"), None)


def option_component(spec: "Field[Any]") -> tuple[Any, dict[str, Any]]:
    """The component of one of `Settings`, and what it is made with, for a web UI's own page of settings."""
    words = spec.metadata.get("choices")
    if value_type(spec) is bool:
        return gr.Checkbox, {}
    if words:
        known = words if isinstance(words, dict) else {name: FORMATS[name].label for name in REGISTRIES[words]}
        return gr.Dropdown, {"choices": compat.choices(known)}
    if value_type(spec) is str:
        return gr.Textbox, {}
    return gr.Slider, {"minimum": spec.metadata["ge"], "maximum": spec.metadata["le"], "step": 1}
