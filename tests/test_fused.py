"""The fused layers: Triton's kernels, interpreted on the CPU, beside the same formulas in float64, and plain torch."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
import torch.nn.functional as F
from einops import rearrange
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from t2v.models import fused
from t2v.models.fused import geglu, launch_norm, norm_silu, usable
from tests.footprint import AsOnDevice, Footprint
from tests.networks import normal

triton_only = pytest.mark.skipif(sys.platform != "linux", reason="Triton is made for Linux")
LAUNCHES = {"one launch": 2**40, "two launches": 0}  # by the numbers that a group may have for one
# What float32 inside leaves: a rounding of the result to its own precision, and a few of float32's. The interpreter
# cuts numbers off to bfloat16, a GPU rounds them.
TOLERANCES = {torch.float32: 2e-6, torch.float16: 2**-11 + 2e-6, torch.bfloat16: 2**-7 + 2e-6}


@pytest.fixture
def kernels() -> Iterator[Any]:
    """Kernels for tensors on the CPU, too, where they are interpreted."""
    from t2v.models import kernels

    with patch.object(fused, "ready", lambda _: True), patch.object(fused, "failed", set()):
        yield kernels


class Operations(TorchDispatchMode):
    """The names of what is dispatched; views, questions, and memory without numbers are nothing that a device does."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not func.is_view and "empty" not in func.name() and func.namespace != "prim":
            self.names.append(func.name())
        return func(*args, **(kwargs or {}))


def exact(x: Tensor, weight: Tensor, bias: Tensor, groups: int, act: bool, eps: float = 1e-5) -> Tensor:
    """GroupNorm and SiLU as they are written, in float64."""
    rows = rearrange(x.double(), "n p (g c) -> n g (p c)", g=groups)
    normed = (rows - rows.mean(-1, keepdim=True)) / (rows.var(-1, keepdim=True, unbiased=False) + eps).sqrt()
    y = rearrange(normed, "n g (p c) -> n p (g c)", p=x.shape[1]) * weight.double() + bias.double()
    return y * y.sigmoid() if act else y


def launched(
    numbers: int, x: Tensor, weight: Tensor, bias: Tensor, groups: int, act: bool, positions: int = 16
) -> Tensor:
    """By kernels, with tiles of so many positions."""
    with patch.object(fused, "NUMBERS_PER_GROUP", numbers), patch.object(fused, "TILE", positions * x.shape[2]):
        return launch_norm(x, weight, bias, groups, 1e-5, act)


def assert_near(ours: Tensor, theirs: Tensor, dtype: torch.dtype) -> None:
    assert ours.dtype == dtype
    assert ours.is_contiguous()
    torch.testing.assert_close(ours.double(), theirs, atol=2e-6, rtol=TOLERANCES[dtype])


@triton_only
@pytest.mark.parametrize("numbers", LAUNCHES.values(), ids=list(LAUNCHES))
@given(
    n=st.integers(1, 2), p=st.integers(1, 50), part=st.integers(1, 12), groups=st.integers(1, 3), act=st.booleans(),
    dtype=st.sampled_from(list(TOLERANCES)), weights=st.sampled_from([torch.float16, torch.float32, torch.float64]))
@settings(max_examples=8, deadline=None)
def test_a_kernel_is_group_norm_and_silu(
    numbers: int, n: int, p: int, part: int, groups: int, act: bool, dtype: torch.dtype, weights: torch.dtype
) -> None:
    c = part * groups
    x = (2 * normal(n, p, c) + normal(n, 1, c, seed=1)).to(dtype)
    weight, bias = normal(c, seed=2).to(weights), normal(c, seed=3).to(weights)
    assert_near(launched(numbers, x, weight, bias, groups, act), exact(x, weight, bias, groups, act), dtype)


@triton_only
@pytest.mark.parametrize("numbers", LAUNCHES.values(), ids=list(LAUNCHES))
@pytest.mark.parametrize("part", [10, 20, 30, 40, 60, 80])
def test_a_kernel_takes_groups_as_wide_as_the_network_s(part: int, numbers: int) -> None:
    c = 4 * part
    x, weight, bias = normal(1, 3, c), normal(c, seed=1), normal(c, seed=2)
    assert_near(launched(numbers, x, weight, bias, 4, True), exact(x, weight, bias, 4, True), torch.float32)


@triton_only
@pytest.mark.parametrize("c", [320, 2560])
def test_groups_that_stand_side_by_side_do_not_mix(c: int) -> None:
    x, weight, bias = normal(1, 3, c) + normal(c, seed=3), normal(c, seed=1), normal(c, seed=2)
    assert_near(launched(0, x, weight, bias, 32, True), exact(x, weight, bias, 32, True), torch.float32)


@triton_only
@pytest.mark.parametrize("numbers", LAUNCHES.values(), ids=list(LAUNCHES))
def test_a_kernel_loses_nothing_to_a_mean_that_is_far_from_zero(numbers: int) -> None:
    x, weight, bias = 100 + 0.1 * normal(1, 100, 20), torch.ones(20), torch.zeros(20)
    assert_near(launched(numbers, x, weight, bias, 2, False), exact(x, weight, bias, 2, False), torch.float32)


@triton_only
@pytest.mark.parametrize("numbers", LAUNCHES.values(), ids=list(LAUNCHES))
def test_a_kernel_stands_a_first_number_that_is_unlike_all_others(numbers: int) -> None:
    x, weight, bias = 100 + 0.1 * normal(1, 1000, 20), torch.ones(20), torch.zeros(20)
    x[0, 0] = 0
    ours, theirs = launched(numbers, x, weight, bias, 2, False, positions=256), exact(x, weight, bias, 2, False)
    torch.testing.assert_close(ours.double(), theirs, atol=5e-6, rtol=2e-6)


@triton_only
@given(shape=st.lists(st.integers(1, 5), min_size=1, max_size=3), d=st.integers(1, 300),
       dtype=st.sampled_from(list(TOLERANCES)))
@settings(max_examples=10, deadline=None)
def test_the_geglu_kernel_is_geglu(shape: list[int], d: int, dtype: torch.dtype) -> None:
    x = (3 * normal(*shape, 2 * d)).to(dtype)
    value, gate = x.double().chunk(2, dim=-1)
    assert_near(torch.ops.t2v.geglu(x), value * gate * 0.5 * (1 + torch.erf(gate / 2**0.5)), dtype)


@triton_only
@pytest.mark.parametrize("d", [1280, 5120])
def test_the_geglu_kernel_takes_the_widths_of_the_network(d: int) -> None:
    x = normal(2, 2 * d)
    value, gate = x.double().chunk(2, dim=-1)
    assert_near(torch.ops.t2v.geglu(x), value * F.gelu(gate), torch.float32)


@triton_only
def test_the_operations_keep_what_torch_asks_of_one() -> None:
    x, weight, bias = normal(1, 5, 4), normal(4, seed=1), normal(4, seed=2)
    ops, tests = torch.ops.t2v, ("test_schema", "test_faketensor")
    stats = ops.group_stats(x, 1, 4)
    torch.library.opcheck(ops.group_norm.default, (x, weight, bias, 1, 1e-5, True), test_utils=tests)
    torch.library.opcheck(ops.group_stats.default, (x, 1, 4), test_utils=tests)
    torch.library.opcheck(ops.group_apply.default, (x, stats, weight, bias, 1, 4, 1e-5, True), test_utils=tests)
    torch.library.opcheck(ops.geglu.default, (x,), test_utils=tests)


COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from t2v.models import kernels

TYPES = {**dict.fromkeys(("x", "out", "weight", "bias"), "*fp16"), "stats": "*fp32", "eps": "fp32"}
for name in ("norm_kernel", "stats_kernel", "apply_kernel", "geglu_kernel"):
    kernel = getattr(kernels, name)
    sizes = {"LANES": 256, "ACT": True, "TILES": 4} | kernels.blocks(4, 320, 32, kernels.SLAB)
    sizes = {name: size for name, size in sizes.items() if name in kernel.arg_names}
    signature = {name: "constexpr" if name in sizes else TYPES.get(name, "i32") for name in kernel.arg_names}
    for target in (GPUTarget("cuda", 75, 32), GPUTarget("hip", "gfx1100", 32)):
        compiled = triton.compile(ASTSource(fn=kernel, signature=signature, constexprs=sizes), target=target)
        assert {"cubin", "hsaco"} & set(compiled.asm), name
"""


@triton_only
def test_the_kernels_compile_for_gpus(tmp_path: Path) -> None:
    # The interpreter takes any Python; the compiler needs no GPU to say what it thinks of it.
    environment = os.environ | {"TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    subprocess.run([sys.executable, "-c", COMPILE], env=environment, check=True)


@triton_only
def test_a_launch_is_one_operation_and_makes_its_result_and_nothing_else(kernels: Any) -> None:  # noqa: ARG001
    with FakeTensorMode(), torch.no_grad(), AsOnDevice():
        weight = torch.empty(320, device="cuda")
        # Frames of a clip by themselves, a short clip, a clip; a feed-forward net.
        frames, short, clip, wide = (
            torch.empty(*shape, dtype=torch.float16, device="cuda")
            for shape in [(32, 2880, 320), (2, 2000, 320), (2, 69120, 320), (1, 24, 64, 64, 2560)])
        one, two = ["t2v::group_norm"], ["t2v::group_stats", "t2v::group_apply"]
        for x, expected in ((frames, one), (short, one), (clip, two)):
            # Operations inside, and so asked first: a footprint remembers shapes, and asks torch for each but once.
            with Footprint([x, weight]) as footprint, Operations() as operations:
                y = norm_silu(x, weight, weight, 32, 1e-5, True)
            assert operations.names == expected
            assert (y.shape, y.dtype, y.device, y.is_contiguous()) == (x.shape, x.dtype, x.device, True)
            assert y.nbytes <= footprint.peak < 1.01 * y.nbytes
        with Operations() as operations:
            assert geglu(wide).shape == (1, 24, 64, 64, 1280)
        assert operations.names == ["t2v::geglu"]


@pytest.mark.parametrize("act", [False, True])
def test_without_kernels_a_gpu_needs_a_copy_a_norm_and_a_silu_that_copies_back(act: bool) -> None:
    with FakeTensorMode(), torch.no_grad(), AsOnDevice(), patch.object(fused, "ready", lambda _: False):
        x, weight = torch.empty(2, 60, 64, dtype=torch.float16, device="cuda"), torch.empty(64, device="cuda").half()
        with Operations() as operations:
            y = norm_silu(x, weight, weight, 32, 1e-5, act)
    assert operations.names == ["aten::clone", "aten::native_group_norm", "aten::silu.out" if act else "aten::clone"]
    assert (y.shape, y.stride()) == (x.shape, x.stride())


@pytest.mark.parametrize("act", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_on_a_cpu_it_is_torch_s_group_norm_of_channels_last_to_the_last_bit(dtype: torch.dtype, act: bool) -> None:
    x, weight, bias = normal(2, 15 * 37, 64).to(dtype), normal(64, seed=1), normal(64, seed=2)
    pictures = rearrange(x, "n (h w) c -> n c h w", h=15)
    assert pictures.is_contiguous(memory_format=torch.channels_last)
    theirs = F.group_norm(pictures, 32, weight.to(dtype), bias.to(dtype), 1e-5)
    theirs = rearrange(F.silu(theirs) if act else theirs, "n c h w -> n (h w) c")
    before = x.clone()
    with torch.no_grad(), Operations() as operations:
        ours = norm_silu(x, weight, bias, 32, 1e-5, act)
    assert torch.equal(ours, theirs)
    assert torch.equal(x, before)
    assert ours.is_contiguous()
    names = [name for name in operations.names if name != "aten::_to_copy"]  # of the weights
    assert names == ["aten::native_group_norm", *(["aten::silu_"] if act else [])]  # no copy, and in place


def test_on_a_cpu_groups_of_few_numbers_keep_their_digits_where_means_are_large() -> None:
    x, ones, zeros = 30 + 0.1 * normal(2, 64, 64), torch.ones(64), torch.zeros(64)
    exact = F.group_norm(x.double().transpose(1, 2), 32).transpose(1, 2)
    torch.testing.assert_close(norm_silu(x, ones, zeros, 32, 1e-5, False).double(), exact, atol=1e-3, rtol=0)


@pytest.mark.parametrize("p", [1, 2, 9])
def test_on_a_cpu_it_is_group_norm_and_silu_of_channels_first(p: int) -> None:
    x, plain = normal(2, p, 64), nn.GroupNorm(32, 64)
    nn.init.normal_(plain.weight)
    nn.init.normal_(plain.bias)
    theirs = F.silu(plain(x.transpose(1, 2).contiguous())).transpose(1, 2)
    torch.testing.assert_close(norm_silu(x, plain.weight, plain.bias, 32, 1e-5, True), theirs, atol=2e-6, rtol=0)


def test_plain_geglu_is_geglu_and_leaves_its_input_alone() -> None:
    x = normal(3, 4, 16)
    before, (value, gate) = x.clone(), x.chunk(2, dim=-1)
    assert torch.equal(geglu(x), value * F.gelu(gate))
    assert torch.equal(x, before)


@triton_only
@pytest.mark.parametrize("learnt", ["x", "weight", "bias"])
def test_gradients_are_those_of_torch_also_where_kernels_could_run(learnt: str, kernels: Any) -> None:  # noqa: ARG001
    def gradient(of_layer: Any) -> Tensor:
        tensors = {"x": normal(2, 6, 8), "weight": normal(8, seed=1), "bias": normal(8, seed=2)}
        wanted = tensors[learnt].requires_grad_()
        of_layer(**tensors).square().sum().backward()
        assert wanted.grad is not None
        return wanted.grad

    def layers(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.silu(F.group_norm(x.transpose(1, 2), 4, weight, bias, 1e-5)).transpose(1, 2)

    ours = gradient(lambda x, weight, bias: norm_silu(x, weight, bias, 4, 1e-5, True))
    torch.testing.assert_close(ours, gradient(layers), atol=2e-5, rtol=1e-5)


@triton_only
def test_the_gradient_of_geglu_is_torch_s_also_where_a_kernel_could_run(kernels: Any) -> None:  # noqa: ARG001
    x = normal(3, 8).double().requires_grad_()
    assert not usable(x.float())
    assert torch.autograd.gradcheck(lambda x: geglu(x.float()).double(), x, eps=1e-2, atol=1e-3)


@triton_only
def test_kernels_run_where_they_can(kernels: Any) -> None:  # noqa: ARG001
    x = normal(2, 6, 8)
    assert usable(x)
    assert usable(x.requires_grad_().detach())
    assert not usable(x)  # its gradient is asked for
    weight = normal(8)
    with torch.no_grad():
        assert usable(x)
        assert not usable(x.transpose(1, 2))
        assert not usable(x.double())
        with Operations() as operations:
            norm_silu(x, weight, weight, 4, 1e-5, True)
            geglu(x)
    assert operations.names == ["t2v::group_norm", "t2v::geglu"]


@triton_only
@pytest.mark.parametrize("launch", ["group_norm", "group_stats", "group_apply", "geglu"])
def test_after_a_launch_that_fails_torch_does_the_work_and_one_line_says_why(
    launch: str, kernels: Any, caplog: pytest.LogCaptureFixture
) -> None:
    x, weight, bias = normal(2, 6, 8), normal(8, seed=1), normal(8, seed=2)
    numbers, tries = LAUNCHES["one launch" if launch == "group_norm" else "two launches"], []

    def broken(*args: object) -> None:
        tries.append(args)
        raise RuntimeError("Failed to find C compiler")

    with patch.object(kernels, launch, broken), patch.object(fused, "NUMBERS_PER_GROUP", numbers):
        layer = geglu if launch == "geglu" else lambda x: norm_silu(x, weight, bias, 4, 1e-5, True)
        first, second = layer(x), layer(x)
    with patch.object(fused, "ready", lambda _: False):
        assert torch.equal(first, layer(x))
    assert torch.equal(first, second)
    assert len(tries) == 1
    assert not usable(x)
    (record,) = caplog.records
    assert "Failed to find C compiler" in record.getMessage()


@triton_only
@pytest.mark.parametrize("full", [
    torch.cuda.OutOfMemoryError("Tried to allocate 2.00 GiB"), RuntimeError("Triton Error [CUDA]: out of memory")])
def test_memory_that_is_missing_is_not_a_reason_to_give_up_kernels(kernels: Any, full: Exception) -> None:
    x = normal(2, 6, 8)
    with patch.object(kernels, "geglu", side_effect=full), pytest.raises(type(full)) as caught:
        geglu(x)
    assert caught.value is full
    assert usable(x)


@triton_only
def test_a_block_that_is_too_large_for_a_multiprocessor_is_one(kernels: Any) -> None:
    """Triton's OutOfResources: it would be too large again."""
    x = normal(2, 6, 8)
    large = RuntimeError("out of resource: shared memory, Required: 131072, Hardware limit: 101376.")
    with patch.object(kernels, "geglu", side_effect=large):
        geglu(x)
    assert not usable(x)
    assert not fused.runs(x.device)


@pytest.mark.parametrize(("capability", "expected"), [((6, 1), False), ((7, 0), sys.platform == "linux")])
def test_a_gpu_that_triton_would_choke_on_is_not_tried(capability: tuple[int, int], expected: bool) -> None:
    with (
        patch.object(torch.cuda, "is_available", lambda: True),
        patch.object(torch.cuda, "get_device_capability", lambda _: capability),
    ):
        assert fused.ready.__wrapped__(torch.device("cuda")) is expected


def test_no_kernel_runs_on_a_cpu_or_without_triton() -> None:
    assert not usable(normal(2, 6, 8))
    with patch.dict(sys.modules, {"t2v.models.kernels": None}), patch.object(torch, "xpu", create=True):
        assert not fused.ready.__wrapped__(torch.device("xpu"))
