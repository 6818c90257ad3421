"""Operators that differ in numbers only as one operator, with a leading axis: a form is evaluated once for all."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from costmodel.cost.time import Time
from costmodel.records import Record, fields, replace
from costmodel.workload.operator_key import numbers
from costmodel.workload.operators import Operator

LARGEST = 4096  # numbers of an array that stays in the cache


class Stack(Record):
    """Operators of one `form_key`.

    whole: all of them.
    count: how many.
    axes: of the grid behind the leading one.
    """

    whole: Operator
    count: int
    axes: int

    @classmethod
    def of(cls, operators: Sequence[Operator], hardware: int) -> Stack | None:
        """Return the operators as one; null where each is timed by itself.

        Single sizes are: what is kept of them must not depend, to the last digit, on what else a pass times.
        hardware: axes of the grid that their machine spans. A number that all share stays a number.
        """
        if len(operators) < 2:
            return None
        first = numbers(operators[0])
        shape = np.broadcast_shapes(*(value.shape for value in first.values() if isinstance(value, np.ndarray)))
        axes, points = max(len(shape), hardware), math.prod(shape) * len(operators)
        if not axes or points > LARGEST:
            return None
        changed: dict[str, Any] = {}
        for name, one in first.items():
            values = [getattr(operator, name) for operator in operators]
            if isinstance(one, np.ndarray):
                if any(value is not one for value in values):
                    padded = (*(1,) * (axes - one.ndim), *one.shape)
                    changed[name] = np.stack([value.reshape(padded) for value in values])
            elif values.count(one) < len(values):
                changed[name] = np.array(values).reshape(-1, *(1,) * axes)
        return cls(replace(operators[0], **changed), len(operators), axes)

    def times(self, time: Time) -> list[Time]:
        """Return the time of each operator from that of all."""
        parts = zip(*(self.each(getattr(time, name)) for name in fields(Time)), strict=True)
        return [Time(*each) for each in parts]

    def each(self, value: Any) -> Sequence[Any]:
        """Return what each operator has of a number or array of all; a grid of one point is a number."""
        if not isinstance(value, np.ndarray) or value.ndim <= self.axes:
            return [value] * self.count
        return value.reshape(-1).tolist() if value.size == self.count else list(value)
