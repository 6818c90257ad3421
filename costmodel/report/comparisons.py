"""Published figures beside predictions, as a table with summaries by class and by publication."""

from __future__ import annotations

from collections.abc import Sequence

from costmodel.report.page import show, table
from costmodel.report.text import percent, published_figure, span
from costmodel.study.reproduce import Comparison, Summary

STYLES = {"pass": "green", "fail": "red", "skip": "dim", "infeasible": "yellow"}


def show_comparisons(comparisons: Sequence[Comparison], *summaries: Sequence[Summary]) -> None:
    """Print the figures and, for each group of each kind of summary, how many, how far off, and which way."""
    rows = table("case", "metric", ">published", ">predicted", "?>80 % interval", ">error", "verdict")
    for one in comparisons:
        known = one.low is not None and one.high is not None and one.low != one.high
        rows.add(
            one.id,
            one.metric or "",
            _shown(one, one.published),
            _shown(one, one.predicted),
            span(one.metric or "", one.low or 0.0, one.high or 0.0) if known else "",
            "" if one.error is None else percent(one.error, sign="+"),
            (one.verdict, STYLES[one.verdict]),
        )
    show(rows)
    for one in comparisons:
        if one.reason:
            show(f"{one.id}: {one.verdict}: {one.reason}", "dim")
    for title, found in zip(("class", "class and publication"), summaries, strict=False):
        totals = table(title, ">figures", ">passed", ">mean absolute error", ">median", ">bias")
        for each in found:
            errors = (percent(value) for value in (each.error, each.median))
            totals.add(each.name, str(each.scored), str(each.passed), *errors, percent(each.bias, sign="+"))
        show(totals)


def _shown(one: Comparison, value: float | None) -> str:
    """Return a figure in its unit, nothing for none."""
    return "" if one.metric is None or value is None else published_figure(one.metric, one.unit, value)
