"""The figures of a page as Plotly's JSON: data and axes. Fonts and grounds follow the browser's light or dark."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

from costmodel.app.prediction import Predicted
from costmodel.report.text import metric, quantity, readable, share, title_of
from costmodel.result import shown_line
from costmodel.schema.metrics import unit_of
from costmodel.units import parse

# Okabe and Ito, Color Universal Design, jfly.uni-koeln.de/color, 2008, as in the printed figures.
BOUNDS = {"compute": "#0072B2", "memory": "#E69F00", "network": "#009E73", "latency": "#CC79A7"}
PARTS = {
    "weights": "#0072B2", "gradients": "#56B4E9", "optimizer": "#009E73", "activations": "#E69F00",
    "kv_cache": "#CC79A7", "communication": "#F0E442", "reserve": "#7F7F7F",
}  # fmt: skip
COLOURS = {"A": "#0072B2", "B": "#D55E00", "C": "#009E73"}  # of scenarios
GREY = "#7F7F7F"
LISTED = 12  # lines of a breakdown, the rest is one
LEAST, MOST = 7.0, 34.0  # diameter of an operator's mark [px]

Figure = dict[str, Any]


def figures(scenarios: Sequence[tuple[str, Predicted]]) -> dict[str, Figure]:
    """Return the figures of scenarios by name. scenarios: the letter of each, and what is predicted of it."""
    shown = [(name, one) for name, one in scenarios if one.document]
    drawn = {"time": _time(shown), "memory": _memory(shown), "roofline": _roofline(shown), "curve": _curve(shown)}
    return {name: figure for name, figure in drawn.items() if figure["data"]}


def _figure(data: Sequence[Figure], x: str, y: str = "", **layout: Any) -> Figure:
    axes: Figure = {"xaxis": {"title": {"text": x}}, "yaxis": {"title": {"text": y}, "automargin": True}}
    for name, more in layout.items():
        axes[name] = {**axes[name], **more} if name in axes else more
    return {"data": list(data), "layout": axes}


def _time(shown: Sequence[tuple[str, Predicted]]) -> Figure:
    """Return where the time goes: a bar for each line of the breakdown, of one scenario by what bounds it."""
    tables = [{shown_line(each["name"]): each for each in one.document["breakdown"]} for _, one in shown]
    longest = {name: max(lines[name]["time"] for lines in tables if name in lines) for name in chain(*tables)}
    names = sorted((name for name in longest if longest[name] > 0), key=lambda name: -longest[name])[:LISTED]
    scale, unit = (1e3, "ms") if max(longest.values(), default=0.0) < 1.0 else (1.0, "s")
    if len(shown) == 1:
        bounds = dict.fromkeys(tables[0][name]["bound"] for name in names)
        own = {bound: [name for name in names if tables[0][name]["bound"] == bound] for bound in bounds}
        series = [(bound, BOUNDS.get(bound, GREY), tables[0], listed) for bound, listed in own.items()]
    else:
        series = [
            (letter, COLOURS[letter], lines, [name for name in names if name in lines])
            for (letter, _), lines in zip(shown, tables, strict=True)
        ]
    data = [
        {
            "type": "bar", "orientation": "h", "name": label, "y": listed, "marker": {"color": colour},
            "x": [lines[name]["time"] * scale for name in listed],
            "text": [share(lines[name]["share"]) for name in listed], "textposition": "outside", "cliponaxis": False,
            "hovertemplate": f"%{{y}}: %{{x:.4g}} {unit}, %{{text}}<extra>{label}</extra>",
        }
        for label, colour, lines, listed in series
    ]  # fmt: skip
    axis = {"categoryorder": "array", "categoryarray": names[::-1]}
    mode = "stack" if len(shown) == 1 else "group"
    return _figure(data, f"time ({unit})", yaxis=axis, barmode=mode, height=90 + 22 * len(names) * len(shown))


def _memory(shown: Sequence[tuple[str, Predicted]]) -> Figure:
    """Return the memory of the most-loaded device: a stacked bar for each scenario, with its capacity."""
    gib = parse("1 GiB", "size")
    data: list[Figure] = []
    for part, colour in PARTS.items():
        sizes = [one.document["memory"].get(part, 0.0) / gib for _, one in shown]
        if any(sizes):
            data.append({
                "type": "bar", "orientation": "h", "name": readable(part), "y": [name for name, _ in shown], "x": sizes,
                "marker": {"color": colour}, "hovertemplate": f"{readable(part)}: %{{x:.2f}} GiB<extra>%{{y}}</extra>",
            })  # fmt: skip
    if data:
        data.append({
            "type": "scatter", "mode": "markers", "name": "capacity", "y": [name for name, _ in shown],
            "x": [one.document["memory"]["capacity"] / gib for _, one in shown],
            "marker": {"symbol": "line-ns-open", "size": 26, "line": {"width": 3}, "color": "#D55E00"},
            "hovertemplate": "capacity: %{x:.2f} GiB<extra>%{y}</extra>",
        })  # fmt: skip
    axis = {"autorange": "reversed", "showticklabels": len(shown) > 1}
    return _figure(data, "GiB on the most-loaded device", barmode="stack", yaxis=axis, height=150 + 40 * len(shown))


def _roofline(shown: Sequence[tuple[str, Predicted]]) -> Figure:
    """Return rooflines [Williams, Waterman, Patterson, CACM 52(4), 2009]: operators below the roofs of their device."""
    data: list[Figure] = []
    for name, one in shown:
        lines = [each for each in one.document["breakdown"] if each["arithmetic_intensity"] and each["flop_rate"]]
        device = one.document.get("hardware")
        if not lines or device is None:
            continue
        data += _roofs(device, lines, COLOURS[name], f"{name} " if len(shown) > 1 else "")
        data.append({
            "type": "scatter", "mode": "markers", "name": f"{name} operators" if len(shown) > 1 else "operators",
            "x": [each["arithmetic_intensity"] for each in lines], "y": [each["flop_rate"] / 1e12 for each in lines],
            "text": [f"{shown_line(each['name'])}, {share(each['share'])} of the time" for each in lines],
            "marker": {
                "size": [min(max(LEAST, MOST * each["share"] ** 0.5), MOST) for each in lines], "opacity": 0.75,
                "color": COLOURS[name],
            },
            "hovertemplate": "%{text}<br>%{y:.4g} TFLOP/s at %{x:.4g} FLOP/B<extra></extra>",
        })  # fmt: skip
    axes = {f"{each}axis": _logarithmic([one for part in data for one in part[each]]) for each in "xy"}
    return _figure(data, "FLOP per byte of device memory", "TFLOP/s", **axes, height=380)


def _logarithmic(values: Sequence[float]) -> Figure:
    """Return a logarithmic axis with ticks at 1, 10, 100 …, and at twice and five times these where it is short."""
    low, high = (math.floor(math.log10(end(values, default=1.0))) for end in (min, max))
    ticks = [by * 10.0**power for power in range(low, high + 2) for by in ((1, 2, 5) if high - low <= 1 else (1,))]
    return {"type": "log", "exponentformat": "none", "tickvals": ticks}


def _roofs(device: Figure, lines: Sequence[Figure], colour: str, prefix: str) -> Iterator[Figure]:
    """Yield the roof of each number format in use: device memory's bandwidth up to the format's peak."""
    bandwidth = next((level["bandwidth"] for level in reversed(device["memory"]) if level["bandwidth"]), None)
    intensities = [each["arithmetic_intensity"] for each in lines]
    for number, dtype in enumerate(dict.fromkeys(each["dtype"] for each in lines if each["dtype"] in device["peaks"])):
        peak = device["peaks"][dtype]
        low, high = min(intensities) / 3, max(*intensities, peak / bandwidth if bandwidth else 0.0) * 3
        corners = [low, *([peak / bandwidth] if bandwidth and low < peak / bandwidth < high else []), high]
        yield {
            "type": "scatter", "mode": "lines", "name": f"{prefix}{dtype} {quantity(peak, 'flop_rate')}", "x": corners,
            "y": [min(peak, at * bandwidth if bandwidth else peak) / 1e12 for at in corners],
            "line": {"color": colour, "width": 1.5, "dash": ("solid", "dash", "dot")[number % 3]}, "hoverinfo": "name",
        }  # fmt: skip


def _curve(shown: Sequence[tuple[str, Predicted]]) -> Figure:
    """Return latency against throughput over the load, with the scenario's own point and its intervals."""
    first = next((one.curve for _, one in shown if one.curve is not None), None)
    if first is None:
        return _figure([], "")
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
    return _figure(data, title_of(rate), f"{title_of(time)} ({unit})", height=340)


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
    return _figure(data, title, "time per output token (ms)", xaxis=zero, yaxis=zero, height=340)


def _per_token(one: Figure) -> float | None:
    """Return the time per token of a plan [s]: of the slowest 1 %, as played, else its mean."""
    metrics: dict[str, float | None] = one["metrics"]
    played = metrics.get("tpot_p99")
    return metrics.get("tpot") if played is None else played


def _beats(other: tuple[float, float, Figure], one: tuple[float, float, Figure]) -> bool:
    """Tell whether a deployment is as good as another one in cost and time, and better in one of them."""
    return other[0] <= one[0] and other[1] <= one[1] and other[:2] != one[:2]
