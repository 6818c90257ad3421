"""The pages of `search`, `sensitivity`, `reproduce` and `topology`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median

from costmodel.report.network import topologies_table
from costmodel.report.page import Number, table
from costmodel.report.plots.pareto import layout_name
from costmodel.report.plotting import by_class, file_names
from costmodel.report.reproduce import Compared, results_table
from costmodel.report.search import considered
from costmodel.report.sensitivity import change
from costmodel.report.text import NONE, interval, metric, percent, title_of, whole
from costmodel.report.web.document import Section
from costmodel.report.web.inline import EmbeddedPlot, figure
from costmodel.report.web.markup import html_table, items
from costmodel.result import headline_of
from costmodel.schema.answers import FoundLayout, ReproducedFile, SearchFile, SensitivityFile, TopologiesFile
from costmodel.study.prices import Quoted, unlike

MOST_RESULTS = 500  # published results that a table lists


def search_sections(search: SearchFile, plots: Mapping[str, EmbeddedPlot], prefix: str = "") -> list[Section]:
    """Return a section for each scenario that was searched. prefix: of the names of plots, here and below."""
    sections = []
    for name, file in file_names(search.scenarios).items():
        result = search.scenarios[name]
        rents = [Quoted(**one) for one in result.prices]
        sections.append(Section(name, [
            items([considered(result)]),
            figure(plots, f"{prefix}best-{file}", f"{name}: the best layouts, 80 % intervals"),
            _layouts("Best", result.best),
            figure(plots, f"{prefix}pareto-{file}", f"{name}: tokens/s per device against tokens/s per user"),
            _layouts("Pareto front", result.front),
            items([*(f"rental price: {one}" for one in rents), *unlike(rents)]),
            "" if result.best else '<p class="refused">No layout both fits and meets the constraints</p>',
        ]))  # fmt: skip
    return sections


def _layouts(caption: str, layouts: list[FoundLayout]) -> str:
    if not layouts:
        return ""
    metrics = layouts[0].metrics
    headline = headline_of(metrics)
    others = [name for name, value in metrics.items() if name != headline and value is not None]
    titles = (f">{title_of(name)}" for name in others)
    rows = table("layout", ">devices", f">{title_of(headline)}", ">80 % interval", *titles)
    for layout in layouts:
        rows.add(
            layout_name(layout.at), whole(layout.devices), metric(headline, layout.metrics.get(headline)),
            _interval(headline, layout.interval), *(metric(name, layout.metrics.get(name)) for name in others),
        )  # fmt: skip
    return html_table(caption, rows)


def _interval(name: str, ends: Sequence[float] | None) -> str:
    return NONE if ends is None else interval(name, ends[0], ends[1])


def sensitivity_sections(
    sensitivity: SensitivityFile, plots: Mapping[str, EmbeddedPlot], prefix: str = ""
) -> list[Section]:
    """Return a section for each scenario that was examined."""
    title = title_of(sensitivity.metric)
    return [
        Section(scenario, [
            figure(plots, f"{prefix}tornado-{file}", f"{scenario}: elasticity of {title}"),
            _slopes(sensitivity, scenario),
        ])
        for scenario, file in file_names(sensitivity.scenarios).items()
    ]  # fmt: skip


def _slopes(sensitivity: SensitivityFile, scenario: str) -> str:
    name = sensitivity.metric
    rows = table(
        "parameter", ">value", ">10 % more", ">10 % less", ">elasticity", f">{name} if 10 % better", ">80 % interval",
        ">saves ($ per trillion tokens)",
    )  # fmt: skip
    for slope in sensitivity.scenarios[scenario]:
        rows.add(
            slope.path, Number(f"{slope.value:.6g}", slope.value), change(slope.more), change(slope.less),
            Number(f"{slope.elasticity:+.3f}", slope.elasticity), metric(name, slope.better),
            _interval(name, slope.better_interval),
            NONE if slope.saved is None else whole(slope.saved),
        )  # fmt: skip
    return html_table("Hardware parameters (SI units)", rows)


def reproduced_sections(results: ReproducedFile, plots: Mapping[str, EmbeddedPlot], prefix: str = "") -> list[Section]:
    """Return an overview, and a section for each class of published results."""
    classes = by_class(results)
    overview = table("class", ">results", ">with an error", ">median error", ">mean error", ">within 80 % interval")
    for name, rows in classes.items():
        overview.add(name, *_errors(rows))
    sections = [Section("Errors", [html_table("Absolute relative errors", overview)])]
    for name, file in file_names(classes).items():
        plot = figure(plots, f"{prefix}published-{file}", f"{name}: predicted against published")
        worst = sorted(classes[name], key=lambda result: -abs(result.error or 0.0))[:MOST_RESULTS]
        listed = html_table("Published results, largest errors first", results_table(worst))
        sections.append(Section(name, [plot, listed]))
    return sections


def _errors(results: Sequence[Compared]) -> list[str]:
    """Return the number of results, of errors, their median and mean, and the share of values within intervals."""
    errors = [abs(result.error) for result in results if result.error is not None]
    inside = [
        result.low <= result.published <= result.high
        for result in results
        if result.error is not None and result.published is not None
        if result.low is not None and result.high is not None and result.low != result.high
    ]
    covered = sum(inside) / len(inside) if inside else 0.0
    return [
        whole(len(results)), whole(len(errors)), percent(median(errors) if errors else None),
        percent(sum(errors) / len(errors) if errors else None),
        Number(f"{covered:.0%} of {len(inside):,}", covered) if inside else NONE,
    ]  # fmt: skip


def topologies_sections(rows: TopologiesFile, plots: Mapping[str, EmbeddedPlot], prefix: str = "") -> list[Section]:
    """Return the topologies as a plot and a table."""
    plot = figure(plots, f"{prefix}topologies", "Endpoints, cost and bisection bandwidth of each topology")
    content = topologies_table([topology.model_dump() for topology in rows.root])
    return [Section("Topologies", [plot, html_table("Parts, prices and distances", content)])]
