"""Every kernel of torch that a GPU is asked for, built and called on fake tensors of one: nothing computes."""

from __future__ import annotations

import math
from functools import cache

import pytest

torch = pytest.importorskip("torch", reason="kernels are torch's: pip install 'costmodel[profile]'")

from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: E402

from costmodel.profiling.libraries import build  # noqa: E402
from costmodel.profiling.operands import TYPES  # noqa: E402
from costmodel.profiling.shapes import SUITES, ProfileLimits, Shape, shapes, sustained  # noqa: E402

PEAKS = dict.fromkeys(("bf16", "fp8_e4m3", "fp8_e4m3_blk128", "nvfp4"), 1e15)
H100 = ProfileLimits(PEAKS, 3e12, 5e9, 0.02, versions={"torch": "2.11.0"}, cudnn="9.10.2", hopper=True)


# What a build of torch without CUDA cannot do even on fake tensors: copies, indices, gradients, pinned memory.
_NEED_A_DEVICE = ("host_copy", "copy", "copy_again", "mla_decode", "moe_layer", "attention_backward", "adamw")


class FakeOperands:
    """Operands whose sizes, formats and strides are all that there is."""

    device = "cuda"

    def tensor(self, dtype, *sizes):
        if dtype == "nvfp4":  # two elements in a byte
            sizes = (*sizes[:-1], sizes[-1] // 2)
        return torch.empty(*sizes, dtype=TYPES[dtype], device="cuda")

    zeros = tensor

    def like(self, dtype, other):
        return torch.empty(other.numel(), dtype=TYPES[dtype], device="cuda").as_strided(other.shape, other.stride())


@cache
def one_of_each() -> list[Shape]:
    found: dict[tuple[str, ...], Shape] = {}
    candidates = shapes([name for name in SUITES if name not in ("collectives", "launch")], H100)
    for shape in (*candidates, *sustained(H100)):
        if shape.op not in _NEED_A_DEVICE and shape.sub_op not in _NEED_A_DEVICE:
            found.setdefault(shape.family, shape)
    return list(found.values())


@pytest.fixture(autouse=True)
def _fake():
    with FakeTensorMode():
        yield


def test_a_kernel_of_every_family_takes_its_operands():
    for shape in one_of_each():
        takes_its_operands(shape)


def takes_its_operands(shape):
    kernel = build(shape, FakeOperands())
    result = kernel.make()()
    assert kernel.name
    if shape.backend:
        assert shape.backend in kernel.name or shape.op == "moe_layer" or shape.dtype.startswith(("fp8", "nvfp4"))
    first = result[0] if isinstance(result, tuple) else result
    assert first.device.type == "cuda"
    if shape.op in ("gemm", "gemm_wgrad"):
        assert first.shape == (shape.size("m"), shape.size("n"))
        assert first.dtype == (torch.bfloat16 if shape.dtype.startswith(("fp8", "nvfp4")) else TYPES[shape.dtype])
    if shape.op in ("attention_prefill", "attention_decode", "mla_prefill"):
        assert math.prod(first.shape) == math.prod(
            shape.size(name) for name in ("batch", "q_heads", "q_len", "v_head_dim")
        )  # fmt: skip


def test_there_are_kernels_of_every_kind_that_engines_run():
    kinds = {(shape.op, shape.sub_op, shape.dtype, shape.backend.partition("-")[0]) for shape in one_of_each()}
    for kind in (
        ("gemm", "dgrad", "bf16", ""), ("gemm_wgrad", "", "bf16", ""), ("gemm", "", "fp8_e4m3", "tensor_full"),
        ("gemm", "", "fp8_e4m3", "row_fast"), ("gemm", "", "fp8_e4m3_blk128", "block"),
        ("gemm", "", "nvfp4", "block16"), ("gemm_wgrad", "", "fp8_e4m3_blk128", "block"),
        ("grouped_gemm", "", "fp8_e4m3", "row_fast"),
        ("grouped_gemm", "bwd_grad_w", "bf16", ""), ("attention_decode", "", "bf16", "flash"),
        ("attention_prefill", "", "bf16", "cudnn"), ("elementwise", "cross_entropy", "bf16", ""),
    ):  # fmt: skip
        assert kind in kinds
