"""Half-widths of intervals as families of a calibration file, and what they are from."""

from __future__ import annotations

import math
from collections.abc import Sequence


def family_lines(name: str, half: float, rows: int) -> list[str]:
    """Return a family whose spread reaches exp(-half) to exp(half). half: of an 80 % interval [log]."""
    low, high = (float(f"{math.exp(side * half):.4g}") for side in (-1.0, 1.0))
    return [
        f"  {name}:",
        f"    spread: [{{time: 1 s, low: {low:g}, median: 1, high: {high:g}, rows: {rows}}}]",
        f"    rows: {rows}",
    ]


def source_lines(rests_on: Sequence[str], note: Sequence[str]) -> list[str]:
    """Return the source of families that follow from measured rows. rests_on: repositories; note: its lines."""
    return [
        "sources:",
        "  - fields: [families]",
        '    cite: "measured kernel times of public repositories, as listed in sources.csv beside the tables"',
        "    kind: derived",
        f"    rests_on: [{', '.join(rests_on)}]",
        "    note: >-",
        *(f"      {line}" for line in note),
    ]
