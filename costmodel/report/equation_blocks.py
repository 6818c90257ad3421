"""The terminal view of equations with their values, function by function."""

from __future__ import annotations

import math
from collections.abc import Sequence

from costmodel.report.equations import Block, Value
from costmodel.report.page import is_verbose, show, table
from costmodel.report.text import quantity, shortened

MOST, LONGEST = 8, 60  # equations in the short form, and characters of one


def show_blocks(blocks: Sequence[Block]) -> None:
    """Print equations with their file and line: the first of each function, or on request all with their terms."""
    if is_verbose():
        _show_all(blocks)
        return
    rows = table("equation", ">value", "where")
    for block in dict.fromkeys(blocks):
        line = block.lines[0]
        rows.add(shortened(str(line.equation), LONGEST), _value(line.value, line.dimension), block.place)
        if len(rows.rows) == MOST:
            break
    if rows.rows:
        show(rows)
    if len(blocks) > MOST:
        show(f"{len(blocks) - MOST} functions more", "dim")


def _show_all(blocks: Sequence[Block]) -> None:
    """Print all equations and their terms.

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
