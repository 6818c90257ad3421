"""The best layouts of a step of reinforcement learning: those of its training, each with all of its engines."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from typing import Any, TypeAlias

from costmodel.analytic.grid import evaluate_point
from costmodel.api import Workload
from costmodel.errors import InputError
from costmodel.study.goals import KEPT, Goal, OnProgress, SearchResult, candidate, ranked
from costmodel.study.layouts import OWN, VARIED
from costmodel.workload.plans import Serving
from costmodel.workload.reinforcement import Reinforcement
from costmodel.workload.split_rules import heads_of

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
    """Yield the devices of the engines and those of training."""
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
