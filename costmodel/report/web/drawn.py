"""The sections of a sweep and of a trace: their figures and what these show."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from costmodel.report.text import metric, quantity, setting, short_paths
from costmodel.report.web.document import Section
from costmodel.report.web.inline import MOST_ROWS, Shown, data_table, figure, rows_of
from costmodel.report.web.markup import Cell, table
from costmodel.schema.results import SweepAxis, SweepFile

ALL_ROWS, FEWEST_ROWS = 6000, 20  # of the tables of all figures together, and of one
MOST_VALUES = 12  # of an axis that are listed


def about_sweep(study: SweepFile) -> str:
    """Return what a sweep is of."""
    return f"Sweep of {study.points:,} points, predicted by costmodel {study.version}. Bands are 80 % intervals."


def sweep_sections(study: SweepFile, figures: Mapping[str, Shown]) -> list[Section]:
    """Return what varies, and a section for each of the figures, which are all of this sweep."""
    linked = any(axis.link is not None for axis in study.axes)
    asked = table("Axes", ("axis", ">values", "which", *(("together with",) if linked else ())), [
        [axis.path, (f"{len(axis.values):,}", len(axis.values)), _values(axis), *(_with(study, axis) if linked else ())]
        for axis in study.axes
    ])  # fmt: skip
    scenarios = table("Scenarios", ("scenario", "phase", "metric"), [
        [name, one.phase, one.headline.replace("_", " ")] for name, one in study.scenarios.items()
    ])  # fmt: skip
    columns = _columns(study)
    sections = [Section("What varies", [asked, scenarios])]
    most = min(MOST_ROWS, max(ALL_ROWS // max(len(figures), 1), FEWEST_ROWS))
    for name, shown in figures.items():
        tables = (data_table(f"Points of {name}", data, columns, most) for data in shown.data.values())
        sections.append(Section(name, [figure(figures, name, name), *tables]))
    return sections


def _columns(study: SweepFile) -> dict[str, tuple[str, Callable[[float], str]]]:
    """Return the heading of each column of numbers, and how these are written."""
    short = short_paths([axis.path for axis in study.axes])
    found: dict[str, tuple[str, Callable[[float], str]]] = {
        axis.path: (short[axis.path], partial(setting, dimension=axis.dimension)) for axis in study.axes
    }
    for name in {one.headline: None for one in study.scenarios.values()}:
        for end in ("", "_low", "_high"):
            found[f"{name}{end}"] = f"{name}{end}".replace("_", " "), partial(metric, name)
    return found


def _with(study: SweepFile, axis: SweepAxis) -> tuple[str]:
    """Return the axes that vary together with one."""
    return (", ".join(other.path for other in study.linked_axes(axis) if other is not axis),)


def _values(axis: SweepAxis) -> str:
    shown = ", ".join(setting(value, axis.dimension) for value in axis.values[:MOST_VALUES])
    return f"{shown}, …" if len(axis.values) > MOST_VALUES else shown


ABOUT_TIMELINE = "What each rank or stream works on; it is blank where it waits. The data are in seconds."


def timeline_sections(figures: Mapping[str, Shown]) -> list[Section]:
    """Return a section for each of the figures, which are all of one trace."""
    return [
        Section(name.rpartition("timeline-")[2], [figure(figures, name, name), *map(_summed, shown.data.values())])
        for name, shown in figures.items()
    ]


def _summed(data: bytes) -> str:
    """Return the time of each kind of work of each row of a timeline."""
    found: dict[tuple[str, str], list[float]] = {}
    for one in rows_of(data):
        found.setdefault((one["row"], one["kind"]), []).append(float(one["seconds"]))
    rows: list[list[Cell]] = [
        [
            row,
            kind.replace("_", " "),
            (f"{len(seconds):,}", len(seconds)),
            (quantity(sum(seconds), "time"), sum(seconds)),
        ]
        for (row, kind), seconds in found.items()
    ]
    return table("Work that is shown", ("row", "kind", ">parts", ">time in all"), rows)
