"""The study file: a workload, the axes it is varied along, and the metrics wanted at every point."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from costmodel.declared import Verbatim
from costmodel.records import Record
from costmodel.schema.assemble import Assembly
from costmodel.schema.references import Library, as_reference
from costmodel.schema.strict import Strict
from costmodel.schema.tree import Tree

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
