"""The plots of results, sweeps and traces as SVG and PNG files, with their data as CSV."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, TypeAlias, TypeVar

from costmodel.report.plots.bars import tornado_plot
from costmodel.report.plots.breakdown import breakdown_plot
from costmodel.report.plots.memory import memory_plot
from costmodel.report.plots.pareto import search_plots
from costmodel.report.plots.requests import request_plots, timeline_plots
from costmodel.report.plots.roofline import roofline_plot
from costmodel.report.plots.sweep import sweep_plots
from costmodel.report.plots.topologies import topologies_plot
from costmodel.report.plots.validation import reproduced_plot
from costmodel.report.style import Plot, figure_bytes, styled
from costmodel.schema.results import (
    Answer,
    ReproducedFile,
    ReproducedValue,
    ResultFile,
    ScenarioResult,
    SearchFile,
    SensitivityFile,
)
from costmodel.schema.whole_files import make_folder, write_whole
from costmodel.study.points import Table
from costmodel.study.timelines import ServedRequests, Slice

T = TypeVar("T")
Form: TypeAlias = Literal["svg", "png"]
Source: TypeAlias = "Answer | Table | Sequence[Slice] | ServedRequests"
NamedPlot: TypeAlias = "tuple[str, Plot | None]"  # file name, plot
FORMS: tuple[Form, ...] = ("svg", "png")


def draw(source: Source, folder: Path, forms: Sequence[Form] = FORMS, prefix: str = "") -> list[Path]:
    """Write the plots of the JSON output of a command, of a sweep or of a trace. Return the files.

    prefix: of the names of all files.
    """
    return write_plots(plots_of(source), folder, forms, prefix)


def plots_of(source: Source) -> Iterator[NamedPlot]:
    """Yield the plots of a source with their file names."""
    if isinstance(source, ResultFile):
        yield from _plots_of_each(source.scenarios, _result_plots)
        yield "memory", memory_plot(source.scenarios)
    elif isinstance(source, SearchFile):
        yield from _plots_of_each(source.scenarios, search_plots)
    elif isinstance(source, SensitivityFile):
        metric = source.metric
        yield from _plots_of_each(source.scenarios, lambda name, one: [("tornado", tornado_plot(name, metric, one))])
    elif isinstance(source, ReproducedFile):
        yield from _plots_of_each(by_class(source), lambda name, rows: [("published", reproduced_plot(name, rows))])
    elif isinstance(source, Table):
        for name, file in file_names(source.grids).items():
            for i, plot in enumerate(sweep_plots(source, name)):
                yield f"sweep-{file}" + (f"-{i + 1}" if i else ""), plot
    elif isinstance(source, ServedRequests):
        yield from ((f"requests-{name}", plot) for name, plot in request_plots(source).items())
    elif isinstance(source, Sequence):
        yield from _plots_of_each(timeline_plots(source), lambda _, plot: [("timeline", plot)])
    else:
        yield "topologies", topologies_plot(source.root)


def _plots_of_each(parts: Mapping[str, T], plots: Callable[[str, T], Iterable[NamedPlot]]) -> Iterator[NamedPlot]:
    for name, file in file_names(parts).items():
        yield from ((f"{kind}-{file}", plot) for kind, plot in plots(name, parts[name]))


def _result_plots(name: str, result: ScenarioResult) -> Iterator[NamedPlot]:
    yield "roofline", roofline_plot(name, result)
    yield "time", breakdown_plot(name, result)


def by_class(results: ReproducedFile) -> dict[str, list[ReproducedValue]]:
    """Return the published results of each class. Those that are not compared have none."""
    classes: dict[str, list[ReproducedValue]] = {}
    for result in results.root:
        if result.case_class is not None and result.published is not None:
            classes.setdefault(result.case_class, []).append(result)
    return classes


def write_plots(
    plots: Iterable[NamedPlot], folder: Path, forms: Sequence[Form] = FORMS, prefix: str = ""
) -> list[Path]:
    """Write plots and their data. Return the files."""
    written: list[Path] = []
    make_folder(folder)
    with styled():
        for name, plot in plots:
            if plot is None:
                continue
            images: dict[str, bytes] = {}
            tables = {f"{prefix}{name}{suffix}.csv": data for suffix, data in plot.data.items()}
            for form in sorted(forms, reverse=True, key=FORMS.index):  # PNG first: its texts are wider
                images[form] = figure_bytes(plot.figure, form, tables)
                plot.figure.set_layout_engine(None)  # keeps the layout, and draws the next form once only
            content = {f"{prefix}{name}.{form}": images[form] for form in forms} | tables
            for file, data in content.items():
                write_whole(folder / file, [data])
                written.append(folder / file)
    return written


def file_names(names: Iterable[str]) -> dict[str, str]:
    """Return a file name for each name: letters, digits, `_` and `-` only, no two equal."""
    files: dict[str, str] = {}
    for name in names:
        plain = re.sub(r"[^A-Za-z0-9_-]+", "_", name)[:60] or "_"
        used = [file.casefold() for file in files.values()]
        number = used.count(plain.casefold())
        while f"{plain}_{number}".casefold() in used:
            number += 1
        files[name] = f"{plain}_{number}" if number else plain
    return files
