"""The timeline of a trace: the work of each rank, action by action, or of each stream."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from matplotlib.patches import Patch

from costmodel.report import style
from costmodel.report.plots.plot import Plot, table
from costmodel.report.style import GREY, add_tooltip, canvas, label_rows, linear_axis
from costmodel.report.text import quantity, readable, share
from costmodel.study.timelines import ACTIONS, Slice

COLOURS = {
    "forward": style.BLUE, "backward": style.GREEN, "backward_input": style.VERMILLION, "backward_weight": style.SKY,
    "forward_backward": style.PURPLE, "optimizer": style.ORANGE, "pass": GREY,
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
    figure, axes = canvas(finding(name, rows, end))
    used: set[str] = set()
    for i, (row, spans) in enumerate(rows.items()):
        for kind in dict.fromkeys(kind for kind, *_ in spans):
            bars = [(start, seconds) for other, start, seconds, _ in spans if other == kind]
            colour = COLOURS.get(kind, GREY)
            patches = axes.broken_barh(bars, (i - 0.4, 0.8), facecolors=colour, edgecolor="white", linewidth=0.2)
            total = quantity(sum(seconds for _, seconds in bars), "time")
            add_tooltip([patches], f"{row}: {len(bars)} {readable(kind)}, {total} in total")
            used.add(kind if kind in COLOURS else "other")
    label_rows(axes, list(rows), size=12.0 if len(rows) <= FEW_ROWS else 8.0, longest=40)
    linear_axis(axes.xaxis, "time", "time", end)
    legend = [Patch(color=colour, label=readable(kind)) for kind, colour in COLOURS.items() if kind in used]
    legend += [Patch(color=GREY, label="other")] if "other" in used else []
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
    """Return (kind, start, seconds, name) of the slices of each row, in order."""
    rows: dict[str, list[tuple[str, float, float, str]]] = {}
    for piece in slices:
        rows.setdefault(row(piece), []).append((kind(piece), piece.start, piece.seconds, piece.name))
    return rows


def _kind(name: str) -> str:
    """Return the first kind with a colour that a name begins with, else the name."""
    return next((kind for kind in COLOURS if name.startswith(kind)), name)
