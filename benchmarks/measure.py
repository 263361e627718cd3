"""What the benchmarks share: clocks and memory, tables, and what a device can do at most."""

import gc
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from t2v.memory import is_shortage
from t2v.models.ram import own_memory, repeated

GIB = 2**30
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


# ---- time ----


def seconds(device: torch.device, run: Callable[[], object]) -> float:
    """What `run` takes: between two events of a GPU, or of all processors of this process together."""
    if device.type == "cuda":
        began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        began.record()
        run()
        ended.record()
        ended.synchronize()
        return began.elapsed_time(ended) / 1000
    since = time.process_time()
    run()
    return time.process_time() - since


# ---- memory of a GPU ----


def release() -> None:
    """Gives back what nobody uses any more."""
    torch.clear_autocast_cache()
    gc.collect()
    torch.cuda.empty_cache()


def problem(error: RuntimeError) -> str:
    return "out of memory" if is_shortage(error) else f"fails: {str(error).splitlines()[0]}"


# ---- memory and files, as Linux counts them ----


@contextmanager
def anonymous_peak(facts: dict[str, float], every: float = 0.01) -> Iterator[None]:
    """Adds what is not backed by files, in GiB: the most that was seen in the block, and what was there before it."""
    found = [own_memory()["RssAnon"]]
    with repeated(lambda: found.append(own_memory()["RssAnon"]), every):
        yield
    found.append(own_memory()["RssAnon"])
    facts |= {"anonymous": max(found) / GIB, "before": found[0] / GIB}


def forget(paths: Iterable[Path]) -> None:
    """Has the system drop files from its cache."""
    for path in paths:
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def remember(paths: Iterable[Path]) -> None:
    """Has the system keep files in its cache, as far as it has room."""
    for path in paths:
        with path.open("rb", buffering=0) as file:
            while file.read(2**24):
                pass


# ---- what a device can do, and what is asked of it ----


def multiplication(device: torch.device, dtype: torch.dtype, side: int = 0, tries: int = 5) -> float:
    """FLOP a second of the best of some multiplications of square matrices."""
    side = side or (8192 if device.type == "cuda" else 2048)
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    out = a @ b
    return 2 * side**3 / min(seconds(device, lambda: torch.mm(a, b, out=out)) for _ in range(tries))


def copying(device: torch.device, size: int = 2**28, tries: int = 5) -> float:
    """Bytes a second, read and written ones, of the best of some copies of `size` bytes."""
    a = torch.zeros(size, dtype=torch.uint8, device=device)
    out = a.clone()
    return 2 * size / min(seconds(device, lambda: out.copy_(a)) for _ in range(tries))


def asked(run: Callable[[], object]) -> tuple[int, int]:
    """FLOP of `run` on meta tensors, and bytes that its operations read and write, each one on its own."""
    with FlopCounterMode(display=False) as flop:
        run()
    with Moved() as moved, OneAttention(moved):
        run()
    return int(flop.get_total_flops()), moved.bytes


class Moved(TorchDispatchMode):
    """Adds up what operations read and write; views cost nothing."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if not func.is_view and func is not torch.ops.aten._unsafe_view.default:
            self.add((args, kwargs, result))
        return result

    def add(self, tree: object) -> None:
        self.bytes += sum(leaf.nbytes for leaf in tree_leaves(tree) if isinstance(leaf, Tensor))


class OneAttention(TorchFunctionMode):
    """Attention that never writes its matrix, as a device computes it and meta tensors do not."""

    def __init__(self, moved: Moved) -> None:
        super().__init__()
        self.moved = moved

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") != "scaled_dot_product_attention":
            return func(*args, **(kwargs or {}))
        self.moved.add(args[1:])  # the next line is an operation with the queries and the result
        return args[0].new_empty(args[0].shape[:-1] + args[2].shape[-1:])


# ---- words ----


def machine(device: torch.device) -> str:
    """The device and the version of torch."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}"
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    name = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "a CPU")
    return f"{os.cpu_count()} cores of {name}, torch {torch.__version__}, {torch.get_num_threads()} threads"


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table in markdown; of numbers, three digits that count; a dash for None."""
    lines = [head, ["---"] * len(head), *([told(cell) for cell in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def told(cell: object) -> str:
    if not isinstance(cell, float):
        return "-" if cell is None else str(cell)
    if abs(cell) >= 100:
        return f"{cell:.0f}"
    return f"{cell:#.3g}" if abs(cell) >= 1e-3 or not cell else f"{cell:.1e}"
