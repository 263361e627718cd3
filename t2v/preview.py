"""What latents look like, without the autoencoder: a guess at the film while it emerges.

A latent is nearly a colour. One matrix, `projection` [c+1, 3], turns c channels into red, green and blue of an eighth
of the size: a row for each channel, and in the last what is added to all. Each model has its own (`Model.projection`).
"""

import io
import math
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

Frames = NDArray[np.uint8]  # f h w 3, RGB, 0..255
ANIMATION_SIDE, STILL_SIDE = 256, 128  # pixels of the longer side
ANIMATION_FRAMES = 24
QUICK: dict[str, Any] = {"quality": 50, "method": 0}
SHORTEST = 20  # milliseconds; what is shown for a shorter time, browsers slow down
STRIPS = (1, 2, 3, 4, 6, 8)  # so many frames fill a grid


def pictures(x0: Tensor, projection: Tensor) -> Frames:
    """An estimate of latents, 1 c f h w in the network's units, as frames f h w 3. What is no number becomes grey."""
    latents = x0[0].to("cpu", torch.float32)
    colours = torch.einsum("cfhw,cd->fhwd", latents, projection[:-1]) + projection[-1]
    return ((colours.nan_to_num() + 1) * 127.5).clamp(0, 255).round().to(torch.uint8).numpy()


def animated(frames: Frames, fps: float) -> bytes:
    """`frames`, enlarged, as a WebP that plays endlessly: at most 24 of them, as long together as the film."""
    count = min(len(frames), ANIMATION_FRAMES)
    starts = [index * len(frames) // count for index in range(count)]
    times = [round(1000 * start / fps) for start in (*starts, len(frames))]
    first, *others = (enlarged(frames[start], ANIMATION_SIDE) for start in starts)
    file = io.BytesIO()
    if others:  # without key frames, for nobody winds forward
        first.save(file, "WEBP", **QUICK, save_all=True, append_images=others, loop=0, kmax=0,
                   duration=[max(SHORTEST, end - start) for start, end in pairwise(times)])
    else:
        first.save(file, "WEBP", **QUICK)
    return file.getvalue()


def strip(frames: Frames) -> Image.Image:
    """Up to eight of `frames`, enlarged, in a grid, row by row: for whoever shows stills only."""
    count = max(number for number in STRIPS if number <= len(frames))
    chosen = np.linspace(0, len(frames) - 1, count).round().astype(int)
    tiles = [enlarged(frame, STILL_SIDE) for frame in frames[chosen]]
    width, height = tiles[0].size
    columns = min((number for number in range(1, count + 1) if count % number == 0),
                  key=lambda number: abs(math.log(number**2 * width / (count * height) / 1.5)))  # about 3:2
    grid = Image.new("RGB", (columns * width, count // columns * height))
    for place, tile in enumerate(tiles):
        grid.paste(tile, (place % columns * width, place // columns * height))
    return grid


def enlarged(frame: Frames, side: int) -> Image.Image:
    """A frame h w 3 whose longer side is `side` pixels."""
    height, width = frame.shape[:2]
    scale = side / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC)
