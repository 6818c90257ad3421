"""From rows of measurement tables to the operators that the package prices, columns as arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import numpy.typing as npt

from costmodel.measurements import attention_rows as cores
from costmodel.measurements import collective_rows as messages
from costmodel.measurements import elementwise_rows as streams
from costmodel.measurements import gemm_rows as products
from costmodel.measurements import mixer_rows as mixers
from costmodel.measurements import module_rows as modules
from costmodel.measurements.row_group import BlankCells, Catalogue, ExcludedRows, OperatorRows, RowGroup, Unmapped
from costmodel.measurements.screening import context, contradictory, impossible, repeated
from costmodel.measurements.tables import Table, waited
from costmodel.quantities import Indices
from costmodel.records import ValueRecord, replace
from costmodel.workload.operators import WEIGHT_ONLY, Operator


class _Rule(ValueRecord):
    """How an operation is mapped: the family that it counts under, and what makes its operators."""

    family: str
    operators: Callable[[RowGroup], list[Operator]]


_COLLECTIVES = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all")
_EXCHANGES = ("moe_dispatch", "moe_combine")
_SCANS = ("linear_attention_decode", "linear_attention_verify")
_BY_OPERATOR = (
    "attention_prefill", "attention_mixed", "sparse_mla_prefill", "mqa_logits", "linear_attention_prefill", *_SCANS,
)  # fmt: skip
_ONE_BY_ONE = ("attention_prefill", "sparse_mla_prefill")  # operations whose single queries are decoding steps
_COMMUNICATION = frozenset((*_COLLECTIVES, "send_recv", *_EXCHANGES))
_RULES = {
    "gemm": _Rule("gemm", products.gemm),
    "gemm_wgrad": _Rule("gemm", products.gemm),
    "bmm": _Rule("bmm", products.batched),
    "grouped_gemm": _Rule("grouped_gemm", products.grouped),
    "moe_layer": _Rule("grouped_gemm", products.expert_layer),
    "attention_prefill": _Rule("attention_prefill", cores.attention),
    "attention_decode": _Rule("attention_decode", cores.attention),
    "attention_mixed": _Rule("attention_mixed", cores.mixed),
    "attention_decode_skewed": _Rule("attention_decode_skewed", cores.skewed),
    "attention_backward": _Rule("attention_backward", cores.backward),
    "mla_prefill": _Rule("mla_prefill", cores.latent_prefill),
    "mla_decode": _Rule("mla_decode", cores.latent_decode),
    "sparse_mla_prefill": _Rule("sparse_mla_prefill", cores.sparse_latent),
    "sparse_mla_decode": _Rule("sparse_mla_decode", cores.sparse_latent),
    "mqa_logits": _Rule("mqa_logits", cores.index_logits),
    "paged_mqa_logits": _Rule("paged_mqa_logits", cores.index_logits),
    **dict.fromkeys(_SCANS, _Rule("linear_attention_decode", mixers.recurrence)),
    "linear_attention_prefill": _Rule("linear_attention_prefill", mixers.recurrence),
    "topk_select": _Rule("elementwise", mixers.selection),
    "hyper_connection": _Rule("elementwise", mixers.hyper_connection),
    "elementwise": _Rule("elementwise", streams.elementwise),
    "quantize": _Rule("elementwise", streams.quantisation),
    **dict.fromkeys(_COLLECTIVES, _Rule("collective", messages.collective)),
    "send_recv": _Rule("send_recv", messages.collective),
    **{name: _Rule(name, messages.expert_all_to_all) for name in _EXCHANGES},
    **{name: _Rule(name, modules.module) for name in modules.MODULES},
}
_HOST_FLAGS = ("host_overhead_included", "coarse_timer_3_samples")
_WARM = ("cuda_graph_loop",)  # the tables' schema: few copies of the weights take turns, activations stay
_GROUPED_BY = (
    "device", "op", "sub_op", "dtype_in", "dtype_out", "kv_dtype", "causal", "includes", "gated", "score_mode",
    "meta_id", "framework", "kernel", "timing", "notes",
)  # fmt: skip

OPERATIONS = tuple(_RULES)
"""Operations of measurement tables that have a model."""


def map_rows(table: Table, catalogue: Catalogue) -> tuple[list[OperatorRows], list[ExcludedRows]]:
    """Return the rows of a table with their operators, and the rows that are left out with the reason.

    Left out: rows without a time. Those whose time is the host's or a coarse timer's (such a flag in the secondary
    tier, into which the tables put it where it dominates). Kernels that waited for the host. Decoding of sequences that
    share one set of cached pages beyond what such rows say about memory (flag shared_kv_pages, secondary). Rows that
    repeat another one. Rows that their device cannot run as fast. Whatever `map_all` leaves out.
    """
    left_out: list[ExcludedRows] = []
    usable = np.ones(len(table), dtype=bool)
    for reason, mask in _unusable(table):
        left_out += by_operation(table, reason, np.flatnonzero(mask & usable))
        usable &= ~mask
    twice = {row: first for row, first in repeated(table).items() if usable[row]}
    left_out += by_operation(table, "the row stands twice", np.array(list(twice), dtype=np.intp), twice)
    usable[list(twice)] = False
    mapped, unmapped = map_all(table, catalogue, np.flatnonzero(usable))
    for reason, rows in impossible(mapped, table):
        left_out += by_operation(table, reason, rows[usable[rows]])
        usable[rows] = False
    if usable.sum() < sum(len(part.rows) for part in mapped) + sum(len(one.rows) for one in unmapped):
        mapped, unmapped = map_all(table, catalogue, np.flatnonzero(usable))
    return mapped, [*left_out, *unmapped]


def map_all(
    table: Table, catalogue: Catalogue, rows_of_interest: Indices | None = None
) -> tuple[list[OperatorRows], list[ExcludedRows]]:
    """Return rows (default: all) with their operators, measured or not, and those that are left out.

    Left out: rows whose sizes exclude each other. Those that lack a size. Those for which a rule raises Unmapped.
    """
    mapped: list[OperatorRows] = []
    left_out: list[ExcludedRows] = []
    kept = np.arange(len(table)) if rows_of_interest is None else rows_of_interest
    for reason, mask in contradictory(table):
        left_out += by_operation(table, reason, kept[mask[kept]])
        kept = kept[~mask[kept]]
    for _, places in table.take(kept).groups(*_GROUPED_BY):
        for part in _same_layout(table, kept[places]):
            rows = part
            while len(rows):
                operation = str(table.text("op")[rows[0]])
                try:
                    mapped.append(_map(table, rows, catalogue))
                    break
                except BlankCells as blank:
                    lacking = rows[blank.rows]
                    left_out.append(ExcludedRows(operation, _needed(table, lacking, catalogue), lacking))
                    rows = rows[~blank.rows]
                except Unmapped as why:
                    left_out.append(ExcludedRows(operation, str(why), rows))
                    break
    return mapped, left_out


def _needed(table: Table, rows: Indices, catalogue: Catalogue) -> str:
    """Return which columns the operation of rows needs and some of them lack, all at once: each is filled to see on."""
    part, columns = table.take(rows), []
    while True:
        try:
            _map(part, np.arange(len(rows)), catalogue)
        except BlankCells as blank:
            columns.append(blank.column)
            part = part.filled(blank.column, 1.0)
            continue
        except Unmapped:
            pass
        names = ", ".join(f"`{name}`" for name in columns)
        return f"{names} {'is' if len(columns) == 1 else 'are'} empty, which the operation needs"


def by_operation(
    table: Table, reason: str, rows: Indices, repeats: Mapping[int, int] | None = None
) -> Iterator[ExcludedRows]:
    """Yield rows that are left out for one reason, operation by operation."""
    operations = table.text("op")[rows]
    for name in np.unique(operations.astype(str)):
        yield ExcludedRows(str(name), reason, rows[operations == name], repeats or {})


def _unusable(table: Table) -> Iterator[tuple[str, npt.NDArray[np.bool_]]]:
    """Yield the reasons for which rows are no measurement of a kernel, with a mask of the rows."""
    secondary = context(table)
    yield "no time was published, only a rate", np.isnan(table.seconds)
    yield "the time is the host's or a coarse timer's", table.marked(*_HOST_FLAGS) & secondary
    messages = np.isin(table.text("op").astype(str), list(_COMMUNICATION))
    yield "the device waited for the host, and no time in a graph is stated", waited(table) & ~messages
    yield "all sequences share one set of cached pages", table.marked("shared_kv_pages") & secondary


def _same_layout(table: Table, rows: Indices) -> Iterator[Indices]:
    """Yield rows that share the numbers which fix a structure: those of ranks, nodes and choices in communication."""
    operation = str(table.text("op")[rows[0]])
    if operation in _ONE_BY_ONE:
        single = table.number("q_len")[rows] == 1
        yield from (part for part in (rows[single], rows[~single]) if len(part))
        return
    if operation == "moe_layer":
        stated = np.isfinite(table.number("m")[rows])
        yield from (part for part in (rows[stated], rows[~stated]) if len(part))
        return
    if operation in modules.MODULES:
        yield from (rows[places] for _, places in table.take(rows).groups(*modules.DIFFER_BY))
        return
    if operation not in _COMMUNICATION:
        yield rows
        return
    layout = np.stack([np.nan_to_num(table.number(name)[rows]) for name in ("world_size", "gpus_per_node", "topk")])
    for one in np.unique(layout, axis=1).T:
        yield rows[(layout == one[:, None]).all(axis=0)]


def _map(table: Table, rows: Indices, catalogue: Catalogue) -> OperatorRows:
    operation = str(table.text("op")[rows[0]])
    rule = _RULES.get(operation)
    if rule is None:
        raise Unmapped("the package has no such operator")
    device = catalogue.device(str(table.text("device")[rows[0]]))
    batch = RowGroup(table.take(rows), device, catalogue)
    operators = tuple(rule.operators(batch))
    # Modes of an exchange and kernels that expand weights are families of their own, as is a prefill of single tokens;
    # rows of recurrences hold a convolution or a scan.
    own = operation in _EXCHANGES or operation in _BY_OPERATOR
    first = next((each for each in operators if each.family in WEIGHT_ONLY), operators[0])
    family = first.family if own or first.family in WEIGHT_ONLY else rule.family
    fused = len(operators) - 1 if batch.text("sub_op").endswith("_fused") else 0
    mapped = OperatorRows(family, rows, device, operators, fused, warm_l2=batch.text("timing") in _WARM)
    if operation in modules.MODULES:
        return replace(mapped, family=operation, program=batch.program)
    if operation in _COMMUNICATION:
        return replace(mapped, cluster=messages.cluster(batch), comm_processors=messages.comm_processors(batch))
    return mapped
