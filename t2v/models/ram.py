"""How much memory the machine can still give, asked first: a machine that runs out kills, it does not raise. And how
much this process has."""

import ctypes
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


def available_memory() -> int | None:
    """Bytes that programs can still get without swapping; None where the system does not say (macOS)."""
    if sys.platform == "win32":
        return _windows()
    meminfo = Path("/proc/meminfo")
    if not meminfo.is_file():
        return None
    lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
    return int(lines["MemAvailable"].split()[0]) * 1024


class _MemoryStatus(ctypes.Structure):
    """MEMORYSTATUSEX of the Windows API."""

    _fields_ = [("length", ctypes.c_ulong), ("load", ctypes.c_ulong)] + [
        (name, ctypes.c_ulonglong) for name in ("total", "available", "total_page", "available_page",
                                                "total_virtual", "available_virtual", "available_extended")]


def _windows() -> int:
    status = _MemoryStatus(length=ctypes.sizeof(_MemoryStatus))
    ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status))  # type: ignore[attr-defined]
    return int(status.available)


def own_memory() -> dict[str, int]:
    """Bytes of this process as Linux counts them: VmRSS now, VmHWM its peak, RssAnon without mapped files; empty where
    the system does not say."""
    status = Path("/proc/self/status")
    lines = (line.split() for line in status.read_text().splitlines()) if status.is_file() else ()
    return {words[0].rstrip(":"): int(words[1]) * 1024 for words in lines if words[-1] == "kB"}


@contextmanager
def repeated(look: Callable[[], object], every: float = 0.01) -> Iterator[None]:
    """Calls `look` every so many seconds while the block runs, beside it."""
    over = threading.Event()

    def go_on() -> None:
        while not over.wait(every):
            look()

    looking = threading.Thread(target=go_on, daemon=True)
    looking.start()
    try:
        yield
    finally:
        over.set()
        looking.join()
