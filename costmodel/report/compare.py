"""The terminal view of two results, or of a result and a benchmark, value by value."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from costmodel.report.page import Number, show, table
from costmodel.report.text import metric, quantity, readable
from costmodel.result import shown_line
from costmodel.study.comparing import Compared, Pair
from costmodel.study.timelines import TracesCompared

_YES_NO = {None: "", True: "yes", False: "no"}


def show_comparison(comparison: Compared) -> None:
    """Print the metrics, then the operators that either side has."""
    _show("metric", comparison.metrics, lambda pair, value: metric(pair.name, value))
    if comparison.operators:
        show()
        _show("operator", comparison.operators, lambda _, value: quantity(value, "duration"))
    for one in comparison.prices:
        show(f"{one.of} price: {one}")
    for line in comparison.notes:
        show(f"note: {line}", "yellow")
    for name, reason in comparison.refused.items():
        show(f"{name} skipped: {reason}", "yellow")


def show_classes(comparison: TracesCompared) -> None:
    """Print the predicted and measured time of each class of operators per device."""
    rows = table("class", ">predicted", ">measured", ">ratio (predicted / measured)")
    for kind in comparison.classes:
        times = quantity(kind.predicted, "duration"), quantity(kind.measured, "duration")
        rows.add(kind.name, *times, _ratio(kind.ratio))
    show(rows)


def _show(what: str, pairs: Sequence[Pair], text: Callable[[Pair, float | None], str]) -> None:
    has_intervals = any(pair.inside is not None for pair in pairs)
    headings = ("scenario", what, ">first", ">second", ">ratio (first / second)")
    rows = table(*headings, "second within first's 80 % interval") if has_intervals else table(*headings)
    for pair in pairs:
        cells = (pair.scenario, readable(shown_line(pair.name)), text(pair, pair.first), text(pair, pair.second))
        rows.add(*cells, _ratio(pair.ratio), *((_YES_NO[pair.inside],) if has_intervals else ()))
    show(rows)


def _ratio(value: float | None) -> str:
    return "" if value is None else Number(f"{value:.3f}", value)
