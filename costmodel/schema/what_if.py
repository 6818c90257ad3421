"""The what-if file: a chain of changes to one scenario, each a term of a published figure's distance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from costmodel.errors import InputError
from costmodel.schema.assemble import Assembly
from costmodel.schema.metrics import dimension_of
from costmodel.schema.quantity import Verbatim
from costmodel.schema.references import Library
from costmodel.schema.resolve import in_order
from costmodel.schema.strict import Strict
from costmodel.schema.tree import Tree, plain
from costmodel.units import parse


class PublishedFile(Strict):
    """The figure to explain."""

    value: str = Field(description="the figure with its unit")
    cite: str = Field(description="where it was published")


class StepFile(Strict):
    """One change: `path` is set to `value`, or back to what the workload says where value is null."""

    term: str = Field(description="what the change stands for, in a few words")
    path: str = Field(description="path of the resolved document, as `--set` takes it")
    value: Annotated[Any, Verbatim()] = Field(default=None, description="the new value; null: the workload's own")
    cite: str | None = Field(default=None, description="where the new value comes from")


class WhatIfFile(Strict):
    """A chain of changes to one scenario. Each step differs from the one before it by one `--set`."""

    title: str = Field(description="heading of the report")
    workload: str = Field(description="the workload, as a WORKLOAD argument")
    scenario: str = Field(description="name of its scenario")
    metric: str = Field(description="metric that is followed")
    published: PublishedFile | None = Field(default=None, description="the figure that the chain leads to")
    begin: str = Field(description="what the chain begins with, in a few words")
    start: dict[str, Annotated[Any, Verbatim()]] = Field(default={}, description="changes that the chain begins with")
    steps: list[StepFile] = Field(min_length=1, description="the changes, in order")


@dataclass(frozen=True, slots=True, eq=False)
class WhatIf:
    """A chain of changes; published: the figure in SI with its source, null without one."""

    file: WhatIfFile
    start: dict[str, object]
    values: tuple[object, ...]
    published: float | None


def load_what_if(name: str, search_path: tuple[str, ...] = ()) -> WhatIf:
    """Return the chain of a file or a name under `workloads/what_ifs`; raise InputError with every problem."""
    assembly = Assembly(Library(search_path))
    with assembly.noting():
        tree = assembly.library.document(Tree(name), "what_ifs", "what_if", "")
        file: WhatIfFile = assembly.part(WhatIfFile, tree).file
        dimension = dimension_of(file.metric) or "count"
        published = None if file.published is None else parse(file.published.value, dimension)
        return WhatIf(
            file, {path: _text(value) for path, value in file.start.items()},
            tuple(_text(step.value) for step in file.steps), published,
        )  # fmt: skip
    raise InputError(in_order(assembly.problems))


def _text(value: Any) -> object:
    """Return a value as an override takes it."""
    return plain(value) if isinstance(value, Tree) else value
