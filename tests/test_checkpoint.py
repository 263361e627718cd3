"""Weight files: all that torch and safetensors write is read, and nothing else gets further than one sentence."""

import mmap
import os
import pickle
import re
import struct
import subprocess
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from t2v.models import checkpoint
from t2v.models.checkpoint import fingerprint, kind, load_network, read, sample
from t2v.models.ram import available_memory
from tests.fixtures import (
    CONTAINERS,
    one_clear_sentence,
    save_legacy,
    save_lightning,
    save_safetensors,
    save_zip,
    saved,
    some_state,
    tensor_pickle,
    torch_zip,
    zipped,
)
from tests.networks import normal


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for key, tensor in expected.items():
        assert found[key].dtype == tensor.dtype
        assert found[key].shape == tensor.shape
        assert torch.equal(found[key], tensor)


# ---- what is read ----


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("container", CONTAINERS)
def test_every_container_gives_the_tensors_that_went_in(container: str, dtype: torch.dtype, tmp_path: Path) -> None:
    state = some_state(dtype)
    CONTAINERS[container](state, tmp_path / "weights.pth")
    found = read(tmp_path / "weights.pth")
    assert_same({key: found[key] for key in state}, state)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_tensors_of_every_sort_come_back_as_torch_reads_them(legacy: bool, protocol: int, tmp_path: Path) -> None:
    shared = normal(6, 5)
    state = {"transposed": normal(3, 4).t(), "slice": shared[1:4, 2:], "tied": shared, "scalar": torch.tensor(2.5),
             "long": torch.arange(5), "bool": torch.tensor([True, False]), "parameter": nn.Parameter(normal(2)),
             "strided": normal(4, 4)[::2, ::3], "double": normal(2).double(), "a" * 300: normal(1),
             "имя": normal(2)}
    path = tmp_path / "weights.pth"
    torch.save(state, path, pickle_protocol=protocol, _use_new_zipfile_serialization=not legacy)
    assert_same(read(path), torch.serialization.load(path, map_location="cpu", weights_only=False))


def test_a_file_is_known_by_its_content_and_not_by_its_name(tmp_path: Path) -> None:
    for save, name in (save_zip, "a.safetensors"), (save_legacy, "b"), (save_safetensors, "c.pth"):
        save(some_state(), tmp_path / name)
        assert_same(read(tmp_path / name), some_state())


def test_names_in_any_script_are_fine(tmp_path: Path) -> None:
    path = tmp_path / "モデル-модель-نموذج" / "weights ❤.pth"
    path.parent.mkdir()
    for save in save_zip, save_legacy, save_safetensors:
        save(some_state(), path)
        assert_same(read(path), some_state())


def test_a_change_to_a_tensor_never_reaches_the_file(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    for save in save_zip, save_legacy, save_safetensors:
        save(some_state(), path)
        before = path.read_bytes()
        for tensor in read(path).values():
            tensor.fill_(7)
        assert path.read_bytes() == before


@pytest.mark.parametrize("container", CONTAINERS)
def test_the_loaders_that_web_uis_replace_are_not_used(
        container: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    CONTAINERS[container](some_state(), tmp_path / "weights.pth")

    def replaced(*_: Any, **__: Any) -> None:
        raise AssertionError("a loader that web UIs replace was called")

    for module, name in (torch, "load"), (torch.jit, "load"), (safetensors.torch, "load_file"), (pickle, "load"):
        monkeypatch.setattr(module, name, replaced)
    assert "bias" in "".join(read(tmp_path / "weights.pth"))


@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")  # by torch 2.1 of itself
def test_a_checkpoint_full_of_foreign_classes_opens_where_their_package_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "lightning.ckpt"
    save_lightning({"weight": torch.arange(6.0).view(2, 3)}, path)
    with pytest.raises(pickle.UnpicklingError):
        torch.serialization.load(path, weights_only=True)
    script = f"""
import sys
from pathlib import Path
from torch import nn
from t2v.models.checkpoint import load_network, read
path = Path({str(path)!r})
network = load_network(lambda _: nn.Linear(3, 2, bias=False), None, read(path, lambda _: {{"weight": "weight"}}), path)
print(network.weight.tolist())
print([name for name in ("pytorch_lightning", "torch._dynamo") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    # The second is what drawing initial weights on the meta device would import, in a second or two.
    assert done.stdout.splitlines() == ["[[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]", "[]"], done.stderr


@pytest.mark.parametrize("save", [save_zip, save_legacy, save_safetensors])
def test_tensors_that_are_not_used_cost_no_memory(save: Callable[..., None], tmp_path: Path) -> None:
    path = tmp_path / "weights"
    save({"other": torch.ones(50_000_000), "weight": normal(1000, 100)}, path)  # 200 MB and 0.4 MB
    save({"weight": normal(1000, 100)}, tmp_path / "small")
    script = f"""
from pathlib import Path
import torch
from torch import nn
from t2v.models.checkpoint import load_network, read
from t2v.models.ram import own_memory

def use(path):
    state = read(path, lambda _: {{"weight": "weight"}})
    load_network(lambda _: nn.Linear(100, 1000, bias=False), None, state, path)(torch.ones(1, 100))

use(Path({str(tmp_path / "small")!r}))  # what is imported and started once and for all
before = own_memory()["VmRSS"]
use(Path({str(path)!r}))
print(own_memory()["VmRSS"] - before)
"""
    # Alone: what else goes on in a process that tests can take more memory than this may.
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    path.unlink()
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 20e6


# ---- what is not ----


def cut(data: bytes, share: float) -> bytes:
    return data[: int(len(data) * share)]


def torchscript() -> bytes:
    return zipped({"archive/data.pkl": pickle.dumps({}), "archive/constants.pkl": b""})


def tar() -> bytes:
    return b"storages".ljust(257, b"\0") + b"ustar  \0" + bytes(2000)


BAD: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (lambda: b"", "is empty"),
    "web page": (lambda: b"\n<!DOCTYPE html><html><body>Log in", "is a web page"),
    "pointer": (lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 5645549593\n", "Git LFS"),
    "text": (lambda: b"Entry not found", "is not a weight file of a known kind"),
    "one byte": (lambda: b"\x80", "is not a weight file"),
    "zeros": (lambda: bytes(5000), "is not a weight file"),
    "picture": (lambda: b"\x89PNG\r\n\x1a\n" + bytes(500), "is not a weight file"),
    "plain pickle": (lambda: pickle.dumps({"a": 1}), "is not a weight file"),
    "tar": (tar, "is a tar archive"),
    "TorchScript": (torchscript, "is a TorchScript program"),
    "zip of something": (lambda: zipped({"model/configuration.json": b"{}"}), "is a zip archive, but not one of"),
    "compressed zip": (lambda: zipped({"a/data.pkl": pickle.dumps({})}, zipfile.ZIP_DEFLATED), "compressed"),
    "big-endian": (lambda: saved(save_zip).replace(b"little", b"bigger"), "byte order"),
    "settings": (lambda: zipped({"a/data.pkl": pickle.dumps({"lr": 1e-4}, 2)}), "holds no tensors by name"),
    "list": (lambda: zipped({"a/data.pkl": pickle.dumps([1, 2], 2)}), "holds no state dict"),
    "zip without its end": (lambda: cut(saved(save_zip), 0.9), "is incomplete: only 0.00 MB are there"),
    "zip, a third of it": (lambda: cut(saved(save_zip, a=torch.ones(250_000)), 0.3),
                           "only 0.30 MB of about 1.00 MB are there"),
    "legacy, a third of it": (lambda: cut(saved(save_legacy, a=torch.ones(250_000)), 0.3),
                              "only 0.30 MB of about 1.00 MB are there"),
    "legacy, its start": (lambda: saved(save_legacy)[:200], "cannot be understood"),
    "safetensors, a third of it": (lambda: cut(saved(save_safetensors, a=torch.ones(250_000)), 0.3),
                                   r"0.30 MB of 1.00 MB are there"),
    "safetensors, its start": (lambda: saved(save_safetensors)[:40], "is damaged or incomplete"),
    "safetensors with a huge header": (lambda: struct.pack("<Q", 2**40) + b"{" + bytes(100), "damaged or incomplete"),
    "storage missing": (lambda: torch_zip(tensor_pickle(), {}), "storage '0' is missing or short"),
    "storage short": (lambda: torch_zip(tensor_pickle(), {"0": bytes(8)}), "storage '0' is missing or short"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_file_of_another_sort_is_named_for_what_it_is(name: str, tmp_path: Path) -> None:
    make, words = BAD[name]
    path = tmp_path / "weights.pth"
    path.write_bytes(make())
    with one_clear_sentence(words):
        read(path)


def test_what_is_no_file_is_named_too(tmp_path: Path) -> None:
    with one_clear_sentence("nowhere.pth: is not there"):
        read(tmp_path / "nowhere.pth")
    with one_clear_sentence("is a folder, not a file"):
        read(tmp_path)
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    with one_clear_sentence("cannot be read"):
        read(tmp_path / "a")
    os.mkfifo(tmp_path / "pipe")
    with one_clear_sentence("is a device, not a file"):
        read(tmp_path / "pipe")
    with one_clear_sentence("cannot be read"):
        read(tmp_path / "null\0byte")


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), OSError(5, "Input/output error")])
def test_a_file_that_the_system_refuses_is_named_with_its_reason(
        error: OSError, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_zip(some_state(), tmp_path / "weights.pth")

    def refuse(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(Path, "open", refuse)
    with one_clear_sentence(str(error.strerror)):
        read(tmp_path / "weights.pth")


@pytest.mark.parametrize("error", [MemoryError(), OSError(12, "Cannot allocate memory")])
def test_a_file_that_cannot_be_mapped_is_an_error_of_ours(
        error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_zip(some_state(), tmp_path / "weights.pth")

    def refuse(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(mmap, "mmap", refuse)
    with one_clear_sentence("cannot be mapped into memory"):
        read(tmp_path / "weights.pth")


# ---- from tensors to a network ----


class Small(nn.Module):
    """A network whose weights go by a few published names, so that the kinds of files are told apart."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.input_blocks = nn.ModuleList([nn.Linear(width, width)])
        self.temopral_conv = nn.Linear(width, width)


def small(names: Iterable[str]) -> dict[str, str]:
    """The names of such a network, alone or among those of a trainer."""
    bare = {name.removeprefix("model.diffusion_model."): name for name in names}
    return {name: original for name, original in bare.items() if name.startswith(("input_blocks.", "temopral_conv."))}


def small_state(width: int = 300) -> dict[str, Tensor]:
    return {key: normal(*tensor.shape) for key, tensor in Small(width).state_dict().items()}


@pytest.mark.parametrize("container", CONTAINERS)
def test_a_network_is_ready_to_run_with_the_weights_of_the_file(container: str, tmp_path: Path) -> None:
    path, state = tmp_path / "weights.pth", small_state()
    CONTAINERS[container]({key: tensor.half() for key, tensor in state.items()}, path)
    random = torch.get_rng_state()
    network = load_network(Small, 300, read(path, small), path)
    assert_same(network.state_dict(), {key: tensor.half() for key, tensor in state.items()})
    assert not network.training
    assert not any(weight.requires_grad or weight.is_meta for weight in network.parameters())
    assert torch.equal(torch.get_rng_state(), random), "loading a model changed the noise of a film"


def test_weights_stay_in_the_mapped_file(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    save_zip(small_state(), path)
    state = read(path)
    network = load_network(Small, 300, state, path)
    assert all(weight.data_ptr() == state[name].data_ptr() for name, weight in network.named_parameters())


def unaligned(path: Path) -> None:
    """A legacy file whose numbers begin at an odd address, as three in four do."""
    for padding in range(4):
        save_legacy(small_state() | {"input_blocks.0.weight" + "x" * padding: normal(300, 300)}, path)
        if read(path)["input_blocks.0.weight"].data_ptr() % 4:
            return
    raise AssertionError("no padding moves the numbers")


def test_weights_at_odd_addresses_are_copied_to_even_ones(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    unaligned(path)
    state = read(path, lambda names: {name: name for name in names if not name.endswith("x")})
    network = load_network(Small, 300, state, path)
    assert_same(network.state_dict(), small_state())
    assert all(weight.data_ptr() % 4 == 0 for weight in network.parameters())


def test_a_copy_that_would_not_fit_is_not_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "weights.pth"
    unaligned(path)
    state = read(path, lambda names: {name: name for name in names if not name.endswith("x")})
    monkeypatch.setattr(checkpoint, "available_memory", lambda: 700_000)
    with one_clear_sentence("needs 0.72 MB of memory, and 0.70 MB are free"):
        load_network(Small, 300, state, path)


def test_the_free_memory_is_less_than_the_whole() -> None:
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    free = available_memory()
    assert free is not None
    assert 0 < free < whole


def spoiled(**tensors: Tensor) -> dict[str, Tensor]:
    """The state of `Small`, a few tensors replaced: the names with "__" for "."."""
    return small_state() | {name.replace("__", "."): tensor for name, tensor in tensors.items()}


NEARLY = normal(300, 300)
NEARLY[-1, -5] = torch.inf
MISFITS: dict[str, tuple[dict[str, Tensor], str]] = {
    "missing": ({key: tensor for key, tensor in small_state().items() if key != "input_blocks.0.bias"},
                r"1 tensors are missing: input_blocks.0.bias\."),
    "unexpected": (spoiled(**{f"fps__{i}": torch.ones(1) for i in range(5)}),
                   r"5 tensors are unexpected: fps.0, fps.1, fps.2, \.\.\."),
    "unexpected, in two lines": (spoiled(**{"a\nb": torch.ones(1), "ключ": torch.ones(1)}),
                                 r"2 tensors are unexpected: a\\nb, ключ"),
    "of another shape": (spoiled(input_blocks__0__weight=torch.ones(4, 5)),
                         "of another shape: input_blocks.0.weight 4x5 instead of 300x300"),
    "integers": (spoiled(input_blocks__0__bias=torch.ones(300, dtype=torch.int64)),
                 "not floating point: input_blocks.0.bias"),
    "not a number": (spoiled(input_blocks__0__bias=torch.full((300,), torch.nan)), "NaN.*input_blocks.0.bias"),
    "infinite": (spoiled(temopral_conv__weight=NEARLY), "NaN or infinity.*temopral_conv.weight"),
    "another network": ({"encoder.down.0": torch.ones(1), "decoder.up.0": torch.ones(1)},
                        "looks like an autoencoder, not like a text2video UNet"),
    "nothing known": ({"a": torch.ones(1)}, "looks like an unknown kind of model"),
}


@pytest.mark.parametrize("name", MISFITS)
def test_weights_that_do_not_fit_are_refused_with_the_first_names(name: str) -> None:
    state, words = MISFITS[name]
    with one_clear_sentence("weights.pth: .*" + words):
        load_network(Small, 300, state, Path("weights.pth"))


def test_kinds_of_files_are_told_apart_by_their_names() -> None:
    keys = Path(__file__).parent / "keys"
    names = {table.stem: [line.split("\t")[0] for line in table.read_text().splitlines() if line[0] != "#"]
             for table in keys.glob("*.tsv")}
    assert kind(names["unet_raw"]) == "a text2video UNet"
    assert kind(names["vae_raw"]) == "an autoencoder"
    assert kind(names["open_clip_text"]) == kind([*names["open_clip_text"], "visual.proj"]) == "an OpenCLIP text tower"
    assert kind(["model.diffusion_model.input_blocks.0.0.weight", "first_stage_model.encoder.conv_in.weight"]) == (
        "a whole Stable Diffusion checkpoint")
    assert kind(["input_blocks.1.1.transformer_blocks.0.attn1.to_q.lora_A"]) == "a LoRA"
    assert kind(["down_blocks.0.resnets.0.norm1.weight", "time_embedding.linear_1.weight"]) == (
        "a UNet in the layout of diffusers")


def test_the_fingerprint_is_that_of_the_weights_and_not_of_the_container(tmp_path: Path) -> None:
    def printed(state: dict[str, Tensor], container: str) -> str:
        CONTAINERS[container](state, tmp_path / "weights.pth")
        return fingerprint(load_network(Small, 300, read(tmp_path / "weights.pth", small), tmp_path))

    prints = {container: printed(small_state(), container) for container in CONTAINERS}
    assert len(set(prints.values())) == 1
    assert re.fullmatch("[0-9a-f]{10}", prints["zip"])
    changed = [small_state() | {key: tensor * 1.001} for key, tensor in small_state().items()]
    halves = {key: tensor.half() for key, tensor in small_state().items()}
    assert len({printed(state, "zip") for state in (*changed, halves)} | {prints["zip"]}) == len(changed) + 2


def test_a_sample_is_all_of_a_small_tensor_and_three_places_of_a_large_one() -> None:
    assert torch.equal(sample(normal(4, 5)), normal(4, 5).flatten())
    large = torch.arange(30_000)
    assert sample(large).tolist() == [*range(1024), *range(15_000, 16_024), *range(28_976, 30_000)]
    assert sample(OrderedDict(a=torch.tensor(3.0))["a"]).tolist() == [3.0]
