"""Numbers and tables as text for a terminal."""

from __future__ import annotations

import shutil
import sys

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from costmodel.schema.metrics import dimension_of
from costmodel.units import render

PIPE_WIDTH = 120  # columns where no terminal says how many it has
SHOWN_DIGITS = 4


def console() -> Console:
    """Return a console: coloured on a terminal (unless NO_COLOR is set), plain text in a pipe."""
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else PIPE_WIDTH
    return Console(width=width, highlight=False, soft_wrap=False)


def table(*headings: str) -> Table:
    """Return a table; a heading that begins with `>` is right-aligned."""
    made = Table(box=SIMPLE_HEAD, pad_edge=False, header_style="bold", show_edge=False)
    for heading in headings:
        made.add_column(heading.removeprefix(">"), justify="right" if heading.startswith(">") else "left", no_wrap=True)
    return made


def quantity(value: float | None, dimension: str, digits: int = SHOWN_DIGITS) -> str:
    """Return a value in its unit, to a few digits."""
    return "-" if value is None else render(float(f"{value:.{digits}g}"), dimension)


def metric(name: str, value: float | None, digits: int = SHOWN_DIGITS) -> str:
    """Return a metric as people read it: a share as per cent, a time or a size in its unit, a count with separators."""
    if value is None:
        return "-"
    dimension = dimension_of(name) or "count"
    if dimension == "ratio":
        return f"{value:.1%}"
    if dimension == "money":
        rounded = float(f"{value:.{digits}g}")
        return f"{rounded:,.0f} $" if rounded >= 10 ** (digits - 1) else f"{rounded:g} $"
    if dimension == "count":
        rounded = float(f"{value:.{digits}g}")
        return f"{rounded:,.0f}" if rounded >= 10 ** (digits - 1) else f"{rounded:g}"
    return quantity(value, dimension, digits)


def share(value: float) -> str:
    """Return a share as per cent."""
    return f"{value:.0%}" if value >= 0.0995 else f"{value:.1%}"
