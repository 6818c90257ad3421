"""A what-if as the page shows it, and the evaluations that several of them share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from costmodel.api import load
from costmodel.quantities import Array
from costmodel.records import Record
from costmodel.report.plots.bars import Bar
from costmodel.report.plots.plot import Plot
from costmodel.report.style import BLUE
from costmodel.report.text import share
from costmodel.result import Point, Result
from reports.what_if.curves import Curve

FLAGSHIP = "deepseek_v3"


class Asked(Record):
    """A what-if. name: of its files; says: sentences below the figure; commands: which ask for the same numbers."""

    name: str
    title: str
    drawn: Plot
    says: Sequence[str]
    commands: Sequence[str]


def point(scenario: str, changes: Mapping[str, object] | None = None, workload: str = FLAGSHIP,
          cluster: str | None = None) -> Point:  # fmt: skip
    """Return one scenario with some changes, complete."""
    loaded = load(workload, set=dict(changes or {}), cluster=cluster, scenarios=[scenario])
    return loaded.evaluate(scenario).point()


def bar(label: str, found: Point, note: str = "", colour: str = BLUE, kind: str = "") -> Bar:
    """Return the headline metric of a point with its interval as a bar."""
    name = found.headline
    value = found.metrics[name]
    assert value is not None, f"{label} cannot run"
    low, high = found.intervals[name] or (None, None)
    return Bar(label=label, metric=name, value=value, low=low, high=high, note=note, colour=colour, kind=kind)


def curve(label: str, x: Sequence[float] | Array, result: Result, name: str, part: Any = slice(None)) -> Curve:
    """Return a metric of a result over one axis as a curve with its band. part: of the grid."""
    shape = np.shape(result.reason)
    ends = result.interval(name)
    value, low, high = (
        np.broadcast_to(np.asarray(np.nan if one is None else one, dtype=np.float64), shape)[part]
        for one in (result.metrics[name], *((None, None) if ends is None else ends))
    )
    return Curve(label, np.asarray(x, dtype=np.float64), value, low, high)


def rests_on(found: Point) -> str:
    """Return what most of a prediction's time rests on, in a few words."""
    parts = sorted(((value, name) for name, value in found.basis().items() if value > 0.1), reverse=True)
    return ", ".join(f"{name} {share(value)}" for value, name in parts)
