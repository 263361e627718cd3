"""Weight files, written: tensor by tensor, so that a model of any size passes through a few megabytes of memory.

The two kinds that every program reads: safetensors, and the zip archive of `torch.save`. Both hold the numbers as they
are and, since nothing is said of when and by whom, the same tensors always make the same bytes.
"""

import json
import pickle
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from t2v.errors import ModelError
from t2v.models.torchfile import DTYPES

BLOCK = 2**20  # numbers that are brought to another precision at a time
ALIGNMENT = 64  # of each tensor in the zip archive, in bytes, as torch itself does it
SAFETENSORS = {
    torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.float64: "F64",
    torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2",
}
STORAGES = {dtype: kind.removeprefix("torch.") for kind, dtype in DTYPES.items()}
Wrote = Callable[[int], None]  # told how many bytes have just been written
Write = Callable[[Path, Mapping[str, Tensor], torch.dtype | None, Wrote], None]


def write_safetensors(path: Path, tensors: Mapping[str, Tensor], dtype: torch.dtype | None, wrote: Wrote) -> None:
    """`tensors` in `dtype`, or each as it is. ModelError where a number is too large for it; OSError from the disk."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in tensors.items():
        start, end = end, end + size_of(tensor, dtype)
        header[name] = {"dtype": SAFETENSORS[dtype or tensor.dtype], "shape": list(tensor.shape),
                        "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # so that the numbers begin at a multiple of eight
    with path.open("xb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, tensor in tensors.items():
            copy(file, path, name, tensor, dtype, wrote)


def write_torch(path: Path, tensors: Mapping[str, Tensor], dtype: torch.dtype | None, wrote: Wrote) -> None:
    """As `write_safetensors`, in the archive that `torch.load` reads, also with weights_only=True."""
    strange = next((tensor.dtype for tensor in tensors.values() if (dtype or tensor.dtype) not in STORAGES), None)
    if strange is not None:
        raise ModelError(path, f"cannot hold numbers of {str(strange)[6:]}", "Choose fp16, or another layout")
    with path.open("xb") as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        notes = OrderedDict((name, Note(str(key), tensor, dtype)) for key, (name, tensor) in enumerate(tensors.items()))
        with record(archive, file, "data.pkl") as entry:
            Notes(entry, protocol=2).dump(notes)
        for name, text in {"byteorder": sys.byteorder, "version": "3\n"}.items():
            with record(archive, file, name) as entry:
                entry.write(text.encode())
        for key, (name, tensor) in enumerate(tensors.items()):
            with record(archive, file, f"data/{key}", size_of(tensor, dtype)) as entry:
                copy(entry, path, name, tensor, dtype, wrote)


def size_of(tensor: Tensor, dtype: torch.dtype | None) -> int:
    """Bytes of a tensor in `dtype`, or as it is."""
    return tensor.numel() * (dtype or tensor.dtype).itemsize


def copy(file: IO[bytes], path: Path, name: str, tensor: Tensor, dtype: torch.dtype | None, wrote: Wrote) -> None:
    """Appends the numbers of a tensor to a file."""
    for block in blocks(tensor):
        converted = block if dtype is None else block.to(dtype)
        if converted.dtype != block.dtype and not bool(converted.isfinite().all()):
            raise ModelError(path, f"cannot hold {name}, whose numbers do not fit into {str(dtype)[6:]}",
                             "Keep the precision")
        file.write(converted.view(torch.uint8).numpy().data)
        wrote(converted.nbytes)


def blocks(tensor: Tensor) -> Iterator[Tensor]:
    """The numbers of a tensor one after the other, in runs that are copied without a thought."""
    if tensor.is_contiguous() or tensor.numel() <= BLOCK:
        yield from tensor.contiguous().reshape(-1).split(BLOCK)
    else:
        for row in tensor:
            yield from blocks(row)


def record(archive: zipfile.ZipFile, file: IO[bytes], name: str, size: int = 0) -> IO[bytes]:
    """A new record of a torch archive, whose content begins at a multiple of ALIGNMENT."""
    info = zipfile.ZipInfo(f"archive/{name}")  # dated 1980: the same every time
    large = size >= 2**31
    ahead = file.tell() + 30 + len(info.filename) + 4 + (20 if large else 0)  # 4 and 20: heads of extra fields
    gap = -ahead % ALIGNMENT
    info.extra = b"FB" + gap.to_bytes(2, "little") + b"Z" * gap
    return archive.open(info, "w", force_zip64=large)


class Note:
    """What the archive's pickle says of a tensor: shape, and where its numbers are."""

    def __init__(self, key: str, tensor: Tensor, dtype: torch.dtype | None) -> None:
        self.storage = Place(key, dtype or tensor.dtype, tensor.numel())
        self.shape = tuple(tensor.shape)

    def __reduce__(self) -> tuple[Any, ...]:
        strides = torch.empty(self.shape, device="meta").stride()
        rebuild = torch._utils._rebuild_tensor_v2
        return rebuild, (self.storage, 0, self.shape, strides, False, OrderedDict())


class Place:
    """Stands in the pickle for the numbers themselves."""

    def __init__(self, key: str, dtype: torch.dtype, numel: int) -> None:
        self.identity = ("storage", getattr(torch, STORAGES[dtype]), key, "cpu", numel)


class Notes(pickle.Pickler):
    def persistent_id(self, thing: Any) -> Any:
        return thing.identity if isinstance(thing, Place) else None
