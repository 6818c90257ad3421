"""Prompts and decoding requests in one pass: linear layers take the rows of both, attention kernels stay separate.

A step of continuous batching runs both together [Orca, Yu et al., OSDI 2022, "selective batching"; Sarathi-Serve,
Agrawal et al., arXiv 2403.02310, section 4]. Engines whose attention kernel takes sequences of any length run both in
one kernel. They name it as the implementation of `attention_mixed`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeAlias, TypeVar

import numpy as np

from costmodel.quantities import is_single, maximum
from costmodel.records import fields, is_record, replace
from costmodel.workload import operators as ops
from costmodel.workload.context import Context
from costmodel.workload.layers import ModelWork
from costmodel.workload.work import LayerWork

_LINEAR = ops.WEIGHT_ONLY.union(ops.GEMM_FAMILIES)  # GEMMs of rows with a weight, which more rows share
_OperatorT = TypeVar("_OperatorT", bound=ops.Operator)
_Step: TypeAlias = "tuple[ops.Operator, bool]"  # an operator; whether it overlaps the host work before it


def fuses_mixed_attention(context: Context) -> bool:
    """Tell whether one attention kernel takes prompts and decoding requests together.

    Context-parallel ranks split prompts by queries and decoding requests by keys, so they use two.
    """
    one_rank = is_single(context.parallel.cp) and context.parallel.cp == 1
    return one_rank and "attention_mixed" in context.framework.implementations


def merge_models(first: ModelWork, second: ModelWork, *, fuse_attention: bool = False) -> ModelWork:
    """Return the work of a pass that does both, layer by layer."""
    layers = tuple(
        merge_layers(*pair, fuse_attention=fuse_attention) for pair in zip(first.layers, second.layers, strict=True)
    )
    embedding, head = merge_layers(first.embedding, second.embedding), merge_layers(first.head, second.head)
    return ModelWork(embedding, layers, head, None)


def merge_layers(first: LayerWork, second: LayerWork, *, fuse_attention: bool = False) -> LayerWork:
    """Return one layer's forward pass over the rows of both, in the order of the first.

    Operators with one name become one kernel or message with the rows of both: GEMMs by m, element-wise kernels by
    bytes and rows, collectives and copies by bytes, all-to-alls by tokens. What only one of them has stays separate,
    and so do attention kernels unless `fuse_attention`.
    """
    steps = _merge_steps(_steps(first), _steps(second), fuse_attention=fuse_attention)
    return replace(
        first,
        forward=tuple(operator for operator, _ in steps),
        input_gradient=(),
        weight_gradient=(),
        saved=(),
        receive_buffers=maximum(first.receive_buffers, second.receive_buffers),
        beside_host=frozenset(i for i, (_, overlaps) in enumerate(steps) if overlaps),
        host_transfers=tuple(_add(*pair) for pair in zip(first.host_transfers, second.host_transfers, strict=True)),
    )


def _steps(work: LayerWork) -> list[_Step]:
    return [(operator, i in work.beside_host) for i, operator in enumerate(work.forward)]


def _merge_steps(first: Iterable[_Step], rest: list[_Step], *, fuse_attention: bool) -> list[_Step]:
    merged: list[_Step] = []
    for operator, overlaps in first:
        matches = (i for i, (other, _) in enumerate(rest) if _merges(operator, other, fuse_attention=fuse_attention))
        match = next(matches, None)
        if match is None:
            merged.append((operator, overlaps))
            continue
        merged.extend(rest[:match])
        merged.append((_merge(operator, rest[match][0]), overlaps))
        del rest[: match + 1]
    return [*merged, *rest]


def _merges(operator: ops.Operator, other: ops.Operator, *, fuse_attention: bool) -> bool:
    if operator.name != other.name or type(operator) is not type(other):
        return False
    if isinstance(operator, ops.AttentionKernel):
        return fuse_attention and {operator.family, other.family} == {"attention_prefill", "attention_decode"}
    return not isinstance(operator, ops.Gemm) or operator.family in _LINEAR


def _merge(operator: ops.Operator, other: ops.Operator) -> ops.Operator:
    """Return one operator that does the work of two. In a mixed attention kernel the prompt chunk comes first."""
    if isinstance(operator, ops.AttentionKernel) and isinstance(other, ops.AttentionKernel):
        decodes = operator.family == "attention_decode"
        return ops.MixedAttention(operator.name, (other, operator) if decodes else (operator, other))
    return _add(operator, other)


def _add(operator: _OperatorT, other: Any) -> _OperatorT:
    """Return one operator with the rows, bytes or tokens of two."""
    if isinstance(operator, ops.HostTransfer) and operator.per_pass:
        return operator  # weights that are copied once serve the rows of both
    if isinstance(operator, ops.HostGemm):
        return replace(operator, gemm=_add(operator.gemm, other.gemm))
    both = {name: getattr(operator, name) + getattr(other, name) for name in ops.KINDS[type(operator)].adds}
    if isinstance(operator, ops.Elementwise):
        both["calls"] = maximum(operator.calls, other.calls)
        both["in_place"] = None if operator.in_place is None else _add(operator.in_place, other.in_place)
    return replace(operator, **both) if both else operator


def label_operators(work: LayerWork, label: str) -> LayerWork:
    """Return the work with operators renamed to `LABEL: NAME`. Without a label unchanged."""
    if not label:
        return work

    def labelled(operators: Iterable[_OperatorT]) -> tuple[_OperatorT, ...]:
        return tuple(replace(operator, name=f"{label}: {operator.name}") for operator in operators)

    elsewhere = {f"{label}: {name}": stream for name, stream in work.elsewhere.items()}
    return replace(
        work, forward=labelled(work.forward), host_transfers=labelled(work.host_transfers), elsewhere=elsewhere
    )


def reuse_operators(work: LayerWork, known: Iterable[ops.Operator]) -> LayerWork:
    """Return the work with operators that equal known ones replaced by those, so that each is timed once."""
    by_name: dict[str, list[ops.Operator]] = {}
    for operator in known:
        by_name.setdefault(operator.name, []).append(operator)
    forward = (
        next((other for other in by_name.get(operator.name, ()) if _equal(operator, other)), operator)
        for operator in work.forward
    )
    return replace(work, forward=tuple(forward))


def _equal(value: Any, other: Any) -> bool:
    """Tell whether two values, or all fields of two operators, are the same at every point."""
    if value is other:
        return True
    if type(value) is not type(other):
        return False
    if isinstance(value, np.ndarray):
        return np.array_equal(value, other)
    if is_record(value):
        return all(_equal(getattr(value, name), getattr(other, name)) for name in fields(value))
    return bool(value == other)
