"""Weights that come and go: the same films, to the last bit, from any share of the weights on the device."""

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import cache, partial
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from t2v import placement
from t2v.extra import Point, Strength
from t2v.layout import Division, Layout, divided, size_of, taken
from t2v.models.layers import side_by_side
from t2v.models.lora.merge import mixed
from t2v.models.lora.parts import Change, Target
from t2v.models.text import ResidualAttentionBlock, TextTower
from t2v.models.transformer import SpatialTransformer, TemporalTransformer
from t2v.models.unet import Downsample, ResBlock, UNet3D, UNetConfig, Upsample
from t2v.placement import lift, lower, placed
from t2v.traffic import Queue
from tests import fixtures
from tests.footprint import DEVICE, Footprint, activations, as_on_device, empty
from tests.networks import normal, randomised

CPU = torch.device("cpu")
KINDS = ResBlock, SpatialTransformer, TemporalTransformer, Downsample, Upsample, ResidualAttentionBlock
HALF = torch.float16

pytestmark = pytest.mark.usefixtures("no_grad")


@pytest.fixture(autouse=True)
def no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


@cache
def network(name: str, dtype: torch.dtype = torch.float32) -> nn.Module:
    with torch.inference_mode(False), torch.no_grad():  # or it could not be used outside of that mode
        net = UNet3D(fixtures.UNET) if name == "unet" else TextTower(replace(fixtures.TEXT, layers=5))
        return randomised(net).to(dtype)


def run(net: nn.Module, dtype: torch.dtype = torch.float32) -> Tensor:
    if isinstance(net, TextTower):
        return net(torch.arange(60).view(3, 20), dtype)
    return net(normal(1, 4, 2, 4, 4).to(dtype), torch.tensor([981]), normal(1, 7, 32, seed=1).to(dtype))


@cache
def plain(name: str, file: torch.dtype = torch.float32, dtype: torch.dtype = torch.float32) -> Tensor:
    with torch.inference_mode():
        return run(network(name, file), dtype)


def units_of(net: nn.Module) -> list[nn.Module]:
    """The layers of `net` that are called as a whole, in the order of execution."""
    return [module for module in net.modules() if isinstance(module, KINDS)]


@contextmanager
def unchanged(net: nn.Module) -> Iterator[None]:
    """Afterwards the weights have to be the very tensors that they were."""
    before = {name: (weight.data, weight.clone()) for name, weight in net.named_parameters()}
    try:
        yield
    finally:
        for name, weight in net.named_parameters():
            data, values = before[name]
            assert weight.data.is_set_to(data), name
            assert torch.equal(weight, values), name


# ---- the same numbers ----


@pytest.mark.parametrize("name", ["unet", "text"])
@settings(max_examples=10)
@given(data=st.data())
def test_any_share_of_the_weights_gives_the_same_to_the_last_bit(name: str, data: st.DataObject) -> None:
    net = network(name)
    layout = Layout(data.draw(st.permutations(units_of(net))))
    resident = data.draw(st.integers(0, size_of(net, torch.float32, layout)))
    pin = data.draw(st.booleans())
    with torch.inference_mode(), unchanged(net), placed(net, CPU, torch.float32, resident, pin, layout):
        for _ in range(2):
            assert torch.equal(run(net), plain(name))


@pytest.mark.parametrize("pin", [False, True])
@pytest.mark.parametrize("share", [0, 0.4, 1])
@pytest.mark.parametrize(("file", "dtype"), [(HALF, torch.float32), (torch.float32, torch.bfloat16), (HALF, HALF)])
@pytest.mark.parametrize("name", ["unet", "text"])
def test_weights_are_cast_on_their_way(
    name: str, file: torch.dtype, dtype: torch.dtype, share: float, pin: bool
) -> None:
    net = network(name, file)
    units, seen = units_of(net), set()
    layout = Layout(units)
    with unchanged(net), placed(net, CPU, dtype, int(share * size_of(net, dtype, layout)), pin, layout):
        hooks = [unit.register_forward_pre_hook(lambda unit, _: seen.update(w.dtype for w in unit.parameters()))
                 for unit in units]
        assert torch.equal(run(net, dtype), plain(name, file, dtype))
        for hook in hooks:
            hook.remove()
    assert seen == {dtype}


@pytest.mark.parametrize("share", [0, 1])
def test_the_weights_of_a_unit_lie_side_by_side(share: int) -> None:
    net = network("unet")
    units = [unit for unit in units_of(net) if isinstance(unit, SpatialTransformer | TemporalTransformer)]
    seen = []

    def look(unit: nn.Module, *_: object) -> None:
        attention = unit.get_submodule("transformer_blocks.0.attn1")
        q, k, v = (attention.get_submodule(name).weight for name in ("to_q", "to_k", "to_v"))  # type: ignore[misc]
        seen.append(torch.cat([q, k, v]).equal(q.as_strided((3 * len(q), q.shape[1]), q.stride())))  # type: ignore[arg-type]

    with placed(net, CPU, HALF, share * 10**9, layout=Layout(units)):
        hooks = [unit.register_forward_pre_hook(look) for unit in units]
        run(net)
        for hook in hooks:
            hook.remove()
    assert seen == [True] * len(units)


@pytest.mark.parametrize("pin", [False, True])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@settings(max_examples=5)
@given(data=st.data())
def test_a_forward_that_failed_anywhere_may_be_tried_again(
    error: type[BaseException], pin: bool, data: st.DataObject
) -> None:
    net = network("unet")
    units = units_of(net)
    resident = data.draw(st.integers(0, size_of(net, torch.float32, Layout(units))))
    layers = [module for module in net.modules() if isinstance(module, nn.LayerNorm | nn.Conv2d) or module in units]

    def fail(*_: object) -> None:
        raise error

    with torch.inference_mode(), unchanged(net), placed(net, CPU, torch.float32, resident, pin, Layout(units)):
        for when in data.draw(st.lists(st.sampled_from(["before", "after"]), max_size=3)):
            layer = data.draw(st.sampled_from(layers))
            hook = layer.register_forward_pre_hook(fail) if when == "before" else layer.register_forward_hook(fail)
            with pytest.raises(error):
                run(net)
            hook.remove()
        assert torch.equal(run(net), plain("unet"))


def test_between_forwards_streamed_weights_are_those_in_host_memory_even_after_an_error() -> None:
    net = network("unet")
    units = units_of(net)
    unit = next(unit for unit in units if isinstance(unit, ResBlock))

    def fail(*_: object) -> None:
        raise MemoryError

    originals = [weight.data for weight in unit.parameters()]
    with placed(net, CPU, HALF, 0, layout=Layout(units)):
        run(net)
        assert all(weight.data.is_set_to(data) for weight, data in zip(unit.parameters(), originals, strict=True))
        hook = unit.out_layers.register_forward_hook(fail)
        with pytest.raises(MemoryError):
            run(net)
        hook.remove()
        assert all(weight.data.is_set_to(data) for weight, data in zip(unit.parameters(), originals, strict=True))


def test_what_is_lent_stays_where_it_is() -> None:
    net = network("unet")
    units, lent = units_of(net), [part for name, part in net.named_modules() if name.endswith(("attn2.to_k", "out"))]
    kept = {weight: weight.data for part in lent for weight in part.parameters()}
    seen = []

    def look(*_: object) -> None:
        seen.append(all(weight.data.is_set_to(data) for weight, data in kept.items()))

    whole, less = (taken(net, HALF, 0, Layout(units, lent=each)) for each in ((), lent))
    assert (less.resident, less.moved) < (whole.resident, whole.moved)
    for resident in (0, 10**9):
        layout = Layout(units, lent=lent)
        with unchanged(net), placed(net, CPU, HALF, resident, layout=layout), hooked(units, look):
            run(net, HALF)
    assert seen == [True] * 2 * len(units)


@pytest.mark.parametrize("resident", [0, 300_000, 10**9])
def test_what_is_common_stays_side_by_side_though_it_belongs_to_units_that_come_and_go(resident: int) -> None:
    net = network("unet")
    units, common = units_of(net), [unit.emb_layers for unit in units_of(net) if isinstance(unit, ResBlock)]
    weights, biases = ([getattr(part[-1], name) for part in common] for name in ("weight", "bias"))  # type: ignore[index]
    seen = []

    def look(*_: object) -> None:
        seen.append([weight.data_ptr() for weight in (*weights, *biases)])
        assert side_by_side(weights) is not None
        assert side_by_side(biases) is not None
        assert {weight.dtype for weight in (*weights, *biases)} == {HALF}

    with unchanged(net), placed(net, CPU, HALF, resident, layout=Layout(units, common)):
        with hooked(units, look):
            run(net, HALF)
        look()
    assert len(seen) == len(units) + 1
    assert all(places == seen[0] for places in seen)


@pytest.mark.parametrize("name", ["unet", "text"])
@pytest.mark.parametrize("pin", [False, True])
@pytest.mark.parametrize("share", [0, 0.5, 1])
def test_a_network_s_own_layout_changes_nothing(name: str, share: float, pin: bool) -> None:
    net = network(name)
    resident = int(share * size_of(net, torch.float32))
    with torch.inference_mode(), unchanged(net), placed(net, CPU, torch.float32, resident, pin):
        for _ in range(2):
            torch.testing.assert_close(run(net), plain(name), atol=1e-5, rtol=0)  # one product rounds not as three do


@contextmanager
def hooked(units: list[nn.Module], look: Callable[..., object]) -> Iterator[None]:
    """Calls `look` before each unit computes."""
    hooks = [unit.register_forward_pre_hook(look) for unit in units]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


# ---- weights that change between forwards ----


def changes(net: nn.Module) -> list[tuple[Strength, Change]]:
    """Two of every third matrix, one that grows over the steps and goes again, and a constant one."""
    found = []
    named = [(name, weight) for name, weight in net.named_parameters() if weight.ndim > 1 and "embedding" not in name]
    for seed, (name, weight) in enumerate(named[::3]):
        target = Target("unet", name, tuple(weight.shape))
        thin = normal(len(weight), 2, seed=2 * seed), normal(2, weight[0].numel(), seed=2 * seed + 1)
        found.append((Strength((Point(0, 0), Point(0.5, 0.1), Point(1, 0))), Change(target, *thin, 1.0)))
        found.append((Strength.constant(-0.05), Change(target, thin[0].flip(0), thin[1], 1.0)))
    return found


PARTS = 0, 0.25, 0.25, 0.5, 0.75, 1, 0


@cache
def plainly_mixed(name: str) -> list[Tensor]:
    net = network(name)
    said = []
    with torch.inference_mode(), mixed(net, changes(net)) as mixture:
        for part in PARTS:
            mixture.at(part)
            said.append(run(net))
    return said


@pytest.mark.parametrize("pin", [False, True])
@pytest.mark.parametrize("share", [None, 0, 0.3, 0.7, 1])
@pytest.mark.parametrize("name", ["unet", "text"])
def test_loras_change_over_the_steps_wherever_weights_stand(name: str, share: float | None, pin: bool) -> None:
    net, plainly = network(name), plainly_mixed(name)
    layout = Layout(units_of(net))
    resident = None if share is None else int(share * size_of(net, torch.float32, layout))
    with (unchanged(net), mixed(net, changes(net)) as mixture,
          placed(net, CPU, torch.float32, resident, pin, layout)):
        for part, expected in zip(PARTS, plainly, strict=True):
            mixture.at(part)
            assert torch.equal(run(net), expected)
    assert not torch.equal(plainly_mixed(name)[0], plain(name))


def test_where_bytes_are_no_numbers_each_weight_comes_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    net = network("unet")
    monkeypatch.setattr(placement, "PACKED", ())
    with unchanged(net), placed(net, CPU, torch.float64, 10**9):
        attention = next(module for module in net.modules() if isinstance(module, TemporalTransformer))
        block = attention.transformer_blocks[0]
        assert block.attn1.to_q.weight.dtype == torch.float64
        assert side_by_side([block.attn1.to_q.weight, block.attn1.to_k.weight]) is None
        assert torch.equal(run(net), plain("unet"))


def test_a_mixture_is_written_into_what_is_resident() -> None:
    net = network("unet")
    with mixed(net, changes(net)) as mixture, placed(net, CPU, HALF, 10**9, layout=Layout(units_of(net))):
        places = [weight.data_ptr() for weight in net.parameters()]
        mixture.at(0.3)
        assert [weight.data_ptr() for weight in net.parameters()] == places


# ---- the order of events ----


class Late(Queue):
    """A device whose copies come as late as they may, and which leaves nonsense in their place until then."""

    def __init__(self, device: torch.device) -> None:
        super().__init__(torch.device("cpu"))
        self.device, self.log, self.pending = device, LOG, dict[int, Callable[[], object]]()
        LOG.clear()

    def now(self) -> int:
        return self.record("now", 0)

    def copy(self, target: Tensor, source: Tensor, after: int) -> int:
        target.fill_(255)
        event = self.record("copy", target.data_ptr(), target.numel(), after)
        self.pending[event] = partial(target.copy_, source)
        return event

    def hold(self, event: int) -> None:
        self.record("hold", event)
        self.come(event)

    def wait(self, event: int | None) -> None:
        if event is not None:
            self.come(event)

    def come(self, event: int) -> None:
        for number in [number for number in self.pending if number <= event]:  # one after the other, as a queue does
            self.pending.pop(number)()

    def record(self, *entry: Any) -> int:
        self.log.append(entry)
        return len(self.log) - 1


LOG: list[Any] = []


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "Queue", Late)


@pytest.mark.usefixtures("late")
@pytest.mark.parametrize("pin", [False, True])
@pytest.mark.parametrize("count", [1, 2, 3, 100])
@pytest.mark.parametrize("name", ["unet", "text"])
def test_copies_may_come_as_late_as_the_events_let_them(name: str, count: int, pin: bool) -> None:
    net, plainly = network(name), plainly_mixed(name)
    units = units_of(net)[:count]
    with mixed(net, changes(net)) as mixture, placed(net, CPU, torch.float32, 0, pin, Layout(units)):
        for part, expected in zip(PARTS, plainly, strict=True):
            mixture.at(part)
            assert torch.equal(run(net), expected)


def watched(net: nn.Module, units: list[nn.Module], pin: bool, forwards: int = 3) -> list[Any]:
    """The log of some forwards, with ("compute", slot, unit) where units begin to, and ("computed", unit) after it."""
    def begin(number: int, unit: nn.Module, *_: object) -> None:
        LOG.append(("compute", next(unit.parameters()).untyped_storage().data_ptr(), number))

    def end(number: int, *_: object) -> None:
        LOG.append(("computed", number))

    with placed(net, CPU, torch.float32, 0, pin, Layout(units)), ExitStack() as undo:
        for number, unit in enumerate(units):
            undo.callback(unit.register_forward_pre_hook(partial(begin, number)).remove)
            undo.callback(unit.register_forward_hook(partial(end, number), prepend=True).remove)
        for _ in range(forwards):
            run(net)
        return list(LOG)


@pytest.mark.usefixtures("late")
@pytest.mark.parametrize("pin", [False, True])
def test_nothing_is_copied_into_a_slot_before_its_last_use_is_over(pin: bool) -> None:
    net = network("unet")
    log = watched(net, units_of(net), pin)
    uses: dict[int, int] = {}
    for number, (kind, *entry) in enumerate(log):
        if kind == "compute":
            uses[entry[0]] = number
        elif kind == "copy":
            slot, _, after = entry
            assert log[after][0] == "now"
            assert after > uses.get(slot, -1)
    assert len(uses) == 2


@pytest.mark.usefixtures("late")
@pytest.mark.parametrize("pin", [False, True])
def test_a_unit_is_sent_while_the_one_before_computes_and_waited_for(pin: bool) -> None:
    net = network("unet")
    units = units_of(net)
    log = watched(net, units, pin)
    copies = [(number, entry[1]) for number, entry in enumerate(log) if entry[0] == "copy"]
    held = [entry[1] for entry in log if entry[0] == "hold"]
    began = [(number, slot) for number, (kind, slot, *_) in enumerate(log) if kind == "compute"]
    ended = [number for number, entry in enumerate(log) if entry[0] == "computed"]
    assert len(began) == len(ended) == 3 * len(units)
    assert len(copies) == len(began) + 1  # the first unit waits for the next forward already
    for (number, slot), (own, there) in zip(began, copies, strict=False):
        assert slot == there
        assert own in held
        assert log.index(("hold", own)) < number
    # When the device has been told all that a unit computes, and before the next one is called.
    for end, (sent, other), (begin, slot) in zip(ended, copies[1:], [*began[1:], (len(log), 0)], strict=True):
        assert end < sent < begin
        assert slot in (other, 0)
    assert all(one != other for (_, one), (_, other) in pairwise(copies))


@pytest.mark.usefixtures("late")
@pytest.mark.parametrize("resident", [0, 200_000, 3_000_000])
def test_as_much_travels_as_was_foretold(resident: int) -> None:
    net = network("unet")
    units = units_of(net)
    with placed(net, CPU, torch.float32, resident, layout=Layout(units)):
        run(net)
        LOG.clear()
        run(net)
        moved = sum(entry[2] for entry in LOG if entry[0] == "copy")
    assert moved == taken(net, torch.float32, resident, Layout(units)).moved > 0


@pytest.mark.usefixtures("late")
@pytest.mark.parametrize("count", [1, 2])
def test_no_more_units_than_slots_are_brought_once(count: int) -> None:
    net = network("unet")
    units = units_of(net)[:count]
    assert len([entry for entry in watched(net, units, pin=False) if entry[0] == "copy"]) == count
    assert taken(net, torch.float32, 0, Layout(units)).moved == 0


@pytest.mark.usefixtures("late")
def test_those_that_come_first_stay() -> None:
    net = network("unet")
    units = units_of(net)[::-1]
    three = size_of(net, torch.float32, Layout(units[:3]))
    computed = {slot for kind, slot, *_ in watched(net, units, pin=False) if kind == "compute"}
    assert len(computed) == 2
    with placed(net, CPU, torch.float32, three, layout=Layout(units)):
        assert [unit.__class__ for unit in units if unit._forward_hooks] == [unit.__class__ for unit in units[3:]]
    assert not any(unit._forward_hooks or unit._forward_pre_hooks for unit in units)


# ---- bytes, counted on fake devices ----


class Turns(Queue):
    """A device without a second queue."""

    def __init__(self, device: torch.device) -> None:
        super().__init__(CPU)
        self.device = device


@pytest.fixture
def turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "Queue", Turns)


TINY, PUBLISHED = fixtures.UNET, UNetConfig()
FILE = torch.bfloat16  # on a fake device, what is not in HALF is a file's, see tests.footprint


@pytest.mark.usefixtures("turns")
@pytest.mark.parametrize(("config", "share"), [
    (TINY, None), (TINY, 0), (TINY, 0.7), (TINY, 1), (PUBLISHED, 0), (PUBLISHED, 0.5)])
def test_weights_take_what_was_foretold_and_no_more_while_it_runs(config: UNetConfig, share: float | None) -> None:
    """16 frames 256x256 on a GPU."""
    def work(net: nn.Module) -> None:
        x, text = (torch.empty(*shape, dtype=HALF, device=DEVICE) for shape in (
            (1, config.in_dim, 16, 32, 32), (1, 77, config.context_dim)))
        net(x, torch.empty(1, device=DEVICE), text)

    net = empty(lambda: UNet3D(config), FILE)
    layout = net.layout()._replace(lent=())  # these are brought by being used
    resident = None if share is None else int(share * size_of(net, HALF, layout))
    foretold = taken(net, HALF, resident, layout)
    with as_on_device(), Footprint(net.parameters(), DEVICE.type) as footprint:
        with placed(net, DEVICE, HALF, resident, layout=layout):
            assert footprint.now == foretold.device
            work(net)
        assert footprint.now == 0
    assert {weight.dtype for weight in net.parameters()} == {FILE}
    beside = activations(lambda: UNet3D(config), HALF, work)
    assert footprint.peak <= foretold.device + beside
    if config == PUBLISHED and share == 0:
        assert footprint.peak < 0.8 * 2**30  # the weights alone are 2.63 GiB


@pytest.mark.usefixtures("turns")
@pytest.mark.parametrize(("file", "share"), [(FILE, 0), (torch.float32, 0.5), (FILE, 1)])
def test_where_memory_is_full_everything_is_put_back_and_freed_before_the_error_leaves(
    file: torch.dtype, share: float
) -> None:
    net = empty(lambda: UNet3D(fixtures.UNET), file)
    resident = int(share * size_of(net, HALF))
    foretold = taken(net, HALF, resident)
    for limit in (0, foretold.resident // 3, foretold.device - 1):
        with (as_on_device(), Footprint(net.parameters(), DEVICE.type, limit) as footprint,
              pytest.raises(RuntimeError, match="out of memory") as error):
            placed(net, DEVICE, HALF, resident).__enter__()
        assert error.traceback  # is alive, and with it the frames of all that failed
        assert footprint.now == 0
        assert {weight.dtype for weight in net.parameters()} == {file}
        assert not any(unit._forward_hooks or unit._forward_pre_hooks for unit in net.modules())


@pytest.mark.usefixtures("turns")
def test_what_is_on_the_device_already_is_left_alone() -> None:
    net = empty(lambda: UNet3D(fixtures.UNET), FILE)
    layout = net.layout()._replace(lent=())
    with (as_on_device(), Footprint(net.parameters(), DEVICE.type) as footprint,
          placed(net, DEVICE, HALF, layout=layout)):
        before = footprint.peak = footprint.now
        for resident in (None, 0):
            with placed(net, DEVICE, HALF, resident, layout=layout):
                assert not any(unit._forward_hooks for unit in layout.units)
                assert footprint.now == footprint.peak == before
        assert {weight.dtype for weight in net.parameters()} == {HALF}


@pytest.mark.usefixtures("turns")
def test_the_file_may_be_more_precise_than_the_device_and_never_stands_there_twice() -> None:
    net = empty(lambda: UNet3D(fixtures.UNET), torch.float32)
    with as_on_device(), Footprint(net.parameters(), DEVICE.type) as footprint, placed(net, DEVICE, HALF):
        assert footprint.peak == footprint.now == taken(net, HALF, None).resident > 0


# ---- weights that stay between films ----


def test_what_is_lifted_is_left_alone_until_it_is_lowered(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a device of its own, where weights that are in their precision are there already."""
    def on_device(net: nn.Module, dtype: torch.dtype, *_: object) -> Division:
        return Division([], [], [part for part in divided(net, dtype, None).parts if part.weight.dtype != part.dtype])

    net = network("unet")
    at_work = partial(placed, net, CPU, HALF, 10**9)
    monkeypatch.setattr(placement, "divided", on_device)
    monkeypatch.setattr(placement, "placed", lambda *args, layout: placed(*args, 10**9, layout=layout))
    first = next(net.parameters())
    with unchanged(net):
        lift(net, CPU, HALF)
        there = first.data
        assert there.dtype == HALF
        lift(net, CPU, HALF)
        with at_work():
            assert first.data.is_set_to(there)
        assert first.data.is_set_to(there)
        with at_work():
            lower()  # memory has run out in the middle of a film
            assert first.dtype == torch.float32
            with at_work():
                assert first.dtype == HALF
        lift(net, CPU, HALF)
        lift(net, CPU, torch.float64)
        assert first.dtype == torch.float64
        lower(net)
        lower(net)


def test_a_network_that_cannot_be_lifted_is_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise torch.cuda.OutOfMemoryError

    monkeypatch.setattr(placement, "placed", fails)
    with pytest.raises(torch.cuda.OutOfMemoryError):
        lift(network("unet"), CPU, HALF)
    assert not placement.LIFTED


def test_page_locked_copies_take_whole_powers_of_two() -> None:
    net = network("unet")
    units = units_of(net)
    sizes = [unit.size for unit in divided(net, HALF, 0, Layout(units)).travel]
    found = taken(net, HALF, 0, Layout(units)).pinned
    assert sum(sizes) < found < 2 * sum(sizes)
    assert found == sum(2 ** math.ceil(math.log2(size)) for size in sizes)
    assert taken(net, HALF, None, Layout(units)).pinned == 0
