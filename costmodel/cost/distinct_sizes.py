"""A kernel over a grid of sizes as one over the sizes that differ: many points of a grid ask for the same kernel."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar

import numpy as np

from costmodel.cost.time import Time
from costmodel.quantities import Array, Indices, Quantity, distinct_rows
from costmodel.records import Record, fields, is_record, replace
from costmodel.workload.operators import Operator

MANY = 4096  # sizes from which on it pays to look for equal ones, and of those how many are looked at first
WORTH = 0.9  # share of different ones among these up to which the others are looked at
Kernel = TypeVar("Kernel", bound=Operator)


class DistinctSizes(Record):
    """The sizes of a kernel that differ, along one axis.

    inverse: of each point among them.
    first: point that has each of them.
    shape: of the grid.
    """

    inverse: Indices
    first: Indices
    shape: tuple[int, ...]

    @classmethod
    def of(cls, operator: Operator) -> DistinctSizes | None:
        """Return the distinct sizes of a kernel. Null where it has few sizes, or most of them differ."""
        varied = [value for _, value in _varied(operator)]
        if not varied:
            return None
        shape = np.broadcast_shapes(*(value.shape for value in varied))
        points = int(np.prod(shape))
        if points < MANY:
            return None
        columns = [np.broadcast_to(value, shape).reshape(-1) for value in sorted(varied, key=np.size, reverse=True)]
        looked_at = slice(None, None, max(points // MANY, 1))
        some = [column[looked_at] for column in columns]
        most = WORTH * len(some[0])
        if len(np.unique(some[0])) > most or len(distinct_rows(some)[0]) > most:
            return None
        first, inverse = distinct_rows(columns)
        return cls(inverse, first, shape) if len(first) < WORTH * points else None

    def reduced(self, operator: Kernel) -> Kernel:
        """Return the kernel at the distinct sizes."""
        changed: dict[str, Any] = {
            name: np.broadcast_to(value, self.shape).reshape(-1)[self.first] for name, value in _varied(operator)
        }
        return replace(operator, **changed)

    def over_grid(self, time: Time) -> Time:
        """Return a time of the distinct sizes at all points of the grid."""
        parts = (time.seconds, time.compute, time.memory, time.network, time.fixed, time.beyond)
        return Time(*(self._spread(part) for part in parts))

    def _spread(self, value: Quantity) -> Quantity:
        return value[self.inverse].reshape(self.shape) if isinstance(value, np.ndarray) else value


def _varied(operator: Operator) -> Iterator[tuple[str, Array]]:
    """Yield the fields of a kernel that differ over the grid."""
    for name in fields(operator):
        value = getattr(operator, name)
        if isinstance(value, np.ndarray) and value.size > 1:
            yield name, value


def grid_shape(whole: Any) -> tuple[int, ...]:
    """Return the shape of the grid that the arrays of a record span; empty where it has none."""
    if isinstance(whole, np.ndarray):
        return tuple(whole.shape)
    if is_record(whole):
        return _spanned(getattr(whole, name) for name in fields(whole))
    if isinstance(whole, Mapping):
        return _spanned(whole.values())
    return _spanned(whole) if isinstance(whole, tuple | list) else ()


def _spanned(parts: Iterable[Any]) -> tuple[int, ...]:
    """Return the shape that the arrays of some parts span together."""
    shapes = [shape for part in parts if (shape := grid_shape(part))]
    return np.broadcast_shapes(*shapes) if shapes else ()
