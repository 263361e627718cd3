"""How much memory the machine can still give, asked first: a machine that runs out kills, it does not raise."""

import ctypes
import sys
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
