"""Short texts in or next to round markers, where they cover neither each other nor other markers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from costmodel.report.style import GREY

Label: TypeAlias = "tuple[float, float, float, str]"  # x, y, area of the marker [pt^2], text

GAPS = (2.0, 8.0, 15.0, 24.0, 35.0, 48.0, 64.0, 84.0)  # between a marker and its text [pt]
DIRECTIONS = tuple((math.cos(i * math.pi / 8), math.sin(i * math.pi / 8)) for i in range(16))
ROOMY = 9.0  # radius from which on a marker has room for its text [pt]
AIR = 1.5  # around a text [pt]
CORE = 0.8  # share of a marker's radius that a text must not cover
SMALLEST = 3.0  # radius of a marker as texts avoid it [pt]
LINE = {"arrowstyle": "-", "color": GREY, "linewidth": 0.5, "shrinkA": 0, "shrinkB": 0}


def place_labels(axes: Axes, labels: Sequence[Label]) -> None:
    """Write each text in its marker, or next to it with a line to it, the first ones nearest.

    A text without a free position is left out: the table next to the figure has it.
    """
    figure = axes.figure
    assert isinstance(figure, Figure)
    layout = figure.get_layout_engine()
    assert layout is not None
    layout.execute(figure)
    frame, dot = axes.get_window_extent(), figure.dpi / 72
    markers = [
        _square(axes.transData.transform((x, y)), max(_radius(area) * CORE, SMALLEST) * dot) for x, y, area, _ in labels
    ]
    written: list[Bbox] = []
    for i, (x, y, area, text) in enumerate(labels):
        others = markers[:i] + markers[i + 1 :]
        centre = axes.transData.transform((x, y))
        sizes: dict[str, tuple[float, float]] = {}
        for gap, options in _positions(_radius(area)):
            weight = options.get("fontweight", "normal")
            if weight not in sizes:
                sizes[weight] = _half_size(axes, (x, y), text, options, AIR * dot)
            box = _box(centre, options["xytext"], sizes[weight], dot)
            inside = frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1
            if inside and not box.count_overlaps([*written, *(others if gap < 0 else markers)]):
                axes.annotate(text, (x, y), **options, arrowprops=LINE if gap > GAPS[0] else None)
                written.append(box)
                break


def _half_size(
    axes: Axes, point: tuple[float, float], text: str, options: dict[str, Any], air: float
) -> tuple[float, float]:
    """Return half the width and height of a text with air around it [pixels], the same at every position."""
    note = axes.annotate(text, point, **options)
    box = note.get_window_extent().padded(air)
    note.remove()
    return box.width / 2.0, box.height / 2.0


def _box(centre: Any, offset: tuple[float, float], half: tuple[float, float], dot: float) -> Bbox:
    """Return the box of a centred text, `offset` points from a marker's centre."""
    x, y = centre[0] + offset[0] * dot, centre[1] + offset[1] * dot
    return Bbox.from_extents(x - half[0], y - half[1], x + half[0], y + half[1])


def _positions(radius: float) -> Iterator[tuple[float, dict[str, Any]]]:
    """Yield (gap to the marker, position of the text), the nearest first. A gap below zero is inside the marker."""
    common = {"textcoords": "offset points", "fontsize": 10, "zorder": 5, "ha": "center", "va": "center"}
    if radius >= ROOMY:
        yield -1.0, {**common, "xytext": (0, 0), "color": "white", "fontweight": "bold"}
    for gap in GAPS:
        distance = radius + gap + 6.0
        for right, up in DIRECTIONS:
            yield gap, {**common, "xytext": (right * distance, up * distance)}


def _radius(area: float) -> float:
    return math.sqrt(area / math.pi)


def _square(centre: Any, half: float) -> Bbox:
    return Bbox.from_extents(centre[0] - half, centre[1] - half, centre[0] + half, centre[1] + half)
