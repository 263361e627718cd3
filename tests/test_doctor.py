"""The doctor: what is wrong is named with what to do, what is right is called so, and nothing private is told."""

import hashlib
import json
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from t2v import __version__, doctor
from t2v.cli import main
from t2v.doctor import Report, environment, examine, files, shown
from t2v.doctor.files import Entry, entry_of
from t2v.download.catalogue import Known, Listed
from t2v.errors import RequestError
from t2v.hosts.standalone import Standalone
from tests import layouts
from tests.fixtures import make_model, save_safetensors, some_state, states

UNET, VAE, TEXT = "text2video_pytorch_model.pth", "VQGAN_autoencoder.pth", "open_clip_pytorch_model.bin"
SETTINGS = "configuration.json"
HEADS = [b"", b"PK\x03\x04", b"\x80\x02", b"{", b"\0" * 7 + b"\1{"]


@pytest.fixture
def host(tmp_path: Path) -> Standalone:
    return Standalone(torch.device("cpu"), torch.float32, models=tmp_path / "models", outputs=tmp_path / "films")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A healthy model by itself."""
    return make_model(tmp_path / "models" / "ModelScope" / "tiny", dtype=torch.float16)


def about(report: Report, name: str) -> Entry:
    """What is said of a file or part; it is spoken of once."""
    (entry,) = [entry for section in report.sections for entry in section.entries if entry.name == name]
    return entry


def test_a_healthy_model_is_well_and_told_in_full(folder: Path, host: Standalone) -> None:
    report = examine(folder, host)
    assert report.well
    assert "all is well" in report.text
    assert about(report, UNET).what.startswith("UNet, fp16, 622 tensors, ")
    assert about(report, VAE).what.startswith("autoencoder, fp16, 176 tensors, ")
    assert about(report, TEXT).what.startswith("text tower, fp16, 28 tensors, ")
    assert about(report, "autoencoder").what == f"fits, from {VAE}"
    assert not any(entry.problem for section in report.sections for entry in section.entries)


def test_every_layout_is_well(host: Standalone, tmp_path: Path) -> None:
    for layout in ("in one file", "diffusers, sharded", "mixed"):
        layouts.LAYOUTS[layout](tmp_path / layout, torch.float16)
        report = examine(tmp_path / layout, host)
        assert report.well, report.text


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def as_safetensors(path: Path) -> None:
    save_safetensors(states(torch.float16)[path.name], path)


def whole_folder_in_a_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("t2v/configuration.json", "{}")
        archive.writestr(f"t2v/{UNET}", b"1" * 100)


def of_an_image_model(path: Path) -> None:
    image_model = {key: value for key, value in states()[UNET].items() if "temopral" not in key}
    save_safetensors(image_model, path)


ILLS: dict[str, tuple[str, Callable[[Path], object], str, str]] = {
    "cut off": (VAE, cut, "is incomplete: only", "Download it again"),
    "cut off, safetensors": (UNET, lambda path: (as_safetensors(path), cut(path)), "is damaged or incomplete", "again"),
    "a web page": (UNET, lambda path: path.write_text(" <!DOCTYPE html><html>"), "is a web page", "download button"),
    "a pointer": (TEXT, lambda path: path.write_text("version https://git-lfs.github.com/spec"), "Git LFS", "pull"),
    "empty": (TEXT, lambda path: path.write_bytes(b""), "is empty", "Download it again"),
    "zipped": (UNET, whole_folder_in_a_zip, "zip archive with a whole model", "Unpack it into this folder"),
    "settings that are a web page": (SETTINGS, lambda path: path.write_text("<html>"), "is a web page", "button"),
    "settings that are no JSON": (SETTINGS, lambda path: path.write_text("{"), "is not valid JSON", "again"),
    "not weights": (VAE, lambda path: path.write_bytes(b"GGUF" * 300), "is not a weight file", "Download it again"),
}


@pytest.mark.parametrize("ill", ILLS)
def test_an_ill_file_is_named_with_what_to_do(ill: str, folder: Path, host: Standalone) -> None:
    name, spoil, problem, remedy = ILLS[ill]
    spoil(folder / name)
    report = examine(folder, host)
    entry = about(report, name)
    assert entry.serious
    assert problem in entry.problem
    assert remedy in entry.remedy
    assert not report.well
    (line,) = [line for line in report.text.splitlines() if line.split()[:2] == ["!!", name]]
    assert entry.problem in line
    assert entry.remedy in line
    others = {UNET, VAE, TEXT} - {name}
    assert not any(about(report, other).problem for other in others)


def test_the_weights_of_another_model_are_named_as_such(folder: Path, host: Standalone) -> None:
    of_an_image_model(folder / UNET)
    report = examine(folder, host)
    assert about(report, UNET).problem == (
        "is the UNet of an image model, without layers along time, no part of a text-to-video model")
    assert "image model" in about(report, "UNet").problem
    assert not report.well


@pytest.mark.parametrize(("name", "content", "words"), [
    (f"{UNET}.crdownload", b"1234", "download that was not finished"), ("a.part", b"", "not finished"),
    ("style.safetensors", None, "is a LoRA"), ("t2v.zip", b"zip", "zip archive with a model in it"),
    ("notes.json", b"<html>", "is a web page"),
])
def test_what_lies_about_is_a_note_and_no_fault(
        name: str, content: bytes | None, words: str, folder: Path, host: Standalone) -> None:
    if content is None:
        save_safetensors({"to_q.lora_A.weight": torch.ones(2, 2)}, folder / name)
    elif content == b"zip":
        whole_folder_in_a_zip(folder / name)
    else:
        (folder / name).write_bytes(content)
    report = examine(folder, host)
    assert words in about(report, name).problem
    assert not about(report, name).serious
    assert report.well


def test_eight_bits_are_called_coarse(folder: Path, host: Standalone) -> None:
    save_safetensors({name: weight.to(torch.float8_e4m3fn) for name, weight in states()[UNET].items()}, folder / UNET)
    report = examine(folder, host)
    assert "fp8 (float8_e4m3fn)" in about(report, UNET).what
    assert "8 bits" in about(report, UNET).problem
    assert report.well


def test_hidden_remains_of_downloads_and_conversions_are_found(folder: Path, host: Standalone) -> None:
    folder = folder.rename(folder.with_name("tiny[fp16]"))
    for name in (".tiny[fp16].download", ".tiny[fp16].0a1b2c3d.convert"):
        (folder.parent / name).mkdir()
        (folder.parent / name / "some.part").write_bytes(b"1" * 2_000_000)
    report = examine(folder, host)
    assert about(report, ".tiny[fp16].download").what == "2.00 MB"
    assert "unfinished conversion" in about(report, ".tiny[fp16].0a1b2c3d.convert").problem


def test_what_is_missing_is_said_with_what_takes_its_place(folder: Path, host: Standalone) -> None:
    (folder / VAE).unlink()
    entry = about(examine(folder, host), "autoencoder")
    assert entry.serious
    assert "is missing" in entry.problem
    assert "Stable Diffusion 1 or 2" in entry.remedy
    make_model(folder.parent / "other")
    report = examine(folder, host)
    assert report.well
    assert about(report, "autoencoder").what == f"It has no autoencoder; that of other/{VAE} is used."


def test_a_model_without_a_unet_is_told_how_to_get_one(folder: Path, host: Standalone) -> None:
    (folder / UNET).unlink()
    entry = about(examine(folder, host), "UNet")
    assert entry.serious
    assert "t2v download" in entry.remedy


def test_a_folder_without_a_model_is_shown_with_what_is_in_it(host: Standalone, tmp_path: Path) -> None:
    (tmp_path / "odd").mkdir()
    whole_folder_in_a_zip(tmp_path / "odd" / "download.zip")
    report = examine(tmp_path / "odd", host)
    assert not report.well
    assert about(report, "model").problem == "holds no text-to-video model"
    assert "Unpack" in about(report, "download.zip").remedy


def test_nothing_at_a_path_is_a_bad_request(host: Standalone, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="nothing at"):
        examine(tmp_path / "nowhere", host)


# ---- all models ----


def test_all_models_are_looked_at_and_those_that_are_well_take_a_line_each(folder: Path, host: Standalone) -> None:
    broken = make_model(folder.parent / "broken")
    cut(broken / VAE)
    (folder.parent / "zipped").mkdir()
    whole_folder_in_a_zip(folder.parent / "zipped" / "t2v.zip")
    report = examine(None, host)
    assert about(report, "tiny").what.startswith("small model; UNet, fp16")
    assert about(report, "demo").what.startswith("small model; UNet, fp16")
    assert {"broken", "zipped"} <= {section.title.partition(",")[0] for section in report.sections}
    assert "tiny" not in {section.title.partition(",")[0] for section in report.sections}
    assert about(report, "t2v.zip").problem


def test_where_there_is_only_the_demo_it_says_where_models_go(host: Standalone) -> None:
    report = examine(None, host)
    assert report.well
    assert "none but the demo" in about(report, "models").problem
    assert "t2v download" in about(report, "models").remedy


# ---- hashes ----


def test_hashes_tell_the_published_from_the_damaged(
        folder: Path, host: Standalone, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    unet, vae = (folder / UNET).stat().st_size, (folder / VAE).stat().st_size
    exact = hashlib.sha256((folder / UNET).read_bytes()).hexdigest()
    listed = {UNET: Listed(unet, exact), VAE: Listed(vae, "0" * 64)}
    monkeypatch.setattr(files, "known", lambda: [Known("t2v", "", "", "t2v", "", listed)])
    report = examine(folder, host, read.append)
    assert about(report, UNET).what.endswith(", as published in t2v")
    assert "other content" in about(report, VAE).problem
    assert ", sha256 " in about(report, TEXT).what
    assert sum(read) == sum((folder / name).stat().st_size for name in (UNET, VAE, TEXT))


# ---- the surroundings ----


def test_the_surroundings_are_told(folder: Path, host: Standalone) -> None:
    report = examine(folder, host)
    assert about(report, "t2v").what == __version__
    assert about(report, "torch").what == torch.__version__
    assert about(report, "device").what.startswith("cpu, ")
    assert about(report, "attention").what in ("flash", "math")
    assert about(report, "mp4").what == "libx264"
    assert "einops" in about(report, "packages").what
    assert about(report, "host").what == host.name
    assert "free" in about(report, "disk for films").what


def test_a_lack_in_the_surroundings_is_serious(
        folder: Path, host: Standalone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "encoders", lambda: {"mp4": "", "webm": "libvpx-vp9"})
    monkeypatch.setattr(environment, "PACKAGES", ("torch", "no_such_package"))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(100, 90, 10))  # type: ignore[attr-defined]
    report = examine(folder, host)
    assert "no encoder" in about(report, "mp4").problem
    assert "pip install no_such_package" in about(report, "packages").remedy
    assert about(report, "disk for models").problem == "is nearly full"
    assert not report.well


def test_the_common_sizes_are_planned_for_the_model_or_the_published_one(folder: Path, host: Standalone) -> None:
    for path, name in ((folder, "tiny"), (None, "ModelScope 1.7B in fp16")):
        (plan,) = [section for section in examine(path, host).sections if section.title.startswith("Memory")]
        assert plan.title == f"Memory, with {name}"
        assert [entry.name for entry in plan.entries] == [
            "256x256, 16 frames", "256x256, 24 frames", "576x320, 24 frames", "1024x576, 24 frames"]
        assert all(entry.what.startswith("Needs about ") for entry in plan.entries)


# ---- what others may see ----


def test_folders_of_this_machine_are_shortened(
        folder: Path, host: Standalone, monkeypatch: pytest.MonkeyPatch) -> None:
    cut(folder / UNET)
    (folder / TEXT).write_text("<html>")
    for path in (folder, None):
        report = examine(path, host)
        told = report.text + json.dumps([vars(entry) for section in report.sections for entry in section.entries])
        assert str(folder.parent) not in told
        assert f".../models/{folder.parent.name}" in told
    monkeypatch.setattr(Path, "home", lambda: folder.parents[2])
    assert "tiny, in ~/models/ModelScope" in examine(folder, host).text


def test_a_message_of_the_system_with_a_path_in_it_is_shortened_too(
        folder: Path, host: Standalone, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = Entry("x", problem=f"cannot be read ([Errno 5] I/O error: '{folder / UNET}')")
    monkeypatch.setattr(doctor, "file_entries", lambda *_: [entry])
    assert about(examine(folder, host), "x").problem == (
        f"cannot be read ([Errno 5] I/O error: '.../models/ModelScope/tiny/{UNET}')")


def test_a_page_is_a_page(folder: Path, host: Standalone) -> None:
    (folder / "line\nbreak\x1b[31m.txt").write_text("x")
    (folder / os.fsdecode(b"\xff.txt")).write_text("x")
    text = examine(folder, host).text
    assert len(text.splitlines()) < 50
    assert text.replace("\n", "").isprintable()
    text.encode()


def test_short_paths_are_left_alone() -> None:
    assert shown(Path("/models/t2v")) == "/models/t2v"
    assert shown(Path("/srv/disk/models/t2v")) == ".../models/t2v"


# ---- whatever there is ----


def test_nothing_is_changed_and_hardly_anything_read(folder: Path, host: Standalone) -> None:
    with (folder / "huge.pth").open("wb") as file:
        file.truncate(2**34)
    before = {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in folder.iterdir()}
    entry = about(examine(folder, host), "huge.pth")
    assert entry.serious
    assert {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in folder.iterdir()} == before


def test_loops_folders_and_closed_files_are_survived(folder: Path, host: Standalone) -> None:
    (folder / "loop.pth").symlink_to(folder / "loop.pth")
    (folder / "gone.bin").symlink_to(folder / "nowhere")
    (folder / "folder.safetensors").mkdir()
    report = examine(folder, host)
    assert about(report, "loop.pth").serious
    assert about(report, "gone.bin").serious
    assert about(report, UNET).problem == ""


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=300), head=st.sampled_from(HEADS),
       suffix=st.sampled_from([".pth", ".safetensors", ".json", ".index.json", ".zip", ".txt", ""]))
def test_any_bytes_are_some_file(content: bytes, head: bytes, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"file{suffix}"
    path.write_bytes(head + content)
    assert entry_of(path, "x").name == "x"


def test_a_state_dict_of_no_known_kind_is_no_part(tmp_path: Path) -> None:
    save_safetensors(some_state(torch.bfloat16), tmp_path / "a.safetensors")
    entry = entry_of(tmp_path / "a.safetensors", "a")
    assert entry.problem == "is an unknown kind of model, no part of a text-to-video model"
    assert entry.what.startswith("bf16, 5 tensors, ")


# ---- the command ----


def test_the_command_says_by_its_exit_code_whether_all_is_well(
        folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", str(folder), "--device", "cpu"]) == 0
    assert "all is well" in capsys.readouterr().out
    cut(folder / UNET)
    assert main(["doctor", str(folder), "--device", "cpu", "--hash", "--json"]) == 2
    told = json.loads(capsys.readouterr().out)
    assert told["well"] is False
    entries = [entry for section in told["sections"] for entry in section["entries"]]
    assert any(entry["serious"] and entry["name"] == UNET for entry in entries)
    assert main(["doctor", str(folder / "nowhere")]) == 2
