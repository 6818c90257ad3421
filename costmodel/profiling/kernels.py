"""Calls of torch's own kernels for the shapes of a suite."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn import functional

from costmodel.profiling.operands import Operands
from costmodel.profiling.shapes import BYTES, Shape
from costmodel.profiling.timing import Call, Maker


@dataclass(frozen=True, slots=True)
class Kernel:
    """What makes calls of a kernel, and its name as the measurement table has it.

    count: how many of it one call runs; hosted: the time is the host's, which waits for nothing.
    """

    make: Maker
    name: str
    count: int = 1
    hosted: bool = False


_LAUNCHES = 100  # of an empty kernel in one call: fewer than a stream queues

Builder = Callable[[Shape, Operands], Kernel]


def _product(shape: Shape, operands: Operands) -> Kernel:
    """Return x W' for the forward pass, dy W (`dgrad`) or dy' x (`gemm_wgrad`), with the layouts of a linear layer."""
    m, n, k = (shape.size(name) for name in "mnk")
    if shape.dtype == "fp8_e4m3":
        return _scaled(shape, operands)

    def make() -> Call:
        out = operands.tensor(shape.dtype, m, n)
        left = operands.tensor(shape.dtype, k, m).t() if shape.op == "gemm_wgrad" else (
            operands.tensor(shape.dtype, m, k)
        )  # fmt: skip
        plain = shape.op == "gemm_wgrad" or shape.sub_op == "dgrad"
        right = operands.tensor(shape.dtype, k, n) if plain else operands.tensor(shape.dtype, n, k).t()
        return lambda: torch.mm(left, right, out=out)

    return Kernel(make, "torch.mm")


def _scaled(shape: Shape, operands: Operands) -> Kernel:
    """Return an FP8 product with one scale a tensor."""
    m, n, k = (shape.size(name) for name in "mnk")
    one = torch.ones((), device=operands.device)

    def make() -> Call:
        left, right = operands.tensor(shape.dtype, m, k), operands.tensor(shape.dtype, n, k).t()
        return lambda: torch._scaled_mm(left, right, scale_a=one, scale_b=one, out_dtype=torch.bfloat16)

    return Kernel(make, "torch._scaled_mm")


def _grouped(shape: Shape, operands: Operands) -> Kernel:
    """Return one product a group, as one batched product of equal groups."""
    groups, n, k = shape.size("num_groups"), shape.size("n"), shape.size("k")
    rows = shape.size("m") // groups

    def make() -> Call:
        left = operands.tensor(shape.dtype, groups, rows, k)
        right = operands.tensor(shape.dtype, groups, n, k).transpose(1, 2)
        out = operands.tensor(shape.dtype, groups, rows, n)
        return lambda: torch.bmm(left, right, out=out)

    return Kernel(make, "torch.bmm of equal groups")


def _experts(shape: Shape, operands: Operands) -> Kernel:
    """Return up, gated activation and down of experts that hold equal shares of sorted tokens."""
    experts, hidden, inter = (shape.size(name) for name in ("num_experts", "hidden", "inter"))
    rows = shape.size("num_tokens") * shape.size("topk") // experts

    def make() -> Call:
        tokens = operands.tensor(shape.dtype, experts, rows, hidden)
        up = operands.tensor(shape.dtype, experts, 2 * inter, hidden).transpose(1, 2)
        down = operands.tensor(shape.dtype, experts, hidden, inter).transpose(1, 2)
        return lambda: torch.bmm(functional.glu(torch.bmm(tokens, up)), down)

    return Kernel(make, "torch.bmm of equal groups, torch.nn.functional.glu")


def _attention(shape: Shape, operands: Operands) -> Kernel:
    """Return softmax(QK')V by torch's choice of kernel."""
    several = shape.size("q_len") > 1
    grouped = {} if shape.size("q_heads") == shape.size("kv_heads") else {"enable_gqa": True}

    def make() -> Call:
        q, k, v = core_operands(shape, operands)
        return lambda: functional.scaled_dot_product_attention(q, k, v, is_causal=several, **grouped)

    return Kernel(make, "torch.scaled_dot_product_attention")


def core_operands(shape: Shape, operands: Operands) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return queries, keys and values, each [batch, heads, tokens, width]."""
    batch, new, keys = shape.size("batch"), shape.size("q_len"), shape.size("kv_len")
    q = operands.tensor(shape.dtype, batch, new, shape.size("q_heads"), shape.size("head_dim")).transpose(1, 2)
    k = operands.tensor(shape.dtype, batch, keys, shape.size("kv_heads"), shape.size("head_dim")).transpose(1, 2)
    v = operands.tensor(shape.dtype, batch, keys, shape.size("kv_heads"), shape.size("v_head_dim")).transpose(1, 2)
    return q, k, v


def _gradient(shape: Shape, operands: Operands) -> Kernel:
    """Return the backward pass alone: its forward pass is made, and kept, before the clock runs."""
    grouped = {} if shape.size("q_heads") == shape.size("kv_heads") else {"enable_gqa": True}

    def make() -> Call:
        leaves = [each.detach().requires_grad_() for each in core_operands(shape, operands)]
        out = functional.scaled_dot_product_attention(*leaves, is_causal=True, **grouped)
        gradient = operands.tensor(shape.dtype, *out.shape)
        return lambda: torch.autograd.grad(out, leaves, gradient)

    return Kernel(make, "torch.scaled_dot_product_attention")


def _latent_decode(shape: Shape, operands: Operands) -> Kernel:
    """Return absorbed MLA: all heads read one cache, whose first part serves as values as well."""
    batch, heads, keys = shape.size("batch"), shape.size("q_heads"), shape.size("kv_len")
    width, value = shape.size("head_dim"), shape.size("v_head_dim")

    def make() -> Call:
        q = operands.tensor(shape.dtype, batch, 1, heads, width)  # heads stand as the tokens of one head
        cache = operands.tensor(shape.dtype, batch, 1, keys, width)
        return lambda: functional.scaled_dot_product_attention(q, cache, cache[..., :value])

    return Kernel(make, "torch.scaled_dot_product_attention")


def _stream(shape: Shape, operands: Operands) -> Kernel:
    """Return a kernel that only streams."""
    m, n = shape.size("m"), shape.size("n")
    kind, dtype = shape.sub_op, shape.dtype
    if kind == "copy":
        return Kernel(lambda: _copy(operands, n), "torch.copy_")
    if kind == "adamw":
        return _adamw(n, operands)
    if kind == "embedding":
        rows = torch.randint(0, 4 * m, (m,), device=operands.device)

        def look_up() -> Call:
            table = operands.tensor(dtype, 4 * m, n)
            return lambda: functional.embedding(rows, table)

        return Kernel(look_up, "torch.embedding")

    def make() -> Call:
        x = operands.tensor(dtype, m, 2 * n if kind == "silu_and_mul" else n)
        if kind == "add":
            y = operands.tensor(dtype, m, n)
            return lambda: torch.add(x, y)
        return lambda: _ONE_INPUT[kind](x)

    return Kernel(make, _STREAM_NAMES[kind])


_ONE_INPUT = {
    "silu_and_mul": functional.glu,  # the same bytes: a gate and a value in, one element out
    "rmsnorm_or_layernorm": lambda x: functional.layer_norm(x, x.shape[-1:]),
    "softmax": lambda x: torch.softmax(x, dim=-1),
    "gelu": functional.gelu,
}
_STREAM_NAMES = {
    "silu_and_mul": "torch.nn.functional.glu", "rmsnorm_or_layernorm": "torch.layer_norm", "softmax": "torch.softmax",
    "gelu": "torch.gelu", "add": "torch.add",
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


def _adamw(count: int, operands: Operands) -> Kernel:
    """Return one AdamW step over FP32 parameters: four arrays in, three out."""
    parameter = torch.zeros(count, device=operands.device, requires_grad=True)
    parameter.grad = torch.ones(count, device=operands.device)
    optimizer = torch.optim.AdamW([parameter], fused=True)
    return Kernel(lambda: optimizer.step, "torch.optim.AdamW, fused")


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
