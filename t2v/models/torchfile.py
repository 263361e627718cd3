"""The two containers `torch.save` has written: a zip archive, and before torch 1.6 pickles in a row.

Either way the file is mapped into memory, its pickles are read as data (see `pickled`), and each tensor becomes
a view of the mapping, inside bounds that are checked here: no number is read before somebody uses it, and
a change to a tensor never reaches the file. `torch.load` is not used: web UIs replace it with loaders of their own.
"""

import math
import mmap
import struct
import sys
import zipfile
from collections.abc import Callable, Iterable, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from t2v.errors import ModelError
from t2v.models.pickled import Made, Named, Storage, read_pickle

ZIP_MAGIC = b"PK\x03\x04"
LEGACY_MAGIC = b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."  # a pickled number, behind two or more bytes of pickle protocol
MAX_PICKLE = 16 * 2**20  # bytes; a checkpoint of 2,000 tensors needs a third of a million
MAX_AXES = 8
DTYPES = {
    "torch.FloatStorage": torch.float32, "torch.HalfStorage": torch.float16, "torch.BFloat16Storage": torch.bfloat16,
    "torch.DoubleStorage": torch.float64, "torch.LongStorage": torch.int64, "torch.IntStorage": torch.int32,
    "torch.ShortStorage": torch.int16, "torch.CharStorage": torch.int8, "torch.ByteStorage": torch.uint8,
    "torch.BoolStorage": torch.bool,
}
_TENSORS = ("torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor")
_PARAMETERS = ("torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state")


Choose = Callable[[Iterable[str]], Mapping[str, str]]  # of the names in a file, those wanted, by what to call them
Numbers = Callable[[Storage], Tensor]  # what the file keeps under a storage's key, flat


def read_torch(path: Path, choose: Choose) -> dict[str, Tensor]:
    """The chosen tensors of the state dict in `path`, as views of the mapped file.

    Raises ModelError where the file is cut off, damaged or not torch's.
    """
    with path.open("rb") as file:
        mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    try:
        tree, numbers = (_read_zip if mapping[:4] == ZIP_MAGIC else _read_legacy)(path, mapping)
        notes = _state_dict(tree)
        found = {name: _tensor(notes[original], numbers) for name, original in choose(notes).items()}
        return {name: tensor for name, tensor in found.items() if tensor is not None}
    except ValueError as error:
        raise ModelError(path, f"is damaged or incomplete ({error})", "Download it again") from error


def _read_zip(path: Path, mapping: mmap.mmap) -> tuple[Any, Numbers]:
    """The data of a zip container, and where to look for the numbers beside it."""
    try:
        with zipfile.ZipFile(path) as archive:
            records = {info.filename: info for info in archive.infolist()}
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        raise _cut_off(path, len(mapping), _promised(mapping)) from error
    root = next((name[:-8] for name in records if name.endswith("/data.pkl") and name.count("/") == 1), None)
    if root is None:
        raise ModelError(path, "is a zip archive, but not one of weights", "If it is a package, unpack it")
    if root + "constants.pkl" in records:
        raise ModelError(path, "is a TorchScript program, not a weight file", "Save the model's state dict")
    order = records.get(root + "byteorder")
    if order is not None and _bytes(mapping, order) != sys.byteorder.encode():
        raise ModelError(path, "was saved on a machine with another byte order", "Save it again on this kind")

    def numbers(storage: Storage) -> Tensor:
        record = records.get(f"{root}data/{storage.key}")
        if record is None or record.file_size < _size(storage):
            raise ValueError(f"storage {storage.key[:20]!r} is missing or short")
        return _flat(mapping, _start(mapping, record), storage)

    tree, _ = read_pickle(BytesIO(_bytes(mapping, records[root + "data.pkl"])))
    return tree, numbers


def _bytes(mapping: mmap.mmap, record: zipfile.ZipInfo) -> bytes:
    """A small record of the archive."""
    start = _start(mapping, record)
    if record.file_size > MAX_PICKLE:
        raise ValueError("its directory is longer than any model's")
    return mapping[start : start + record.file_size]


def _start(mapping: mmap.mmap, record: zipfile.ZipInfo) -> int:
    """Where a record's bytes begin: behind its local header, whose length only the header itself knows."""
    if record.compress_type != zipfile.ZIP_STORED:
        raise ValueError("it is compressed, which weight files never are")
    return _after_header(mapping, record.header_offset)


def _after_header(mapping: mmap.mmap, start: int) -> int:
    if not 0 <= start <= len(mapping) - 30:
        raise ValueError("its parts lie outside the file")
    name, extra = struct.unpack_from("<26x2H", mapping, start)
    return start + 30 + int(name) + int(extra)


def _promised(mapping: mmap.mmap) -> int:
    """How many bytes of numbers belong to an archive that has lost its end, as its first record tells; or 0."""
    try:
        start = _after_header(mapping, 0)
        _, storages = read_pickle(BytesIO(mapping[start : start + MAX_PICKLE]))
        return sum(map(_size, storages.values()))
    except ValueError:
        return 0


def _read_legacy(path: Path, mapping: mmap.mmap) -> tuple[Any, Numbers]:
    """The same of the old container: five pickles, then every storage as its length and its numbers."""
    stream = BytesIO(mapping[:MAX_PICKLE])
    for _ in ("magic number", "version", "type sizes"):
        read_pickle(stream)
    tree, storages = read_pickle(stream)
    keys, _ = read_pickle(stream)
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys) or set(keys) != storages.keys():
        raise ValueError("its list of storages is not that of its tensors")
    starts, end = {}, stream.tell()
    for key in keys:
        starts[key] = end + 8
        end += 8 + _size(storages[key])
    if end > len(mapping):
        raise _cut_off(path, len(mapping), end)
    return tree, lambda storage: _flat(mapping, starts[storage.key], storage)


def _cut_off(path: Path, size: int, expected: int) -> ModelError:
    """What to say of a file without its end, which should be `expected` bytes long or, if 0, nobody knows how long."""
    of = f" of about {gigabytes(expected)}" if expected > size else ""
    return ModelError(path, f"is incomplete: only {gigabytes(size)}{of} are there", "Download it again")


def gigabytes(size: int) -> str:
    """A file size as people read it."""
    return f"{size / 1e9:.2f} GB" if size >= 1e8 else f"{size / 1e6:.2f} MB"


def _size(storage: Storage) -> int:
    if storage.kind not in DTYPES or storage.numel < 0:
        raise ValueError("it holds numbers of an unknown kind")
    return storage.numel * DTYPES[storage.kind].itemsize


def _flat(mapping: mmap.mmap, start: int, storage: Storage) -> Tensor:
    """The numbers of a storage, one after the other, where they lie in the file."""
    if storage.numel < 1 or not 0 <= start <= len(mapping) - _size(storage):
        raise ValueError("its parts lie outside the file")
    return torch.frombuffer(mapping, dtype=DTYPES[storage.kind], count=storage.numel, offset=start)


def _state_dict(tree: Any) -> dict[str, Any]:
    """The notes of a state dict, bare or under the key where trainers put it; everything else is left behind.

    Embeddings are under a key of their own, sometimes inside a module. In a list, names are numbers.
    """
    if isinstance(tree, dict):
        match tree.get("state_dict", tree.get("string_to_param")):
            case dict(inner) | Made(_, _, {"_parameters": dict(inner)}):
                tree = inner
            case _ if not _tensors(tree):
                tree = max((inner for inner in tree.values() if isinstance(inner, dict)), key=_tensors, default=tree)
    if isinstance(tree, list) and any(isinstance(note, Made) for note in tree):
        tree = dict(enumerate(tree))
    if not isinstance(tree, dict):
        raise ValueError("it holds no state dict")
    return {str(name): note for name, note in tree.items()}


def _tensors(notes: dict[Any, Any]) -> int:
    """How many of the notes may be of tensors."""
    return sum(isinstance(note, Made) for note in notes.values())


def _tensor(note: Any, numbers: Numbers) -> Tensor | None:
    """The tensor that a note of the pickle describes; None where it describes something else, or nothing."""
    match note:
        case Made(Named(name), (Made() as inner, *_)) if name in _PARAMETERS:
            note = inner
    match note:
        case Made(Named(name), (Storage() as storage, offset, tuple(shape), tuple(stride), *_)) if (
                name in _TENSORS and storage.kind in DTYPES and 0 not in shape):
            return _strided(numbers(storage), offset, shape, stride)
    return None


def _strided(flat: Tensor, offset: int, shape: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
    """A view of `flat`, after checking that each of its elements lies inside and none is counted twice."""
    sane = all(type(n) is int and 0 <= n < 2**60 for n in (offset, *shape, *stride))
    if not sane or not len(shape) == len(stride) <= MAX_AXES or math.prod(shape) > len(flat):
        raise ValueError("it describes a tensor that cannot be")
    if offset + sum((size - 1) * step for size, step in zip(shape, stride, strict=True)) >= len(flat):
        raise ValueError("it describes a tensor that reaches outside its storage")
    return flat.as_strided(shape, stride, offset)
