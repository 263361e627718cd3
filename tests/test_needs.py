"""What a request will need and how it fits: from settings to bytes, and the sentence made of it."""

import json
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from t2v import needs
from t2v.alive import Activations
from t2v.generate import generate
from t2v.hosts import Memory
from t2v.hosts.standalone import Standalone
from t2v.lean import LeanUNet
from t2v.memory import MemoryPlan
from t2v.models import Model, catalog, fused
from t2v.models.autoencoder import AutoencoderConfig, decoder_numbers
from t2v.models.modelscope import load
from t2v.models.text import TextTower
from t2v.models.unet import UNetConfig
from t2v.needs import Film, copies, film_of, need, need_of
from t2v.request import VideoRequest
from t2v.settings import Settings
from t2v.verdict import verdict
from t2v.video import write_film
from tests import fixtures
from tests.fixtures import PUBLISHED, make_model
from tests.footprint import Footprint, activations, step

GB = 2**30
PUBLISHED_WEIGHTS = 1_411_233_860
TEXT = 352_984_064 - 49_408 * 1024 - (12 * 1024**2 + 13 * 1024)  # words are looked up where they are; one layer is idle
TEXT_KEYS = 2 * 1024 * (320 * 5 + 640 * 5 + 1280 * 6)  # of attention at the text; asked once in a film, they stay away


@dataclass(frozen=True)
class Machine(Standalone):
    """The standalone host on a device of a kind that this machine need not have."""

    memory: Memory | None = None  # type: ignore[assignment]


def machine(kind: str, models: Path = Path("absent"), free: float = 9, total: float = 9, **settings: Any) -> Machine:
    return Machine(device=torch.device(kind), models=models, settings=Settings(**settings),
                   memory=Memory(int(free * GB), int(total * GB)))


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """A folder of models with one like the published: its configuration, and a UNet's file as large as in fp16."""
    folder = tmp_path / "text2video" / "published"
    folder.mkdir(parents=True)
    configured(folder, PUBLISHED)
    with open(folder / "text2video_pytorch_model.pth", "wb") as file:
        file.truncate(2 * PUBLISHED_WEIGHTS)
    return tmp_path


def configured(folder: Path, text: str) -> None:
    (folder / "configuration.json").write_text(text)


@pytest.fixture(autouse=True)
def kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """On GPUs, whatever the machine that tests has."""
    monkeypatch.setattr(fused, "ready", lambda device: device.type == "cuda")


def plan(request: VideoRequest, host: Machine, free: float = math.inf) -> MemoryPlan:
    found = need(request, host, free)
    assert found is not None
    return found


# ---- the estimate against a count; that of the UNet is in test_alive.py, that of the autoencoder in its own ----


def unet_at_work(config: UNetConfig, frames: int, height: int, width: int) -> Callable[[nn.Module], object]:
    def run(net: nn.Module) -> object:
        x = torch.empty(1, config.in_dim, frames, height, width, dtype=torch.float16, device="cuda")
        context = torch.empty(1, 77, config.context_dim, dtype=torch.float16, device="cuda")
        return net(x, torch.empty(1, device="cuda"), context)

    return run


def test_what_the_text_tower_has_alive_is_nothing_beside_its_weights() -> None:
    def run(tower: nn.Module) -> object:
        return tower(torch.empty(1, 77, dtype=torch.int64, device="cuda"), torch.float16)

    assert activations(TextTower, torch.float16, run) < 0.01 * 2 * 350e6


def test_a_whole_film_has_alive_what_was_estimated(tmp_path: Path) -> None:
    """Sampler, guidance and files included."""
    host = replace(machine("cpu"), outputs=tmp_path)
    request = VideoRequest("a red circle moving right", frames=16, width=128, height=128, steps=2, seed=1)
    model = catalog.open_model("demo", [])
    found = plan(request, host)
    with Footprint(weight for net in (model.unet, model.vae, model.text) for weight in net.parameters()) as footprint:
        list(generate(request, model, host))
    assert found.device - found.weights == pytest.approx(footprint.peak, rel=0.15)


# ---- from a request to a number ----


def test_a_film_of_the_published_model_needs_what_a_step_is_counted_to_take(published: Path) -> None:
    """Both halves of guidance at once, in whole layers: the fastest way, which is what `need_of` is asked for."""
    request, host = VideoRequest(model="published", frames=16, width=256, height=256), machine("cuda", published)
    found = plan(request, host)
    assert found.weights == pytest.approx(2 * (PUBLISHED_WEIGHTS - TEXT_KEYS), rel=0.001)
    assert found.device == need_of(request, host) == pytest.approx(step((16, 32, 32), told=2).peak, rel=0.05)


def test_windows_and_second_passes_are_counted(published: Path) -> None:
    host = machine("cuda", published)

    def of(**settings: Any) -> int | None:
        return need_of(VideoRequest(model="published", **settings), host)

    assert of(frames=1000, window=16) == of(frames=16)
    assert of(frames=16, upscale=2) == of(frames=16, width=512, height=512)
    assert of(frames=4, film="a.mp4", extend=True, overlap=8) == of(frames=12)


@pytest.mark.parametrize("settings", [
    {"depth": 1, "frames": 200}, {"depth": 2, "frames": 1000}, {"extend": True, "frames": 200, "film": "a.mp4"},
    {"extend": True, "frames": 200, "film": "a.mp4", "overlap": 8}], ids=str)
def test_a_film_made_in_parts_takes_no_more_than_a_part(published: Path, settings: dict[str, Any]) -> None:
    host, usual = machine("cuda", published), VideoRequest(model="published", frames=16)
    assert plan(replace(usual, **settings), host, 3.4 * GB) == plan(replace(usual, film="a.mp4"), host, 3.4 * GB)


def test_twice_the_precision_is_twice_the_need(published: Path) -> None:
    request, host = VideoRequest(model="published"), machine("cuda", published)
    half, full = plan(request, host), plan(request, replace(host, precision=torch.float32))
    assert (full.device, full.weights) == pytest.approx((2 * half.device, 2 * half.weights), rel=0.001)


def test_the_autoencoder_is_the_peak_where_its_frames_are_large(published: Path) -> None:
    request = VideoRequest(model="published", frames=1, width=2048, height=2048)
    found = plan(request, machine("cuda", published), 9 * GB)
    assert found.tile == 0
    alive = decoder_numbers(AutoencoderConfig(), (2048, 2048), torch.float32)
    assert found.peaks["decode"] == pytest.approx(4 * (83_653_863 + alive), rel=0.001)
    less = plan(request, machine("cuda", published), 3 * GB)
    assert less.tile > 0
    assert less.peaks["decode"] <= 2.5 * GB < found.peaks["decode"] == found.device
    assert plan(request, machine("cuda", published, vae_precision="network")).peaks["decode"] < found.peaks["decode"]


def test_weights_that_stay_on_the_device_count_at_every_stage(published: Path) -> None:
    request = VideoRequest(model="published")
    usual, kept = (plan(request, machine("cuda", published, keep=keep)) for keep in ("memory", "device"))
    for stage, own in (("encode", 2 * TEXT), ("denoise", 2 * (PUBLISHED_WEIGHTS - TEXT_KEYS)),
                       ("decode", 4 * 83_653_863)):
        others = 2 * TEXT + 2 * (PUBLISHED_WEIGHTS - TEXT_KEYS) + 4 * 83_653_863 - own
        assert kept.peaks[stage] - usual.peaks[stage] == pytest.approx(others, rel=0.002)


@pytest.mark.parametrize("free", [2.0, 3.4, 4.2])
def test_where_all_weights_cannot_stay_on_the_device_a_film_is_made_as_if_none_should(
    free: float, published: Path
) -> None:
    request = VideoRequest(model="published")
    usual, kept = (plan(request, machine("cuda", published, keep=keep), free * GB) for keep in ("memory", "device"))
    assert kept == usual
    assert not kept.lifted
    assert plan(request, machine("cuda", published, keep="device")).lifted


def test_on_the_cpu_weights_take_what_their_file_takes(published: Path) -> None:
    found = plan(VideoRequest(model="published"), machine("cpu", published, keep="device"))
    assert found.weights == 2 * PUBLISHED_WEIGHTS
    assert found.device - found.weights == 4 * Activations(UNetConfig(), 16, 32, 32, films=2, device="cpu").peak


def test_a_model_that_changes_is_looked_at_again(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "tiny")
    request, host = VideoRequest(model="tiny"), machine("cuda", tmp_path)
    before = need_of(request, host)
    configured(folder, json.dumps(fixtures.configuration(defaults={"width": 512, "height": 512, "frames": 4})))
    assert need_of(request, host) > 2 * before
    assert need_of(replace(request, width=64, height=64), host) == before


@pytest.mark.parametrize("spoil", [
    lambda folder: configured(folder, "{"),
    lambda folder: configured(folder, json.dumps(fixtures.configuration(defaults={"width": 9}))),
    lambda folder: (folder / "text2video_pytorch_model.pth").unlink(),
    lambda folder: (folder / "loop").symlink_to(folder / "loop")])
def test_where_there_is_no_telling_nothing_is_told(spoil: Callable[[Path], object], tmp_path: Path) -> None:
    spoil(make_model(tmp_path / "tiny"))
    request, host = VideoRequest(model="tiny"), machine("cuda", tmp_path)
    assert need_of(request, host) is None
    assert verdict(request, host) == ""


def test_of_a_model_that_is_not_there_nothing_is_told() -> None:
    assert need_of(VideoRequest(model="../demo"), machine("cuda")) is None
    assert verdict(VideoRequest(model="absent"), machine("cuda")) == ""


def test_files_are_read_and_weights_counted_once(published: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is told before Generate is told at every change of the tab."""
    request, host = VideoRequest(model="published"), machine("cuda", published)
    first = need_of(request, host)

    def again(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(catalog, "configured", again)
    monkeypatch.setattr(needs, "counted", again)
    assert need_of(request, host) == first is not None


# ---- what of a film the UNet sees together ----


class Seen:
    """What the UNet of a tiny model is asked: numbers of frames, and of how many frames deep features are kept."""

    def __init__(self, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
        self.frames, self.kept = list[int](), list[int]()
        answer = LeanUNet.answer

        def watched(network: LeanUNet, *args: Any) -> torch.Tensor:
            said = answer(network, *args)
            features = [deep.features for reuse in network.reuses.values() for deep in reuse.deep]
            self.kept.append(sum(len(kept) * kept.shape[1] for kept in features if kept is not None))
            return said

        monkeypatch.setattr(LeanUNet, "answer", watched)
        self.hook = model.unet.register_forward_pre_hook(lambda _, inputs: self.frames.append(inputs[0].shape[2]))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load(make_model(tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture
def seen(tiny: Model, monkeypatch: pytest.MonkeyPatch) -> Iterator[Seen]:
    seen = Seen(tiny, monkeypatch)
    yield seen
    seen.hook.remove()


def counted_and_made(model: Model, folder: Path, **settings: Any) -> Film:
    """What is counted of a film, which is made, too; one that goes on does so after ten frames."""
    request = VideoRequest(**{"prompt": "a cat", "width": 16, "height": 16, "fps": 8, "steps": 2, "cfg_scale": 9,
                              "reuse": 2, "seed": 1, "format": "png"} | settings)
    if request.extend:
        before = write_film([np.full((16, 16, 3), 20 * n, np.uint8) for n in range(10)], folder / "before", 8)
        request = replace(request, film=str(before))
    (_,) = generate(request, model, Standalone(torch.device("cpu"), torch.float32, outputs=folder))
    film = film_of(request, model.defaults["frames"])
    assert film is not None
    return film


@pytest.mark.parametrize("upscale", [1, 2])
@pytest.mark.parametrize("settings", [
    {"frames": 1}, {"frames": 9}, {"frames": 9, "cfg_scale": 1}, {"frames": 9, "loop": True},
    {"frames": 9, "window": 4, "overlap": 2}, {"frames": 9, "window": 6, "overlap": 5, "loop": True},
    {"frames": 9, "window": 4, "overlap": 2, "jitter": True, "reuse": 1},
    {"frames": 6, "window": 6}, {"frames": 5, "window": 9}, {"frames": 9, "window": 4, "overlap": 0, "free_init": 2},
    {"frames": 1, "window": 3, "depth": 1}, {"frames": 3, "depth": 1}, {"frames": 10, "depth": 1},
    {"frames": 3, "window": 6, "depth": 1}, {"frames": 12, "depth": 2}, {"frames": 14, "depth": 1, "overlap": 1},
    {"frames": 1, "extend": True}, {"frames": 2, "extend": True, "overlap": 1}, {"frames": 9, "extend": True},
    {"frames": 9, "extend": True, "overlap": 0}, {"frames": 3, "extend": True, "overlap": 6},
    {"frames": 9, "extend": True, "window": 6, "overlap": 2, "free_init": 2},
    {"frames": 2, "extend": True, "window": 8, "overlap": 3},
], ids=str)
def test_as_many_frames_are_seen_and_kept_together_as_were_counted(
        settings: dict[str, Any], upscale: float, tiny: Model, seen: Seen, tmp_path: Path) -> None:
    film = counted_and_made(tiny, tmp_path, upscale=upscale, **settings)
    assert film.frames == max(seen.frames)
    assert film.kept * film.frames == max(seen.kept)


@pytest.mark.parametrize("settings", [
    {"frames": 20, "window": 3, "overlap": 1, "depth": 1, "upscale": 2},  # key frames in windows of four, then of three
    {"frames": 9, "extend": True, "overlap": 12},  # more than the film before has
    {"frames": 30, "extend": True, "overlap": 12, "window": 14},
], ids=str)
def test_never_are_more_frames_seen_or_kept_than_were_counted(
        settings: dict[str, Any], tiny: Model, seen: Seen, tmp_path: Path) -> None:
    film = counted_and_made(tiny, tmp_path, **settings)
    assert max(seen.frames) <= film.frames
    assert max(seen.kept) <= film.kept * film.frames


# ---- the sentence ----


@pytest.mark.parametrize(("kind", "free", "total", "words"), [
    ("cuda", 7.5, 8, "Needs about 2.9 GB on the device; 7.5 GB of 8.0 GB are free."),
    ("cuda", 2, 8, "Needs about 1.4 GB on the device; 2.0 GB of 8.0 GB are free (62% of the model streamed)."),
    ("cuda", 0.7, 8, "it will be tight, and easier with fewer frames or a smaller size."),
    ("cuda", 0.3, 8, "0.3 GB of 8.0 GB are free (100% of the model streamed, guidance in two halves, in parts, "),
    ("cuda", 0.3, 8, "decoding in tiles of 16x16 latents): others have to make room."),
    ("cuda", 0.3, 0.6, "it will be tight, and easier with fewer frames or a smaller size."),
    ("cuda", 0.3, 0.35, "it does not fit, so take fewer frames or a smaller size."),
    ("cpu", 12, 16, "Needs about 3.1 GB of memory; 12.0 GB of 16.0 GB are free."),
    ("cpu", 3.8, 16, "Needs about 3.1 GB of memory; 3.8 GB of 16.0 GB are free."),
    ("cpu", 3, 16, "it will be tight, and easier with fewer frames or a smaller size."),
    ("cpu", 2, 16, "it will be slow, reading the model from the disk at every step, unless other programs are closed."),
    ("cpu", 0.6, 16, "it does not fit, so take fewer frames or a smaller size, or close other programs."),
])
def test_the_sentence_says_what_there_is_and_what_to_do(
        kind: str, free: float, total: float, words: str, published: Path) -> None:
    said = verdict(VideoRequest(model="published"), machine(kind, published, free, total))
    assert words in said
    assert re.fullmatch(r"Needs about \d\.\d GB [^\n]*\.", said)
    assert ". " not in said


def test_where_memory_cannot_be_known_the_need_is_said_all_the_same(published: Path) -> None:
    host = replace(machine("mps", published), memory=None)
    assert re.fullmatch(r"Needs about \d\.\d GB on the device\.", verdict(VideoRequest(model="published"), host))
    on_cpu = replace(host, device=torch.device("cpu"))
    assert re.fullmatch(r"Needs about \d+ MB of memory\.", verdict(VideoRequest(), on_cpu))


def test_the_machines_memory_is_not_taken_for_that_of_an_unknown_device(published: Path) -> None:
    host = Standalone(torch.device("privateuseone"), models=published)
    assert host.memory is None
    assert Standalone(torch.device("cpu")).memory is not None
    found = need(VideoRequest(model="published"), host)
    assert found is not None
    assert str(found) == ""  # as fast as can be, for nothing speaks against it
    assert verdict(VideoRequest(model="published"), host).endswith("on the device.")


@pytest.mark.parametrize(("failed", "device", "laid_out_anew"), [
    ("cuda:0", "cuda", True), ("cuda:0", "cuda:0", True), ("cuda:0", "cuda:1", False), ("cpu", "cuda", False)])
def test_where_kernels_have_failed_norms_lay_out_their_input_anew(
        failed: str, device: str, laid_out_anew: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "failed", {torch.device(failed)})
    assert copies(torch.device(device)) is laid_out_anew
