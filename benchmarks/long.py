"""What long films cost: `python -m benchmarks.long [--frames 100 300 1000] [--size 64]`.

Films of the demo model in windows of 16 frames that share 4, each in a process of its own; prints seconds and memory.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from t2v.generate import generate
from t2v.hosts.standalone import Standalone
from t2v.models.catalog import DEMO
from t2v.models.modelscope import load
from t2v.models.ram import own_memory
from t2v.request import VideoRequest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, nargs="+", default=[100, 300, 1000], help="how long the films are")
    parser.add_argument("--size", type=int, default=64, help="their width and height in pixels")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    for frames in args.frames:
        if args.one:
            print(long_film(frames, args.size))
        else:
            asked = ["--one", "--frames", str(frames), "--size", str(args.size)]
            subprocess.run([sys.executable, "-m", "benchmarks.long", *asked], check=True)


def long_film(frames: int, size: int) -> str:
    """One film of 4 steps, and what it took."""
    request = VideoRequest(
        prompt="0: a red circle moving right | 50: a blue square moving left", seed=1, frames=frames, width=size,
        height=size, steps=4, window=16, overlap=4, noise="shuffled")
    model = load(Path(DEMO))
    before, began = own_memory()["VmRSS"], time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        list(generate(request, model, Standalone(outputs=Path(folder))))
    seconds, peak = time.process_time() - began, own_memory()["VmHWM"]
    return (f"{frames} frames: {seconds:.1f} processor seconds, {1000 * seconds / frames:.0f} ms a frame, "
            f"peak {peak / 1e6:.0f} MB, {(peak - before) / 1e6:.0f} MB of it for the film")


if __name__ == "__main__":
    main()
