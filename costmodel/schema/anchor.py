"""Measured values of one's own runs: stated in a scenario, or listed in an anchor file."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, Protocol

from pydantic import Field

from costmodel.declared import Measure, NumberOrZero, Verbatim, Wrong
from costmodel.errors import InputError, Location, Problem
from costmodel.records import MutableRecord, Record, replace
from costmodel.schema.device import Source
from costmodel.schema.inputs import record_folder
from costmodel.schema.metrics import dimension_of
from costmodel.schema.records import Declared
from costmodel.schema.references import Library, folder_of
from costmodel.schema.strict import Strict, checked, field_error
from costmodel.schema.tree import Tree, to_python
from costmodel.workload.scenario import Anchor, MeasuredStep, Scenario
from costmodel.workload.site_scatter import SiteScatter

AnchorMetric = Literal[
    "step_time", "tokens_per_second", "tokens_per_day", "tokens_per_second_per_device", "mfu", "mfu_noncausal",
    "ttft", "tpot", "latency", "tokens_per_second_per_user", "requests_per_second", "input_tokens_per_second",
]  # fmt: skip
_RATES = ("tokens_per_second_per_device", "tokens_per_second_per_user")
MEASURED: dict[str, tuple[str, ...]] = {
    "training": (
        "step_time", "tokens_per_second", "tokens_per_day", "tokens_per_second_per_device", "mfu", "mfu_noncausal",
    ),
    "prefill": ("ttft", "tokens_per_second_per_device"),
    "decode": ("tpot", *_RATES),
    "generate": ("ttft", "tpot", "latency", "tokens_per_second", *_RATES),
    "serving": (
        "ttft", "tpot", "latency", "tokens_per_second", *_RATES, "requests_per_second", "input_tokens_per_second",
    ),
}  # fmt: skip
"""Phase -> the metrics that anchors of it may state."""
CLASSES = {
    "training": "training", **dict.fromkeys(("prefill", "decode", "generate"), "inference"), "serving": "serving",
}  # fmt: skip
MOST = 1000  # values of a file: what they say of one another is a square of as many

_INLINE = "run"  # name of a scenario inside a step itself
_KIND, _SCATTER = "anchor", "site_scatter"


class MeasuredStepFile(Strict):
    """A measured value of the scenario that states it."""

    metric: AnchorMetric = Field(description="what was measured, a mean over steps or requests without the first ones")
    value: Annotated[Any, Verbatim()] = Field(description="its value")
    set: dict[str, Annotated[Any, Verbatim()]] = Field(
        default={},
        description="what the measured run had other than the scenario: path there, or `hardware.…`, -> value",
    )


class AnchorStepFile(MeasuredStepFile):
    """A measured value with the scenario that was run."""

    name: str = Field(description="unique name of the run")
    scenario: Annotated[Any, Verbatim()] = Field(
        description="a scenario with its `model`, or {workload: NAME, scenario: NAME}"
    )


class AnchorFile(Strict):
    """Measured values of one framework on one cluster. Predictions that name the file rest on them."""

    name: str = Field(description="name in references")
    steps: list[AnchorStepFile] = Field(
        min_length=1, max_length=MOST, description="the measured values, of steps of training, passes, batches, servers"
    )
    sources: list[Source] = Field(default=[], description="where the values come from")


class ReferenceFile(Strict):
    """A scenario of a workload file."""

    workload: str = Field(description="the workload, as a WORKLOAD argument")
    scenario: str = Field(description="name of its scenario")


class Resolve(Protocol):
    """Resolves scenarios of a workload's document without their anchors: `resolve_tree`."""

    def __call__(
        self, tree: Tree, name: str, library: Library, *, overrides: Mapping[str, object], scenarios: Sequence[str],
    ) -> Mapping[str, Scenario]:  # fmt: skip
        """Return the scenarios by name."""


class Anchors(MutableRecord, eq=False):
    """Reads the anchors of a workload's scenarios, each once.

    workload: the document as written, without `--set`, by which stated steps were run.
    """

    workload: Tree
    library: Library
    resolve: Resolve
    _stated: dict[Tree | None, tuple[MeasuredStep, ...]]
    _files: dict[str, tuple[MeasuredStep, ...]]

    @classmethod
    def of(cls, workload: Tree, library: Library, resolve: Resolve) -> Anchors:
        """Return a reader for a workload."""
        return cls(workload, library, resolve, {}, {})

    def apply(self, scenario: Scenario, tree: Tree, written: str) -> Scenario:
        """Return a scenario with the measured values that say something of it.

        Those that any scenario of the workload states of the same class for the same framework on the same cluster, and
        those of the files that it names. tree: the scenario's document; written: its name in the workload. Raises
        InputError where a named file is of another site.
        """
        own = tree.child("anchor")
        stated = {**dict(self._others(written)), written: own}
        steps = [
            step
            for name, anchor in stated.items()
            for step in self._of_scenario(name, anchor)
            if _site(step.scenario) == _site(scenario) and _class(step.scenario) == _class(scenario)
        ]
        for reference in (item for item in _items(own) if isinstance(item.value, str)):
            steps.extend(self._of_file(reference, scenario))
        if not steps and any(item.is_mapping for item in _items(own)):
            note = "anchor: not used, since its run had another framework, device or cluster"
            return replace(scenario, notes=(*scenario.notes, note))
        if not steps:
            return scenario
        return replace(scenario, anchor=Anchor(tuple(steps), read_scatter(self.library, scenario)))

    def _others(self, name: str) -> Iterator[tuple[str, Tree | None]]:
        scenarios = self.workload.child("scenarios")
        for other, tree in scenarios.value.items() if scenarios is not None and scenarios.is_mapping else ():
            if other != name and tree.is_mapping:
                yield other, tree.child("anchor")

    def _of_scenario(self, name: str, anchor: Tree | None) -> tuple[MeasuredStep, ...]:
        if anchor not in self._stated:
            field, tools = f"scenarios.{name}.anchor", (self.library, self.resolve)
            items = [item for item in _items(anchor) if item.is_mapping]
            files = [checked(MeasuredStepFile, item, field) for item in items]
            self._stated[anchor] = tuple(
                _step(file, item, field, run_of(self.workload, name, file.set, RunReader(*tools, item.location)))
                for file, item in zip(files, items, strict=True)
            )
        return self._stated[anchor]

    def _of_file(self, reference: Tree, scenario: Scenario) -> tuple[MeasuredStep, ...]:
        """Return the steps of an anchor file, which have to be of a scenario's framework and device."""
        name = str(reference.value)
        if name not in self._files:
            document = self.library.document(reference, folder_of(_KIND), _KIND, f"scenarios.{scenario.name}.anchor")
            self._files[name] = tuple(read_steps(document, self.library, self.resolve))
        steps = tuple(step for step in self._files[name] if _class(step.scenario) == _class(scenario))
        if not steps:
            raise reference.error(
                f"{name} holds nothing of {_class(scenario)}", "name a file with runs of this class",
                f"scenarios.{scenario.name}.anchor",
            )  # fmt: skip
        for step in steps:
            if _site(step.scenario)[:2] != _site(scenario)[:2]:
                (framework, device, _), (other, on, _) = _site(step.scenario), _site(scenario)
                raise reference.error(
                    f"{name} was measured with {framework} on {device}, this scenario has {other} on {on}",
                    "name an anchor of the same framework and device, or none: `anchor: null`",
                    f"scenarios.{scenario.name}.anchor",
                )  # fmt: skip
        return steps


class RunReader(Record):
    """What a run is resolved with, and where it is stated."""

    library: Library
    resolve: Resolve
    location: Location | None


def run_of(workload: Tree, name: str, changes: Mapping[str, object], reader: RunReader) -> Scenario:
    """Return a scenario of a workload with changes. Raises InputError where its phase is none of `MEASURED`."""
    overrides = {
        path
        if path == "model" or path.startswith(("model.", "hardware.", "scenarios."))
        else f"scenarios.{name}.{path}": value
        for path, value in changes.items()
    }
    try:
        scenario = reader.resolve(workload, name, reader.library, overrides=overrides, scenarios=[name])[name]
    except InputError as error:
        raise InputError([_at_anchor(problem, name, reader) for problem in error.problems]) from None
    if scenario.plan.phase not in MEASURED:
        raise InputError.single(
            f"runs of phase {scenario.plan.phase} are no anchors", hint="remove it",
            field=f"scenarios.{name}.anchor", location=reader.location,
        )  # fmt: skip
    return scenario


def _at_anchor(problem: Problem, name: str, reader: RunReader) -> Problem:
    """Return a problem of a run. That of a change stands where the run is stated."""
    if problem.location is None or problem.location.line:
        return problem
    path = problem.field.removeprefix(f"scenarios.{name}.")
    return replace(problem, location=reader.location, field=f"scenarios.{name}.anchor.set.{path}")


def read_steps(document: Tree, library: Library, resolve: Resolve) -> Iterator[MeasuredStep]:
    """Yield the measured steps of an anchor file. Raises InputError with the problems of a step."""
    checked(AnchorFile, document, "")
    seen: set[str] = set()
    for item in document.value["steps"].value:
        file = checked(AnchorStepFile, item, "steps")
        field = f"steps.{file.name}"
        if file.name in seen:
            raise item.error(f"duplicate name {file.name!r}", "rename one", field)
        seen.add(file.name)
        tree, name = _workload(item.value["scenario"], library, field)
        yield _step(file, item, field, run_of(tree, name, file.set, RunReader(library, resolve, item.location)))


def read_scatter(library: Library, scenario: Scenario) -> SiteScatter:
    """Return how runs such as a scenario's scatter about predictions at a site, from `calibrations/site_scatter`."""
    document = library.document(Tree(_SCATTER), "calibrations", _SCATTER, "")
    scatter: SiteScatter = getattr(checked(SiteScatterFile, document, ""), _class(scenario)).made()
    return scatter


def _workload(tree: Tree, library: Library, field: str) -> tuple[Tree, str]:
    """Return the workload that a step's scenario is of, and the scenario's name there."""
    if not tree.is_mapping:
        raise tree.error(
            "must be a mapping", "write a scenario with its `model`, or {workload: NAME, scenario: NAME}",
            f"{field}.scenario",
        )  # fmt: skip
    if tree.child("workload") is not None:
        reference = checked(ReferenceFile, tree, f"{field}.scenario")
        return library.read(library.find_workload(reference.workload), "workload"), reference.scenario
    return workload_of(tree, _INLINE), _INLINE


def workload_of(tree: Tree, name: str) -> Tree:
    """Return the workload of one scenario, which is stated together with its model. name: of the scenario there."""
    model = {"model": tree.value["model"]} if tree.child("model") else {}
    return Tree({**model, "scenarios": Tree({name: tree.without("model")}, tree.location, tree.key)}, tree.location)


def _step(file: MeasuredStepFile, tree: Tree, field: str, scenario: Scenario) -> MeasuredStep:
    allowed = MEASURED[scenario.plan.phase]
    if file.metric not in allowed:
        raise tree.value["metric"].error(
            f"{file.metric} is not measured in phase {scenario.plan.phase}", f"write one of {', '.join(allowed)}",
            f"{field}.metric",
        )  # fmt: skip
    measure = Measure(dimension_of(file.metric) or "ratio")
    value = tree.value["value"]
    try:
        number = float(measure.check(to_python(value)))
    except Wrong as error:
        raise field_error(error, f"{field}.value", value.location) from None
    if not math.isfinite(number) or number <= 0.0:
        raise value.error("must be above zero", field=f"{field}.value")
    record_folder()  # the value's place is relative to it
    return MeasuredStep(scenario, file.metric, number, f"{field}.value", value.location)


def _items(tree: Tree | None) -> list[Tree]:
    if tree is None or tree.value is None:
        return []
    return list(tree.value) if isinstance(tree.value, list) else [tree]


def _class(scenario: Scenario) -> str:
    """Return the class of runs that a scenario's errors are like, of a bound none."""
    return CLASSES.get(scenario.plan.phase, "")


def _site(scenario: Scenario) -> tuple[str, str, str]:
    return scenario.framework.name, scenario.cluster.device.name, scenario.cluster.name


# ---- The file of how runs of a site scatter about predictions: `calibrations/site_scatter` ---------------------------


class ScatterFile(Declared, of=SiteScatter):
    """How alike errors of runs are, shares of the variance of log(measured / predicted time). The rest is own."""

    rows: NumberOrZero = Field(description="published figures behind it")
    publications: NumberOrZero = Field(description="publications behind it")

    def _check_shares(self) -> None:
        if isinstance(self.site, float) and isinstance(self.alike, float) and self.site + self.alike > 1.0:
            raise Wrong(f"site {self.site:g} and alike {self.alike:g} are more than a whole", "write site + alike <= 1")


class SiteScatterFile(Strict):
    """How runs of a site scatter about predictions: what measured steps of the site say of others."""

    name: str = Field(description="name in references")
    training: ScatterFile = Field(description="of training steps")
    inference: ScatterFile = Field(description="of passes and batches: prefill, decode, generate")
    serving: ScatterFile = Field(description="of servers")
    sources: list[Source] = Field(default=[], description="where the values come from")
