"""The command line, as people and scripts use it."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from urllib.parse import quote

import pytest

from t2v import __version__, cli
from t2v.cli import main, parser
from t2v.request import VideoRequest
from t2v.settings import Settings
from t2v.video import probe
from tests.fixtures import make_model

QUICK = ["--frames", "2", "--steps", "2", "--seed", "3"]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    make_model(folder / "ModelScope" / "tiny")
    return folder


def run(*args: str | Path) -> int:
    return main([str(arg) for arg in args])


def test_a_prompt_becomes_a_film_and_its_place_is_printed(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("generate", "a red circle", "--model", "tiny", "--models-dir", models, "--output", tmp_path, *QUICK) == 0
    (film,) = tmp_path.rglob("*.mp4")
    assert str(film) in capsys.readouterr().out
    assert probe(film).frames == 2


def test_several_prompts_make_several_films_and_json_tells_of_each(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("generate", "one", "two", "--model", models / "ModelScope" / "tiny", "--output", tmp_path, "--json",
               "--batch-count", "2", *QUICK) == 0
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [film["seed"] for film in told] == [3, 4, 3, 4]
    assert {Path(film["path"]) for film in told} == set(tmp_path.rglob("*.mp4"))


def test_info_shows_the_settings_of_a_film(models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("generate", "a red circle", "--model", "tiny", "--models-dir", models, "--output", tmp_path, *QUICK)
    (film,) = tmp_path.rglob("*.mp4")
    capsys.readouterr()
    assert run("info", film) == 0
    assert "a red circle\nSteps: 2, " in capsys.readouterr().out
    assert run("info", film, "--json") == 0
    assert json.loads(capsys.readouterr().out)["frames"] == 2


def test_models_lists_what_there_is_and_the_demo(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("models", "--models-dir", models, "--json") == 0
    listed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {"tiny", "demo"} <= {model["name"] for model in listed}


def test_a_broken_model_is_listed_with_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "ModelScope" / "broken").mkdir(parents=True)
    (tmp_path / "ModelScope" / "broken" / "configuration.json").write_text("<html>")
    assert run("models", "--models-dir", tmp_path, "--json") == 0
    (broken,) = [model for line in capsys.readouterr().out.splitlines()
                 if (model := json.loads(line))["name"] == "broken"]
    assert "is a web page" in broken["problem"]


def test_every_field_of_the_request_has_a_flag() -> None:
    flags = {spec.name for spec in fields(VideoRequest)} - {"prompt"}
    args = parser().parse_args(["generate", "x"])
    assert flags <= set(vars(args))


@pytest.mark.parametrize(("flags", "named"), [
    (["--frames", "0"], "frames"), (["--frames", "1000000000"], "frames"), (["--width", "100"], "width"),
    (["--sampler", "magic"], "sampler"), (["--steps", "-3"], "steps"), (["--steps", "2000"], "steps"),
    (["--cfg-scale", "nan"], "cfg_scale"), (["--fps", "inf"], "fps"), (["--seed", "1.5"], "seed"),
    (["--format", "avi"], "format"), (["--soundtrack", "/nowhere.wav"], "soundtrack"),
    (["--device", "magic"], "device"), (["--model", "no-such-model"], "no-such-model"),
])
def test_a_bad_request_is_one_clear_line_and_exit_code_2(
    flags: list[str], named: str, models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = ["generate", "x", "--model", "tiny", "--models-dir", models, "--output", tmp_path, *flags]
    assert run(*args) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith("t2v: ")
    assert named in line
    assert not list(tmp_path.rglob("*"))


def test_json_tells_of_errors_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("generate", "x", "--frames", "0", "--json", "--output", tmp_path) == 2
    assert "frames" in json.loads(capsys.readouterr().out)["error"]


def test_a_fault_of_ours_shows_its_place_only_on_request(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> object:
        raise KeyError("oops")

    monkeypatch.setattr(cli.catalog, "open_model", broken)
    assert run("generate", "x") == 1
    assert "Traceback" not in (quiet := capsys.readouterr().err)
    assert "KeyError" in quiet
    assert run("generate", "x", "--debug") == 1
    assert "Traceback" in capsys.readouterr().err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--version"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out == f"t2v {__version__}\n"


def started(models: Path, output: Path, *flags: str) -> "subprocess.Popen[str]":
    """A generation in a process of its own, once it has begun to work."""
    command = [sys.executable, "-m", "t2v", "generate", "x", "--model", "tiny", "--models-dir", str(models),
               "--output", str(output), *flags]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1,
                               cwd=Path(__file__).parent.parent, env={**os.environ, "OMP_NUM_THREADS": "1"})
    return process


def wait_for(process: "subprocess.Popen[str]", stage: str) -> None:
    """Reads the progress bar until a part of `stage` is done."""
    assert process.stderr is not None
    seen = ""
    while not re.search(rf"{stage}[^/]*\| [1-9]\d*/\d+ ", seen):
        char = process.stderr.read(1)
        assert char, f"ended before {stage}: {seen}"
        seen += char


def test_ctrl_c_stops_within_a_step_and_leaves_a_playable_film(models: Path, tmp_path: Path) -> None:
    process = started(models, tmp_path, "--frames", "2", "--steps", "1000", "--spacing", "leading")
    wait_for(process, "denoise")
    process.send_signal(signal.SIGINT)
    began = time.monotonic()
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert time.monotonic() - began < 30
    (film,) = tmp_path.rglob("*.mp4")
    assert probe(film).frames == 2
    assert "stopped early" in out


def test_kill_while_writing_leaves_no_film_and_earlier_films_survive(models: Path, tmp_path: Path) -> None:
    assert run("generate", "before", "--model", "tiny", "--models-dir", models, "--output", tmp_path, *QUICK) == 0
    process = started(models, tmp_path, "--frames", "3000", "--steps", "1", "--width", "16", "--height", "16")
    wait_for(process, "decode")
    process.kill()
    process.communicate()
    (film,) = tmp_path.rglob("*.mp4")
    assert "before" in film.name
    assert probe(film).frames == 2


# ---- the page ----


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def served(*flags: str | Path, **environment: str) -> Iterator[str]:
    """`t2v serve` in a process of its own; its URL. Ctrl-C ends it, without a word and with exit code 0."""
    command = [sys.executable, "-m", "t2v", "serve", "--json", "--port", str(free_port()), *map(str, flags)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               cwd=Path(__file__).parent.parent, env={**os.environ, **environment})
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        if not line:
            pytest.fail(process.communicate()[1])
        yield json.loads(line)["url"]
        process.send_signal(signal.SIGINT)
        out, errors = process.communicate(timeout=60)
        assert (process.returncode, out, errors) == (0, "", "")
    finally:
        process.kill()
        process.communicate()


def answer(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url) as response:
            return response.status, response.read().decode(errors="replace")
    except urllib.error.HTTPError as error:
        with error:
            return error.code, ""


def test_the_page_comes_with_its_script_and_style_and_offers_films_and_nothing_else(tmp_path: Path) -> None:
    film, secret = tmp_path / "films" / "a #1 film?.mp4", tmp_path / "secret.mp4"
    film.parent.mkdir()
    for file in (film, secret):
        file.write_bytes(b"film")
    with served("--output", film.parent) as url:
        code, page = answer(url)
        assert code == 200
        for part in ('"title":"Text2Video"', "text2video-alone", "window.text2video = ", "#text2video_root"):
            assert part in page
        assert answer(f"{url}gradio_api/file={quote(str(film))}") == (200, "film")
        assert answer(f"{url}gradio_api/file={quote(str(secret))}")[0] in (403, 404)


def test_the_page_may_be_for_those_who_know_the_password(tmp_path: Path) -> None:
    (tmp_path / "film.mp4").write_bytes(b"film")
    with served("--output", tmp_path, "--user", "me", T2V_PASSWORD="secret") as url:
        assert answer(f"{url}gradio_api/file={tmp_path / 'film.mp4'}")[0] == 401


def test_every_setting_but_folders_has_a_flag_of_serve() -> None:
    args = parser().parse_args(["serve"])
    assert {spec.name for spec in fields(Settings) if not spec.metadata.get("folder")} <= set(vars(args))
    assert Settings(**{spec.name: getattr(args, spec.name) for spec in cli.SERVED}) == Settings()


@pytest.mark.parametrize(("flags", "named"), [
    (["--port", "0"], "port"), (["--port", "65536"], "port"), (["--port", "http"], "port"),
    (["--user", "me"], "password"), (["--password", "secret"], "--user"), (["--keep", "forever"], "keep"),
    (["--preview", "maybe"], "preview"), (["--preview-every", "0"], "preview_every"), (["--recent", "-1"], "recent"),
    (["--device", "magic"], "device"), (["--listen", "256.0.0.1"], "256.0.0.1"),
])
def test_a_flag_of_serve_that_cannot_be_is_one_clear_line(
    flags: list[str], named: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("T2V_PASSWORD", raising=False)
    assert run("serve", *flags) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert named in line


def test_a_taken_port_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert run("serve", "--port", str(taken.getsockname()[1])) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "another program" in line
