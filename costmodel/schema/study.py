"""The study file: a workload, the axes that it varies over, and what is wanted of every point."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from costmodel.errors import InputError
from costmodel.schema.assemble import Assembly
from costmodel.schema.quantity import Verbatim
from costmodel.schema.references import Library, as_reference
from costmodel.schema.resolve import in_order
from costmodel.schema.strict import Strict
from costmodel.schema.tree import Tree, to_python

_KIND, _FOLDER = "study", "studies"


class StudyFile(Strict):
    """A workload over axes. Paths and values are those of `--set` and `--vary`."""

    title: str = Field(description="what the study asks")
    workload: str = Field(description="the workload, as a WORKLOAD argument")
    scenarios: list[str] = Field(default=[], description="names of its scenarios; none: all that have the paths")
    set: dict[str, Annotated[Any, Verbatim()]] = Field(default={}, description="changes, path -> value")
    axes: list[dict[str, Annotated[Any, Verbatim()]]] = Field(
        default=[],
        description="path -> values as `--vary` takes them, or a list of them; paths of one entry vary together",
    )
    derived: dict[str, str] = Field(default={}, description="further metrics, name -> formula over metrics")
    constraints: list[str] = Field(default=[], description="conditions such as `tpot <= 50 ms`")
    objective: str | None = Field(
        default=None, description="what `search` looks for: `minimise FORMULA` or `maximise FORMULA`"
    )


@dataclass(frozen=True, slots=True, eq=False)
class Study:
    """A study as commands take it. changes: path -> value; varied: arguments of `--vary`."""

    file: StudyFile
    changes: dict[str, object]
    varied: tuple[str, ...]


def find_study(argument: str, search_path: Sequence[str | Path] = ()) -> Study | None:
    """Return the study that an argument names, null where it names a workload; raise InputError with every problem."""
    assembly = Assembly(Library(search_path))
    library = assembly.library
    path = Path(argument)
    if path.is_file():
        if path.suffix not in (".yaml", ".yml") or library.schema_of(path) != _KIND:
            return None
    elif argument.removeprefix(f"{_FOLDER}/") not in library.names(_FOLDER):
        return None
    with assembly.collecting_problems():
        file: StudyFile = assembly.part(
            StudyFile, library.document(Tree(as_reference(argument)), _FOLDER, _KIND, "")
        ).file
        changes = {name: _text(value) for name, value in file.set.items()}
        return Study(file, changes, tuple(_argument(axis) for axis in file.axes))
    raise InputError(in_order(assembly.problems))


def _argument(axis: dict[str, Any]) -> str:
    """Return an entry of `axes` as `--vary` writes it."""
    return "; ".join(f"{path}={_values(value)}" for path, value in axis.items())


def _values(value: Any) -> str:
    found = _text(value)
    return ",".join(map(str, found)) if isinstance(found, list) else str(found)


def _text(value: Any) -> Any:
    return to_python(value) if isinstance(value, Tree) else value
