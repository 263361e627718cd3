"""What an adapter tells us about its host, and never gets wrong."""

import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from t2v.hosts import Host
from t2v.settings import Settings
from tests.hosts.house import HOST, MANAGERS, House

ADAPTERS = {"a1111": "WebuiHost", "forge": "ManagedHost", "reforge": "ManagedHost", "sdnext": "SdnextHost"}
CARD = torch.device("cuda")


def root() -> Path:
    return Path(os.environ["FAKE_HOST"])


def test_the_host_is_told_by_what_it_has(host: Host) -> None:
    assert type(host).__name__ == ADAPTERS[HOST]
    if HOST in MANAGERS:
        assert host.manager is sys.modules[MANAGERS[HOST]]  # type: ignore[attr-defined]


def test_nothing_is_computed_in_half_precision_on_the_cpu(host: Host) -> None:
    assert (host.device, host.dtype, host.vae_dtype) == (torch.device("cpu"), torch.float32, torch.float32)


def card(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the host have one."""
    if house.manager is not None:
        monkeypatch.setattr(house.manager, "get_torch_device", lambda: CARD)
    monkeypatch.setattr(house.modules.devices, "device", CARD)
    monkeypatch.setattr(house.shared.cmd_opts, "use_cpu", [])


@pytest.mark.parametrize(("vae_precision", "vae"), [("float32", torch.float32), ("network", None)])
def test_on_a_card_it_is_the_hosts_choice(
    host: Host, house: House, monkeypatch: pytest.MonkeyPatch, vae_precision: str, vae: torch.dtype | None
) -> None:
    card(house, monkeypatch)
    house.option(vae_precision=vae_precision)
    expected = torch.bfloat16 if HOST == "sdnext" else torch.float16
    assert (host.device, host.dtype, host.vae_dtype) == (CARD, expected, vae or expected)


@pytest.mark.only(*MANAGERS)
@pytest.mark.parametrize(("fp16", "bf16", "expected"), [
    (True, True, torch.float16), (False, True, torch.bfloat16), (False, False, torch.float32)])
def test_a_manager_is_asked_for_precision_and_memory(
    host: Host, house: House, monkeypatch: pytest.MonkeyPatch, fp16: bool, bf16: bool, expected: torch.dtype
) -> None:
    card(house, monkeypatch)
    monkeypatch.setattr(house.manager, "should_use_fp16", lambda device: device == CARD and fp16)
    monkeypatch.setattr(house.manager, "should_use_bf16", lambda device: device == CARD and bf16)
    assert host.dtype is expected
    house.load("first")
    assert host.memory is not None
    assert (host.memory.free, host.memory.total) == (4 * 2**30, 8 * 2**30)


@pytest.mark.only("a1111")
@pytest.mark.parametrize("wish", ["all", "text2video"])
def test_a_user_may_keep_us_off_the_card(
    host: Host, house: House, monkeypatch: pytest.MonkeyPatch, wish: str
) -> None:
    card(house, monkeypatch)
    monkeypatch.setattr(house.shared.cmd_opts, "use_cpu", [wish])
    assert (host.device, host.dtype) == (torch.device("cpu"), torch.float32)


def test_memory_of_the_machine_is_known(host: Host) -> None:
    assert host.memory is not None
    assert 0 < host.memory.free <= host.memory.total


@pytest.mark.only("a1111", "sdnext")
def test_it_is_not_taken_for_that_of_a_device_that_torch_does_not_know(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(host), "device", torch.device("privateuseone"))  # DirectML's
    assert host.memory is None


def test_collecting_is_the_hosts_own(host: Host, house: House) -> None:
    host.collect()
    assert "collect" in house.events.seen


def test_memory_that_has_run_out_is_looked_for_once_more(host: Host, house: House) -> None:
    """Managers send away what others have brought meanwhile, as much of it as is needed; every host collects."""
    models = house.load("first", "second")
    host.reclaim(3 * 2**30)
    assert "collect" in house.events.seen
    evicted = [model.name for model in models if f"evict {model.name}" in house.events.seen]
    assert evicted == (["second"] if HOST in MANAGERS else [])


# ---- settings ----


def test_before_the_host_knows_our_settings_they_are_at_their_defaults(host: Host) -> None:
    assert host.settings == Settings()


def test_settings_are_read_as_they_are_now(host: Host, house: House) -> None:
    house.option(keep="nothing", preview_every=3)
    assert host.settings == Settings(keep="nothing", preview_every=3)
    house.option(keep="nonsense")
    assert host.settings == Settings(preview_every=3)


# ---- folders ----


def test_films_go_beside_the_hosts_own_pictures(host: Host, house: House, tmp_path: Path) -> None:
    opts = house.shared.opts
    assert host.outputs == tmp_path / ("outputs/video/text2video" if HOST == "sdnext" else "text2video")
    opts.data["outdir_samples"] = ""
    assert host.outputs == root() / ("outputs/video/text2video" if HOST == "sdnext" else "outputs/text2video")
    house.option(outputs="films")
    assert host.outputs == root() / "films"
    house.option(outputs=str(tmp_path / "elsewhere"))
    assert host.outputs == tmp_path / "elsewhere"


def test_folders_stay_where_they_are_when_the_process_moves(
    host: Host, house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.shared.opts.data["outdir_samples"] = ""
    house.option(models="more models")
    before = [host.outputs, *host.model_folders]
    monkeypatch.chdir(tmp_path)
    assert [host.outputs, *host.model_folders] == before
    assert host.model_folders == [
        root() / "models" / "ModelScope", root() / "models" / "text2video", root() / "more models"]


def test_loras_and_embeddings_are_where_the_host_has_its_own(
    host: Host, house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embeddings = root() / ("models/embeddings" if HOST == "sdnext" else "embeddings")
    assert (host.lora_folders, host.embedding_folders) == ([root() / "models/Lora"], [embeddings])
    monkeypatch.setattr(house.shared.cmd_opts, "lora_dir", str(tmp_path))
    assert host.lora_folders == [tmp_path]


@pytest.mark.only("sdnext")
def test_a_data_folder_is_not_entered_twice(host: Host, house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """With --data-dir data, the host puts it in front of every path itself."""
    monkeypatch.setattr(house.modules.paths, "data_path", "data")
    monkeypatch.setattr(house.modules.paths, "models_path", "data/models")
    house.shared.opts.data.update(outdir_samples="", outdir_video="data/outputs/video")
    assert host.model_folders[0] == root() / "data/models/ModelScope"
    assert host.outputs == root() / "data/outputs/video/text2video"


@pytest.mark.parametrize("hidden", [True, False])
def test_where_folders_are_private_we_are_told(
    host: Host, house: House, monkeypatch: pytest.MonkeyPatch, hidden: bool
) -> None:
    monkeypatch.setattr(house.shared.cmd_opts, "hide_ui_dir_config", hidden)
    assert host.private_folders is hidden


# ---- what the tab shows ----


def test_styles_are_the_hosts(host: Host) -> None:
    assert list(host.styles) == ["Noir", "Snow"]
    assert host.styled("a cat", "blurry", ["Snow", "gone", "Noir"]) == ("a cat, snow, film noir", "blurry, colour")
    assert host.styled("a cat", "", []) == ("a cat", "")


def test_without_a_page_films_are_offered_to_nobody(host: Host, house: House, tmp_path: Path) -> None:
    demo: Any = house.shared.demo
    assert demo is None
    host.offer(tmp_path / "film.mp4")


def test_versions_are_known(host: Host) -> None:
    assert host.environment["torch"] == torch.__version__
    assert all(isinstance(value, str) for value in host.environment.values())
