"""Measured matrix products as operators: plain, batched, grouped, and whole layers of experts."""

from __future__ import annotations

import numpy as np

from costmodel.measurements.row_group import RowGroup, Unmapped
from costmodel.quantities import Array, Quantity, minimum
from costmodel.records import replace
from costmodel.workload.dtypes import ELEMENT_BYTES
from costmodel.workload.expert_exchange import FusedExperts
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

    tuned = batch.catalogue.tuned_tiles(batch.text("framework"), batch.device)

    def one(name: str, n: Array, k: Array) -> Gemm:
        product = Gemm(
            name, m=rows / active, n=n, k=k, dtype=kind.unit, a_bytes=kind.left, b_bytes=kind.right, out_bytes=out,
            groups=active, family=gemm_family("grouped_gemm", weight_only=batch.expands_weights),
            m_std=deviation, block_scaled=kind.block_scaled, masked=batch.text("sub_op").endswith("masked"),
            local_experts=held, experts=batch.number("num_experts"), tokens=tokens,
            microscaled=batch.text("dtype_in") == "w4a16_mxfp4",
        )  # fmt: skip
        return replace(product, tuned=tuned.of(held, inter, product.variant))

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
    name = batch.text("dtype_out") or batch.text("dtype_in")
    if name not in ELEMENT_BYTES:
        raise Unmapped(f"number format {name} of a result is unknown")
    return ELEMENT_BYTES[name]


# ---- Rows of the fullest rank of an expert-parallel group, as the benchmarks of moe_layer draw routing ---------------

_DRAWS = 32  # the tables do not record the draw, so it is averaged over
_SEED = 0
_POWER_LAW = "power_law_"
_REPLICATED = "_eplb"
_BALANCED = ("balanced", "uniform_random")
_TO_FULLEST = ("trtllm 1.0.0",)  # frameworks whose benchmark gives what rounding leaves to full experts
_TO_EMPTIEST = ("vllm 0.14.0",)  # to empty experts of any rank; later ones take the ranks in turn


def expected_routing(batch: RowGroup) -> tuple[Array, Array, Array]:
    """Return the rows of the timed rank, its experts with rows, and the standard deviation of these experts' rows [-].

    balanced: T*k/ep rows, over all local experts as long as each gets one. power_law_a: weights of the experts come
    from a power law with exponent a on [1, 0.8*T] where T*k > E, else on [0.01, 2]. They are scaled to T*k rows and
    rounded, and no expert keeps more than T. The fullest of the ep ranks is timed (the schema of the tables, routing
    distributions). What rounding and the cap leave over, most of all rows where these are few, goes where the
    benchmark's revision sends it [ai-dynamo/aiconfigurator, collector/helper.py].
    """
    slots = np.fmax(batch.number("num_experts"), batch.rows.number("num_slots"))
    columns = (batch.number("num_tokens"), batch.number("topk"), slots, batch.number("ep_size"), _exponents(batch))
    distinct, which = np.unique(np.stack(columns, axis=1), axis=0, return_inverse=True)
    framework = batch.text("framework")
    loads = np.array([_fullest(framework, *shape) for shape in distinct.tolist()])
    rows, active, deviation = loads[which.ravel()].T
    return rows, active, deviation


def _exponents(batch: RowGroup) -> Array:
    """Return the exponent of the power law, zero where experts are loaded equally."""
    names = batch.rows.text("distribution")
    unknown = [name for name in np.unique(names) if not name.startswith(_POWER_LAW) and name not in _BALANCED]
    if unknown:
        raise Unmapped(f"routing distribution {unknown[0]} is unknown")
    even = (name in _BALANCED or name.endswith(_REPLICATED) for name in names)  # replicated experts even ranks
    exponents = (0.0 if flat else float(name.removeprefix(_POWER_LAW)) for name, flat in zip(names, even, strict=True))
    return np.fromiter(exponents, dtype=np.float64)


def _fullest(
    framework: str, tokens: float, choices: float, experts: float, ranks: float, exponent: float
) -> tuple[float, float, float]:
    """Return the fullest rank's rows, its experts with rows, and the standard deviation of these experts' rows [-]."""
    local = experts / ranks
    if local != int(local):
        raise Unmapped("the experts do not divide over the ranks")
    total = tokens * choices
    if not exponent:
        rows = max(total / ranks, 1.0)
        return rows, min(local, rows), 0.0
    loads = _loads(framework, tokens, total, int(experts), int(ranks), exponent).reshape(_DRAWS, int(ranks), int(local))
    heaviest = loads[np.arange(_DRAWS), loads.sum(axis=2).argmax(axis=1)]
    rows = max(float(heaviest.sum(axis=1).mean()), 1.0)
    active = max(float((heaviest > 0).sum(axis=1).mean()), 1.0)
    squares = float((heaviest**2).sum(axis=1).mean())
    return rows, active, max(squares / active - (rows / active) ** 2, 0.0) ** 0.5


def _loads(framework: str, tokens: float, total: float, experts: int, ranks: int, exponent: float) -> Array:
    """Return rows of every expert, one line a draw.

    Inverse of the law's distribution function: x = (u*(b^(1-a) - c^(1-a)) + c^(1-a))^(1/(1-a)) on [c, b].
    """
    low, high = (1.0, max(0.8 * tokens, 1.0)) if total > experts else (0.01, 2.0)
    power = 1.0 - exponent
    uniform = np.random.default_rng([_SEED, experts]).random((_DRAWS, experts))
    weights = (uniform * (high**power - low**power) + low**power) ** (1.0 / power)
    loads = np.rint(total * weights / weights.sum(axis=1, keepdims=True))
    if framework.startswith(_TO_FULLEST):
        # what is missing goes to the fullest first, one each
        order = np.argsort(np.argsort(-loads, axis=1, kind="stable"), axis=1, kind="stable")
        missing = np.maximum(total - loads.sum(axis=1, keepdims=True), 0.0)
        whole, rest = np.divmod(missing, loads.shape[1])
        loads = np.asarray(loads + whole + (order < rest), dtype=np.float64)
    loads = np.minimum(loads, tokens)
    shape = (_DRAWS, 1 if framework.startswith((*_TO_FULLEST, *_TO_EMPTIEST)) else ranks, -1)
    return _levelled(loads.reshape(shape), total, tokens).reshape(_DRAWS, experts)


def _levelled(loads: Array, total: float, most: float) -> Array:
    """Return loads [draws, ranks, experts] that sum to `total` a draw, none above `most`.

    Ranks take turns to give one more row to their emptiest expert, or one less to their fullest.
    """
    missing = total - loads.sum(axis=(1, 2))
    for _ in range(4):  # ranks that are full leave their turns to the others
        more, less = (_turns(loads, np.maximum(sign * missing, 0.0)) for sign in (1.0, -1.0))
        loads = -_filled(-_filled(loads, more, most), less, 0.0)
        missing = total - loads.sum(axis=(1, 2))
    return loads


def _turns(loads: Array, count: Array) -> Array:
    """Return how many of `count` turns of a draw each rank has [draws, ranks]."""
    ranks = loads.shape[1]
    return np.asarray(count[:, None] // ranks + (np.arange(ranks) < (count % ranks)[:, None]), dtype=np.float64)


def _filled(loads: Array, more: Array, most: float) -> Array:
    """Return loads [draws, ranks, experts] with `more` rows [draws, ranks], each to the emptiest, none above `most`."""
    if not more.any():
        return loads
    low, high = loads.min(axis=2), np.minimum(loads.min(axis=2) + more, most)
    for _ in range(40):  # bisection: the highest whole level that the rows fill
        middle = np.ceil((low + high) / 2)
        fits = np.maximum(middle[:, :, None] - loads, 0.0).sum(axis=2) <= more
        low, high = np.where(fits, middle, low), np.where(fits, high, middle - 1)
        if (low >= high).all():
            break
    raised = np.maximum(loads, low[:, :, None])
    rest = more - (raised - loads).sum(axis=2)
    below_most = (raised == low[:, :, None]) & (raised < most)
    return np.asarray(raised + (below_most & (np.cumsum(below_most, axis=2) <= rest[:, :, None])), dtype=np.float64)
