"""The what-if file: changes to scenarios, as a chain that explains a published value, or each by itself."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from costmodel.declared import PositiveNumber, Verbatim, Whole, Wrong
from costmodel.records import Record
from costmodel.schema.assemble import Assembly
from costmodel.schema.metrics import dimension_of
from costmodel.schema.references import Library, as_reference
from costmodel.schema.strict import Strict
from costmodel.schema.tree import Tree
from costmodel.units import parse


class PublishedFile(Strict):
    """The published value to explain."""

    value: str = Field(description="the value with its unit")
    cite: str = Field(description="where it was published")


class StepFile(Strict):
    """One change: `path` is set to `value`, or back to the workload's own value."""

    term: str = Field(description="what the change represents, in a few words")
    path: str = Field(description="path of the resolved document, as `--set` takes it")
    value: Annotated[Any, Verbatim()] = Field(default=None, description="the new value; null: the workload's own")
    cite: str | None = Field(default=None, description="source of the new value")


class MessageFile(Strict):
    """A message by itself, simulated flow by flow, as for `costmodel collective`."""

    kind: str = Field(description="KIND or KIND:OPTION,…")
    cluster: str = Field(description="clusters/NAME or nodes/NAME")
    ranks: Annotated[int, Whole(1, single=True)] = Field(description="number of participating devices")
    size: str = Field(description="total buffer size")


class AlternativeFile(Strict):
    """One change by itself, relative to the workload. Or why no path of the resolved document expresses it."""

    term: str = Field(description="what the change represents, in a few words")
    scenarios: list[str] = Field(default=[], description="names of the scenarios it changes; none: `scenario`")
    message: MessageFile | None = Field(default=None, description="a message that it changes instead of scenarios")
    set: dict[str, Annotated[Any, Verbatim()]] = Field(
        default={}, description="the changes, path -> value; `scenario.` starts a path inside each of its scenarios"
    )
    scale: dict[str, float] = Field(
        default={}, description="factors of the workload's own numbers, path -> factor (levers of `costmodel what-if`)"
    )
    against: dict[str, Annotated[Any, Verbatim()]] = Field(default={}, description="changes of both sides")
    limit: str | None = Field(default=None, description="what the number does not include")
    why: str | None = Field(default=None, description="without `set`: why no path expresses it, or which would")
    cite: str | None = Field(default=None, description="source of the proposal and of its values")

    def _check_kind(self) -> None:
        if bool(self.set or self.scale) == bool(self.why):
            raise Wrong("an alternative has either `set` or `why`", "write the changes, or why there are none")


class AssumptionFile(Strict):
    """A value that nobody outside knows: how far it may well lie off."""

    term: str = Field(description="what it is, in a few words")
    low: dict[str, Annotated[Any, Verbatim()]] = Field(
        min_length=1, description="changes at the one end: path -> value"
    )
    high: dict[str, Annotated[Any, Verbatim()]] = Field(min_length=1, description="changes at the other end")
    cite: str = Field(description="where the range comes from")


class StoryFile(Strict):
    """The workload with some of its values replaced."""

    name: str = Field(description="what is known in it, in a few words")
    set: dict[str, Annotated[Any, Verbatim()]] = Field(default={}, description="changes, path -> value")


class WhatIfFile(Strict):
    """Changes to scenarios: a chain of steps of one `--set` each, and alternatives made alone."""

    title: str = Field(description="heading of the report")
    workload: str = Field(description="the workload, as a WORKLOAD argument")
    scenario: str = Field(description="name of its scenario")
    metric: str = Field(description="metric to compare")
    published: PublishedFile | None = Field(default=None, description="the published value that the chain explains")
    begin: str = Field(default="the workload as it stands", description="where the chain starts, in a few words")
    start: dict[str, Annotated[Any, Verbatim()]] = Field(default={}, description="changes at the start of the chain")
    steps: list[StepFile] = Field(default=[], description="the changes of the chain, in order")
    stories: list[StoryFile] = Field(default=[], description="what the metric is with less known, in order")
    assumptions: list[AssumptionFile] = Field(default=[], description="values that nobody outside knows")
    alternatives: list[AlternativeFile] = Field(default=[], description="changes made one at a time")


class WhatIf(Record):
    """A what-if file. published: its published value in SI, null without one."""

    file: WhatIfFile
    published: float | None


def load_what_if(name: str, search_path: tuple[str, ...] = ()) -> WhatIf:
    """Return the what-if of a file or of a name under `workloads/what_ifs`. Raises InputError with every problem."""
    assembly = Assembly(Library(search_path))
    with assembly.raising_problems():
        file: WhatIfFile = assembly.part(WhatIfFile, assembly.library.named(name, "what_ifs", "what_if")).file
        dimension = dimension_of(file.metric) or "count"
        return WhatIf(file, None if file.published is None else parse(file.published.value, dimension))


# ---- The lever file: mechanisms and recommendations of a publication, each with a path, a switch or a reason ---------

Phase = Literal["training", "prefill", "decode", "generate", "serving", "diffusion", "rl"]
PHASES: tuple[Phase, ...] = ("training", "prefill", "decode", "generate", "serving", "diffusion", "rl")


class SwitchFile(Strict):
    """One change, and what both sides of the comparison have. Paths as `--set` takes them."""

    name: str = Field(description="name for `--lever`")
    term: str | None = Field(default=None, description="what is changed, in a few words; null: as the lever")
    phases: list[Phase] = Field(default_factory=lambda: list(PHASES), description="phases that it can change")
    scenarios: list[str] = Field(
        default=[], description="names, or phases, of the scenarios that it changes; none: all with one of its `phases`"
    )
    set: dict[str, Annotated[Any, Verbatim()]] = Field(
        default={}, description="path -> new value; `scenario.` starts a path inside the scenario at hand"
    )
    times: dict[str, PositiveNumber] = Field(default={}, description="path -> factor on the workload's own value")
    against: dict[str, Annotated[Any, Verbatim()]] = Field(default={}, description="path -> value on both sides")
    against_times: dict[str, PositiveNumber] = Field(
        default={}, description="path -> factor on the workload's own value, on both sides; `times` come on top"
    )
    across_nodes: bool = Field(default=False, description="only where the scenario spans nodes")
    limit: str | None = Field(default=None, description="what the number does not include, what is assumed")

    def _check_changes(self) -> None:
        if not self.set and not self.times and not self.against_times:
            raise Wrong("a switch changes nothing", "write `set`, `times` or `against_times`")


class LeverFile(Strict):
    """One mechanism or recommendation."""

    term: str = Field(description="what it is, in a few words")
    section: str = Field(description="section of the publication")
    kind: Literal["mechanism", "recommendation"] = Field(description="part of the system, or a proposal")
    switches: list[SwitchFile] = Field(default=[], description="changes that `costmodel what-if` runs")
    path: str | None = Field(default=None, description="paths, files or commands that state it")
    why: str | None = Field(default=None, description="why nothing states it, or why no switch does")

    def _check_answer(self) -> None:
        if not self.switches and self.path is None and self.why is None:
            raise Wrong("a lever needs a switch, a path or a reason", "write `switches`, `path` or `why`")


class Levers(Strict):
    """The mechanisms and recommendations of one publication, or the changes of a what-if file."""

    title: str = Field(description="the publication")
    cite: str = Field(description="where it was published")
    levers: list[LeverFile] = Field(min_length=1, description="in the order of its sections")


class LeversFile(Levers):
    """Levers whose switches are named one by one."""

    def _check_names(self) -> None:
        names = [switch.name for lever in self.levers for switch in lever.switches]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise Wrong(f"two switches are named {twice[0]}", "rename one")


def load_levers(name: str, search_path: tuple[str, ...] = ()) -> LeversFile:
    """Return the levers of a file or a name under `workloads/levers`. Raises InputError with every problem."""
    assembly = Assembly(Library(search_path))
    with assembly.raising_problems():
        return assembly.part(LeversFile, assembly.library.named(name, "levers", "lever")).file


# ---- The study file: a workload, the axes it is varied along, and the metrics wanted at every point ------------------

_KIND, _FOLDER = "study", "studies"


class StudyFile(Strict):
    """A workload varied along axes. Paths and values are those of `--set` and `--vary`."""

    title: str = Field(description="the question of the study")
    workload: str = Field(description="the workload, as a WORKLOAD argument")
    scenarios: list[str] = Field(default=[], description="names of its scenarios; none: all that have the paths")
    set: dict[str, Annotated[Any, Verbatim()]] = Field(default={}, description="changes, path -> value")
    axes: list[dict[str, Annotated[Any, Verbatim()]]] = Field(
        default=[], description="path -> values as for `--vary`, or a list of them; paths of one entry vary together"
    )
    derived: dict[str, str] = Field(default={}, description="further metrics, name -> formula over metrics")
    constraints: list[str] = Field(default=[], description="conditions such as `tpot <= 50 ms`")
    objective: str | None = Field(default=None, description="of `search`: `minimise FORMULA` or `maximise FORMULA`")


class Study(Record):
    """A study. changes: path -> value; varied: its axes as arguments of `--vary`."""

    file: StudyFile
    changes: dict[str, object]
    varied: tuple[str, ...]


def find_study(argument: str, search_path: Sequence[str | Path] = ()) -> Study | None:
    """Return the study that an argument names, null for a workload. Raises InputError with every problem."""
    assembly = Assembly(Library(search_path))
    library = assembly.library
    path = Path(argument)
    if path.is_file():
        if path.suffix not in (".yaml", ".yml") or library.schema_of(path) != _KIND:
            return None
    elif argument.removeprefix(f"{_FOLDER}/") not in library.names(_FOLDER):
        return None
    with assembly.raising_problems():
        file: StudyFile = assembly.part(
            StudyFile, library.document(Tree(as_reference(argument)), _FOLDER, _KIND, "")
        ).file
        return Study(file, dict(file.set), tuple(_argument(axis) for axis in file.axes))


def _argument(axis: dict[str, Any]) -> str:
    """Return an entry of `axes` as an argument of `--vary`."""
    return "; ".join(
        f"{path}={','.join(map(str, value)) if isinstance(value, list) else value}" for path, value in axis.items()
    )
