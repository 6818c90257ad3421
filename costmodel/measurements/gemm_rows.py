"""Measured matrix products as operators: plain, batched, grouped, and whole layers of experts."""

from __future__ import annotations

import numpy as np

from costmodel.measurements.expert_load import expected_routing
from costmodel.measurements.row_group import RowGroup, Unmapped
from costmodel.quantities import Array, Quantity, minimum
from costmodel.records import replace
from costmodel.workload.dtypes import ELEMENT_BYTES
from costmodel.workload.fused_experts import FusedExperts
from costmodel.workload.operators import Elementwise, Gemm, Operator, gemm_family

_DRAWN = ("contiguous", "masked")  # layers of DeepGEMM's benchmark
_DRAWN_DEVIATION = 0.6 / 12**0.5  # of the mean: rows are drawn evenly between 0.7 and 1.3 of it (the tables' notes)
_IN_PLACE = ("triton", "vllm")  # in the names of kernels that leave tokens where they are
_IN_PLACE_KERNELS = ("_triton", "marlin")
_WIDE = ELEMENT_BYTES["bf16"]  # what activations are before a quantisation kernel


def gemm(batch: RowGroup) -> list[Operator]:
    """Return [m,k] x [k,n], behind the quantisation of its left operand where the timed call makes that as well.

    An FP32 result of narrower operands is accumulated in place: read and written.
    """
    m, n, k = batch.number("m"), batch.number("n"), batch.number("k")
    kind = batch.compute_format()
    operators: list[Operator] = []
    if "amax" in batch.includes:
        operators.append(Elementwise("largest value", m * k * _WIDE, kind="cast", rows=m))
    if "quantize" in batch.includes or "quantisation kernel" in batch.says:
        operators.append(Elementwise("cast", m * k * (_WIDE + kind.left), kind="cast", rows=m))
    out = _out(batch)
    if batch.text("dtype_out") == "fp32" and kind.unit != "fp32":
        out = 2.0 * out
    return [
        *operators,
        Gemm(
            "gemm", m=m, n=n, k=k, dtype=kind.unit, a_bytes=kind.left, b_bytes=kind.right, out_bytes=out,
            block_scaled=kind.block_scaled,
        ),
    ]  # fmt: skip


def batched(batch: RowGroup) -> list[Operator]:
    """Return `batch` independent products [m,k] x [k,n]."""
    m, n, k, groups = batch.number("m"), batch.number("n"), batch.number("k"), batch.number("batch")
    kind = batch.compute_format()
    return [
        Gemm(
            "bmm", m=m, n=n, k=k, dtype=kind.unit, a_bytes=kind.left, b_bytes=kind.right, out_bytes=_out(batch),
            groups=groups, family="bmm", block_scaled=kind.block_scaled,
        )
    ]  # fmt: skip


def grouped(batch: RowGroup) -> list[Operator]:
    """Return one product a group. `m` is the total of their rows, and n, k are those of the forward product.

    Where rows are fewer than groups, groups without a row are not read. Tokens and experts are those that the table
    states. Else each group is an expert of its own, and a token has as many rows as `topk` says, or one.
    """
    total, n, k = batch.number("m"), batch.number("n"), batch.number("k")
    groups = minimum(batch.number("num_groups"), total)
    m = total / groups
    kind, out = batch.compute_format(), _out(batch)
    shapes: dict[str, tuple[Array, Array, Array]] = {"bwd_grad_act": (m, k, n), "bwd_grad_w": (k, n, m)}
    layer = batch.text("sub_op")
    rows, columns, depth = shapes.get(layer, (m, n, k))
    deviation = np.where(groups > 1, _DRAWN_DEVIATION * m, 0.0) if layer.startswith(_DRAWN) else 0.0
    return [
        Gemm(
            "grouped gemm", m=rows, n=columns, k=depth, dtype=kind.unit, a_bytes=kind.left, b_bytes=kind.right,
            out_bytes=out, groups=groups, family="grouped_gemm", m_std=deviation, block_scaled=kind.block_scaled,
            masked=layer.startswith("masked"), local_experts=groups, experts=_stated(batch, "num_experts", groups),
            tokens=_stated(batch, "num_tokens", total / _stated(batch, "topk", np.ones_like(total))),
        )
    ]  # fmt: skip


def _stated(batch: RowGroup, column: str, otherwise: Quantity) -> Array:
    """Return a column that a table need not have, other values where it says nothing."""
    values = batch.rows.number(column)
    return np.where(np.isfinite(values), values, otherwise)


def expert_layer(batch: RowGroup) -> list[Operator]:
    """Return the two grouped products of one rank's experts, and the streams around them that are timed.

    The table's `m` and `num_groups` are rows and active experts where it states them. Else both are expected values.
    Triton's kernels keep a row for every copy of every token and write zeros to those of other ranks' experts. Others
    copy the rows of their own together first.
    """
    hidden, inter = batch.number("hidden"), batch.number("inter") / batch.number("tp_size")
    tokens, held = batch.number("num_tokens"), batch.number("num_experts") / batch.number("ep_size")
    is_bare = batch.text("sub_op") == "fused_experts"
    if is_bare or np.isfinite(batch.rows.number("m")).all():
        rows, active = batch.number("m"), batch.number("num_groups")
        deviation = np.sqrt(rows / active * (1.0 - 1.0 / active))
    else:
        rows, active, deviation = expected_routing(batch)
    kind, out = batch.compute_format(), _out(batch)
    inputs = 1.0 if batch.text("gated") == "0" or "nongated" in batch.says else 2.0
    in_place = any(name in batch.says for name in _IN_PLACE)
    if batch.includes:
        in_place = any(name in batch.text("kernel") for name in _IN_PLACE_KERNELS)

    def one(name: str, n: Array, k: Array) -> Gemm:
        product = Gemm(
            name, m=rows / active, n=n, k=k, dtype=kind.unit, a_bytes=kind.left, b_bytes=kind.right, out_bytes=out,
            groups=active, family=gemm_family("grouped_gemm", weight_only=batch.expands_weights),
            m_std=deviation, block_scaled=kind.block_scaled, masked=batch.text("sub_op").endswith("masked"),
            local_experts=held, experts=batch.number("num_experts"), tokens=tokens,
            microscaled=batch.text("dtype_in") == "w4a16_mxfp4",
        )  # fmt: skip
        return replace(product, tuned=batch.tuned_tiles.of(held, inter, product.variant))

    up, down = one("expert up", inputs * inter, hidden), one("expert down", hidden, inter)
    fused = FusedExperts(
        f"{up.family}/{up.variant}", tokens=tokens, rows=rows, top_k=batch.number("topk"), hidden=hidden, width=inter,
        inputs=inputs, wide=_WIDE, narrow=_WIDE if is_bare else kind.left,
    )  # fmt: skip
    first, activation, last = fused.streams(in_place=in_place)
    if is_bare:
        return [up, down, first]
    if batch.includes:  # experts between DeepEP's exchanges get their rows sorted and pass them on as they are
        before, after = [first] if "permute" in batch.includes else [], [last] if "combine" in batch.includes else []
        return [*before, up, activation, down, *after]
    return [first, up, activation, down, last]


def _out(batch: RowGroup) -> float:
    """Return the bytes of one element of the result."""
    name = batch.text("dtype_out") or batch.text("dtype_in")
    if name not in ELEMENT_BYTES:
        raise Unmapped(f"number format {name} of a result is unknown")
    return ELEMENT_BYTES[name]
