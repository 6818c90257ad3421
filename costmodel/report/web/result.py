"""The page of a result: its scenarios, and for each its metrics, its time and what this rests on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from costmodel.report.plots.memory import PARTS
from costmodel.report.plotting import file_names
from costmodel.report.text import gib, metric, quantity, share, span, used_of
from costmodel.report.web.document import Section, page
from costmodel.report.web.inline import Shown, figure
from costmodel.report.web.markup import Cell, items, table, text
from costmodel.result import PHASES
from costmodel.schema.results import BreakdownLine, ResultFile, ScenarioResult

NONE = "-"


def result_page(result: ResultFile, figures: Mapping[str, Shown]) -> bytes:
    """Return the page of a result with the figures that were drawn of it."""
    about = about_result(result)
    sections = result_sections(result, figures)
    return page(result.workload or result.model.name, about, sections, result.model_dump(mode="json"))


def about_result(result: ResultFile) -> str:
    """Return what a result is of."""
    return f"Model {result.model.name}, predicted by costmodel {result.version}. Intervals are 80 % intervals."


def result_sections(result: ResultFile, figures: Mapping[str, Shown], prefix: str = "") -> list[Section]:
    """Return the sections of a result. prefix: what the names of its figures begin with."""
    names = file_names(list(result.scenarios))
    return [
        Section("Scenarios", [_overview(result.scenarios)]),
        *(
            Section(name, list(_scenario(name, one, figures, (prefix, names[name]))))
            for name, one in result.scenarios.items()
        ),
        Section("Memory", [
            _ledgers(result.scenarios), figure(figures, f"{prefix}memory", "Memory of the fullest device"),
        ]),
    ]  # fmt: skip


def _overview(scenarios: Mapping[str, ScenarioResult]) -> str:
    rows = [_overview_row(name, one) for name, one in scenarios.items()]
    headings = ("scenario", "cluster", ">devices", "metric", ">predicted", ">80 % interval", "limit", ">memory")
    return table("Headline metric of each scenario", headings, rows)


def _overview_row(name: str, one: ScenarioResult) -> list[Cell]:
    headline = PHASES[one.phase][0] if one.phase in PHASES else next(iter(one.metrics), "")
    return [
        name, one.cluster, (f"{one.devices:,}", one.devices), headline.replace("_", " "),
        *_predicted(one, headline), one.bound if one.memory.fits and one.reason is None else "does not run",
        (used_of(_held(one), one.memory.capacity), _held(one)),
    ]  # fmt: skip


def _predicted(one: ScenarioResult, name: str) -> tuple[Cell, Cell]:
    """Return a metric and its interval, which is sorted by its width."""
    value, interval = one.metrics.get(name), one.intervals.get(name)
    known = interval is not None and len(interval) == 2
    low, high = interval if interval is not None and known else (0.0, 0.0)
    return (metric(name, value), value), (span(name, low, high), high - low) if known else NONE


def _scenario(name: str, one: ScenarioResult, figures: Mapping[str, Shown], file: tuple[str, str]) -> Iterator[str]:
    """Yield the parts of a scenario's section. file: what the names of its figures begin and end with."""
    prefix, ending = file
    yield f"<p>{text(one.phase)} on {one.devices:,} devices of {text(one.cluster)}; limited by {text(one.bound)}.</p>"
    if one.reason is not None:
        yield f'<p class="refused">Does not run: {text(one.reason)}</p>'
    rows = [[key.replace("_", " "), *_predicted(one, key)] for key in one.metrics]
    measures = table("Metrics", ("metric", ">predicted", ">80 % interval"), rows) if rows else ""
    yield f'<div class="pair">{measures}{_basis(one)}</div>'
    yield items(one.notes)
    yield items(f"no {key.replace('_', ' ')}: {reason}" for key, reason in one.reasons.items())
    yield '<div class="pair">'
    yield figure(figures, f"{prefix}time-{ending}", f"{name}: where the time goes")
    yield figure(figures, f"{prefix}roofline-{ending}", f"{name}: roofline, areas are shares of the time")
    yield "</div>"
    if one.breakdown:
        headings = ("operator", ">time", ">share", ">hidden", ">calls", "limit", "basis", "format", ">rate")
        yield table("Operators, times on a device", headings, [_operator(line) for line in one.breakdown])


def _basis(one: ScenarioResult) -> str:
    """Return how much of the time rests on what."""
    bases = sorted(((value, name) for name, value in one.basis.items() if value > 0), reverse=True)
    rows: list[list[Cell]] = [[name, (share(value), value)] for value, name in bases]
    return table("What the time rests on", ("basis", ">share of the time"), rows) if rows else ""


def _operator(line: BreakdownLine) -> list[Cell]:
    return [
        line.name, (quantity(line.time, "time"), line.time), (share(line.share), line.share),
        (quantity(line.hidden, "time"), line.hidden) if line.hidden else "",
        (f"{line.count:,.6g}", line.count) if line.count else "", line.bound, line.basis, line.dtype or "",
        (quantity(line.flop_rate, "flop_rate"), line.flop_rate) if line.flop_rate else "",
    ]  # fmt: skip


def _held(one: ScenarioResult) -> float:
    return sum(float(getattr(one.memory, part)) for part in PARTS)


def _ledgers(scenarios: Mapping[str, ScenarioResult]) -> str:
    """Return what the fullest device of each scenario holds."""
    rows: list[list[Cell]] = []
    for name, one in scenarios.items():
        sizes = [*(float(getattr(one.memory, part)) for part in PARTS), _held(one), one.memory.capacity]
        rows.append([name, *((gib(size, 2), size) for size in sizes), "yes" if one.memory.fits else "no"])
    headings = ("scenario", *(f">{part.replace('_', ' ')}" for part in PARTS), ">in all", ">capacity", "fits")
    return table("Memory of the fullest device (GiB)", headings, rows)
