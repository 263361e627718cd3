"""What makes films faster and not quite the same: exact while it is off, by its definition while it is on."""

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from t2v.alive import Activations
from t2v.companions import companions
from t2v.denoising import Denoising
from t2v.errors import RequestError
from t2v.generate import encode, unet_at_work
from t2v.hosts.standalone import Standalone
from t2v.lean import LeanUNet, Reuse
from t2v.memory import UNET, UNetRung
from t2v.models import Model
from t2v.models.modelscope import load
from t2v.models.transformer import Conditioning
from t2v.models.unet import Deep, UNet3D, UNetConfig, joined, layers
from t2v.needs import film_of
from t2v.plan import planned
from t2v.request import VideoRequest
from t2v.start import Start
from t2v.watch import Watch
from tests import fixtures
from tests.networks import normal, randomised

REQUEST = VideoRequest(
    prompt="a red circle", negative_prompt="blurry", model="tiny", width=64, height=64, frames=4, fps=8, steps=5,
    cfg_scale=9, sampler="DDIM", spacing="modelscope", seed=7, format="png")
HALVES = next(rung for rung in UNET if not rung.pair)


@pytest.fixture(autouse=True)
def inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load(fixtures.make_model(tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture
def host(tmp_path: Path) -> Standalone:
    return Standalone(torch.device("cpu"), torch.float32, outputs=tmp_path)


class Counted(Watch):
    """Counts what the layers of a network are asked: how often, and about how many films in all."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.films: Counter[str] = Counter()


def latents(model: Model, host: Standalone, counted: Counted | None = None, rung: UNetRung | None = None,
            **changes: Any) -> Tensor:
    """Those of REQUEST with `changes`."""
    request, counted = replace(REQUEST, **changes), counted or Counted()
    plan = planned(request, model, companions(request, model, host))
    if rung:
        plan = replace(plan, memory=replace(plan.memory, unet=rung))

    def count(name: str) -> Any:
        def hook(_module: nn.Module, _inputs: Any, y: Tensor) -> None:
            counted.calls[name] += 1
            counted.films[name] += len(y)
        return hook

    hooks = [model.unet.out.register_forward_hook(count("all")),
             model.unet.input_blocks[2].register_forward_hook(count("deep"))]  # the only Downsample
    try:
        with unet_at_work(plan, host, Watch()) as network:
            made = Denoising(plan, encode(plan, host), network, host, Watch()).latents(Start())
    finally:
        for hook in hooks:
            hook.remove()
    assert made is not None
    return made


# ---- guidance in an interval ----


def test_guidance_from_begin_to_end_is_guidance(model: Model, host: Standalone) -> None:
    assert torch.equal(latents(model, host, cfg_from=0.0, cfg_until=1.0), latents(model, host))


@pytest.mark.parametrize("sampler", ["DDIM", "DPM++ 2M"])
@pytest.mark.parametrize(("begin", "end", "guided"), [
    (0.2, 0.8, 3), (0, 0.5, 3), (0.5, 1, 2), (0.6, 0.61, 1), (1e-3, 1, 4)])
def test_the_negative_prompt_is_asked_in_the_interval_only(
    model: Model, host: Standalone, sampler: str, begin: float, end: float, guided: int
) -> None:
    """A step is guided if it begins in the interval; of these the network is asked about two films."""
    counted = Counted()
    latents(model, host, counted, sampler=sampler, cfg_from=begin, cfg_until=end)
    assert counted.films["all"] == 5 + guided


def test_a_film_of_steps_without_guidance_is_that_of_the_prompt_alone(model: Model, host: Standalone) -> None:
    """The interval (0.8, 0.81) holds the last of 5 steps; DDIM's latents before it are those without any guidance."""
    plain = latents(model, host, cfg_scale=1.0)
    late = latents(model, host, cfg_from=0.8)
    early = latents(model, host, cfg_until=0.2)
    exact = latents(model, host)
    assert not torch.equal(late, plain)
    assert not torch.equal(early, plain)
    assert (late - plain).norm() < (exact - plain).norm()


def test_an_empty_interval_is_refused(model: Model, host: Standalone) -> None:
    with pytest.raises(RequestError, match="cfg_until: must be more than"):
        latents(model, host, cfg_from=0.5, cfg_until=0.5)


# ---- deep features, used again ----


@pytest.mark.parametrize("rung", [UNET[0], HALVES], ids=str)
def test_deep_layers_at_every_step_are_the_network_bit_for_bit(model: Model, host: Standalone, rung: UNetRung) -> None:
    counted = Counted()
    assert torch.equal(latents(model, host, counted, rung, reuse=1), latents(model, host, rung=rung))
    assert counted.calls["deep"] == counted.calls["all"] == 5 * (1 if rung.pair else 2)


@pytest.mark.parametrize("pair", [True, False])
@pytest.mark.parametrize("every", [2, 3, 4, 5, 10])
def test_deep_layers_are_asked_at_every_nth_call(model: Model, host: Standalone, every: int, pair: bool) -> None:
    counted = Counted()
    latents(model, host, counted, UNET[0] if pair else HALVES, reuse=every)
    assert counted.calls["deep"] == math.ceil(5 / every) * (1 if pair else 2)
    assert counted.calls["all"] == 5 * (1 if pair else 2)


def test_halves_reuse_what_the_pair_does(model: Model, host: Standalone) -> None:
    pair, halves = (latents(model, host, rung=rung, reuse=2) for rung in (UNET[0], HALVES))
    torch.testing.assert_close(pair, halves, atol=2e-4, rtol=1e-4)


def test_every_window_has_features_of_its_own(model: Model, host: Standalone) -> None:
    """Three windows of five steps are fifteen calls; were they counted together, two of them would ask deep layers."""
    counted = Counted()
    latents(model, host, counted, reuse=10, frames=8, window=4, overlap=2)
    assert (counted.calls["deep"], counted.calls["all"]) == (3, 15)


def test_where_windows_jitter_nothing_can_be_used_again(model: Model, host: Standalone) -> None:
    with pytest.raises(RequestError, match="has nothing to use again"):
        latents(model, host, reuse=2, frames=8, window=4, overlap=2, jitter=True)


def test_more_contexts_begin_anew(model: Model, host: Standalone) -> None:
    """Steps 0 | 1 2 3 | 4 tell the network one thing, two, and one again."""
    counted = Counted()
    latents(model, host, counted, reuse=10, cfg_from=0.2, cfg_until=0.8)
    assert counted.calls["deep"] == 3


@pytest.mark.parametrize("films", [1, 2])
def test_features_stand_for_the_layers_below_full_size(films: int) -> None:
    """Against the network written out: two levels of one block each, so that two blocks on either side are outer."""
    net = randomised(UNet3D(fixtures.UNET))
    before, now = normal(1, 4, 3, 5, 8), normal(1, 4, 3, 5, 8, seed=1)
    text, deep = normal(films, 7, 32, seed=2), Deep()
    timesteps = torch.tensor([900.0]), torch.tensor([700.0])
    exact = net(before, timesteps[0], text)
    assert torch.equal(net(before, timesteps[0], text, deep=deep), exact)
    kept = deep.features
    assert kept is not None
    copy = kept.clone()
    reused = net(now, timesteps[1], text, deep=deep)
    assert deep.features is kept
    assert torch.equal(kept, copy)

    def cond(timestep: Tensor) -> Conditioning:
        return Conditioning(net.shifts(timestep, torch.float32), net.heard(text), (5, 8), math.inf)

    def run(x: Tensor, block: nn.Module, cond: Conditioning) -> Tensor:
        for layer in layers(block):
            x = layer(x, cond)
        return x

    def down(x: Tensor, count: int, cond: Conditioning) -> list[Tensor]:
        x, skips = x.permute(0, 2, 3, 4, 1), []
        for block in net.input_blocks[:count]:
            skips.append(x := run(x, block, cond))
        return skips

    then, later = cond(timesteps[0]), cond(timesteps[1])
    skips = down(before, 4, then)
    x = run(skips[-1], net.middle_block, then)
    for block in net.output_blocks[:2]:
        x = run(joined(x, skips.pop()), block, then)
    torch.testing.assert_close(x, kept, atol=1e-5, rtol=0)
    skips = down(now, 2, later)
    for block in net.output_blocks[2:]:
        x = run(joined(x, skips.pop()), block, later)
    torch.testing.assert_close(net.out(x).permute(0, 4, 1, 2, 3), reused, atol=2e-5, rtol=0)
    assert (reused - net(now, timesteps[1], text)).abs().max() > 1e-3


def test_leaving_forgets(model: Model, host: Standalone) -> None:
    request = replace(REQUEST, reuse=2)
    plan = planned(request, model, companions(request, model, host))
    with unet_at_work(plan, host, Watch()) as network:
        Denoising(plan, encode(plan, host), network, host, Watch()).latents(Start())
        assert known(network)
        network.at(0.5)  # no LoRA, so the weights are the same
        assert known(network)
        network.release()
        assert not known(network)
        network.ladder.climb(network.stand)


def known(network: LeanUNet) -> list[Deep]:
    return [deep for reuse in network.reuses.values() for deep in reuse.deep]


def test_counting_begins_with_what_is_new() -> None:
    reuse = Reuse(3)
    first = reuse.parts(2, 1)
    assert reuse.parts(2, 1) is reuse.parts(2, 1) is first
    assert reuse.parts(2, 1) is not first  # the fourth call
    assert len(reuse.parts(2, 2)) == 2
    assert reuse.calls == 1
    reuse.forget()
    assert not reuse.deep


# ---- what it takes ----


def test_the_features_of_each_window_and_prompt_are_counted() -> None:
    film = film_of(replace(REQUEST, reuse=2), 4)
    assert film is not None
    assert film.kept == 2
    long = film_of(replace(REQUEST, reuse=2, frames=8, window=4, overlap=2, cfg_scale=1.0), 4)
    assert long is not None
    assert long.kept == 3
    exact = film_of(REQUEST, 4)
    assert exact is not None
    assert exact.kept == 0
    config = UNetConfig()
    more = Activations(config, 16, 32, 32, kept=2).peak - Activations(config, 16, 32, 32).peak
    assert more == 2 * 640 * 16 * 32 * 32


def test_what_is_kept_is_as_large_as_is_counted() -> None:
    net, deep = randomised(UNet3D(fixtures.UNET)), Deep()
    net(normal(1, 4, 3, 5, 8), torch.tensor([900.0]), normal(2, 7, 32), deep=deep)
    assert deep.features is not None
    assert deep.features.numel() == (Activations(fixtures.UNET, 3, 5, 8, kept=2).peak
                                     - Activations(fixtures.UNET, 3, 5, 8).peak)
