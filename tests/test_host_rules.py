"""What belongs to the host stays the host's: torch's switches, and attention where it has put another in its place."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import t2v
from t2v.models.autoencoder import AutoencoderKL
from t2v.models.text import TextTower
from t2v.models.unet import UNet3D
from tests import fixtures
from tests.networks import normal, randomised

PACKAGE = Path(t2v.__file__).parent
SETTERS = {"set_float32_matmul_precision", "use_deterministic_algorithms", "set_default_dtype", "set_default_device",
           "set_num_threads", "set_grad_enabled", "enable_flash_sdp", "enable_mem_efficient_sdp", "enable_math_sdp",
           "enable_cudnn_sdp", "sdpa_kernel", "sdp_kernel", "manual_seed_all", "set_per_process_memory_fraction"}


def switched(source: str) -> Iterator[str]:
    """What a module changes of torch for everybody."""
    for node in ast.walk(ast.parse(source)):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(
            node, ast.AugAssign | ast.AnnAssign) else []
        yield from (text for target in targets if (text := ast.unparse(target)).startswith(("torch.", "F.")))
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            if name.rpartition(".")[2] in SETTERS or name == "torch.manual_seed" or (
                    name == "setattr" and ast.unparse(node.args[0]).startswith("torch")):
                yield name


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nothing_changes_what_torch_does_for_others(path: Path) -> None:
    assert not list(switched(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize("source", [
    "torch.backends.cuda.matmul.allow_tf32 = True", "torch.set_float32_matmul_precision('high')",
    "setattr(torch.backends.cudnn, 'benchmark', True)", "F.scaled_dot_product_attention = mine",
    "with torch.nn.attention.sdpa_kernel([]): pass", "torch.manual_seed(1)"])
def test_such_a_change_is_found(source: str) -> None:
    assert list(switched(source))


def of_unet() -> object:
    net = randomised(UNet3D(fixtures.UNET))
    net(normal(1, 4, 2, 8, 8), torch.tensor([981.0]), normal(2, 7, 32))
    return net(normal(2, 4, 2, 8, 8), torch.tensor([981.0]), normal(2, 2, 7, 32), 1e3)  # texts per frame, in parts


def of_autoencoder() -> object:
    net = randomised(AutoencoderKL(fixtures.AUTOENCODER))
    return net.decode(net.encode(normal(1, 3, 32, 32)))


def of_tower() -> object:
    return randomised(TextTower(fixtures.TEXT))(torch.arange(20).view(2, 10), torch.float32)


@pytest.mark.parametrize("run", [of_unet, of_autoencoder, of_tower])
@torch.no_grad()
def test_attention_is_whatever_the_host_has_put_in_its_place(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked in a way for which kernels are fast: four axes, no mask, no more rows than CUDA takes."""
    calls, own = [], F.scaled_dot_product_attention

    def theirs(q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0,
               is_causal: bool = False, **rest: Any) -> Tensor:
        assert attn_mask is None
        assert not rest
        calls.append([each.ndim for each in (q, k, v)])
        assert q.shape[0] * q.shape[1] <= 65_535
        return own(q, k, v, attn_mask, dropout_p, is_causal)

    monkeypatch.setattr(F, "scaled_dot_product_attention", theirs)
    run()
    assert len(calls) > 0
    assert all(axes == [4, 4, 4] for axes in calls)
