"""The terminal view of two results, or of a result and a benchmark, value by value."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from costmodel.report.page import Number, is_verbose, show, show_hint, table
from costmodel.report.text import metric, quantity, readable
from costmodel.result import shown_line
from costmodel.study.comparing import Compared, Pair

FEW, FEW_OPERATORS = 7, 3  # scenarios and metrics, and operators, in the short form
_YES_NO = {None: "", True: "yes", False: "no"}


def show_comparison(comparison: Compared) -> None:
    """Print the metrics, then the operators that either side has: in the short form those that differ most."""
    answers = list(_answers(comparison.metrics))
    for line in answers:
        show(line, "bold")
    pairs, operators = list(comparison.metrics), list(comparison.operators)
    if not is_verbose():
        moved = [pair for pair in pairs if pair.ratio not in (None, 1.0)]
        pairs = pairs if len(pairs) <= FEW - len(answers) else moved[: max(FEW - len(answers), 1)]
        operators = sorted(operators, key=_moved, reverse=True)[:FEW_OPERATORS]
    if pairs:
        _show("metric", pairs, lambda pair, value: metric(pair.name, value))
    if operators:
        if is_verbose():
            show()
        _show("operator", operators, lambda _, value: quantity(value, "duration"))
    for one in comparison.prices if is_verbose() else ():
        show(f"{one.of} price: {one}")
    for line in comparison.notes:
        show(f"note: {line}", "yellow")
    for name, reason in comparison.refused.items():
        show(f"{name} skipped: {reason}", "yellow")
    show_hint()


def _answers(metrics: Sequence[Pair]) -> Iterator[str]:
    """Yield for each scenario its first metric of both sides, the headline, and their ratio."""
    first: dict[str, Pair] = {}
    for pair in metrics:
        first.setdefault(pair.scenario, pair)
    for scenario, pair in first.items():
        values = f"{metric(pair.name, pair.first)} and {metric(pair.name, pair.second)}"
        ratio = "" if pair.ratio is None else f": the first is {pair.ratio:.3g} times the second"
        yield f"{scenario}: {readable(pair.name)} {values}{ratio}"


def _moved(pair: Pair) -> float:
    return abs((pair.first or 0.0) - (pair.second or 0.0))


def show_classes(classes: Sequence[Mapping[str, Any]]) -> None:
    """Print the predicted and measured time of each class of operators per device."""
    rows = table("class", ">predicted", ">measured", ">predicted / measured")
    for kind in classes:
        times = quantity(kind["predicted"], "duration"), quantity(kind["measured"], "duration")
        rows.add(kind["name"], *times, _ratio(kind["ratio"]))
    show(rows)


def _show(what: str, pairs: Sequence[Pair], text: Callable[[Pair, float | None], str]) -> None:
    has_intervals = any(pair.inside is not None for pair in pairs)
    headings = ("scenario", what, ">first", ">second", ">first / second")
    rows = table(*headings, "second within first's 80 % interval") if has_intervals else table(*headings)
    for pair in pairs:
        name = readable(shown_line(pair.name)).replace("tokens per second", "tokens/s")
        cells = pair.scenario, name, text(pair, pair.first), text(pair, pair.second)
        rows.add(*cells, _ratio(pair.ratio), *((_YES_NO[pair.inside],) if has_intervals else ()))
    show(rows)


def _ratio(value: float | None) -> str:
    return "" if value is None else Number(f"{value:.3f}", value)
