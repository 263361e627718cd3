"""Every framework stays in its place and imports point downwards, read off the syntax trees of all modules."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import t2v

PACKAGE = Path(t2v.__file__).parent

# From the top: a module may import what stands in a lower row than itself.
ROWS = """
    __main__
    cli hosts.entry
    hosts.detect
    hosts.sdnext hosts.forge
    hosts.webui hosts.door
    ui.server
    api.attach
    api.about api.dropin
    api.v1
    api.service
    api.films api.access api.schema api.status
    api.body api.orders
    api.routes
    api.files api.history api.weights
    ui.tab
    ui.handlers ui.care
    ui.library
    ui.controls
    ui.wiring
    ui ui.compat ui.show
    hosts.standalone
    jobs bench
    shelf generate
    denoising beginning upscale
    latents
    lean plan
    companions inputs
    models.lora.merge models.library
    models.lora
    models.lora.named models.lora.positional
    models.lora.parts models.lora.foreign models.embeddings
    doctor
    convert doctor.models doctor.environment
    verdict doctor.files
    needs
    alive
    models.catalog models.export
    video models.modelscope models.videocrafter models.diffusers_folder models.facts
    models.assembly video.clips
    video.reading models.configuration models.contents
    models.dialects
    graphs models.names
    download guidance start story ring windows video.movie video.pictures models models.checkpoint models.writing
    sampling infotext prompt fitting video.sound video.files models.torchfile models.unet models.autoencoder models.text
    hosts download.errand freeinit models.strips models.transformer
    download.transfer placement
    settings extra download.planning video.smoothing traffic
    request schedule memory layout watch curves weaving tokenizer preview video.base models.pickled models.layers
    models.ram models.disk models.variants models.fused models.winograd models.tiles float8 inference
    download.hub download.catalogue models.kernels
    errors
    client api
"""
RANKS = {name: -row for row, line in enumerate(ROWS.splitlines()) for name in line.split()}
BLIND = ({"models", "sampling"}, {"models", "guidance"})  # networks and samplers know nothing of each other

# What may be imported in one place only; where there is no place, nowhere.
HOMES = {
    "modules": "hosts", "backend": "hosts", "ldm_patched": "hosts", "launch": "hosts",
    "gradio": "ui", "fastapi": "api", "argparse": "cli", "tqdm": "cli",
    "huggingface_hub": "download", "filelock": "download",
    "av": "video", "omegaconf": "models", "safetensors": "models", "triton": "models",
    "pydantic": "", "diffusers": "", "transformers": "", "modelscope": "", "tests": "", "training": "",
    "benchmarks": "",
}


def faults(name: str, source: str) -> Iterator[str]:
    """What the module `name` ("models.unet") does that it should not."""
    if name and name not in RANKS:
        yield f"t2v.{name} is new: give it a row in {Path(__file__).name}"
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            origin = f"{'.' * node.level}{node.module}." if isinstance(node, ast.ImportFrom) else ""
            for alias in node.names:
                yield from import_faults(name, origin + alias.name)
        elif isinstance(node, ast.Name | ast.Attribute):
            yield from use_faults(name, ast.unparse(node))


def import_faults(name: str, wanted: str) -> Iterator[str]:
    root, _, rest = wanted.partition(".")
    place = name.partition(".")[0]
    if root in HOMES and place != HOMES[root]:
        yield f"imports {root}, which belongs " + (f"in {HOMES[root]}" if HOMES[root] else "nowhere")
    if not root:
        yield f"imports {wanted}; say where from: t2v.…"
    if name == "request" and (root == "__future__" or root not in {*sys.stdlib_module_names, "t2v"}):
        yield f"imports {root}: request stands on the standard library, with real annotations"
    if root == "t2v":
        target = max((row for row in RANKS if f"{rest}.".startswith(f"{row}.")), key=len, default="")
        if (target and RANKS[target] >= RANKS.get(name, 0)) or {place, target.partition(".")[0]} in BLIND:
            yield f"imports {target}, which is not below it"
    yield from use_faults(name, wanted)


def use_faults(name: str, used: str) -> Iterator[str]:
    if used == "torch.load" or used.endswith("load_file"):
        yield f"uses {used}, which hosts replace; read weights with models.checkpoint"
    if used == "print" and name != "cli":
        yield "prints; only cli does, elsewhere there is logging"


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_keeps_its_place(path: Path) -> None:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    name = ".".join(part for part in parts if part != "__init__")
    assert not list(faults(name, path.read_text(encoding="utf-8")))


@pytest.mark.parametrize(("name", "source", "fault"), [
    ("generate", "from modules import shared", "imports modules, which belongs in hosts"),
    ("generate", "def f():\n    import gradio as gr", "imports gradio, which belongs in ui"),
    ("hosts.standalone", "import argparse", "imports argparse, which belongs in cli"),
    ("models.text", "from transformers import CLIPTextModel", "imports transformers, which belongs nowhere"),
    ("request", "from __future__ import annotations", "imports __future__: request stands on"),
    ("request", "import torch", "imports torch: request stands on"),
    ("models.unet", "from t2v.generate import generate", "imports generate, which is not below it"),
    ("models.unet", "from t2v import generate", "imports generate, which is not below it"),
    ("models.text", "from t2v.models.unet import UNet3D", "imports models.unet, which is not below it"),
    ("sampling", "import t2v.models.layers", "imports models.layers, which is not below it"),
    ("models.modelscope", "from t2v.sampling import ddim", "imports sampling, which is not below it"),
    ("models.text", "from .layers import Linear", "imports .layers.Linear; say where from"),
    ("models.checkpoint", "torch.load(path)", "uses torch.load"),
    ("models.checkpoint", "from torch import load", "uses torch.load"),
    ("models.checkpoint", "from safetensors.torch import load_file", "uses safetensors.torch.load_file"),
    ("models.checkpoint", "import safetensors.torch as st\nst.load_file(path)", "uses st.load_file"),
    ("sampling", "print(1)", "prints"),
    ("novelty", "", "t2v.novelty is new"),
])
def test_what_is_out_of_place_is_found(name: str, source: str, fault: str) -> None:
    (found,) = faults(name, source)
    assert found.startswith(fault)
