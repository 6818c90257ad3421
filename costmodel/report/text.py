"""Numbers and tables as text for a terminal."""

from __future__ import annotations

import os
import shutil
import sys
from functools import cache

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from costmodel.schema.metrics import dimension_of
from costmodel.units import parse, render

PIPE_WIDTH = 10_000  # columns of a pipe or a file: nothing is folded or cut there
SHOWN_DIGITS = 4
BILLION = 1e9


def console() -> Console:
    """Return a console: coloured on a terminal (unless NO_COLOR is set), plain text in a pipe."""
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else PIPE_WIDTH
    plain = bool(os.environ.get("NO_COLOR"))
    return Console(width=width, highlight=False, soft_wrap=False, color_system=None if plain else "auto")


def table(*headings: str) -> Table:
    """Return a table; a heading that begins with `>` is right-aligned."""
    made = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True, header_style="bold", show_edge=False)
    for heading in headings:
        made.add_column(
            heading.removeprefix(">"), justify="right" if heading.startswith(">") else "left", overflow="fold"
        )
    return made


def quantity(value: float | None, dimension: str, digits: int = SHOWN_DIGITS) -> str:
    """Return a value in its unit, to a few digits."""
    return "-" if value is None else render(float(f"{value:.{digits}g}"), dimension)


def used_of(used: float, capacity: float) -> str:
    """Return used of available memory, both in GiB."""
    return f"{gib(used)} / {gib(capacity)} GiB"


def gib(value: float, digits: int = 1) -> str:
    """Return a size as a number of GiB."""
    return f"{value / _gib():.{digits}f}"


@cache
def _gib() -> float:
    return parse("1 GiB", "size")


def span(name: str, low: float, high: float) -> str:
    """Return an interval of a metric; the unit stands once where both ends have the same."""
    if low == high:
        return "exact"
    ends = metric(name, low), metric(name, high)
    number, _, unit = ends[0].partition(" ")
    return f"{number if unit and ends[1].endswith(f' {unit}') else ends[0]} .. {ends[1]}"


def metric(name: str, value: float | None, digits: int = SHOWN_DIGITS) -> str:
    """Return a metric as people read it: a share as per cent, a time or a size in its unit, a count with separators."""
    if value is None:
        return "-"
    if name.startswith("memory."):
        return f"{gib(value, 2)} GiB"
    dimension = dimension_of(name) or "count"
    if dimension == "ratio":
        return f"{value:.1%}"
    if dimension in ("count", "money"):
        return count(value, digits) + (" $" if dimension == "money" else "")
    return quantity(value, "time" if dimension == "duration" else dimension, digits)


def count(value: float, digits: int = SHOWN_DIGITS) -> str:
    """Return a count to a few digits, with separators, or in billions where it has many."""
    rounded = float(f"{value:.{digits}g}")
    if abs(rounded) >= BILLION:
        return f"{rounded / BILLION:,.{digits}g} billion"
    return f"{rounded:,.0f}" if abs(rounded) >= 10 ** (digits - 1) else f"{rounded:g}"


def share(value: float) -> str:
    """Return a share as per cent."""
    return f"{value:.0%}" if value >= 0.0995 else f"{value:.1%}"
