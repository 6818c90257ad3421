"""A scatter plot as SVG inside a page: points with their labels, and the front of those that nothing beats."""

from __future__ import annotations

from collections.abc import Sequence

from costmodel.records import ValueRecord
from costmodel.report.text import count
from costmodel.report.web.markup import text

WIDTH, HEIGHT, MARGIN = 640.0, 360.0, 60.0


class Mark(ValueRecord):
    """A point. label: what it is."""

    x: float
    y: float
    label: str


def front(marks: Sequence[Mark], *, lower_x: bool, lower_y: bool) -> list[Mark]:
    """Return the points that no other one beats in both, by x. lower_x, lower_y: whether less is better."""
    signs = (1.0 if lower_x else -1.0, 1.0 if lower_y else -1.0)
    kept: list[Mark] = []
    for mark in sorted(marks, key=lambda mark: (signs[0] * mark.x, signs[1] * mark.y)):
        if not kept or signs[1] * mark.y < signs[1] * kept[-1].y:
            kept.append(mark)
    return sorted(kept, key=lambda mark: mark.x)


def scatter(marks: Sequence[Mark], best: Sequence[Mark], x: str, y: str) -> str:
    """Return the plot. best: the front, which a line joins; x, y: what the axes are."""
    if not marks:
        return ""
    across, up = 1.1 * max(mark.x for mark in marks), 1.1 * max(mark.y for mark in marks)

    def at(mark: Mark) -> tuple[float, float]:
        return (
            MARGIN + mark.x / across * (WIDTH - 2 * MARGIN), HEIGHT - MARGIN - mark.y / up * (HEIGHT - 2 * MARGIN),
        )  # fmt: skip

    line = " ".join("{:.1f},{:.1f}".format(*at(mark)) for mark in best)
    dots = "".join(
        f'<circle cx="{at(mark)[0]:.1f}" cy="{at(mark)[1]:.1f}" r="5"><title>{text(mark.label)}</title></circle>'
        f'<text x="{at(mark)[0] + 8:.1f}" y="{at(mark)[1] - 6:.1f}" font-size="11">{text(mark.label)}</text>'
        for mark in marks
    )
    bottom, right = HEIGHT - MARGIN, WIDTH - MARGIN
    return (
        f'<svg viewBox="0 0 {WIDTH:.0f} {HEIGHT:.0f}" role="img" aria-label="{text(y)} over {text(x)}" '
        f'fill="currentColor">'
        f'<path d="M{MARGIN:.0f} {MARGIN:.0f}V{bottom:.0f}H{right:.0f}" fill="none" stroke="currentColor"/>'
        f'<polyline points="{line}" fill="none" stroke="currentColor" stroke-dasharray="4"/>{dots}'
        f'<text x="{right:.0f}" y="{HEIGHT - 20:.0f}" text-anchor="end" font-size="13">{text(x)} '
        f"(to {text(count(across))})</text>"
        f'<text x="{MARGIN:.0f}" y="30" font-size="13">{text(y)} (to {text(count(up))})</text></svg>'
    )
