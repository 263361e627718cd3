"""How fast films are made here, in one small table: what `t2v bench` prints, to be pasted into a report.

Measured is the making of films itself, from the prompt to the frames of a few steps, within the memory plan that a
film of that size gets. Only the file is not written, and no more frames are decoded than it takes to know.
"""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import pairwise
from statistics import median
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from t2v import __version__
from t2v.companions import companions
from t2v.doctor.environment import device_name, kernels
from t2v.errors import MemoryShortage, RequestError
from t2v.generate import one_pass, read_prompts, within_memory
from t2v.hosts import Host
from t2v.inference import inference
from t2v.latents import decoded
from t2v.lean import LeanVAE
from t2v.memory import shortage_explained
from t2v.models import Model, catalog, fused
from t2v.models.autoencoder import AutoencoderConfig, AutoencoderKL
from t2v.models.checkpoint import blank
from t2v.models.configuration import read_configuration
from t2v.models.ram import available_memory, own_memory, repeated
from t2v.models.text import TextConfig, TextTower
from t2v.models.unet import UNet3D, UNetConfig
from t2v.plan import Plan, planned
from t2v.request import VideoRequest
from t2v.verdict import amount, largest
from t2v.watch import Watch

Facts = dict[str, object]
PROMPT, NEGATIVE = "a corgi running on a beach", "blurry"
Network = TypeVar("Network", bound=nn.Module)
WARM = 2  # steps that are not counted: the first chooses kernels, the second may be recorded
DECODED = 4  # frames, the first of which is not counted
HEAD = ("film", "a step", "a frame decoded", "the text read", "memory", "predicted", "how")


@dataclass(frozen=True)
class Speed:
    """What a film takes: seconds, and bytes at the peak; or why it cannot be made."""

    width: int
    height: int
    frames: int
    step: float | None = None
    decode: float | None = None  # of a frame
    encode: float | None = None
    peak: int | None = None  # None where that cannot be known
    predicted: int | None = None
    plan: str = ""  # what is done to save memory
    notes: tuple[str, ...] = ()  # what had to be done differently
    problem: str = ""

    @property
    def cells(self) -> tuple[str, ...]:
        """A row of the table."""
        times = [f"{each:.3g} s" if each is not None else "-" for each in (self.step, self.decode, self.encode)]
        sizes = [amount(each) if each is not None else "-" for each in (self.peak, self.predicted)]
        how = self.problem or "; ".join([self.plan or "all at once", *self.notes])
        return (f"{self.width}x{self.height}, {self.frames} frames", *times, *sizes, how)


class Clock(Watch):
    """Remembers when each part of each stage was over."""

    def __init__(self) -> None:
        self.times: dict[str, list[float]] = {}

    def tick(self, stage: str, done: int, total: int, x0: Tensor | None = None) -> None:  # noqa: ARG002
        self.times.setdefault(stage, []).append(time.perf_counter())

    def seconds(self, stage: str, warm: int) -> float:
        """The median of the parts of a stage but the first, if there are more."""
        parts = [end - start for start, end in pairwise(self.times[stage])]
        return median(parts[warm:] or parts)


class Bench:
    """Measures on a host. Memory of the program is counted from when this was made."""

    def __init__(self, host: Host) -> None:
        self.host, self.before = host, own_memory().get("VmRSS", 0)

    def speed(self, model: Model, request: VideoRequest) -> Speed:
        """What a film of some steps takes, of which WARM do not count. RequestError for what is none."""
        filled = replace(request.filled(model.defaults), model=model.name)
        plan = planned(filled, model, companions(filled, model, self.host))
        (width, height), frames = plan.size, plan.shape[2]
        wanted = f"{frames} frames of {width}x{height} with the model {model.name}"
        try:
            with shortage_explained(wanted, partial(largest, filled, self.host)), inference(self.host.device):
                return self.measured(within_memory(plan, self.host))
        except MemoryShortage as error:
            return Speed(width, height, frames, problem=str(error))

    def measured(self, plan: Plan) -> Speed:
        """The same, within memory."""
        clock, peak = Clock(), [0]
        read_prompts(plan, self.host, Watch())  # what is opened for the first time takes longer
        with self.most(peak):
            latents = one_pass(plan, self.host, clock)
            assert latents is not None
            with LeanVAE(plan.model.vae, plan.memory, plan.shape[3:], self.host, clock.note) as vae:
                for _ in decoded(latents[:, :, :DECODED], vae, clock):
                    pass
        return Speed(*plan.size, plan.shape[2], clock.seconds("denoise", WARM), clock.seconds("decode", 1),
                     clock.seconds("encode", 0), peak[0] or None, plan.memory.device, str(plan.memory), clock.notes)

    @contextmanager
    def most(self, found: list[int]) -> Iterator[None]:
        """Puts the most bytes on the device into `found[0]`: of torch's, or what the program has more by now."""
        kind = self.host.device.type
        if kind in ("cuda", "xpu"):
            backend = getattr(torch, kind)
            backend.reset_peak_memory_stats(self.host.device)
            yield
            found[0] = backend.max_memory_allocated(self.host.device)
            return

        def look() -> None:
            found[0] = max(found[0], own_memory().get("VmRSS", 0) - self.before)

        with repeated(look) if kind == "cpu" else nullcontext():
            yield


def requests(sizes: Sequence[str], frames: Sequence[str], steps: str, model: str) -> list[VideoRequest]:
    """A request for each size, WxH, and number of frames; none are the model's own. RequestError for what is none."""
    if not (steps.isdecimal() and 1 <= int(steps) <= 100):
        raise RequestError("steps", f"must be a whole number from 1 to 100, not {steps!r}")
    common: dict[str, Any] = {"model": model, "steps": WARM + int(steps), "seed": 1}
    shapes = [sides(size) | length(count) for size in sizes or ("",) for count in frames or ("",)]
    return [VideoRequest(PROMPT, NEGATIVE, **{**common, **shape}) for shape in shapes]


def sides(size: str) -> dict[str, int]:
    """WxH as settings of a request; none for ""."""
    width, cross, height = size.lower().partition("x")
    if size and not (cross and width.isdecimal() and height.isdecimal()):
        raise RequestError("size", f"must be WIDTHxHEIGHT in pixels, as 256x256, not {size!r}")
    return {"width": int(width), "height": int(height)} if size else {}


def length(frames: str) -> dict[str, int]:
    """The same of a number of frames."""
    if frames and not frames.isdecimal():
        raise RequestError("frames", f"must be a whole number, not {frames!r}")
    return {"frames": int(frames)} if frames else {}


# ---- a model that nobody has fetched ----


def random_model(
    host: Host, unet: UNetConfig | None = None, vae: AutoencoderConfig | None = None, text: TextConfig | None = None
) -> Model:
    """The published model with random weights, in the precisions of `host`: as slow, and shows noise.

    On the CPU, all of it is in memory, for reading it is what takes time there; RequestError if it does not fit. For
    another device all weights are the same few numbers, until they are copied there.
    """
    networks = (blank(UNet3D, unet or UNetConfig()), blank(AutoencoderKL, vae or AutoencoderConfig()),
                blank(TextTower, text or TextConfig()))
    dtypes, cpu = (host.dtype, host.vae_dtype, host.dtype), host.device.type == "cpu"
    size = sum(weight.numel() * dtype.itemsize for network, dtype in zip(networks, dtypes, strict=True)
               for weight in network.state_dict().values())
    there = available_memory()
    if cpu and there is not None and size > there:
        raise RequestError("random", f"weights of the published size take {amount(size)} of memory, and "
                                     f"{amount(there)} are free; close other programs, or take --precision bfloat16")
    made = read_configuration(catalog.DEMO / "none")  # where there is no file, all is as published
    for network, dtype in zip(networks, dtypes, strict=True):
        dealt(network, dtype, cpu)
    return Model("random weights", catalog.DEMO, *networks, made.schedule(), asdict(made.defaults),
                 hash="0" * 10, projection=torch.tensor(made.latent_rgb))


def dealt(network: Network, dtype: torch.dtype, apart: bool) -> Network:
    """A blank network with weights that keep numbers within bounds; `apart`: each with memory of its own."""
    state = network.state_dict()
    most = max(weight.numel() for weight in state.values())
    pool = torch.randn(most, generator=torch.Generator().manual_seed(0)).mul_(0.02).to(dtype)

    def weight(name: str, like: Tensor) -> Tensor:
        if like.ndim == 1 and name.endswith("weight"):  # of a norm
            return torch.ones(like.shape, dtype=dtype)
        numbers = pool[: like.numel()].view(like.shape)
        return numbers.clone() if apart else numbers

    network.load_state_dict({name: weight(name, like) for name, like in state.items()}, assign=True)
    return network.eval().requires_grad_(False)


# ---- in words ----


def machine(host: Host) -> dict[str, str]:
    """What the films are made on."""
    memory = host.memory
    return {"t2v": __version__, "device": device_name(host.device),
            "memory": f"{amount(memory.free)} of {amount(memory.total)} are free" if memory else "unknown",
            "torch": torch.__version__,
            "precision": f"{str(host.dtype)[6:]}, of the autoencoder {str(host.vae_dtype)[6:]}",
            "fused kernels": "yes" if fused.runs(host.device) else "no", "CUDA graphs": "yes" if graphs(host) else "no",
            "attention": kernels(host.device, host.dtype)}


def graphs(host: Host) -> bool:
    return host.settings.graphs and host.device.type == "cuda"


def text_of(name: str, told: Mapping[str, str], speeds: Iterable[Speed]) -> str:
    """A small page."""
    head = [f"{key:13}  {value}" for key, value in {"model": name, **told}.items()]
    rows = [HEAD, *(speed.cells for speed in speeds)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    table = ["  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([*head, "", *table])


def facts_of(name: str, told: Mapping[str, str], speeds: Iterable[Speed]) -> Facts:
    """The same for programs."""
    return {"model": name, "machine": dict(told), "films": [asdict(speed) for speed in speeds]}
