"""The page of a result: for each scenario its metrics, where its time goes, and where the times come from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from statistics import median

from costmodel.report.hardware import topologies_table
from costmodel.report.page import Number, Table, table
from costmodel.report.plots.breakdown import finding
from costmodel.report.plots.memory import PARTS
from costmodel.report.plots.pareto import layout_name
from costmodel.report.plotting import by_class, file_names
from costmodel.report.reproduce import Compared, results_table
from costmodel.report.search import considered
from costmodel.report.sensitivity import change
from costmodel.report.simulate import interval_of, metrics_table
from costmodel.report.text import (
    NONE,
    gib,
    interval,
    memory_use,
    metric,
    percent,
    quantity,
    readable,
    setting,
    share,
    short_paths,
    shown_basis,
    title_of,
    whole,
)
from costmodel.report.web.figures import result_figures
from costmodel.report.web.markup import (
    MOST_ROWS,
    EmbeddedPlot,
    Section,
    data_table,
    figure,
    html_table,
    items,
    rows_of,
    text,
)
from costmodel.result import PHASES, headline_of, shown_line
from costmodel.schema.results import (
    BreakdownLine,
    FoundLayout,
    ReproducedFile,
    ResultFile,
    ScenarioResult,
    SearchFile,
    SensitivityFile,
    SweepAxis,
    SweepFile,
    TopologiesFile,
)
from costmodel.study.prices import Quoted, quotes, unlike

ANSWERS = 4  # scenarios that the first lines of a page answer


def about_result(result: ResultFile) -> str:
    """Return the headline of each scenario with its interval, and a sentence on the result."""
    answers = []
    for name, scenario in list(result.scenarios.items())[:ANSWERS]:
        headline = _headline(scenario)
        value = f"{title_of(headline)} {metric(headline, scenario.metrics.get(headline))}"
        ends = interval_of(scenario.intervals, headline)
        answers.append(f"{name}: {'cannot run' if scenario.reason else f'{value} ({ends})'}")
    made = f"Model {result.model.name}, predicted by costmodel {result.version}. Intervals are 80 % intervals."
    return f"{'; '.join(answers)}. {made}"


def result_sections(result: ResultFile, plots: Mapping[str, EmbeddedPlot], prefix: str = "") -> list[Section]:
    """Return the sections of a result. prefix: of the names of its plots."""
    scenarios = result.scenarios
    sections = [Section("Scenarios", [_overview(scenarios)])]
    for name, file in file_names(scenarios).items():
        sections.append(Section(name, list(_scenario(name, scenarios[name], plots, (prefix, file)))))
    memory = figure(plots, f"{prefix}memory", "Memory of the most-loaded device")
    return [*sections, Section("Memory", [_ledgers(scenarios), memory])]


def _headline(scenario: ScenarioResult) -> str:
    return PHASES[scenario.phase][0] if scenario.phase in PHASES else next(iter(scenario.metrics), "")


def _overview(scenarios: Mapping[str, ScenarioResult]) -> str:
    rows = table("scenario", "cluster", ">devices", "metric", ">predicted", ">80 % interval", "bound", ">memory")
    for name, scenario in scenarios.items():
        headline = _headline(scenario)
        feasible = scenario.memory.fits and scenario.reason is None
        rows.add(
            name, scenario.cluster, whole(scenario.devices), title_of(headline),
            metric(headline, scenario.metrics.get(headline)), interval_of(scenario.intervals, headline),
            scenario.bound if feasible else "cannot run", memory_use(_used(scenario), scenario.memory.capacity),
        )  # fmt: skip
    return html_table("Headline metric of each scenario", rows)


def _scenario(
    name: str, scenario: ScenarioResult, plots: Mapping[str, EmbeddedPlot], file: tuple[str, str]
) -> Iterator[str]:
    prefix, ending = file
    yield (
        f"<p>{text(scenario.phase)} on {_number(scenario.devices)} of {text(scenario.cluster)}; "
        f"limited by {text(scenario.bound)}.</p>"
    )
    if scenario.reason is not None:
        yield f'<p class="refused">Cannot run: {text(scenario.reason)}</p>'
    metrics = html_table("Metrics", metrics_table(scenario.metrics, scenario.intervals, title_of))
    yield f'<div class="pair">{metrics}{_basis(scenario)}</div>'
    yield items([*_prices(scenario), *scenario.notes])
    yield items(f"{readable(key)} not available: {reason}" for key, reason in scenario.reasons.items())
    drawn = result_figures([("A", scenario.model_dump(mode="json", by_alias=True))])
    yield '<div class="pair">'
    yield figure(plots, f"{prefix}time-{ending}", finding(name, scenario), drawn.get("time"))
    caption = f"{name}: roofline (marker area: share of the time)"
    yield figure(plots, f"{prefix}roofline-{ending}", caption, drawn.get("roofline"))
    yield "</div>"
    yield html_table("Operators, time per device", _operators(scenario.breakdown))


def _number(devices: int) -> str:
    return "1 device" if devices == 1 else f"{devices:,} devices"


def _prices(scenario: ScenarioResult) -> Iterator[str]:
    models = [] if scenario.hardware is None else [scenario.hardware.model_dump()]
    for of, name in (("rental", "cost_rate"), ("purchase", "capital_cost")):
        if scenario.metrics.get(name) is not None:
            yield from (f"{of} price: {one}" for one in quotes(models, of))


def _basis(scenario: ScenarioResult) -> str:
    rows = table("basis", ">share of the time")
    for value, name in sorted(((value, name) for name, value in scenario.basis.items() if value > 0), reverse=True):
        rows.add(shown_basis(name), share(value))
    return html_table("Where the times come from", rows)


def _operators(breakdown: Sequence[BreakdownLine]) -> Table:
    rows = table("operator", ">time", ">share", ">hidden", ">calls", "bound", "basis", "format", ">rate")
    for line in breakdown:
        rows.add(
            shown_line(line.name), quantity(line.time, "time"), share(line.share),
            quantity(line.hidden, "time") if line.hidden else "",
            Number(f"{line.count:,.6g}", line.count) if line.count else "", line.bound, shown_basis(line.basis),
            line.dtype or "",
            quantity(line.flop_rate, "flop_rate") if line.flop_rate else "",
        )  # fmt: skip
    return rows


def _used(scenario: ScenarioResult) -> float:
    return sum(float(getattr(scenario.memory, part)) for part in PARTS)


def _ledgers(scenarios: Mapping[str, ScenarioResult]) -> str:
    rows = table("scenario", *(f">{readable(part)}" for part in PARTS), ">total", ">capacity", "fits")
    for name, scenario in scenarios.items():
        memory = scenario.memory
        sizes = [*(float(getattr(memory, part)) for part in PARTS), _used(scenario), memory.capacity]
        rows.add(name, *(gib(size, 2) for size in sizes), "yes" if memory.fits else "no")
    return html_table("Memory of the most-loaded device (GiB)", rows)


# ---- The sections of a sweep and of a trace: their plots and the data of these ---------------------------------------

ALL_ROWS, FEWEST_ROWS = 6000, 20  # of the tables of all plots together, and of one
MOST_VALUES = 12  # of an axis that are listed
ABOUT_TIMELINE = "Work of each rank or stream over time; blank means waiting. Data in seconds."
ABOUT_REQUESTS = "Requests over time, simulated one by one: their times, who ran and waited, and how long queues were."
REQUEST_PLOTS = {
    "times": "Share of requests that took at most so long",
    "load": "Requests that run and wait",
    "queue": "Waiting requests against the rate of arrivals",
}


def sweep_sections(study: SweepFile, plots: Mapping[str, EmbeddedPlot]) -> list[Section]:
    """Return the axes and scenarios of a sweep, and a section for each of its plots."""
    linked = any(axis.link is not None for axis in study.axes)
    axes = table("axis", ">values", "list", *(("together with",) if linked else ()))
    for axis in study.axes:
        others = ", ".join(other.path for other in study.linked_axes(axis) if other is not axis)
        axes.add(axis.path, whole(len(axis.values)), _values(axis), *((others,) if linked else ()))
    scenarios = table("scenario", "phase", "metric")
    for name, scenario in study.scenarios.items():
        scenarios.add(name, scenario.phase, title_of(scenario.headline))
    columns = _columns(study)
    sections = [Section("What varies", [html_table("Axes", axes), html_table("Scenarios", scenarios)])]
    most = min(MOST_ROWS, max(ALL_ROWS // max(len(plots), 1), FEWEST_ROWS))
    for name, plot in plots.items():
        tables = (data_table(f"Points of {name}", data, columns, most) for data in plot.data.values())
        sections.append(Section(name, [figure(plots, name, name), *tables]))
    return sections


def _columns(study: SweepFile) -> dict[str, tuple[str, Callable[[float], str]]]:
    short = short_paths([axis.path for axis in study.axes])
    columns: dict[str, tuple[str, Callable[[float], str]]] = {
        axis.path: (short[axis.path], partial(setting, dimension=axis.dimension)) for axis in study.axes
    }
    for name in {scenario.headline: None for scenario in study.scenarios.values()}:
        for end in ("", " low", " high"):
            columns[f"{name}{end.replace(' ', '_')}"] = f"{title_of(name)}{end}", partial(metric, name)
    return columns


def _values(axis: SweepAxis) -> str:
    shown = ", ".join(setting(value, axis.dimension) for value in axis.values[:MOST_VALUES])
    return f"{shown}, …" if len(axis.values) > MOST_VALUES else shown


def request_sections(plots: Mapping[str, EmbeddedPlot]) -> list[Section]:
    """Return a section for each plot of served requests."""
    titles = {name: REQUEST_PLOTS[name.rpartition("requests-")[2]] for name in plots}
    return [Section(title, [figure(plots, name, title)]) for name, title in titles.items()]


def timeline_sections(plots: Mapping[str, EmbeddedPlot]) -> list[Section]:
    """Return a section for each plot of a trace."""
    return [
        Section(name.rpartition("timeline-")[2], [figure(plots, name, name), *map(_totals, plot.data.values())])
        for name, plot in plots.items()
    ]


def _totals(data: bytes) -> str:
    seconds: dict[tuple[str, str], list[float]] = {}
    for piece in rows_of(data):
        seconds.setdefault((piece["row"], piece["kind"]), []).append(float(piece["seconds"]))
    totals = table("row", "kind", ">parts", ">total time")
    for (row, kind), times in seconds.items():
        totals.add(row, readable(kind), whole(len(times)), quantity(sum(times), "time"))
    return html_table("Work shown", totals)


# ---- The pages of `search`, `sensitivity`, `reproduce` and `topology` ------------------------------------------------

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
