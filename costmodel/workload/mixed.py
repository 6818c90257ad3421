"""Two kinds of work in one pass: linear layers take the rows of both, each attention core keeps its own kernel.

So a step of continuous batching runs prompts and decoding requests together [Orca, Yu et al., OSDI 2022, "selective
batching"; Sarathi-Serve, Agrawal et al., arXiv 2403.02310, section 4].
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields, is_dataclass, replace
from typing import Any

import numpy as np

from costmodel.workload.layers import ModelWork
from costmodel.workload.operators import AttentionCore, Collective, Elementwise, Exchange, Gemm, Operator
from costmodel.workload.work import Work

ROWS = ("gemm", "grouped_gemm")  # products of rows with a weight, which more rows share


def merged_model(first: ModelWork, second: ModelWork) -> ModelWork:
    """Return the work of a pass that does both, layer by layer."""
    layers = tuple(merged(*pair) for pair in zip(first.layers, second.layers, strict=True))
    return ModelWork(merged(first.embedding, second.embedding), layers, merged(first.head, second.head), None)


def merged(first: Work, second: Work) -> Work:
    """Return one layer's forward pass over the rows of both, in the order of the first.

    Operators of one name are one kernel, or one message, with the rows of both: products by m, streams and collectives
    by bytes, exchanges by tokens. Attention cores, and what only one of the two has, stay apart.
    """
    rest = list(second.forward)
    together: list[Operator] = []
    for operator in first.forward:
        at = next((place for place, other in enumerate(rest) if _shares(operator, other)), None)
        if at is None:
            together.append(operator)
            continue
        together.extend(rest[:at])
        together.append(_joined(operator, rest[at]))
        del rest[: at + 1]
    return replace(first, forward=(*together, *rest), input_gradient=(), weight_gradient=(), saved=())


def _shares(operator: Operator, other: Operator) -> bool:
    """Tell whether two operators of a layer run as one."""
    if operator.name != other.name or type(operator) is not type(other) or isinstance(operator, AttentionCore):
        return False
    return not isinstance(operator, Gemm) or operator.family in ROWS


def _joined(operator: Operator, other: Any) -> Operator:
    """Return one operator with the rows, bytes or tokens of two."""
    if isinstance(operator, Gemm):
        return replace(operator, m=operator.m + other.m)
    if isinstance(operator, Elementwise):
        return replace(operator, traffic=operator.traffic + other.traffic)
    if isinstance(operator, Collective):
        return replace(operator, size=operator.size + other.size)
    assert isinstance(operator, Exchange)
    return replace(operator, tokens=operator.tokens + other.tokens)


def labelled(work: Work, label: str) -> Work:
    """Return the work with operators called `LABEL: NAME`; without a label as it is."""
    if not label:
        return work
    return replace(work, forward=tuple(replace(each, name=f"{label}: {each.name}") for each in work.forward))


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
