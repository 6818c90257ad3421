"""The best layouts of a scenario for an objective under constraints, how many were looked at, and the runners-up.

The axes of a study are part of the search: layouts are tried at all of their values, and an axis over something that
layouts have (a degree, a batch, a schedule) leaves those that have one of its values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import product
from typing import Any, Protocol, TypeAlias

import numpy as np

from costmodel.analytic.capital import missing
from costmodel.analytic.grid import evaluate_point
from costmodel.api import Workload
from costmodel.errors import InputError, LayoutError
from costmodel.records import Record, replace
from costmodel.schema import SI
from costmodel.study.axes import Axis
from costmodel.study.executors import HERE, Pool, in_order
from costmodel.study.goals import (
    KEPT,
    SEARCHED,
    Goal,
    OnProgress,
    SearchRequest,
    SearchResult,
    candidate,
    default_objective,
    names_of,
    ranked,
    read_goal,
)
from costmodel.study.layouts import DEGREES, OWN, SLICES, VARIED, exchange_axis, stage_sizes
from costmodel.study.reach import Number, number_of, reach
from costmodel.study.search_passes import search_passes
from costmodel.study.search_servers import growing_numbers, most_servers, search_servers
from costmodel.study.search_steps import search_steps
from costmodel.study.sweep import Structure, Sweep, Wanted, plan_sweep
from costmodel.units import render
from costmodel.workload.plans import Serving, Training
from costmodel.workload.reinforcement import Reinforcement
from costmodel.workload.split_rules import heads_of

SCHEMA = "costmodel/search@1"


class Searching(Protocol):
    """One search, or a part of it."""

    def __call__(self, request: SearchRequest, /, on_progress: OnProgress) -> SearchResult:
        """Return its result."""


class Space(Record):
    """The layouts that a search tries.

    devices: numbers of devices (default: as many as the scenario takes, as in `simulate`).
    varied: axes as `--vary` takes them.
    fixed: parts of a layout as `PATH=VALUE`, which every layout has.
    pool: workers that evaluate parts of the search, which finds the same however many there are.
    """

    devices: Sequence[int] = ()
    varied: Sequence[str] = ()
    fixed: Sequence[str] = ()
    pool: Pool = HERE


def searched(
    workload: Workload,
    scenario: str,
    objective: str | None,
    wanted: Wanted,
    space: Space = Space(),
    on_progress: OnProgress = lambda _: None,
) -> SearchResult:
    """Return the result of a search whose objective, constraints and axes are text.

    Raises InputError on a bad objective, constraint or axis, and where there are too many layouts.
    """
    phase = workload.scenario(scenario).result_kind
    chosen = workload.scenario(scenario)
    has_rent = chosen.cluster.device.price.rental is not None
    number = _moved(workload, scenario, objective, wanted, space)
    if number is not None and objective is not None:
        counts = space.devices or (() if isinstance(chosen.plan, Serving) else (int(chosen.devices),))
        own = replace(space, devices=counts)
        return reach(workload, number, objective, lambda one: searched(one, scenario, None, wanted, own), on_progress)
    objective = objective or default_objective(chosen.plan, phase, has_rent=has_rent)
    if isinstance(chosen.plan, Reinforcement):
        goal = read_goal(phase, scenario, objective, wanted.constraints, wanted.derived)
        return _of_parts(workload, scenario, goal, space, on_progress)
    exchanges = None if phase not in SEARCHED else exchange_axis(workload, scenario)
    if exchanges is not None and not any(".communication" in each for each in (*space.varied, *space.fixed)):
        space = replace(space, varied=(*space.varied, exchanges))
    if not space.varied and not space.fixed:
        goal = read_goal(phase, scenario, objective, wanted.constraints, wanted.derived)
        return search(workload, scenario, goal, space, on_progress=on_progress)
    base = workload.changed({}, [scenario])
    sweep = plan_sweep(base, [*space.varied, *space.fixed], every=True)
    paths = [axis.path for axis in sweep.axes if not axis.texts]
    goal = read_goal(phase, scenario, objective, wanted.constraints, wanted.derived, paths)
    return search(workload, scenario, goal, space, sweep, on_progress)


def _moved(workload: Workload, scenario: str, objective: str | None, wanted: Wanted, space: Space) -> Number | None:
    """Return the number of a scenario whose end the objective asks for, null where it is a formula or none."""
    phase = workload.scenario(scenario).result_kind
    if objective is None or phase not in SEARCHED:
        return None
    axes = [part.partition("=")[0].strip() for each in space.varied for part in each.split(";")]
    return number_of(workload, scenario, objective, [*names_of(phase, axes), *wanted.derived])


def _of_parts(
    workload: Workload, scenario: str, goal: Goal, space: Space, on_progress: OnProgress
) -> SearchResult:  # fmt: skip
    """Return the result of a search of a step whose training part is searched by itself."""
    if space.varied:
        raise InputError.single(
            "a step of several parts is searched without axes", hint="sweep them, or search its parts", field=scenario
        )
    result = SearchResult(scenario, goal.sense, goal.objective.text, goal.names)
    result.devices = _numbers(workload, scenario, space.devices, None, goal)

    def train(loaded: Workload, part: str, devices: int, fixed: Sequence[str]) -> SearchResult:
        return searched(loaded, part, "minimise step_time", Wanted({}, ()), Space((devices,), (), fixed))

    search_reinforcement(workload, result, goal, space.fixed, train, on_progress)
    return result


WORK = ("tokens_per_device", "batch_per_device", "batch", "concurrency")  # of a plan, that depends on its layout


def settings(workload: Workload, result: SearchResult) -> dict[str, str]:
    """Return what the best layout sets that the workload does not, path -> text: `--set` of each gives that layout."""
    best, head = result.best[0].at, f"scenarios.{result.scenario}."
    paths = {name: head + name if name in (*OWN, *VARIED) else name for name in best}
    settings_of = {
        paths[name]: _text(value, result.axes.get(paths[name], "count"))
        for name, value in best.items()
        if workload.start is not None or workload.resolved.value(paths[name]) != value
    }
    scenario = workload.scenario(result.scenario)
    if workload.start is not None:  # of a model, whose layout and work would be chosen anew
        own = {name: getattr(scenario.plan, name, None) for name in WORK} | {SLICES: scenario.parallel.expert_tensor}
        settings_of = {**{head + name: f"{value:g}" for name, value in own.items() if value is not None}, **settings_of}
    if isinstance(scenario.plan, Training) and scenario.plan.stages is not None:
        number = best["parallel.pp"] * best["parallel.virtual"]
        sizes = stage_sizes(scenario.architecture, scenario.plan, number)
        if sizes != scenario.plan.stages:
            settings_of[head + "stages"] = str(list(sizes or ()))
    return settings_of


def _text(value: object, dimension: str) -> str:
    if isinstance(value, bool | str) or dimension == "count":
        return str(value).lower() if isinstance(value, bool) else str(value)
    return render(float(value), dimension)  # type: ignore[arg-type]


def search(
    workload: Workload,
    scenario: str,
    goal: Goal,
    space: Space = Space(),
    sweep: Sweep | None = None,
    on_progress: OnProgress = lambda _: None,
) -> SearchResult:
    """Return the best layouts of a scenario on some devices (default: as many as it takes now, at all axes' values).

    sweep: the axes that are part of the search. With several numbers of devices and the objective `minimise devices`,
    a training step is searched on ever more devices until one meets the constraints.
    """
    if sweep is None:
        numbers = _numbers(workload, scenario, space.devices, None, goal)
        whole = SearchRequest(workload, scenario, goal, numbers, is_open=not space.devices, pool=space.pool)
        return _of_structure(whole, on_progress)
    result = SearchResult(scenario, goal.sense, goal.objective.text, goal.names)
    result.devices = _numbers(sweep.workload, scenario, space.devices, sweep, goal)
    head, requests, others = f"scenarios.{scenario}.", [], []
    for one in (one for one in sweep.structures if one.scenario == scenario):
        loaded = _loaded(sweep.workload, scenario, one)
        if loaded is None:
            continue
        fixed = {path.removeprefix(head): text for path, text in one.choices.items()}
        stated = {head + name: np.array([float(text)]) for name, text in fixed.items() if name in OWN}
        axes = [*((Axis(path, value, "count", whole=True),) for path, value in stated.items()), *sweep.numeric]
        requests.append(
            SearchRequest(
                loaded, scenario, goal, result.devices, axes, tuple(fixed), is_open=not space.devices, pool=space.pool
            )
        )
        named = zip(one.choices.items(), fixed, strict=True)
        others.append({path: text for (path, text), name in named if name not in (*OWN, *VARIED)})
    for part, choices in zip(_each(requests, _of_structure, on_progress), others, strict=True):
        result.merge(part, choices)
    result.axes = {axis.path: axis.dimension for axis in sweep.axes if not axis.texts}
    return result


def _loaded(workload: Workload, scenario: str, one: Structure) -> Workload | None:
    """Return the workload of a structure, whether or not its own layout is one, null where there is none.

    Degrees that are arrays are judged layout by layout, so those that the scenario states stand in the way of none.
    """
    if one.workload is not None:
        return one.workload
    names = [f"scenarios.{scenario}.parallel.{name}" for name in DEGREES]
    try:
        return workload.changed({**{name: SI(np.ones(1)) for name in names}, **one.choices}, [scenario])
    except LayoutError:
        return None


def _each(requests: Sequence[SearchRequest], one: Searching, on_progress: OnProgress) -> Iterator[SearchResult]:
    """Yield the results of searches in their order. Of several each is a task of the workers. A single one is done
    here, and shares its own parts among them."""
    count = len(requests)
    if count > 1 and requests[0].pool.executor is not None:
        alone = (replace(each, pool=HERE) for each in requests)
        for number, part in enumerate(in_order(requests[0].pool, partial(one, on_progress=_silent), alone)):
            on_progress((number + 1) / count)
            yield part
        return
    for number, each in enumerate(requests):
        yield one(each, lambda share, number=number: on_progress((number + share) / count))  # type: ignore[misc]


def _silent(_: float) -> None:
    """Say nothing, as a worker does."""


def _of_structure(request: SearchRequest, on_progress: OnProgress) -> SearchResult:
    """Return the best layouts on all numbers of devices."""
    goal = request.goal
    result = SearchResult(request.scenario, goal.sense, goal.objective.text, goal.names, request.devices)
    chosen = request.workload.scenario(request.scenario)
    unknown = missing(chosen)
    for name in request.goal.names:
        if name in unknown:
            raise InputError.single(
                f"{name} is not known: {unknown[name]}", field=request.scenario, hint="or ask for another metric"
            )
    if isinstance(chosen.plan, Serving):
        search_servers(request, result, on_progress)
        return result
    is_fewest = request.goal.is_fewest and (isinstance(chosen.plan, Training) or request.is_open)
    without = []
    parts = _each([replace(request, devices=(number,)) for number in request.devices], _on_devices, on_progress)
    for number, part in zip(request.devices, parts, strict=False):
        result.merge(part, {})
        without += [] if part.feasible else [number]
        if is_fewest and result.best:
            break
    _note_the_cluster(request, result, without)
    return result


def _on_devices(request: SearchRequest, on_progress: OnProgress) -> SearchResult:
    """Return the best layouts of a step or a pass on one number of devices."""
    result = SearchResult(request.scenario, request.goal.sense)
    is_step = isinstance(request.workload.scenario(request.scenario).plan, Training)
    (search_steps if is_step else search_passes)(request, result, on_progress)
    return result


def _note_the_cluster(request: SearchRequest, result: SearchResult, without: Sequence[int]) -> None:
    """Note which of the numbers of devices without a layout the cluster does not have. A node means as many as hold
    them."""
    if not without:
        return
    degrees = {"tp": np.ones(len(without)), "cp": np.ones(len(without)), "pp": np.ones(len(without))}
    columns = {**degrees, "dp": np.array(without, dtype=np.float64)}
    paths = tuple(f"{request.head}parallel.{name}" for name in columns)
    cluster = request.workload.varied(request.scenario, {paths: tuple(columns.values())})[0].cluster
    has = np.broadcast_to(np.asarray(cluster.devices), (len(without),))
    larger = [f"{number:,}" for number, most in zip(without, has.tolist(), strict=True) if number > most]
    if not larger:
        return
    has_only = f"{cluster.name} has {int(np.max(has)):,} devices"
    if len(larger) == len(request.devices):
        result.why = (
            f"{has_only}, fewer than {' or '.join(larger)}: lower --devices or the degrees that --set fixes, or name "
            "a larger cluster"
        )
    else:
        result.notes = (*result.notes, f"{has_only}: {', '.join(larger)} were left out")


def _numbers(
    workload: Workload, scenario: str, devices: Sequence[int], sweep: Sweep | None, goal: Goal
) -> tuple[int, ...]:  # fmt: skip
    """Return the numbers of devices to lay out on: those asked for, those among which the fewest are looked for, or
    those that the axes' points take."""
    if devices:
        return tuple(sorted(set(devices)))
    plan = workload.scenario(scenario).plan
    if isinstance(plan, Serving) and plan.rate is not None:
        return most_servers(workload.scenario(scenario))
    degrees = {f"scenarios.{scenario}.parallel.{name}" for name in (*DEGREES, "cp")}
    varied = sweep is not None and any(axis.path in degrees for axis in sweep.axes)
    if goal.is_fewest and not varied and not isinstance(plan, Reinforcement):
        return growing_numbers(workload.scenario(scenario))
    chosen = workload.varied(scenario, sweep.vary())[0] if varied and sweep is not None else workload.scenario(scenario)
    numbers = np.unique(np.asarray(chosen.devices))
    whole = tuple(int(number) for number in numbers if float(number).is_integer())
    if not whole:
        raise InputError.single("no whole number of devices", hint="name some with --devices", field=scenario)
    return whole


# ---- The best layouts of a step of reinforcement learning: those of its training, each with all of its engines -------

SHARES = 8  # of the devices that a split step divides between its pools

Layout: TypeAlias = "dict[str, Any]"  # path of the resolved document -> value
SearchTrain: TypeAlias = "Callable[[Workload, str, int, Sequence[str]], SearchResult]"


def search_reinforcement(
    workload: Workload, result: SearchResult, goal: Goal, fixed: Sequence[str], search_train: SearchTrain,
    on_progress: OnProgress = lambda _: None,
) -> None:  # fmt: skip
    """Search the layouts of a step on `result.devices`, with those parts fixed that `PATH=VALUE` says.

    The best layouts of the training step by its own time are tried with all engines: tensor-parallel ranks that divide
    its heads, as many engines as there are devices for. Pools of a split step get shares of the devices.
    search_train: returns the best layouts of a training scenario on some devices.
    """
    plan = workload.scenario(result.scenario).plan
    assert isinstance(plan, Reinforcement), "the caller has looked"
    base = workload.changed({}, [result.scenario, *plan.part_names])
    found: list[tuple[float, Layout, Any]] = []
    pairs = [pair for number in result.devices for pair in _pools(plan, number)]
    for done, (engines, trainers) in enumerate(pairs):
        own = [each for each in fixed if each.startswith(f"scenarios.{plan.train.name}.")]
        train = search_train(base, plan.train.name, trainers, own)
        layouts = [_paths(plan.train.name, one.at) for one in train.best]
        tried = list(product(layouts, _engines(base, plan, engines, fixed)))
        result.looked_at += train.looked_at
        result.feasible += train.feasible
        for number, (training, rollout) in enumerate(tried):
            found += _evaluated(base, result, goal, {**rollout, **training})
            on_progress((done + (1 + number) / len(tried)) / len(pairs))
        if not layouts and train.least is not None and not result.scheduled:
            result.least = train.least
    found.sort(key=lambda each: each[0])
    result.best = ranked([candidate(point, layout, score, goal) for score, layout, point in found[:KEPT]])
    if not found and result.why is None and result.least is None:
        result.why = "no layout of its parts fits and meets the constraints"


def _pools(plan: Reinforcement, devices: int) -> Iterator[tuple[int, int]]:
    if plan.placement == "colocated":
        yield devices, devices
        return
    steps = sorted({devices * share // SHARES for share in range(1, SHARES)})
    yield from ((devices - each, each) for each in steps if 0 < each < devices)


def _engines(workload: Workload, plan: Reinforcement, devices: int, fixed: Sequence[str]) -> Iterator[Layout]:
    name, head = plan.rollout.name, f"scenarios.{plan.rollout.name}."
    pinned = {path: float(value) for path, _, value in (each.partition("=") for each in fixed) if path.startswith(head)}
    heads = [float(heads_of(layer.mixer)) for layer in workload.scenario(name).architecture.layers]
    many = "replicas.count" if isinstance(plan.engine_plan, Serving) else "parallel.dp"
    for ranks in range(1, devices + 1):
        if devices % ranks or any(each % ranks for each in heads):
            continue
        layout: Layout = {f"{head}parallel.tp": ranks, f"{head}{many}": devices // ranks}
        if all(pinned.get(path, value) == value for path, value in layout.items()):
            yield layout


def _paths(scenario: str, at: Mapping[str, Any]) -> Layout:
    """Return a layout by the paths of the resolved document."""
    return {f"scenarios.{scenario}.{name}" if name in (*OWN, *VARIED) else name: value for name, value in at.items()}


def _evaluated(
    workload: Workload, result: SearchResult, goal: Goal, layout: Layout
) -> Iterator[tuple[float, Layout, Any]]:  # fmt: skip
    """Yield the score, the layout and the point of a step that fits and meets the constraints."""
    texts = {path: str(value).lower() if isinstance(value, bool) else str(value) for path, value in layout.items()}
    try:
        loaded = workload.changed(texts, [result.scenario])
    except InputError:
        return  # engines whose weights a layout cuts, or batches that do not divide
    evaluated = loaded.evaluate(result.scenario)
    chosen = loaded.scenario(result.scenario)
    result.scheduled += int(bool(evaluated.fits))
    score, meets = goal.judged(evaluated, 1, chosen.devices)
    if meets[0]:
        yield float(score[0]), layout, evaluate_point(chosen, loaded.calibration(chosen))
