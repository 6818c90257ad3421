"""The pages of a sweep and of a trace: their figures and what these show."""

from __future__ import annotations

from collections.abc import Mapping

from costmodel.report.text import setting
from costmodel.report.web.document import Section, page
from costmodel.report.web.inline import Shown, data_table, figure
from costmodel.report.web.markup import table
from costmodel.schema.results import AxisFile, SweepFile

MOST_VALUES = 12  # of an axis that are listed


def sweep_page(study: SweepFile, figures: Mapping[str, Shown]) -> bytes:
    """Return the page of a sweep with the figures that were drawn of it."""
    asked = table("Axes", ("axis", ">values", "which"), [
        [axis.path, (f"{len(axis.values):,}", len(axis.values)), _values(axis)] for axis in study.axes
    ])  # fmt: skip
    scenarios = table("Scenarios", ("scenario", "phase", "metric"), [
        [name, one.phase, one.headline.replace("_", " ")] for name, one in study.scenarios.items()
    ])  # fmt: skip
    sections = [Section("What varies", [asked, scenarios]), *_figures(figures)]
    about = f"Sweep of {study.points:,} points, predicted by costmodel {study.version}. Bands are 80 % intervals."
    return page(study.workload, about, sections, study.model_dump(mode="json"))


def timeline_page(title: str, figures: Mapping[str, Shown]) -> bytes:
    """Return the page of a trace with the figures that were drawn of it."""
    about = "Timeline: what each rank or stream works on; blank where it waits. Times are in seconds in the data."
    return page(title, about, _figures(figures), {"figures": list(figures)})


def _figures(figures: Mapping[str, Shown]) -> list[Section]:
    """Return a section for each figure with its data."""
    return [
        Section(name, [figure(figures, name, name), *(data_table(file, data) for file, data in shown.data.items())])
        for name, shown in figures.items()
    ]


def _values(axis: AxisFile) -> str:
    shown = ", ".join(setting(value, axis.dimension) for value in axis.values[:MOST_VALUES])
    return f"{shown}, …" if len(axis.values) > MOST_VALUES else shown
