"""What a user settles once and for all, in a web UI's Settings page or by the flags of `t2v serve`.

As with the request, this is the one place: page, keys, flags and limits are derived from the fields.
"""

import logging
from collections.abc import Callable
from dataclasses import Field, dataclass, fields
from typing import Any

from t2v.errors import RequestError
from t2v.request import checked, setting

log = logging.getLogger(__name__)
KEEP = {"nothing": "nothing", "memory": "in memory", "device": "on the graphics card"}
WEIGHTS = {"network": "as the networks compute", "float8": "8 bits, half the memory"}
VAE_PRECISIONS = {"float32": "32 bits, always right", "network": "as the UNet, faster"}
PREFIX = "text2video_"  # of the key in a web UI's own options


@dataclass(frozen=True)
class Settings:
    """How Text2Video behaves. Construction checks every limit and raises RequestError naming the field."""

    models: str = setting("", "More models", "A folder with model folders in it, beside the usual ones.", folder=True)
    outputs: str = setting("", "Films", "The folder where films go; empty for the web UI's own.", folder=True)
    keep: str = setting(
        "memory", "Keep the model between films",
        "Nothing: read from disk each time. In memory: ready at once, and memory the system can take back. "
        "On the graphics card, if films have room beside it: fastest, and everything else has that much less.",
        choices=KEEP)
    weights: str = setting(
        "network", "Weights of the UNet", "What its matrices stand in on a graphics card. In 8 bits films differ a "
        "little; on the CPU weights are used as they are in their file.", choices=WEIGHTS)
    vae_precision: str = setting(
        "float32", "Precision of the autoencoder", "What latents become pictures in.", choices=VAE_PRECISIONS)
    graphs: bool = setting(
        False, "CUDA graphs", "Record the steps of a film once and play them back: less time at small sizes on fast "
        "cards, more memory, a slow first step.")
    preview: bool = setting(True, "Live preview", "Show the film while it emerges.")
    preview_every: int = setting(1, "Preview every N steps", "More is less work.", ge=1, le=100)
    format: str = setting("mp4", "Format", "What the tab starts with.", choices="formats")
    metadata: bool = setting(True, "Write settings into films", "So that a film can be made again, and read back here.")
    inputs: str = setting(
        "", "Inputs of the API", "A folder with pictures, films and sounds that the API may be told to use, beside the "
        "films made here; others have to be sent along.", folder=True)
    api_queue: int = setting(50, "API: queue", "Films that may wait before the API takes no more.", ge=1, le=100)
    api_upload: int = setting(100, "API: upload", "Megabytes that a call may bring along.", ge=1, le=4000)
    api_pixels: int = setting(
        1000, "API: size of a film", "Million pixels, frames x width x height, of all films of a call.", ge=1, le=1e6)
    recent: int = setting(12, "Recent films", "How many the tab shows.", ge=0, le=100)

    def __post_init__(self) -> None:
        for spec in fields(self):
            object.__setattr__(self, spec.name, checked(spec, getattr(self, spec.name)))
            words = spec.metadata.get("choices")
            if isinstance(words, dict) and getattr(self, spec.name) not in words:
                raise RequestError(spec.name, f"must be one of {', '.join(words)}")


def read_settings(value_of: Callable[["Field[Any]"], Any]) -> Settings:
    """The settings that `value_of` gives; where it gives nonsense, the default, for a film must not fail over that."""
    values: dict[str, Any] = {}
    for spec in fields(Settings):
        try:
            values[spec.name] = getattr(Settings(**{spec.name: value_of(spec)}), spec.name)
        except RequestError as error:
            log.warning("setting %s; taking %r", error, spec.default)
    return Settings(**values)


def option_key(spec: "Field[Any]") -> str:
    """The name of a setting among a web UI's options."""
    return PREFIX + spec.name
