"""Figures of a result or a sweep as files: SVG and PNG, and beside each the data that it shows."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, TypeAlias

from costmodel.report.plots.breakdown import breakdown_figure
from costmodel.report.plots.drawn import Drawn
from costmodel.report.plots.fabrics import fabrics_figure
from costmodel.report.plots.memory import memory_figure
from costmodel.report.plots.pareto import search_figures
from costmodel.report.plots.roofline import roofline_figure
from costmodel.report.plots.sweep import sweep_figures
from costmodel.report.plots.timeline import timeline_figures
from costmodel.report.plots.tornado import tornado_figure
from costmodel.report.plots.validation import reproduced_figure
from costmodel.report.style import rendered, styled
from costmodel.schema.answers import Answer, ReproducedFile, ReproducedValue, SearchFile, SensitivityFile
from costmodel.schema.results import ResultFile
from costmodel.schema.whole_files import make_folder, write_whole
from costmodel.study.points import Table
from costmodel.study.timelines import Slice

Form: TypeAlias = Literal["svg", "png"]
Named: TypeAlias = "tuple[str, Drawn | None]"  # file name, figure
FORMS: tuple[Form, ...] = ("svg", "png")


def draw_result(result: ResultFile, folder: Path, forms: Sequence[Form] = FORMS, prefix: str = "") -> list[Path]:
    """Write the figures of a result and return their files: roofline and time of each scenario, memory of all.

    prefix: what the names of all files begin with.
    """
    return draw(_of_result(result), folder, forms, prefix)


def draw_sweep(swept: Table, folder: Path, forms: Sequence[Form] = FORMS, prefix: str = "") -> list[Path]:
    """Write the figures of a sweep and return their files: the headline metric of each scenario."""
    return draw(_of_sweep(swept), folder, forms, prefix)


def draw_timelines(
    slices: Sequence[Slice], folder: Path, forms: Sequence[Form] = FORMS, prefix: str = ""
) -> list[Path]:
    """Write a Gantt chart of each scenario of a trace and return the files."""
    return draw(_of_timelines(slices), folder, forms, prefix)


def draw_answer(answer: Answer, folder: Path, forms: Sequence[Form] = FORMS, prefix: str = "") -> list[Path]:
    """Write the figures of what a command printed as JSON and return the files."""
    return draw(_of_answer(answer), folder, forms, prefix)


def _of_answer(answer: Answer) -> Iterator[Named]:
    if isinstance(answer, ResultFile):
        yield from _of_result(answer)
    elif isinstance(answer, SearchFile):
        files = file_names(list(answer.scenarios))
        for name, found in answer.scenarios.items():
            yield from ((f"{kind}-{files[name]}", drawn) for kind, drawn in search_figures(name, found))
    elif isinstance(answer, SensitivityFile):
        files = file_names(list(answer.scenarios))
        for name, slopes in answer.scenarios.items():
            yield f"tornado-{files[name]}", tornado_figure(name, answer.metric, slopes)
    elif isinstance(answer, ReproducedFile):
        classes = by_class(answer)
        files = file_names(list(classes))
        for name, rows in classes.items():
            yield f"published-{files[name]}", reproduced_figure(name, rows)
    else:
        yield "topologies", fabrics_figure(answer.root)


def by_class(found: ReproducedFile) -> dict[str, list[ReproducedValue]]:
    """Return the figures of each class; those that are not compared belong to none."""
    classes: dict[str, list[ReproducedValue]] = {}
    for one in found.root:
        if one.case_class is not None and one.published is not None:
            classes.setdefault(one.case_class, []).append(one)
    return classes


def _of_timelines(slices: Sequence[Slice]) -> Iterator[Named]:
    figures = timeline_figures(slices)
    files = file_names(list(figures))
    for name, drawn in figures.items():
        yield f"timeline-{files[name]}", drawn


def _of_sweep(swept: Table) -> Iterator[Named]:
    files = file_names(list(swept.grids))
    for name in swept.grids:
        for at, drawn in enumerate(sweep_figures(swept, name)):
            yield f"sweep-{files[name]}" + (f"-{at + 1}" if at else ""), drawn


def _of_result(result: ResultFile) -> Iterator[Named]:
    files = file_names(list(result.scenarios))
    for name, scenario in result.scenarios.items():
        yield f"roofline-{files[name]}", roofline_figure(name, scenario)
        yield f"time-{files[name]}", breakdown_figure(name, scenario)
    yield "memory", memory_figure(result.scenarios)


def draw(figures: Iterator[Named], folder: Path, forms: Sequence[Form] = FORMS, prefix: str = "") -> list[Path]:
    """Write figures and the data beside each; return their files."""
    made: list[Path] = []
    make_folder(folder)
    with styled():
        for name, drawn in figures:
            if drawn is None:
                continue
            content: dict[str, bytes] = {}
            for form in sorted(forms, reverse=True, key=FORMS.index):  # the image first: its texts are wider
                content[f"{name}.{form}"] = rendered(drawn.figure, form)
                drawn.figure.set_layout_engine("none")  # parts keep the places that they have now
            content = {file: content[file] for file in (f"{name}.{form}" for form in forms)}
            content |= {f"{name}{suffix}.csv": data for suffix, data in drawn.data.items()}
            for file, data in content.items():
                write_whole(folder / f"{prefix}{file}", [data])
                made.append(folder / f"{prefix}{file}")
    return made


def file_names(names: Sequence[str]) -> dict[str, str]:
    """Return a file name for each name: letters, digits, `_` and `-` alone, no two alike."""
    found: dict[str, str] = {}
    for name in names:
        plain = re.sub(r"[^A-Za-z0-9_-]+", "_", name)[:60] or "_"
        again = sum(other.casefold() == plain.casefold() for other in found.values())
        while f"{plain}_{again}".casefold() in (other.casefold() for other in found.values()):
            again += 1
        found[name] = f"{plain}_{again}" if again else plain
    return found
