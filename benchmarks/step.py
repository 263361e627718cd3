"""One denoising step beside the peers: `python -m benchmarks.step [--device cuda] [--sizes 16x256x256 ...]`.

The pair of classifier-free guidance goes through our UNet, modelscope's and diffusers', all with the same random
weights of the published size, in one process. On a CPU they advance by turns, layer by layer, and what each takes of
the processor is counted; on a GPU whole steps alternate. `--cap 4GiB` gives each peer such a GPU to itself, and ours
goes by the memory plan for it. `--streaming` compares ours with itself: all weights there, and all streamed.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from benchmarks.fullsize import drawn, shapes
from benchmarks.lean import host_of, plan_within, planned, streaming, streaming_report
from benchmarks.measure import DTYPES, GIB, asked, copying, machine, multiplication, problem, release, seconds, table
from benchmarks.peers import PEERS, Inputs, Peer, register
from benchmarks.relay import Relay, after_layers
from t2v.models.unet import UNet3D, UNetConfig
from tests.networks import normal

SIZES = ("16x256x256", "24x192x192", "24x256x256", "24x576x320", "24x1024x576", "125x256x256")
TINY = UNetConfig(dim=64, dim_mult=(1, 2), num_heads=3, head_dim=16, res_blocks=1, attn_scales=(1.0, 0.5))
TOLERANCE = 2e-5  # of numbers about 1, in fp32 on a CPU


@dataclass
class Outcome:
    """What a peer took for a step in each round, what it gave, and the bytes it had at its peak; or why it did not.

    plan: what is done to save memory, of a peer that has a plan for that.
    """

    seconds: list[float] = field(default_factory=list)
    result: Tensor | None = None
    memory: int | None = None
    problem: str = ""
    plan: str = ""


Outcomes = dict[str, Outcome]


def main() -> None:
    args = arguments()
    for address in args.peer:
        register(address)
    names = [*dict.fromkeys([*args.peers, *(address.partition(":")[2] for address in args.peer)])]
    device, dtype = torch.device(args.device), DTYPES[args.dtype or ("fp16" if args.device == "cuda" else "fp32")]
    if args.cap:
        torch.cuda.set_per_process_memory_fraction(args.cap / torch.cuda.get_device_properties(0).total_memory)
    config = TINY if args.small else UNetConfig()
    net = random_unet(config, dtype)
    rounds = args.rounds or (20 if device.type == "cuda" else 3)
    inputs = {size: inputs_of(size, config, device, dtype)
              for size in args.sizes or (SIZES if device.type == "cuda" else SIZES[:2])}
    measured: dict[str, Outcomes] = {}
    if args.streaming:
        text = streaming_report({size: streaming(net, each, rounds) for size, each in inputs.items()}, device, dtype)
    else:
        for size, each in inputs.items():
            measured[size] = (capped(net, names, each, rounds, args.cap) if args.cap else
                              compare(net, names, each, rounds))
            print(f"{size}: {'; '.join(words(*item) for item in measured[size].items())}", flush=True)
        text = report(measured, config, device, dtype)
    print(text)
    if args.write:
        args.write.write_text(text, encoding="utf-8")
    if device.type == "cpu" and dtype == torch.float32 and max(differences(measured), default=0.0) > TOLERANCE:
        sys.exit(f"The peers differ by more than {TOLERANCE}.")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", metavar="FxWxH", help=f"frames, width and height; of {' '.join(SIZES)}")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dtype", choices=DTYPES, help="fp32 on a CPU, fp16 on a GPU, if not told")
    parser.add_argument("--rounds", type=int, help="steps that are measured; 3 on a CPU, 20 on a GPU")
    parser.add_argument("--peers", type=lambda text: text.split(","), default=[*PEERS], help=",".join(PEERS))
    parser.add_argument("--peer", action="append", default=[], metavar="MODULE:FUNCTION", help="one more")
    parser.add_argument("--cap", type=lambda text: float(text.removesuffix("GiB")) * GIB, help="memory of the GPU")
    parser.add_argument("--streaming", action="store_true", help="ours alone, its weights there and streamed")
    parser.add_argument("--small", action="store_true", help="a tiny network, to try this")
    parser.add_argument("--write", type=Path, help="where the tables go, too")
    args = parser.parse_args()
    if args.cap and args.device != "cuda":
        parser.error("--cap is for --device cuda")
    if unknown := set(args.peers) - set(PEERS):
        parser.error(f"there is no {', '.join(unknown)}; there are: {', '.join(PEERS)}")
    return args


# ---- what is compared ----


def random_unet(config: UNetConfig, dtype: torch.dtype) -> UNet3D:
    """A UNet on the CPU, its weights scaled so that activations stay about 1."""
    with torch.device("meta"):
        net = UNet3D(config)
    return with_weights(net, drawn(shapes(net), dtype))


def with_weights(net: UNet3D, state: Mapping[str, Tensor]) -> UNet3D:
    net.load_state_dict(state, assign=True)
    return net.eval().requires_grad_(False)


def on_device(net: UNet3D, device: torch.device) -> UNet3D:
    """Another UNet with the same weights; on the CPU they stay the same memory, elsewhere they are side by side, as for
    films."""
    with torch.device("meta"):
        other = UNet3D(net.config)
    state = net.state_dict()
    if device.type == "cpu":
        return with_weights(other, state)
    flat = torch.cat([weight.flatten() for weight in state.values()]).to(device)
    parts = flat.split([weight.numel() for weight in state.values()])
    return with_weights(other, {name: part.view_as(state[name]) for name, part in zip(state, parts, strict=True)})


def inputs_of(size: str, config: UNetConfig, device: torch.device, dtype: torch.dtype) -> Inputs:
    frames, width, height = (int(side) for side in size.split("x"))
    x, contexts = normal(1, config.in_dim, frames, height // 8, width // 8), normal(2, 77, config.context_dim, seed=1)
    return x.to(device, dtype), torch.tensor([501.0], device=device), contexts.to(device, dtype)


def compare(net: UNet3D, names: Sequence[str], inputs: Inputs, rounds: int) -> Outcomes:
    """Some rounds of the peers called `names`, all with the weights of `net`."""
    device = inputs[0].device
    outcomes = {name: Outcome() for name in names}
    # The outer autocast does nothing but keep the weights that modelscope's casts, as the one around its sampler does.
    with torch.no_grad(), torch.autocast(device.type, enabled=False):
        if device.type == "cuda":
            peers = dict(placed(net, outcomes, inputs))
            alternate(peers, outcomes, inputs, rounds)
        else:
            interleave({name: PEERS[name](net) for name in names}, outcomes, inputs, rounds)
    return outcomes


# ---- on a CPU ----


def interleave(peers: Mapping[str, Peer], outcomes: Outcomes, inputs: Inputs, rounds: int) -> None:
    """All peers at once, layer by layer in turn."""
    x, timestep, contexts = inputs
    lengths = {name: layers_of(peer, (x[:, :, :1, :8, :8], timestep, contexts)) for name, peer in peers.items()}
    for _ in range(rounds):
        relay = Relay(lengths)
        results = relay.run({name: partial(in_pieces, peer, inputs, partial(relay.passes, name))
                             for name, peer in peers.items()})
        for name, outcome in outcomes.items():
            outcome.seconds.append(relay.seconds[name])
            outcome.result = results[name]


@torch.no_grad()  # every thread has to say so
def in_pieces(peer: Peer, inputs: Inputs, passes: Callable[[], None]) -> Tensor:
    with after_layers(peer.net, passes):
        return peer.step(*inputs)


def layers_of(peer: Peer, inputs: Inputs) -> int:
    """How many layers end in a step; it has been run once, then."""
    ended: list[None] = []
    in_pieces(peer, inputs, lambda: ended.append(None))
    return len(ended)


# ---- on a GPU ----


def placed(net: UNet3D, outcomes: Outcomes, inputs: Inputs) -> Iterator[tuple[str, Peer]]:
    """The peers that have room, after a first step of each, which tells what it has at its peak."""
    release()
    try:
        there = on_device(net, inputs[0].device)
    except RuntimeError as error:
        for outcome in outcomes.values():
            outcome.problem = problem(error)
        return
    for name, outcome in outcomes.items():
        try:
            peer = PEERS[name](there)
            if len(outcomes) == 1:
                del there  # a peer with weights of its own has no use for them
            release()
            others = torch.cuda.memory_allocated() - weights(peer)
            torch.cuda.reset_peak_memory_stats()
            outcome.result = peer.step(*inputs).float().cpu()
            outcome.memory = torch.cuda.max_memory_allocated() - others
        except RuntimeError as error:
            outcome.problem = problem(error)
        else:
            yield name, peer


def alternate(peers: dict[str, Peer], outcomes: Outcomes, inputs: Inputs, rounds: int) -> None:
    """Whole steps in turn; the first two of each only warm up."""
    for number in range(rounds + 2):
        for name in [*peers]:
            try:
                took = seconds(inputs[0].device, lambda peer=peers[name]: peer.step(*inputs))  # type: ignore[misc]
            except RuntimeError as error:
                outcomes[name].problem = problem(error)
                del peers[name]
                release()
                continue
            if number > 1:
                outcomes[name].seconds.append(took)


def weights(peer: Peer) -> int:
    """Bytes."""
    return sum(weight.nbytes for weight in peer.net.parameters())


def capped(net: UNet3D, names: Sequence[str], inputs: Inputs, rounds: int, cap: float) -> Outcomes:
    """`compare` for each by itself, for nothing may stand beside what is measured in `cap` bytes; ours has its plan."""
    outcomes: Outcomes = {}
    for name in names:
        outcomes |= {name: within(net, inputs, rounds, cap)} if name == "ours" else compare(net, [name], inputs, rounds)
    return outcomes


@torch.no_grad()
def within(net: UNet3D, inputs: Inputs, rounds: int, cap: float) -> Outcome:
    """Some rounds of ours as the memory plan for `cap` bytes has it. The peak is that of all steps, and of placing the
    weights."""
    host, outcome, notes = host_of(inputs), Outcome(), list[str]()
    frames, height, width = inputs[0].shape[2:]
    plan = plan_within(cap, net, (frames, height, width), host)
    release()
    others = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    try:
        with planned(net, plan, host, notes.append) as peer:
            outcome.result = peer.step(*inputs).float().cpu()
            alternate({"ours": peer}, {"ours": outcome}, inputs, rounds)
    except RuntimeError as error:
        outcome.problem = problem(error)
    outcome.memory = torch.cuda.max_memory_allocated() - others
    outcome.plan = "; ".join([str(plan) or "all at once", *notes])
    return outcome


# ---- what is told ----


def report(measured: Mapping[str, Outcomes], config: UNetConfig, device: torch.device, dtype: torch.dtype) -> str:
    """Tables in markdown: what each peer took, and what the device needs for our step at least."""
    flops, bandwidth = multiplication(device, dtype), copying(device)
    needs = {size: needed(size, config, dtype) for size in measured}
    floors = [(size, flop / 1e12, flop / flops, moved / 1e9, moved / bandwidth)
              for size, (flop, moved) in needs.items()]
    plans = any(outcome.plan for outcomes in measured.values() for outcome in outcomes.values())
    rows = [(*row(size, name, outcomes, needs[size][0] / flops), *([outcome.plan or None] if plans else []))
            for size, outcomes in measured.items() for name, outcome in outcomes.items()]
    kind = "of the processor" if device.type == "cpu" else "on the device"
    return "\n".join((
        f"{machine(device)}, {str(dtype).removeprefix('torch.')}. Seconds {kind}, medians of rounds. Largest matrix",
        f"products: {flops / 1e12:.3g} TFLOP/s; copies: {bandwidth / 1e9:.3g} GB/s.",
        "", table((*HEAD, "memory plan") if plans else HEAD, rows),
        "What our step asks of the device, and the least that takes:", "",
        table(("film", "TFLOP", "as matrix products, s", "GB moved, operation by operation", "as copies, s"), floors)))


HEAD = ("film", "peer", "seconds", "of modelscope", "of diffusers", "floor, s", "times floor", "peak, GiB",
        "differs from ours by")


def row(size: str, name: str, outcomes: Outcomes, floor: float) -> tuple[object, ...]:
    outcome = outcomes[name]
    if outcome.problem:
        return size, name, outcome.problem, None, None, floor, None, in_gib(outcome.memory), None
    took = median(outcome.seconds)
    return (size, name, took, ratio(outcome, outcomes.get("modelscope")), ratio(outcome, outcomes.get("diffusers")),
            floor, took / floor, in_gib(outcome.memory), difference(outcome, outcomes.get("ours")))


def words(name: str, outcome: Outcome) -> str:
    return f"{name} {outcome.problem or f'{median(outcome.seconds):.4g} s'}"


def ratio(outcome: Outcome, other: Outcome | None) -> float | None:
    """The median of the rounds' ratios: both had the same company in a round."""
    if other is None or other.problem:
        return None
    return median(mine / theirs for mine, theirs in zip(outcome.seconds, other.seconds, strict=True))


def difference(outcome: Outcome, other: Outcome | None) -> float | None:
    """The largest of all numbers."""
    if other is None or other is outcome or outcome.result is None or other.result is None:
        return None
    return float((outcome.result.float() - other.result.float()).abs().max())


def differences(measured: Mapping[str, Outcomes]) -> Iterator[float]:
    for outcomes in measured.values():
        found = (difference(outcome, outcomes.get("ours")) for outcome in outcomes.values())
        yield from (number for number in found if number is not None)


def in_gib(size: int | None) -> float | None:
    return None if size is None else size / GIB


def needed(size: str, config: UNetConfig, dtype: torch.dtype) -> tuple[int, int]:
    """FLOP and moved bytes of our step, counted without computing it."""
    meta = torch.device("meta")
    with meta:
        net = UNet3D(config).to(dtype).eval()
    with torch.no_grad():
        return asked(lambda: net(*inputs_of(size, config, meta, dtype)))


if __name__ == "__main__":
    main()
