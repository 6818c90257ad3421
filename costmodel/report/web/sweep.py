"""The sections of a sweep and of a trace: their plots and the data of these."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from costmodel.report.page import table
from costmodel.report.text import metric, quantity, readable, setting, short_paths, title_of, whole
from costmodel.report.web.document import Section
from costmodel.report.web.inline import MOST_ROWS, EmbeddedPlot, data_table, figure, rows_of
from costmodel.report.web.markup import html_table
from costmodel.schema.results import SweepAxis, SweepFile

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
    """Return the heading and the formatter of each column of numbers."""
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
    """Return the time of each kind of work of each row of a timeline."""
    seconds: dict[tuple[str, str], list[float]] = {}
    for piece in rows_of(data):
        seconds.setdefault((piece["row"], piece["kind"]), []).append(float(piece["seconds"]))
    totals = table("row", "kind", ">parts", ">total time")
    for (row, kind), times in seconds.items():
        totals.add(row, readable(kind), whole(len(times)), quantity(sum(times), "time"))
    return html_table("Work shown", totals)
