"""Frames to latents and back, one at a time, so that no film is too long for the memory."""

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from t2v.lean import LeanVAE
from t2v.watch import Watch

Frame = NDArray[np.uint8]  # h w 3


def encoded(frames: Iterable[Frame], vae: LeanVAE) -> Iterator[Tensor]:
    """The latents 1 c h w of each frame, in float32 on the device."""
    for frame in frames:
        picture = torch.tensor(frame, device=vae.host.device).permute(2, 0, 1)[None]
        yield vae.encode(picture.to(vae.host.vae_dtype) / 127.5 - 1)


def decoded(latents: Tensor, vae: LeanVAE, watch: Watch) -> Iterator[Frame]:
    """The frames of latents 1 c f h w.

    A stop or skip in here ends the film with the frame at hand; after a stop before, all frames are still shown.
    """
    frames, stoppable = latents[0].transpose(0, 1), not watch.stopped
    watch.tick("decode", 0, len(frames))
    for done, latent in enumerate(frames, start=1):
        yield to_uint8(vae.decode(latent[None])[0])
        watch.tick("decode", done, len(frames))
        if stoppable and (watch.stopped or watch.skipped):
            return


def to_uint8(picture: Tensor) -> Frame:
    """A picture 3 h w in -1..1 as h w 3 in 0..255, to the nearest level."""
    return ((picture.permute(1, 2, 0).float() + 1) * 127.5).clamp(0, 255).round().to("cpu", torch.uint8).numpy()
