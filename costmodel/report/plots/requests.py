"""Requests over time: how long they took, who waited when, and the queue against the rate of arrivals."""

from __future__ import annotations

import numpy as np

from costmodel.quantities import Array
from costmodel.report.plots.plot import Plot, table
from costmodel.report.style import (
    BLUE,
    CYCLE,
    PALE,
    VERMILLION,
    add_tooltip,
    canvas,
    linear_axis,
    log_axis,
    name_curves,
)
from costmodel.report.text import quantity, share, title_of
from costmodel.study.served_requests import ServedRequests

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
    """Draw the share of requests that took at most each time."""
    values = {name: np.sort(each[np.isfinite(each)]) for name in NAMES for each in (getattr(requests, name),)}
    values = {name: each for name, each in values.items() if len(each)}
    spans = {
        name: [quantity(float(np.quantile(each, at)), "time", 3) for at in (0.5, 0.99)] for name, each in values.items()
    }
    first, each = next(iter(values.items()))
    half, most = spans[first]
    figure, axes = canvas(f"{title_of(first)}: half of {len(each):,} requests within {half}, 99 % within {most}")
    for (name, each), colour in zip(values.items(), CYCLE, strict=False):
        line = axes.plot(np.quantile(each, QUANTILES), QUANTILES, color=colour, label=title_of(name))
        add_tooltip(line, f"{title_of(name)}: median {spans[name][0]}, p99 {spans[name][1]}")
    positive = [each[each > 0] for each in values.values()]
    ends = min(float(each[0]) for each in positive), max(float(each[-1]) for each in positive)
    axes.set_xscale("log")
    log_axis(axes.xaxis, "time", "time", ends)
    axes.set_ylim(0.0, 1.0)
    axes.set_ylabel("share of requests")
    axes.legend(loc="lower right")
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
    """Draw the requests that wait and those that run, over time."""
    at = np.linspace(0.0, float(np.nanmax(requests.end)), POINTS)
    waiting = _present(requests.arrival, requests.scheduled, at)
    running = _present(requests.scheduled, requests.end, at)
    figure, axes = canvas(f"At most {running.max():,.0f} requests run and {waiting.max():,.0f} wait at once")
    named = ((running, BLUE, "running"), (waiting, VERMILLION, "waiting"))
    for values, colour, name in named:
        add_tooltip(axes.plot(at, values, color=colour), f"{name}: at most {values.max():,.0f}")
    axes.set_ylim(bottom=0.0)
    axes.set_ylabel("requests")
    linear_axis(axes.xaxis, "time", "time", float(at[-1]))
    name_curves(axes, ((at[-1], values[-1], name, colour) for values, colour, name in named))
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
    figure, axes = canvas(
        f"Requests wait {share(float((waiting > 0).mean()))} of the time, at most {waiting.max():,.0f}"
    )
    axes.set_facecolor(PALE)
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
