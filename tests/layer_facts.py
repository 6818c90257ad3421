"""What tests ask of the work of a layer."""

from __future__ import annotations

from collections.abc import Iterable

from costmodel.workload.operators import Elementwise, Gemm, Operator
from costmodel.workload.work import LayerWork


def kept(work: LayerWork) -> float:
    """Return the bytes that a layer keeps for its backward pass."""
    return float(sum(item.size for item in work.saved))


def named(operators: Iterable[Operator], name: str) -> Operator:
    """Return the operator of a name."""
    return next(item for item in operators if item.name == name)


def traffic(operator: Operator) -> float:
    """Return the bytes that an operator moves."""
    assert isinstance(operator, Elementwise | Gemm)
    return float(operator.traffic)
