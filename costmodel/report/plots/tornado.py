"""A tornado plot: the elasticity of a metric to each hardware parameter, that of the most useful part on top."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.patches import Patch

from costmodel.report.plots.plot import Plot, table
from costmodel.report.style import BLACK, BLUE, VERMILLION, add_tooltip, canvas, display_name, label_rows
from costmodel.report.text import metric as metric_text
from costmodel.report.text import title_of
from costmodel.schema.answers import ParameterSensitivity

SHOWN = 16
COLUMNS = ("path", "value", "elasticity", "low", "high", "better", "saved", "more", "less", "tied")


def tornado_plot(scenario: str, metric: str, slopes: Sequence[ParameterSensitivity]) -> Plot | None:
    """Return the elasticities of a metric as bars to both sides. Whiskers show those of a step up and a step down."""
    if not slopes:
        return None
    shown = slopes[:SHOWN]
    figure, axes = canvas(1.05 + 0.24 * len(shown))
    for i, slope in enumerate(shown):
        side, colour = -1 if slope.elasticity < 0 else 1, VERMILLION if slope.elasticity > 0 else BLUE
        bars = axes.barh(i, slope.elasticity, height=0.62, color=colour)
        better = f"; 10 % better: {metric_text(metric, slope.better)}" if slope.better is not None else ""
        add_tooltip(bars, f"{slope.path}: {slope.elasticity:+.3f}{better}")
        axes.plot([slope.low, slope.high], [i, i], "|-", color=BLACK, linewidth=0.9, markersize=5)
        end = min(slope.low, slope.elasticity) if side < 0 else max(slope.high, slope.elasticity)
        axes.annotate(
            f"{slope.elasticity:+.2f}", (end, i), (4 * side, 0), textcoords="offset points", va="center",
            ha="right" if side < 0 else "left", fontsize=7.5,
        )  # fmt: skip
    axes.axvline(0.0, color=BLACK, linewidth=0.8)
    label_rows(axes, [slope.path.removeprefix("hardware.") for slope in shown], size=8, longest=46)
    axes.set_xmargin(0.16)
    figure.supxlabel(f"{display_name(scenario)}: change in {title_of(metric)} for a 1 % increase (%)", fontsize=9)
    signs = {slope.elasticity > 0 for slope in shown}
    legend = {False: (BLUE, "decreases the metric"), True: (VERMILLION, "increases the metric")}
    handles = [Patch(color=legend[sign][0], label=legend[sign][1]) for sign in sorted(signs)]
    figure.legend(handles=handles, loc="outside upper left", ncols=2)
    return Plot(figure, {"": table(COLUMNS, ([getattr(slope, name) for name in COLUMNS] for slope in slopes))})
