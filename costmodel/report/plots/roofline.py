"""The roofline of a scenario: every operator with FLOPs, below the roofs of its device.

Williams, Waterman, Patterson, CACM 52(4), 2009. An operator is drawn at its arithmetic intensity, FLOP over compulsory
bytes of device memory, and at its achieved rate. Its area is its share of the time.
"""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.axes import Axes

from costmodel.report.plots.labels import place_labels
from costmodel.report.style import CYCLE, GREY, SMALL, Plot, add_tooltip, display_name, log_axis, panels, table, tick
from costmodel.report.text import path_title, quantity, share
from costmodel.schema.results import BreakdownLine, HardwareResult, ScenarioResult

COLUMNS = (
    "name", "dtype", "bound", "basis", "count", "flop", "traffic", "arithmetic_intensity", "flop_rate", "time",
    "hidden", "share",
)  # fmt: skip
AREA, LEAST_AREA = 4000.0, 30.0  # of the marker of an operator that takes all of the time; of the smallest [pt^2]
LISTED = 10  # operators with a number
LONGEST = 28  # characters of a name in the list
DASHES = ("-", "--", ":", "-.")  # of memory levels, device memory first


def roofline_plot(name: str, scenario: ScenarioResult) -> Plot | None:
    """Return the roofline of a scenario, null without arithmetic intensities or a known device."""
    device = scenario.hardware
    lines = [line for line in scenario.breakdown if line.arithmetic_intensity and line.flop_rate]
    if not lines or device is None:
        return None
    lines.sort(key=lambda line: -line.share)
    used = {line.dtype for line in lines if line.dtype in device.peaks}
    dtypes = sorted(used, key=lambda dtype: (-device.peaks[dtype], dtype))
    colours = {dtype: CYCLE[i % len(CYCLE)] for i, dtype in enumerate(dtypes)}
    note = f"{device.device}; area of a marker: share of the time; traffic: of device memory, each byte once"
    figure, (axes, side) = panels(finding(name, lines, device), 2, note, width_ratios=(2.7, 1.0))
    _set_axes(axes, lines, [device.peaks[dtype] for dtype in dtypes])
    _draw_roofs(axes, device, colours)
    for line in lines:
        colour = colours.get(line.dtype or "", GREY)
        point = axes.scatter(
            *_position(line), _area(line), colour, alpha=0.75, linewidths=0.6, edgecolors="white", zorder=3
        )
        add_tooltip([point], _tooltip(line))
    side.set_axis_off()
    _list(side, lines, colours, scenario)
    place_labels(axes, [(*_position(line), _area(line), str(i)) for i, line in enumerate(lines[:LISTED], start=1)])
    rows = ([getattr(line, column) for column in COLUMNS] for line in lines)
    return Plot(figure, {"": table(COLUMNS, rows), "-roofs": _roofs_table(device)})


def finding(name: str, lines: list[BreakdownLine], device: HardwareResult) -> str:
    """Return the share of its peak that the number format reaches in which most time is spent, in the mean of time."""
    times: dict[str, float] = {}
    for line in lines:
        if line.dtype in device.peaks:
            times[line.dtype] = times.get(line.dtype, 0.0) + line.time
    if not any(times.values()):
        return f"{name}: roofline of {device.device}"
    first = max(times, key=lambda dtype: times[dtype])
    done = sum((line.flop_rate or 0.0) * line.time for line in lines if line.dtype == first)
    reached = share(done / times[first] / device.peaks[first])
    return f"{name}: {first.upper()} operators reach {reached} of their peak, {tick(device.peaks[first], 'flop_rate')}"


def _position(line: BreakdownLine) -> tuple[float, float]:
    assert line.arithmetic_intensity is not None
    assert line.flop_rate is not None
    return line.arithmetic_intensity, line.flop_rate


def _tooltip(line: BreakdownLine) -> str:
    intensity, rate = _position(line)
    return f"{line.name}: {quantity(rate, 'flop_rate')} at {intensity:,.4g} FLOP/B, {share(line.share)} of the time"


def _area(line: BreakdownLine) -> float:
    return max(AREA * line.share, LEAST_AREA)


def _set_axes(axes: Axes, lines: list[BreakdownLine], peaks: list[float]) -> None:
    intensities, rates = zip(*map(_position, lines), strict=True)
    x_ends = min(intensities) / 4, max(intensities) * 4
    y_ends = min(rates) / 4, max([*rates, *peaks]) * 2
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(*x_ends)
    axes.set_ylim(*y_ends)
    log_axis(axes.xaxis, "arithmetic intensity (FLOP per byte of HBM traffic)", "count", x_ends)
    log_axis(axes.yaxis, "achieved rate per device", "flop_rate", y_ends)


def _draw_roofs(axes: Axes, device: HardwareResult, colours: Mapping[str, str]) -> None:
    low, high = axes.get_xlim()
    top = max((device.peaks[dtype] for dtype in colours), default=axes.get_ylim()[1])
    for dtype, colour in colours.items():
        peak = device.peaks[dtype]
        axes.plot([low, high], [peak, peak], color=colour, zorder=1)
        name = f"{path_title(display_name(dtype))} {tick(peak, 'flop_rate')}"  # over its left end
        axes.annotate(name, (low, peak), (3, 3), textcoords="offset points", color=colour, fontsize=SMALL)
    levels = [level for level in reversed(device.memory) if level.bandwidth]
    for level, dashes in zip(levels, DASHES, strict=False):
        bandwidth = level.bandwidth or 0.0
        end = min(top / bandwidth, high)
        axes.plot(
            [low, end], [low * bandwidth, end * bandwidth], color=GREY, linestyle=dashes, zorder=1, scalex=False,
            scaley=False, label=f"{path_title(display_name(level.name))} {tick(bandwidth, 'bandwidth')}",
        )  # fmt: skip
    if levels:
        axes.legend(loc="lower right", fontsize=SMALL, frameon=False, labelcolor=GREY)


def _list(side: Axes, lines: list[BreakdownLine], colours: Mapping[str, str], scenario: ScenarioResult) -> None:
    rows = [
        (str(i), f"{display_name(line.name, LONGEST)} {share(line.share)}", colours.get(line.dtype or "", GREY))
        for i, line in enumerate(lines[:LISTED], start=1)
    ]
    without = sum(line.share for line in scenario.breakdown if line not in lines)
    rows.append(("", f"no product, not shown {share(without)}", GREY))
    for i, (number, text, colour) in enumerate(reversed(rows)):
        side.text(0.06, 0.06 * i + 0.1, number, ha="right", color=colour, fontsize=SMALL, transform=side.transAxes)
        side.text(0.1, 0.06 * i + 0.1, text, fontsize=SMALL, transform=side.transAxes)


def _roofs_table(device: HardwareResult) -> bytes:
    rows = [("peak", dtype, peak, "FLOP/s") for dtype, peak in device.peaks.items()]
    levels = [("bandwidth", level.name, level.bandwidth, "B/s") for level in device.memory]
    return table(("kind", "name", "value", "unit"), [*rows, *levels])
