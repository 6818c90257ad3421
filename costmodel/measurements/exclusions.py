"""The rows of a table that fits and comparisons use, and what they leave out, and why, for people and for programs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from costmodel.measurements.row_group import Catalogue, ExcludedRows, OperatorRows
from costmodel.measurements.row_mapping import by_operation, map_rows
from costmodel.measurements.screening import context
from costmodel.measurements.tables import Table
from costmodel.records import Record, ValueRecord, asdict

SHOWN = 2  # rows that are named for each reason


class Exclusion(ValueRecord):
    """Rows of one operation that were left out for one reason. places: where the first of them are written."""

    op: str
    reason: str
    rows: int
    places: tuple[str, ...]

    def document(self) -> dict[str, Any]:
        """Return the omission as JSON holds it."""
        return {**asdict(self), "places": list(self.places)}


class Screened(Record):
    """Rows of the primary tier with their operators, and what was left out of the table that they come from.

    unmapped: those of `rows` that have no operators here.
    omissions: these and the rows of the secondary tier.
    """

    rows: Table
    mapped: Sequence[OperatorRows]
    unmapped: Sequence[ExcludedRows]
    omissions: Sequence[Exclusion]


def screen(table: Table, catalogue: Catalogue) -> Screened:
    """Return the rows of a table that measure a kernel. Every other row is stated in `omissions`."""
    secondary = context(table)
    rows = table.take(~secondary)
    mapped, unmapped = map_rows(rows, catalogue)
    aside = exclusions(table, [*by_operation(table, "of the secondary tier: context", np.flatnonzero(secondary))])
    return Screened(rows, mapped, unmapped, [*exclusions(rows, unmapped), *aside])


def exclusions(table: Table, left_out: Sequence[ExcludedRows]) -> list[Exclusion]:
    """Return the rows left out of a table by operation and reason, the most first."""
    rows_by_reason: dict[tuple[str, str], list[str]] = {}
    for one in left_out:
        places = rows_by_reason.setdefault((one.op, one.reason), [])
        for row in one.rows:
            earlier = one.repeats.get(int(row))
            places.append(f"{table.location(row)}{'' if earlier is None else f' repeats {table.location(earlier)}'}")
    listed = (
        Exclusion(op, reason, len(places), tuple(places[:SHOWN])) for (op, reason), places in rows_by_reason.items()
    )
    return sorted(listed, key=lambda one: (-one.rows, one.op, one.reason))
