"""Two results, or a result and a benchmark, figure by figure."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from costmodel.report.number import Number
from costmodel.report.page import show, table
from costmodel.report.text import metric, quantity
from costmodel.study.comparing import Compared, Pair
from costmodel.study.timelines import TracesCompared

_INSIDE = {None: "", True: "yes", False: "no"}


def show_compared(found: Compared) -> None:
    """Print the metrics, then the operators that both have."""
    _show("metric", found.metrics, lambda pair, value: metric(pair.name, value))
    if found.operators:
        show()
        _show("operator", found.operators, lambda _, value: quantity(value, "duration"))
    for name, why in found.refused.items():
        show(f"{name} is left out: {why}", "yellow")


def show_classes(found: TracesCompared) -> None:
    """Print the seconds of each class of operators on a device."""
    rows = table("class", ">predicted", ">measured", ">predicted over measured")
    for one in found.classes:
        ratio = "" if one.ratio is None else Number(f"{one.ratio:.3f}", one.ratio)
        rows.add(one.name, quantity(one.predicted, "duration"), quantity(one.measured, "duration"), ratio)
    show(rows)


def _show(what: str, pairs: Sequence[Pair], shown: Callable[[Pair, float | None], str]) -> None:
    inside = any(pair.inside is not None for pair in pairs)
    headings = ("scenario", what, ">first", ">second", ">first over second")
    rows = table(*headings, "second in 80 %") if inside else table(*headings)
    for pair in pairs:
        ratio = "" if pair.ratio is None else Number(f"{pair.ratio:.3f}", pair.ratio)
        cells = (pair.scenario, pair.name, shown(pair, pair.first), shown(pair, pair.second), ratio)
        rows.add(*cells, *((_INSIDE[pair.inside],) if inside else ()))
    show(rows)
