"""The figures of results as Plotly's JSON: data and axes. Fonts and grounds follow the browser's light or dark."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

from costmodel.report.text import quantity, readable, share
from costmodel.result import shown_line
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
Document = Mapping[str, Any]


def result_figures(shown: Sequence[tuple[str, Document]]) -> dict[str, Figure]:
    """Return the figures of scenarios by name: time, memory and roofline, those without anything to show left out.

    shown: the letter of each scenario, and its part of a result as JSON.
    """
    drawn = {"time": _time(shown), "memory": _memory(shown), "roofline": _roofline(shown)}
    return {name: figure for name, figure in drawn.items() if figure["data"]}


def plotted(data: Sequence[Figure], x: str, y: str = "", **layout: Any) -> Figure:
    """Return a figure with titled axes. layout: more of them, or of Plotly's layout."""
    axes: Figure = {"xaxis": {"title": {"text": x}}, "yaxis": {"title": {"text": y}, "automargin": True}}
    for name, more in layout.items():
        axes[name] = {**axes[name], **more} if name in axes else more
    return {"data": list(data), "layout": axes}


def _label(name: str) -> str:
    """Return the name of a line as Plotly shows it, which takes `<` for a tag."""
    return shown_line(name).replace("<", "&lt;")


def _time(shown: Sequence[tuple[str, Document]]) -> Figure:
    """Return where the time goes: a bar for each line of the breakdown, of one scenario by what bounds it."""
    tables = [{_label(each["name"]): each for each in one["breakdown"]} for _, one in shown]
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
    axis = {"categoryorder": "array", "categoryarray": names[::-1], "showgrid": False}
    mode = "stack" if len(shown) == 1 else "group"
    return plotted(data, f"time ({unit})", yaxis=axis, barmode=mode, height=90 + 22 * len(names) * len(shown))


def _memory(shown: Sequence[tuple[str, Document]]) -> Figure:
    """Return the memory of the most-loaded device: a stacked bar for each scenario, with its capacity."""
    gib = parse("1 GiB", "size")
    data: list[Figure] = []
    for part, colour in PARTS.items():
        sizes = [one["memory"].get(part, 0.0) / gib for _, one in shown]
        if any(sizes):
            data.append({
                "type": "bar", "orientation": "h", "name": readable(part), "y": [name for name, _ in shown], "x": sizes,
                "marker": {"color": colour}, "hovertemplate": f"{readable(part)}: %{{x:.2f}} GiB<extra>%{{y}}</extra>",
            })  # fmt: skip
    if data:
        data.append({
            "type": "scatter", "mode": "markers", "name": "capacity", "y": [name for name, _ in shown],
            "x": [one["memory"]["capacity"] / gib for _, one in shown],
            "marker": {"symbol": "line-ns-open", "size": 26, "line": {"width": 3}, "color": "#D55E00"},
            "hovertemplate": "capacity: %{x:.2f} GiB<extra>%{y}</extra>",
        })  # fmt: skip
    axis = {"autorange": "reversed", "showticklabels": len(shown) > 1}
    return plotted(data, "GiB on the most-loaded device", barmode="stack", yaxis=axis, height=150 + 40 * len(shown))


def _roofline(shown: Sequence[tuple[str, Document]]) -> Figure:
    """Return rooflines [Williams, Waterman, Patterson, CACM 52(4), 2009]: operators below the roofs of their device."""
    data: list[Figure] = []
    for name, one in shown:
        lines = [each for each in one["breakdown"] if each["arithmetic_intensity"] and each["flop_rate"]]
        device = one.get("hardware")
        if not lines or device is None:
            continue
        data += _roofs(device, lines, COLOURS[name], f"{name} " if len(shown) > 1 else "")
        data.append({
            "type": "scatter", "mode": "markers", "name": f"{name} operators" if len(shown) > 1 else "operators",
            "x": [each["arithmetic_intensity"] for each in lines], "y": [each["flop_rate"] / 1e12 for each in lines],
            "text": [f"{_label(each['name'])}, {share(each['share'])} of the time" for each in lines],
            "marker": {
                "size": [min(max(LEAST, MOST * each["share"] ** 0.5), MOST) for each in lines], "opacity": 0.75,
                "color": COLOURS[name],
            },
            "hovertemplate": "%{text}<br>%{y:.4g} TFLOP/s at %{x:.4g} FLOP/B<extra></extra>",
        })  # fmt: skip
    axes = {f"{each}axis": _logarithmic([one for part in data for one in part[each]]) for each in "xy"}
    return plotted(data, "FLOP per byte of device memory", "TFLOP/s", **axes, height=380)


def _logarithmic(values: Sequence[float]) -> Figure:
    """Return a logarithmic axis with ticks at 1, 10, 100 …, and at twice and five times these where it is short."""
    low, high = (math.floor(math.log10(end(values, default=1.0))) for end in (min, max))
    ticks = [by * 10.0**power for power in range(low, high + 2) for by in ((1, 2, 5) if high - low <= 1 else (1,))]
    return {"type": "log", "exponentformat": "none", "tickvals": ticks}


def _roofs(device: Document, lines: Sequence[Document], colour: str, prefix: str) -> Iterator[Figure]:
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
