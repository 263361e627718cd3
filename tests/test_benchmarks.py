"""The benchmarks measure what they say; with networks so small that it takes seconds."""

import json
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks import lean, loading, measure, peers, step
from benchmarks.relay import Relay, after_layers
from t2v import memory, needs
from t2v.hosts.standalone import Standalone
from t2v.layout import taken
from t2v.models import fused
from t2v.models.unet import UNet3D, UNetConfig
from t2v.traffic import Queue
from tests.fixtures import UNET, configuration, make_model, save_lightning, save_zip, states
from tests.networks import randomised

CPU = torch.device("cpu")


# ---- the relay ----


def busy(seconds: float) -> None:
    since = time.thread_time()
    while time.thread_time() - since < seconds:
        pass


def test_whoever_has_done_the_smallest_part_goes_on() -> None:
    relay, order = Relay({"long": 4, "short": 2}), list[str]()

    def run(name: str, pieces: int) -> str:
        for _ in range(pieces):
            order.append(name)
            relay.passes(name)
        return name

    assert relay.run({"long": partial(run, "long", 4), "short": partial(run, "short", 2)}) == {
        "long": "long", "short": "short"}
    assert order == ["long", "short", "long", "long", "short", "long"]


def test_each_is_charged_for_what_it_computes() -> None:
    relay = Relay({"much": 3, "little": 3})

    def run(name: str, seconds: float) -> None:
        for _ in range(3):
            busy(seconds / 3)
            relay.passes(name)

    relay.run({"much": partial(run, "much", 0.3), "little": partial(run, "little", 0.1)})
    assert 0.3 <= relay.seconds["much"] < 0.35
    assert 0.1 <= relay.seconds["little"] < 0.15


def test_an_error_of_one_lets_the_others_end_and_is_raised() -> None:
    relay, ended = Relay({"good": 2, "bad": 2}), list[str]()

    def good() -> None:
        relay.passes("good")
        relay.passes("good")
        ended.append("good")

    def bad() -> None:
        relay.passes("bad")
        raise KeyError("bad")

    with pytest.raises(KeyError, match="bad"):
        relay.run({"good": good, "bad": bad})
    assert ended == ["good"]


# ---- a step ----


@pytest.fixture(scope="module")
def net() -> UNet3D:
    return step.random_unet(step.TINY, torch.float32)


@pytest.fixture(scope="module")
def compared(net: UNet3D) -> step.Outcomes:
    return step.compare(net, [*peers.PEERS], step.inputs_of("2x96x64", net.config, CPU, torch.float32), 2)


def test_all_peers_agree_about_the_pair(compared: step.Outcomes) -> None:
    for outcome in compared.values():
        assert outcome.result is not None
        assert outcome.result.shape == (2, 4, 2, 8, 12)
        assert not torch.equal(*outcome.result)
        assert (step.difference(outcome, compared["ours"]) or 0) < step.TOLERANCE
        assert len(outcome.seconds) == 2


@pytest.mark.parametrize("name", peers.PEERS)
def test_fp32_peers_have_their_weights_in_our_memory(name: str, net: UNet3D) -> None:
    mine = {weight.data_ptr() for weight in net.parameters()}
    assert {weight.data_ptr() for weight in peers.PEERS[name](net).net.parameters()} == mine


def test_every_layer_passes_the_baton(net: UNet3D) -> None:
    inputs = step.inputs_of("1x64x64", net.config, CPU, torch.float32)
    layers = {name: step.layers_of(make(net), inputs) for name, make in peers.PEERS.items()}
    assert layers["ours"] >= 25
    assert layers["modelscope"] >= 2 * 20  # its two calls
    assert layers["diffusers"] >= 30


def test_hooks_are_gone_afterwards(net: UNet3D) -> None:
    with after_layers(net, lambda: None):
        assert any(module._forward_hooks for module in net.modules())
    assert not any(module._forward_hooks for module in net.modules())


def test_modelscope_keeps_fp32_weights_and_casts_them_once() -> None:
    net = step.random_unet(step.TINY, torch.bfloat16)
    peer = peers.PEERS["modelscope"](net)
    inputs = step.inputs_of("1x64x64", net.config, CPU, torch.bfloat16)
    assert {weight.dtype for weight in peer.net.parameters()} == {torch.float32}
    with torch.no_grad(), torch.autocast("cpu", enabled=False):
        first, second = (cast_of_weights(peer, inputs) for _ in range(2))
    assert first > 100
    assert second == 0


def cast_of_weights(peer: peers.Peer, inputs: peers.Inputs) -> int:
    """How many weights a step casts."""
    own = {weight.data_ptr() for weight in peer.net.parameters()}
    casts = list[int]()

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func is torch.ops.aten._to_copy.default and args[0].data_ptr() in own:
                casts.append(args[0].data_ptr())
            return func(*args, **(kwargs or {}))

    with Watch():  # type: ignore[no-untyped-call]
        peer.step(*inputs)
    return len(casts)


def test_on_a_gpu_steps_take_turns_and_who_has_no_room_is_named(net: UNet3D, monkeypatch: pytest.MonkeyPatch) -> None:
    """What counts on a GPU, with the CPU in its place."""
    order = list[str]()

    def named(name: str, room: int) -> Callable[[UNet3D], peers.Peer]:
        def run(x: Tensor, *_: Tensor) -> Tensor:
            order.append(name)
            if order.count(name) > room:
                raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
            return torch.cat([x, x])
        return lambda net: peers.Peer(net, run)

    made = {"ours": named("ours", 99), "never": named("never", 0), "later": named("later", 3)}
    monkeypatch.setattr(step, "PEERS", made)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: None)
    outcomes = {name: step.Outcome() for name in made}
    inputs = step.inputs_of("1x64x64", net.config, CPU, torch.float32)
    step.alternate(dict(step.placed(net, outcomes, inputs)), outcomes, inputs, 3)
    assert order == ["ours", "never", "later", *("ours", "later") * 3, "ours", "ours"]
    assert [outcome.problem for outcome in outcomes.values()] == ["", "out of memory", "out of memory"]
    assert len(outcomes["ours"].seconds) == 3  # the first two steps only warmed up
    assert outcomes["ours"].memory == sum(weight.nbytes for weight in net.parameters())


def test_one_more_peer_joins_by_its_address(net: UNet3D, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "PEERS", dict(peers.PEERS))
    peers.register("benchmarks.peers:with_ours")
    assert peers.PEERS["with_ours"](net).net is net


def test_the_report_has_a_row_for_each_peer_also_for_one_without_room(compared: step.Outcomes) -> None:
    outcomes = compared | {"large": step.Outcome(problem="out of memory")}
    text = step.report({"2x96x64": outcomes}, step.TINY, CPU, torch.float32)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| 2x96")]
    assert [row[1] for row in rows[:4]] == ["ours", "modelscope", "diffusers", "large"]
    assert rows[1][3] == rows[2][4] == "1.00"
    assert rows[3][2:5] == ["out of memory", "-", "-"]
    assert "memory plan" not in text


def test_a_ratio_is_the_median_of_those_of_the_rounds() -> None:
    assert step.ratio(step.Outcome([1.0, 10.0, 3.0]), step.Outcome([2.0, 40.0, 3.0])) == 0.5


def test_a_shortage_is_told_from_other_faults() -> None:
    assert measure.problem(torch.cuda.OutOfMemoryError("CUDA out of memory. Tried")) == "out of memory"
    assert measure.problem(RuntimeError("no kernel\nat all")) == "fails: no kernel"


# ---- a step within memory ----


@pytest.fixture
def copies(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Bytes of each unit that is streamed, which goes on a CPU as well; it only gains nothing."""
    copied, copy = list[int](), Queue.copy

    def seen(self: Queue, target: Tensor, source: Tensor, after: Any) -> Any:
        copied.append(target.nbytes)
        return copy(self, target, source, after)

    monkeypatch.setattr(Queue, "copy", seen)
    monkeypatch.setattr(memory, "STREAMS", ("cpu",))
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: None)
    return copied


INPUTS = step.inputs_of("2x96x64", step.TINY, CPU, torch.float32)


def test_under_a_small_cap_our_weights_are_streamed(net: UNet3D, copies: list[int]) -> None:
    outcomes = step.capped(net, ["ours", "diffusers"], INPUTS, 2, 1.0)
    assert outcomes["ours"].plan.startswith("100% of the model streamed, guidance in two halves, in parts")
    assert sum(copies) >= 2 * 2 * taken(net, torch.float32, 0).moved  # in each half of each step that counts
    assert len(outcomes["ours"].seconds) == 2
    assert (step.difference(outcomes["diffusers"], outcomes["ours"]) or 1) < step.TOLERANCE
    assert outcomes["diffusers"].plan == ""


def test_under_a_large_cap_they_stay(net: UNet3D, copies: list[int]) -> None:
    assert step.within(net, INPUTS, 1, 64e9).plan == "all at once"
    assert not copies


def test_what_had_to_be_leaner_than_planned_is_told(
    net: UNet3D, copies: list[int], monkeypatch: pytest.MonkeyPatch,  # noqa: ARG001
) -> None:
    forward, calls = net.forward, list[float]()

    def once_short(x: Tensor, timestep: Tensor, context: Any, at_once: float, deep: Any) -> Tensor:
        calls.append(at_once)
        if len(calls) == 1:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        return forward(x, timestep, context, at_once, deep)

    monkeypatch.setattr(net, "forward", once_short)
    outcome = step.within(net, INPUTS, 1, 64e9)
    assert outcome.plan == "all at once; memory ran out while denoising; went on with large layers in parts"
    assert not outcome.problem


def test_every_size_has_a_plan_within_4_gib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "ready", lambda device: device.type == "cuda")
    host = Standalone(torch.device("cuda"), torch.float16)
    with torch.device("meta"):
        published = UNet3D(UNetConfig()).half()
    for size in step.SIZES:
        frames, width, height = map(int, size.split("x"))
        plan = lean.plan_within(4 * 2**30, published, (frames, height // 8, width // 8), host)
        assert plan.device <= 4 * 2**30 - needs.RESERVE


def test_the_report_tells_plans_where_there_are_any(compared: step.Outcomes) -> None:
    planned = compared | {"ours": replace(compared["ours"], plan="in parts")}
    lines = step.report({"2x96x64": planned}, step.TINY, CPU, torch.float32).splitlines()
    ends = [line.split("|")[-2].strip() for line in lines if line.startswith(("| film | peer", "| 2x96x64 | "))]
    assert ends[:4] == ["memory plan", "in parts", "-", "-"]


def test_streaming_brings_all_that_travels_at_each_step(net: UNet3D, copies: list[int]) -> None:
    found = lean.streaming(net, INPUTS, 2)
    assert not found.problem
    assert found.moved == taken(net, torch.float32, 0).moved > 0
    steps = sum(copies) / found.moved
    assert 8 <= steps < 8.5  # two to warm up and two that count, with computing and without; one unit is ahead
    assert min(found.resident, found.streamed, found.brought) > 0


def test_overlap_is_the_share_of_bringing_that_nothing_waits_for() -> None:
    assert lean.Streaming(resident=3.0, streamed=3.0, brought=2.0).overlap == 1
    assert lean.Streaming(resident=3.0, streamed=3.5, brought=2.0).overlap == 0.75
    assert lean.Streaming(resident=3.0, streamed=5.0, brought=2.0).overlap == 0


def test_streaming_without_room_is_named(net: UNet3D, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> float:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(lean, "step_with", none)
    text = lean.streaming_report({"2x96x64": lean.streaming(net, INPUTS, 1)}, CPU, torch.float32)
    assert "| 2x96x64 | out of memory | - | - | - | - | - | - |" in text


def test_streaming_is_told_in_a_table_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "table.md"
    flags = ["--small", "--streaming", "--sizes", "2x96x64", "--rounds", "1", "--write", str(path)]
    monkeypatch.setattr("sys.argv", ["step", *flags])
    step.main()
    (line,) = (line for line in path.read_text("utf-8").splitlines() if line.startswith("| 2x96x64"))
    assert len(line.split("|")) == len(lean.HEAD) + 2
    assert "ours" not in path.read_text("utf-8")


# ---- what is asked of a device ----


def test_operations_are_counted_without_computing() -> None:
    with torch.device("meta"):
        layer, x = nn.Linear(64, 32, bias=False), torch.empty(10, 64)
    flop, moved = measure.asked(lambda: layer(x))
    assert flop == 2 * 10 * 64 * 32
    assert moved == 4 * (10 * 64 + 64 * 32 + 10 * 32)


def test_attention_is_asked_for_its_products_and_never_for_its_matrix() -> None:
    q, k, v = (torch.empty(1, 2, n, 16, device="meta") for n in (50, 70, 70))
    flop, moved = measure.asked(lambda: F.scaled_dot_product_attention(q, k, v))
    assert flop == 2 * 2 * (2 * 50 * 70 * 16)
    assert moved == 4 * 2 * 16 * (50 + 70 + 70 + 50)


def test_more_frames_ask_for_more() -> None:
    config = replace(step.TINY, dim_mult=(1,))
    once, twice = (step.needed(size, config, torch.float16) for size in ("4x64x64", "8x64x64"))
    assert 1.8 < twice[0] / once[0] < 2  # but the text is read once
    assert once[1] < twice[1]


# ---- loading ----


def folder_of(path: Path, config: UNetConfig) -> Path:
    """A tiny model whose UNet is `config`, its autoencoder inside a trainer's checkpoint."""
    make_model(path)
    content = configuration()
    content["model"]["model_cfg"] |= {"unet_num_heads": config.num_heads, "unet_context_dim": config.context_dim}
    content["t2v"]["text"]["width"] = config.context_dim
    (path / "configuration.json").write_text(json.dumps(content))
    save_zip(randomised(UNet3D(config)).state_dict(), path / "text2video_pytorch_model.pth")
    save_lightning(states()["VQGAN_autoencoder.pth"], path / "VQGAN_autoencoder.pth")
    return path


@pytest.mark.filterwarnings("ignore:.torch_dtype. is deprecated:FutureWarning")  # the version before had no other word
def test_ours_and_diffusers_load_the_same_model(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "tiny", replace(UNET, num_heads=8))
    loading.convert_to_diffusers(folder)
    assert [path.parent.name for path in sorted(loading.files(folder, "diffusers"))] == ["text_encoder", "unet", "vae"]
    check(loading.ours, folder)
    check(loading.ours_read, folder)
    check(loading.diffusers, folder)


def test_modelscope_loads_the_published_files(tmp_path: Path) -> None:
    check(loading.modelscope, folder_of(tmp_path / "tiny", replace(UNET, context_dim=1024)))


def check(load: Callable[[Path], loading.Facts], folder: Path) -> None:
    facts = load(folder)
    assert 0 < facts["processor"] < 60
    assert facts["seconds"] > 0
    assert 0 < facts["before"] <= facts["anonymous"]


def test_memory_of_the_process_is_seen_also_when_it_is_gone_at_the_end() -> None:
    facts: dict[str, float] = {}
    with measure.anonymous_peak(facts):
        taken: Tensor | None = torch.ones(2**26)  # 0.25 GiB
        time.sleep(0.1)
        del taken
    assert 0.24 < facts["anonymous"] - facts["before"] < 0.35


def test_loading_is_told_in_medians() -> None:
    rounds = [{"seconds": s, "processor": s, "anonymous": 0.4, "before": 0.1} for s in (1.0, 3.0, 2.0)]
    theirs = [facts | {"seconds": 10 * facts["seconds"]} for facts in rounds]
    text = loading.report({"fp16": {"ours": rounds, "modelscope": theirs}})
    assert "| fp16 | ours | 2.00 | 2.00 | 0.100 | 0.400 | 0.300 |" in text


def test_numbers_are_told_with_three_digits() -> None:
    assert [measure.told(cell) for cell in (1234.5, 12.345, 0.01234, 1.2e-5, 0.0, None, "x", 3)] == [
        "1234", "12.3", "0.0123", "1.2e-05", "0.00", "-", "x", "3"]


def test_the_bests_of_the_machine_are_found() -> None:
    assert measure.multiplication(CPU, torch.float32, side=256) > 1e8
    assert measure.copying(CPU, size=2**22) > 1e7
