"""What `report` makes of results, sweeps and traces: figures with their data, and one page of them all."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from costmodel.errors import InfeasibleError
from costmodel.report.plots.sweep import left_out
from costmodel.report.plotting import draw_answer, draw_sweep, draw_timelines, file_names
from costmodel.report.web.answers import (
    fabrics_sections,
    reproduced_sections,
    search_sections,
    sensitivity_sections,
)
from costmodel.report.web.document import Section, page
from costmodel.report.web.drawn import ABOUT_TIMELINE, about_sweep, sweep_sections, timeline_sections
from costmodel.report.web.inline import Shown, read_figures
from costmodel.report.web.result import about_result, result_sections
from costmodel.schema.answers import ReproducedFile, SearchFile, SensitivityFile, TopologiesFile, read_answer
from costmodel.schema.whole_files import write_whole
from costmodel.study.points import read_sweep
from costmodel.study.timelines import is_trace_file, read_slices

PAGE = "report.html"


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """What one source gives: a title, a sentence, files of figures, sections of a page, and the data that it keeps.

    hidden: combinations of a sweep's axes that no figure shows.
    """

    title: str
    about: str
    files: list[Path]
    sections: Callable[[Mapping[str, Shown]], list[Section]]
    data: Any
    hidden: int = 0


def write_report(sources: Sequence[Path], folder: Path) -> tuple[list[Path], int]:
    """Write the figures of all sources and the page; return the files, and how many combinations have no figure.

    Raises InputError on a source that is none, InfeasibleError where nothing of them can run.
    """
    prefixes = [""]
    if len(sources) > 1:
        prefixes = [f"{name}-" for name in _names(sources)]
    parts = [_part(source, folder, prefix) for source, prefix in zip(sources, prefixes, strict=True)]
    made = [path for part in parts for path in part.files]
    if not made:
        raise InfeasibleError("nothing in it can run, so there is nothing to draw")
    figures = read_figures(made)
    sections: list[Section] = []
    for part in parts:
        own = part.sections({name: figures[name] for name in (path.stem for path in part.files) if name in figures})
        several = f"{part.title}: " if len(parts) > 1 else ""
        sections += [Section(f"{several}{one.title}", one.parts) for one in own]
    if len(parts) == 1:
        whole = page(parts[0].title, parts[0].about, sections, parts[0].data)
    else:
        about = " ".join(dict.fromkeys(part.about for part in parts))
        whole = page(", ".join(dict.fromkeys(part.title for part in parts)), about, sections,
                     [part.data for part in parts])  # fmt: skip
    write_whole(folder / PAGE, [whole])
    return [*made, folder / PAGE], sum(part.hidden for part in parts)


def _names(sources: Sequence[Path]) -> list[str]:
    """Return a name for each source's files, no two alike."""
    stems = [source.name.partition(".")[0] or source.name for source in sources]
    told = [stem if stems.count(stem) == 1 else f"{stem}{at + 1}" for at, stem in enumerate(stems)]
    return list(file_names(told).values())


def _part(source: Path, folder: Path, prefix: str) -> Part:
    """Draw one source and return what it gives."""
    if source.is_dir():
        swept = read_sweep(source)
        study = swept.study
        files = draw_sweep(swept, folder, prefix=prefix)
        return Part(
            study.workload, about_sweep(study), files, lambda figures: sweep_sections(study, figures),
            study.model_dump(mode="json"), left_out(swept),
        )  # fmt: skip
    if is_trace_file(source):
        files = draw_timelines(read_slices(source), folder, prefix=prefix)
        title = f"Timeline {source.name.partition('.')[0]}"
        names = {"figures": [path.stem for path in files if path.suffix == ".svg"]}
        return Part(title, ABOUT_TIMELINE, files, timeline_sections, names)
    return _answered(source, folder, prefix)


def _answered(source: Path, folder: Path, prefix: str) -> Part:
    """Draw what a command printed as JSON."""
    found = read_answer(source)
    files = draw_answer(found, folder, prefix=prefix)
    data = found.model_dump(mode="json", by_alias=True)
    if isinstance(found, SearchFile):
        about = "The best layouts of a search, and the layouts that no other beats in both rates."
        return Part(
            f"Layouts of {found.workload}", about, files, lambda figures: search_sections(found, figures, prefix), data
        )  # fmt: skip
    if isinstance(found, SensitivityFile):
        about = f"What {found.metric} follows: an elasticity of -0.4 is 0.4 % less of it for 1 % more of a parameter."
        title = f"What moves {found.metric} of {found.workload}"
        return Part(title, about, files, lambda figures: sensitivity_sections(found, figures, prefix), data)
    if isinstance(found, ReproducedFile):
        about = f"{len(found.root):,} published figures beside predictions. Lines are 80 % intervals."
        return Part(
            "Predicted against published",
            about,
            files,
            lambda figures: reproduced_sections(found, figures, prefix),
            data,
        )
    if isinstance(found, TopologiesFile):
        about = "Every port is in use; links and diameter count links between switches."
        return Part("Topologies", about, files, lambda figures: fabrics_sections(found, figures, prefix), data)
    title = found.workload or found.model.name
    return Part(title, about_result(found), files, lambda figures: result_sections(found, figures, prefix), data)
