"""Requests over time: how long they took, who waited when, and the queue against the rate of arrivals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import numpy as np
from matplotlib.patches import Patch

from costmodel.quantities import Array
from costmodel.report import style
from costmodel.report.style import Plot, table
from costmodel.report.text import quantity, readable, share, title_of
from costmodel.study.timelines import ACTIONS, ServedRequests, Slice

QUANTILES = np.linspace(0.0, 1.0, 201)
POINTS = 400  # of a line over time
WINDOWS, PER_WINDOW = 400, 10  # of time, in which arrivals are counted: at most, and arrivals of one
CELLS = 24  # of a map, along each axis, at most
NAMES = ("ttft", "tpot", "latency")


def request_plots(requests: ServedRequests) -> dict[str, Plot]:
    """Return the plots of served requests by name."""
    plots = {"times": _times(requests), "load": _load(requests)}
    queue = _queue(requests)
    return plots if queue is None else {**plots, "queue": queue}


def _times(requests: ServedRequests) -> Plot:
    values = {name: np.sort(each[np.isfinite(each)]) for name in NAMES for each in (getattr(requests, name),)}
    values = {name: each for name, each in values.items() if len(each)}
    spans = {
        name: [quantity(float(np.quantile(each, at)), "time", 3) for at in (0.5, 0.99)] for name, each in values.items()
    }
    first, each = next(iter(values.items()))
    half, most = spans[first]
    figure, axes = style.canvas(
        f"{title_of(first).capitalize()}: half of {len(each):,} requests within {half}, 99 % within {most}"
    )
    for (name, each), colour in zip(values.items(), style.CYCLE, strict=False):
        line = axes.plot(np.quantile(each, QUANTILES), QUANTILES, color=colour, label=title_of(name))
        style.add_tooltip(line, f"{title_of(name)}: median {spans[name][0]}, p99 {spans[name][1]}")
    positive = [each[each > 0] for each in values.values()]
    ends = min(float(each[0]) for each in positive), max(float(each[-1]) for each in positive)
    axes.set_xscale("log")
    style.log_axis(axes.xaxis, "time", "time", ends)
    axes.set_ylim(0.0, 1.0)
    axes.set_ylabel("share of requests")
    axes.legend(loc="best")
    rows = (
        (name, float(share), float(np.quantile(each, share))) for name, each in values.items() for share in QUANTILES
    )
    return Plot(figure, {"": table(("metric", "share", "seconds"), rows)})


def _present(begin: Array, end: Array, at: Array) -> Array:
    """Return how many of the spans from `begin` to `end` hold each moment."""
    known = np.isfinite(begin) & np.isfinite(end)
    started = np.searchsorted(np.sort(begin[known]), at, side="right")
    return np.asarray(started - np.searchsorted(np.sort(end[known]), at, side="right"), dtype=np.float64)


def _load(requests: ServedRequests) -> Plot:
    at = np.linspace(0.0, float(np.nanmax(requests.end)), POINTS)
    waiting = _present(requests.arrival, requests.scheduled, at)
    running = _present(requests.scheduled, requests.end, at)
    figure, axes = style.canvas(f"At most {running.max():,.0f} requests run and {waiting.max():,.0f} wait at once")
    named = ((running, style.BLUE, "running"), (waiting, style.VERMILLION, "waiting"))
    for values, colour, name in named:
        style.add_tooltip(axes.plot(at, values, color=colour), f"{name}: at most {values.max():,.0f}")
    axes.set_ylim(bottom=0.0)
    axes.set_ylabel("requests")
    style.linear_axis(axes.xaxis, "time", "time", float(at[-1]))
    style.name_curves(axes, ((at[-1], values[-1], name, colour) for values, colour, name in named))
    columns = zip(at.tolist(), running.tolist(), waiting.tolist(), strict=True)
    return Plot(figure, {"": table(("seconds", "running", "waiting"), columns)})


def _queue(requests: ServedRequests) -> Plot | None:
    """Draw how often so many requests waited at such a rate of arrivals, none where all arrive at once."""
    arrival = requests.arrival[np.isfinite(requests.arrival)]
    windows = max(min(WINDOWS, len(arrival) // PER_WINDOW), 1)
    edges = np.linspace(0.0, float(arrival.max()), windows + 1)
    if edges[-1] <= 0.0:
        return None
    rate = np.histogram(arrival, edges)[0] / (edges[1] - edges[0])
    waiting = _present(requests.arrival, requests.scheduled, (edges[1:] + edges[:-1]) / 2.0)
    ends = [[0.0, max(float(rate.max()), 1e-9)], [0.0, max(float(waiting.max()), 1.0)]]
    counts, rates, queues = np.histogram2d(rate, waiting, min(CELLS, max(windows // 3, 1)), ends)
    figure, axes = style.canvas(
        f"Requests wait {share(float((waiting > 0).mean()))} of the time, at most {waiting.max():,.0f}"
    )
    axes.set_facecolor(style.PALE)
    axes.grid(visible=False)
    part = counts / counts.sum()
    image = axes.pcolormesh(rates, queues, 100.0 * np.ma.masked_equal(part, 0.0).T, cmap="cividis", vmin=0.0)
    axes.set_xlabel("arrivals (requests/s)")
    axes.set_ylabel("requests that wait")
    figure.colorbar(image, ax=axes, label="share of time (%)")
    middle = [(edge[1:] + edge[:-1]) / 2.0 for edge in (rates, queues)]
    rows = (
        (float(middle[0][i]), float(middle[1][j]), float(part[i, j]))
        for i, j in np.ndindex(*part.shape)
        if part[i, j] > 0
    )
    return Plot(figure, {"": table(("arrivals_per_second", "waiting", "share"), rows)})


# ---- The timeline of a trace: the work of each rank, action by action, or of each stream -----------------------------

COLOURS = {
    "forward": style.BLUE, "backward": style.GREEN, "backward_input": style.VERMILLION, "backward_weight": style.SKY,
    "forward_backward": style.PURPLE, "optimizer": style.ORANGE, "pass": style.GREY,
    "attention": style.BLUE, "experts": style.GREEN, "dispatch": style.ORANGE, "combine": style.VERMILLION,
    "weight gradients": style.SKY, "pipeline send": style.YELLOW,
}  # fmt: skip
Rows: TypeAlias = "Mapping[str, list[tuple[str, float, float, str]]]"  # row -> (kind, start, seconds, name)
FEW_ROWS = 16  # names of which are as large as other texts
FEW = 4  # actions of a scenario up to which its streams are drawn instead
MOST_SLICES = 120  # of streams that are drawn


def timeline_plots(slices: Sequence[Slice]) -> dict[str, Plot]:
    """Return a Gantt chart for each scenario of a trace: one row per rank with its actions, white where it waits.

    An inference pass has hardly any actions: it shows the streams of one stage, up to `MOST_SLICES` slices.
    """
    scenarios: dict[str, list[Slice]] = {}
    for piece in slices:
        scenarios.setdefault(piece.process.partition(",")[0], []).append(piece)
    return {name: _plot(name, pieces) for name, pieces in scenarios.items()}


def _plot(name: str, slices: Sequence[Slice]) -> Plot:
    actions = [piece for piece in slices if piece.category == ACTIONS]
    if len(actions) > FEW:
        rows = _rows(actions, lambda piece: piece.process.partition(", ")[2], lambda piece: piece.kind)
    else:
        stage = [piece for piece in slices if piece.category != ACTIONS and piece.process == slices[0].process]
        first = sorted(stage, key=lambda piece: piece.start)[:MOST_SLICES]
        rows = _rows(first, lambda piece: piece.thread, lambda piece: _kind(piece.name))
    end = max(start + seconds for spans in rows.values() for _, start, seconds, _ in spans)
    figure, axes = style.canvas(finding(name, rows, end))
    used: set[str] = set()
    for i, (row, spans) in enumerate(rows.items()):
        for kind in dict.fromkeys(kind for kind, *_ in spans):
            bars = [(start, seconds) for other, start, seconds, _ in spans if other == kind]
            colour = COLOURS.get(kind, style.GREY)
            patches = axes.broken_barh(bars, (i - 0.4, 0.8), facecolors=colour, edgecolor="white", linewidth=0.2)
            total = quantity(sum(seconds for _, seconds in bars), "time")
            style.add_tooltip([patches], f"{row}: {len(bars)} {readable(kind)}, {total} in total")
            used.add(kind if kind in COLOURS else "other")
    style.label_rows(axes, list(rows), size=12.0 if len(rows) <= FEW_ROWS else 8.0, longest=40)
    style.linear_axis(axes.xaxis, "time", "time", end)
    legend = [Patch(color=colour, label=readable(kind)) for kind, colour in COLOURS.items() if kind in used]
    legend += [Patch(color=style.GREY, label="other")] if "other" in used else []
    figure.legend(handles=legend, loc="outside lower left", ncols=5)
    data = ((row, *span) for row, spans in rows.items() for span in spans)
    return Plot(figure, {"": table(("row", "kind", "start", "seconds", "what"), data)})


def finding(name: str, rows: Rows, end: float) -> str:
    """Return how long the row that works longest does, of the whole."""
    busy = {row: sum(seconds for _, _, seconds, _ in spans) for row, spans in rows.items()}
    most = max(busy, key=lambda row: busy[row])
    worker = most.partition(":")[0]
    return f"{name}: {worker} works {share(busy[most] / end)} of {quantity(end, 'time', 3)}, more than any other"


def _rows(slices: Sequence[Slice], row: Callable[[Slice], str], kind: Callable[[Slice], str]) -> Rows:
    rows: dict[str, list[tuple[str, float, float, str]]] = {}
    for piece in slices:
        rows.setdefault(row(piece), []).append((kind(piece), piece.start, piece.seconds, piece.name))
    return rows


def _kind(name: str) -> str:
    """Return the first kind with a colour that a name begins with, else the name."""
    return next((kind for kind in COLOURS if name.startswith(kind)), name)
