"""Calls of torch's own kernels for the shapes of a suite."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from costmodel.profiling.operands import TYPES, Operands
from costmodel.profiling.shapes import BYTES, FP4, Shape
from costmodel.profiling.timing import Call, Maker
from costmodel.records import ValueRecord


class Kernel(ValueRecord):
    """What makes calls of a kernel, and its name as the measurement table has it.

    count: how many of it one call runs.
    hosted: the time is the host's, which waits for nothing.
    captured: a graph can hold its calls, each of which may run more than once.
    """

    make: Maker
    name: str
    count: int = 1
    hosted: bool = False
    captured: bool = True


_BLOCK = 128  # elements that share a scale
_SIXTEEN, _FOUR = 16, 4  # elements that share a scale of NVFP4, and scales along k of a tile
_LAUNCHES = 100  # of an empty kernel in one call: fewer than a stream queues

Builder = Callable[[Shape, Operands], Kernel]


def _product(shape: Shape, operands: Operands) -> Kernel:
    """Return x W' for the forward pass, dy W (`dgrad`) or dy' x (`gemm_wgrad`), with the layouts of a linear layer."""
    m, n, k = (shape.size(name) for name in "mnk")
    if shape.dtype == FP4:
        return _scaled_by_16(shape, operands)
    if shape.dtype.startswith("fp8"):
        return _scaled(shape, operands)
    fill = operands.zeros if shape.load == "zeros" else operands.tensor

    def make() -> Call:
        out = operands.tensor(shape.dtype, m, n)
        left = fill(shape.dtype, k, m).t() if shape.op == "gemm_wgrad" else fill(shape.dtype, m, k)
        plain = shape.op == "gemm_wgrad" or shape.sub_op == "dgrad"
        right = fill(shape.dtype, k, n) if plain else fill(shape.dtype, n, k).t()
        return lambda: torch.mm(left, right, out=out)

    return Kernel(make, "torch.mm")


def _scaled(shape: Shape, operands: Operands) -> Kernel:
    """Return an FP8 product whose operands have a scale each, one a row, or one for each block.

    A block is 1 x 128 elements of activations and gradients, 128 x 128 of weights. Scales of 1 x 128 have the other
    dimension first, as the kernel reads them (torch's documentation of scaled_mm).
    """
    m, n, k = (shape.size(name) for name in "mnk")
    parts, columns = math.ceil(k / _BLOCK), math.ceil(n / _BLOCK)

    def scales() -> tuple[torch.Tensor, torch.Tensor]:
        if shape.backend == "block":
            left = operands.tensor("fp32", parts, m).t()
            if shape.op == "gemm_wgrad":
                return left, operands.tensor("fp32", parts, n)
            return left, operands.tensor("fp32", columns, parts).t()
        rows = (m, n) if shape.backend.startswith("row") else (1, 1)
        left, right = operands.tensor("fp32", rows[0], 1), operands.tensor("fp32", 1, rows[1])
        return (left, right) if rows != (1, 1) else (left.view(()), right.view(()))

    def make() -> Call:
        left, right = operands.tensor(shape.dtype, m, k), operands.tensor(shape.dtype, n, k).t()
        of_left, of_right = scales()
        fast = shape.backend.endswith("fast")
        return lambda: torch._scaled_mm(
            left, right, scale_a=of_left, scale_b=of_right, out_dtype=torch.bfloat16, use_fast_accum=fast
        )

    return Kernel(make, f"torch._scaled_mm {shape.backend}")


def _scaled_by_16(shape: Shape, operands: Operands) -> Kernel:
    """Return an NVFP4 product: an E4M3 scale for 16 elements along k, in cuBLAS' tiles of 128 rows and four scales.

    Rows and scales are padded to whole tiles (NVIDIA, cuBLAS library, 1D block scaling factors layout).
    """
    m, n, k = (shape.size(name) for name in "mnk")
    scales = _FOUR * math.ceil(math.ceil(k / _SIXTEEN) / _FOUR)

    def make() -> Call:
        left, right = operands.tensor(shape.dtype, m, k), operands.tensor(shape.dtype, n, k).t()
        of_left, of_right = (operands.tensor("fp8_e4m3", _BLOCK * math.ceil(rows / _BLOCK) * scales) for rows in (m, n))
        return lambda: torch._scaled_mm(left, right, scale_a=of_left, scale_b=of_right, out_dtype=torch.bfloat16)

    return Kernel(make, f"torch._scaled_mm {shape.dtype} {shape.backend}")


def _grouped(shape: Shape, operands: Operands) -> Kernel:
    """Return one product a group of rows, or the gradient of either operand: torch's grouped kernel.

    A group is a run of the rows, which ends where `ends` says: x W' forward, dy W for the activations, dy' x for the
    weights.
    """
    groups, n, k, m = (shape.size(name) for name in ("num_groups", "n", "k", "m"))

    def make() -> Call:
        ends = _ends(groups, m // groups, operands)
        if shape.sub_op == "bwd_grad_w":
            left, right = operands.tensor(shape.dtype, m, n).t(), operands.tensor(shape.dtype, m, k)
        elif shape.sub_op == "bwd_grad_act":
            left, right = operands.tensor(shape.dtype, m, n), operands.tensor(shape.dtype, groups, n, k)
        else:
            left = operands.tensor(shape.dtype, m, k)
            right = operands.tensor(shape.dtype, groups, n, k).transpose(1, 2)
        if shape.dtype.startswith("fp8"):
            of_left, of_right = operands.tensor("fp32", m), operands.tensor("fp32", groups, n)
            return lambda: torch._scaled_grouped_mm(
                left, right, of_left, of_right, offs=ends, out_dtype=torch.bfloat16, use_fast_accum=True
            )
        return lambda: torch._grouped_mm(left, right, offs=ends)

    return Kernel(make, "torch._scaled_grouped_mm row_fast" if shape.dtype.startswith("fp8") else "torch._grouped_mm")


def _ends(groups: int, rows: int, operands: Operands) -> torch.Tensor:
    return rows * torch.arange(1, groups + 1, dtype=torch.int32, device=operands.device)


def _experts(shape: Shape, operands: Operands) -> Kernel:
    """Return a layer of experts that hold equal shares of the tokens.

    Tokens are copied together by expert. Gate and up, gated activation and down run over the groups. Each token's
    results are weighted and summed. The choice of experts was made before.
    """
    tokens, chosen = shape.size("num_tokens"), shape.size("topk")
    experts, hidden, inter = (shape.size(name) for name in ("num_experts", "hidden", "inter"))
    rows = tokens * chosen

    def make() -> Call:
        x = operands.tensor(shape.dtype, tokens, hidden)
        up = operands.tensor(shape.dtype, experts, 2 * inter, hidden).transpose(1, 2)
        down = operands.tensor(shape.dtype, experts, hidden, inter).transpose(1, 2)
        weights = operands.tensor(shape.dtype, tokens, chosen, 1)
        order = torch.randperm(rows, device=operands.device)  # the copy of a token that each row of a group is
        sources, places = order // chosen, torch.argsort(order)
        ends = _ends(experts, rows // experts, operands)

        def layer() -> torch.Tensor:
            inner = functional.glu(torch._grouped_mm(x[sources], up, offs=ends))
            results = torch._grouped_mm(inner, down, offs=ends)
            return (results[places].view(tokens, chosen, hidden) * weights).sum(dim=1)

        return layer

    return Kernel(make, "torch._grouped_mm between index, glu and weighted sum")


_BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION, "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION, "math": SDPBackend.MATH,
}  # fmt: skip
_ATTENTION = "torch.scaled_dot_product_attention"


def _attention(shape: Shape, operands: Operands) -> Kernel:
    """Return softmax(QK')V by one of torch's backends, whose name is the kernel's. Without one, by torch's choice."""
    options = _options(shape)

    def make() -> Call:
        q, k, v = core_operands(shape, operands)

        def attend() -> torch.Tensor:
            with _only(shape):
                return functional.scaled_dot_product_attention(q, k, v, **options)

        return attend

    return Kernel(make, _attention_name(shape, operands))


def _options(shape: Shape) -> dict[str, bool]:
    """Return what torch's attention gets of a shape: a single query sees every key, so it needs no mask."""
    shared = shape.size("q_heads") != shape.size("kv_heads")
    return {"is_causal": shape.size("q_len") > 1} | ({"enable_gqa": True} if shared else {})


def _only(shape: Shape) -> AbstractContextManager[None]:
    """Return a context in which torch has one backend of attention to choose."""
    name = shape.backend.partition("-")[0]
    return sdpa_kernel(_BACKENDS[name]) if name else nullcontext()


def _attention_name(shape: Shape, operands: Operands) -> str:
    if shape.backend:
        return f"{_ATTENTION} {shape.backend}"
    heads = shape.size("q_heads"), shape.size("kv_heads")
    widths = shape.size("head_dim"), shape.size("v_head_dim")
    q, k, v = (
        torch.empty(1, count, 2, width, dtype=TYPES[shape.dtype], device=operands.device)
        for count, width in zip((heads[0], heads[1], heads[1]), (widths[0], widths[0], widths[1]), strict=True)
    )
    chosen = torch._fused_sdp_choice(q, k, v, **_options(shape))
    return f"{_ATTENTION} {next(name for name, backend in _BACKENDS.items() if backend.value == chosen)}"


def core_operands(shape: Shape, operands: Operands) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return queries, keys and values, each [batch, heads, tokens, width]."""
    batch, new, keys = shape.size("batch"), shape.size("q_len"), shape.size("kv_len")
    q = operands.tensor(shape.dtype, batch, new, shape.size("q_heads"), shape.size("head_dim")).transpose(1, 2)
    k = operands.tensor(shape.dtype, batch, keys, shape.size("kv_heads"), shape.size("head_dim")).transpose(1, 2)
    v = operands.tensor(shape.dtype, batch, keys, shape.size("kv_heads"), shape.size("v_head_dim")).transpose(1, 2)
    return q, k, v


def _gradient(shape: Shape, operands: Operands) -> Kernel:
    """Return the backward pass alone: its forward pass is made, and kept, before the clock runs."""
    options = _options(shape)

    def make() -> Call:
        leaves = [each.detach().requires_grad_() for each in core_operands(shape, operands)]
        with _only(shape):
            out = functional.scaled_dot_product_attention(*leaves, **options)
        gradient = operands.like(shape.dtype, out)
        return lambda: torch.autograd.grad(out, leaves, gradient)

    return Kernel(make, _attention_name(shape, operands), captured=False)


def _latent_decode(shape: Shape, operands: Operands) -> Kernel:
    """Return absorbed MLA: all heads read one cache, whose first part serves as values as well."""
    batch, heads, keys = shape.size("batch"), shape.size("q_heads"), shape.size("kv_len")
    width, value = shape.size("head_dim"), shape.size("v_head_dim")

    def make() -> Call:
        q = operands.tensor(shape.dtype, batch, 1, heads, width)  # heads stand as the tokens of one head
        cache = operands.tensor(shape.dtype, batch, 1, keys, width)

        def attend() -> torch.Tensor:
            with _only(shape):
                return functional.scaled_dot_product_attention(q, cache, cache[..., :value])

        return attend

    return Kernel(make, _attention_name(shape, operands))


def _stream(shape: Shape, operands: Operands) -> Kernel:
    m, n = shape.size("m"), shape.size("n")
    kind, dtype = shape.sub_op, shape.dtype
    if kind == "copy":
        return Kernel(lambda: _copy(operands, n), "torch.copy_")
    if kind == "copy_again":
        source, target = operands.tensor("fp32", n), operands.tensor("fp32", n)
        return Kernel(lambda: lambda: target.copy_(source), "torch.copy_ between the same two buffers")
    if kind == "adamw":
        return _adamw(shape, operands)

    def make() -> Call:
        if kind == "embedding":
            rows, table = torch.randint(0, 4 * m, (m,), device=operands.device), operands.tensor(dtype, 4 * m, n)
            return lambda: functional.embedding(rows, table)
        if kind == "cross_entropy":
            logits, labels = operands.tensor(dtype, m, n), torch.randint(0, n, (m,), device=operands.device)
            return lambda: functional.cross_entropy(logits, labels)
        x = operands.tensor(dtype, m, 2 * n if kind == "silu_and_mul" else n)
        if kind == "add":
            y = operands.tensor(dtype, m, n)
            return lambda: torch.add(x, y)
        return lambda: _ONE_INPUT[kind](x)

    return Kernel(make, _STREAM_NAMES[kind])


_ONE_INPUT: dict[str, Callable[[Any], Any]] = {
    "silu_and_mul": functional.glu,  # the same bytes: a gate and a value in, one element out
    "rmsnorm_or_layernorm": lambda x: functional.layer_norm(x, x.shape[-1:]),
    "softmax": lambda x: torch.softmax(x, dim=-1),
    "gelu": functional.gelu,
}
_STREAM_NAMES = {
    "silu_and_mul": "torch.nn.functional.glu", "rmsnorm_or_layernorm": "torch.layer_norm", "softmax": "torch.softmax",
    "gelu": "torch.gelu", "add": "torch.add", "embedding": "torch.embedding",
    "cross_entropy": "torch.nn.functional.cross_entropy",
}  # fmt: skip


def _copy(operands: Operands, count: int) -> Call:
    source, target = operands.tensor("fp32", count), operands.tensor("fp32", count)
    return lambda: target.copy_(source)


def _host_copy(shape: Shape, operands: Operands) -> Kernel:
    """Return a copy between the device and pinned memory of the host."""
    if operands.device == "cpu":
        raise RuntimeError("a CPU is its own host")
    count = shape.size("bytes") // BYTES["fp32"]
    host = torch.empty(count, pin_memory=True)

    def make() -> Call:
        own = operands.tensor("fp32", count)
        source, target = (host, own) if shape.sub_op == "to_device" else (own, host)
        return lambda: target.copy_(source, non_blocking=True)

    return Kernel(make, "torch.copy_ of pinned memory")


def _adamw(shape: Shape, operands: Operands) -> Kernel:
    """Return one step of torch's fused AdamW: four arrays in, three out, of parameters that no step before has had."""
    count = shape.size("n")

    def make() -> Call:
        parameter = operands.tensor(shape.dtype, count).requires_grad_()
        parameter.grad = operands.tensor(shape.dtype, count)
        optimizer = torch.optim.AdamW([parameter], fused=True)
        optimizer.step()  # which makes both moments
        step: Call = optimizer.step
        return step

    return Kernel(make, "torch.optim.AdamW, fused", captured=False)


def _launch(shape: Shape, operands: Operands) -> Kernel:
    """Return kernels of one element: launched by the host, or replayed as the nodes of a graph."""
    one = torch.zeros(1, device=operands.device)

    def several() -> None:
        for _ in range(_LAUNCHES):
            one.add_(1.0)

    if shape.sub_op == "eager":
        return Kernel(lambda: several, "torch.add_", _LAUNCHES, hosted=True)
    if operands.device == "cpu":
        raise RuntimeError("a CPU has no graphs")
    several()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        several()
    return Kernel(lambda: graph.replay, "torch.add_", _LAUNCHES)


BUILDERS: dict[str, Builder] = {
    "gemm": _product,
    "gemm_wgrad": _product,
    "grouped_gemm": _grouped,
    "moe_layer": _experts,
    "attention_prefill": _attention,
    "attention_decode": _attention,
    "attention_backward": _gradient,
    "mla_prefill": _attention,
    "mla_decode": _latent_decode,
    "elementwise": _stream,
    "host_copy": _host_copy,
    "launch": _launch,
}
