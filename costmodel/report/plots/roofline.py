"""The roofline of a scenario: every operator with products, under what its device offers.

Williams, Waterman, Patterson, CACM 52(4), 2009. An operator stands at its arithmetic intensity, FLOP over compulsory
bytes of device memory, and at the rate that it achieves; its area is its share of the time.
"""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from costmodel.report.plots.drawn import Drawn, table
from costmodel.report.plots.labels import place_labels
from costmodel.report.style import CYCLE, GREY, WIDTH, log_axis, name_of, tell, tick
from costmodel.report.text import quantity, share
from costmodel.schema.results import BreakdownLine, HardwareResult, ScenarioResult

COLUMNS = (
    "name", "dtype", "bound", "basis", "count", "flop", "traffic", "arithmetic_intensity", "flop_rate", "time",
    "hidden", "share",
)  # fmt: skip
AREA, LEAST_AREA = 1600.0, 12.0  # of a marker that stands for all of the time, and of the smallest [square points]
LISTED = 11  # operators that are numbered
LONGEST = 21  # characters of a name in the list
DASHES = ("-", "--", ":", "-.")  # of memory levels, the farthest first


def roofline_figure(name: str, scenario: ScenarioResult) -> Drawn | None:
    """Return the roofline of a scenario, null where no operator has an arithmetic intensity or no device is known."""
    offer = scenario.hardware
    lines = [line for line in scenario.breakdown if line.arithmetic_intensity and line.flop_rate]
    if not lines or offer is None:
        return None
    lines.sort(key=lambda line: -line.share)
    used = sorted({line.dtype for line in lines if line.dtype in offer.peaks}, key=lambda dtype: -offer.peaks[dtype])
    colours = {dtype: CYCLE[at % len(CYCLE)] for at, dtype in enumerate(used)}
    figure = Figure(figsize=(WIDTH, 3.4), layout="constrained")
    axes, beside = figure.subplots(1, 2, width_ratios=(2.3, 1.0))
    _frame(axes, lines, offer, used)
    roofs = _draw_roofs(axes, offer, colours)
    for line in lines:
        colour = colours.get(line.dtype or "", GREY)
        point = axes.scatter(
            *_place(line), _area(line), colour, alpha=0.75, linewidths=0.6, edgecolors="white", zorder=3
        )
        tell([point], _told(line))
    beside.set_axis_off()
    beside.legend(
        handles=roofs, loc="upper left", title=name_of(offer.device), title_fontsize=7.5, fontsize=7, borderpad=0,
        labelspacing=0.25, alignment="left",
    )  # fmt: skip
    _list(beside, lines, colours, scenario)
    axes.set_title(name_of(name), loc="left", fontsize=9)
    place_labels(axes, [(*_place(line), _area(line), str(at)) for at, line in enumerate(lines[:LISTED], start=1)])
    rows = ([getattr(line, column) for column in COLUMNS] for line in lines)
    return Drawn(figure, {"": table(COLUMNS, rows), "-roofs": _table_of_roofs(offer)})


def _place(line: BreakdownLine) -> tuple[float, float]:
    assert line.arithmetic_intensity is not None
    assert line.flop_rate is not None
    return line.arithmetic_intensity, line.flop_rate


def _told(line: BreakdownLine) -> str:
    """Return what the figure tells of an operator."""
    intensity, rate = _place(line)
    return f"{line.name}: {quantity(rate, 'flop_rate')} at {intensity:,.4g} FLOP/B, {share(line.share)} of the time"


def _area(line: BreakdownLine) -> float:
    """Return the area of an operator's marker [square points]."""
    return max(AREA * line.share, LEAST_AREA)


def _frame(axes: Axes, lines: list[BreakdownLine], offer: HardwareResult, used: list[str]) -> None:
    """Set both axes: room around the operators, and above the highest peak."""
    intensities, rates = zip(*map(_place, lines), strict=True)
    ends = min(intensities) / 4, max(intensities) * 4
    heights = min(rates) / 4, max([*rates, *(offer.peaks[dtype] for dtype in used)]) * 2
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(*ends)
    axes.set_ylim(*heights)
    log_axis(axes.xaxis, "arithmetic intensity (FLOP/B of device memory)", "count", ends)
    log_axis(axes.yaxis, "rate on a device", "flop_rate", heights)


def _draw_roofs(axes: Axes, offer: HardwareResult, colours: Mapping[str, str]) -> list[Line2D]:
    """Draw the ceiling of each number format and the slope of each memory level; return what a legend shows."""
    low, high = axes.get_xlim()
    top = max((offer.peaks[dtype] for dtype in colours), default=axes.get_ylim()[1])
    drawn: list[Line2D] = []
    for dtype, colour in colours.items():
        peak = offer.peaks[dtype]
        label = f"{name_of(dtype)} {tick(peak, 'flop_rate')}"
        drawn += axes.plot([low, high], [peak, peak], color=colour, linewidth=1.2, zorder=1, label=label)
    levels = [level for level in reversed(offer.memory) if level.bandwidth]
    for level, dashes in zip(levels, DASHES, strict=False):
        bandwidth = level.bandwidth or 0.0
        end = min(top / bandwidth, high)
        label = f"{name_of(level.name)} {tick(bandwidth, 'bandwidth')}"
        drawn += axes.plot(
            [low, end], [low * bandwidth, end * bandwidth], color=GREY, linewidth=1.2, linestyle=dashes, zorder=1,
            label=label, scalex=False, scaley=False,
        )  # fmt: skip
    return drawn


def _list(beside: Axes, lines: list[BreakdownLine], colours: Mapping[str, str], scenario: ScenarioResult) -> None:
    """List the longest operators by their numbers, and how much of the time has no point."""
    rows = [
        (str(at), f"{name_of(line.name, LONGEST)} {share(line.share)}", colours.get(line.dtype or "", GREY))
        for at, line in enumerate(lines[:LISTED], start=1)
    ]
    without = sum(line.share for line in scenario.breakdown if line not in lines)
    rows.append(("", f"without products {share(without)}", GREY))
    for at, (number, text, colour) in enumerate(reversed(rows)):
        beside.text(0.1, 0.044 * at, number, ha="right", color=colour, fontsize=7, transform=beside.transAxes)
        beside.text(0.14, 0.044 * at, text, fontsize=7, transform=beside.transAxes)


def _table_of_roofs(offer: HardwareResult) -> bytes:
    rows = [("peak", dtype, peak, "FLOP/s") for dtype, peak in offer.peaks.items()]
    levels = [("bandwidth", level.name, level.bandwidth, "B/s") for level in offer.memory]
    return table(("kind", "name", "value", "unit"), [*rows, *levels])
