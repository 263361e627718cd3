"""VideoCrafter2 (Chen et al. 2024, arXiv 2401.09047): the same networks in one file, model.ckpt.

It was trained with the frame rate of its films as a further condition, and with a signal that is made smaller than
usual as noise grows. A configuration.json beside the file may say otherwise, as for ModelScope.
"""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from t2v.models.configuration import Betas, Configuration, read_configuration
from t2v.models.contents import Contents, look
from t2v.models.unet import UNet3D

FPS = 28.0  # as in the published script; 8 moves more, and less calmly
RESCALE = 0.7
DEFAULTS = {"width": 512, "height": 320, "frames": 16, "fps": 10.0, "cfg_scale": 12.0, "sampler": "DDPM"}


def recognises(found: Contents) -> bool:
    """Whether the UNet among the files is VideoCrafter's."""
    held = found.holding(UNet3D)
    return bool(held) and look(held[0]).videocrafter


def configure(found: Contents, _folders: Iterable[Path] = ()) -> Configuration:
    """What the model is, with the published values where a configuration.json does not say otherwise."""
    made = read_configuration(found.path, DEFAULTS)
    betas = replace(made.betas, rescale=RESCALE) if made.betas == Betas() else made.betas
    return replace(made, unet=replace(made.unet, fps=made.unet.fps or FPS), betas=betas)
