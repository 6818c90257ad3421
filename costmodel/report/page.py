"""What the terminal views print on: styled by rich on a terminal, plain text anywhere else.

rich is imported on a terminal only: a pipe does not wait for it, and nothing is folded or cut there.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from typing import TypeAlias

import click

Cell: TypeAlias = "str | tuple[str, str]"  # text, or text and its style
GAP = "  "


@dataclass(slots=True)
class Table:
    """Rows under headings; a heading that begins with `>` is right-aligned."""

    headings: tuple[str, ...]
    rows: list[tuple[Cell, ...]] = field(default_factory=list)

    def add(self, *cells: Cell) -> None:
        """Add a row."""
        self.rows.append(cells)


def table(*headings: str) -> Table:
    """Return an empty table."""
    return Table(headings)


def show(content: str | Table = "", style: str = "") -> None:
    """Print a line or a table to standard output. style: as rich names them, for the whole line."""
    if _styled():
        _show_styled(content, style)
    else:
        click.echo(_plain(content) if isinstance(content, Table) else content)


def _styled() -> bool:
    """Tell whether the output is a terminal that may be coloured."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _plain(content: Table) -> str:
    rows = [[_words(cell) for cell in row] for row in content.rows]
    names = [heading.removeprefix(">") for heading in content.headings]
    widths = [max(map(len, column)) for column in zip(names, *rows, strict=True)]
    right = [heading.startswith(">") for heading in content.headings]

    def line(cells: list[str]) -> str:
        placed = zip(cells, widths, right, strict=True)
        return GAP.join(cell.rjust(width) if last else cell.ljust(width) for cell, width, last in placed).rstrip()

    return "\n".join([line(names), "-" * (sum(widths) + len(GAP) * (len(widths) - 1)), *map(line, rows)])


def _words(cell: Cell) -> str:
    return cell if isinstance(cell, str) else cell[0]


def _show_styled(content: str | Table, style: str) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    out = Console(highlight=False)
    if isinstance(content, str):
        out.print(Text(content, style))
        return
    made = RichTable(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True, header_style="bold", show_edge=False)
    for heading in content.headings:
        justify = "right" if heading.startswith(">") else "left"
        made.add_column(heading.removeprefix(">"), justify=justify, overflow="fold")  # type: ignore[arg-type]
    for row in content.rows:
        made.add_row(*(cell if isinstance(cell, str) else Text(*cell) for cell in row))
    out.print(made)
