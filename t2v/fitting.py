"""Pictures of another shape than the film, and pictures laid over each other."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from t2v.schedule import find

Frame = NDArray[np.uint8]  # h w 3
Size = tuple[int, int]  # width height
Fit = Callable[[Image.Image, Size], Image.Image]


def blended(new: Frame, old: Frame, mask: Frame) -> Frame:
    """`new` as far as the mask is light, else `old`."""
    share = lightness(mask)[..., None]
    return (share * new + (1 - share) * old).round().astype(np.uint8)


def lightness(picture: Frame) -> NDArray[np.float64]:
    """0 black to 1 white, h w."""
    return picture @ np.array([0.299, 0.587, 0.114]) / 255


def fitted(frame: Frame, size: Size, fit: Fit) -> Frame:
    """`frame` as large as `size`; as it is, if it is so already."""
    if frame.shape[1::-1] == size:
        return frame
    return np.asarray(fit(Image.fromarray(frame), size))


def crop(picture: Image.Image, size: Size) -> Image.Image:
    """All of the frame filled, and what is too wide or too high cut off on both sides."""
    return ImageOps.fit(picture, size, Image.Resampling.LANCZOS)


def pad(picture: Image.Image, size: Size) -> Image.Image:
    """All of the picture shown, black beside or above and below it."""
    return ImageOps.pad(picture, size, Image.Resampling.LANCZOS, color="black")


def stretch(picture: Image.Image, size: Size) -> Image.Image:
    """All of the picture in all of the frame, distorted."""
    return picture.resize(size, Image.Resampling.LANCZOS)


def find_fit(name: str) -> Fit:
    """The way to fit called `name`; RequestError with the choices if there is none."""
    return find(FITS, "fit", name)


FITS: dict[str, Fit] = {"crop": crop, "pad": pad, "stretch": stretch}
