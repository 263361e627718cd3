"""Models from a hub on this machine: whole and right, or not at all."""

import errno
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pytest

from t2v import cli
from t2v.download import Plan, Progress, Watch, catalogue, download, known, plan, transfer
from t2v.download.hub import CHUNK
from t2v.errors import DownloadError, RequestError
from t2v.models import catalog
from tests import hub as hubs
from tests.fixtures import make_model
from tests.hub import Hub

REPOSITORY = "someone/a-model"
UNET = "text2video_pytorch_model.pth"
LARGE = bytes(range(256)) * 2000  # half a megabyte
FILES = {"configuration.json": b'{"model": {}}', UNET: LARGE, "unet/config.json": b"{}", "unet/weights.bin": LARGE[5:]}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A hub with a model, known by the name "a-model"; the tests' only one."""
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    with hubs.running() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setattr(transfer, "PAUSE", 0.0)
        monkeypatch.setattr(catalogue, "FILE", tmp_path / "known.json")
        offer(hub, FILES)
        yield hub


def offer(hub: Hub, files: dict[str, bytes]) -> None:
    hub.add(REPOSITORY, files)
    hubs.write_catalogue(catalogue.FILE, "a-model", REPOSITORY, files)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "models" / "ModelScope"


def tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def parts(folder: Path) -> int:
    """Bytes that wait in the hidden folder."""
    return sum(path.stat().st_size for path in folder.glob(".*/*.part"))


# ---- how it should go ----


def test_a_model_arrives_whole_and_leaves_nothing_else_behind(hub: Hub, folder: Path) -> None:
    made = plan("A-Model", folder)
    assert {remote.name for remote in made.missing} == set(FILES)
    assert made.size == sum(map(len, FILES.values()))
    assert made.model.licence == "cc-by-nc-4.0"
    assert made.page == f"{hub.url}/{REPOSITORY}"
    assert made.fits
    assert not folder.exists()  # a plan is only a plan
    assert download(made) == folder / "a-model"
    assert tree(folder) == {f"a-model/{name}": content for name, content in FILES.items()}


@pytest.mark.usefixtures("hub")
def test_all_files_are_of_one_moment(folder: Path) -> None:
    made = plan("a-model", folder)
    assert {remote.commit for remote in made.missing} == {hubs.COMMIT}
    assert all(f"/resolve/{hubs.COMMIT}/" in remote.url for remote in made.missing)


def test_a_real_model_can_be_opened_when_it_has_come_and_not_before(hub: Hub, folder: Path, tmp_path: Path) -> None:
    make_model(tmp_path / "source")
    offer(hub, tree(tmp_path / "source"))
    seen = []

    class Looker(Watch):
        def tick(self, progress: Progress) -> None:  # noqa: ARG002
            seen.append(set(catalog.find_models([folder])) - {"demo"})

    download(plan("a-model", folder), Looker())
    assert seen
    assert not any(seen)
    assert catalog.open_model("a-model", [folder]).name == "a-model"


@pytest.mark.usefixtures("hub")
def test_progress_counts_the_bytes_and_never_goes_back(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "TICK", 1e-6)
    told: list[Progress] = []

    class Listener(Watch):
        def tick(self, progress: Progress) -> None:
            told.append(progress)

    made = plan("a-model", folder)
    download(made, Listener())
    assert [progress.done for progress in told] == sorted({progress.done for progress in told})
    assert told[-1].done == told[-1].total == made.size
    assert {progress.file for progress in told} == set(FILES)
    assert told[-1].speed > 0


# ---- connections that break ----


def test_a_cut_connection_is_taken_up_where_it_broke(hub: Hub, folder: Path) -> None:
    hub.cuts[UNET] = [6 * CHUNK, 3 * CHUNK]
    download(plan("a-model", folder))
    assert hub.sent(UNET) == [(0, 6 * CHUNK), (6 * CHUNK, 3 * CHUNK), (9 * CHUNK, len(LARGE) - 9 * CHUNK)]
    assert tree(folder)[f"a-model/{UNET}"] == LARGE


def test_the_next_download_asks_only_for_what_the_last_did_not_bring(hub: Hub, folder: Path) -> None:
    hub.cuts[UNET] = [12 * CHUNK] + [0] * transfer.TRIES
    with pytest.raises(DownloadError, match="goes on where it was"):
        download(plan("a-model", folder))
    assert not catalog.find_models([folder]).keys() - {"demo"}
    assert [path.name for path in folder.iterdir()] == [".a-model.download"]
    hub.cuts.clear()
    hub.asked.clear()
    made = plan("a-model", folder)
    assert made.begun == 12 * CHUNK + len(FILES["configuration.json"])
    download(made)
    assert hub.sent(UNET) == [(12 * CHUNK, len(LARGE) - 12 * CHUNK)]
    assert not hub.sent("configuration.json")
    assert tree(folder) == {f"a-model/{name}": content for name, content in FILES.items()}


def test_a_server_that_knows_no_ranges_sends_everything_again(hub: Hub, folder: Path) -> None:
    hub.ranges = False
    hub.cuts[UNET] = [6 * CHUNK]
    download(plan("a-model", folder))
    assert tree(folder)[f"a-model/{UNET}"] == LARGE


def test_parts_of_another_version_are_not_mixed_in(hub: Hub, folder: Path) -> None:
    hub.cuts[UNET] = [12 * CHUNK] + [0] * transfer.TRIES
    with pytest.raises(DownloadError):
        download(plan("a-model", folder))
    hub.cuts.clear()
    offer(hub, {**FILES, UNET: LARGE[::-1]})
    download(plan("a-model", folder))
    assert tree(folder)[f"a-model/{UNET}"] == LARGE[::-1]
    assert [path.name for path in folder.iterdir()] == ["a-model"]


def test_what_did_not_get_to_its_place_is_not_fetched_again(hub: Hub, folder: Path) -> None:
    hub.status["unet/weights.bin"] = 403
    with pytest.raises(DownloadError):
        plan("a-model", folder)
    del hub.status["unet/weights.bin"]
    made = plan("a-model", folder)
    hub.status["unet/weights.bin"] = 403
    with pytest.raises(DownloadError):
        download(made)
    hub.status.clear()
    hidden = folder / ".a-model.download"
    (unet,) = hidden.glob(f"{UNET}*")
    (hidden / "whole").mkdir()
    unet.rename(hidden / "whole" / UNET)  # as if the power had failed while it was moved
    hub.asked.clear()
    download(plan("a-model", folder))
    assert not hub.sent(UNET)
    assert tree(folder / "a-model") == FILES


# ---- what is not right ----


@pytest.mark.parametrize("name", [UNET, "configuration.json"])  # known by its sha256, and by what git calls it
def test_a_file_with_the_wrong_content_is_thrown_away(hub: Hub, folder: Path, name: str) -> None:
    hub.false[name] = b"x" * len(FILES[name])
    with pytest.raises(DownloadError, match=f"{name} came damaged"):
        download(plan("a-model", folder))
    assert not (folder / "a-model").exists()
    assert not list(folder.glob(f".a-model.download/{name}*"))
    hub.false.clear()
    download(plan("a-model", folder))
    assert tree(folder / "a-model") == FILES


@pytest.mark.usefixtures("hub")
def test_a_file_that_is_not_the_known_one_is_refused_before_a_byte_is_fetched(folder: Path) -> None:
    entries = json.loads(catalogue.FILE.read_text())
    entries["a-model"]["files"][UNET]["sha256"] = "0" * 64
    catalogue.FILE.write_text(json.dumps(entries))
    with pytest.raises(DownloadError, match="not the file that we know"):
        plan("a-model", folder)


@pytest.mark.parametrize(("status", "advice"), [
    (401, "HF_TOKEN"), (403, "HF_TOKEN"), (404, "moved or removed"), (429, "again later"), (503, "again later"),
    (418, "HTTP 418"),
])
def test_a_refusal_says_which_file_and_what_to_do(hub: Hub, folder: Path, status: int, advice: str) -> None:
    hub.status[UNET] = status
    with pytest.raises(DownloadError, match=advice) as raised:
        plan("a-model", folder)
    assert f"{hub.url}/{REPOSITORY}" in str(raised.value)
    assert not folder.exists()


@pytest.mark.parametrize(("status", "advice"), [(401, "HF_TOKEN"), (404, "moved or removed"), (500, "too busy")])
def test_a_refusal_after_the_plan_says_it_too(hub: Hub, folder: Path, status: int, advice: str) -> None:
    made = plan("a-model", folder)
    hub.status[UNET] = status
    with pytest.raises(DownloadError, match=advice):
        download(made)
    assert not (folder / "a-model").exists()


def test_a_file_that_the_hub_lacks_is_named(hub: Hub, folder: Path) -> None:
    del hub.files[f"{REPOSITORY}/{UNET}"]
    with pytest.raises(DownloadError, match=f"has no {UNET}"):
        plan("a-model", folder)


def test_a_token_opens_what_is_closed_and_is_not_told_to_other_hosts(
    hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.token = "hf_secret"
    with pytest.raises(DownloadError, match="HF_TOKEN"):
        plan("a-model", folder)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    hub.asked.clear()
    download(plan("a-model", folder))
    assert tree(folder / "a-model") == FILES
    apart = [asked for asked in hub.asked if asked.host.startswith("localhost")]
    assert apart
    assert not any(asked.token for asked in apart)


@pytest.mark.usefixtures("hub")
def test_no_connection_is_said(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{port}")
    with pytest.raises(DownloadError, match="no connection to"):
        plan("a-model", folder)


@pytest.mark.usefixtures("hub")
def test_an_unknown_name_is_answered_with_the_known_ones(folder: Path) -> None:
    with pytest.raises(RequestError, match="'b-model' is known; known are a-model"):
        plan("b-model", folder)


# ---- the disk ----


def test_a_disk_that_is_too_small_is_refused_before_a_byte_is_fetched(
    hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(folder.anchor)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    made = plan("a-model", folder)
    assert not made.fits
    assert made.free == 1000
    hub.asked.clear()
    with pytest.raises(DownloadError, match="too little room"):
        download(made)
    assert not hub.asked
    assert not list(folder.iterdir())


def test_a_disk_that_fills_up_is_said_and_what_came_is_kept(
    hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.fsync

    def full(file: int) -> None:
        real(file)
        if os.fstat(file).st_size == len(FILES["unet/weights.bin"]):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DownloadError, match=r"a-model: the disk is full\. Make room"):
        download(plan("a-model", folder))
    assert not (folder / "a-model").exists()
    monkeypatch.setattr(os, "fsync", real)
    hub.asked.clear()
    download(plan("a-model", folder))
    assert not hub.sent(UNET)
    assert tree(folder / "a-model") == FILES


@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may write everywhere")
@pytest.mark.usefixtures("hub")
def test_a_folder_that_may_not_be_written_is_said(folder: Path) -> None:
    folder.mkdir(parents=True)
    folder.chmod(0o500)
    with pytest.raises(DownloadError, match="no permission"):
        download(plan("a-model", folder))


@pytest.mark.skipif(not os.path.exists("/proc/self"), reason="needs a folder where even root may not write")
@pytest.mark.usefixtures("hub")
def test_a_folder_where_nothing_can_be_written_is_said() -> None:
    with pytest.raises(DownloadError, match=r"^/proc/.*(no permission|cannot be written)"):
        download(plan("a-model", Path("/proc/sys")))


@pytest.mark.parametrize("way", ["a-model", "."])
@pytest.mark.usefixtures("hub")
def test_a_file_where_a_folder_should_be_is_said(folder: Path, way: str) -> None:
    (folder / way).parent.mkdir(parents=True)
    (folder / way).write_text("mine")
    with pytest.raises(DownloadError, match=r"in the way|cannot be written"):
        download(plan("a-model", folder))
    assert (folder / way).read_text() == "mine"


def test_a_model_that_lives_on_another_disk_gathers_there(hub: Hub, folder: Path, tmp_path: Path) -> None:
    folder.mkdir(parents=True)
    (tmp_path / "disk" / "mine").mkdir(parents=True)
    (folder / "a-model").symlink_to(tmp_path / "disk" / "mine")
    hub.cuts[UNET] = [0] * transfer.TRIES
    with pytest.raises(DownloadError):
        download(plan("a-model", folder))
    assert [path.name for path in folder.iterdir()] == ["a-model"]
    hub.cuts.clear()
    download(plan("a-model", folder))
    assert tree(tmp_path / "disk" / "mine") == FILES


# ---- files that are there already ----


def test_files_that_are_there_stay_and_only_the_others_are_fetched(hub: Hub, folder: Path) -> None:
    mine = folder / "a-model"
    mine.mkdir(parents=True)
    (mine / UNET).write_bytes(LARGE)
    (mine / "configuration.json").write_bytes(b"my own settings")
    (mine / "notes.txt").write_text("mine")
    os.utime(mine / UNET, (1, 1))
    made = plan("a-model", folder)
    assert [remote.name for remote in made.kept] == [UNET]
    assert [remote.name for remote in made.foreign] == ["configuration.json"]
    download(made)
    assert tree(mine) == {**FILES, "configuration.json": b"my own settings", "notes.txt": b"mine"}
    assert (mine / UNET).stat().st_mtime == 1
    assert not hub.sent(UNET)
    assert not plan("a-model", folder).missing
    assert [path.name for path in folder.iterdir()] == ["a-model"]


def test_a_damaged_file_that_is_there_is_said_and_left(hub: Hub, folder: Path) -> None:
    damaged = LARGE[:-1] + b"x"
    (folder / "a-model").mkdir(parents=True)
    (folder / "a-model" / UNET).write_bytes(damaged)
    made = plan("a-model", folder)
    hub.asked.clear()
    with pytest.raises(DownloadError, match=f"{UNET}: damaged"):
        download(made)
    assert tree(folder) == {f"a-model/{UNET}": damaged}
    assert not hub.asked


@pytest.mark.usefixtures("hub")
def test_what_a_user_puts_there_meanwhile_stays(folder: Path) -> None:
    class Busy(Watch):
        def tick(self, progress: Progress) -> None:  # noqa: ARG002
            (folder / "a-model").mkdir(exist_ok=True)
            (folder / "a-model" / UNET).write_text("mine")

    download(plan("a-model", folder), Busy())
    assert tree(folder / "a-model") == {**FILES, UNET: b"mine"}


# ---- stopping, and two at once ----


class Stopper(Watch):
    def tick(self, progress: Progress) -> None:
        self.stopped = progress.done > 100_000


def test_a_cancelled_download_keeps_what_came_and_goes_on_from_there(hub: Hub, folder: Path) -> None:
    hub.slow = 0.005
    with pytest.raises(DownloadError, match="cancelled"):
        download(plan("a-model", folder), Stopper())
    kept = parts(folder)
    assert 100_000 < kept < 300_000
    assert not (folder / "a-model").exists()
    hub.slow = 0
    hub.asked.clear()
    download(plan("a-model", folder))
    assert hub.sent(UNET)[0][0] == kept - len(FILES["configuration.json"])
    assert tree(folder / "a-model") == FILES


def test_waiting_for_another_try_ends_when_cancelled(
    hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "PAUSE", 60.0)
    watch = Watch()
    made = plan("a-model", folder)
    hub.status[UNET] = 503
    timer = threading.Timer(0.2, lambda: setattr(watch, "stopped", True))
    timer.start()
    started = time.monotonic()
    with pytest.raises(DownloadError, match="cancelled"):
        download(made, watch)
    timer.join()
    assert time.monotonic() - started < 5


def test_of_two_downloads_of_a_model_the_second_says_so(hub: Hub, folder: Path) -> None:
    hub.slow = 0.005
    first, second = plan("a-model", folder), plan("a-model", folder)
    begun = threading.Event()

    class Starter(Watch):
        def tick(self, progress: Progress) -> None:  # noqa: ARG002
            begun.set()

    thread = threading.Thread(target=download, args=(first, Starter()))
    thread.start()
    assert begun.wait(10)
    with pytest.raises(DownloadError, match="being downloaded already"):
        download(second)
    hub.slow = 0
    thread.join()
    assert tree(folder) == {f"a-model/{name}": content for name, content in FILES.items()}
    hub.asked.clear()
    download(second)  # its plan is old: everything has come since
    assert not hub.asked


# ---- other programs' settings, in programs of their own ----

PROGRAM = """
import sys
from pathlib import Path
from t2v.cli import main
from t2v.download import catalogue
catalogue.FILE = Path(sys.argv[1])
sys.exit(main(sys.argv[2:]))
"""


def run_program(tmp_path: Path, *args: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, "-c", PROGRAM, str(catalogue.FILE), "download", *args,
                           "--models-dir", str(tmp_path / "models")], capture_output=True, text=True, timeout=120,
                          env={**os.environ, **environment}, check=False)


def test_offline_nothing_is_asked(hub: Hub, tmp_path: Path) -> None:
    run = run_program(tmp_path, "a-model", "--yes", HF_HUB_OFFLINE="1")
    assert run.returncode == 2
    assert "HF_HUB_OFFLINE" in run.stderr
    assert "Traceback" not in run.stderr
    assert not hub.asked


def test_a_proxy_is_used(hub: Hub, tmp_path: Path, folder: Path) -> None:
    run = run_program(tmp_path, "a-model", "--yes", "--json", HF_ENDPOINT="http://hub.invalid", HTTP_PROXY=hub.url,
                      http_proxy=hub.url, NO_PROXY="", no_proxy="")
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout) == {"name": "a-model", "folder": str(folder / "a-model")}
    assert tree(folder / "a-model") == FILES
    assert "hub.invalid" in {asked.host for asked in hub.asked}


# ---- the command line ----


def command(*args: str | Path) -> int:
    return cli.main(["download", *map(str, args)])


def test_without_a_name_the_known_models_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert command() == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(known())
    assert lines[0] == ("t2v: ModelScope 1.7B as published, single precision: 256x256, 16 frames "
                        "(14.8 GB; cc-by-nc-4.0)")
    assert command("--json") == 0
    assert [json.loads(line)["name"] for line in capsys.readouterr().out.splitlines()] == [
        model.name for model in known()]


@pytest.mark.usefixtures("hub")
def test_nobody_is_taken_to_agree_who_was_not_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("a-model", "--models-dir", tmp_path / "models") == 2
    said = capsys.readouterr().err
    assert "--yes" in said
    assert "cc-by-nc-4.0" in said
    assert re.search(r"0\.0 GB to fetch into .*a-model, [\d.]+ GB free", said)
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize(("answer", "code"), [("n", 2), ("", 2), ("y", 0), ("YES", 0)])
@pytest.mark.usefixtures("hub")
def test_a_person_is_asked(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    answer: str, code: int,
) -> None:
    asked = []
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda question: asked.append(question) or answer)
    assert command("a-model", "--models-dir", tmp_path / "models") == code
    assert "licence: cc-by-nc-4.0" in asked[0]
    assert (folder / "a-model").exists() == (code == 0)
    assert (str(folder / "a-model") in capsys.readouterr().out) == (code == 0)


@pytest.mark.usefixtures("hub")
def test_with_consent_it_is_fetched_and_the_bytes_are_shown(
    tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "a-model").mkdir(parents=True)
    (folder / "a-model" / "configuration.json").write_text("mine")
    assert command("a-model", "--yes", "--models-dir", tmp_path / "models") == 0
    output = capsys.readouterr()
    assert output.out.strip() == str(folder / "a-model")
    assert "fetch" in output.err
    assert "configuration.json: is not the published file, and stays" in output.err


@pytest.mark.usefixtures("hub")
def test_an_interrupt_ends_it_and_says_that_it_can_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(self: cli.Transfer, _: Progress) -> None:
        self.interrupt(2, None)

    monkeypatch.setattr(cli.Transfer, "tick", interrupted)
    assert command("a-model", "--yes", "--models-dir", tmp_path / "models") == 130
    assert "the next one goes on from there" in capsys.readouterr().err


# ---- the catalogue ----


@pytest.mark.parametrize("model", known(), ids=lambda model: model.name)
def test_what_is_known_is_well_formed(model: catalogue.Known) -> None:
    assert re.fullmatch(r"[\w.-]+/[\w.-]+", model.repository)
    assert re.fullmatch(r"[\w.-]*\w", model.folder)
    assert not model.folder.startswith(".")
    assert model.licence
    assert model.about
    assert model.size > 3e9
    for name, file in model.files.items():
        assert PurePosixPath(name).parts == tuple(name.split("/"))
        assert not {"..", "", "/"} & set(PurePosixPath(name).parts)
        assert file.size > 0
        assert re.fullmatch(r"([0-9a-f]{64})?", file.sha256)


def test_no_two_known_models_share_a_folder_or_a_hash() -> None:
    folders = [model.folder.casefold() for model in known()]
    assert len(set(folders)) == len(folders)
    hashes = [file.sha256 for model in known() for file in model.files.values() if file.sha256]
    assert len(set(hashes)) == len(hashes)


def test_a_plan_knows_what_fits() -> None:
    (model, *_) = known()
    assert Plan(model, Path("x"), (), (), (), 0, 0).fits  # nothing to come
