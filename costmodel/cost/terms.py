"""The terms of a form's equation by name: what its time is computed from, and what `explain` prints."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np

from costmodel.quantities import Quantity, is_single, maximum, power, sum_of

Terms: TypeAlias = "dict[str, Quantity]"  # the ending of a name says its unit
SHORTEST = 1e-12  # of times that are divided by, or whose logarithm is taken [s]
_DIMENSIONS = {"time": "time", "latency": "time", "bytes": "size", "bandwidth": "bandwidth", "flop": "flop"}

_TIMES = ("t", "launch", "shortest", "ttft", "tpot", "layer", "all_to_all")


def dimension_of(term: str) -> str:
    """Return the dimension of a term: that of the last word of its name, else a count."""
    return "time" if term in _TIMES else _DIMENSIONS.get(term.rpartition("_")[2], "count")


def term_at(terms: Terms, index: int) -> Terms:
    """Return the terms of one of several candidates, which stand on the only axis."""
    return {name: float(value[index] if isinstance(value, np.ndarray) else value) for name, value in terms.items()}


def p_norm(p: float, *times: Any) -> Any:
    """Return the p-norm of times that overlap: near the largest, more where several are as long, zero where all are."""
    largest = maximum(times[0], *times[1:])
    scale = maximum(largest, SHORTEST)
    total = sum_of(power(time / scale, p) for time in times)
    return largest * power(total, 1.0 / p)


def p_norm_below(p: float, bound: Any, *times: Any) -> Any:
    """Return the p-norm of times where it may be below a bound. Elsewhere the largest of them, which is not.

    The minimum of it and the bound is that of the p-norm and the bound: a p-norm is at least the largest time. Powers
    take most of the time of a large grid, and few of many candidates come near the fastest at a point.
    """
    if is_single(bound):
        return p_norm(p, *times)
    largest = maximum(times[0], *times[1:])
    shape = np.broadcast_shapes(np.shape(largest), np.shape(bound))
    near = np.flatnonzero(np.broadcast_to(largest < bound, shape))
    if not len(near):
        return largest
    chosen = [np.broadcast_to(time, shape).reshape(-1)[near] for time in times]
    result = np.array(np.broadcast_to(largest, shape), dtype=np.float64)
    result.reshape(-1)[near] = p_norm(p, *chosen)
    return result
