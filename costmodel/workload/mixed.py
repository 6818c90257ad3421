"""Two kinds of work in one pass: linear layers take the rows of both, each attention core keeps its own kernel.

So a step of continuous batching runs prompts and decoding requests together [Orca, Yu et al., OSDI 2022, "selective
batching"; Sarathi-Serve, Agrawal et al., arXiv 2403.02310, section 4].
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeAlias, TypeVar

import numpy as np

from costmodel.workload.layers import ModelWork
from costmodel.workload.operators import (
    PRODUCTS,
    WEIGHT_ONLY,
    AttentionCore,
    Collective,
    Elementwise,
    Exchange,
    Gemm,
    HostProduct,
    HostTransfer,
    Operator,
)
from costmodel.workload.work import Work

ROWS = WEIGHT_ONLY.union(PRODUCTS)  # products of rows with a weight, which more rows share
_Rows = TypeVar("_Rows", bound=Operator)


def merged_model(first: ModelWork, second: ModelWork) -> ModelWork:
    """Return the work of a pass that does both, layer by layer."""
    layers = tuple(merged(*pair) for pair in zip(first.layers, second.layers, strict=True))
    return ModelWork(merged(first.embedding, second.embedding), layers, merged(first.head, second.head), None)


def merged(first: Work, second: Work) -> Work:
    """Return one layer's forward pass over the rows of both, in the order of the first.

    Operators of one name are one kernel, or one message, with the rows of both: products by m, streams, collectives and
    copies by bytes, exchanges by tokens. Attention cores, and what only one of the two has, stay apart.
    """
    forward, beside = _joined_in_order(_placed(first), _placed(second))
    return replace(
        first,
        forward=forward,
        input_gradient=(),
        weight_gradient=(),
        saved=(),
        beside=beside,
        copies=tuple(_joined(*pair) for pair in zip(first.copies, second.copies, strict=True)),
    )


_Placed: TypeAlias = "tuple[Operator, bool]"  # an operator; whether it runs beside the host's work before it


def _placed(work: Work) -> list[_Placed]:
    return [(operator, at in work.beside) for at, operator in enumerate(work.forward)]


def _joined_in_order(first: Iterable[_Placed], rest: list[_Placed]) -> tuple[tuple[Operator, ...], frozenset[int]]:
    """Return the operators of both, and the positions of those beside the host's work."""
    together: list[_Placed] = []
    for operator, beside in first:
        at = next((place for place, (other, _) in enumerate(rest) if _shares(operator, other)), None)
        if at is None:
            together.append((operator, beside))
            continue
        together.extend(rest[:at])
        together.append((_joined(operator, rest[at][0]), beside))
        del rest[: at + 1]
    together.extend(rest)
    return tuple(operator for operator, _ in together), frozenset(at for at, (_, on) in enumerate(together) if on)


def _shares(operator: Operator, other: Operator) -> bool:
    """Tell whether two operators of a layer run as one."""
    if operator.name != other.name or type(operator) is not type(other) or isinstance(operator, AttentionCore):
        return False
    return not isinstance(operator, Gemm) or operator.family in ROWS


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
        return operator if operator.once else replace(operator, size=operator.size + other.size)
    if isinstance(operator, HostProduct):
        return replace(operator, product=_joined(operator.product, other.product))
    assert isinstance(operator, Exchange)
    return replace(operator, tokens=operator.tokens + other.tokens)


def labelled(work: Work, label: str) -> Work:
    """Return the work with operators called `LABEL: NAME`; without a label as it is."""
    if not label:
        return work

    def named(operators: Iterable[_Rows]) -> tuple[_Rows, ...]:
        return tuple(replace(each, name=f"{label}: {each.name}") for each in operators)

    return replace(work, forward=named(work.forward), copies=named(work.copies))


def sharing(work: Work, known: Iterable[Operator]) -> Work:
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
