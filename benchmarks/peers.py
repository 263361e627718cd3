"""One denoising step of the pair that classifier-free guidance asks for, in ours and in other people's UNets.

All have the same weights, and the same memory where a peer can work with them as they are. Each takes the noisy
latents of one film, `x` 1 c f h w, a `timestep` [1] and the `contexts` of the pair, 2 n d, and gives 2 c f h w.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from t2v.lean import Remembered
from t2v.models.transformer import Heard
from t2v.models.unet import UNet3D

Inputs = tuple[Tensor, Tensor, Tensor]  # x 1 c f h w, timestep [1], contexts 2 n d


@dataclass(frozen=True)
class Peer:
    """A network, and how it computes the pair."""

    net: nn.Module
    step: Callable[[Tensor, Tensor, Tensor], Tensor]  # x, timestep, contexts


def ours(net: UNet3D, heard: Remembered[Heard], x: Tensor, timestep: Tensor, contexts: Tensor) -> Tensor:
    """The film told two things at once; what the layers make of the text is kept from step to step."""
    return net(x, timestep, heard(contexts))


def modelscope(net: Any, x: Tensor, timestep: Tensor, contexts: Tensor) -> Tensor:
    """Two calls, as its sampler makes them; below fp32, fp32 weights under autocast, as its pipeline has them."""
    with torch.autocast(x.device.type, dtype=x.dtype, enabled=x.dtype != torch.float32):
        return torch.cat([net(x.float(), timestep, context) for context in contexts.split(1)])


def diffusers(net: Any, x: Tensor, timestep: Tensor, contexts: Tensor) -> Tensor:
    """One batch of two, as its pipeline makes it."""
    return net(torch.cat([x, x]), timestep, contexts, return_dict=False)[0]


def with_ours(net: UNet3D) -> Peer:
    return Peer(net, partial(ours, net, Remembered(net.heard)))


def with_modelscope(net: UNet3D) -> Peer:
    other = theirs().modelscope_unet(net).float()
    return Peer(other, partial(modelscope, other))


def with_diffusers(net: UNet3D) -> Peer:
    other = theirs().diffusers_unet(net)
    return Peer(other, partial(diffusers, other))


def theirs() -> ModuleType:
    """The tests' peers, imported only where one is wanted; the tests' conftest hides a torchvision that is broken."""
    import_module("tests.conftest")
    return import_module("tests.peers")


def register(address: str) -> None:
    """Adds `module:function`, which makes a Peer with the weights of a UNet3D, to PEERS under the function's name."""
    module, _, name = address.partition(":")
    PEERS[name] = getattr(import_module(module), name)


PEERS: dict[str, Callable[[UNet3D], Peer]] = {
    "ours": with_ours, "modelscope": with_modelscope, "diffusers": with_diffusers}
