"""What the published networks cost a GPU, computed without one, as a markdown table beside the best peers.

    python -m benchmarks.footprint
"""

import math

from benchmarks.measure import table
from t2v.memory import SMALL
from tests.footprint import GIB, SIZES, decoding, step

DIFFUSERS = 4419  # kernels of a pair at 16 frames 256x256
PEAKS = 2.90, 2.95, 3.12, 5.17, 3.99, 6.98  # GiB, of diffusers, one half of guidance at a time


def kernels() -> list[tuple[str, str]]:
    """Those of a step of the pair, 16 frames 256x256."""
    size, ways = SIZES["16 frames 256x256"], {"ours": True, "ours, without Triton": False}
    counted = [(way, f"{step(size, told=2, kernels=fused).kernels:,}") for way, fused in ways.items()]
    return [*counted, ("diffusers", f"{DIFFUSERS:,}")]


def peaks() -> list[tuple[str, ...]]:
    """GiB of weights and activations, at each size."""
    def gib(size: tuple[int, int, int], at_once: float, resident: int | None) -> str:
        return f"{step(size, at_once=at_once, resident=resident).peak / GIB:.2f}"

    return [(name, *(gib(size, at_once, None) for at_once in (math.inf, SMALL)), gib(size, SMALL, 0), f"{peer:.2f}",
             f"{decoding(*size[1:]).peak / GIB:.2f}")
            for (name, size), peer in zip(SIZES.items(), PEAKS, strict=True)]


if __name__ == "__main__":
    print(table(("a step of the pair", "kernels"), kernels()))
    print()
    print(table(("a half of guidance, GiB", "ours", "in parts", "in parts, weights streamed", "diffusers",
                 "ours, decoding a frame in fp32"), peaks()))
