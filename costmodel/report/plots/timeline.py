"""The timeline of a pipeline: what each rank works on, action by action or part by part."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from matplotlib.patches import Patch

from costmodel.report.plots.drawn import Drawn, table
from costmodel.report.style import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    SKY,
    VERMILLION,
    YELLOW,
    canvas,
    linear_axis,
    name_of,
    tell,
)
from costmodel.report.text import quantity
from costmodel.study.timelines import ACTIONS, Slice

COLOURS = {
    "forward": BLUE, "backward": GREEN, "backward_input": VERMILLION, "backward_weight": SKY,
    "forward_backward": PURPLE, "optimizer": ORANGE, "pass": GREY,
    "attention": BLUE, "experts": GREEN, "dispatch": ORANGE, "combine": VERMILLION, "weight gradients": SKY,
    "pipeline send": YELLOW,
}  # fmt: skip
FEW = 4  # actions of a scenario, up to which its streams are drawn in their place
PARTS = 120  # of streams that are drawn


def timeline_figures(slices: Sequence[Slice]) -> dict[str, Drawn]:
    """Return a Gantt chart for each scenario of a trace: a row for each rank with its actions, white where it idles.

    A pass of inference, which has hardly any actions, shows the streams of one stage in their place, the first of their
    parts.
    """
    scenarios: dict[str, list[Slice]] = {}
    for each in slices:
        scenarios.setdefault(each.process.partition(",")[0], []).append(each)
    return {name: _figure(own) for name, own in scenarios.items()}


def _figure(own: Sequence[Slice]) -> Drawn:
    actions = [each for each in own if each.category == ACTIONS]
    if len(actions) > FEW:
        rows = _rows(actions, lambda each: each.process.partition(", ")[2], lambda each: each.kind)
    else:
        first = [each for each in own if each.category != ACTIONS and each.process == own[0].process]
        parts = sorted(first, key=lambda each: each.start)[:PARTS]
        rows = _rows(parts, lambda each: each.thread, lambda each: _colour_name(each.name))
    figure, axes = canvas(1.3 + 0.26 * len(rows))
    used: set[str] = set()
    for at, (row, spans) in enumerate(rows.items()):
        for kind in dict.fromkeys(kind for kind, *_ in spans):
            bars = [(start, seconds) for other, start, seconds, _ in spans if other == kind]
            drawn = axes.broken_barh(
                bars, (at - 0.4, 0.8), facecolors=COLOURS.get(kind, GREY), edgecolor="white", linewidth=0.2
            )
            lasting = quantity(sum(seconds for other, _, seconds, _ in spans if other == kind), "time")
            tell([drawn], f"{row}: {len(bars)} {kind.replace('_', ' ')}, {lasting} in all")
            used.add(kind if kind in COLOURS else "other")
    axes.set_yticks(range(len(rows)), [name_of(row, 40) for row in rows], fontsize=7)
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    linear_axis(
        axes.xaxis, "time", "time", max(start + seconds for spans in rows.values() for _, start, seconds, _ in spans)
    )
    legend = [Patch(color=colour, label=kind.replace("_", " ")) for kind, colour in COLOURS.items() if kind in used]
    legend += [Patch(color=GREY, label="other")] if "other" in used else []
    figure.legend(handles=legend, loc="outside upper center", ncols=4)
    data = ((row, *span) for row, spans in rows.items() for span in spans)
    return Drawn(figure, {"": table(("row", "kind", "start", "seconds", "what"), data)})


def _rows(
    slices: Sequence[Slice], row: Callable[[Slice], str], kind: Callable[[Slice], str]
) -> Mapping[str, list[tuple[str, float, float, str]]]:
    """Return (kind, start, seconds, what) of the slices of each row, in order."""
    found: dict[str, list[tuple[str, float, float, str]]] = {}
    for each in slices:
        found.setdefault(row(each), []).append((kind(each), each.start, each.seconds, each.name))
    return found


def _colour_name(name: str) -> str:
    """Return the kind of a part: the first one that its name begins with, or its name."""
    return next((kind for kind in COLOURS if name.startswith(kind)), name)
