"""The terminal view of published results and their predictions, with summaries by class and by publication."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

from costmodel.report.page import Table, is_verbose, show, show_hint, table
from costmodel.report.text import interval, percent, published_value
from costmodel.study.published.accuracy import HEADINGS

if TYPE_CHECKING:
    from costmodel.schema.results import ReproducedValue
    from costmodel.study.published.accuracy import Accuracy
    from costmodel.study.published.reproduce import Comparison, Summary

Compared: TypeAlias = "Comparison | ReproducedValue"

FEW, FEW_OF_MANY = 15, 8  # results whose sums say nothing more, and of more those that are listed
WIDE = 3.0  # times an error
STYLES = {"pass": "green", "fail": "red", "skip": "dim", "infeasible": "yellow"}


def show_comparisons(comparisons: Sequence[Comparison], *summaries: Sequence[Summary]) -> None:
    """Print the results, then for each group of each kind of summary the number of results, their errors and bias.

    What was left out for its reason is listed on request, as are summaries of many results.
    """
    show(_answer(comparisons), "bold")
    compared = [result for result in comparisons if result.verdict != "skip"]
    shown = comparisons if is_verbose() or not compared else compared
    listed = shown if is_verbose() or len(shown) <= FEW else sorted(shown, key=_distance, reverse=True)[:FEW_OF_MANY]
    show(results_table(listed))
    if len(listed) < len(shown):
        show(f"the {len(listed)} that are farthest off, of {len(shown):,}; --verbose shows all", "dim")
    if any(map(_is_wide, comparisons)):
        show(
            "80 % interval: four of five measured runs of a kind fall in it; one that is predicted well narrows nothing"
        )
    for result in comparisons:
        if result.reason and (is_verbose() or result in listed) and (shown is comparisons or result.verdict != "skip"):
            show(f"{result.id}: {result.verdict}: {result.reason}", "dim")
    if len(shown) < len(comparisons):
        show(f"{len(comparisons) - len(shown)} that nothing predicts left out", "dim")
    if not is_verbose() and len(shown) <= FEW:
        show_hint()
        return
    titles = ("class", "publication") if is_verbose() else ("class",)
    for title, groups in zip(titles, summaries, strict=False):
        totals = table(title, ">results", ">within tolerance", ">mean absolute error", "?>median", ">bias")
        for group in groups:
            errors = percent(group.error), percent(group.median), percent(group.bias, sign="+")
            totals.add(group.name, str(group.scored), str(group.passed), *errors)
        show(totals)


def _answer(comparisons: Sequence[Comparison]) -> str:
    errors = sorted(abs(each.error) for each in comparisons if each.error is not None)
    if not errors:
        return f"{len(comparisons):,} published results, none compared"
    known = [each for each in comparisons if each.error is not None and each.low is not None and each.low != each.high]
    inside = sum(_is_inside(each) for each in known)
    spans = f"; {inside:,} of {len(known):,} inside the 80 % interval" if known else ""
    return (
        f"{len(errors):,} published results: median error {percent(errors[len(errors) // 2])}, largest "
        f"{percent(errors[-1])}{spans}"
    )


def _distance(result: Comparison) -> float:
    """Return how far off a result is: last what passes without a figure to compare, first what fails without one."""
    if result.error is None:
        return -1.0 if result.verdict == "pass" else math.inf
    return abs(result.error)


def _is_inside(result: Comparison) -> bool:
    ends = result.low, result.high, result.published
    return all(each is not None for each in ends) and result.low <= result.published <= result.high  # type: ignore[operator]


def _is_wide(result: Comparison) -> bool:
    """Tell whether an interval is several times as wide as the error of its prediction."""
    low, high, predicted, error = result.low, result.high, result.predicted, result.error
    if low is None or high is None or not predicted or error is None or low == high:
        return False
    return (high - low) / 2.0 > WIDE * abs(error * predicted)


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
    rows = table("case", "?metric", ">published", ">predicted", "??>80 % interval", ">error", "??result", "??state")
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
