"""A workload file to complete scenarios: every reference followed, every change made, every value with its origin."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from costmodel.errors import InputError, LayoutError, Location, Problem
from costmodel.quantities import is_single
from costmodel.schema import build
from costmodel.schema.assemble import Assembly, DocumentPart, Stop
from costmodel.schema.cluster import ClusterFile, NodeFile
from costmodel.schema.device import DeviceFile
from costmodel.schema.document import find, model_document, scenario_document
from costmodel.schema.expert_load import expert_counts
from costmodel.schema.fields import NumberType, number_at
from costmodel.schema.framework import FrameworkFile
from costmodel.schema.installation import install
from costmodel.schema.model import ModelFile
from costmodel.schema.number_formats import choose_formats, expand_set_name
from costmodel.schema.overrides import DocumentName, apply_overrides, locate, read_overrides
from costmodel.schema.references import Library, as_reference, suggest
from costmodel.schema.strict import Strict, validate_tree
from costmodel.schema.tree import Tree, merge
from costmodel.schema.workload import PHASES, PlanFile, WorkloadFile, phases_with
from costmodel.workload.architecture import Architecture
from costmodel.workload.scenario import Parallelism, Scenario
from costmodel.workload.validity import rules

_DEFAULT = Location("default")
_FILES: dict[DocumentName, type[Strict]] = {
    "workload": WorkloadFile, "model": ModelFile, "cluster": ClusterFile, "node": NodeFile, "device": DeviceFile,
    "framework": FrameworkFile,
}  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class ResolvedWorkload:
    """A workload whose every value is known.

    document: `model`, and `scenarios.NAME` each with its `hardware`, as nested dicts in SI; scenarios: the same as the
    other rooms take it; notes: what of the files that were read is left out, for people.
    """

    name: str
    title: str | None
    document: dict[str, Any]
    scenarios: dict[str, Scenario]
    architecture: Architecture
    _trees: dict[str, dict[str, Tree]] = field(repr=False)
    notes: tuple[str, ...] = ()

    def value(self, path: str) -> Any:
        """Return the value at a path of the document; raise InputError for no such path."""
        place = locate(path, list(self.scenarios))
        return find(self.document, place, place.scenario or next(iter(self._trees)), path)

    def number(self, path: str) -> NumberType | None:
        """Return what kind of number stands at a path, null where it is text, a switch, a list or a mapping.

        Raises InputError for no such path.
        """
        self.value(path)
        place = locate(path, list(self.scenarios)).for_number()
        if place.document == "scenario":
            name = place.scenario or next(iter(self.scenarios))
            return number_at(PHASES[self.scenarios[name].plan.phase], place.path)
        return number_at(_FILES[place.document], place.path)

    def origin(self, path: str) -> Location | None:
        """Return where the value at `path` was written: a file position, `--set …` or `default`; None: no such path.

        A path for all scenarios (`hardware.…`) is looked up in the first.
        """
        try:
            place = locate(path, list(self.scenarios))
            self.value(path)
        except InputError:
            return None
        trees = self._trees[place.scenario or next(iter(self._trees))]
        found = trees[place.document].at(place.path)
        return (found.location or found.key or _DEFAULT) if found is not None else _DEFAULT


@dataclass(frozen=True, slots=True, eq=False)
class _Resolved:
    """One scenario, its part of the document, and the trees its values stand in."""

    scenario: Scenario
    document: dict[str, Any]
    trees: dict[str, Tree]


def resolve(
    workload: str | Path,
    *,
    overrides: Mapping[str, object] | None = None,
    cluster: str | None = None,
    search_path: Sequence[str | Path] = (),
    scenarios: Iterable[str] | None = None,
) -> ResolvedWorkload:
    """Return the workload of a file or of a name under `workloads/`; raise InputError with every problem.

    overrides: path of the resolved document -> YAML text, number or `SI`; cluster: stands for every scenario's own;
    scenarios: those to resolve, null: all.
    """
    library = Library(search_path)
    path = library.find_workload(workload)
    tree = library.read(path, "workload")
    return resolve_tree(tree, path.stem, library, overrides=overrides, cluster=cluster, scenarios=scenarios)


def resolve_tree(
    tree: Tree,
    name: str,
    library: Library,
    *,
    overrides: Mapping[str, object] | None = None,
    cluster: str | None = None,
    scenarios: Iterable[str] | None = None,
) -> ResolvedWorkload:
    """Return the workload that a document holds; raise InputError with every problem."""
    stated = tree.child("scenarios")
    named: dict[str, Tree] = stated.value if stated is not None and stated.is_mapping else {}
    assembly = Assembly(library, read_overrides(overrides or {}, list(named)))
    head = assembly.part(WorkloadFile, tree, assembly.overrides_of("workload", None))
    model: DocumentPart[ModelFile] | None = None
    with assembly.collecting_problems():
        model = _model(assembly, head.tree)
    architecture = build.architecture(model.file) if model else None
    resolved: dict[str, _Resolved] = {}
    for each in _selected(list(named), scenarios):
        with assembly.collecting_problems():
            resolved[each] = _scenario(assembly, each, named[each], architecture, cluster)
    if not assembly.problems:
        assembly.report_unused()
    if assembly.problems or model is None or architecture is None:
        problems = in_order(assembly.problems)
        raise (LayoutError if all(problem.of_layout for problem in problems) else InputError)(problems)
    return ResolvedWorkload(
        name=name,
        title=head.file.title,
        document={
            "model": model_document(model.file),
            "scenarios": {each: one.document for each, one in resolved.items()},
        },
        scenarios={each: one.scenario for each, one in resolved.items()},
        architecture=architecture,
        _trees={each: one.trees | {"model": model.tree, "workload": head.tree} for each, one in resolved.items()},
        notes=tuple(assembly.notes),
    )


def resolve_model(
    tree: Tree, name: str, library: Library, overrides: Mapping[str, object] | None = None
) -> ResolvedWorkload:
    """Return a workload without scenarios: its model alone, for questions that need no hardware."""
    assembly = Assembly(library, read_overrides(overrides or {}, ()))
    with assembly.collecting_problems():
        model = _model(assembly, apply_overrides(tree, assembly.overrides_of("workload", None)))
        return ResolvedWorkload(
            name, None, {"model": model_document(model.file), "scenarios": {}}, {}, build.architecture(model.file),
            {"": {"model": model.tree, "workload": tree}}, tuple(assembly.notes),
        )  # fmt: skip
    raise InputError(in_order(assembly.problems))


def in_order(problems: Iterable[Problem]) -> list[Problem]:
    """Return the problems once each, by file and line; one that several scenarios share has no scenario's name."""
    shared: dict[tuple[object, ...], list[Problem]] = {}
    for problem in problems:
        scenario, field = _split_field(problem.field)
        key = (problem.location, field, problem.message, problem.hint, None if problem.location else scenario)
        shared.setdefault(key, []).append(problem)
    problems = [
        each[0] if len({one.field for one in each}) == 1 else replace(each[0], field=_split_field(each[0].field)[1])
        for each in shared.values()
    ]

    def place(problem: Problem) -> tuple[str, int, int]:
        at = problem.location
        return (at.source, at.line or 0, at.column or 0) if at else ("", 0, 0)

    return sorted(dict.fromkeys(problems), key=place)


def _split_field(field: str) -> tuple[str, str]:
    """Return the scenario that a problem's field is of, empty for none, and the path below it."""
    if not field.startswith("scenarios."):
        return "", field
    _, scenario, *rest = field.split(".")
    return scenario, ".".join(rest) or field


def _selected(known: Sequence[str], wanted: Iterable[str] | None) -> list[str]:
    names = list(known if wanted is None else wanted)
    for name in names:
        if name not in known:
            raise InputError.single(f"no scenario is named {name!r}", hint=suggest(name, known), field="scenarios")
    return names


def _model(assembly: Assembly, tree: Tree) -> DocumentPart[ModelFile]:
    reference = tree.child("model")
    if reference is None:
        raise Stop
    document, place = assembly.model(reference, "model")
    part = assembly.part(ModelFile, document, assembly.overrides_of("model", None), place)
    part.require()
    return part


def _scenario(
    assembly: Assembly, name: str, stated: Tree, architecture: Architecture | None, cluster: str | None
) -> _Resolved:
    tree, plan = _plan(assembly, name, stated, cluster)
    layout = build.layout(plan)
    hardware = install(assembly, tree.value["cluster"], name, build.devices(plan), plan.devices)
    place = f"scenarios.{name}.framework"
    named, place = assembly.inline_or_named(tree.child("framework") or Tree(plan.framework), "framework", place)
    framework = assembly.part(FrameworkFile, named, assembly.overrides_of("framework", name), place)
    field = f"scenarios.{name}.precision"
    chosen = tree.child("precision") or Tree({}, tree.location)
    formats, replaced = choose_formats(assembly, chosen, hardware.built.device, field)
    if architecture is None:
        raise Stop
    scenario = Scenario(
        name=name, plan=build.plan(plan), architecture=architecture, cluster=hardware.built,
        parallel=layout, precision=build.precision(formats.file),
        communication=build.communication(plan.communication), framework=build.framework(framework.file),
        offload=build.offload(plan.offload),
        notes=(
            *(
                f"{hardware.built.device.name} has no unit for {each}: the fallback precision stands in"
                for each in replaced
            ),
            *_uneven(architecture, layout),
            *_unused(plan),
        ),
        routing=build.routing(plan.routing, expert_counts(plan.routing, tree, architecture, f"scenarios.{name}")),
        simulation=build.simulation(plan.simulation),
    )  # fmt: skip
    trees = {
        "scenario": tree.with_entries(precision=merge(formats.tree, chosen)), "cluster": hardware.cluster_part.tree,
        "node": hardware.node_part.tree, "device": hardware.device_part.tree, "framework": framework.tree,
    }  # fmt: skip
    _check_layout(assembly, scenario, tree)
    return _Resolved(scenario, scenario_document(plan, scenario, hardware, formats.file, framework.file), trees)


def _uneven(architecture: Architecture, layout: Parallelism) -> Iterator[str]:
    """Yield what people should know of a layout that runs although something does not divide."""
    words, tp = architecture.vocabulary, layout.tp
    if is_single(words) and is_single(tp) and words % tp:
        told = "frameworks pad it, here each rank has an equal part"
        yield f"a vocabulary of {words:,.0f} does not divide over tp = {tp:g}: {told}"


def _unused(plan: PlanFile) -> Iterator[str]:
    """Yield a note where a scenario asks for more devices than its degrees of parallelism use."""
    asked, used = plan.devices, build.devices(plan)
    if asked is not None and is_single(asked) and is_single(used) and asked > used:
        told = "set parallel.dp or other degrees, or see `costmodel search`"
        yield f"{asked:g} devices are asked for, the degrees use {used:g}: {told}"


def _plan(assembly: Assembly, name: str, stated: Tree, cluster: str | None) -> tuple[Tree, PlanFile]:
    """Return a scenario's own document with all changes, and its checked form."""
    field = f"scenarios.{name}"
    if not stated.is_mapping:
        raise InputError.single("must be a mapping", hint="begin with `phase:`", field=field, location=stated.location)
    tree = expand_set_name(apply_overrides(expand_set_name(stated), assembly.overrides_of("scenario", name), field))
    if cluster is not None:
        label = Location(f"--cluster {cluster}")
        tree = tree.with_entries(cluster=Tree(as_reference(cluster), label, label))
    phase = tree.child("phase")
    if phase is None or not isinstance(phase.value, str) or phase.value not in PHASES:
        message = "is missing" if phase is None else f"{phase.value!r} is no known phase"
        raise InputError.single(
            message, hint=suggest(str(phase.value if phase else ""), list(PHASES)), field=f"{field}.phase",
            location=(phase or tree).location,
        )  # fmt: skip
    found: list[Problem] = []
    plan = validate_tree(PHASES[phase.value], tree, found, field)
    assembly.problems.extend(_told_by_phase(problem, field, phase.value) for problem in found)
    if plan is None:
        _look_ahead(assembly, tree, name)
        raise Stop
    return tree, plan


def _told_by_phase(problem: Problem, field: str, phase: str) -> Problem:
    """Return the problem of an unknown key that another phase knows in words that name that phase."""
    key = problem.field.removeprefix(f"{field}.")
    others = [other for other in phases_with(key) if other != phase]
    if problem.message != "unknown key" or not others:
        return problem
    *first, last = others
    named = f"{', '.join(first)} and {last}" if first else last
    return replace(
        problem,
        message=f"belongs to phase {named}, this one is {phase}",
        hint="remove it, or change the phase",
    )


def _look_ahead(assembly: Assembly, tree: Tree, name: str) -> None:
    """Note what is wrong in the hardware of a scenario that itself has problems."""
    reference = tree.child("cluster")
    if reference is not None and isinstance(reference.value, (str, dict)):
        with assembly.collecting_problems():
            install(assembly, reference, name, 1.0, None)


def _check_layout(assembly: Assembly, scenario: Scenario, tree: Tree) -> None:
    """Note every rule that the layout breaks, at the value that breaks it. A rule on a grid is the evaluator's mask."""
    for rule in rules(scenario):
        if isinstance(rule.holds, np.ndarray) or rule.holds:
            continue
        at: Tree = tree
        for part in rule.field.split("."):
            at = at.child(part) or at
        field = f"scenarios.{scenario.name}.{rule.field}"
        assembly.problems.append(Problem(at.location or tree.location, field, rule.message, rule.hint, of_layout=True))
