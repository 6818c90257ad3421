"""The lever file: mechanisms and recommendations of a publication, each with a path, a switch or a reason."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from costmodel.declared import PositiveNumber, Verbatim, Wrong
from costmodel.schema.assemble import Assembly
from costmodel.schema.references import Library
from costmodel.schema.strict import Strict

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
