"""Output of the commands: styled by rich on a terminal, plain text in a pipe, or Markdown or CSV.

rich is imported on a terminal only: a pipe does not wait for it, and nothing is folded or cut there.
"""

from __future__ import annotations

import csv
import io
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from importlib.util import find_spec
from typing import Self, TypeAlias

import click

from costmodel.errors import visible
from costmodel.records import MutableRecord, field

Cell: TypeAlias = "str | tuple[str, str] | float"  # text, text and its style, or the share that a bar shows
GAP = "  "
BAR = 12  # characters of a full bar
_MARKUP = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})
_EIGHTHS = " ▏▎▍▌▋▊▉"
_GROUPED = re.compile(r"[+-]?\d{1,3}(,\d{3})+(\.\d+)?")
_COMMAND = re.compile(r"(next:)?\s*costmodel ")
_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"")
_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # with which spreadsheets begin one
_format: ContextVar[str] = ContextVar("format", default="text")
_verbose: ContextVar[bool] = ContextVar("verbose", default=False)


class Number(str):
    """Text with its value in SI: low is the value, or the lower end of an interval whose upper end is high."""

    __slots__ = ("high", "low", "unit")

    low: float
    high: float | None
    unit: str

    def __new__(cls, text: str, low: float, unit: str = "", high: float | None = None) -> Self:
        """Return the text with its value."""
        number = super().__new__(cls, text)
        number.low, number.high, number.unit = float(low), None if high is None else float(high), unit
        return number


class Table(MutableRecord):
    """Rows under headings.

    A heading that begins with `>` is right-aligned, one that begins with `|` is a column of bars, whose cells are
    shares. A terminal that is too narrow drops the bars, then columns with the same text in every row, which a line
    below the table states once, then columns whose heading begins with `?`: first those with more `?`, among equals
    the widest.
    """

    headings: tuple[str, ...]
    rows: list[tuple[Cell, ...]] = field(default_factory=list)

    def add(self, *cells: Cell) -> None:
        """Add a row."""
        self.rows.append(cells)

    def without(self, i: int) -> Table:
        """Return the table without column i."""
        return Table(self.headings[:i] + self.headings[i + 1 :], [row[:i] + row[i + 1 :] for row in self.rows])

    def without_bars(self) -> Table:
        """Return the table without its bars."""
        bars = [i for i, heading in enumerate(self.headings) if heading.startswith("|")]
        return self.without(bars[-1]).without_bars() if bars else self

    @property
    def names(self) -> list[str]:
        """Return the headings as they are printed."""
        return [visible(heading.lstrip("?>|")) for heading in self.headings]

    @property
    def right_aligned(self) -> list[bool]:
        """Tell for each column whether it is right-aligned."""
        return [heading.lstrip("?").startswith(">") for heading in self.headings]

    @property
    def widths(self) -> list[int]:
        """Return the width of each column in characters."""
        columns = zip(self.names, *(map(cell_text, row) for row in self.rows), strict=True)
        return [max(map(len, column)) for column in columns]

    @property
    def width(self) -> int:
        """Return the width of the table in characters."""
        return sum(self.widths) + len(GAP) * (len(self.headings) - 1)


def table(*headings: str) -> Table:
    """Return an empty table."""
    return Table(headings)


@contextmanager
def printing(form: str, *, verbose: bool = False) -> Iterator[None]:
    """Print inside as `text`, as `md` (Markdown) or as `csv` (tables only, SI units, an empty line between tables).

    verbose: all that is known, not the answer and what decides it.
    """
    tokens = _format.set(form), _verbose.set(verbose)
    try:
        yield
    finally:
        _format.reset(tokens[0])
        _verbose.reset(tokens[1])


def is_verbose() -> bool:
    """Tell whether all is printed that is known: on request, and in Markdown and CSV, which are made to be kept."""
    return _verbose.get() or _format.get() != "text"


def show_hint(shown: str = "") -> None:
    """Print what the short form leaves out, its last line. shown: how to read what stands above."""
    if not is_verbose():
        show("; ".join(filter(None, (shown, "--verbose shows all"))), "dim")


def show(content: str | Table = "", style: str = "") -> None:
    """Print a line or a table to standard output.

    style: rich's name of the style of a whole line. Markdown and CSV leave out what is `dim`, hints to readers.
    """
    form = _format.get()
    if form == "csv":
        if isinstance(content, Table):
            click.echo(_csv(content.without_bars()))
    elif form == "md":
        if style != "dim" and content:
            click.echo(_markdown(content, style))
    elif isinstance(content, Table):
        shown, constant, dropped = _fit_to_terminal(content)
        if _is_styled():
            _show_styled_table(shown)
        else:
            click.echo(_plain(shown))
        told = (("same in every row", constant), ("columns left out, for want of room", dropped))
        if line := "; ".join(f"{what}: {', '.join(names)}" for what, names in told if names):
            show(line, "dim")
    elif _is_styled():
        _show_styled(_folded(content), style)
    else:
        click.echo(_folded(visible(content)))


def _folded(line: str) -> str:
    """Return a line folded between words to the width of a terminal, as far in as it begins. A pipe has no width.

    A command that is offered stays one for a shell: it goes on after a backslash, and no quoted word is broken.
    """
    columns = shutil.get_terminal_size().columns
    if not sys.stdout.isatty() or len(line) <= columns:
        return line
    indent = line[: len(line) - len(line.lstrip())]
    is_command = _COMMAND.match(line) is not None
    whole = _QUOTED.sub(lambda quoted: quoted[0].replace(" ", "\0"), line) if is_command else line
    folded = textwrap.wrap(
        whole, columns - 2 * is_command, subsequent_indent=f"{indent}  ", break_long_words=False, break_on_hyphens=False
    )
    return (" \\\n" if is_command else "\n").join(folded).replace("\0", " ")


def _is_styled() -> bool:
    """Tell whether the output is a terminal that may be coloured, and can be: a broken installation may lack rich."""
    allowed = not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return sys.stdout.isatty() and allowed and find_spec("rich") is not None


def _fit_to_terminal(content: Table) -> tuple[Table, list[str], list[str]]:
    """Return a table that fits, dropped columns of constant text as `name text`, and other dropped names.

    A terminal has a width. In a pipe the short form has that of $COLUMNS, or 80, and the long one has none.
    """
    constant: list[str] = []
    dropped: list[str] = []
    fits = sys.stdout.isatty() or not is_verbose()
    columns = shutil.get_terminal_size().columns if fits else sys.maxsize
    if content.width > columns:
        content = content.without_bars()
    if content.width > columns:
        same = [i for i in range(len(content.headings)) if _is_constant(content, i)]
        for i in reversed(same) if len(content.rows) > 1 and len(same) < len(content.headings) else ():
            text = cell_text(content.rows[0][i])
            constant.insert(0, f"{content.names[i]} {text}".strip() if text else "")
            content = content.without(i)
    while content.width > columns:
        widths = content.widths
        droppable = [i for i, heading in enumerate(content.headings) if heading.startswith("?")]
        if not droppable:
            break
        i = max(droppable, key=lambda i: (content.headings[i].count("?"), widths[i]))
        dropped.append(content.names[i])
        content = content.without(i)
    return content, list(filter(None, constant)), dropped


def _is_constant(content: Table, i: int) -> bool:
    """Tell whether column i has the same text in every row. A mark without a heading has to stay in its row."""
    texts = {cell_text(row[i]) for row in content.rows}
    return len(texts) == 1 and (bool(content.names[i]) or texts == {""})


def _plain(content: Table) -> str:
    widths, right = content.widths, content.right_aligned

    def line(cells: Sequence[str]) -> str:
        columns = zip(cells, widths, right, strict=True)
        return GAP.join(cell.rjust(width) if last else cell.ljust(width) for cell, width, last in columns).rstrip()

    rows = (line([cell_text(cell) for cell in row]) for row in content.rows)
    return "\n".join([line(content.names), "-" * content.width, *rows])


def cell_text(cell: Cell) -> str:
    """Return a cell as text."""
    if isinstance(cell, float):
        return bar(cell)
    return cell if isinstance(cell, Number) else visible(cell if isinstance(cell, str) else cell[0])


def bar(share: float, width: int = BAR) -> str:
    """Return a bar of that share of the width: eighths of a character, whole `#` where the output is ASCII."""
    eighths = round(8 * width * min(max(share, 0.0), 1.0))
    if not (sys.stdout.encoding or "").lower().startswith("utf"):
        return "#" * round(eighths / 8)
    return ("█" * (eighths // 8) + _EIGHTHS[eighths % 8]).rstrip()


def _markdown(content: str | Table, style: str) -> str:
    if isinstance(content, str):
        line = visible(" ".join(content.split())).translate(_MARKUP)
        lead = "### " if style == "bold" else "- " if content.startswith("  ") else ""
        return f"{lead}{line}\n"
    content = content.without_bars()

    def line_of(cells: Sequence[str]) -> str:
        escaped = (cell.translate(_MARKUP).replace("|", r"\|").replace("\n", " ") for cell in cells)
        return f"| {' | '.join(escaped)} |"

    rules = ["---:" if right else "---" for right in content.right_aligned]
    rows = (line_of([cell_text(cell) for cell in row]) for row in content.rows)
    return "\n".join([line_of(content.names), line_of(rules), *rows, ""])


def _csv(content: Table) -> str:
    columns = [
        column
        for i, name in enumerate(content.names)
        for column in _csv_columns(name, [row[i] for row in content.rows])
    ]
    text = io.StringIO()
    rows = ([harmless(cell) for cell in row] for row in zip(*columns, strict=True))
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _csv_columns(heading: str, cells: Sequence[Cell]) -> Iterator[list[str]]:
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
    """Return a cell as a program reads it: the number in SI, a count without separators, no `-`."""
    text = cell_text(cell)
    if isinstance(cell, Number):
        value = cell.high if end == "high" and cell.high is not None else cell.low
        return f"{value:.0f}" if text == f"{value:,.0f}" and value.is_integer() else repr(float(value))
    if text == "-":
        return ""
    return text.replace(",", "") if _GROUPED.fullmatch(text) else text


def harmless(cell: str) -> str:
    """Return a cell that no spreadsheet takes for a formula: text that begins like one gets an apostrophe before it."""
    if not cell.startswith(_FORMULA):
        return cell
    try:
        float(cell)
    except ValueError:
        return f"'{cell}"
    return cell


def _show_styled(line: str, style: str) -> None:
    from rich.console import Console
    from rich.text import Text

    Console(highlight=False).print(Text(visible(line), style), soft_wrap=True)


def _show_styled_table(content: Table) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    styled = RichTable(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True, header_style="bold", show_edge=False)
    for name, right in zip(content.names, content.right_aligned, strict=True):
        styled.add_column(name, justify="right" if right else "left", overflow="fold")
    for row in content.rows:
        styled.add_row(
            *(Text(cell_text(cell), cell[1]) if isinstance(cell, tuple) else Text(cell_text(cell)) for cell in row)
        )
    Console(highlight=False).print(styled)
