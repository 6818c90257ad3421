"""Measured rows of one family, as a fit sees them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from costmodel.cost.calibration import Calibration, FamilyFit, Form
from costmodel.cost.operator_time import likely_time
from costmodel.measurements.row_group import OperatorRows
from costmodel.network.group_links import require_group_links
from costmodel.quantities import Array, Indices, Quantity
from costmodel.records import Record, fields, replace
from costmodel.workload.operators import Collective, ExpertAllToAll, Operator
from costmodel.workload.scenario import Framework

Groups: TypeAlias = "npt.NDArray[np.object_]"  # of str: rows of one group are held out together
RowMask: TypeAlias = "npt.NDArray[np.bool_]"


class Samples(Record):
    """Measured rows of one family.

    key: `family/variant` that is fitted.
    parts: rows that share their structure, with their operators.
    seconds, groups: of all rows in the order of the parts.
    known: fits of the other operators in a row.
    framework: of launches.
    siblings: rows of the same kernels elsewhere, which the form explains as well but which are never predicted.
    """

    key: str
    parts: tuple[OperatorRows, ...]
    seconds: Array
    groups: Groups
    known: Calibration
    framework: Framework
    siblings: tuple[Samples, ...] = ()

    def __len__(self) -> int:
        return len(self.seconds)

    def take(self, mask: RowMask) -> Samples:
        """Return the rows where a mask holds."""
        parts, first = [], 0
        for part in self.parts:
            within = mask[first : first + len(part.rows)]
            first += len(part.rows)
            if within.any():
                parts.append(_taken(part, np.flatnonzero(within)))
        return replace(self, parts=tuple(parts), seconds=self.seconds[mask], groups=self.groups[mask])

    def targets(self) -> Iterator[tuple[OperatorRows, list[Operator], list[Operator]]]:
        """Yield (rows, operators that are fitted, others) of each part."""
        for part in self.parts:
            own = [operator for operator in part.operators if self.is_target(operator)]
            yield part, own, [operator for operator in part.operators if not self.is_target(operator)]

    def is_target(self, operator: Operator) -> bool:
        """Tell whether an operator is one of those that are fitted."""
        return self.key in (operator.family, f"{operator.family}/{operator.variant}")

    def has(self, key: str) -> bool:
        """Tell whether rows have an operator of a `family/variant`."""
        operators = (operator for part in self.parts for operator in part.operators)
        return any(f"{operator.family}/{operator.variant}" == key for operator in operators)

    def other_times(self, companion: Mapping[str, FamilyFit] | None = None) -> Array:
        """Return what the other operators of every row take [s]. companion: fits that come before those known."""
        first = companion or {}
        seconds = []
        for part, _, others in self.targets():
            machine = part.machine(self.framework)
            total: Any = 0.0
            for operator in others:
                fit = first.get(f"{operator.family}/{operator.variant}", self.known.fit(operator))
                total = total + likely_time(operator, machine, part.cluster, fit)
            seconds.append(np.broadcast_to(total, part.rows.shape))
        return np.concatenate(seconds)

    def form_times(self, form: Form, count: int) -> list[Array]:
        """Return the times of the first, second … fitted operator of every row [s], zero where a row has fewer."""
        columns: list[list[Array]] = [[] for _ in range(count)]
        for part, own, _ in self.targets():
            machine = part.machine(self.framework)
            for i in range(count):
                seconds = form.time(own[i], machine).seconds if i < len(own) else 0.0
                columns[i].append(np.broadcast_to(seconds, part.rows.shape))
        return [np.concatenate(column) for column in columns]

    def features(self, form: Form, count: int) -> list[Array]:
        """Return the features of the first, second … fitted operator of every row, shape (rows, axes)."""
        columns: list[list[Array]] = [[] for _ in range(count)]
        for part, own, _ in self.targets():
            for i in range(count):
                features = form.features(own[min(i, len(own) - 1)])
                shape = (len(features), len(part.rows))
                columns[i].append(np.stack([np.broadcast_to(value, shape[1:]) for value in features], axis=1))
        return [np.concatenate(column) for column in columns]

    def links(self, variable: str) -> Iterator[Quantity]:
        """Yield a number of the links of every fitted message's group."""
        for part, own, _ in self.targets():
            for operator in own:
                if isinstance(operator, Collective | ExpertAllToAll):
                    yield getattr(require_group_links(operator.group, part.cluster, operator.name), variable)

    @property
    def repeats(self) -> int:
        """Return how many operators of a row are fitted, at most."""
        return max(len(own) for _, own, _ in self.targets())


def _taken(part: OperatorRows, rows: Indices) -> OperatorRows:
    count = len(part.rows)

    def cut(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(map(cut_operator, value))
        return value[rows] if isinstance(value, np.ndarray) and value.shape == (count,) else value

    def cut_operator(operator: Any) -> Any:
        return replace(operator, **{name: cut(getattr(operator, name)) for name in fields(operator)})

    operators = tuple(map(cut_operator, part.operators))
    return replace(part, rows=part.rows[rows], operators=operators, comm_processors=cut(part.comm_processors))
