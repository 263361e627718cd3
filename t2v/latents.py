"""Frames to latents and back, one at a time, so that no film is too long for the memory."""

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from t2v.hosts import Host
from t2v.models.autoencoder import AutoencoderKL
from t2v.watch import Watch

Frame = NDArray[np.uint8]  # h w 3


def encoded(frames: Iterable[Frame], vae: AutoencoderKL, host: Host, tile: int = 0) -> Iterator[Tensor]:
    """The latents 1 c h w of each frame, in float32 on the device; `vae` has been placed there. A `tile` is the side
    in latents of the squares it goes by, 0 for whole frames."""
    for frame in frames:
        picture = torch.tensor(frame, device=host.device).permute(2, 0, 1)[None]
        yield vae.encode(picture.to(host.vae_dtype) / 127.5 - 1, tile).float()


def decoded(latents: Tensor, vae: AutoencoderKL, host: Host, watch: Watch, tile: int = 0) -> Iterator[Frame]:
    """The frames of latents 1 c f h w; `vae` has been placed. A `tile` is as in `encoded`.

    A stop or skip in here ends the film with the frame at hand; after a stop before, all frames are still shown.
    """
    frames, stoppable = latents[0].transpose(0, 1).to(host.vae_dtype), not watch.stopped
    watch.tick("decode", 0, len(frames))
    for done, latent in enumerate(frames, start=1):
        yield to_uint8(vae.decode(latent[None], tile)[0])
        watch.tick("decode", done, len(frames))
        if stoppable and (watch.stopped or watch.skipped):
            return


def to_uint8(picture: Tensor) -> Frame:
    """A picture 3 h w in -1..1 as h w 3 in 0..255, to the nearest level."""
    return ((picture.permute(1, 2, 0).float() + 1) * 127.5).clamp(0, 255).round().to("cpu", torch.uint8).numpy()


def fault(picture: Tensor) -> str:
    """What shows that a picture 3 h w in -1..1 has come to nothing: "not numbers" where one is infinite or none at
    all, as when half precision does not suffice; "flat" where all are within half a grey level; "" elsewhere."""
    if not bool(picture.isfinite().all()):
        return "not numbers"
    # Of each channel, for a picture of one colour is as flat as a grey one.
    low, high = picture.float().aminmax(dim=-1)
    return "flat" if bool((high.amax(1) - low.amin(1)).max() * 127.5 <= 0.5) else ""
