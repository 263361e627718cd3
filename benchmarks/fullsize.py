"""What a model of the published size costs to load: `python -m benchmarks.fullsize [--cold] [--generate]`.

Writes random fp16 weights in files like the published ones (7.4 GB, removed again), then loads them in a process of
its own and prints seconds and memory. `--cold` drops the files from the system's cache first; `--generate` makes a
film of 16 frames, 256x256, in two steps as well, which takes a CPU many minutes.
"""

import argparse
import math
import subprocess
import sys
import tempfile
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.measure import forget
from t2v.models import Model
from t2v.models.autoencoder import AutoencoderKL
from t2v.models.modelscope import load
from t2v.models.ram import own_memory
from t2v.models.text import TextTower
from t2v.models.unet import UNet3D
from tests.fixtures import PUBLISHED, foreign_class

Shapes = dict[str, tuple[int, ...]]
Facts = dict[str, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where the files go (default: the system's place for such things)")
    parser.add_argument("--cold", action="store_true", help="load from the disk, not from the system's cache")
    parser.add_argument("--generate", action="store_true", help="make a film too")
    parser.add_argument("--stage", choices=STAGES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.stage:
        print(", ".join(f"{fact} {value:.2f}" for fact, value in STAGES[args.stage](args.folder).items()))
        return
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        write_model(Path(folder))
        for stage in ("load", "read", "generate") if args.generate else ("load", "read"):
            if args.cold:
                forget(Path(folder).iterdir())
            command = [sys.executable, "-m", "benchmarks.fullsize", "--stage", stage, "--folder", folder]
            facts = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            print(f"{stage}: {facts.strip()}", flush=True)


# ---- stages: each in a fresh process, facts as the result ----


def load_stage(folder: Path) -> Facts:
    """Loading alone: nothing is computed, so no weights should have been read but the samples that are checked."""
    with measured() as facts:
        model = load(folder)
    return facts | used(model, facts)


def read_stage(folder: Path) -> Facts:
    """Loading, then reading every weight once, as sending a model to a GPU does."""
    with measured() as facts:
        model = load(folder)
        for network in networks(model):
            for weight in network.parameters():
                weight.sum(dtype=torch.float32)
    return facts | used(model, facts)


def generate_stage(folder: Path) -> Facts:
    """A film in two steps at the published size."""
    # Here, so that the other stages do not count what only this one imports.
    from t2v.generate import generate
    from t2v.hosts.standalone import Standalone
    from t2v.request import VideoRequest

    request = VideoRequest(prompt="a corgi running on a beach", steps=2, seed=1)
    with measured() as facts:
        model = load(folder)
        films = [film.path.stat().st_size for film in generate(request, model, Standalone(outputs=folder / "films"))]
    return facts | used(model, facts) | {"film, MB": sum(films) / 1e6}


@contextmanager
def measured() -> Iterator[Facts]:
    """Seconds by the clock and of the processor, and memory in GB; Linux counts the peak since the process began."""
    facts: Facts = {}
    before, began, worked = own_memory(), time.monotonic(), time.process_time()
    yield facts
    after = own_memory()
    facts["seconds"] = time.monotonic() - began
    facts["processor seconds"] = time.process_time() - worked
    facts["peak resident, GB"] = after["VmHWM"] / 1e9
    facts["resident before, GB"] = before["VmRSS"] / 1e9
    facts["added and not backed by files, GB"] = (after["RssAnon"] - before["RssAnon"]) / 1e9


def used(model: Model, facts: Facts) -> Facts:
    """The weights of the model in GB, and how the peak of memory compares with them."""
    size = sum(weight.nbytes for network in networks(model) for weight in network.parameters()) / 1e9
    return {"weights used, GB": size, "peak / weights": facts["peak resident, GB"] / size}


def networks(model: Model) -> tuple[nn.Module, ...]:
    return model.unet, model.vae, model.text


STAGES: dict[str, Callable[[Path], Facts]] = {"load": load_stage, "read": read_stage, "generate": generate_stage}


# ---- the files ----


def write_model(folder: Path, dtype: torch.dtype = torch.float16) -> None:
    """The four files; in fp16, they are as large as those that most people download."""
    (folder / "configuration.json").write_text(PUBLISHED)
    with torch.device("meta"):
        unet, vae, text = (shapes(network()) for network in (UNet3D, AutoencoderKL, TextTower))
    save(drawn(unet, dtype), folder / "text2video_pytorch_model.pth")

    # The rest of a Stable Diffusion 2 checkpoint, 866 million weights of a UNet and its text tower, stands around it.
    shape = (1_262_200,)
    around = {f"model.diffusion_model.{i}.weight": shape for i in range(686)}
    tower = {f"cond_stage_model.model.{key}": text[key] for key in text}
    inside = {f"first_stage_model.{key}": vae[key] for key in vae}
    with foreign_class("pytorch_lightning.callbacks.model_checkpoint", "ModelCheckpoint") as checkpoint:
        state = drawn(around | inside | tower, dtype)
        save({"state_dict": state, "callbacks": {checkpoint: {"monitor": "loss"}}, "epoch": 0},
             folder / "VQGAN_autoencoder.pth")
        del state

    # So does the half of OpenCLIP that looks at pictures: 632 million weights.
    vision = {f"visual.transformer.resblocks.{i}.weight": (1_616_500,) for i in range(391)}
    save(drawn(text | vision, dtype), folder / "open_clip_pytorch_model.bin")


def shapes(network: nn.Module) -> Shapes:
    return {key: tuple(weight.shape) for key, weight in network.state_dict().items()}


def drawn(shapes: Shapes, dtype: torch.dtype) -> "OrderedDict[str, Tensor]":
    """Random weights, scaled so that activations stay about 1; a pool of noise is dealt out again and again."""
    pool = torch.randn(2**22, generator=torch.Generator().manual_seed(0))
    state = OrderedDict()
    for number, (key, shape) in enumerate(shapes.items()):
        size, start = math.prod(shape), number * 7919 % len(pool)
        # Views of the pool, copied below: large arrays in between would leave the heap in pieces.
        noise = pool[start : start + size]
        if len(noise) < size:
            noise = pool.repeat(-(-(start + size) // len(pool)))[start : start + size]
        noise = noise.view(shape)
        if len(shape) > 1:
            weight = noise.clone() if "embedding" in key else noise / math.sqrt(math.prod(shape[1:]))
        else:
            weight = 0.2 * noise + (1.0 if key.endswith("weight") else 0.0)
        state[key] = weight.to(dtype)
    return state


def save(content: object, path: Path) -> None:
    torch.save(content, path)
    print(f"{path.name}: {path.stat().st_size / 1e9:.2f} GB", flush=True)


if __name__ == "__main__":
    main()
