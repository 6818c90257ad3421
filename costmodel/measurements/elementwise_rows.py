"""Measured element-wise kernels as operators: what each reads and writes for one element of its output."""

from __future__ import annotations

import numpy as np

from costmodel.measurements.row_group import RowGroup, Unmapped
from costmodel.workload.operators import Elementwise, Operator

_PASSES = {
    # (elements read, elements written) for one element of the output width `n`
    "silu_and_mul": (2.0, 1.0),  # gate and up
    "fused_add_rmsnorm": (2.0, 2.0),  # input and residual in, normalised and new residual out
    "rmsnorm_or_layernorm": (1.0, 1.0),
    **dict.fromkeys(("layernorm", "softmax", "kv_cache_write", "copy"), (1.0, 1.0)),
    "rope": (1.0, 1.0),  # queries and keys in place
    "embedding": (1.0, 1.0),  # one row of the table a token
    "sampler_greedy": (1.0, 0.0),  # logits in, one token out
    "adamw": (4.0, 3.0),  # gradient, parameter and two moments in; all but the gradient out
    **dict.fromkeys(("add", "mul", "div", "pow"), (2.0, 1.0)),
    **dict.fromkeys(("addu", "mulu", "divu", "powu", "gelu", "relu", "tanh"), (1.0, 1.0)),  # one input, or a scalar
}

_KINDS = {
    **dict.fromkeys(("silu_and_mul", "gelu", "relu", "tanh"), "activation"),
    **dict.fromkeys(("fused_add_rmsnorm", "rmsnorm_or_layernorm", "layernorm"), "norm"),
    "softmax": "softmax",
    "rope": "rotary",
    "embedding": "embedding",
    "kv_cache_write": "cache_write",
    **dict.fromkeys(("add", "mul", "div", "addu", "mulu", "divu"), "add"),
    "copy": "copy",
    "adamw": "optimizer",
}
"""What a kernel computes, as the workload names it."""

_FLAT = ("copy", "adamw")  # kernels that know no rows: their blocks take elements as they come


def elementwise(batch: RowGroup) -> list[Operator]:
    """Return a kernel that streams `m` rows of `n` output elements.

    A column has no rows: its elements lie side by side, and blocks take them as they come.
    """
    name = batch.text("sub_op")
    if name not in _PASSES:
        raise Unmapped(f"what element-wise kernel {name or 'without a name'} reads and writes is unknown")
    read, written = _PASSES[name]
    bytes_in, bytes_out = batch.format("dtype_in").left, batch.format("dtype_out", default=batch.text("dtype_in")).left
    traffic = batch.number("m") * batch.number("n") * (read * bytes_in + written * bytes_out)
    rows = 0.0 if name in _FLAT else np.where(batch.number("n") > 1.0, batch.number("m"), 0.0)
    return [Elementwise(name, traffic, kind=_KINDS.get(name, ""), rows=rows)]


def quantisation(batch: RowGroup) -> list[Operator]:
    """Return a cast of `m` rows of `n` elements, or of the left operand [m,k], with the scales of the narrower format.

    Raises Unmapped for the difference of two timings, which no kernel takes.
    """
    if batch.text("sub_op") == "compute_scale":
        raise Unmapped("the difference of two timings is no kernel's time")
    width = batch.format("dtype_in").left + batch.format("dtype_out").left
    rows, columns = batch.number("m"), np.fmax(batch.rows.number("n"), batch.rows.number("k"))
    if np.isnan(columns).any():
        columns = batch.number("n")  # raises where it is blank
    return [Elementwise("cast", rows * columns * width, kind="cast", rows=rows)]
