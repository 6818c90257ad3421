"""What a search found: the front of two rates, or the best layouts side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from textwrap import wrap
from typing import Any

import numpy as np

from costmodel.report.plots.bars import Bar, bars_figure
from costmodel.report.plots.drawn import Drawn, table
from costmodel.report.plots.labels import place_labels
from costmodel.report.style import BLUE, GREY, VERMILLION, canvas, linear_axis, name_of, tell
from costmodel.result import PHASES
from costmodel.schema.answers import FoundLayout, FoundScenario

USER, DEVICE = "tokens_per_second_per_user", "tokens_per_second_per_device"
SHORT = {"parallel.tp": "TP", "parallel.pp": "PP", "parallel.dp": "DP", "parallel.ep": "EP", "parallel.cp": "CP",
         "parallel.virtual": "V", "micro_batch": "micro-batch", "batch_per_device": "batch"}  # fmt: skip


def search_figures(scenario: str, found: FoundScenario) -> Iterator[tuple[str, Drawn]]:
    """Yield (kind, figure): the Pareto front where there is one, and the best layouts with their intervals."""
    if found.front:
        yield "pareto", _front(scenario, found)
    if found.best:
        yield "best", _best(scenario, found.best)


def layout_name(at: Mapping[str, Any]) -> str:
    """Return what a layout sets, in a few letters: degrees of one are left out."""
    words = [
        f"{SHORT.get(name, name.rpartition('.')[2])} {value}" if isinstance(value, int) else str(value)
        for name, value in at.items()
        if value != 1 or not name.startswith("parallel.")
    ]
    return ", ".join(words) or "one device"


def _front(scenario: str, found: FoundScenario) -> Drawn:
    figure, axes = canvas(3.2)
    rows = sorted(found.front, key=lambda row: row.metrics[USER] or 0.0)
    x, y = (np.array([row.metrics[name] or 0.0 for row in rows]) for name in (USER, DEVICE))
    axes.step(x, y, where="pre", color=GREY, linewidth=0.9, zorder=1)
    for row, user, rate in zip(rows, x, y, strict=True):
        dots = axes.plot(user, rate, "o", color=BLUE, markersize=5)
        tell(dots, f"{layout_name(row.at)}, {row.devices:,} devices: {rate:,.0f} tokens/s a device, {user:,.1f} a user")
    marked = [row for row in found.best if row.metrics.get(USER) is not None and row.metrics.get(DEVICE) is not None]
    for row in marked[:1]:
        ring = axes.plot(
            row.metrics[USER] or 0.0, row.metrics[DEVICE] or 0.0, "o", color=VERMILLION, markersize=10,
            markerfacecolor="none", label="best by the objective",
        )  # fmt: skip
        tell(ring, f"best: {layout_name(row.at)}")
    axes.set_xlim(0.0, 1.12 * float(x.max()))
    axes.set_ylim(0.0, 1.15 * float(y.max()))
    place_labels(
        axes,
        [(float(user), float(rate), 25.0, layout_name(row.at)) for row, user, rate in zip(rows, x, y, strict=True)],
    )
    linear_axis(axes.xaxis, "tokens/s of a user", "count", float(x.max()))
    linear_axis(axes.yaxis, f"{name_of(scenario)}: tokens/s of a device", "count", float(y.max()))
    axes.plot([], [], "o-", color=BLUE, markersize=5, label="no layout is better in both")
    figure.legend(loc="outside upper left", ncols=2)
    return Drawn(figure, {"": _data(rows)})


def _best(scenario: str, rows: Sequence[FoundLayout]) -> Drawn:
    headline = next(name for name, *_ in PHASES.values() if name in rows[0].metrics)
    bars = []
    for row in rows:
        low, high = row.interval or (None, None)
        label = "\n".join(wrap(f"{row.devices:,} devices: {layout_name(row.at)}", 38))
        bars.append(Bar(label, headline, row.metrics[headline] or 0.0, low, high, "order open" if row.tied else ""))
    what = f"{name_of(scenario)}: {headline.replace('_', ' ')}"
    return Drawn(bars_figure(bars, what, "time"), {"": _data(rows)})


def _data(rows: Sequence[FoundLayout]) -> bytes:
    """Return layouts with their metrics, in SI."""
    names, metrics = list(rows[0].at), list(rows[0].metrics)
    lines = (
        [row.devices, *(row.at.get(name) for name in names), *(row.metrics.get(name) for name in metrics),
         *(row.interval or (None, None)), row.tied]
        for row in rows
    )  # fmt: skip
    return table(("devices", *names, *metrics, "low", "high", "tied"), lines)
