"""The page of a result: for each scenario its metrics, where its time goes, and where the times come from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from costmodel.report.page import Number, Table, table
from costmodel.report.plots.memory import PARTS
from costmodel.report.plotting import file_names
from costmodel.report.simulate import interval_of, metrics_table
from costmodel.report.text import gib, memory_use, metric, quantity, readable, share, shown_basis, title_of, whole
from costmodel.report.web.document import Section
from costmodel.report.web.inline import EmbeddedPlot, figure
from costmodel.report.web.markup import html_table, items, text
from costmodel.result import PHASES, shown_line
from costmodel.schema.results import BreakdownLine, ResultFile, ScenarioResult
from costmodel.study.prices import quotes

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
    """Yield the parts of a scenario's section. file: beginning and end of the names of its plots."""
    prefix, ending = file
    yield (
        f"<p>{text(scenario.phase)} on {scenario.devices:,} devices of {text(scenario.cluster)}; "
        f"limited by {text(scenario.bound)}.</p>"
    )
    if scenario.reason is not None:
        yield f'<p class="refused">Cannot run: {text(scenario.reason)}</p>'
    metrics = html_table("Metrics", metrics_table(scenario.metrics, scenario.intervals, title_of))
    yield f'<div class="pair">{metrics}{_basis(scenario)}</div>'
    yield items([*_prices(scenario), *scenario.notes])
    yield items(f"{readable(key)} not available: {reason}" for key, reason in scenario.reasons.items())
    yield '<div class="pair">'
    yield figure(plots, f"{prefix}time-{ending}", f"{name}: where the time goes")
    yield figure(plots, f"{prefix}roofline-{ending}", f"{name}: roofline (marker area: share of the time)")
    yield "</div>"
    yield html_table("Operators, time per device", _operators(scenario.breakdown))


def _prices(scenario: ScenarioResult) -> Iterator[str]:
    """Yield the prices that costs rest on, with their kinds, dates and sources."""
    models = [] if scenario.hardware is None else [scenario.hardware.model_dump()]
    for of, name in (("rental", "cost_rate"), ("purchase", "capital_cost")):
        if scenario.metrics.get(name) is not None:
            yield from (f"{of} price: {one}" for one in quotes(models, of))


def _basis(scenario: ScenarioResult) -> str:
    """Return the share of the time by basis."""
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
    """Return the memory in use on the most-loaded device [B]."""
    return sum(float(getattr(scenario.memory, part)) for part in PARTS)


def _ledgers(scenarios: Mapping[str, ScenarioResult]) -> str:
    """Return the memory of the most-loaded device of each scenario by part."""
    rows = table("scenario", *(f">{readable(part)}" for part in PARTS), ">total", ">capacity", "fits")
    for name, scenario in scenarios.items():
        memory = scenario.memory
        sizes = [*(float(getattr(memory, part)) for part in PARTS), _used(scenario), memory.capacity]
        rows.add(name, *(gib(size, 2) for size in sizes), "yes" if memory.fits else "no")
    return html_table("Memory of the most-loaded device (GiB)", rows)
