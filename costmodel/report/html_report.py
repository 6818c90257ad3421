"""The files of `report`: plots with their data, and one HTML page of all sources."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from costmodel.errors import InfeasibleError, InputError
from costmodel.records import Record
from costmodel.report.plan_file import asked, read_plan, sections_of
from costmodel.report.plots.sweep import count_not_drawn
from costmodel.report.plotting import draw, file_names
from costmodel.report.text import title_of
from costmodel.report.web import result as pages
from costmodel.report.web.markup import EmbeddedPlot, Section, page, read_plots
from costmodel.schema.results import Answer, ReproducedFile, SearchFile, SensitivityFile, TopologiesFile, read_answer
from costmodel.schema.whole_files import write_whole
from costmodel.study.points import read_sweep
from costmodel.study.timelines import is_request_table, is_trace_file, read_requests, read_slices

PAGE = "report.html"
Sections = Callable[[Mapping[str, EmbeddedPlot]], list[Section]]


class ReportPart(Record):
    """One source of a report. about: a sentence on it; data: the document that the page keeps as JSON.

    not_drawn: combinations of a sweep's axes that have no plot.
    """

    title: str
    about: str
    files: list[Path]
    sections: Sections
    data: Any
    not_drawn: int = 0


def write_report(sources: Sequence[Path], folder: Path, metric: str | None = None) -> tuple[list[Path], int]:
    """Write the plots of all sources and the page. Return the files, and the number of combinations without a plot.

    metric: of sweeps, instead of the headlines.
    Raises InputError on an invalid source, InfeasibleError where nothing in any of them can run.
    """
    if metric is not None and not any(source.is_dir() for source in sources):
        raise InputError.single("only sweeps have metrics to choose from", field="--metric", hint="leave it out")
    prefixes = [f"{name}-" for name in _names(sources)] if len(sources) > 1 else [""]
    parts = [_part(source, folder, prefix, metric) for source, prefix in zip(sources, prefixes, strict=True)]
    written = [path for part in parts for path in part.files]
    if not written and not any(part.title.startswith("Plan ") for part in parts):
        raise InfeasibleError("nothing to draw: no scenario can run")
    plots = read_plots(written)
    sections: list[Section] = []
    for part in parts:
        own = {path.stem: plots[path.stem] for path in part.files if path.stem in plots}
        prefix = f"{part.title}: " if len(parts) > 1 else ""
        sections += [Section(f"{prefix}{section.title}", section.parts) for section in part.sections(own)]
    titles, abouts = (
        [*dict.fromkeys(texts)] for texts in zip(*((part.title, part.about) for part in parts), strict=True)
    )
    data = [part.data for part in parts]
    content = page(", ".join(titles), " ".join(abouts), sections, data if len(parts) > 1 else data[0])
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / PAGE, [content])
    return [*written, folder / PAGE], sum(part.not_drawn for part in parts)


def _names(sources: Sequence[Path]) -> list[str]:
    stems = [source.name.partition(".")[0] or source.name for source in sources]
    numbered = [stem if stems.count(stem) == 1 else f"{stem}{i + 1}" for i, stem in enumerate(stems)]
    return list(file_names(numbered).values())


def _part(source: Path, folder: Path, prefix: str, metric: str | None) -> ReportPart:
    if source.is_dir():
        sweep = read_sweep(source, metric)
        study = sweep.study
        about = f"Sweep of {study.points:,} points, predicted by costmodel {study.version}. Bands are 80 % intervals."
        return ReportPart(
            study.workload, about, draw(sweep, folder, prefix=prefix), lambda plots: pages.sweep_sections(study, plots),
            study.model_dump(mode="json"), count_not_drawn(sweep),
        )  # fmt: skip
    if is_request_table(source):
        title, files = f"Requests of {source.stem}", draw(read_requests(source), folder, prefix=prefix)
        return ReportPart(title, pages.ABOUT_REQUESTS, files, pages.request_sections, _figures(files))
    if is_trace_file(source):
        title, files = f"Timeline {source.name.partition('.')[0]}", draw(read_slices(source), folder, prefix=prefix)
        return ReportPart(title, pages.ABOUT_TIMELINE, files, pages.timeline_sections, _figures(files))
    plan = read_plan(source)
    if plan is not None:
        return ReportPart(f"Plan {source.stem}", asked(plan), [], lambda _: sections_of(plan), plan)
    answer = read_answer(source)
    files = draw(answer, folder, prefix=prefix)
    title, about, sections = _described(answer, prefix)
    return ReportPart(title, about, files, sections, answer.model_dump(mode="json", by_alias=True))


def _figures(files: Sequence[Path]) -> dict[str, list[str]]:
    return {"figures": [path.stem for path in files if path.suffix == ".svg"]}


def _described(answer: Answer, prefix: str) -> tuple[str, str, Sections]:
    if isinstance(answer, SearchFile):
        about = "The best layouts found, and the Pareto front of tokens/s per device and per user."
        return f"Layouts of {answer.workload}", about, lambda plots: pages.search_sections(answer, plots, prefix)
    if isinstance(answer, SensitivityFile):
        name = title_of(answer.metric)
        about = (
            f"How {name} responds to each parameter: an elasticity of -0.4 means that 1 % more of the parameter "
            "lowers the metric by 0.4 %."
        )
        title = f"Sensitivity of {name} of {answer.workload}"
        return title, about, lambda plots: pages.sensitivity_sections(answer, plots, prefix)
    if isinstance(answer, ReproducedFile):
        about = f"{len(answer.root):,} published results and their predictions. Lines are 80 % intervals."
        return "Predicted against published", about, lambda plots: pages.reproduced_sections(answer, plots, prefix)
    if isinstance(answer, TopologiesFile):
        about = "All switch ports are assumed to be used; links and diameter count inter-switch links."
        return "Network topologies", about, lambda plots: pages.topologies_sections(answer, plots, prefix)
    title = answer.workload or answer.model.name
    return title, pages.about_result(answer), lambda plots: pages.result_sections(answer, plots, prefix)
