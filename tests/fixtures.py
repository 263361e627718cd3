"""A tiny random model in the published four-file format, in every container that its files come in."""

import io
import json
import sys
import time
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from t2v.errors import ModelError
from t2v.models.autoencoder import AutoencoderConfig, AutoencoderKL
from t2v.models.text import TextConfig, TextTower
from t2v.models.unet import UNet3D, UNetConfig
from tests.networks import normal, randomised

UNET = UNetConfig(dim=32, dim_mult=(1, 2), context_dim=32, num_heads=2, head_dim=16, res_blocks=1,
                  attn_scales=(1.0, 0.5))
AUTOENCODER = AutoencoderConfig(ch=32, ch_mult=(1, 1, 1, 1), num_res_blocks=1)
TEXT = TextConfig(width=32, layers=2, heads=2, skip_last=1)
DEFAULTS = {"width": 64, "height": 64, "frames": 4, "steps": 3}

# As in the repositories of damo-vilab and its copies.
PUBLISHED = """{   "framework": "pytorch",
    "task": "text-to-video-synthesis",
    "model": {
        "type": "latent-text-to-video-synthesis",
        "model_args": {
            "ckpt_clip": "open_clip_pytorch_model.bin",
            "ckpt_unet": "text2video_pytorch_model.pth",
            "ckpt_autoencoder": "VQGAN_autoencoder.pth",
            "max_frames": 16,
            "tiny_gpu": 1
        },
        "model_cfg": {
            "unet_in_dim": 4,
            "unet_dim": 320,
            "unet_y_dim": 768,
            "unet_context_dim": 1024,
            "unet_out_dim": 4,
            "unet_dim_mult": [1, 2, 4, 4],
            "unet_num_heads": 8,
            "unet_head_dim": 64,
            "unet_res_blocks": 2,
            "unet_attn_scales": [1, 0.5, 0.25],
            "unet_dropout": 0.1,
            "temporal_attention": "True",
            "num_timesteps": 1000,
            "mean_type": "eps",
            "var_type": "fixed_small",
            "loss_type": "mse"
        }
    },
    "pipeline": {
        "type": "latent-text-to-video-synthesis"
    }
}"""

State = Mapping[str, Tensor]


def configuration(**ours: Any) -> dict[str, Any]:
    """configuration.json of the tiny model; `ours` is added to the block "t2v"."""
    content: dict[str, Any] = json.loads(PUBLISHED)
    content["model"]["model_cfg"] |= {
        "unet_dim": 32, "unet_dim_mult": [1, 2], "unet_context_dim": 32, "unet_num_heads": 2, "unet_head_dim": 16,
        "unet_res_blocks": 1, "unet_attn_scales": [1, 0.5]}
    content["t2v"] = {
        "defaults": DEFAULTS,
        "autoencoder": {"ch": 32, "ch_mult": [1, 1, 1, 1], "num_res_blocks": 1},
        "text": {"width": 32, "layers": 2, "heads": 2, "skip_last": 1}} | ours
    return content


@cache
def states(dtype: torch.dtype = torch.float32) -> dict[str, dict[str, Tensor]]:
    """The weights of a tiny model, by the published name of their file."""
    networks = {
        "text2video_pytorch_model.pth": UNet3D(UNET),
        "VQGAN_autoencoder.pth": AutoencoderKL(AUTOENCODER),
        "open_clip_pytorch_model.bin": TextTower(TEXT),
    }
    return {name: {key: weight.to(dtype) for key, weight in randomised(network).state_dict().items()}
            for name, network in networks.items()}


def make_model(folder: Path, container: str = "zip", dtype: torch.dtype = torch.float32) -> Path:
    """Writes a tiny model into `folder`, its weights in one of CONTAINERS; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "configuration.json").write_text(json.dumps(configuration()))
    for name, state in states(dtype).items():
        CONTAINERS[container](state, folder / name)
    return folder


def save_zip(state: State, path: Path) -> None:
    torch.save(OrderedDict(state), path)


def save_legacy(state: State, path: Path) -> None:
    torch.save(OrderedDict(state), path, _use_new_zipfile_serialization=False)


def save_safetensors(state: State, path: Path) -> None:
    save_file(dict(state), path, {"format": "pt"})


def save_lightning(state: State, path: Path, legacy: bool = False) -> None:
    """As trainers leave it: several networks under prefixes, parameters, foreign classes and an optimiser."""
    prefix = {"text2video_pytorch_model.pth": "model.diffusion_model.", "VQGAN_autoencoder.pth": "first_stage_model.",
              "open_clip_pytorch_model.bin": "cond_stage_model.model."}.get(path.name, "")
    weights = {prefix + key: torch.nn.Parameter(weight) for key, weight in state.items()}
    others = {other + "0.weight": torch.zeros(3, 3) for other in ("model_ema.", "loss.", "denoiser.")}
    with foreign_class("pytorch_lightning.callbacks.model_checkpoint", "ModelCheckpoint") as checkpoint:
        content = {
            "epoch": 3, "global_step": 2**40, "pytorch-lightning_version": "1.4.2",
            "state_dict": OrderedDict(others | weights | {"num_updates": torch.tensor(5, dtype=torch.int32)}),
            "callbacks": {checkpoint: {"best_model_score": np.float64(0.1), "monitor": "val/loss", "seen": {1, 2}}},
            "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [checkpoint()]}],
            "hyper": np.arange(3),
        }
        torch.save(content, path, _use_new_zipfile_serialization=not legacy)


def save_lightning_legacy(state: State, path: Path) -> None:
    save_lightning(state, path, legacy=True)


@contextmanager
def foreign_class(module: str, name: str) -> Iterator[type]:
    """A class of a module that exists only inside this block."""
    made = type(name, (), {"__module__": module})
    parts = [module.rsplit(".", depth)[0] for depth in range(module.count("."), -1, -1)]
    for part in parts:
        sys.modules[part] = ModuleType(part)
    setattr(sys.modules[module], name, made)
    try:
        yield made
    finally:
        for part in parts:
            del sys.modules[part]


CONTAINERS: dict[str, Callable[[State, Path], None]] = {
    "zip": save_zip,
    "legacy": save_legacy,
    "safetensors": save_safetensors,
    "lightning": save_lightning,
    "lightning, legacy": save_lightning_legacy,
}


# ---- files that are small, odd or broken ----


def some_state(dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    return {f"layers.{i}.weight": normal(3, 4, seed=i).to(dtype) for i in range(4)} | {"bias": normal(5).to(dtype)}


def saved(save: Callable[[State, Path], None], **tensors: Tensor) -> bytes:
    """What a container makes of `tensors`, or of `some_state`."""
    with TemporaryDirectory() as folder:
        save(tensors or some_state(), Path(folder) / "saved")
        return (Path(folder) / "saved").read_bytes()


def zipped(records: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, data in records.items():
            archive.writestr(name, data)
    return file.getvalue()


def torch_zip(pickle_bytes: bytes, storages: dict[str, bytes]) -> bytes:
    return zipped({"a/data.pkl": pickle_bytes} | {f"a/data/{key}": data for key, data in storages.items()})


def tensor_pickle(numel: int = 4, offset: int = 0, shape: str = "(I4\nt", stride: str = "(I1\nt") -> bytes:
    """A state dict of one float tensor, written by hand: `shape` and `stride` are the opcodes of two tuples."""
    return (f"}}U\x01w" "ctorch._utils\n_rebuild_tensor_v2\n"
            f"((U\x07storagectorch\nFloatStorage\nU\x010U\x03cpuI{numel}\ntQI{offset}\n{shape}{stride}I00\n)tRs."
            ).encode("latin-1")


@contextmanager
def one_clear_sentence(words: str = ".") -> Iterator[None]:
    """A ModelError of one line that says `words`, after less than a second of work."""
    began = time.process_time()
    with pytest.raises(ModelError, match=words) as caught:
        yield
    assert time.process_time() - began < 5  # a fraction of a second on a quiet machine
    assert len(str(caught.value).splitlines()) == 1
