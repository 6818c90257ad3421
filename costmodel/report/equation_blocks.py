"""The terminal view of equations with their values, function by function."""

from __future__ import annotations

from collections.abc import Sequence

from costmodel.report.equations import Block, Value
from costmodel.report.page import show, table
from costmodel.report.text import quantity


def show_blocks(blocks: Sequence[Block]) -> None:
    """Print equations with their file and line. Below an equation stand the terms that no other one states."""
    stated = {line.equation.name for block in blocks for line in block.lines}
    for block in blocks:
        rows = table(f"{block.place} {block.function}", ">value", "")
        for line in block.lines:
            rows.add(str(line.equation), _value(line.value, line.dimension), line.equation.note if line.terms else "")
            for name, value in line.terms.items():
                if name.rpartition(".")[2] not in stated:
                    rows.add(f"    {name}", _value(value, line.dimensions[name]), "")
        show(rows)


def _value(value: Value, dimension: str) -> str:
    """Return a number in its unit, of several how many and the largest."""
    if isinstance(value, list):
        return f"{len(value)}, up to {quantity(max(value), dimension)}"
    return quantity(value, dimension, 6)
