"""The best layouts of a training step: the most promising first, and none that cannot be among the best.

Each layout has a lower bound on its time, and on its memory, that needs no schedule. With the bound as its time it has
the best value of an objective that follows from the step's time, whatever else the axes change. Layouts of one variant
and order are evaluated together, those that promise most first, until no other promises to be among the best.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from costmodel.analytic.blocks import single, take
from costmodel.analytic.evaluation import ledger_of
from costmodel.analytic.grid import evaluate_grid, evaluate_point, evaluate_single
from costmodel.analytic.metrics import rates_of_step
from costmodel.cost.calibration import Calibration
from costmodel.quantities import Array, Indices
from costmodel.records import MutableRecord, Record, field
from costmodel.study.bounds import Bounder
from costmodel.study.executors import Ahead, Pool, Shared
from costmodel.study.goals import KEPT, SENSES, Goal, OnProgress, SearchRequest, SearchResult, candidate, ranked
from costmodel.study.layouts import Space, Variant, check_size, end_weights, stage_sizes, training_space, variants
from costmodel.workload.plans import Training
from costmodel.workload.scenario import Scenario
from costmodel.workload.validity import feasible_layout

Mask: TypeAlias = "npt.NDArray[np.bool_]"
_OF_STAGES = ("parallel.pp", "parallel.virtual", "parallel.dp")  # what the work of one layer does not depend on
_BOUNDING = 1.0 / 3.0  # of a search that is done, at most, before a layout is evaluated
_FEW = 4  # layouts of one order that are sooner evaluated one by one than together


class _Layout(NamedTuple):
    """A layout that may be among the best: in the order of the objective, then of the step's time."""

    score: float
    time: float
    variant: int
    row: int


class _Group(Record):
    """Layouts of one variant that share an order of work, and a bound of each: the best that it could be
    (`_Race.promise`), or the least memory that it needs [B]."""

    variant: int
    rows: Indices
    bounds: Array


class _Task(Record):
    """Layouts of one order to evaluate. rows: in the space; names: values of its columns by path."""

    scenario: Scenario
    calibration: Shared[Calibration]
    goal: Goal
    names: Mapping[str, Array]
    variant: int
    rows: Indices


class _Evaluated(NamedTuple):
    """What became of some layouts. need: on the fullest device, and what devices have [B]; layouts: those that meet
    the constraints."""

    total: Array
    capacity: Array
    layouts: list[_Layout]


class _Race(MutableRecord, eq=False):
    """Keeps the best of the layouts that are evaluated. head: of the `SearchRequest`; result: counts them and what
    they need; larger: layouts that do not fit by the bound of their memory; rules_out: whether constraints
    rule out others by the bound of their time."""

    base: Scenario
    calibration: Shared[Calibration]
    space: Space
    head: str
    goal: Goal
    plans: Sequence[Variant]
    result: SearchResult
    rules_out: bool = False
    larger: list[_Group] = field(default_factory=list)
    best: list[_Layout] = field(default_factory=list)

    @property
    def limit(self) -> float:
        """Return the promise that a layout has to stay below to be kept."""
        if len(self.best) < KEPT:
            return np.inf
        return self.best[-1].time if self.goal.is_fewest else self.best[-1].score

    def promise(self, variant: int, seconds: Array) -> Array:
        """Return the best that layouts could be, less being better, whose steps take at least some seconds.

        The objective's value, or the time where all have the same number of devices, which is looked for. No bound
        where the objective is a formula of its own.
        """
        if self.goal.is_fewest:
            return seconds
        if not self.goal.by_step:
            return np.full(len(seconds), -np.inf)
        value = rates_of_step(*self.plans[variant].planned(self.base), seconds)[self.goal.objective.text]
        return SENSES[self.goal.sense] * np.broadcast_to(np.asarray(value, dtype=np.float64), seconds.shape)

    def may_meet(self, variant: int, seconds: Array) -> Mask:
        """Return which layouts may meet the constraints, whose steps take at least some seconds."""
        if not self.goal.constraints:
            return np.ones(len(seconds), dtype=bool)
        return self.goal.may_meet(rates_of_step(*self.plans[variant].planned(self.base), seconds), len(seconds))

    def placed(self, variant: int, row: int) -> Scenario:
        """Return the scenario in a variant, its layers placed for the number of stages of one layout."""
        assert isinstance(self.base.plan, Training)
        columns = self.space.columns
        number = int(columns["parallel.pp"][row] * columns["parallel.virtual"][row])
        return self.plans[variant].of(self.base, stage_sizes(self.base.architecture, self.base.plan, number))

    def task(self, variant: int, rows: Indices) -> _Task:
        part = take(self.placed(variant, int(rows[0])), (rows,), (self.space.size,))
        return _Task(part, self.calibration, self.goal, self._names(rows), variant, rows)

    def keep(self, done: _Evaluated) -> None:
        """Count layouts that were evaluated. Of variants of a layout that take the same time, such as two ZeRO stages,
        the first is kept."""
        self._count(done.total, done.capacity)
        distinct = {(one.score, one.time, one.row): one for one in sorted([*self.best, *done.layouts], reverse=True)}
        self.best = sorted(distinct.values())[:KEPT]

    def note_least(self) -> None:
        """Note the least memory that any layout needs, where none fits: that of the lowest bounds first."""
        for group in sorted(self.larger, key=lambda group: float(group.bounds.min())):
            known = np.inf if self.result.least is None else self.result.least.memory
            rows = group.rows[group.bounds < known]
            if not len(rows):
                return
            self._count(
                *_memory(take(self.placed(group.variant, int(rows[0])), (rows,), (self.space.size,)), len(rows))
            )

    def _count(self, total: Array, capacity: Array) -> None:
        """Count the layouts that fit into memory, and note what the smallest needs."""
        self.result.scheduled += int((total <= capacity).sum())
        self.result.needs(total, capacity)

    def _names(self, rows: Indices) -> dict[str, Array]:
        paths, columns = self.space.paths(self.head), self.space.columns.values()
        return {path: column[rows] for path, column in zip(paths, columns, strict=True)}


def _memory(scenario: Scenario, size: int) -> tuple[Array, Array]:
    """Return what layouts of one order need on their fullest device, and what devices have [B]."""
    ledger, capacity = ledger_of(scenario), np.broadcast_to(scenario.cluster.device.device_memory.capacity, (size,))
    assert ledger is not None, "a training step has a ledger"
    return np.broadcast_to(ledger.total, (size,)), capacity


def _evaluate(task: _Task) -> _Evaluated:
    """Evaluate the layouts of a task that fit. A few are sooner done one by one, as floats."""
    size, calibration = len(task.rows), task.calibration.value
    total, capacity = _memory(task.scenario, size)
    places, layouts = np.flatnonzero(total <= capacity), []
    for some in places.reshape(-1, 1) if len(places) <= _FEW else [places]:
        if len(some) == 1:
            part = single(task.scenario, (int(some[0]),))
            result = evaluate_single(part, calibration)
        else:
            part = take(task.scenario, (some,), (size,))
            result = evaluate_grid(part, calibration, some.shape)
        names = {path: column[some] for path, column in task.names.items()}
        score, meets = task.goal.judged(result, len(some), part.devices, names)
        times = np.broadcast_to(np.asarray(result.metrics["step_time"], dtype=np.float64), some.shape)
        layouts += [
            _Layout(float(score[at]), float(times[at]), task.variant, int(task.rows[some[at]]))
            for at in np.flatnonzero(meets)
        ]
    return _Evaluated(total, capacity, layouts)


def search_steps(request: SearchRequest, result: SearchResult, on_progress: OnProgress) -> None:
    """Search the layouts of a training step on one number of devices, at all values of the axes."""
    workload, goal, head = request.workload, request.goal, request.head
    original = workload.scenario(request.scenario)
    space = _space(request, original, *request.devices)
    if not space.size:
        return
    base, _ = workload.varied(request.scenario, {space.paths(head): tuple(space.columns.values())})
    assert isinstance(base.plan, Training), "search has checked it"
    result.stages = _placement(base.plan)
    plans = variants(base.plan, request.fixed, splits_sequence=base.parallel.sequence_parallel)
    least = min(variant.zero for variant in plans)
    means, divides = zip(*(_layouts(base, variant, space.columns, least) for variant in plans), strict=True)
    result.looked_at += int(np.sum(means))
    result.feasible += int(np.sum(divides))
    rows = np.flatnonzero(np.any(divides, axis=0))
    if not len(rows):
        return
    base, space = take(base, (rows,), (space.size,)), space.select(rows)
    calibration = workload.calibration(base)
    race = _Race(base, Shared(calibration), space, head, goal, plans, result)
    bounding = _groups(race, [each[rows] for each in divides], lambda share: on_progress(_BOUNDING * share))
    groups = sorted(bounding, key=lambda group: float(group.bounds.min()))
    _run(race, groups, request.pool, lambda share: on_progress(_BOUNDING + (1.0 - _BOUNDING) * share))
    if result.scheduled or race.rules_out:
        result.least = None
    else:
        race.note_least()
    points = [evaluate_point(single(race.placed(*one[2:]), (one.row,)), calibration) for one in race.best]
    result.best = ranked([
        candidate(point, {**space.at(one.row), **plans[one.variant].document()}, one.score, goal)
        for one, point in zip(race.best, points, strict=True)
    ])  # fmt: skip


def _run(race: _Race, groups: Sequence[_Group], pool: Pool, on_progress: OnProgress) -> None:
    """Evaluate groups in their order until none promises more. Workers begin with the next ones, and what they did with
    other rows than the ones that are left when it is their turn is not used."""
    promises = np.array([group.bounds.min() for group in groups])
    ahead = Ahead(pool, _evaluate)

    def part(number: int) -> tuple[int, bytes, Callable[[], _Task]]:
        rows = groups[number].rows[groups[number].bounds < race.limit]
        return number, rows.tobytes(), lambda: race.task(groups[number].variant, rows)

    for number in range(len(groups)):
        if promises[number] >= race.limit:
            break
        for later in range(number, min(number + ahead.depth, len(groups))):
            if promises[later] < race.limit:
                ahead.start(*part(later))
        race.keep(ahead.result(*part(number)))
        on_progress((1 + number) / (1 + int(np.searchsorted(promises, race.limit))))


def _space(request: SearchRequest, original: Scenario, devices: int) -> Space:
    plan, path = original.plan, f"{request.head}global_batch"
    assert isinstance(plan, Training)
    batches = [axis.values for together in request.axes for axis in together if axis.path == path]
    if not batches:
        return training_space(original, plan, devices).crossed(request.axes, request.head)
    spaces = [(float(batch), training_space(original, plan, devices, int(batch))) for batch in np.unique(batches[0])]
    check_size(sum(space.size for _, space in spaces))
    columns = {
        name: np.concatenate([space.columns[name] for _, space in spaces]) for name in spaces[0][1].columns
    } | {"global_batch": np.concatenate([np.full(space.size, batch) for batch, space in spaces])}  # fmt: skip
    return Space(columns).crossed(request.axes, request.head)


def _placement(plan: Training) -> str | None:
    """Return how layers are placed where the scenario states its `stages`, null where it does not."""
    if plan.stages is None:
        return None
    weights = {stage: weight for stage, weight in end_weights(plan).items() if weight}
    names = {0: "the first stage's end", -1: "the last stage's end"}
    ends = " and ".join(
        f"{names.get(stage, f'the end on stage {stage}')} weighs as much as {weight} layer{'s' * (weight > 1)}"
        for stage, weight in weights.items()
    )
    spread = f"layers are spread evenly where {ends}, as there" if weights else "layers are spread evenly"
    return f"as the scenario states on {len(plan.stages)} stages; on other numbers {spread}"


def alike_layers(base: Scenario, columns: Mapping[str, Array], count: Array) -> Indices:
    """Return a number for each layout, the same where a layer's work is: whatever the pipeline and the copies of it.

    count: micro-batches, of whose gradients autograd adds all but the first to others.
    """
    work = [column for name, column in columns.items() if name not in _OF_STAGES]
    return _numbered([*work, count] if base.framework.training.accumulation == "autograd" else work)


def _groups(race: _Race, layouts: Sequence[Mask], on_progress: OnProgress) -> Iterator[_Group]:
    """Yield the layouts of each variant that may fit by what fixes an order, with a lower bound of each.

    layouts: of each variant, those of the space that it has.
    """
    base, columns = race.base, race.space.columns
    assert isinstance(base.plan, Training)
    capacity = base.cluster.device.device_memory.capacity
    count = np.asarray(base.plan.global_batch) / (columns["parallel.dp"] * columns["micro_batch"])
    order = _numbered([columns["parallel.pp"], columns["parallel.virtual"], count])
    bounder = Bounder(race.calibration.value, base, alike_layers(base, columns, count))
    for number, (variant, own) in enumerate(zip(race.plans, layouts, strict=True)):
        on_progress(number / len(race.plans))
        memory = bounder.memory(variant)
        fits = memory <= capacity
        race.larger += _by_order(number, np.flatnonzero(own & ~fits), memory, order)
        if np.any(own & fits):
            seconds = bounder.step(variant)
            able = race.may_meet(number, seconds)
            race.rules_out = race.rules_out or bool(np.any(own & fits & ~able))
            rows = np.flatnonzero(own & fits & able)
            yield from _by_order(number, rows, race.promise(number, seconds), order)


def _by_order(variant: int, rows: Indices, bounds: Array, order: Indices) -> Iterator[_Group]:
    """Yield some layouts of a variant by their order. bounds, order: of each layout of the space."""
    if not len(rows):
        return
    rows = rows[np.argsort(order[rows], kind="stable")]
    for part in np.split(rows, np.flatnonzero(np.diff(order[rows])) + 1):
        yield _Group(variant, part, bounds[part])


def _numbered(columns: Sequence[Array]) -> Indices:
    """Return the number of each row among the distinct ones."""
    return np.unique(np.stack(columns), axis=1, return_inverse=True)[1].reshape(-1)


def _layouts(base: Scenario, variant: Variant, columns: Mapping[str, Array], least: int) -> tuple[Mask, Mask]:
    """Return the layouts that a variant means, and those of them whose degrees divide.

    Several stages a rank are interleaved; one replica shards nothing, so that all ZeRO stages are the `least` one
    there; and one tensor-parallel rank has no one to split a sequence with.
    """
    virtual = columns["parallel.virtual"]
    several = virtual > 1 if variant.schedule == "interleaved" else virtual == 1
    own = several if variant.schedule in ("1f1b", "interleaved") else np.ones(len(virtual), dtype=bool)
    splits = (columns["parallel.tp"] > 1) | (not variant.sequence_parallel)
    own = own & splits & ((columns["parallel.dp"] * columns["parallel.cp"] > 1) | (variant.zero == least))
    return own, own & np.broadcast_to(feasible_layout(variant.of(base)), own.shape)
