"""The what-if file: changes to scenarios, as a chain from which a figure follows, or each by itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from costmodel.errors import InputError
from costmodel.schema.assemble import Assembly
from costmodel.schema.metrics import dimension_of
from costmodel.schema.quantity import Verbatim, Whole, wrong
from costmodel.schema.references import Library
from costmodel.schema.resolve import in_order
from costmodel.schema.strict import Strict
from costmodel.schema.tree import Tree, to_python
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


class MessageFile(Strict):
    """A message by itself on the flow level, as `costmodel collective` takes it."""

    kind: str = Field(description="KIND or KIND:OPTION,…")
    cluster: str = Field(description="clusters/NAME or nodes/NAME")
    ranks: Annotated[int, Whole(1, single=True)] = Field(description="devices that take part")
    size: str = Field(description="size of the whole buffer")


class AlternativeFile(Strict):
    """One change by itself, against the workload as it stands; or why no path of the resolved document expresses it."""

    term: str = Field(description="what the change stands for, in a few words")
    scenarios: list[str] = Field(default=[], description="names of the scenarios that it changes; none: `scenario`")
    message: MessageFile | None = Field(default=None, description="what it changes in place of scenarios")
    set: dict[str, Annotated[Any, Verbatim()]] = Field(
        default={}, description="the changes, path -> value; `scenario.` begins a path of the scenario at hand"
    )
    against: dict[str, Annotated[Any, Verbatim()]] = Field(
        default={}, description="changes that both sides of the comparison have"
    )
    limit: str | None = Field(default=None, description="what the number leaves out")
    why: str | None = Field(default=None, description="where nothing is set: why no path expresses it, or which would")
    cite: str | None = Field(default=None, description="where it is proposed, and where its values come from")

    @model_validator(mode="after")
    def _is_one_or_the_other(self) -> Self:
        if bool(self.set) == bool(self.why):
            raise wrong("an alternative has either `set` or `why`", "state the changes, or why there are none")
        return self


class WhatIfFile(Strict):
    """Changes to scenarios: a chain whose steps differ by one `--set` each, and alternatives that stand alone."""

    title: str = Field(description="heading of the report")
    workload: str = Field(description="the workload, as a WORKLOAD argument")
    scenario: str = Field(description="name of its scenario")
    metric: str = Field(description="metric that is followed")
    published: PublishedFile | None = Field(default=None, description="the figure that the chain leads to")
    begin: str = Field(default="the workload as it stands", description="what the chain begins with, in a few words")
    start: dict[str, Annotated[Any, Verbatim()]] = Field(default={}, description="changes that the chain begins with")
    steps: list[StepFile] = Field(default=[], description="the changes of the chain, in order")
    alternatives: list[AlternativeFile] = Field(default=[], description="changes that are each made alone")


@dataclass(frozen=True, slots=True, eq=False)
class Alternative:
    """One change by itself: what both sides have, and what one of them has beside it."""

    file: AlternativeFile
    against: dict[str, object]
    changes: dict[str, object]


@dataclass(frozen=True, slots=True, eq=False)
class WhatIf:
    """A chain of changes, and alternatives; published: the figure in SI with its source, null without one."""

    file: WhatIfFile
    start: dict[str, object]
    values: tuple[object, ...]
    published: float | None
    alternatives: tuple[Alternative, ...] = ()


def load_what_if(name: str, search_path: tuple[str, ...] = ()) -> WhatIf:
    """Return the chain of a file or a name under `workloads/what_ifs`; raise InputError with every problem."""
    assembly = Assembly(Library(search_path))
    with assembly.collecting_problems():
        tree = assembly.library.document(Tree(name), "what_ifs", "what_if", "")
        file: WhatIfFile = assembly.part(WhatIfFile, tree).file
        dimension = dimension_of(file.metric) or "count"
        published = None if file.published is None else parse(file.published.value, dimension)
        return WhatIf(
            file, {path: _text(value) for path, value in file.start.items()},
            tuple(_text(step.value) for step in file.steps), published,
            tuple(Alternative(one, _texts(one.against), _texts(one.set)) for one in file.alternatives),
        )  # fmt: skip
    raise InputError(in_order(assembly.problems))


def _texts(values: dict[str, Any]) -> dict[str, object]:
    return {path: _text(value) for path, value in values.items()}


def _text(value: Any) -> object:
    """Return a value as an override takes it."""
    return to_python(value) if isinstance(value, Tree) else value
