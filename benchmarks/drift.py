"""What approximations cost and save: `python -m benchmarks.drift [--films 24] [--seeds 1 2 3] [--full]`.

Films of the demo model are looked at by `training.judge`, and held against those of the same prompts and seeds made
exactly. A network with random weights says how far one step is off. Work is counted, not timed.
"""

import argparse
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.measure import machine, table
from benchmarks.step import inputs_of, random_unet
from t2v import float8
from t2v.generate import generate
from t2v.hosts.standalone import Standalone
from t2v.layout import layout_of, size_of
from t2v.models.catalog import open_model
from t2v.models.unet import Deep, UNet3D, UNetConfig
from t2v.placement import placed
from t2v.request import VideoRequest
from t2v.schedule import scaled_linear
from t2v.video import read_film
from training.evaluate import score
from training.judge import Frames, Verdict, judge
from training.world import all_captions, caption

CPU = torch.device("cpu")
Asked = tuple[str, str, str]


@dataclass(frozen=True)
class Way:
    """A way to make films: settings of the request, and whether matrices stand in 8 bits."""

    name: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    eight: bool = False


WAYS = (
    Way("exact"),
    Way("guidance from 0.1 until 0.8", {"cfg_from": 0.1, "cfg_until": 0.8}),
    Way("guidance from 0 until 0.6", {"cfg_until": 0.6}),
    Way("reuse 2", {"reuse": 2}),
    Way("reuse 3", {"reuse": 3}),
    Way("8 bits", eight=True),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--films", type=int, default=24, help="prompts of the 72, evenly chosen")
    parser.add_argument("--seeds", type=int, nargs="+", default=(1, 2, 3), help="the prompts take turns with them")
    parser.add_argument("--full", action="store_true", help="one step at the published size: 1.41 billion weights")
    args = parser.parse_args()
    print(f"{machine(CPU)}\n")
    print(table(("films of the demo model", "obey in colour, shape and direction", "colour", "shape", "direction",
                 "pixels off, rms of 255", "work left", "the same, published model"), demo(args.films, args.seeds)))
    config, size = (UNetConfig(), "16x256x256") if args.full else (UNetConfig(dim=128), "8x128x128")
    print(f"One step of a random network, dim={config.dim}, {size}:\n")
    print(table(("what", "rms of the difference / rms of the exact"), one_step(config, size)))


# ---- films ----


def demo(films: int, seeds: Sequence[int], ways: Sequence[Way] = WAYS) -> Iterator[tuple[object, ...]]:
    """A row for each way; the first is what the others are held against."""
    everything = all_captions()
    asked = [everything[number * len(everything) // films] for number in range(films)]
    exact: list[Frames] = []
    for way in ways:
        made = list(filmed(asked, seeds, way))
        exact = exact or made
        seen = list(zip(asked, map(judge, made), strict=True))
        said = score(seen)
        off = np.sqrt(np.mean([np.square(a.astype(float) - b).mean() for a, b in zip(made, exact, strict=True)]))
        yield (way.name, f"{sum(obeys(*pair) for pair in seen)} of {len(seen)}", said.colour, said.shape,
               said.direction, float(off), work_left(way, demo_config(), "8x64x64", demo_steps()),
               work_left(way, UNetConfig(), "16x256x256", 50))


def obeys(asked: Asked, seen: Verdict) -> bool:
    return (seen.colour, seen.shape, seen.direction) == asked


def filmed(asked: Sequence[Asked], seeds: Sequence[int], way: Way) -> Iterator[Frames]:
    """The frames f h w 3 of a film of every caption, by the demo model at its default settings but for the way's."""
    with tempfile.TemporaryDirectory() as folder:
        host = Standalone(CPU, torch.float32, outputs=Path(folder))
        model = open_model("demo", host.model_folders)
        with in_eight(model.unet) if way.eight else nullcontext():
            for number, words in enumerate(asked):
                request = VideoRequest(caption(*words), model="demo", seed=seeds[number % len(seeds)], format="png",
                                       **way.changes)
                yield np.stack(list(read_film(next(iter(generate(request, model, host))).path)[1]))


def in_eight(net: UNet3D) -> AbstractContextManager[None]:
    """Matrices of `net` in 8 bits on the CPU, as they would be on a graphics card."""
    layout = layout_of(net, torch.float8_e4m3fn)
    return placed(net, CPU, torch.float32, size_of(net, torch.float32, layout), layout=layout)


# ---- work ----


@cache
def demo_config() -> UNetConfig:
    return open_model("demo", []).unet.config


def demo_steps() -> int:
    return int(open_model("demo", []).defaults["steps"])


def work_left(way: Way, config: UNetConfig, size: str, steps: int) -> float:
    """The part of the exact film's arithmetic in the network that a way takes; DDIM, one call a step."""
    begin, end, every = (way.changes.get(name, default) for name, default in (
        ("cfg_from", 0.0), ("cfg_until", 1.0), ("reuse", 1)))
    calls, left = 0, 0
    for step in range(steps):
        guided = begin <= step / steps < end
        calls = calls + 1 if step and guided == (begin <= (step - 1) / steps < end) else 0  # deep layers begin anew
        left += work(config, size, 2 if guided else 1, calls % every > 0)
    return left / (steps * work(config, size, 2, False))


@cache
def work(config: UNetConfig, size: str, told: int, reused: bool) -> int:
    """FLOP of a call about one film that is told so many things, counted without computing it."""
    meta = torch.device("meta")
    with meta:
        net = UNet3D(config).eval()
    x, timestep, contexts = inputs_of(size, config, meta, torch.float32)
    deep = Deep()
    with torch.no_grad():
        if reused:
            net(x, timestep, contexts[:told], deep=deep)
        with FlopCounterMode(display=False) as flop:
            net(x, timestep, contexts[:told], deep=deep if reused else None)
    return int(flop.get_total_flops())


# ---- one step ----


@torch.inference_mode()
def one_step(config: UNetConfig, size: str) -> Iterator[tuple[str, float]]:
    """How far the prediction of a guided pair is off."""
    net = random_unet(config, torch.float32)
    x, _, contexts = inputs_of(size, config, CPU, torch.float32)

    def said(timestep: float, x: Tensor = x, deep: Deep | None = None) -> Tensor:
        return net(x, torch.tensor([timestep]), contexts, deep=deep)

    exact = said(501.0)
    with in_eight(net):
        yield "matrices of 8 bits, a scale for each row", off(said(501.0), exact)
    with rounded(net, per_tensor):
        yield "matrices of 8 bits, a scale for each matrix", off(said(501.0), exact)
    for back, before in ((1, 521.0), (2, 541.0)):
        deep = Deep()
        said(before, at(before, x), deep)
        yield f"deep features of {back} of 50 steps before", off(said(501.0, deep=deep), exact)


def at(timestep: float, x: Tensor) -> Tensor:
    """The film at an earlier step of the way to `x` at 501, where the noise is the same and there is more of it."""
    noise, schedule = torch.randn(x.shape, generator=torch.Generator().manual_seed(3)), scaled_linear()
    (now, sigma), (then, more) = (
        (float(schedule.alphas[int(step)]), float(schedule.sigmas[int(step)])) for step in (501.0, timestep))
    return then / now * (x - sigma * noise) + more * noise


def off(approximate: Tensor, exact: Tensor) -> float:
    return float((approximate - exact).norm() / exact.norm())


def per_tensor(weight: Tensor) -> Tensor:
    """A matrix in 8 bits and back, with one scale that makes full use of their range."""
    scale = weight.abs().amax() / float8.LARGEST
    return (weight / scale).to(torch.float8_e4m3fn).float() * scale


@contextmanager
def rounded(net: UNet3D, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """`net` with those matrices put through `change` that would stand in 8 bits."""
    with in_eight(net):
        weights = [weight for weight in net.parameters() if float8.scale_of(weight) is not None]
    kept = [weight.data for weight in weights]
    for weight in weights:
        weight.data = change(weight.data)
    try:
        yield
    finally:
        for weight, data in zip(weights, kept, strict=True):
            weight.data = data


if __name__ == "__main__":
    main()
