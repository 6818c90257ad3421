"""A tornado plot: the elasticity of a metric to each hardware parameter, that of the most useful part on top."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.patches import Patch

from costmodel.report.plots.plot import Plot, table
from costmodel.report.style import BLACK, BLUE, SMALL, VERMILLION, add_tooltip, canvas, label_rows
from costmodel.report.text import metric as metric_text
from costmodel.report.text import path_title, short_paths, title_of
from costmodel.schema.answers import ParameterSensitivity

SHOWN, LEAST = 10, 0.005  # parameters, and the least elasticity, of which bars are drawn
COLUMNS = ("path", "value", "elasticity", "low", "high", "better", "saved", "more", "less", "tied")


def tornado_plot(scenario: str, metric: str, slopes: Sequence[ParameterSensitivity]) -> Plot | None:
    """Return the elasticities of a metric as bars to both sides. Whiskers show those of a step up and a step down."""
    if not slopes:
        return None
    short = {path: path_title(name) for path, name in short_paths([slope.path for slope in slopes]).items()}
    shown = [slope for slope in slopes if abs(slope.elasticity) >= LEAST][:SHOWN] or slopes[:1]
    figure, axes = canvas(finding(scenario, metric, shown, short), "whiskers: from a step up and from a step down")
    for i, slope in enumerate(shown):
        side, colour = -1 if slope.elasticity < 0 else 1, VERMILLION if slope.elasticity > 0 else BLUE
        bars = axes.barh(i, slope.elasticity, height=0.62, color=colour)
        better = f"; 10 % better: {metric_text(metric, slope.better)}" if slope.better is not None else ""
        add_tooltip(bars, f"{slope.path}: {slope.elasticity:+.3f}{better}")
        axes.plot([slope.low, slope.high], [i, i], "|-", color=BLACK, linewidth=0.9, markersize=5)
        end = min(slope.low, slope.elasticity) if side < 0 else max(slope.high, slope.elasticity)
        axes.annotate(
            f"{slope.elasticity:+.2f}", (end, i), (4 * side, 0), textcoords="offset points", va="center",
            ha="right" if side < 0 else "left", fontsize=SMALL,
        )  # fmt: skip
    axes.axvline(0.0, color=BLACK, linewidth=0.8)
    label_rows(axes, [short[slope.path] for slope in shown], longest=46)
    axes.set_xmargin(0.16)
    axes.set_xlabel(f"change in {title_of(metric)} for a 1 % increase (%)")
    signs = {slope.elasticity > 0 for slope in shown}
    legend = {False: (BLUE, "decreases the metric"), True: (VERMILLION, "increases the metric")}
    handles = [Patch(color=legend[sign][0], label=legend[sign][1]) for sign in sorted(signs)]
    axes.legend(handles=handles, loc="lower left" if signs == {True} else "best")
    return Plot(figure, {"": table(COLUMNS, ([getattr(slope, name) for name in COLUMNS] for slope in slopes))})


def finding(scenario: str, metric: str, slopes: Sequence[ParameterSensitivity], names: Mapping[str, str]) -> str:
    """Return the parameter that moves a metric most, and by how much where 1 % more of it is had."""
    most = max(slopes, key=lambda slope: abs(slope.elasticity))
    way = "lowers" if most.elasticity < 0 else "raises"
    return f"{scenario}: 1 % more {names[most.path]} {way} {title_of(metric)} by {abs(most.elasticity):.2f} %"
