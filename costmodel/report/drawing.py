"""Figures of a result or a sweep as files: SVG and PNG, and beside each the data that it shows."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, TypeAlias

from costmodel.report.figures.breakdown import breakdown_figure
from costmodel.report.figures.drawn import Drawn
from costmodel.report.figures.memory import memory_figure
from costmodel.report.figures.roofline import roofline_figure
from costmodel.report.figures.sweep import sweep_figures
from costmodel.report.figures.timeline import timeline_figures
from costmodel.report.style import rendered, styled
from costmodel.schema.results import ResultFile
from costmodel.schema.whole_files import make_folder, write_whole
from costmodel.study.points import Table
from costmodel.study.timelines import Slice

Form: TypeAlias = Literal["svg", "png"]
FORMS: tuple[Form, ...] = ("svg", "png")


def draw_result(result: ResultFile, folder: Path, forms: Sequence[Form] = FORMS) -> list[Path]:
    """Write the figures of a result and return their files: roofline and time of each scenario, memory of all."""
    with styled():
        return _write(_of_result(result), folder, forms)


def draw_sweep(swept: Table, folder: Path, forms: Sequence[Form] = FORMS) -> list[Path]:
    """Write the figures of a sweep and return their files: the headline metric of each scenario."""
    with styled():
        return _write(_of_sweep(swept), folder, forms)


def draw_timelines(slices: Sequence[Slice], folder: Path, forms: Sequence[Form] = FORMS) -> list[Path]:
    """Write a Gantt chart of each scenario of a trace and return the files."""
    with styled():
        figures = timeline_figures(slices)
        files = file_names(list(figures))
        return _write(iter([(f"timeline-{files[name]}", drawn) for name, drawn in figures.items()]), folder, forms)


def _of_sweep(swept: Table) -> Iterator[tuple[str, Drawn | None]]:
    """Yield (file name, figure)."""
    files = file_names(list(swept.grids))
    for name in swept.grids:
        for at, drawn in enumerate(sweep_figures(swept, name)):
            yield f"sweep-{files[name]}" + (f"-{at + 1}" if at else ""), drawn


def _of_result(result: ResultFile) -> Iterator[tuple[str, Drawn | None]]:
    """Yield (file name, figure)."""
    files = file_names(list(result.scenarios))
    for name, scenario in result.scenarios.items():
        yield f"roofline-{files[name]}", roofline_figure(name, scenario)
        yield f"time-{files[name]}", breakdown_figure(name, scenario)
    yield "memory", memory_figure(result.scenarios)


def _write(figures: Iterator[tuple[str, Drawn | None]], folder: Path, forms: Sequence[Form]) -> list[Path]:
    made: list[Path] = []
    make_folder(folder)
    for name, drawn in figures:
        if drawn is None:
            continue
        content = {f"{name}.{form}": rendered(drawn.figure, form) for form in forms}
        content |= {f"{name}{suffix}.csv": data for suffix, data in drawn.data.items()}
        for file, data in content.items():
            write_whole(folder / file, [data])
            made.append(folder / file)
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
