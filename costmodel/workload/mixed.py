"""Two kinds of work in one pass: linear layers take the rows of both, attention cores stay apart or share a kernel.

So a step of continuous batching runs prompts and decoding requests together [Orca, Yu et al., OSDI 2022, "selective
batching"; Sarathi-Serve, Agrawal et al., arXiv 2403.02310, section 4]. Engines whose attention kernel takes sequences
of any length give it both at once; they name it as the implementation of `attention_mixed`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeAlias, TypeVar

import numpy as np

from costmodel.quantities import is_single, maximum
from costmodel.workload.context import Context
from costmodel.workload.layers import ModelWork
from costmodel.workload.operators import (
    GEMM_FAMILIES,
    WEIGHT_ONLY,
    AttentionKernel,
    Collective,
    Elementwise,
    ExpertAllToAll,
    Gemm,
    HostGemm,
    HostTime,
    HostTransfer,
    MixedAttention,
    Operator,
)
from costmodel.workload.work import LayerWork

ROWS = WEIGHT_ONLY.union(GEMM_FAMILIES)  # products of rows with a weight, which more rows share
_Rows = TypeVar("_Rows", bound=Operator)


def fuses_mixed_attention(context: Context) -> bool:
    """Tell whether one attention kernel takes prompts and decoding requests together.

    Not where context-parallel ranks share sequences: they split prompts by queries and decoding requests by keys.
    """
    alone = is_single(context.parallel.cp) and context.parallel.cp == 1
    return alone and "attention_mixed" in context.framework.implementations


def merge_models(first: ModelWork, second: ModelWork, *, one_core: bool = False) -> ModelWork:
    """Return the work of a pass that does both, layer by layer. one_core: their attention cores are one kernel."""
    layers = tuple(merge_layers(*pair, one_core=one_core) for pair in zip(first.layers, second.layers, strict=True))
    return ModelWork(
        merge_layers(first.embedding, second.embedding), layers, merge_layers(first.head, second.head), None
    )


def merge_layers(first: LayerWork, second: LayerWork, *, one_core: bool = False) -> LayerWork:
    """Return one layer's forward pass over the rows of both, in the order of the first.

    Operators of one name are one kernel, or one message, with the rows of both: products by m, streams by bytes
    and rows, collectives and copies by bytes, exchanges by tokens. What only one of the two has stays apart, and so do
    attention cores, unless there is `one_core` for both: a kernel of two populations.
    """
    forward, beside = _joined_in_order(_placed(first), _placed(second), one_core=one_core)
    return replace(
        first,
        forward=forward,
        input_gradient=(),
        weight_gradient=(),
        saved=(),
        receive_buffers=maximum(first.receive_buffers, second.receive_buffers),
        beside_host=beside,
        host_transfers=tuple(_joined(*pair) for pair in zip(first.host_transfers, second.host_transfers, strict=True)),
    )


_Placed: TypeAlias = "tuple[Operator, bool]"  # an operator; whether it runs beside the host's work before it


def _placed(work: LayerWork) -> list[_Placed]:
    return [(operator, at in work.beside_host) for at, operator in enumerate(work.forward)]


def _joined_in_order(
    first: Iterable[_Placed], rest: list[_Placed], *, one_core: bool
) -> tuple[tuple[Operator, ...], frozenset[int]]:
    """Return the operators of both, and the positions of those beside the host's work."""
    together: list[_Placed] = []
    for operator, beside in first:
        at = next((place for place, (other, _) in enumerate(rest) if _shares(operator, other, one_core=one_core)), None)
        if at is None:
            together.append((operator, beside))
            continue
        together.extend(rest[:at])
        together.append((_one(operator, rest[at][0]), beside))
        del rest[: at + 1]
    together.extend(rest)
    return tuple(operator for operator, _ in together), frozenset(at for at, (_, on) in enumerate(together) if on)


def _shares(operator: Operator, other: Operator, *, one_core: bool) -> bool:
    """Tell whether two operators of a layer run as one."""
    if operator.name != other.name or type(operator) is not type(other):
        return False
    if isinstance(operator, AttentionKernel):
        families = {operator.family, other.family}
        return one_core and families == {"attention_prefill", "attention_decode"}
    return not isinstance(operator, Gemm) or operator.family in ROWS


def _one(operator: Operator, other: Operator) -> Operator:
    """Return one operator that does the work of two; of attention cores, the chunk of a prompt stands first."""
    if isinstance(operator, AttentionKernel) and isinstance(other, AttentionKernel):
        decodes = operator.family == "attention_decode"
        return MixedAttention(operator.name, (other, operator) if decodes else (operator, other))
    return _joined(operator, other)


def _joined(operator: _Rows, other: Any) -> _Rows:
    """Return one operator with the rows, bytes or tokens of two."""
    if isinstance(operator, Gemm):
        return replace(operator, m=operator.m + other.m)
    if isinstance(operator, Elementwise):
        return replace(operator, traffic=operator.traffic + other.traffic, rows=operator.rows + other.rows)
    if isinstance(operator, Collective):
        return replace(operator, size=operator.size + other.size)
    if isinstance(operator, HostTransfer):
        # Weights that are copied once serve the rows of both.
        return operator if operator.per_pass else replace(operator, size=operator.size + other.size)
    if isinstance(operator, HostTime):
        return replace(operator, sequences=operator.sequences + other.sequences)
    if isinstance(operator, HostGemm):
        return replace(operator, gemm=_joined(operator.gemm, other.gemm))
    assert isinstance(operator, ExpertAllToAll)
    return replace(operator, tokens=operator.tokens + other.tokens)


def label_operators(work: LayerWork, label: str) -> LayerWork:
    """Return the work with operators called `LABEL: NAME`; without a label as it is."""
    if not label:
        return work

    def named(operators: Iterable[_Rows]) -> tuple[_Rows, ...]:
        return tuple(replace(each, name=f"{label}: {each.name}") for each in operators)

    return replace(work, forward=named(work.forward), host_transfers=named(work.host_transfers))


def reuse_operators(work: LayerWork, known: Iterable[Operator]) -> LayerWork:
    """Return the work with operators that equal known ones replaced by those, so that they are priced once."""
    by_name: dict[str, list[Operator]] = {}
    for operator in known:
        by_name.setdefault(operator.name, []).append(operator)
    return replace(
        work,
        forward=tuple(
            next((other for other in by_name.get(each.name, ()) if _equal(each, other)), each) for each in work.forward
        ),
    )


def _equal(one: Any, other: Any) -> bool:
    """Tell whether two values, or all fields of two operators, are the same at every point."""
    if one is other:
        return True
    if type(one) is not type(other):
        return False
    if isinstance(one, np.ndarray):
        return np.array_equal(one, other)
    if is_dataclass(one):
        return all(_equal(getattr(one, part.name), getattr(other, part.name)) for part in fields(one))
    return bool(one == other)
