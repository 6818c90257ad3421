"""The pages of what `search`, `sensitivity`, `reproduce` and `topology` found."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median

from costmodel.report.plots.pareto import layout_name
from costmodel.report.plotting import by_class, file_names
from costmodel.report.text import metric, published_figure, quantity, span
from costmodel.report.web.document import Section
from costmodel.report.web.inline import Shown, figure
from costmodel.report.web.markup import Cell, items, table
from costmodel.result import PHASES
from costmodel.schema.answers import (
    FoundLayout,
    FoundScenario,
    ParameterSensitivity,
    ReproducedFile,
    ReproducedValue,
    SearchFile,
    SensitivityFile,
    TopologiesFile,
)

NONE = "-"
MOST_FIGURES = 500  # published ones that a table of the page lists


def search_sections(found: SearchFile, figures: Mapping[str, Shown], prefix: str = "") -> list[Section]:
    """Return a section for each scenario that was searched."""
    files = file_names(list(found.scenarios))
    sections = []
    for name, one in found.scenarios.items():
        file = files[name]
        parts = [
            items([
                f"{one.looked_at:,} layouts were looked at; the degrees of {one.feasible:,} divide; {one.scheduled:,} "
                "were evaluated, no other can be among the best"
            ]),
            figure(figures, f"{prefix}best-{file}", f"{name}: the best layouts, 80 % intervals"),
            _layouts("Best", one.best),
            figure(figures, f"{prefix}pareto-{file}", f"{name}: rate of a device against rate of a user"),
            _layouts("Pareto front", one.front),
        ]  # fmt: skip
        sections.append(Section(name, [*parts, _none(one)]))
    return sections


def _none(one: FoundScenario) -> str:
    return "" if one.best else '<p class="refused">No layout fits and meets the constraints</p>'


def _layouts(caption: str, rows: list[FoundLayout]) -> str:
    if not rows:
        return ""
    headline = next(name for name, *_ in PHASES.values() if name in rows[0].metrics)
    others = [name for name, value in rows[0].metrics.items() if name != headline and value is not None]
    headings = (
        "layout", ">devices", f">{headline.replace('_', ' ')}", ">80 % interval",
        *(f">{name.replace('_', ' ')}" for name in others),
    )  # fmt: skip
    listed: list[list[Cell]] = []
    for row in rows:
        ends: Cell = NONE
        if row.interval is not None:
            low, high = row.interval
            ends = span(headline, low, high), high - low
        cells: list[Cell] = [layout_name(row.at), (f"{row.devices:,}", row.devices), _measured(row, headline), ends]
        listed.append([*cells, *(_measured(row, name) for name in others)])
    return table(caption, headings, listed)


def _measured(row: FoundLayout, name: str) -> Cell:
    value = row.metrics.get(name)
    return metric(name, value), value


def sensitivity_sections(found: SensitivityFile, figures: Mapping[str, Shown], prefix: str = "") -> list[Section]:
    """Return a section for each scenario whose metric was followed."""
    files = file_names(list(found.scenarios))
    return [
        Section(name, [
            figure(figures, f"{prefix}tornado-{files[name]}", f"{name}: elasticity of {found.metric}"),
            _slopes(found.metric, slopes),
        ])
        for name, slopes in found.scenarios.items()
    ]  # fmt: skip


def _slopes(name: str, slopes: list[ParameterSensitivity]) -> str:
    headings = ("parameter", ">value", ">elasticity", ">a tenth better", ">80 % interval", ">saves $/T tokens")
    rows: list[list[Cell]] = []
    for one in slopes:
        low, high = one.better_interval or (0.0, 0.0)
        rows.append([
            one.path, (f"{one.value:.6g}", one.value), (f"{one.elasticity:+.3f}", one.elasticity),
            (metric(name, one.better), one.better),
            (span(name, low, high), high - low) if one.better_interval else NONE,
            NONE if one.saved is None else (f"{one.saved:,.0f}", one.saved),
        ])  # fmt: skip
    return table("Parameters of the hardware, values in SI", headings, rows)


def reproduced_sections(found: ReproducedFile, figures: Mapping[str, Shown], prefix: str = "") -> list[Section]:
    """Return an overview, and a section for each class of figures."""
    classes = by_class(found)
    files = file_names(list(classes))
    rows: list[list[Cell]] = []
    for name, members in classes.items():
        errors = [abs(one.error) for one in members if one.error is not None]
        held = [one for one in members if one.error is not None and one.low is not None and one.low != one.high]
        inside = sum(
            one.low <= one.published <= one.high for one in held
            if one.low is not None and one.high is not None and one.published is not None
        )  # fmt: skip
        rows.append([
            name, (f"{len(members):,}", len(members)), (f"{len(errors):,}", len(errors)),
            (f"{median(errors):.1%}", median(errors)) if errors else NONE,
            (f"{sum(errors) / len(errors):.1%}", sum(errors) / len(errors)) if errors else NONE,
            (f"{inside / len(held):.0%} of {len(held):,}", inside / len(held)) if held else NONE,
        ])  # fmt: skip
    headings = ("class", ">figures", ">with an error", ">median error", ">mean error", ">inside the 80 % interval")
    sections = [Section("Errors", [table("Absolute relative errors", headings, rows)])]
    for name, members in classes.items():
        shown = figure(figures, f"{prefix}published-{files[name]}", f"{name}: predicted against published")
        sections.append(Section(name, [shown, _published(members)]))
    return sections


def _published(members: list[ReproducedValue]) -> str:
    headings = ("case", "metric", ">published", ">predicted", ">error", "verdict")
    rows: list[list[Cell]] = [
        [
            one.id, one.metric or "", (published_figure(one.metric or "", one.unit, one.published), one.published),
            (published_figure(one.metric or "", one.unit, one.predicted), one.predicted),
            NONE if one.error is None else (f"{one.error:+.1%}", one.error), one.verdict,
        ]
        for one in sorted(members, key=lambda one: -abs(one.error or 0.0))[:MOST_FIGURES]
    ]  # fmt: skip
    return table("Figures, the worst first", headings, rows)


def fabrics_sections(found: TopologiesFile, figures: Mapping[str, Shown], prefix: str = "") -> list[Section]:
    """Return the fabrics as a figure and a table."""
    headings = ("topology", ">endpoints", ">switches", ">links", ">cost", ">an endpoint", ">diameter", ">bisection")
    rows: list[list[Cell]] = [
        [
            one.name, *((f"{value:,.0f}", value) for value in (one.endpoints, one.switches, one.links)),
            NONE if one.cost is None else (f"{one.cost:,.0f} $", one.cost),
            NONE if one.cost_per_endpoint is None else (f"{one.cost_per_endpoint:,.0f} $", one.cost_per_endpoint),
            NONE if one.diameter is None else (f"{one.diameter:g}", one.diameter),
            (quantity(one.bisection_bandwidth, "bandwidth"), one.bisection_bandwidth),
        ]
        for one in found.root
    ]  # fmt: skip
    drawn = figure(figures, f"{prefix}topologies", "Endpoints, price and bisection of each fabric")
    return [Section("Topologies", [drawn, table("Parts, prices and distances", headings, rows)])]
