"""What a worker process answers of one scenario: its prediction, its curve, the file and command that give the same."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from costmodel.api import Workload, load
from costmodel.app.state import CONTROLS, State, check_names
from costmodel.errors import CostModelError, InputError, Problem
from costmodel.records import ValueRecord, field
from costmodel.result import Point
from costmodel.schema.loader import yaml_text
from costmodel.schema.overrides import read_overrides
from costmodel.schema.references import Library
from costmodel.schema.tree import Tree, replace_at, to_python
from costmodel.schema.what_if import AlternativeFile, load_levers
from costmodel.study.levers import switches
from costmodel.study.what_if import changes_of

LEVERS = "insights_deepseek_v3"
STEPS = np.array([1 / 16, 1 / 8, 1 / 4, 3 / 8, 1 / 2, 3 / 4, 1, 1.5, 2, 3, 4, 6, 8, 16])  # of a load on its curve
# Phase -> the load that varies, then the throughput and the latency that follow.
CURVES = {
    "training": ("global_batch", "tokens_per_second_per_device", "step_time"),
    "prefill": ("tokens_per_device", "tokens_per_second_per_device", "ttft"),
    "decode": ("batch_per_device", "tokens_per_second_per_device", "tpot"),
    "generate": ("batch", "tokens_per_second_per_device", "tpot"),
    "serving": ("concurrency", "tokens_per_second_per_device", "tpot"),
    "diffusion": ("batch", "images_per_second_per_device", "latency"),
}


class Curve(ValueRecord):
    """Latency and throughput as the load varies. load, throughput, latency: names of the first scenario's key and of
    two metrics, then their values.
    """

    names: tuple[str, str, str]
    load: tuple[float, ...]
    throughput: tuple[float, ...]
    latency: tuple[float, ...]


class Wrong(ValueRecord):
    """A problem of a scenario. control: key of the field that it stands at, blank for the scenario as a whole."""

    control: str
    message: str


class Predicted(ValueRecord):
    """A scenario as predicted, or what is wrong with it.

    document: the scenario of the result file, model: facts of its model.
    usual: path of a control -> the value that holds where nobody states one.
    runs: name of each scenario of the workload -> its phase.
    command, yaml: what gives the same answer. notes: what was assumed, and warnings.
    """

    state: State
    phase: str = ""
    document: dict[str, Any] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)
    headline: str = ""
    usual: dict[str, str] = field(default_factory=dict)
    runs: dict[str, str] = field(default_factory=dict)
    curve: Curve | None = None
    command: str = ""
    yaml: str = ""
    notes: tuple[str, ...] = ()
    wrong: tuple[Wrong, ...] = ()
    engine: str = "analytic"


def predicted(state: State, search_path: Sequence[str | Path] = ()) -> Predicted:
    """Return what is predicted of a scenario, or its problems, each with the field that it stands at."""
    runs: dict[str, str] = {}
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            workload, changes, is_model = asked(state, search_path)
            runs = {} if is_model else _runs(state.of, search_path)
            point = workload.points([state.run], engine=None)[state.run]
            curve = _curve(workload, state.run) if point.fits else None
        return Predicted(
            state=state, phase=point.phase, document=point.document(), model=workload.model(), headline=point.headline,
            usual=_usual(workload, state.run, point), runs=runs, curve=curve,
            command=state.command(changes, is_model=is_model), yaml=_yaml(workload, state, changes, search_path),
            notes=(*workload.notes, *dict.fromkeys(str(one.message) for one in caught)),
        )  # fmt: skip
    except InputError as error:
        return Predicted(state, runs=runs, wrong=tuple(_wrong(problem, state) for problem in error.problems))
    except CostModelError as error:
        return Predicted(state, runs=runs, wrong=(Wrong("", str(error)),))


def asked(state: State, search_path: Sequence[str | Path]) -> tuple[Workload, dict[str, object], bool]:
    """Return the workload of a scenario with its settings and levers, all changes, and whether a model starts it."""
    library = Library(search_path)
    is_model = check_names(state, library)
    changes = state.changes()
    if is_model:
        workload = load(state.of, set=changes, cluster=state.on, phases=(state.run,), search_path=search_path)
    else:
        names = list(_runs(state.of, search_path))
        if state.run not in names:
            hint = f"choose {', '.join(names)}"
            raise InputError.single(f"{state.of} has no scenario {state.run!r}", hint=hint, field="run")
        cluster = state.on or None
        workload = load(state.of, set=changes, cluster=cluster, scenarios=(state.run,), search_path=search_path)
    known = load_levers(LEVERS, tuple(map(str, search_path))) if state.levers else None
    for switch, lever in () if known is None else switches(known, state.levers):
        factors = {path: float(str(factor)) for path, factor in switch.times.items()}
        alternative = AlternativeFile(term=lever.term, set=switch.set, scale=factors)
        try:
            of_lever = dict(changes_of(workload, state.run, alternative))
            workload = workload.changed(of_lever)
        except InputError as error:
            message = "; ".join(problem.message for problem in error.problems)
            raise InputError.single(f"{switch.name}: {message}", field="lever") from None
        changes |= {path: _text(value) for path, value in of_lever.items()}
    return workload, changes, is_model


def _text(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_text(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_text, value)) + "]"
    return str(value).lower() if isinstance(value, bool) or value is None else str(value)


def _runs(name: str, search_path: Sequence[str | Path]) -> dict[str, str]:
    library = Library(search_path)
    scenarios = library.read(library.find_workload(name), "workload").child("scenarios")
    entries = scenarios.value if scenarios is not None and scenarios.is_mapping else {}
    return {name: tree.text("phase") or "" for name, tree in entries.items() if tree.is_mapping}


def _usual(workload: Workload, run: str, point: Point) -> dict[str, str]:
    """Return the value of each control that a scenario has, as text."""
    usual = {}
    for control in (each for each in CONTROLS if each.is_of(point.phase)):
        try:
            value = workload.resolved.value(f"scenarios.{run}.{control.path}")
        except InputError:
            continue
        usual[control.path] = _shown(value)
    return usual


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return str(value.get("compute") or value.get("name") or "")
    if isinstance(value, (list, tuple, set, frozenset)):
        return ", ".join(sorted(map(str, value))) or "none"
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return f"{value:,g}".replace(",", "") if is_number else "" if value is None else str(value)


def _curve(workload: Workload, run: str) -> Curve | None:
    """Return latency and throughput over the load of a scenario, null where it has no such curve."""
    scenario = workload.scenario(run)
    names = CURVES.get(scenario.plan.phase)
    if names is None or scenario.result_kind != scenario.plan.phase:
        return None
    path, throughput, latency = names
    if path == "concurrency" and getattr(scenario.plan, "rate", None) is not None:
        path = "rate"
    now = getattr(scenario.plan, path, None)
    if now is None or scenario.anchor is not None:
        return None
    for steps in (STEPS, STEPS[STEPS >= 1.0]):
        values = float(now) * steps
        try:
            result = workload.evaluate(run, {f"scenarios.{run}.{path}": values})
            break
        except CostModelError:  # less than one request, or no whole number for the layout
            continue
    else:
        return None
    rates, times = result.metrics[throughput], result.metrics[latency]
    if rates is None or times is None:
        return None
    known = np.isfinite(rates) & np.isfinite(times) & result.fits
    kept = [tuple(map(float, np.asarray(each)[known])) for each in (values, rates, times)]
    return Curve((path, throughput, latency), *kept) if len(kept[0]) > 1 else None


def _yaml(workload: Workload, state: State, changes: Mapping[str, object], search_path: Sequence[str | Path]) -> str:
    """Return the workload as a file. What no workload's file states stays an option, which the first line names.

    So does everything where a run anchors it, which ran the scenario as the file has it.
    """
    start = workload.start
    if start is not None:
        tree = start.tree
    else:
        own = {"cluster": Tree(state.on)} if state.on else {}
        library = Library(search_path)
        phase = library.read(library.find_workload(state.of), "workload").at(("scenarios", state.run))
        named = {"phase": Tree(phase.text("phase"))} if phase is not None else {}
        tree = Tree({"extends": Tree(state.of), "scenarios": Tree({state.run: Tree({**named, **own})})})
    inside, options = ["scenarios", state.run], []
    for path, text in changes.items():
        (override,) = read_overrides({path: text}, [state.run])
        is_anchor = override.target.path == ("anchor",)
        if override.target.document == "scenario" and (is_anchor or not state.anchor[1]):
            tree = replace_at(tree, (*inside, *override.target.path), override.value)
        else:
            options.append(f'--set "{path}={text}"')
    name = f"{state.of}.yaml"
    head = f"# costmodel simulate {' '.join([f'./{name}', '--scenario', state.run, *options])}"
    if start is not None and tree is start.tree:
        return f"{head}\n{start.text}"
    return f"{head}\n{yaml_text({key: value for key, value in to_python(tree).items() if key != 'schema'}, 'workload')}"


def _wrong(problem: Problem, state: State) -> Wrong:
    """Return a problem with the control that it stands at: that of its field, or of the setting that it came from."""
    own = f"scenarios.{state.run}."
    source = "" if problem.location is None else problem.location.source.removeprefix("--set ").partition("=")[0]
    paths = [text.removeprefix(own) for text in (source, problem.field)]
    stated = {path for path, _ in state.values} | {"of", "on", "run", "lever", "set", "anchor.at"}
    control = next((path for path in paths if path in stated), "")
    if not control and any(path.startswith("anchor") for path in paths):
        control = "anchor.value"
    if not control and source and source in state.more:
        control = "set"
    message = f"{problem.message}; {problem.hint}" if problem.hint else problem.message
    shown = f"{problem.field.removeprefix(own)}: {message}" if not control and problem.field else message
    return Wrong(control, shown)
