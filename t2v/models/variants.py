"""The models that people have made of this network, and what each was trained for.

Their weights have the same names, shapes and sizes, so that nothing in a file tells one from the other. The name of
its folder does, as a hint: it decides which settings are suggested, and never how the weights are read.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple


class Variant(NamedTuple):
    """A published model: how its folders are named, the settings it likes, and what it is for."""

    kind: str
    pattern: str  # in the name of the folder, in small letters
    purpose: str
    defaults: Mapping[str, Any]
    own_text: bool = False  # its text tower was trained with it, and is no good to others


def film(width: int, height: int, frames: int, fps: float = 8.0) -> dict[str, Any]:
    """Settings of a request."""
    return {"width": width, "height": height, "frames": frames, "fps": fps}


def variant_of(path: Path) -> Variant | None:
    """The variant that the name of a model suggests, or that of the folder around it; None for anything else."""
    names = path.name.lower(), path.parent.name.lower()
    return next((variant for name in names for variant in VARIANTS if re.search(variant.pattern, name)), None)


VARIANTS = (
    Variant("zeroscope v2 XL", r"(zeroscope|zs).*xl", "Made to enlarge films of zeroscope v2 576w, without watermark.",
            film(1024, 576, 24)),
    Variant("zeroscope v2 576w", r"(zeroscope|zs).*576", "Wide films without watermark, to be enlarged with zeroscope "
            "v2 XL.", film(576, 320, 24)),
    Variant("zeroscope v2 448w", r"(zeroscope|zs).*448|30x448x256", "Small wide films without watermark.",
            film(448, 256, 30)),
    Variant("zeroscope v1", r"zeroscope.*(v1|320)", "Square films without watermark.", film(320, 320, 16)),
    Variant("potat1", r"potat", "Large wide films without watermark; it has a text encoder of its own.",
            film(1024, 576, 24), own_text=True),
    Variant("animov 512x", r"animov.*512", "Anime.", film(512, 512, 16)),
    Variant("animov", r"animov", "Anime.", film(384, 384, 16)),
    Variant("ModelScope 1.7B (legacy)", r"1\.7b.legacy", "The first weights of ModelScope 1.7B.", {}),
)
