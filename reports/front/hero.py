"""The README's picture: DeepSeek-V3's training step on four generations of devices, and where its time goes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from costmodel.records import ValueRecord
from costmodel.report.plots.plot import Plot, table
from costmodel.report.style import BLACK, BLUE, GREEN, ORANGE, PALE, PURPLE, SKY
from costmodel.result import Point
from reports.devices.__main__ import rows

NAMES = {"h800-sxm": "H800", "h100-sxm": "H100", "b200-sxm": "B200", "vr200": "Rubin"}
SIZE = (10.667, 6.0)  # inches: 1,600 x 900 pixels
EXCHANGES = ("dispatch", "combine", "all-gather", "reduce-scatter", "slowed by exchanges")
COLOURS = {
    "experts": BLUE, "attention": SKY, "other operators": GREEN, "communication": ORANGE, "pipeline bubble": PURPLE,
}  # fmt: skip


class Step(ValueRecord):
    """A training step on a device. parts: seconds by part; low, high: ends of the 80 % interval."""

    device: str
    seconds: float
    low: float
    high: float
    parts: Mapping[str, float]


def steps() -> list[Step]:
    """Return the step on each device, the same layout everywhere."""
    found = {row.device: row for row in rows(tuple(NAMES))}
    return [
        _step(found[name].label.replace(name, short), found[name].points["training"]) for name, short in NAMES.items()
    ]


def _step(label: str, point: Point) -> Step:
    seconds, ends = point.metrics["step_time"], point.intervals["step_time"]
    assert seconds is not None
    assert ends is not None
    parts = dict.fromkeys(COLOURS, 0.0)
    for line in point.breakdown:
        parts[_part(line.name)] += line.time
    parts["pipeline bubble"] = float(point.metrics["bubble_time"] or 0.0)
    return Step(label, float(seconds), float(ends[0]), float(ends[1]), parts)


def _part(line: str) -> str:
    """Return the part of the step that a line of the breakdown belongs to."""
    if any(word in line for word in EXCHANGES):
        return "communication"
    return "attention" if line == "attention core" else "experts" if "expert " in line else "other operators"


def finding(found: Sequence[Step]) -> str:
    """Return what the picture shows, as its title."""
    first, measured, last = found[0], found[-2], found[-1]
    return (
        f"DeepSeek-V3 trains {first.seconds / measured.seconds:.1f} times as fast on {measured.device} as on "
        f"{first.device}, and {first.seconds / last.seconds:.1f} times on {last.device}"
    )


def hero_figure(found: Sequence[Step]) -> Plot:
    """Return the step on each device as a bar of its parts, with its interval."""
    figure = Figure(figsize=SIZE, layout="constrained")
    axes = figure.add_subplot()
    for at, step in enumerate(found):
        left = 0.0
        for part, colour in COLOURS.items():
            width = step.parts[part]
            axes.barh(at, width, 0.6, left, color=colour, label=part if not at else None)
            if width > 0.06 * found[0].seconds:
                text = f"{width:.1f}"
                axes.text(left + width / 2.0, at, text, ha="center", va="center", fontsize=11, color="white")
            left += width
        axes.plot([step.low, step.high], [at + 0.4] * 2, color=BLACK, linewidth=1.5)
        axes.plot([step.low, step.high], [at + 0.4] * 2, "|", color=BLACK, markersize=9, markeredgewidth=1.5)
        words = f"{step.seconds:.1f} s  ({step.low:.1f} to {step.high:.1f})"
        axes.text(left + 0.3, at, words, va="center", fontsize=13)
    axes.set_yticks(range(len(found)), [step.device for step in found], fontsize=13)
    axes.invert_yaxis()
    axes.set_xlim(0.0, 1.1 * max(step.high for step in found))
    axes.tick_params(axis="x", labelsize=11)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("training step on 2,048 devices (s); black line: 80 % interval", fontsize=12)
    axes.legend(fontsize=11, ncols=5, loc="lower center", bbox_to_anchor=(0.5, 1.0), edgecolor=PALE, frameon=False)
    figure.suptitle(finding(found), fontsize=16, x=0.02, ha="left")
    headings = ("device", "step_time", "low", "high", *COLOURS)
    data = ([step.device, step.seconds, step.low, step.high, *step.parts.values()] for step in found)
    return Plot(figure, {"": table(headings, data)})
