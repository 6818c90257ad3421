"""The figures of the page that a result has not: latency against throughput, and the front of deployments."""

from __future__ import annotations

from collections.abc import Sequence

from costmodel.app.prediction import Predicted
from costmodel.report.text import metric, readable, title_of
from costmodel.report.web.figures import COLOURS, GREY, Figure, plotted, result_figures
from costmodel.schema.metrics import unit_of


def figures(scenarios: Sequence[tuple[str, Predicted]]) -> dict[str, Figure]:
    """Return the figures of scenarios by name. scenarios: the letter of each, and what is predicted of it."""
    shown = [(name, one) for name, one in scenarios if one.document]
    curve = _curve(shown)
    drawn = result_figures([(name, one.document) for name, one in shown])
    return drawn | ({"curve": curve} if curve["data"] else {})


def _curve(shown: Sequence[tuple[str, Predicted]]) -> Figure:
    """Return latency against throughput over the load, with the scenario's own point and its intervals."""
    first = next((one.curve for _, one in shown if one.curve is not None), None)
    if first is None:
        return plotted([], "")
    _, rate, time = first.names
    scale, unit = (1e3, "ms") if max(first.latency) < 1.0 else (1.0, "s")
    data: list[Figure] = []
    for name, one in shown:
        curve = one.curve
        if curve is None or curve.names[1:] != (rate, time):
            continue
        colour, label = COLOURS[name], f"{name} " if len(shown) > 1 else ""
        texts = [f"{readable(curve.names[0])} {value:g}" for value in curve.load]
        data.append({
            "type": "scatter", "mode": "lines+markers", "name": f"{label}{readable(curve.names[0])} varied",
            "x": list(curve.throughput), "y": [each * scale for each in curve.latency], "text": texts,
            "line": {"color": colour}, "marker": {"size": 5},
            "hovertemplate": f"%{{text}}: %{{x:,.0f}} {unit_of(rate)}, %{{y:.4g}} {unit}<extra></extra>",
        })  # fmt: skip
        data.append(_own_point(one, (rate, time), scale, (colour, f"{label}as set", unit)))
    return plotted(data, title_of(rate), f"{title_of(time)} ({unit})", height=340)


def _own_point(one: Predicted, names: tuple[str, str], scale: float, look: tuple[str, str, str]) -> Figure:
    """Return the mark of a scenario itself. look: its colour, its name and the unit of times."""
    metrics, intervals = one.document["metrics"], one.document["intervals"]
    rate, time = names
    colour, label, unit = look
    ends = intervals.get(time)
    value = metrics[time] * scale
    error = {} if ends is None else {
        "error_y": {
            "type": "data", "symmetric": False, "array": [ends[1] * scale - value],
            "arrayminus": [value - ends[0] * scale], "color": colour,
        }
    }  # fmt: skip
    return {
        "type": "scatter", "mode": "markers", "name": label, "x": [metrics[rate]], "y": [value],
        "marker": {"size": 12, "symbol": "diamond", "color": colour}, **error,
        "hovertemplate": f"{label}: {metric(rate, metrics[rate])}, %{{y:.4g}} {unit}<extra></extra>",
    }  # fmt: skip


def front(plans: Sequence[Figure]) -> Figure:
    """Return the cost of deployments against their time per token, and the front of those that none beats in both."""
    priced = all(one["cost_rate"] is not None for one in plans)
    cost, title = ("cost_rate", "$ per hour") if priced else ("devices", "devices")
    times = [(one, _per_token(one)) for one in plans]
    known = [(one[cost], time, one) for one, time in times if time is not None]
    data: list[Figure] = []
    for colour, cluster in zip(COLOURS.values(), dict.fromkeys(one["cluster"] for _, _, one in known), strict=False):
        own = [each for each in known if each[2]["cluster"] == cluster]
        ends = [one["intervals"].get("tpot_p99") or [time, time] for _, time, one in own]
        data.append({
            "type": "scatter", "mode": "markers", "name": cluster.rpartition("/")[2], "x": [each[0] for each in own],
            "y": [1e3 * time for _, time, _ in own], "marker": {"size": 11, "color": colour},
            "text": [f"{one['replicas']} x {one['engine']} {one['precision'] or ''}" for _, _, one in own],
            "error_y": {
                "type": "data", "symmetric": False,
                "array": [1e3 * (high - time) for (_, high), (_, time, _) in zip(ends, own, strict=True)],
                "arrayminus": [1e3 * (time - low) for (low, _), (_, time, _) in zip(ends, own, strict=True)],
            },
            "hovertemplate": f"%{{text}}: %{{x:,.4g}} {title}, %{{y:.4g}} ms<extra>%{{fullData.name}}</extra>",
        })  # fmt: skip
    known.sort(key=lambda each: each[:2])
    best = [each for each in known if not any(_beats(other, each) for other in known)]
    data.append({
        "type": "scatter", "mode": "lines", "name": "front", "line": {"dash": "dot", "color": GREY},
        "x": [cost for cost, _, _ in best], "y": [1e3 * time for _, time, _ in best], "hoverinfo": "skip",
    })  # fmt: skip
    zero = {"rangemode": "tozero"}
    return plotted(data, title, "time per output token (ms)", xaxis=zero, yaxis=zero, height=340)


def _per_token(one: Figure) -> float | None:
    """Return the time per token of a plan [s]: of the slowest 1 %, as played, else its mean."""
    metrics: dict[str, float | None] = one["metrics"]
    played = metrics.get("tpot_p99")
    return metrics.get("tpot") if played is None else played


def _beats(other: tuple[float, float, Figure], one: tuple[float, float, Figure]) -> bool:
    """Tell whether a deployment is as good as another one in cost and time, and better in one of them."""
    return other[0] <= one[0] and other[1] <= one[1] and other[:2] != one[:2]
