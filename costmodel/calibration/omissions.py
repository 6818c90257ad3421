"""What a comparison or a fit left out of a table, and why: one summary, for people and for programs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from costmodel.calibration.batch import LeftOut
from costmodel.calibration.tables import Table

SHOWN = 2  # rows that are named for each reason


@dataclass(frozen=True, slots=True)
class Omission:
    """Rows of one operation that were left out for one reason. places: where the first of them are written."""

    op: str
    reason: str
    rows: int
    places: tuple[str, ...]

    def document(self) -> dict[str, Any]:
        """Return the omission as JSON holds it."""
        return {**asdict(self), "places": list(self.places)}


def omissions(table: Table, left_out: Sequence[LeftOut]) -> list[Omission]:
    """Return the rows left out of a table by operation and reason, the most first."""
    found: dict[tuple[str, str], list[str]] = {}
    for one in left_out:
        places = found.setdefault((one.op, one.reason), [])
        for row in one.rows:
            earlier = one.repeats.get(int(row))
            places.append(f"{table.place(row)}{'' if earlier is None else f' repeats {table.place(earlier)}'}")
    listed = (Omission(op, reason, len(places), tuple(places[:SHOWN])) for (op, reason), places in found.items())
    return sorted(listed, key=lambda one: (-one.rows, one.op, one.reason))
