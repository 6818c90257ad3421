"""The cheapest servers that keep a latency goal at the rate of requests that comes: engines' layout, and how many."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from costmodel.analytic.blocks import single, take
from costmodel.analytic.evaluation import Evaluation, evaluate
from costmodel.analytic.grid import evaluate_grid, evaluate_point
from costmodel.analytic.serving.continuous_batching import left_to_requests
from costmodel.analytic.serving.open_loop import OpenLoopEvaluation
from costmodel.cost.calibration import Calibration
from costmodel.errors import InfeasibleError
from costmodel.quantities import Array, Indices
from costmodel.records import MutableRecord, Record, asdict, field, replace
from costmodel.result import FITS, Point
from costmodel.serving.choice import with_tails
from costmodel.study.executors import Ahead, Shared
from costmodel.study.goals import KEPT, OnProgress, SearchRequest, SearchResult, candidate, ranked
from costmodel.study.layouts import REPLICAS, Space, check_size, divisors, server_space
from costmodel.study.search_passes import note_memory
from costmodel.units import render
from costmodel.workload.plans import Serving
from costmodel.workload.scenario import Scenario
from costmodel.workload.validity import feasible_layout

PERCENTILE = "p99"  # of the times that an objective of the scenario limits
ROUGH = "p90"  # that the closed form, which is rough, has to keep before requests are simulated
STABLE = "stable"
_HIGHEST_RATE = "highest_stable_rate"
_METRICS = {"ttft": "ttft", "tpot": "tpot", "e2e": "latency"}  # limit or percentile -> its metric
_ENGINE_NODES = 8  # nodes of one engine at most, where no number of devices is asked for
_MOST_DEVICES = 512  # of all engines, where none is asked for
_DENSE, _GROWTH = 8, 1.25  # engines: each number up to, then so many times as many
_TAILS = "percentiles are of requests of one replica simulated one by one; those of pipelines are rough"
_MOST_TRIED = 512  # layouts whose percentiles are looked at
_PIECE = 512  # layouts of one evaluation
_BY_DEVICES = ("devices", "cost_rate")  # objectives that only more devices raise
_UNSTABLE, _UNMET, _SLOW, _SLOW_TAIL = range(4)  # why a layout does not count, the one that is nearest to counting last


class _Layout(Record, dict=True):
    """A layout in the order of the objective, then of its latency. row: in the space."""

    score: float
    latency: float
    row: int
    space: Space
    scenario: Scenario
    calibration: Calibration

    @cached_property
    def alone(self) -> Scenario:
        return single(self.scenario, (self.row,))

    @cached_property
    def simulated(self) -> Evaluation:
        return with_tails(self.alone, self.calibration)

    @cached_property
    def point(self) -> Point:
        return evaluate_point(self.alone, self.calibration, lambda *_: self.simulated)

    def __lt__(self, other: _Layout) -> bool:
        return (self.score, self.latency, self.row) < (other.score, other.latency, other.row)


def most_servers(scenario: Scenario) -> tuple[int, ...]:
    """Return the numbers of devices of servers where none is asked for.

    Engines on each divisor of a node, or on up to `_ENGINE_NODES` whole nodes. Of them `engine_counts`,
    up to 512 devices, or as many as the cluster has.
    """
    node, cluster = int(scenario.cluster.node.count), scenario.cluster
    has_network = cluster.network is not None or cluster.node.nic is not None
    nodes = [node * 2**power for power in range(1, 4) if has_network and 2**power <= _ENGINE_NODES]
    engines = [*divisors(node), *nodes]
    numbers = {int(engine * count) for engine in engines for count in engine_counts()}
    return tuple(sorted(number for number in numbers if number <= _MOST_DEVICES))


def growing_numbers(scenario: Scenario) -> tuple[int, ...]:
    """Return the numbers of devices among which the fewest of a step or a pass are looked for.

    The divisors of a node, then whole nodes: each number up to 16, then steps of a fifteenth to an eighth, up to the
    devices of the cluster, or of a node alone four times those of the scenario, at least 512.
    """
    cluster, node = scenario.cluster, int(scenario.cluster.node.count)
    own, has_network = int(scenario.devices), cluster.network is not None or cluster.node.nic is not None
    most = int(np.max(cluster.devices)) if cluster.network is not None else max(_MOST_DEVICES, 4 * own)
    nodes = [count << power for power in range(24) for count in range(8 if power else 1, 16)]
    numbers = {*divisors(node), *((most // node * node, *(node * count for count in nodes)) if has_network else ())}
    return tuple(sorted(number for number in numbers if number <= most))


def engine_counts() -> Array:
    """Return numbers of engines that are tried: each up to 8, then a quarter more each time, up to some 48,000."""
    return np.concatenate((np.arange(1.0, _DENSE + 1.0), np.ceil(_DENSE * _GROWTH ** np.arange(1, 40))))


def search_servers(request: SearchRequest, result: SearchResult, on_progress: OnProgress) -> None:
    """Search the layouts of servers: those that keep up with the rate, and whose slowest requests keep the objective.

    A layout counts where the verdict is `stable` and the 99th percentile of each time that the scenario's `slo` limits
    is within it. Means, where there are no percentiles (a closed loop). The best by the objective are looked at one by
    one until enough of different layouts have been found. Where it goes with the number of devices, the fewest first,
    and none with more than the best few.
    """
    original = request.workload.scenario(request.scenario)
    space = server_space(original, request.devices).crossed(request.axes, request.head)
    check_size(space.size)
    if not space.size:
        return
    scenario, shape = request.workload.varied(
        request.scenario, {space.paths(request.head): tuple(space.columns.values())}
    )
    fits = np.broadcast_to(feasible_layout(scenario), shape)
    result.looked_at += space.size
    result.feasible += int(fits.sum())
    devices = np.broadcast_to(np.asarray(scenario.devices), shape)
    order = np.argsort(devices, kind="stable")
    race = _Race(request, Shared(request.workload.calibration(scenario)), Ahead(request.pool, _try))
    for start in range(0, space.size, _PIECE):
        rows = order[start : start + _PIECE]
        if race.is_over(float(devices[rows[0]])):
            break
        part = race.evaluated(scenario, space, rows)
        race.run(part, lambda share, at=start: on_progress((at + _PIECE * share) / space.size))  # type: ignore[misc]
        result.scheduled += int(fits[rows].sum())
    kept = race.kept[:KEPT]
    result.best = ranked([candidate(one.point, one.space.at(one.row), one.score, request.goal) for one in kept])
    if not kept:
        note_memory(scenario, shape, result)
        result.why = None if race.nearest is None else _why_none(request, *race.nearest)
        return
    doubts = (_TAILS, _doubt(kept[0].point, original), _beyond(kept[0].simulated))
    left = left_to_requests(original.plan) if isinstance(original.plan, Serving) else ()
    result.notes = (*result.notes, *left, *(each for each in doubts if each is not None))


def _beyond(closed: Evaluation) -> str | None:
    """Return where the first layout is one of which only requests one by one tell the times, null where it is not."""
    why = closed.beyond() if isinstance(closed, OpenLoopEvaluation) else None
    return None if why is None else f"the first layout: {why}; simulate it, which takes its requests one by one"


class _Tried(NamedTuple):
    """Whether a layout keeps the objective, and how far beyond a limit it is. simulated: null where it is beyond one
    without."""

    keeps: bool
    beyond: float | None = None
    simulated: Evaluation | None = None


def _try(task: tuple[Scenario, Shared[Calibration]]) -> _Tried:
    """Look at one layout: by the closed form, and with a short run of its requests where that keeps the objective."""
    scenario, calibration = task[0], task[1].value
    for percentile in (ROUGH, PERCENTILE) if list(_limits(scenario)) else (ROUGH,):
        try:
            evaluation = (with_tails if percentile == PERCENTILE else evaluate)(scenario, calibration)
        except InfeasibleError:
            return _Tried(keeps=False)
        simulated = evaluation if percentile == PERCENTILE else None
        if not keeps(evaluation, scenario, percentile):
            times = _times(evaluation, scenario, percentile)
            beyond = max((value / limit for _, value, limit in times), default=np.inf)  # backlogged without limits
            return _Tried(keeps=False, beyond=beyond, simulated=simulated)
    return _Tried(keeps=True, simulated=simulated)


class _Race(MutableRecord, eq=False):
    """Looks at layouts one by one, the most promising first. best: of each engine's layout, of those that keep the
    objective; nearest: why the layout that is nearest to counting does not, and the layout."""

    request: SearchRequest
    calibration: Shared[Calibration]
    ahead: Ahead[tuple[Scenario, Shared[Calibration]], _Tried]
    best: dict[tuple[object, ...], _Layout] = field(default_factory=dict)
    queue: list[_Layout] = field(default_factory=list)
    nearest: tuple[int, _Layout] | None = None

    @property
    def kept(self) -> list[_Layout]:
        """Return the layouts that keep the objective, one of each engine, the best first."""
        return sorted(self.best.values())

    def is_over(self, devices: float) -> bool:
        """Tell whether no layout on at least so many devices can be among the best few."""
        goal, kept = self.request.goal, self.kept
        if goal.sense != "minimise" or goal.objective.text not in _BY_DEVICES or len(kept) < KEPT:
            return False
        if not goal.is_fewest and self.request.axes:  # that may change the rent
            return False
        last = kept[KEPT - 1]
        return devices > float(last.alone.devices) * (_GROWTH if self.request.is_open else 1.0)

    def run(self, layouts: Sequence[_Layout], on_progress: OnProgress) -> None:
        """Keep the best few, one of each engine's layout, with as few engines of it as keep the objective.

        Where numbers of devices were not asked for, those between two that were tried are tried as well: a layout of
        which one engine fewer might do is in the race until `_GROWTH` times its objective is beyond the best few.
        """
        self.queue = [*self.queue, *layouts]
        heapq.heapify(self.queue)
        for number in range(_MOST_TRIED):
            on_progress(number / _MOST_TRIED)
            kept = self.kept
            if not self.queue or (len(kept) >= KEPT and self._bound(self.queue[0]) > kept[KEPT - 1].score):
                return
            for each in heapq.nsmallest(self.ahead.depth, self.queue):
                self.ahead.start(id(each), None, lambda each=each: (each.alone, self.calibration))  # type: ignore[misc]
            one = heapq.heappop(self.queue)
            known = self.best.get(_engine(one))
            if (known is None or one < known) and self._try(one):
                self._fewest(self._fewer(one))

    def _bound(self, one: _Layout) -> float:
        """Return the best objective that fewer engines of a layout may have."""
        if not self.request.is_open:
            return one.score
        return one.score / _GROWTH if one.score > 0.0 else one.score * _GROWTH

    def _try(self, one: _Layout) -> bool:
        """Tell whether a layout keeps the objective, and keep it where it is the best of the same engine."""
        tried = self.ahead.result(id(one), None, lambda: (one.alone, self.calibration))
        if tried.simulated is not None:
            one.__dict__["simulated"] = tried.simulated  # as its property keeps it
        if not tried.keeps:
            if tried.beyond is not None:
                self._near(_SLOW_TAIL, replace(one, score=tried.beyond))
            return False
        engine = _engine(one)
        self.best[engine] = min(self.best.get(engine, one), one)
        return True

    def _fewest(self, layouts: Sequence[_Layout]) -> None:
        """Keep the first of some layouts, of ever more engines, that keeps the objective, as those behind it do."""
        low, high = 0, len(layouts)
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if self._try(layouts[middle]) else (middle + 1, high)

    def _fewer(self, one: _Layout) -> list[_Layout]:
        """Return the same engine fewer times, down to the next number that was tried by itself."""
        at = one.space.at(one.row)
        most = int(at[REPLICAS])
        counts = np.arange(np.floor(most / _GROWTH), most)
        if not self.request.is_open or most <= _DENSE:
            return []
        columns = {name: np.full(len(counts), float(value)) for name, value in at.items()} | {REPLICAS: counts}
        space = Space(columns)
        scenario, _ = self.request.workload.varied(
            self.request.scenario, {space.paths(self.request.head): tuple(columns.values())}
        )
        return self.evaluated(scenario, space, np.arange(len(counts)))

    def evaluated(self, scenario: Scenario, space: Space, rows: Indices) -> list[_Layout]:
        """Return the layouts of some rows that fit, keep up with their requests and meet the constraints."""
        part = take(scenario, (rows,), (space.size,))
        result, size = evaluate_grid(part, self.calibration.value, (len(rows),)), len(rows)
        columns = zip(space.paths(self.request.head), space.columns.values(), strict=True)
        score, meets = self.request.goal.judged(
            result, size, part.devices, {path: column[rows] for path, column in columns}
        )

        def known(name: str) -> Array:
            return np.broadcast_to(np.asarray(result.metrics.get(name, np.nan), dtype=np.float64), (size,))

        def layouts(some: npt.NDArray[np.bool_], scores: Array) -> list[_Layout]:
            return [
                _Layout(float(scores[at]), float(latency[at]), int(rows[at]), space, scenario, self.calibration.value)
                for at in np.flatnonzero(some).tolist()
            ]

        latency, fits = known("latency"), np.broadcast_to(np.asarray(result.reason) == FITS, (size,))
        stable = fits & np.isfinite(latency)
        beyond = np.zeros(size)  # no mean is beyond what nearly all keep
        for name, limit in _limits(scenario):
            beyond = np.maximum(beyond, known(name) / limit)
        for reason, some, scores in (
            (_UNSTABLE, fits & ~stable, -known(_HIGHEST_RATE)), (_UNMET, stable & ~meets, beyond),
            (_SLOW, stable & meets & (beyond > 1.0), beyond),
        ):  # fmt: skip
            if some.any():
                self._near(reason, min(layouts(some, scores)))
        return layouts(stable & meets & (beyond <= 1.0), score)

    def _near(self, reason: int, one: _Layout) -> None:
        """Note a layout that does not count, where none before was nearer to counting. Its score is how far it is."""
        if self.nearest is None or (-reason, one) < (-self.nearest[0], self.nearest[1]):
            self.nearest = reason, one


def _engine(one: _Layout) -> tuple[object, ...]:
    """Return what tells one engine's layout from another's."""
    return tuple(value for name, value in one.space.at(one.row).items() if name != REPLICAS)


def _doubt(point: Point, scenario: Scenario) -> str | None:
    """Return that a server may not keep up where its kernels are as slow as its interval says, null where it does."""
    ends, plan = point.intervals.get(_HIGHEST_RATE), scenario.plan
    if ends is None or not isinstance(plan, Serving) or plan.rate is None or ends[0] >= float(plan.rate):
        return None
    return (
        f"the first layout serves {ends[0]:.4g} .. {ends[1]:.4g} requests/s (80 % interval), "
        f"{float(plan.rate):.4g} come: one engine more is safer"
    )


def keeps(evaluation: Evaluation, scenario: Scenario, percentile: str = PERCENTILE) -> bool:
    """Tell whether a server keeps up with its requests, the slowest of them within the scenario's objective."""
    return evaluation.verdict() in (None, STABLE) and all(
        value <= limit for _, value, limit in _times(evaluation, scenario, percentile)
    )


def _times(
    evaluation: Evaluation, scenario: Scenario, percentile: str = PERCENTILE
) -> Iterator[tuple[str, float, float]]:
    """Yield each time that the scenario's objective limits: its name, its percentile, else its mean, and the
    limit [s]."""
    percentiles, metrics = evaluation.percentiles() or {}, evaluation.metrics(None)
    tails = {_METRICS[name]: each[percentile] for name, each in percentiles.items() if name in _METRICS}
    for name, limit in _limits(scenario):
        value = tails.get(name, metrics[name])
        yield name, float("inf") if value is None else float(np.max(value)), limit


def _why_none(request: SearchRequest, reason: int, one: _Layout) -> str:
    """Return why no layout counts: what the nearest one lacks, and by how much."""
    scenario, evaluation = one.alone, one.simulated
    values = one.space.at(one.row).items()
    parts = ", ".join(f"{name.removesuffix('.count').rpartition('.')[2]} {value:g}" for name, value in values)
    where = f"on {int(scenario.devices):,} devices ({parts})"
    nearest = f"the nearest, {where}"
    if reason == _UNSTABLE:
        assert isinstance(scenario.plan, Serving), "others are always stable"
        return (
            f"layouts fit in memory, but none keeps up with the rate: {nearest}, serves "
            f"{float(evaluation.metrics(None)[_HIGHEST_RATE] or 0.0):.4g} of {float(scenario.plan.rate or 0.0):.4g} "
            "requests/s; allow more --devices or a lower rate"
        )
    if reason == _UNMET:
        metrics = evaluation.metrics(None)
        known = [(name, metrics.get(name)) for name in request.goal.names]
        read = [f"{name} {float(np.max(value)):.4g}" for name, value in known if value is not None]
        stated = " and ".join(f"`{each.text}`" for each in request.goal.constraints)
        return (
            f"layouts fit and keep up with the requests, but none meets {stated}: one is {where}"
            f"{''.join(f', {each}' for each in read)} (SI units); allow more --devices or looser constraints"
        )
    if evaluation.verdict() not in (None, STABLE):
        return (
            f"layouts fit, but their requests queue longer and longer: {nearest}; allow more --devices or a lower rate"
        )
    times = [
        f"{name} {render(float(f'{value:.3g}'), 'duration')} of {render(limit, 'duration')}"
        for name, value, limit in _times(evaluation, scenario)
        if value > limit
    ]
    return (
        f"layouts fit and keep up with the requests, but none has the 99th percentile of its times within the "
        f"scenario's `slo`: {nearest}, has {', '.join(times)}; allow more --devices, a lower rate or a looser `slo`"
    )


def _limits(scenario: Scenario) -> Iterator[tuple[str, float]]:
    for name, limit in asdict(scenario.plan.slo).items() if isinstance(scenario.plan, Serving) else ():
        if limit is not None:
            yield _METRICS[name], float(limit)
