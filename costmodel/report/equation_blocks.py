"""The terminal view of equations with their values, function by function."""

from __future__ import annotations

import math
from collections.abc import Sequence

from costmodel.report.equations import Block, Value
from costmodel.report.page import show, table
from costmodel.report.text import quantity


def show_blocks(blocks: Sequence[Block]) -> None:
    """Print equations with their file and line.

    Below an equation stand the terms that no other one states, and those that several state with different values.
    """
    stated: dict[str, set[str]] = {}
    for line in (line for block in blocks for line in block.lines):
        stated.setdefault(line.equation.name, set()).add(str(line.value))
    for block in blocks:
        rows = table(f"{block.place} {block.function}", ">value", "")
        for line in block.lines:
            rows.add(str(line.equation), _value(line.value, line.dimension), line.equation.note if line.terms else "")
            for name, value in line.terms.items():
                if stated.get(name.rpartition(".")[2]) != {str(value)}:
                    rows.add(f"    {name}", _value(value, line.dimension_of(name)), "")
        show(rows)


def _value(value: Value, dimension: str) -> str:
    """Return a number in its unit, of several how many and the largest."""
    if isinstance(value, list) and len(value) > 1:
        return f"{len(value)}, up to {quantity(max(value), dimension)}"
    value = value[0] if isinstance(value, list) else value
    return quantity(value, dimension, 6) if math.isfinite(value) else str(value)
