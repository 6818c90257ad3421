"""The layouts of a search: the Pareto front of two rates, and the best ones side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from textwrap import wrap
from typing import Any

import numpy as np

from costmodel.report.plots.bars import Bar, bars_figure
from costmodel.report.plots.labels import place_labels
from costmodel.report.style import BLUE, GREY, VERMILLION, Plot, add_tooltip, canvas, linear_axis, table
from costmodel.report.text import metric, title_of
from costmodel.result import headline_of
from costmodel.schema.results import FoundLayout, FoundScenario

USER, DEVICE = "tokens_per_second_per_user", "tokens_per_second_per_device"
SHORT = {"parallel.tp": "TP", "parallel.pp": "PP", "parallel.dp": "DP", "parallel.ep": "EP", "parallel.cp": "CP",
         "parallel.virtual": "V", "micro_batch": "micro-batch", "batch_per_device": "batch"}  # fmt: skip
MOST = 10  # layouts that are bars


def search_plots(scenario: str, result: FoundScenario) -> Iterator[tuple[str, Plot]]:
    """Yield (kind, plot): the Pareto front if there is one, and the best layouts with their intervals."""
    if result.front:
        yield "pareto", _front(scenario, result)
    if result.best:
        yield "best", _best(scenario, result.best)


def layout_name(at: Mapping[str, Any]) -> str:
    """Return what a layout sets in short, without degrees of one."""
    words = [
        f"{SHORT.get(name, name.rpartition('.')[2])} {value}" if isinstance(value, int) else str(value)
        for name, value in at.items()
        if value != 1 or not name.startswith("parallel.")
    ]
    return ", ".join(words) or "one device"


def _front(scenario: str, result: FoundScenario) -> Plot:
    rows = sorted(result.front, key=lambda row: row.metrics[USER] or 0.0)
    x, y = (np.array([row.metrics[name] or 0.0 for row in rows]) for name in (USER, DEVICE))
    ends = f"{y[0]:,.0f} tokens/s per device at {x[0]:,.0f} per user to {y[-1]:,.0f} at {x[-1]:,.0f} per user"
    figure, axes = canvas(f"{scenario}: from {ends}", "Pareto front: no layout has more of both")
    axes.step(x, y, where="pre", color=GREY, linewidth=0.9, zorder=1)
    for row, user, device in zip(rows, x, y, strict=True):
        point = axes.plot(user, device, "o", color=BLUE, markersize=5)
        rates = f"{device:,.0f} tokens/s per device, {user:,.1f} per user"
        add_tooltip(point, f"{layout_name(row.at)}, {row.devices:,} devices: {rates}")
    with_rates = (row for row in result.best if None not in (row.metrics.get(USER), row.metrics.get(DEVICE)))
    best = next(with_rates, None)
    if best is not None:
        ring = axes.plot(
            best.metrics[USER] or 0.0, best.metrics[DEVICE] or 0.0, "o", color=VERMILLION, markersize=10,
            markerfacecolor="none", label="best by the objective",
        )  # fmt: skip
        add_tooltip(ring, f"best: {layout_name(best.at)}")
    axes.set_xlim(0.0, 1.12 * float(x.max()))
    axes.set_ylim(0.0, 1.15 * float(y.max()))
    names = (layout_name(row.at) for row in rows)
    place_labels(
        axes, [(float(user), float(device), 25.0, name) for user, device, name in zip(x, y, names, strict=True)]
    )
    linear_axis(axes.xaxis, title_of(USER), "count", float(x.max()))
    linear_axis(axes.yaxis, title_of(DEVICE), "count", float(y.max()))
    axes.plot([], [], "o-", color=BLUE, markersize=5, label="Pareto front")
    axes.legend(loc="upper right")
    return Plot(figure, {"": _data(rows)})


def _best(scenario: str, rows: Sequence[FoundLayout]) -> Plot:
    headline = headline_of(rows[0].metrics)
    bars = []
    for row in rows[:MOST]:
        low, high = row.interval or (None, None)
        label = "\n".join(wrap(f"{row.devices:,} devices: {layout_name(row.at)}", 38))
        note = "intervals overlap" if row.tied else ""
        bars.append(Bar(label, headline, row.metrics[headline] or 0.0, low, high, note))
    first = rows[0]
    title = f"{scenario}: best {layout_name(first.at)}, {metric(headline, first.metrics[headline])}"
    figure = bars_figure(title, bars, title_of(headline), "time")
    return Plot(figure, {"": _data(rows)})


def _data(rows: Sequence[FoundLayout]) -> bytes:
    names, metrics = list(rows[0].at), list(rows[0].metrics)
    lines = (
        [row.devices, *(row.at.get(name) for name in names), *(row.metrics.get(name) for name in metrics),
         *(row.interval or (None, None)), row.tied]
        for row in rows
    )  # fmt: skip
    return table(("devices", *names, *metrics, "low", "high", "tied"), lines)
