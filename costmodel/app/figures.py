"""The figures of a page as Plotly's JSON: data and axes. Fonts and grounds follow the browser's light or dark."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
SCENARIOS = ("#0072B2", "#D55E00", "#009E73")
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
    """Return where the time goes: a bar for each line of the breakdown, by what bounds it."""
    longest = max((one.document["breakdown"][0]["time"] for _, one in shown if one.document["breakdown"]), default=0.0)
    scale, unit = (1e3, "ms") if longest < 1.0 else (1.0, "s")
    data: list[Figure] = []
    for name, one in shown:
        lines = sorted((each for each in one.document["breakdown"] if each["time"] > 0), key=lambda each: -each["time"])
        rest = sum(each["time"] for each in lines[LISTED:])
        bars = [(_labelled(name, shown_line(each["name"]), shown), each) for each in lines[:LISTED]]
        for bound in dict.fromkeys(each["bound"] for _, each in bars):
            own = [(label, each) for label, each in bars if each["bound"] == bound]
            data.append({
                "type": "bar", "orientation": "h", "name": bound, "legendgroup": bound,
                "showlegend": not any(trace["name"] == bound for trace in data),
                "y": [label for label, _ in own], "x": [each["time"] * scale for _, each in own],
                "marker": {"color": BOUNDS.get(bound, GREY)},
                "text": [share(each["share"]) for _, each in own], "textposition": "outside", "cliponaxis": False,
                "hovertemplate": f"%{{y}}: %{{x:.4g}} {unit}, %{{text}}<extra>{bound}</extra>",
            })  # fmt: skip
        if rest:
            data.append({
                "type": "bar", "orientation": "h", "name": "the rest", "showlegend": False,
                "y": [_labelled(name, "the rest", shown)], "x": [rest * scale], "marker": {"color": GREY},
                "hovertemplate": f"%{{y}}: %{{x:.4g}} {unit}<extra></extra>",
            })  # fmt: skip
    order = [label for trace in data for label in trace["y"]]
    times = {label: value for trace in data for label, value in zip(trace["y"], trace["x"], strict=True)}
    order.sort(key=lambda label: (label.endswith("the rest"), -times[label]))
    own_axis = {"categoryorder": "array", "categoryarray": order[::-1]}
    return _figure(data, f"time ({unit})", yaxis=own_axis, height=90 + 22 * len(order), barmode="stack")


def _labelled(name: str, text: str, shown: Sequence[tuple[str, Predicted]]) -> str:
    return f"{name} {text}" if len(shown) > 1 else text


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
    for number, (name, one) in enumerate(shown):
        lines = [each for each in one.document["breakdown"] if each["arithmetic_intensity"] and each["flop_rate"]]
        device = one.document.get("hardware")
        if not lines or device is None:
            continue
        data += _roofs(device, lines, SCENARIOS[number], f"{name} " if len(shown) > 1 else "")
        data.append({
            "type": "scatter", "mode": "markers", "name": f"{name} operators" if len(shown) > 1 else "operators",
            "x": [each["arithmetic_intensity"] for each in lines], "y": [each["flop_rate"] / 1e12 for each in lines],
            "text": [f"{shown_line(each['name'])}, {share(each['share'])} of the time" for each in lines],
            "marker": {
                "size": [min(max(LEAST, MOST * each["share"] ** 0.5), MOST) for each in lines], "opacity": 0.75,
                "color": SCENARIOS[number],
            },
            "hovertemplate": "%{text}<br>%{y:.4g} TFLOP/s at %{x:.4g} FLOP/B<extra></extra>",
        })  # fmt: skip
    logarithmic = {"type": "log", "exponentformat": "none", "dtick": 1}
    return _figure(data, "FLOP per byte of device memory", "TFLOP/s", xaxis=logarithmic, yaxis=logarithmic, height=380)


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
    for number, (name, one) in enumerate(shown):
        curve = one.curve
        if curve is None or curve.names[1:] != (rate, time):
            continue
        colour, label = SCENARIOS[number], f"{name} " if len(shown) > 1 else ""
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
