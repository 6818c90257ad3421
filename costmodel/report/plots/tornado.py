"""A tornado: how much a metric follows each parameter of the hardware, the strongest above."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.patches import Patch

from costmodel.report.plots.drawn import Drawn, table
from costmodel.report.style import BLACK, BLUE, VERMILLION, canvas, name_of, tell
from costmodel.report.text import metric as written
from costmodel.schema.answers import ParameterSensitivity

SHOWN = 16
COLUMNS = ("path", "value", "elasticity", "low", "high", "better", "saved", "tied")


def tornado_figure(scenario: str, metric: str, slopes: Sequence[ParameterSensitivity]) -> Drawn | None:
    """Return the elasticities of a metric as bars to both sides, their span over both steps as whiskers."""
    if not slopes:
        return None
    shown = slopes[:SHOWN]
    figure, axes = canvas(1.05 + 0.24 * len(shown))
    for at, slope in enumerate(shown):
        colour = VERMILLION if slope.elasticity > 0 else BLUE
        bars = axes.barh(at, slope.elasticity, height=0.62, color=colour)
        tenth = f"; a tenth better: {written(metric, slope.better)}" if slope.better is not None else ""
        tell(bars, f"{slope.path}: {slope.elasticity:+.3f}{tenth}")
        axes.plot([slope.low, slope.high], [at, at], "|-", color=BLACK, linewidth=0.9, markersize=5)
        side = -1 if slope.elasticity < 0 else 1
        end = min(slope.low, slope.elasticity) if side < 0 else max(slope.high, slope.elasticity)
        axes.annotate(
            f"{slope.elasticity:+.2f}", (end, at), (4 * side, 0), textcoords="offset points", va="center",
            ha="right" if side < 0 else "left", fontsize=7.5,
        )  # fmt: skip
    axes.axvline(0.0, color=BLACK, linewidth=0.8)
    names = [name_of(slope.path.removeprefix("hardware."), 46) for slope in shown]
    axes.set_yticks(range(len(shown)), names, fontsize=8)
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    axes.set_xmargin(0.16)
    axes.set_xlabel(f"{name_of(scenario)}: % of {metric.replace('_', ' ')} for 1 % more of it")
    signs = {slope.elasticity > 0 for slope in shown}
    words = {False: (BLUE, "less with more of it"), True: (VERMILLION, "more with more of it")}
    figure.legend(
        handles=[Patch(color=words[sign][0], label=words[sign][1]) for sign in sorted(signs)],
        loc="outside upper left", ncols=2,
    )  # fmt: skip
    return Drawn(figure, {"": table(COLUMNS, ([getattr(slope, name) for name in COLUMNS] for slope in slopes))})
