"""Kernels of other libraries, where they can be imported: flash-attn 2 and 3, FlashInfer, FlashMLA, DeepGEMM, vLLM."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import math
from typing import Any

import torch

from costmodel.profiling.kernels import BUILDERS as TORCH_BUILDERS
from costmodel.profiling.kernels import Builder, Kernel, core_operands
from costmodel.profiling.operands import TYPES, Operands
from costmodel.profiling.shapes import TORCH, VLLM, Shape
from costmodel.profiling.timing import Call

MODULES = {"flash_attn_3": "flash_attn_interface"}  # libraries whose module has another name
_PAGE = 64  # tokens of a page: what FlashMLA takes
_WORKSPACE = 256 * 2**20  # bytes of FlashInfer's scratch memory
_BLOCK = 128  # elements that share a scale


def versions(*, gpu: bool) -> dict[str, str]:
    """Return the version of torch, and on a GPU of every other library that is installed."""
    own = {TORCH: torch.__version__.partition("+")[0]}
    if not gpu:
        return own
    there = {name for name in BUILDERS if importlib.util.find_spec(MODULES.get(name, name)) is not None}
    return own | {name: _version(name) for name in BUILDERS if name in there}


def _version(name: str) -> str:
    """Return a library's version as its package states it. Blank where it is not installed as one."""
    for package in (name, name.replace("_", "-")):
        try:
            return importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return ""


def build(shape: Shape, operands: Operands) -> Kernel:
    """Return the kernel of a shape, torch's own or another library's; raise ImportError where that is not installed."""
    builder = TORCH_BUILDERS[shape.op] if shape.library == TORCH else BUILDERS[shape.library]
    return builder(shape, operands)


def _flash_attn(shape: Shape, operands: Operands) -> Kernel:
    """Return a kernel of flash-attn. Version 3, for Hopper, is a module of its own with the same functions.

    Some builds of version 3 return the sums of the softmax next to the output.
    """
    module = importlib.import_module(MODULES.get(shape.library, shape.library))
    name = f"{shape.library} {shape.version}".strip()
    if shape.op == "attention_decode":

        def decode() -> Call:
            q, k, v = _by_token(shape, operands)
            lengths = _full(shape, operands)
            return lambda: module.flash_attn_with_kvcache(q, k, v, cache_seqlens=lengths, causal=True)

        return Kernel(decode, f"{name} flash_attn_with_kvcache")

    def forward() -> Call:
        q, k, v = _by_token(shape, operands)
        return lambda: module.flash_attn_func(q, k, v, causal=True)

    def backward() -> Call:
        leaves = [each.detach().requires_grad_() for each in _by_token(shape, operands)]
        result = module.flash_attn_func(*leaves, causal=True)
        out = result[0] if isinstance(result, tuple) else result
        gradient = operands.like(shape.dtype, out)
        return lambda: torch.autograd.grad(out, leaves, gradient)

    gradient = shape.op == "attention_backward"
    return Kernel(backward if gradient else forward, f"{name} flash_attn_func", captured=not gradient)


def _flashinfer(shape: Shape, operands: Operands) -> Kernel:
    """Return a kernel of FlashInfer: decoding on CUDA or tensor cores, prompts by its second or third generation."""
    import flashinfer

    batch, keys = shape.size("batch"), shape.size("kv_len")
    heads, shared, width = (shape.size(name) for name in ("q_heads", "kv_heads", "head_dim"))
    workspace = torch.zeros(_WORKSPACE, dtype=torch.uint8, device=operands.device)
    kind = TYPES[shape.dtype]
    name = f"flashinfer {shape.version}".strip()
    if shape.op == "attention_decode":
        wrapper = flashinfer.BatchDecodeWithPagedKVCacheWrapper(
            workspace, "NHD", use_tensor_cores=shape.backend == "tensor_cores"
        )
        pages = -(-keys // _PAGE)
        begins = _steps(batch, pages, operands)
        order = torch.randperm(batch * pages, device=operands.device).to(torch.int32)
        last = torch.full((batch,), keys - (pages - 1) * _PAGE, dtype=torch.int32, device=operands.device)
        wrapper.plan(begins, order, last, heads, shared, width, _PAGE, q_data_type=kind, kv_data_type=kind)

        def decode() -> Call:
            q = operands.tensor(shape.dtype, batch, heads, width)
            cache = operands.tensor(shape.dtype, batch * pages, 2, _PAGE, shared, width)
            return lambda: wrapper.run(q, cache)

        return Kernel(decode, f"{name} paged decode, {shape.backend}")
    ragged = flashinfer.BatchPrefillWithRaggedKVCacheWrapper(workspace, "NHD", backend=shape.backend)
    begins = _steps(batch, keys, operands)
    ragged.plan(begins, begins, heads, shared, width, causal=True, q_data_type=kind)

    def prefill() -> Call:
        q, k, v = (each.flatten(0, 1) for each in _by_token(shape, operands))
        return lambda: ragged.run(q, k, v)

    return Kernel(prefill, f"{name} ragged prefill, {shape.backend}")


def _flash_mla(shape: Shape, operands: Operands) -> Kernel:
    import flash_mla

    batch, heads = shape.size("batch"), shape.size("q_heads")
    width, value = shape.size("head_dim"), shape.size("v_head_dim")
    pages = -(-shape.size("kv_len") // _PAGE)
    lengths = _full(shape, operands)
    table = torch.randperm(batch * pages, device=operands.device).to(torch.int32).view(batch, pages)
    plan, splits = flash_mla.get_mla_metadata(lengths, heads, 1)

    def make() -> Call:
        q = operands.tensor(shape.dtype, batch, 1, heads, width)
        cache = operands.tensor(shape.dtype, batch * pages, _PAGE, 1, width)
        return lambda: flash_mla.flash_mla_with_kvcache(q, cache, table, lengths, value, plan, splits, causal=True)

    return Kernel(make, f"flash_mla {shape.version} flash_mla_with_kvcache")


def _deep_gemm(shape: Shape, operands: Operands) -> Kernel:
    """Return an FP8 product with a scale for 1 x 128 elements on the left and for 128 x 128 on the right."""
    import deep_gemm

    m, n, k = (shape.size(name) for name in "mnk")
    newer = hasattr(deep_gemm, "fp8_gemm_nt")
    multiply = deep_gemm.fp8_gemm_nt if newer else deep_gemm.gemm_fp8_fp8_bf16_nt
    align = deep_gemm.get_mn_major_tma_aligned_tensor if newer else deep_gemm.get_col_major_tma_aligned_tensor

    def make() -> Call:
        left, right = operands.tensor(shape.dtype, m, k), operands.tensor(shape.dtype, n, k)
        left_scales = align(operands.tensor("fp32", m, math.ceil(k / _BLOCK)))
        right_scales = operands.tensor("fp32", math.ceil(n / _BLOCK), math.ceil(k / _BLOCK))
        out = operands.tensor("bf16", m, n)
        return lambda: multiply((left, left_scales), (right, right_scales), out)

    return Kernel(make, f"deep_gemm {shape.version}".strip())


def _vllm(shape: Shape, operands: Operands) -> Kernel:
    """Return a layer of experts by vLLM's Triton kernels, with experts chosen before, of equal shares of the tokens."""
    layer = importlib.import_module("vllm.model_executor.layers.fused_moe").fused_experts
    tokens, chosen = shape.size("num_tokens"), shape.size("topk")
    experts, hidden, inter = (shape.size(name) for name in ("num_experts", "hidden", "inter"))
    order = torch.arange(tokens * chosen, dtype=torch.int32, device=operands.device)

    def make() -> Call:
        x = operands.tensor(shape.dtype, tokens, hidden)
        up = operands.tensor(shape.dtype, experts, 2 * inter, hidden)
        down = operands.tensor(shape.dtype, experts, hidden, inter)
        weights, ids = operands.tensor("fp32", tokens, chosen), (order % experts).view(tokens, chosen)
        return lambda: layer(x, up, down, weights, ids)

    return Kernel(make, f"vllm {shape.version} fused_experts_triton")


def _by_token(shape: Shape, operands: Operands) -> tuple[Any, Any, Any]:
    q, k, v = core_operands(shape, operands)
    return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)


def _full(shape: Shape, operands: Operands) -> Any:
    return torch.full((shape.size("batch"),), shape.size("kv_len"), dtype=torch.int32, device=operands.device)


def _steps(batch: int, each: int, operands: Operands) -> Any:
    return each * torch.arange(batch + 1, dtype=torch.int32, device=operands.device)


BUILDERS: dict[str, Builder] = {
    "flash_attn": _flash_attn,
    "flash_attn_3": _flash_attn,
    "flashinfer": _flashinfer,
    "flash_mla": _flash_mla,
    "deep_gemm": _deep_gemm,
    VLLM: _vllm,
}
