"""What `t2v bench` measures and prints, with the demo model."""

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from t2v import bench
from t2v.bench import HEAD, WARM, Bench, Clock, Speed, dealt, random_model, requests, text_of
from t2v.cli import main
from t2v.errors import RequestError
from t2v.generate import generate
from t2v.hosts.standalone import Standalone
from t2v.models import Model, catalog, fused
from t2v.models.checkpoint import blank
from t2v.models.unet import UNet3D, UNetConfig
from t2v.needs import need
from t2v.settings import Settings
from t2v.video import read_film
from tests import fixtures

SMALL = ["--size", "64x48", "--frames", "2", "--steps", "1"]


@pytest.fixture(scope="module")
def demo() -> Model:
    return catalog.open_model("demo", [])


@pytest.fixture
def host(tmp_path: Path) -> Standalone:
    return Standalone(torch.device("cpu"), torch.float32, tmp_path, tmp_path)


def told(capsys: pytest.CaptureFixture[str], *flags: str) -> dict[str, Any]:
    assert main(["bench", "--json", "--device", "cpu", *flags]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_every_size_is_measured_beside_what_was_predicted(capsys: pytest.CaptureFixture[str], host: Standalone) -> None:
    found = told(capsys, *SMALL, "--frames", "3")
    assert found["model"] == "demo"
    assert {"device", "memory", "torch", "precision", "fused kernels", "attention"} <= found["machine"].keys()
    assert [(film["width"], film["height"], film["frames"]) for film in found["films"]] == [(64, 48, 2), (64, 48, 3)]
    for film, request in zip(found["films"], requests(["64x48"], ["2", "3"], "1", "demo"), strict=True):
        assert min(film["step"], film["decode"], film["encode"]) > 0
        plan = need(request, host)
        assert plan is not None
        assert film["predicted"] == plan.device
        assert not film["problem"]


def test_a_table_for_people_has_a_row_for_each_film(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["bench", "--device", "cpu", "--output", str(tmp_path), *SMALL]) == 0
    *facts, empty, head, row = capsys.readouterr().out.splitlines()
    assert facts[0].split() == ["model", "demo"]
    assert not empty
    assert [column.strip() for column in head.split("  ") if column] == list(HEAD)
    assert row.startswith("64x48, 2 frames  ")
    assert row.endswith("all at once")
    assert not list(tmp_path.iterdir())  # no film


def test_what_is_measured_is_what_a_film_is_made_by(
    demo: Model, host: Standalone, monkeypatch: pytest.MonkeyPatch
) -> None:
    (request,) = requests(["64x48"], ["2"], "1", "demo")
    frames = []
    decoded = bench.decoded

    def kept(*args: Any) -> Any:
        for frame in decoded(*args):
            frames.append(frame)
            yield frame

    monkeypatch.setattr(bench, "decoded", kept)
    Bench(host).speed(demo, request)
    (film,) = generate(replace(request, format="png"), demo, host)
    assert all((ours == theirs).all() for ours, theirs in zip(frames, read_film(film.path)[1], strict=True))


def test_what_warms_up_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([0, 10, 15, 16, 18, 21])
    monkeypatch.setattr(time, "perf_counter", lambda: next(now))
    clock = Clock()
    for done in range(6):
        clock.tick("denoise", done, 5)
    assert clock.seconds("denoise", WARM) == 2  # of 1, 2, 3
    assert clock.seconds("denoise", 0) == 3
    assert clock.seconds("denoise", 9) == 3  # better than none


def test_a_film_that_does_not_fit_is_a_row_that_says_so(
    demo: Model, host: Standalone, monkeypatch: pytest.MonkeyPatch
) -> None:
    def short(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(bench, "one_pass", short)
    speed = Bench(host).speed(demo, requests([], [], "1", "demo")[0])
    assert "not enough memory for 8 frames of 64x64" in speed.problem
    assert speed.cells[1:6] == ("-",) * 5
    assert speed.problem in text_of("demo", {}, [speed])


def test_notes_and_the_memory_plan_are_told_in_words() -> None:
    assert Speed(8, 8, 1, plan="in parts", notes=("went on in bfloat16",)).cells[-1] == "in parts; went on in bfloat16"


@pytest.mark.parametrize(("flags", "field"), [
    (["--size", "64"], "size"), (["--size", "ax48"], "size"), (["--size", "63x48"], "width"),
    (["--frames", "many"], "frames"), (["--frames", "0"], "frames"), (["--steps", "0"], "steps"),
    (["--device", "abacus"], "device"), (["--model", "nowhere"], "")])
def test_what_cannot_be_measured_is_refused_in_one_line(
    flags: list[str], field: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", *flags]) == 2
    out, err = capsys.readouterr()
    assert not out
    assert err.startswith(f"t2v: {field}")
    assert err.count("\n") == 1


def test_a_model_of_random_weights_makes_films_of_numbers(host: Standalone) -> None:
    model = random_model(host, replace(fixtures.UNET, context_dim=32), fixtures.AUTOENCODER, fixtures.TEXT)
    speed = Bench(host).speed(model, requests(["64x48"], ["2"], "1", "demo")[0])
    assert speed.step
    assert not speed.notes
    assert not speed.problem


def test_random_weights_take_the_memory_of_real_ones_on_the_cpu_and_hardly_any_elsewhere() -> None:
    def memory(network: UNet3D) -> int:
        return sum({weight.untyped_storage().data_ptr(): weight.untyped_storage().nbytes()
                    for weight in network.parameters()}.values())

    whole, shared = (dealt(blank(UNet3D, fixtures.UNET), torch.float16, apart) for apart in (True, False))
    size = sum(weight.nbytes for weight in whole.parameters())
    assert memory(whole) == size
    assert memory(shared) < size / 5
    assert all(torch.equal(*pair) for pair in zip(whole.parameters(), shared.parameters(), strict=True))


def test_random_weights_that_do_not_fit_are_not_made(host: Standalone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "available_memory", lambda: 2**30)
    with pytest.raises(RequestError, match=r"random: .*take 6\.\d GB of memory, and 1\.0 GB are free"):
        random_model(host, UNetConfig())


def test_graphs_are_told_of_where_they_are_used() -> None:
    assert not bench.graphs(Standalone(torch.device("cpu"), settings=Settings(graphs=True)))
    assert bench.graphs(Standalone(torch.device("cuda"), settings=Settings(graphs=True)))


def test_a_shortage_is_the_only_error_that_becomes_a_row(
    demo: Model, host: Standalone, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("anything else")

    monkeypatch.setattr(bench, "one_pass", broken)
    with pytest.raises(RuntimeError, match="anything else"):
        Bench(host).speed(demo, requests(["64x48"], ["1"], "1", "demo")[0])


def test_kernels_that_have_failed_are_not_told_of(host: Standalone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "ready", lambda _: True)
    monkeypatch.setattr(fused, "failed", set())
    assert bench.machine(host)["fused kernels"] == "yes"
    fused.failed.add(torch.device("cpu:0"))  # as tensors on a GPU name theirs
    assert bench.machine(host)["fused kernels"] == "no"
