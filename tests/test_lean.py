"""Memory that runs out at every moment of a film, and numbers that fail: the film is made all the same, or it is said
why not, and nothing is left behind."""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from shutil import rmtree
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from t2v import generate as generating
from t2v import lean, needs
from t2v.errors import MemoryShortage, T2VError
from t2v.generate import Film, Watch, generate
from t2v.hosts.standalone import Standalone
from t2v.lean import flat, safer
from t2v.memory import UNET
from t2v.models import Model
from t2v.models.lora import merge
from t2v.models.modelscope import load
from t2v.request import VideoRequest
from t2v.settings import Settings
from t2v.video import read_film
from tests.fixtures import make_model
from tests.footprint import Footprint
from tests.loras import NAMED, drawn
from tests.test_companions import TEXT
from tests.test_companions import UNET as TOUCHED

REQUEST = VideoRequest(prompt="a red circle", negative_prompt="blurry", model="tiny", width=32, height=32, frames=2,
                       fps=8, steps=3, cfg_scale=3, sampler="DDIM", spacing="trailing", seed=7, format="png")
FILMS: dict[str, dict[str, Any]] = {
    "plain": {},
    "with LoRAs": {"loras": "style:0@0,0.8@1, words:0.5"},
    "in windows": {"frames": 4, "window": 3, "overlap": 1},
    "in two passes": {"upscale": 2},
    "DPM++ 2M": {"sampler": "DPM++ 2M"},
    "UniPC": {"sampler": "UniPC"},
}
LADDERS = {"the CPU's": lean.rungs, "a GPU's": lambda _: UNET}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load(make_model(tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture
def host(tmp_path: Path) -> Standalone:
    folder = tmp_path / "models" / "Lora"
    folder.mkdir(parents=True)
    NAMED["kohya.safetensors"](drawn(TOUCHED), folder / "style.safetensors")
    NAMED["diffusers.safetensors"](drawn(TEXT), folder / "words.safetensors")
    return Standalone(torch.device("cpu"), torch.float32, models=tmp_path / "models", outputs=tmp_path / "outputs")


@pytest.fixture(params=LADDERS)
def ladder(request: pytest.FixtureRequest) -> Iterator[None]:
    """The rungs that there are; streaming goes on a CPU as well, it only gains nothing."""
    with patch.object(lean, "rungs", LADDERS[request.param]), patch.object(needs, "rungs", LADDERS[request.param]):
        yield


def made(model: Model, host: Standalone, watch: Watch | None = None, **settings: Any) -> tuple[Film, Any]:
    (film,) = generate(replace(REQUEST, **settings), model, host, watch)
    return film, np.stack(list(read_film(film.path)[1])).astype(int)


def out_of_memory() -> Exception:
    return torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


class Faults:
    """Counts the moments at which memory may run out, and has it run out at some of them: fails(number of the moment,
    what goes on, number among those of its kind)."""

    def __init__(self, fails: Callable[[int, str, int], bool] = lambda *_: False) -> None:
        self.fails, self.number = fails, 0
        self.seen: list[str] = []
        self.failed: list[str] = []

    def watched(self, what: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.number += 1
            self.seen.append(what)
            if self.fails(self.number, what, self.seen.count(what)):
                self.failed.append(what)
                raise out_of_memory()
            return function(*args, **kwargs)

        return call

    @contextmanager
    def at_work(self, model: Model) -> Iterator["Faults"]:
        """Every call of a network, every time that one is placed, and every weight that a LoRA changes."""
        with (patch.object(model.unet, "forward", self.watched("unet", model.unet.forward)),
              patch.object(model.unet, "heard", self.watched("heard", model.unet.heard)),
              patch.object(model.text, "forward", self.watched("text", model.text.forward)),
              patch.object(model.vae, "encode", self.watched("vae", model.vae.encode)),
              patch.object(model.vae, "decode", self.watched("vae", model.vae.decode)),
              patch.object(merge, "mixture", self.watched("mixture", merge.mixture)),
              patch.object(lean, "placed", self.watched("placed", lean.placed)),
              patch.object(generating, "placed", self.watched("placed", generating.placed))):
            yield self


def weights(model: Model) -> dict[str, tuple[int, int, torch.dtype]]:
    """Which tensors the weights are, and that nobody has written to them."""
    return {f"{kind}.{name}": (weight.data_ptr(), weight._version, weight.dtype)
            for kind in ("unet", "vae", "text") for name, weight in getattr(model, kind).state_dict().items()}


def hooks(model: Model) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks)
               for net in (model.unet, model.vae, model.text) for module in net.modules())


def alive() -> int:
    """Tensors that there are."""
    gc.collect()
    return sum(issubclass(type(thing), Tensor) for thing in gc.get_objects())


def files(host: Standalone) -> set[Path]:
    return {path for path in host.outputs.rglob("*") if path.is_file()}


@contextmanager
def nothing_left(model: Model, host: Standalone) -> Iterator[None]:
    """Afterwards all is as it was; a film that failed has left no part of one."""
    before = weights(model), hooks(model), alive(), files(host)
    yield
    after = weights(model), hooks(model), alive(), files(host)
    assert after == before


# ---- memory runs out ----


@pytest.mark.parametrize(("ladder", "name"), [*(("a GPU's", name) for name in FILMS), ("the CPU's", "plain")],
                         indirect=["ladder"])
@pytest.mark.usefixtures("ladder")
def test_memory_may_run_out_at_any_moment_of_a_film(name: str, model: Model, host: Standalone) -> None:
    """Once, at each network call, each placing of weights: the film is the undisturbed one, to a grey level."""
    with Faults().at_work(model) as count:
        _, plain = made(model, host, **FILMS[name])
    moments = range(1, count.number + 1)
    for moment in moments:
        with Faults(lambda number, *_, moment=moment: number == moment).at_work(model) as faults:  # type: ignore[misc]
            film, frames = made(model, host, **FILMS[name])
        assert len(faults.failed) == 1
        assert np.abs(frames - plain).max() <= 1, faults.failed
        assert any(note.startswith("memory ran out while ") for note in film.notes), faults.failed


@pytest.mark.usefixtures("ladder")
def test_nothing_is_left_behind_by_a_film_that_memory_ran_out_of(model: Model, host: Standalone) -> None:
    settings = FILMS["with LoRAs"]
    made(model, host, **settings)
    for moment in range(1, 14, 3):
        with nothing_left(model, host), Faults(
                lambda number, *_, moment=moment: number == moment).at_work(model):  # type: ignore[misc]
            film, _ = made(model, host, **settings)
            rmtree(film.path)
            del film


@pytest.mark.parametrize("what", ["unet", "heard", "text", "vae", "mixture", "placed"])
@pytest.mark.usefixtures("ladder")
def test_where_no_rung_is_lean_enough_that_is_said_and_nothing_is_left(
    what: str, model: Model, host: Standalone
) -> None:
    made(model, host)
    with nothing_left(model, host), Faults(lambda _, where, __: where == what).at_work(model) as faults:
        with pytest.raises(MemoryShortage) as caught:
            made(model, host, loras="style")
        assert str(caught.value).startswith("not enough memory for 2 frames of 32x32 with the model tiny. ")
        assert len(faults.failed) > 1
        del caught


@pytest.mark.usefixtures("ladder")
def test_others_may_take_the_memory_again_and_again(model: Model, host: Standalone) -> None:
    """Each time after some steps that went well; the ladder goes on where it was."""
    with Faults().at_work(model):
        _, plain = made(model, host, steps=6)
    watch = Watch()
    with Faults(lambda _, what, nth: what == "unet" and nth % 3 == 0).at_work(model) as faults:
        film, frames = made(model, host, watch, steps=6)
    assert len(faults.failed) > 1
    assert np.abs(frames - plain).max() <= 1
    assert film.notes == watch.notes
    assert 1 <= len(film.notes) == len(set(film.notes)) <= len(faults.failed)


def test_notes_are_of_the_film_at_hand(model: Model, host: Standalone) -> None:
    with Faults(lambda _, what, nth: what == "unet" and nth < 3).at_work(model):
        first, second = generate(replace(REQUEST, batch_count=2), model, host)
    assert first.notes[0] == "memory ran out while denoising; went on with large layers in parts"
    assert second.notes == ()


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), KeyError("x")], ids=repr)
def test_what_is_no_shortage_is_not_tried_again(error: Exception, model: Model, host: Standalone) -> None:
    calls = []

    def broken(*_: object) -> Tensor:
        calls.append(1)
        raise error

    with patch.object(model.unet, "forward", broken), pytest.raises(type(error)) as caught:
        made(model, host)
    assert caught.value is error
    assert len(calls) == 1


@pytest.mark.parametrize("share", [0.95, 0.7, 0.4, 0.1])
def test_within_any_limit_a_film_is_made_or_the_shortage_told(share: float, model: Model, host: Standalone) -> None:
    """An allocator that has no more than so much of what the film would take, and counts every tensor."""
    settings = {"width": 128, "height": 128}
    known = [weight for net in (model.unet, model.vae, model.text) for weight in net.parameters()]
    with Footprint(known) as free:
        _, plain = made(model, host, **settings)
    before = weights(model), files(host)
    with Footprint(known, limit=share * free.peak) as footprint:
        said = ""
        try:
            film, frames = made(model, host, **settings)
        except MemoryShortage as error:
            said = str(error)
        gc.collect()
        assert footprint.now <= 0.01 * free.peak
    assert weights(model) == before[0]
    if said:
        assert said.startswith("not enough memory for 2 frames of 128x128 with the model tiny. ")
        assert files(host) == before[1]
    else:
        assert np.abs(frames - plain).max() <= 1
        assert film.notes


# ---- LoRAs on the way down ----


def test_loras_keep_their_strengths_from_rung_to_rung(model: Model, host: Standalone) -> None:
    """Streamed or resident, in mid-run, they are what they are at that step, and the originals what they were."""
    settings = FILMS["with LoRAs"] | {"steps": 6}
    _, plain = made(model, host, **settings)
    _, without = made(model, host, steps=6)
    assert np.abs(plain - without).max() > 3
    before = weights(model)
    shares = []
    stand = lean.LeanUNet.stand

    def seen(self: lean.LeanUNet, rung: Any) -> None:
        stand(self, rung)
        shares.append(rung.share)

    with (patch.object(lean, "rungs", lambda _: UNET), patch.object(lean.LeanUNet, "stand", seen),
          Faults(lambda _, what, nth: what == "unet" and nth % 2 == 0).at_work(model)):
        _, frames = made(model, host, **settings)
    assert {1.0} < set(shares)
    assert np.abs(frames - plain).max() <= 1
    assert weights(model) == before


# ---- numbers that are none ----


@pytest.fixture
def halves(host: Standalone) -> Standalone:
    return replace(host, precision=torch.float16, settings=Settings(vae_precision="network"))


def spoilt(network: nn.Module, name: str, value: float, *dtypes: torch.dtype) -> Any:
    """A network that says `value` everywhere where it is asked in some precisions."""
    usual = getattr(network, name)

    def call(x: Tensor, *args: Any) -> Tensor:
        said: Tensor = usual(x, *args)
        return torch.full_like(said, value) if x.dtype in dtypes else said

    return patch.object(network, name, call)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_network_that_fails_in_16_bits_goes_on_in_32(value: float, model: Model, halves: Standalone) -> None:
    exact, plain = made(model, replace(halves, precision=torch.float32))
    with spoilt(model.unet, "forward", value, torch.float16):
        film, frames = made(model, halves)
    assert exact.notes == ()
    assert film.notes == ("results were no numbers; went on in float32",)
    assert np.abs(frames - plain).mean() < 3


def test_a_network_that_says_no_numbers_at_all_makes_no_film(model: Model, halves: Standalone) -> None:
    with (nothing_left(model, halves), spoilt(model.unet, "forward", float("nan"), torch.float16, torch.float32),
          pytest.raises(T2VError, match="no numbers, not even in 32 bits")):
        made(model, halves)


@pytest.mark.parametrize("value", [float("nan"), -1.0])
def test_pictures_that_come_to_nothing_are_made_again_in_32_bits(
    value: float, model: Model, halves: Standalone
) -> None:
    _, plain = made(model, halves)
    with spoilt(model.vae, "decode", value, torch.float16):
        film, frames = made(model, halves)
    assert film.notes == ("a picture came to nothing; went on in float32",)
    assert np.abs(frames - plain).mean() < 3
    assert frames.std() > 3


def test_a_film_of_a_single_colour_is_made_all_the_same_and_said_to_be_one(model: Model, halves: Standalone) -> None:
    with spoilt(model.vae, "decode", 0.5, torch.float16, torch.float32):
        film, frames = made(model, halves)
    assert film.notes[-1] == "there are frames of a single colour"
    assert frames.min() == frames.max() == round(1.5 * 127.5)


def test_pictures_that_are_no_numbers_in_any_precision_make_no_film(model: Model, halves: Standalone) -> None:
    with (nothing_left(model, halves), spoilt(model.vae, "decode", float("nan"), torch.float16, torch.float32),
          pytest.raises(T2VError, match="pictures are no numbers")):
        made(model, halves)


def test_a_prompt_that_is_no_numbers_in_16_bits_is_read_in_32(model: Model, halves: Standalone) -> None:
    _, plain = made(model, halves)
    usual = model.text.forward

    def call(tokens: Tensor, dtype: torch.dtype) -> Tensor:
        said = usual(tokens, dtype)
        return torch.full_like(said, float("inf")) if dtype == torch.float16 else said

    with patch.object(model.text, "forward", call):
        film, frames = made(model, halves)
    assert film.notes == ("the prompt came to no numbers in float16",)
    assert np.abs(frames - plain).mean() < 3


def test_a_text_encoder_that_says_no_numbers_at_all_is_named(model: Model, halves: Standalone) -> None:
    with (patch.object(model.text, "forward", lambda tokens, _: torch.full((*tokens.shape, 4), float("nan"))),
          pytest.raises(T2VError, match="what the text encoder says is no numbers, not even in 32 bits")):
        made(model, halves)


def test_flat_is_what_differs_nowhere_by_a_level_of_grey() -> None:
    assert flat(torch.full((1, 3, 8, 8), 0.3))
    assert flat(torch.tensor([-1.0, 0, 1]).view(1, 3, 1, 1).expand(1, 3, 8, 8))  # of one colour
    picture = torch.zeros(1, 3, 8, 8)
    picture[0, 1, 2, 3] = 1 / 127.5
    assert not flat(picture)


def test_each_precision_holds_more_than_the_one_before() -> None:
    cpu = torch.device("cpu")
    assert safer(torch.float16, cpu) == [torch.float16, torch.float32]
    assert safer(torch.bfloat16, cpu) == [torch.bfloat16, torch.float32]
    assert safer(torch.float32, cpu) == [torch.float32]
    gpu = torch.device("cuda")
    with patch.object(torch.cuda, "get_device_capability", lambda device: (8, 0) if device == gpu else None):
        assert safer(torch.float16, gpu) == [torch.float16, torch.bfloat16, torch.float32]
    with patch.object(torch.cuda, "get_device_capability", lambda _: (7, 5)):  # which would imitate bfloat16
        assert safer(torch.float16, gpu) == [torch.float16, torch.float32]
