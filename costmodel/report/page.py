"""What the terminal views print on: styled by rich on a terminal, plain text anywhere else, or Markdown or CSV.

rich is imported on a terminal only: a pipe does not wait for it, and nothing is folded or cut there.
"""

from __future__ import annotations

import csv
import io
import os
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TypeAlias

import click

from costmodel.report.number import Number

Cell: TypeAlias = "str | tuple[str, str] | float"  # text, text and its style, or the share that a bar shows
GAP = "  "
BAR = 12  # characters of a whole bar
_EIGHTHS = " ▏▎▍▌▋▊▉"
_GROUPED = re.compile(r"[+-]?\d{1,3}(,\d{3})+(\.\d+)?")
_form: ContextVar[str] = ContextVar("form", default="text")


@dataclass(slots=True)
class Table:
    """Rows under headings. A heading that begins with `>` is right-aligned; one that begins with `|` stands over bars,
    whose cells are shares; where there is no room for bars they are left out.
    """

    headings: tuple[str, ...]
    rows: list[tuple[Cell, ...]] = field(default_factory=list)

    def add(self, *cells: Cell) -> None:
        """Add a row."""
        self.rows.append(cells)

    def without_bars(self) -> Table:
        """Return the table without its bars."""
        kept = [at for at, heading in enumerate(self.headings) if not heading.startswith("|")]
        return Table(tuple(self.headings[at] for at in kept), [tuple(row[at] for at in kept) for row in self.rows])


def table(*headings: str) -> Table:
    """Return an empty table."""
    return Table(headings)


@contextmanager
def printing(form: str) -> Iterator[None]:
    """Print inside as `text`, as `md`, Markdown, or as `csv`: tables alone, numbers in SI, an empty line between "
    "two."""
    token = _form.set(form)
    try:
        yield
    finally:
        _form.reset(token)


def show(content: str | Table = "", style: str = "") -> None:
    """Print a line or a table to standard output. style: as rich names them, for the whole line.

    Hints, which are `dim`, are for readers of text alone.
    """
    form = _form.get()
    if form == "csv":
        if isinstance(content, Table):
            click.echo(_csv(content.without_bars()))
    elif form == "md":
        if style != "dim" and content:
            click.echo(_markdown(content, style))
    elif _styled():
        _show_styled(content, style)
    else:
        click.echo(_plain(_fitting(content)) if isinstance(content, Table) else content)


def _styled() -> bool:
    """Tell whether the output is a terminal that may be coloured."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _fitting(content: Table) -> Table:
    """Return a table without its bars where a terminal has no room for them; a pipe has."""
    if not any(heading.startswith("|") for heading in content.headings):
        return content
    narrow = sys.stdout.isatty() and max(map(len, _plain(content).splitlines())) > shutil.get_terminal_size().columns
    return content.without_bars() if narrow else content


def _plain(content: Table) -> str:
    rows = [[_words(cell) for cell in row] for row in content.rows]
    names = [heading.lstrip(">|") for heading in content.headings]
    widths = [max(map(len, column)) for column in zip(names, *rows, strict=True)]
    right = [heading.startswith(">") for heading in content.headings]

    def line(cells: list[str]) -> str:
        placed = zip(cells, widths, right, strict=True)
        return GAP.join(cell.rjust(width) if last else cell.ljust(width) for cell, width, last in placed).rstrip()

    return "\n".join([line(names), "-" * (sum(widths) + len(GAP) * (len(widths) - 1)), *map(line, rows)])


def _words(cell: Cell) -> str:
    if isinstance(cell, float):
        return bar(cell)
    return cell if isinstance(cell, str) else cell[0]


def bar(share: float, width: int = BAR) -> str:
    """Return a bar of that share of the width: eighths of a character, whole `#` where the output takes ASCII alone."""
    eighths = round(8 * width * min(max(share, 0.0), 1.0))
    if not (sys.stdout.encoding or "").lower().startswith("utf"):
        return "#" * round(eighths / 8)
    return ("█" * (eighths // 8) + _EIGHTHS[eighths % 8]).rstrip()


def _markdown(content: str | Table, style: str) -> str:
    if isinstance(content, str):
        line = " ".join(content.split())
        lead = "### " if style == "bold" else "- " if content.startswith("  ") else ""
        return f"{lead}{line}\n"
    kept = content.without_bars()

    def line_of(cells: Sequence[str]) -> str:
        return f"| {' | '.join(cell.replace('|', chr(92) + '|').replace(chr(10), ' ') for cell in cells)} |"

    rules = ["---:" if heading.startswith(">") else "---" for heading in kept.headings]
    rows = (line_of([_words(cell) for cell in row]) for row in kept.rows)
    return "\n".join([line_of([heading.lstrip(">") for heading in kept.headings]), line_of(rules), *rows, ""])


def _csv(content: Table) -> str:
    """Return a table as CSV. An interval takes two columns; a unit stands in the heading, or in a column of its own."""
    columns: list[list[str]] = []
    for at, heading in enumerate(content.headings):
        columns += _columns(heading.lstrip(">"), [row[at] for row in content.rows])
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(zip(*columns, strict=True))
    return text.getvalue()


def _columns(heading: str, cells: Sequence[Cell]) -> Iterator[list[str]]:
    numbers = [cell for cell in cells if isinstance(cell, Number)]
    units = dict.fromkeys(cell.unit for cell in numbers)
    unit = next(iter(units)) if len(units) == 1 else ""
    name = f"{heading} [{unit}]" if unit else heading
    if any(cell.high is not None for cell in numbers):
        for end in ("low", "high"):
            yield [f"{name} {end}", *(_raw(cell, end) for cell in cells)]
    else:
        yield [name, *(_raw(cell, "low") for cell in cells)]
    if len(units) > 1:
        yield [f"{heading} unit", *(cell.unit if isinstance(cell, Number) else "" for cell in cells)]


def _raw(cell: Cell, end: str) -> str:
    """Return a cell as a program reads it: the number in SI, a count without separators, nothing for `-`."""
    if isinstance(cell, Number):
        value = cell.high if end == "high" and cell.high is not None else cell.low
        return repr(value)
    words = _words(cell)
    if words == "-":
        return ""
    return words.replace(",", "") if _GROUPED.fullmatch(words) else words


def _show_styled(content: str | Table, style: str) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    out = Console(highlight=False)
    if isinstance(content, str):
        out.print(Text(content, style))
        return
    fitting = _fitting(content)
    made = RichTable(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True, header_style="bold", show_edge=False)
    for heading in fitting.headings:
        justify = "right" if heading.startswith(">") else "left"
        made.add_column(heading.lstrip(">|"), justify=justify, overflow="fold")  # type: ignore[arg-type]
    for row in fitting.rows:
        made.add_row(*(Text(*cell) if isinstance(cell, tuple) else Text(_words(cell)) for cell in row))
    out.print(made)
