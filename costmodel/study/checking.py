"""Every problem of a file and of what it asks for: studies, what-ifs and fit plans are planned, none is evaluated."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from costmodel.api import Workload
from costmodel.calibration.fit_lookup import FitLookup, load_calibration
from costmodel.errors import InputError, Problem, suggest
from costmodel.records import replace
from costmodel.result import PHASES
from costmodel.schema.assemble import Assembly
from costmodel.schema.files import load_device, validate
from costmodel.schema.fit_plan import FitPlanFile
from costmodel.schema.model_names import is_config
from costmodel.schema.references import Library
from costmodel.schema.resolve import resolve
from costmodel.schema.tree import Tree
from costmodel.schema.what_if import WhatIfFile, find_study
from costmodel.study.goals import SEARCHED, read_goal
from costmodel.study.sweep import Wanted, plan_sweep

_OWN = "scenario."  # with which an alternative's path is one inside each of its scenarios


def check_file(path: str, search_path: Sequence[str] = ()) -> list[Problem]:
    """Return every problem of a file or a workload's name, of the files it refers to, and of what it asks for."""
    problems = validate(path, search_path)
    file = Path(path)
    if problems or not file.is_file() or is_config(file):
        return problems
    library = Library(search_path)
    tree = library.read(file, library.schema_of(file))
    planner = _PLANNERS.get(library.schema_of(file))
    return [] if planner is None else list(planner(tree, path, search_path))


def _load(
    workload: str, changes: Mapping[str, object], scenarios: Sequence[str], search_path: Sequence[str]
) -> Workload:
    """Return a workload as it is asked for, its files resolved, without a word on what is meant to be unlike others."""
    resolved = resolve(workload, overrides=changes, search_path=search_path, scenarios=scenarios or None)
    return Workload(resolved, workload, changes, None, Library(search_path))


def _study(tree: Tree, path: str, search_path: Sequence[str]) -> Iterator[Problem]:
    """Yield what is wrong with a study's workload, axes, formulas and objective."""

    def plan() -> None:
        study = find_study(path, search_path)
        assert study is not None, "it is one"
        file = study.file
        workload = _load(file.workload, study.changes, file.scenarios, search_path)
        if study.varied:
            plan_sweep(
                workload, study.varied, every=bool(file.scenarios), wanted=Wanted(file.derived, tuple(file.constraints))
            )
        for name, scenario in workload.resolved.scenarios.items() if file.objective or not study.varied else ():
            if scenario.plan.phase in SEARCHED and not study.varied:
                read_goal(scenario.plan.phase, name, file.objective, file.constraints, file.derived)

    yield from _problems(plan, tree, ())


def _what_if(tree: Tree, path: str, search_path: Sequence[str]) -> Iterator[Problem]:  # noqa: ARG001  one signature
    """Yield what is wrong with a what-if's metric, and with its changes, each made by itself."""
    file = Assembly(Library(search_path)).part(WhatIfFile, tree).file
    workload, own = file.workload, file.scenario

    def judged() -> None:
        loaded = _load(workload, {}, [own], search_path)
        metrics = PHASES[loaded.scenario(own).result_kind][1]
        if file.metric not in metrics:
            raise InputError.single(f"{own} has no metric {file.metric!r}", hint=suggest(file.metric, metrics))
        for step in file.steps:
            loaded.resolved.value(step.path)

    yield from _problems(judged, tree, ("metric",))
    for spot, changes, scenarios in _changes(file):

        def made(changes: Mapping[str, object] = changes, scenarios: Sequence[str] = scenarios) -> None:
            for name in scenarios or (own,):
                head = f"scenarios.{name}."
                placed = {
                    head + key.removeprefix(_OWN) if key.startswith(_OWN) else key: value
                    for key, value in changes.items()
                }
                _load(workload, placed, [name], search_path)

        yield from _problems(made, tree, spot)


def _changes(file: WhatIfFile) -> Iterator[tuple[tuple[str | int, ...], Mapping[str, object], Sequence[str]]]:
    """Yield (place in the file, changes, scenarios or none for its own) of everything that a what-if changes."""
    yield ("start",), file.start, ()
    for number, step in enumerate(file.steps):
        yield ("steps", number), {} if step.value is None else {step.path: step.value}, ()
    for number, story in enumerate(file.stories):
        yield ("stories", number), story.set, ()
    for number, assumption in enumerate(file.assumptions):
        yield ("assumptions", number, "low"), assumption.low, ()
        yield ("assumptions", number, "high"), assumption.high, ()
    for number, alternative in enumerate(file.alternatives):
        if alternative.set and alternative.message is None:
            both = {**alternative.against, **alternative.set}
            yield ("alternatives", number), both, alternative.scenarios


def _fit_plan(tree: Tree, path: str, search_path: Sequence[str]) -> Iterator[Problem]:  # noqa: ARG001  one signature
    """Yield devices, frameworks, recipes and siblings that a fit plan names and nobody has."""
    library = Library(search_path)
    file = Assembly(library).part(FitPlanFile, tree).file
    known: dict[str, list[str]] = {
        "devices": library.names("devices"), "frameworks": library.names("frameworks"), "recipes": list(file.recipes),
        "implementations": [each.name for each in file.implementations],
    }  # fmt: skip
    spot: tuple[str | int, ...]
    asked: list[tuple[str, str, tuple[str | int, ...]]] = []
    for number, each in enumerate(file.implementations):
        spot = ("implementations", number)
        asked.append(("devices", each.device.removeprefix("devices/"), (*spot, "device")))
        asked.extend(("recipes", recipe, (*spot, "families", family)) for family, recipe in each.families.items())
        asked.extend(("implementations", name, (*spot, "siblings")) for name in each.siblings)
    for number, bar in enumerate(file.bars):
        asked.append(("devices", bar.device.removeprefix("devices/"), ("bars", number, "device")))
    for number, term in enumerate(file.terms):
        asked.extend(("frameworks", name, ("terms", number, "frameworks")) for name in term.frameworks)
    for kind, name, spot in asked:
        if name not in known[kind]:
            at, field = tree.at(spot) or tree, ".".join(map(str, spot))
            yield Problem(at.location, field, f"unknown name {name!r}", suggest(name, known[kind]))


def _problems(plan: Callable[[], None], tree: Tree, spot: Sequence[str | int]) -> Iterator[Problem]:
    """Yield what planning finds, at its place in the file."""
    try:
        plan()
    except InputError as error:
        nearest = tree.at(spot) or tree
        for problem in error.problems:
            is_line = problem.location is not None and problem.location.line is not None
            field = ".".join((*map(str, spot), problem.field)).strip(".")
            yield problem if is_line else replace(problem, location=nearest.location, field=field)


def _device(tree: Tree, path: str, search_path: Sequence[str]) -> Iterator[Problem]:
    """Yield what is wrong with the measured rows that a device file names as its anchor."""
    spot = tree.at(("calibration", "anchor"))
    try:
        fits = load_calibration(load_device(path, search_path), "default", search_path).families
        assert isinstance(fits, FitLookup)
        fits.read_anchors()
    except InputError as error:
        for problem in error.problems:
            is_line = problem.location is not None and problem.location.line is not None
            yield problem if is_line or spot is None else replace(problem, location=spot.location)


_PLANNERS = {"study": _study, "what_if": _what_if, "fit_plan": _fit_plan, "device": _device}
