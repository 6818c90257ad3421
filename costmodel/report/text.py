"""Numbers as text for people."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from costmodel.report.number import Number
from costmodel.schema.metrics import dimension_of, unit_of
from costmodel.units import base_unit, parse, render

SHOWN_DIGITS = 4
BILLION = 1e9
NONE = "-"
SHORT = 10  # characters of a quantity


def quantity(value: float | None, dimension: str, digits: int = SHOWN_DIGITS) -> str:
    """Return a value in its unit, to a few digits."""
    if value is None:
        return NONE
    return Number(render(float(f"{value:.{digits}g}"), dimension), value, _base(dimension))


def setting(value: float, dimension: str, digits: int = SHOWN_DIGITS) -> str:
    """Return a value that somebody chose: in full where that is short, as `80 GiB`, else to a few digits."""
    if dimension in ("count", "ratio"):
        return count(value, digits)
    exact = render(value, dimension)
    return Number(exact, value, _base(dimension)) if len(exact) <= SHORT else quantity(value, dimension, digits)


@cache
def _base(dimension: str) -> str:
    """Return the SI unit of a dimension, nothing for what has none."""
    unit = base_unit(dimension)
    return "" if unit == "1" else unit


def used_of(used: float, capacity: float) -> str:
    """Return used of available memory, both in GiB."""
    return Number(f"{gib(used)} / {gib(capacity)} GiB", used, _base("size"))


def gib(value: float, digits: int = 1) -> str:
    """Return a size as a number of GiB."""
    return f"{value / _gib():.{digits}f}"


@cache
def _gib() -> float:
    return parse("1 GiB", "size")


def span(name: str, low: float, high: float) -> str:
    """Return an interval of a metric; the unit stands once where both ends have the same."""
    unit = unit_of(name)
    if low == high:
        return Number("exact", low, "" if unit == "1" else unit, high)
    ends = metric(name, low), metric(name, high)
    number, _, shown = ends[0].partition(" ")
    words = f"{number if shown and ends[1].endswith(f' {shown}') else ends[0]} .. {ends[1]}"
    return Number(words, low, "" if unit == "1" else unit, high)


def metric(name: str, value: float | None, digits: int = SHOWN_DIGITS) -> str:
    """Return a metric as people read it: a share as per cent, a time or a size in its unit, a count with separators."""
    if value is None:
        return NONE
    unit = unit_of(name)
    return Number(_metric(name, value, digits), value, "" if unit == "1" else unit)


def published_figure(name: str, unit: str | None, value: float | None) -> str:
    """Return a published figure of a metric: as people read the metric, a ratio of two of them as a factor."""
    if value is not None and unit == "1" and (dimension_of(name) or "count") not in ("count", "ratio"):
        return Number(f"{value:.{SHOWN_DIGITS}g}x", value)
    return metric(name, value)


def _metric(name: str, value: float, digits: int) -> str:
    if name.startswith(("memory.", "host_memory.")):
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
        return Number(f"{rounded / BILLION:,.{digits}g} billion", value)
    return Number(f"{rounded:,.0f}" if abs(rounded) >= 10 ** (digits - 1) else f"{rounded:g}", value)


def share(value: float) -> str:
    """Return a share as per cent."""
    return Number(f"{value:.0%}" if value >= 0.0995 else f"{value:.1%}", value)


def percent(value: float | None, digits: int = 1, sign: str = "") -> str:
    """Return a ratio as per cent. sign: `+` to write it of what is above zero, too."""
    return NONE if value is None else Number(f"{value:{sign}.{digits}%}", value)


def short_paths(paths: Sequence[str]) -> dict[str, str]:
    """Return for each path its last two words, or as many as tell it from the others."""
    words = {path: path.split(".") for path in paths}

    def short(path: str) -> str:
        for length in range(2, len(words[path]) + 1):
            found = ".".join(words[path][-length:])
            if not any(other != path and f".{other}".endswith(f".{found}") for other in paths):
                return found
        return path

    return {path: short(path) for path in paths}
