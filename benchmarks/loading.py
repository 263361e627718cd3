"""Loading beside the peers: `python -m benchmarks.loading [--cold] [--dtypes fp32 fp16] [--rounds 3]`.

Writes random weights in files like the published ones and loads them again and again, each time in a process of its
own: by us, as modelscope does, and by diffusers from its own layout. Nothing is copied to a device. The fp32 files
take 23 GB in `--folder`, the fp16 ones half of that, one after the other; they are removed afterwards.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import torch
from safetensors import safe_open
from torch import nn

from benchmarks.fullsize import networks, write_model
from benchmarks.measure import DTYPES, anonymous_peak, forget, machine, remember, table
from t2v.convert import convert
from t2v.models.configuration import Files, read_configuration
from t2v.models.modelscope import load
from tests.fixtures import foreign_class
from tests.oracles import autoencoder_arguments, modelscope_module, unet_arguments

Facts = dict[str, float]
FOLDER = "diffusers"  # inside the model's


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where the files go (default: the system's place for such things)")
    parser.add_argument("--dtypes", choices=DTYPES, nargs="+", default=["fp32", "fp16"], help="of the files")
    parser.add_argument("--ways", choices=WAYS, nargs="+", default=[*WAYS])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cold", action="store_true", help="load from the disk, not from the system's cache")
    parser.add_argument("--stage", choices=[*WAYS, "convert"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.stage:
        stage = convert_to_diffusers if args.stage == "convert" else WAYS[args.stage]
        print(json.dumps(stage(args.folder)))
        return
    measured: dict[str, dict[str, list[Facts]]] = {}
    for dtype in args.dtypes:
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            write_model(Path(folder), DTYPES[dtype])
            measured[dtype] = compare(Path(folder), args.ways, args.rounds, args.cold)
    print(f"{machine(torch.device('cpu'))}; files {'not ' if args.cold else ''}in the system's cache.\n")
    print(report(measured))


def compare(folder: Path, ways: list[str], rounds: int, cold: bool) -> dict[str, list[Facts]]:
    """The facts of each way in each round, from processes that alternate."""
    if "diffusers" in ways:
        staged(folder, "convert")
    measured: dict[str, list[Facts]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way in ways:
            (forget if cold else remember)(files(folder, way))
            measured[way].append(staged(folder, way))
            print(f"{way}: {measured[way][-1]}", file=sys.stderr, flush=True)
    return measured


def files(folder: Path, way: str) -> Iterator[Path]:
    """Those that a way of loading reads weights from."""
    usual = Files()
    read = {"diffusers": [*(folder / FOLDER).rglob("*.safetensors")],
            "modelscope": [folder / usual.ckpt_unet, folder / usual.ckpt_autoencoder]}
    yield from read.get(way, [folder / usual.ckpt_unet, folder / usual.ckpt_autoencoder, folder / usual.ckpt_clip])


def staged(folder: Path, stage: str) -> Facts:
    """What a stage tells, from a fresh process."""
    command = [sys.executable, "-m", "benchmarks.loading", "--stage", stage, "--folder", str(folder)]
    told = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    facts: Facts = json.loads(told.splitlines()[-1])
    return facts


def report(measured: dict[str, dict[str, list[Facts]]]) -> str:
    """The table: medians of rounds."""
    rows = []
    for dtype, ways in measured.items():
        for way, rounds in ways.items():
            middle = {fact: median(facts[fact] for facts in rounds) for fact in rounds[0]}
            theirs = ways.get("modelscope")
            rows.append((dtype, way, middle["seconds"], middle["processor"],
                         ratio(rounds, theirs) if theirs else None,
                         middle["anonymous"], middle["anonymous"] - middle["before"]))
    return table(("files", "way", "seconds", "of the processor", "of modelscope's seconds",
                  "most anonymous memory, GiB", "added by loading, GiB"), rows)


def ratio(rounds: list[Facts], theirs: list[Facts]) -> float:
    return median(mine["seconds"] / other["seconds"] for mine, other in zip(rounds, theirs, strict=True))


# ---- ways to load, each in a fresh process ----


@contextmanager
def measured_loading() -> Iterator[Facts]:
    facts: Facts = {}
    with anonymous_peak(facts):
        began, worked = time.monotonic(), time.process_time()
        yield facts
        facts |= {"seconds": time.monotonic() - began, "processor": time.process_time() - worked}


def ours(folder: Path) -> Facts:
    """The UNet, the autoencoder and the text tower, ready to run from where they are."""
    with measured_loading() as facts:
        load(folder)
    return facts


def ours_read(folder: Path) -> Facts:
    """The same, and every weight read once, as sending a model to a GPU does."""
    with measured_loading() as facts:
        for network in networks(load(folder)):
            for weight in network.parameters():
                weight.sum(dtype=torch.float32)
    return facts


def modelscope(folder: Path) -> Facts:
    """The UNet and the autoencoder as TextToVideoSynthesis makes them; without the text, which would be OpenCLIP's."""
    unet_sd, autoencoder = modelscope_module("unet_sd"), modelscope_module("autoencoder")
    made = read_configuration(folder)
    unet, vae = unet_arguments(made.unet), autoencoder_arguments(made.vae)
    with measured_loading() as facts:
        fill_unet(unet_sd.UNetSD(**unet), folder / Files.ckpt_unet)
        fill_autoencoder(autoencoder.AutoencoderKL(*vae), folder / Files.ckpt_autoencoder)
    return facts


def fill_unet(net: nn.Module, path: Path) -> None:
    net.load_state_dict(unpickled(path))


def fill_autoencoder(net: nn.Module, path: Path) -> None:
    state, inside = unpickled(path)["state_dict"], "first_stage_model."
    net.load_state_dict({key.split(inside)[-1]: weight for key, weight in state.items() if inside in key})


def unpickled(path: Path) -> Any:
    """With the trainer's class that the autoencoder's file names, as where its package is installed."""
    with foreign_class("pytorch_lightning.callbacks.model_checkpoint", "ModelCheckpoint"):
        return torch.load(path, map_location="cpu", weights_only=False)


def diffusers(folder: Path) -> Facts:
    """Its pipeline, in the precision of the files."""
    from tests import conftest  # noqa: F401  (hides a torchvision that is broken)
    from diffusers import TextToVideoSDPipeline  # isort: skip

    with safe_open(next(files(folder, "diffusers")), "pt") as file:
        dtype = file.get_tensor(next(iter(file.keys()))).dtype
    make: Any = TextToVideoSDPipeline.from_pretrained  # without hints
    with measured_loading() as facts:
        make(folder / FOLDER, torch_dtype=dtype)
    return facts


WAYS: dict[str, Callable[[Path], Facts]] = {
    "ours": ours, "ours, and every weight read": ours_read, "modelscope": modelscope, "diffusers": diffusers}


def convert_to_diffusers(folder: Path) -> Facts:
    """Writes the model once more, as diffusers wants it."""
    convert(load(folder), folder / FOLDER, "diffusers", "keep")
    return {}


if __name__ == "__main__":
    main()
