"""The UNet at work: as lean as the memory plan says, leaner where memory runs out, and in a precision that holds.

It stands between guidance and the network, and neither notices: a sampler waits a little longer for its answer, and no
step is lost, whatever the sampler remembers of the steps before.
"""

import logging
from collections import OrderedDict
from collections.abc import Callable, Hashable
from contextlib import ExitStack
from functools import partial
from typing import Generic, TypeVar

import torch
from torch import Tensor

from t2v.errors import T2VError
from t2v.float8 import usable
from t2v.graphs import graphed
from t2v.guidance import Network
from t2v.hosts import Host
from t2v.layout import layout_of, resident_of
from t2v.memory import Ladder, MemoryPlan, UNetRung, downwards, rungs
from t2v.models.autoencoder import AutoencoderKL
from t2v.models.lora.merge import Mixture
from t2v.models.tiles import sides
from t2v.models.transformer import Heard
from t2v.models.unet import Deep, UNet3D
from t2v.needs import matrices, pinned
from t2v.placement import lower, placed

log = logging.getLogger(__name__)
Made = TypeVar("Made")
Note = Callable[[str], None]  # is told in words what had to be done differently


class Reuse:
    """What the deep layers said of one film, or window of one: they are asked at every `every`-th call."""

    def __init__(self, every: int) -> None:
        self.every = every
        self.forget()

    def forget(self) -> None:
        """The next call asks them, and the count begins anew."""
        self.calls, self.told, self.deep = 0, (0, 0), list[Deep]()

    def parts(self, contexts: int, passes: int) -> list[Deep]:
        """For a call about so many `contexts`, in so many `passes` of the network: what is known in each."""
        if self.told != (contexts, passes):
            self.forget()
        if self.calls % self.every == 0:
            self.deep = [Deep() for _ in range(passes)]
        self.told, self.calls = (contexts, passes), self.calls + 1
        return self.deep


class LeanUNet:
    """Answers (x_t, timestep, context) as the UNet itself does, inside a `with` block; `mixture` is of its weights."""

    def __init__(self, unet: UNet3D, mixture: Mixture, plan: MemoryPlan, host: Host, note: Note) -> None:
        self.unet, self.mixture, self.plan, self.host, self.note = unet, mixture, plan, host, note
        self.ladder = Ladder(downwards(rungs(host.device), plan.unet), "denoising", self.release, note,
                             lambda rung: str(rung) or "large layers in parts")
        self.precisions = safer(host.dtype, host.device)
        self.graphed = graphed(unet, host.device, host.settings.graphs, note)
        self.standing: float | None = None  # the share of the weights that is on the device
        self.stack = ExitStack()
        self.reuses: dict[Hashable, Reuse] = {}
        self.heard, self.both = Remembered(self.hear), Remembered(lambda *contexts: torch.cat(contexts))

    def __enter__(self) -> "LeanUNet":
        if self.host.settings.weights == "float8" and not usable(self.host.device):
            self.note("there are no numbers of 8 bits here; weights have the precision that is computed in")
        self.ladder.climb(self.stand)
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()

    def at(self, part: float) -> None:
        """Brings the weights to what they are when `part` of the steps, 0 to 1, are done."""
        self.ladder.climb(partial(self.mix, part))

    def mix(self, part: float, rung: UNetRung) -> None:
        """The same on a rung of the ladder."""
        self.stand(rung)
        if self.mixture.at(part):
            self.forget()

    def seeing(self, what: Hashable, every: int) -> Network:
        """The same for calls that are all about one film or window, `what`: deep layers are asked at every `every`-th
        call, and what they said is used again in between."""
        return self if every == 1 else partial(self, reuse=self.reuses.setdefault(what, Reuse(every)))

    def __call__(self, x_t: Tensor, timestep: Tensor, context: Tensor, reuse: Reuse | None = None) -> Tensor:
        """What the network says of x_t b c f h w; T2VError where that is no number in any precision."""
        while True:
            said = self.ladder.climb(partial(self.answer, x_t, timestep, context, reuse))
            if bool(said.isfinite().all()):
                return said.to(x_t.dtype)
            self.be_safer()

    def answer(self, x_t: Tensor, timestep: Tensor, context: Tensor, reuse: Reuse | None, rung: UNetRung) -> Tensor:
        """The same on a rung of the ladder, whatever it is."""
        self.stand(rung)
        x_t = x_t.to(self.precisions[0])
        whole = rung.pair or len(context) == len(x_t)
        if self.graphed and whole and rung.share == 1 and reuse is None:
            return self.graphed(x_t, timestep, self.heard(context), rung.at_once)
        passes: list[int | None] = [None] if whole else [*range(len(context))]
        deep = reuse.parts(len(context), len(passes)) if reuse else [None] * len(passes)
        said = [self.unet(x_t, timestep, self.heard(context, half), rung.at_once, known)
                for half, known in zip(passes, deep, strict=True)]
        return torch.cat(said) if len(said) > 1 else said[0]

    def hear(self, context: Tensor, half: int | None = None) -> Heard:
        """What the layers make of a context, or of one of several in it."""
        return self.unet.heard((context if half is None else context[half : half + 1]).to(self.precisions[0]))

    def stand(self, rung: UNetRung) -> None:
        """The weights where `rung` wants them."""
        if self.standing == rung.share:
            return
        self.leave()
        layout = layout_of(self.unet, matrices(self.host))
        resident = resident_of(self.unet, self.host.dtype, rung.share, layout)
        self.stack.enter_context(
            placed(self.unet, self.host.device, self.host.dtype, resident, pinned(self.unet, rung, self.host), layout))
        self.mixture.again()
        self.standing = rung.share

    def leave(self) -> None:
        """The weights back where they came from, and nothing kept of any text."""
        self.standing = None
        self.forget()
        self.both.clear()
        self.stack.close()

    def forget(self) -> None:
        """What was made of texts, recorded and kept of deep layers: weights or precision are others from now on."""
        self.heard.clear()
        if self.graphed:
            self.graphed.clear()
        for reuse in self.reuses.values():
            reuse.forget()

    def release(self) -> None:
        """Lets go of everything that can be had again, after memory has run out."""
        self.leave()
        make_room(self.host, self.plan.device)

    def be_safer(self) -> None:
        """On to the next precision, for the rest of the film."""
        if len(self.precisions) == 1:
            raise T2VError("what the model says is no numbers, not even in 32 bits: its weights are damaged, or a LoRA "
                           "is too strong")
        del self.precisions[0]
        self.forget()
        self.note(f"results were no numbers; went on in {name_of(self.precisions[0])}")


class LeanVAE:
    """The autoencoder at work on one picture after the other, inside a `with` block; latents are h, w = `size`."""

    def __init__(self, vae: AutoencoderKL, plan: MemoryPlan, size: tuple[int, int], host: Host, note: Note,
                 work: str = "decoding") -> None:
        self.vae, self.plan, self.host, self.note = vae, plan, host, note
        self.ladder = Ladder(downwards(sides(*size), plan.tile), work, self.release, note,
                             lambda tile: f"tiles of {tile}x{tile} latents")
        self.precisions = safer(host.vae_dtype, host.device)
        self.stack = ExitStack()

    def __enter__(self) -> "LeanVAE":
        self.ladder.climb(self.stand)
        return self

    def __exit__(self, *_: object) -> None:
        self.stack.close()

    def stand(self, _tile: int) -> None:
        """The weights where they work, all of them."""
        self.stack.enter_context(placed(self.vae, self.host.device, self.host.vae_dtype))

    def encode(self, pictures: Tensor) -> Tensor:
        """Pictures 1 3 h w in -1..1 as latents 1 c h w, in float32; T2VError where these are no numbers."""
        return self.made(lambda tile, dtype: self.vae.encode(pictures.to(dtype), tile)).float()

    def decode(self, latents: Tensor) -> Tensor:
        """Latents 1 c h w as a picture 1 3 h w, about -1..1; T2VError where that is no numbers."""
        def work(tile: int, dtype: torch.dtype) -> Tensor:
            return self.vae.decode(latents.to(dtype), tile)

        picture = self.made(work)
        while flat(picture) and len(self.precisions) > 1:
            self.be_safer()
            picture = self.made(work)
        if flat(picture):
            self.note("there are frames of a single colour")
        return picture

    def made(self, work: Callable[[int, torch.dtype], Tensor]) -> Tensor:
        """`work(tile, dtype)` as lean as it has to be, in the first precision in which it gives numbers."""
        while True:
            result = self.ladder.climb(lambda tile: work(tile, self.precisions[0]))
            if bool(result.isfinite().all()):
                return result
            self.be_safer()

    def be_safer(self) -> None:
        """On to the next precision, for the rest of the film."""
        if len(self.precisions) == 1:
            raise T2VError("the autoencoder's pictures are no numbers, not even in 32 bits: its weights are damaged")
        del self.precisions[0]
        self.note(f"a picture came to nothing; went on in {name_of(self.precisions[0])}")

    def release(self) -> None:
        """Lets go of everything that can be had again, after memory has run out."""
        make_room(self.host, self.plan.device)


def make_room(host: Host, need: int) -> None:
    """Frees weights that stay between films, and then what the host can, for `need` bytes: memory has run out."""
    lower()
    host.reclaim(need)


def flat(picture: Tensor) -> bool:
    """Whether a picture 1 3 h w in -1..1 shows nothing: no channel differs anywhere by more than half a grey level."""
    low, high = picture.float().flatten(2).aminmax(dim=-1)
    return bool((high - low).max() * 127.5 <= 0.5)


def safer(dtype: torch.dtype, device: torch.device) -> list[torch.dtype]:
    """The precision `dtype` and those after it, each of which holds numbers that the one before cannot."""
    between = dtype == torch.float16 and device.type == "cuda" and computes_bfloat16(device)
    return list(dict.fromkeys([dtype, *([torch.bfloat16] if between else []), torch.float32]))


def computes_bfloat16(device: torch.device) -> bool:
    """Whether a CUDA device has bfloat16 of its own; others imitate it, slower than float32."""
    return torch.version.hip is not None or torch.cuda.get_device_capability(device) >= (8, 0)


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


class Remembered(Generic[Made]):
    """A function of tensors whose last results are kept, for as long as the very same tensors come again."""

    def __init__(self, function: Callable[..., Made], size: int = 8) -> None:
        self.function, self.size = function, size
        self.known: OrderedDict[tuple[int, ...], tuple[tuple[object, ...], Made]] = OrderedDict()

    def __call__(self, *args: object) -> Made:
        key = tuple(map(id, args))
        if key not in self.known:
            self.known[key] = args, self.function(*args)  # with what they were made from, so that no other gets its id
        self.known.move_to_end(key)
        if len(self.known) > self.size:
            self.known.popitem(last=False)
        return self.known[key][1]

    def clear(self) -> None:
        self.known.clear()
