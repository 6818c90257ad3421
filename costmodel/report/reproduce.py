"""The terminal view of published results and their predictions, with summaries by class and by publication."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

from costmodel.report.page import Table, show, table
from costmodel.report.text import interval, percent, published_value
from costmodel.study.published.accuracy import HEADINGS

if TYPE_CHECKING:
    from costmodel.schema.answers import ReproducedValue
    from costmodel.study.published.accuracy import Accuracy
    from costmodel.study.published.reproduce import Comparison, Summary

Compared: TypeAlias = "Comparison | ReproducedValue"

STYLES = {"pass": "green", "fail": "red", "skip": "dim", "infeasible": "yellow"}


def show_comparisons(comparisons: Sequence[Comparison], *summaries: Sequence[Summary]) -> None:
    """Print the results, then for each group of each kind of summary the number of results, their errors and bias."""
    show(results_table(comparisons))
    for result in comparisons:
        if result.reason:
            show(f"{result.id}: {result.verdict}: {result.reason}", "dim")
    for title, groups in zip(("class", "publication"), summaries, strict=False):
        totals = table(title, ">results", ">within tolerance", ">mean absolute error", "?>median", ">bias")
        for group in groups:
            errors = percent(group.error), percent(group.median), percent(group.bias, sign="+")
            totals.add(group.name, str(group.scored), str(group.passed), *errors)
        show(totals)


def show_accuracy(classes: Sequence[Accuracy]) -> None:
    """Print how accurate predictions of each class are on unseen and refitted figures."""
    rows = table(HEADINGS[0], *(f">{heading}" for heading in HEADINGS[1:]))
    for one in classes:
        rows.add(*one.cells())
    show(rows if classes else "no figure is unseen")
    in_sample = sum(one.in_sample for one in classes)
    show(f"{in_sample:,} in-sample figures of these classes count in no row", "dim")


def results_table(results: Sequence[Compared]) -> Table:
    """Return one row per published result."""
    rows = table("case", "metric", ">published", ">predicted", "?>80 % interval", ">error", "verdict", "?state")
    for result in results:
        name, low, high = result.metric or "", result.low, result.high
        values = (
            "" if result.metric is None or value is None else published_value(name, result.unit, value)
            for value in (result.published, result.predicted)
        )
        ends = "" if low is None or high is None or low == high else interval(name, low, high)
        error = "" if result.error is None else percent(result.error, sign="+")
        rows.add(result.id, name, *values, ends, error, (result.verdict, STYLES[result.verdict]), result.state or "")
    return rows
