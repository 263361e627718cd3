"""Pickles that somebody made on purpose, and damage at random: read or refused, but nothing runs, hangs or crashes."""

import io
import os
import struct
import time
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from t2v.errors import ModelError
from t2v.models import pickled, torchfile
from t2v.models.checkpoint import read, sample
from tests.fixtures import CONTAINERS, one_clear_sentence, some_state, tensor_pickle, torch_zip, zipped

# ---- made on purpose ----


class Runs:
    """What would call os.system if it were unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


def test_the_tensor_written_by_hand_is_one(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(torch_zip(tensor_pickle(), {"0": struct.pack("<4f", 1, 2, 3, 4)}))
    assert read(path)["w"].tolist() == [1, 2, 3, 4]


NESTED = 100_000
IMPOSSIBLE: dict[str, bytes] = {
    "more elements than there are": tensor_pickle(shape="(I5\nt"),
    "elements counted twice": tensor_pickle(shape="(I1000000\nt", stride="(I0\nt"),
    "an offset past the end": tensor_pickle(offset=1),
    "a negative offset": tensor_pickle(offset=-1),
    "a negative shape": tensor_pickle(shape="(I-4\nt"),
    "a negative stride": tensor_pickle(stride="(I-1\nt"),
    "an endless stride": tensor_pickle(stride="(L" + "9" * 30 + "L\nt"),
    "a long stride": tensor_pickle(stride="(I2\nt"),
    "more strides than axes": tensor_pickle(stride="(I1\nI1\nt"),
    "text for a shape": tensor_pickle(shape="(U\x01wt"),
    "a fraction of a shape": tensor_pickle(shape="(F4.0\nt"),
    "ten axes": tensor_pickle(shape="(" + "I1\n" * 10 + "t", stride="(" + "I1\n" * 10 + "t"),
    "a storage larger than the file": tensor_pickle(numel=2**50),
    "a storage of negative size": tensor_pickle(numel=-4),
    "a memo for a giant": b"}r\xff\xff\xff\x7f0h\x00.",
    "text of two gigabytes": b"}X\xff\xff\xff\x7fabc.",
    "bytes of an exabyte": b"}\x8e" + struct.pack("<Q", 2**60) + b".",
    "a number of a million digits": b"}L" + b"9" * 1_000_000 + b"L\n.",
    "opcodes without end": b"}" + b"N0" * 5_000_000 + b".",
    "a class made by name": b"(i__builtin__\neval\n.",
    "an extension": b"}\x82\x01.",
    "a stack that runs dry": b"R.",
    "a mark that was never set": b"}t.",
    "a memo never written": b"h\x05.",
    "no end": b"}",
    "nothing": b"",
}


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_a_pickle_that_asks_for_the_impossible_is_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(torch_zip(IMPOSSIBLE[name], {"0": bytes(16)}))
    with one_clear_sentence("is damaged or incomplete"):
        read(path)


HARMLESS: dict[str, bytes] = {
    "tuples in tuples in tuples": b"}U\x01k" + b")" + b"\x85" * NESTED + b"s",
    "tuples as a key": b"}" + b")" + b"\x85" * NESTED + b"U\x01vs",
    "a tree that doubles": b"}U\x01k" + b")" + b"q\x00h\x00\x86" * 1000 + b"s",
    "a tree that doubles as a key": b"}" + b")" + b"q\x00h\x00\x86" * 1000 + b"U\x01vs",
    "lists in lists in lists": b"}U\x01k" + b"]" * NESTED + b"a" * (NESTED - 1) + b"s",
    "notes in notes": b"}U\x01k" + b"cos\nsystem\n)" + b"\x81)" * NESTED + b"0s",
    "a state dict inside itself": b"}q\x00U\x0astate_dicth\x00s",
    "attributes set on a function": b"}U\x01kctorch._utils\n_rebuild_tensor_v2\n}U\x0c__defaults__)sbs",
}


@pytest.mark.parametrize("name", HARMLESS)
def test_a_pickle_that_would_hang_or_crash_the_interpreter_is_only_read(name: str, tmp_path: Path) -> None:
    """Hashing nested tuples takes for ever or overflows the stack; here the tensor beside them is simply found."""
    path = tmp_path / "weights.pth"
    tensor = tensor_pickle()[1:-1]
    path.write_bytes(torch_zip(HARMLESS[name] + tensor + b".", {"0": bytes(16)}))
    began = time.process_time()
    assert list(read(path)) == ["w"]
    assert time.process_time() - began < 5  # a fraction of a second on a quiet machine


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_no_code_in_a_pickle_runs(
        legacy: bool, protocol: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    monkeypatch.setattr(os, "system", lambda *args: calls.append(args))  # Runs now names this function
    monkeypatch.setattr(os.system, "__module__", "os")
    monkeypatch.setattr(os.system, "__qualname__", "system")
    path, marker = tmp_path / "weights.pth", tmp_path / "it ran"
    state = {"weight": torch.ones(3), "virus": Runs(f"touch '{marker}'")}
    torch.save(state, path, pickle_protocol=protocol, _use_new_zipfile_serialization=not legacy)
    assert list(read(path)) == ["weight"]
    assert not calls
    assert not marker.exists()
    torch.serialization.load(path, weights_only=False)
    assert calls, "the file was harmless: this test shows nothing"


@pytest.mark.parametrize("named", ["os\nsystem", "torch\nos.system", "builtins\neval", "collections\nOrderedDict.os"])
def test_a_function_by_any_name_is_a_note(named: str) -> None:
    for data in (f"c{named}\n(U\x02lstR.", f"U{chr(len(named.split()[0]))}{named.split()[0]}"
                 f"U{chr(len(named.split()[1]))}{named.split()[1]}\x93(U\x02lst\x81."):
        note, storages = pickled.read_pickle(io.BytesIO(data.encode("latin-1")))
        assert note == pickled.Made(pickled.Named(named.replace("\n", ".")), ("ls",))
        assert storages == {}


def test_a_zip_bomb_is_not_inflated(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(zipped({"a/data.pkl": bytes(100_000_000)}, zipfile.ZIP_DEFLATED))
    assert path.stat().st_size < 200_000
    with one_clear_sentence("compressed"):
        read(path)
    path.write_bytes(zipped({"a/data.pkl": bytes(20_000_000)}))
    with one_clear_sentence("longer than any model's"):
        read(path)


# ---- damaged at random ----


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    path = tmp_path_factory.mktemp("originals") / "weights.pth"
    data = {}
    for container, save in CONTAINERS.items():
        save(some_state(), path)
        data[container] = path.read_bytes()
    return data


def read_or_refuse(path: Path, data: bytes) -> None:
    """Either tensors that can be used, or a ModelError; anything else fails the test, or crashes it."""
    path.write_bytes(data)
    with suppress(ModelError):
        for tensor in read(path).values():
            sample(tensor).sum()


fuzzing = settings(max_examples=150, deadline=None, derandomize=True, database=None,
                   suppress_health_check=[HealthCheck.function_scoped_fixture])


@fuzzing
@given(container=st.sampled_from(list(CONTAINERS)), share=st.floats(0, 1))
def test_a_file_cut_off_anywhere_is_refused(
        container: str, share: float, originals: dict[str, bytes], tmp_path: Path) -> None:
    data = originals[container]
    path = tmp_path / "weights.pth"
    path.write_bytes(data[: min(int(share * len(data)), len(data) - 1)])
    with pytest.raises(ModelError):
        read(path)


@fuzzing
@given(container=st.sampled_from(list(CONTAINERS)), damage=st.lists(
    st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=8))
def test_a_damaged_file_is_read_or_refused_but_nothing_else(
        container: str, damage: list[tuple[float, int]], originals: dict[str, bytes], tmp_path: Path) -> None:
    data = bytearray(originals[container])
    for place, value in damage:
        data[int(place * len(data))] = value
    read_or_refuse(tmp_path / "weights.pth", bytes(data))


@fuzzing
@given(data=st.binary(max_size=300), head=st.sampled_from(
    [b"", torchfile.ZIP_MAGIC, b"\x80\x02" + torchfile.LEGACY_MAGIC, b"\x40\0\0\0\0\0\0\0{"]))
def test_noise_is_read_or_refused_but_nothing_else(data: bytes, head: bytes, tmp_path: Path) -> None:
    read_or_refuse(tmp_path / "weights.pth", head + data)


@fuzzing
@given(opcodes=st.lists(st.sampled_from(
    [b"}", b"]", b")", b"(", b"t", b"\x85", b"\x86", b"N", b"K\x01", b"U\x01a", b"cos\nsystem\n", b"R", b"\x81", b"b",
     b"s", b"u", b"a", b"e", b"q\x00", b"h\x00", b"Q", b"0", b"1", b"\x93", b"\x94", b"l", b"d", b"\x90", b"\x91",
     b"ctorch._utils\n_rebuild_tensor_v2\n"]), max_size=40))
def test_any_sequence_of_opcodes_is_read_or_refused_but_nothing_else(opcodes: list[bytes], tmp_path: Path) -> None:
    read_or_refuse(tmp_path / "weights.pth", torch_zip(b"".join(opcodes) + b".", {"0": bytes(16)}))
