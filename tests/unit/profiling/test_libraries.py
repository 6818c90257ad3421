"""Calls of other libraries have the layouts that their documentation asks for: held against stand-ins of them."""

from __future__ import annotations

import sys
import types
from typing import ClassVar

import pytest

torch = pytest.importorskip("torch", reason="kernels are called on torch's tensors: pip install 'costmodel[profile]'")

from costmodel.profiling.libraries import build  # noqa: E402
from costmodel.profiling.operands import Operands  # noqa: E402
from costmodel.profiling.shapes import Shape  # noqa: E402

CORE = {"batch": 2, "q_heads": 8, "kv_heads": 2, "head_dim": 64, "v_head_dim": 64, "q_len": 96, "kv_len": 96}
QUERY = CORE | {"q_len": 1}


@pytest.fixture
def stand_in(monkeypatch):
    """Return a function that puts a module of some functions in a library's place."""

    def put(name, **functions):
        module = types.ModuleType(name)
        vars(module).update(functions, __version__="1.0")
        monkeypatch.setitem(sys.modules, name, module)

    return put


def call(library, op, sizes, dtype="bf16", backend=""):
    shape = Shape("s", op, dtype, tuple(sizes.items()), causal="1", library=library, version="1.0", backend=backend)
    operands = Operands("cpu", 2**20)
    operands.prepare(shape.traffic)
    kernel = build(shape, operands)
    return kernel.name, kernel.make()()


def attend(q, k, v, dropout_p=0.0, softmax_scale=None, causal=False):  # noqa: ARG001  flash-attn's signature
    assert causal
    assert q.shape == (2, 96, 8, 64)
    assert k.shape == v.shape == (2, 96, 2, 64)
    core = torch.nn.functional.scaled_dot_product_attention
    repeated = (each.transpose(1, 2).repeat_interleave(4, 1) for each in (k, v))
    return core(q.transpose(1, 2), *repeated, is_causal=True).transpose(1, 2)


def test_flash_attn_takes_tokens_before_heads(stand_in):
    def cached(q, k_cache, v_cache, cache_seqlens, causal):
        assert causal
        assert q.shape == (2, 1, 8, 64)
        assert k_cache.shape == v_cache.shape == (2, 96, 2, 64)
        assert (cache_seqlens.dtype, cache_seqlens.tolist()) == (torch.int32, [96, 96])
        return q

    stand_in("flash_attn", flash_attn_func=attend, flash_attn_with_kvcache=cached)
    name, out = call("flash_attn", "attention_prefill", CORE)
    assert (name, out.shape) == ("flash_attn 1.0 flash_attn_func", (2, 96, 8, 64))
    _, gradients = call("flash_attn", "attention_backward", CORE)
    assert [each.shape for each in gradients] == [(2, 96, 8, 64), (2, 96, 2, 64), (2, 96, 2, 64)]
    call("flash_attn", "attention_decode", QUERY)


def test_flash_attn_3_is_a_module_of_its_own_that_may_return_the_sums_of_the_softmax(stand_in):
    def with_sums(q, k, v, causal=False):
        return attend(q, k, v, causal=causal), "sums"

    stand_in("flash_attn_interface", flash_attn_func=with_sums)
    name, _ = call("flash_attn_3", "attention_prefill", CORE)
    assert name == "flash_attn_3 1.0 flash_attn_func"
    _, gradients = call("flash_attn_3", "attention_backward", CORE)
    assert [each.shape for each in gradients] == [(2, 96, 8, 64), (2, 96, 2, 64), (2, 96, 2, 64)]


class Wrapper:
    """What both wrappers of FlashInfer share."""

    chosen: ClassVar[list] = []

    def __init__(self, workspace, layout, **options):
        assert (workspace.dtype, layout) == (torch.uint8, "NHD")
        self.chosen.append(options)


class Decode(Wrapper):
    def plan(self, indptr, indices, last, heads, shared, width, page, q_data_type, kv_data_type):
        assert q_data_type == kv_data_type == torch.bfloat16
        assert {each.dtype for each in (indptr, indices, last)} == {torch.int32}
        assert (heads, shared, width) == (8, 2, 64)
        assert (int(indptr[-1]), len(last)) == (len(indices), 2)
        assert sorted(indices.tolist()) == list(range(len(indices)))
        assert [(int(indptr[1]) - 1) * page + int(each) for each in last] == [96, 96]
        self.cache = (len(indices), 2, page, shared, width)

    def run(self, q, cache):
        assert q.shape == (2, 8, 64)
        assert cache.shape == self.cache


class Prefill(Wrapper):
    def plan(self, queries, keys, heads, shared, width, causal, q_data_type):
        assert (heads, shared, width, causal, q_data_type) == (8, 2, 64, True, torch.bfloat16)
        assert queries.tolist() == keys.tolist() == [0, 96, 192]

    def run(self, q, k, v):
        assert q.shape == (192, 8, 64)
        assert k.shape == v.shape == (192, 2, 64)


def test_flashinfer_takes_pages_that_hold_every_key_once(stand_in):
    stand_in("flashinfer", BatchDecodeWithPagedKVCacheWrapper=Decode, BatchPrefillWithRaggedKVCacheWrapper=Prefill)
    Wrapper.chosen.clear()
    name, _ = call("flashinfer", "attention_decode", QUERY, backend="tensor_cores")
    assert name == "flashinfer 1.0 paged decode, tensor_cores"
    call("flashinfer", "attention_decode", QUERY, backend="cuda_cores")
    name, _ = call("flashinfer", "attention_prefill", CORE, backend="fa3")
    assert name == "flashinfer 1.0 ragged prefill, fa3"
    assert Wrapper.chosen == [{"use_tensor_cores": True}, {"use_tensor_cores": False}, {"backend": "fa3"}]


def test_flash_mla_takes_pages_of_latents(stand_in):
    def metadata(lengths, rows, heads):
        assert (lengths.tolist(), rows, heads) == ([96, 96], 16, 1)
        return "plan", "splits"

    def core(q, cache, table, lengths, value, plan, splits, causal):
        assert (plan, splits, causal, value) == ("plan", "splits", True, 512)
        assert q.shape == (2, 1, 16, 576)
        assert cache.shape == (4, 64, 1, 576)
        assert sorted(table.flatten().tolist()) == [0, 1, 2, 3]
        assert lengths.dtype == table.dtype == torch.int32

    stand_in("flash_mla", get_mla_metadata=metadata, flash_mla_with_kvcache=core)
    sizes = QUERY | {"q_heads": 16, "kv_heads": 1, "head_dim": 576, "v_head_dim": 512}
    call("flash_mla", "mla_decode", sizes)


def test_vllms_experts_get_equal_shares_of_the_tokens_and_no_token_one_twice(stand_in):
    def experts(x, up, down, weights, ids):
        assert [each.shape for each in (x, up, down)] == [(8, 32), (4, 32, 32), (4, 32, 16)]
        assert (weights.dtype, weights.shape, ids.dtype) == (torch.float32, (8, 2), torch.int32)
        assert torch.bincount(ids.flatten()).tolist() == [4, 4, 4, 4]
        assert all(len(set(row)) == 2 for row in ids.tolist())
        return x

    for name in ("vllm", "vllm.model_executor", "vllm.model_executor.layers"):
        stand_in(name)
    stand_in("vllm.model_executor.layers.fused_moe", fused_experts=experts)
    sizes = {"num_tokens": 8, "num_experts": 4, "topk": 2, "hidden": 32, "inter": 16}
    name, _ = call("vllm", "moe_layer", sizes, backend="triton-vllm")
    assert name == "vllm 1.0 fused_experts_triton"


@pytest.mark.parametrize("newer", [True, False])
def test_deep_gemm_takes_a_scale_for_each_block(stand_in, newer):
    def multiply(left, right, out):
        assert left[0].dtype == right[0].dtype == torch.float8_e4m3fn
        assert [each.shape for each in (*left, *right)] == [(5, 300), (5, 3), (200, 300), (2, 3)]
        assert (out.shape, out.dtype) == ((5, 200), torch.bfloat16)

    names = ("fp8_gemm_nt", "get_mn_major_tma_aligned_tensor") if newer else (
        "gemm_fp8_fp8_bf16_nt", "get_col_major_tma_aligned_tensor"
    )  # fmt: skip
    stand_in("deep_gemm", **dict(zip(names, (multiply, lambda scales: scales), strict=True)))
    call("deep_gemm", "gemm", {"m": 5, "n": 200, "k": 300}, "fp8_e4m3_blk128")
