"""TextTower beside OpenCLIP's own text tower and transformers' CLIP."""

import importlib
import sys
from dataclasses import replace
from functools import cache
from importlib.metadata import distribution
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from t2v.models import layers
from t2v.models.text import TextConfig, TextTower
from tests.networks import assert_casts_at_use, assert_equal, gradients, normal, randomised
from tests.peers import transformers_text

SMALL = TextConfig(width=64, layers=4, heads=4, vocab_size=300, context_length=20)
CONFIGS = {
    "penultimate block": SMALL,
    "all blocks": replace(SMALL, skip_last=0),
    "two blocks skipped": replace(SMALL, skip_last=2),
    "one head": replace(SMALL, heads=1, layers=2),
    "heads of width 64 and 77 tokens, as published": TextConfig(width=128, layers=2, heads=2, vocab_size=300),
}
START, END, PAD = 298, 299, 0


@pytest.fixture(scope="module")
def open_clip() -> ModuleType:
    """open_clip/transformer.py, without the package around it.

    Importing the package would import torchvision and timm for the vision tower, of which the text tower uses
    nothing; one name of torchvision, a batch norm, is asked for on the way here and never called.
    """
    alone, misc = ModuleType("open_clip_alone"), ModuleType("torchvision.ops.misc")
    alone.__path__ = [str(distribution("open_clip_torch").locate_file("open_clip"))]
    misc.FrozenBatchNorm2d = torch.nn.Identity  # type: ignore[attr-defined]
    stubs = {"torchvision": ModuleType("torchvision"), "torchvision.ops": ModuleType("torchvision.ops")}
    with pytest.MonkeyPatch.context() as patch:
        for name, module in {**stubs, "torchvision.ops.misc": misc, "open_clip_alone": alone}.items():
            patch.setitem(sys.modules, name, module)
        return importlib.import_module("open_clip_alone.transformer")


@cache
def tower(config: TextConfig) -> TextTower:
    return randomised(TextTower(config))


def prompts(config: TextConfig) -> Tensor:
    """Three prompts of different lengths as OpenCLIP's tokenizer lays them out: start, words, end, zeros."""
    words = torch.randint(1, 298, (3, config.context_length), generator=torch.Generator().manual_seed(0))
    for row, length in zip(words, (0, 5, config.context_length - 2), strict=True):
        row[0], row[length + 1] = START, END
        row[length + 2 :] = PAD
    return words


def open_clip_context(open_clip: Any, net: TextTower, tokens: Tensor) -> Tensor:
    """What OpenCLIP's tower with the weights of `net` gives after the last used block and the final norm."""
    config = net.config
    theirs = open_clip.TextTransformer(
        context_length=config.context_length, vocab_size=config.vocab_size, width=config.width, heads=config.heads,
        layers=config.layers, output_dim=None)
    theirs.load_state_dict(net.state_dict())
    output = theirs.to(net.ln_final.weight.dtype).eval().forward_intermediates(
        tokens, indices=[config.layers - config.skip_last - 1], normalize_intermediates=True, output_fmt="NLC")
    context: Tensor = output["text_intermediates"][0]
    return context


@pytest.mark.parametrize("name", CONFIGS)
def test_it_equals_open_clip(open_clip: Any, name: str) -> None:
    net = tower(CONFIGS[name])
    tokens = prompts(net.config)
    with torch.no_grad():
        assert_equal(net(tokens), open_clip_context(open_clip, net, tokens))


def test_in_float64_only_rounding_is_left(open_clip: Any) -> None:
    net = randomised(TextTower(SMALL)).double()
    tokens = prompts(SMALL)
    ours = net(tokens, torch.float64)
    assert ours.dtype == torch.float64
    with torch.no_grad():
        assert_equal(ours, open_clip_context(open_clip, net, tokens), 1e-13)
        assert_equal(ours, transformers_text(net).double()(tokens).last_hidden_state, 1e-13)


@pytest.mark.parametrize("name", CONFIGS)
def test_it_equals_transformers(name: str) -> None:
    net = tower(CONFIGS[name])
    tokens = prompts(net.config)
    with torch.no_grad():
        assert_equal(net(tokens), transformers_text(net)(tokens).last_hidden_state)


def test_importing_open_clip_leaves_no_stub_behind(open_clip: Any) -> None:
    assert open_clip.__name__ == "open_clip_alone.transformer"
    assert "open_clip_alone" not in sys.modules
    assert "torchvision.ops.misc" not in sys.modules or hasattr(sys.modules["torchvision.ops.misc"], "__file__")


@pytest.mark.parametrize("place", [0, 7, 19])
def test_a_token_changes_nothing_before_itself(place: int) -> None:
    net, tokens = tower(SMALL), prompts(SMALL)
    changed = tokens.clone()
    changed[:, place] = 123
    change = (net(changed) - net(tokens)).abs().amax(dim=(0, 2))
    assert change[:place].eq(0).all()
    assert change[place:].gt(1e-4).all()


@pytest.mark.parametrize("length", [1, 2, 13])
def test_fewer_tokens_give_the_beginning_of_the_context(length: int) -> None:
    net, tokens = tower(SMALL), prompts(SMALL)
    assert_equal(net(tokens[:, :length]), net(tokens)[:, :length], 5e-6)


def test_padding_is_read_like_any_token() -> None:
    net, tokens = tower(SMALL), prompts(SMALL)[:1]  # the empty prompt: start, end and eighteen zeros
    context = net(tokens)
    assert context[0, 2:].std(dim=0).mean() > 0.1
    assert (net(tokens.where(tokens != PAD, END)) - context)[0, 2:].abs().mean() > 0.1


def test_a_skipped_block_is_not_computed() -> None:
    net = randomised(TextTower(SMALL))
    tokens = prompts(SMALL)
    expected = net(tokens)
    for weight in net.transformer.resblocks[-1].parameters():
        weight.fill_(torch.nan)
    assert torch.equal(net(tokens), expected)


def test_a_tower_saved_without_its_last_block_gives_the_same() -> None:
    whole = tower(SMALL)
    short = TextTower(replace(SMALL, layers=SMALL.layers - 1, skip_last=0)).requires_grad_(False)
    short.load_state_dict({key: value for key, value in whole.state_dict().items() if "resblocks.3." not in key})
    assert torch.equal(short(prompts(SMALL)), whole(prompts(SMALL)))


@pytest.mark.parametrize("limit", [1, 4, 9])
def test_attention_in_parts_changes_nothing(monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    net, tokens = tower(SMALL), prompts(SMALL)
    whole = net(tokens)
    monkeypatch.setattr(layers, "MAX_ROWS", limit)
    assert_equal(net(tokens), whole, 1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_weights_compute_in_float32_as_if_converted_beforehand(dtype: torch.dtype) -> None:
    net = randomised(TextTower(SMALL))
    assert_casts_at_use(net, dtype, lambda: net(prompts(SMALL)))


def test_the_context_comes_in_the_precision_asked_for() -> None:
    net = tower(SMALL)
    context = net(prompts(SMALL), torch.bfloat16)
    assert context.dtype == torch.bfloat16
    assert 1e-5 < (context.float() - net(prompts(SMALL))).square().mean().sqrt() < 0.05


def test_every_used_weight_takes_part() -> None:
    net = randomised(TextTower(SMALL)).requires_grad_()
    context = net(prompts(SMALL))
    (context * normal(*context.shape)).sum().backward()
    strengths = gradients(net)
    unused = {name for name, _ in net.named_parameters() if ".resblocks.3." in name}
    assert net.state_dict().keys() - strengths.keys() == unused
    assert min(strengths.values()) > 1e-3, min(strengths, key=strengths.__getitem__)
