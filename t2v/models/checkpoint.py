"""Weight files: from a path to tensors by name, and from tensors to a network that is ready to run.

A file is recognised by its content, not by its name, and mapped rather than read: of the 5.2 GB that hold the
published autoencoder only 0.33 GB ever reach memory, and those can be dropped again. A network is built without
memory of its own (meta device) and takes the mapped tensors as its weights, in the precision of the file.

Whatever is wrong with a file ends in one ModelError that says what the file is and what to do.
"""

import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from t2v.errors import ModelError
from t2v.models.disk import AGAIN, head_of, read_json
from t2v.models.ram import available_memory
from t2v.models.torchfile import LEGACY_MAGIC, ZIP_MAGIC, Choose, gigabytes, read_torch

State = Mapping[str, Tensor]
Config = TypeVar("Config")
Network = TypeVar("Network", bound=nn.Module)
MAX_INDEX = 4 * 2**20  # bytes; that of 1,480 weights has 200,000


def everything(names: Iterable[str]) -> dict[str, str]:
    """The names as they are: what `read` takes if it is not told."""
    return {name: name for name in names}


def read(path: Path, choose: Choose = everything) -> dict[str, Tensor]:
    """The tensors of a weight file by name, on the CPU. Nothing of them is read from the disk until it is used.

    `choose` says which of the names in the file are wanted, and what they are called from here on.
    Knows torch's two containers, safetensors, and the index of a file in several parts. Raises ModelError for every
    other file, and for a broken one.
    """
    head = head_of(path)
    is_text = head.lstrip().startswith(b"{") and b"\0" not in head
    tensors = _read_parts(path, choose) if is_text else _read_whole(path, head, choose)
    if not tensors:
        raise ModelError(path, "holds no tensors by name", "Choose the file with the weights themselves")
    return tensors


def _read_whole(path: Path, head: bytes, choose: Choose) -> dict[str, Tensor]:
    for begins, problem, remedy in IMPOSTORS:
        if begins(head):
            raise ModelError(path, problem, remedy)
    reader = next((reader for begins, reader in FORMATS if begins(head)), None)
    if reader is None:
        raise ModelError(path, "is not a weight file of a known kind (.pth, .ckpt, .bin, .safetensors)", AGAIN)
    try:
        return reader(path, choose)
    except (OSError, MemoryError) as error:
        raise ModelError(path, f"cannot be mapped into memory ({error})", "Close other programs, try again") from error


def _read_parts(index: Path, choose: Choose) -> dict[str, Tensor]:
    """The tensors of a file in several parts, from the index that says which part holds which."""
    content = read_json(index, MAX_INDEX)
    places = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(places, dict) or not all(isinstance(part, str) for part in places.values()):
        raise ModelError(index, "is not a weight file, and no index of weight files either", AGAIN)
    parts: dict[str, dict[str, str]] = {}
    for name, original in choose(places).items():
        parts.setdefault(places[original], {})[name] = original
    found: dict[str, Tensor] = {}
    for part, names in sorted(parts.items()):
        if part != Path(part).name or not part.strip("."):
            raise ModelError(index, f"names {part[:100]!r}, no file of its own folder", AGAIN)
        path = index.with_name(part)
        found |= _read_whole(path, head_of(path), partial(_only, names))
    return found


def _only(names: Mapping[str, str], there: Iterable[str]) -> dict[str, str]:
    """Those of the chosen `names` that are `there`; `filled` finds out what is missing."""
    there = set(there)
    return {name: original for name, original in names.items() if original in there}


def _read_safetensors(path: Path, choose: Choose) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return {name: file.get_tensor(original) for name, original in choose(file.keys()).items()}
    except SafetensorError as error:
        size, expected = path.stat().st_size, _promised_by_safetensors(path)
        of = f" of {gigabytes(expected)}" if expected > size else ""
        raise ModelError(path, f"is damaged or incomplete ({gigabytes(size)}{of} are there)", AGAIN) from error


def _promised_by_safetensors(path: Path) -> int:
    """How long the header says that the file is; 0 where the header itself is broken."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(min(length, 2**25)))
        ends = [entry["data_offsets"][1] for key, entry in header.items() if key != "__metadata__"]
        return 8 + length + int(max(ends))
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return 0


def load_network(network_class: Callable[[Config], Network], config: Config, state: State, path: Path) -> Network:
    """A network with the weights of `state`, which came from `path`. ModelError as in `filled`."""
    return filled(blank(network_class, config), state, path)


def blank(network_class: Callable[[Config], Network], config: Config) -> Network:
    """A network that has names and shapes, and no weights."""
    with torch.device("meta"), _Uninitialised():
        return network_class(config)


def filled(network: Network, state: State, path: Path) -> Network:
    """`network`, so far blank, with the weights of `state`, from `path`: evaluating, without gradients, on the CPU.

    Raises ModelError where names or shapes differ from the network's, or weights are no numbers. Axes of length one
    make no difference: a kernel of length 1 is a matrix.
    """
    expected = network.state_dict()
    state = {key: _reshaped(tensor, expected.get(key, tensor)) for key, tensor in state.items()}
    problem = mismatch(expected, state)
    if problem:
        raise ModelError(path, problem, "Check that configuration.json and this file belong to the same model")
    weights = _aligned({key: state[key] for key in expected}, path)
    for key, tensor in weights.items():
        if not bool(sample(tensor).float().isfinite().all()):
            raise ModelError(path, f"holds weights that are not numbers (NaN or infinity), as in {key}", AGAIN)
    network.load_state_dict(weights, assign=True)
    return network.eval().requires_grad_(False)


def _reshaped(tensor: Tensor, like: Tensor) -> Tensor:
    """`tensor` in the shape of `like`, where they differ only in axes of length one."""
    if tensor.ndim and [n for n in tensor.shape if n != 1] == [n for n in like.shape if n != 1]:
        return tensor.reshape(like.shape)
    return tensor


class _Uninitialised(TorchFunctionMode):
    """Leaves out the drawing of initial weights: on the meta device it is for nothing, and its imports take seconds."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__module__", "") == "torch.nn.init":
            return (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))


def mismatch(expected: State, state: State) -> str:
    """How `state` differs from the `expected` names and shapes, in words; "" where it fits."""
    if kind(state) != kind(expected):
        return f"looks like {kind(state)}, not like {kind(expected)}"
    shapes = [f"{key} {_shape(state[key])} instead of {_shape(tensor)}" for key, tensor in expected.items()
              if key in state and state[key].shape != tensor.shape]
    lists = {
        "missing": [key for key in expected if key not in state],
        "unexpected": [key for key in state if key not in expected],
        "of another shape": shapes,
        "not floating point": [key for key in expected if key in state and not state[key].is_floating_point()],
    }
    return "; ".join(f"{len(keys)} tensors are {what}: {_first(keys)}" for what, keys in lists.items() if keys)


def _first(keys: list[str]) -> str:
    """Three of the names, on one line whatever a file calls its tensors."""
    return ", ".join([*(repr(key[:100])[1:-1] for key in keys[:3]), *(["..."] if len(keys) > 3 else [])])


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"


def kind(names: Collection[str]) -> str:
    """What sort of network has tensors of these names."""
    return next((words for words, *signs in KINDS if all(any(sign in name for name in names) for sign in signs)),
                "an unknown kind of model")


def sample(tensor: Tensor) -> Tensor:
    """All of a small tensor; of a large one three runs of 1,024 numbers, so that looking costs no reading of it."""
    flat = tensor.reshape(-1)
    if len(flat) <= 16_384:
        return flat
    middle = len(flat) // 2
    return torch.cat([flat[:1024], flat[middle : middle + 1024], flat[-1024:]])


def fingerprint(network: nn.Module) -> str:
    """Ten hex digits that tell models apart: SHA-256 of every tensor's name, precision, shape and `sample`.

    It costs no full reading, is the same for the same weights in any container, and changes with any training
    or merge that touches the sampled numbers of a single tensor. It proves nothing about the numbers between.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(sample(tensor).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:10]


def _aligned(state: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """`state` with copies of the tensors that the old container put at odd addresses, where kernels may not read."""
    odd = {key: tensor for key, tensor in state.items() if tensor.data_ptr() % tensor.element_size()}
    needed, available = sum(tensor.nbytes for tensor in odd.values()), available_memory()
    if available is not None and needed > available:
        raise ModelError(path, f"needs {gigabytes(needed)} of memory, and {gigabytes(available)} are free",
                         "Save it again with a current torch: the newer format can be used without a copy")
    return state | {key: tensor.clone() for key, tensor in odd.items()}


def _starts(*marks: bytes) -> Callable[[bytes], bool]:
    return lambda head: head.startswith(marks)


IMPOSTORS: list[tuple[Callable[[bytes], bool], str, str]] = [
    (lambda head: not head, "is empty", AGAIN),
    (_starts(b"version https://git-lfs"), "is a Git LFS pointer, a note of where the weights are, not the weights",
     "Run 'git lfs pull' in the folder, or download the file itself"),
    (lambda head: head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"), "is a web page, not weights",
     "Download the file itself, with the page's download button"),
    (lambda head: head[257:262] == b"ustar", "is a tar archive, as the first versions of torch wrote them",
     "Load it with an old torch and save it again"),
]

FORMATS: list[tuple[Callable[[bytes], bool], Callable[[Path, Choose], dict[str, Tensor]]]] = [
    (lambda head: head.startswith(ZIP_MAGIC) or LEGACY_MAGIC in head[:32], read_torch),
    (lambda head: head[8:9] == b"{", _read_safetensors),
]

KINDS = [  # the first line whose parts all occur in the names of the tensors
    ("a LoRA", ".lora_"),
    ("a whole Stable Diffusion checkpoint", "model.diffusion_model.", "first_stage_model."),
    ("a text2video UNet", "input_blocks.", "temopral_conv"),
    ("the UNet of an image model, without layers along time", "input_blocks."),
    ("a UNet in the layout of diffusers", "down_blocks.", "time_embedding."),
    ("an OpenCLIP text tower", "transformer.resblocks.", "token_embedding"),
    ("a text encoder in the layout of transformers", "encoder.layers."),
    ("an autoencoder in the layout of diffusers", "encoder.down_blocks."),
    ("an autoencoder", "encoder.down.", "decoder.up."),
]
