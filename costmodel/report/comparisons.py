"""Published figures beside predictions, as a table with a summary for each class."""

from __future__ import annotations

from collections.abc import Sequence

from rich.markup import escape

from costmodel.report.text import console, quantity, table
from costmodel.schema.metrics import dimension_of
from costmodel.study.reproduce import Comparison, Summary

STYLES = {"pass": "green", "fail": "red", "skip": "dim", "infeasible": "yellow"}


def show_comparisons(comparisons: Sequence[Comparison], summaries: Sequence[Summary]) -> None:
    """Print the figures and, for each class, how many, how far off, and which way."""
    out = console()
    rows = table("case", "metric", ">published", ">predicted", ">80 % interval", ">error", "verdict")
    for one in comparisons:
        dimension = dimension_of(one.metric or "") or "count"
        exact = one.low is None or one.low == one.high
        rows.add_row(
            one.id,
            one.metric or "",
            _shown(one.published, dimension),
            _shown(one.predicted, dimension),
            "" if exact else f"{_shown(one.low, dimension, 3)} .. {_shown(one.high, dimension, 3)}",
            "" if one.error is None else f"{one.error:+.1%}",
            f"[{STYLES[one.verdict]}]{one.verdict}[/]",
        )
    out.print(rows)
    for one in comparisons:
        if one.reason:
            out.print(escape(f"{one.id}: {one.verdict}: {one.reason}"), style="dim")
    totals = table("class", ">figures", ">passed", ">mean absolute error", ">bias")
    for summary in summaries:
        totals.add_row(
            summary.case_class, str(summary.scored), str(summary.passed), f"{summary.error:.1%}", f"{summary.bias:+.1%}"
        )
    out.print(totals)


def _shown(value: float | None, dimension: str, digits: int = 4) -> str:
    """Return a figure in its unit, to a few digits."""
    if value is None:
        return ""
    if dimension == "ratio":
        return f"{value:.{digits - 3}%}"
    if dimension == "count":
        return f"{value:.{digits}g}"
    return quantity(value, "time" if dimension == "duration" else dimension, digits)
