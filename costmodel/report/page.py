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
    whose cells are shares. Where a terminal has no room, bars are left out, then columns that say the same in every
    row, which a line below the table says once, then those whose heading begins with `?`: first those with more of
    them, of as many the widest.
    """

    headings: tuple[str, ...]
    rows: list[tuple[Cell, ...]] = field(default_factory=list)

    def add(self, *cells: Cell) -> None:
        """Add a row."""
        self.rows.append(cells)

    def without(self, dropped: int) -> Table:
        """Return the table without a column."""
        rows = [row[:dropped] + row[dropped + 1 :] for row in self.rows]
        return Table(self.headings[:dropped] + self.headings[dropped + 1 :], rows)

    def without_bars(self) -> Table:
        """Return the table without its bars."""
        bars = [at for at, heading in enumerate(self.headings) if heading.startswith("|")]
        return self.without(bars[-1]).without_bars() if bars else self


def _name(heading: str) -> str:
    return heading.lstrip("?>|")


def _spare(heading: str) -> int:
    """Return how easily a column is left out."""
    return len(heading) - len(heading.lstrip("?"))


def _is_number(heading: str) -> bool:
    return heading.lstrip("?").startswith(">")


def table(*headings: str) -> Table:
    """Return an empty table."""
    return Table(headings)


@contextmanager
def printing(form: str) -> Iterator[None]:
    """Print inside as `text`, as `md`, Markdown, or as `csv`: the tables alone, in SI, an empty line between two."""
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
    elif isinstance(content, Table):
        fitting, same, left_out = _fitting(content)
        if _styled():
            _show_styled_table(fitting)
        else:
            click.echo(_plain(fitting))
        if same:
            show(f"in every row: {', '.join(same)}", "dim")
        if left_out:
            show(f"no room for {', '.join(left_out)}", "dim")
    elif _styled():
        _show_styled(content, style)
    else:
        click.echo(content)


def _styled() -> bool:
    """Tell whether the output is a terminal that may be coloured."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _fitting(content: Table) -> tuple[Table, list[str], list[str]]:
    """Return a table that fits a terminal, what all rows of columns that it lacks say, and the other columns it lacks.

    A pipe has room for all.
    """
    same: list[str] = []
    left_out: list[str] = []
    columns = shutil.get_terminal_size().columns if sys.stdout.isatty() else sys.maxsize
    if _width(content) > columns:
        content = content.without_bars()
    if _width(content) > columns:
        alike = [at for at in range(len(content.headings)) if _is_alike(content, at)]
        for at in reversed(alike) if len(content.rows) > 1 and len(alike) < len(content.headings) else ():
            same.insert(0, f"{_name(content.headings[at])} {_words(content.rows[0][at])}".strip())
            content = content.without(at)
    while _width(content) > columns:
        widths = _widths(content)
        spare = [at for at, heading in enumerate(content.headings) if heading.startswith("?")]
        if not spare:
            break
        widest = max(spare, key=lambda at: (_spare(content.headings[at]), widths[at]))
        left_out.append(_name(content.headings[widest]))
        content = content.without(widest)
    return content, [words for words in same if words], left_out


def _is_alike(content: Table, at: int) -> bool:
    """Tell whether a column says the same in every row; a mark without a heading means nothing away from its rows."""
    words = {_words(row[at]) for row in content.rows}
    return len(words) == 1 and (bool(_name(content.headings[at])) or words == {""})


def _width(content: Table) -> int:
    """Return how wide a table is."""
    return sum(_widths(content)) + len(GAP) * (len(content.headings) - 1)


def _widths(content: Table) -> list[int]:
    """Return how wide each column is."""
    columns = zip(map(_name, content.headings), *([_words(cell) for cell in row] for row in content.rows), strict=True)
    return [max(map(len, column)) for column in columns]


def _plain(content: Table) -> str:
    rows = [[_words(cell) for cell in row] for row in content.rows]
    widths = _widths(content)
    right = [_is_number(heading) for heading in content.headings]

    def line(cells: list[str]) -> str:
        placed = zip(cells, widths, right, strict=True)
        return GAP.join(cell.rjust(width) if last else cell.ljust(width) for cell, width, last in placed).rstrip()

    rule = "-" * _width(content)
    return "\n".join([line([_name(heading) for heading in content.headings]), rule, *map(line, rows)])


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

    rules = ["---:" if _is_number(heading) else "---" for heading in kept.headings]
    rows = (line_of([_words(cell) for cell in row]) for row in kept.rows)
    return "\n".join([line_of([_name(heading) for heading in kept.headings]), line_of(rules), *rows, ""])


def _csv(content: Table) -> str:
    """Return a table as CSV. An interval takes two columns; a unit stands in the heading, or in a column of its own."""
    columns: list[list[str]] = []
    for at, heading in enumerate(content.headings):
        columns += _columns(_name(heading), [row[at] for row in content.rows])
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


def _show_styled(line: str, style: str) -> None:
    from rich.console import Console
    from rich.text import Text

    Console(highlight=False).print(Text(line, style))


def _show_styled_table(content: Table) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    made = RichTable(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True, header_style="bold", show_edge=False)
    for heading in content.headings:
        justify = "right" if _is_number(heading) else "left"
        made.add_column(_name(heading), justify=justify, overflow="fold")  # type: ignore[arg-type]
    for row in content.rows:
        made.add_row(*(Text(*cell) if isinstance(cell, tuple) else Text(_words(cell)) for cell in row))
    Console(highlight=False).print(made)
