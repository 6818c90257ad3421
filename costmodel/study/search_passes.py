"""The best layouts of a prefill or a decoding step: all of them, at all values of the axes, as one grid in pieces."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from costmodel.analytic.blocks import blocks, single, take
from costmodel.analytic.evaluation import ledger_of
from costmodel.analytic.grid import evaluate_grid, evaluate_point
from costmodel.cost.calibration import Calibration
from costmodel.quantities import Array, Indices
from costmodel.result import PHASES
from costmodel.study.axes import Axis
from costmodel.study.chunks import Index, cut
from costmodel.study.goals import FRONT, KEPT, OnProgress, SearchRequest, SearchResult, candidate, front, ranked
from costmodel.study.layouts import BATCHES, OWN, Space, check_size, inference_space
from costmodel.workload.scenario import Scenario
from costmodel.workload.validity import feasible_layout


class _Rows(NamedTuple):
    """Points that may be among the best or on the front: their places in the grid, objective and rates."""

    place: Indices
    score: Array
    rate: Array
    user: Array

    def select(self, rows: Indices) -> _Rows:
        """Return some of them."""
        return _Rows(self.place[rows], self.score[rows], self.rate[rows], self.user[rows])

    def best(self) -> _Rows:
        """Return the best by the objective, then by the rate."""
        return self.select(np.lexsort((-self.rate, self.score))[:KEPT])

    def front(self) -> _Rows:
        """Return those that no other beats in both rates, the fastest for a user first."""
        return self.select(np.array(list(front(np.arange(len(self.place)), self.rate, self.user)), dtype=np.intp))


@dataclass(frozen=True, slots=True, eq=False)
class _Grid:
    """Layouts on the first dimension, and a dimension for each of the other axes."""

    space: Space
    axes: Sequence[tuple[Axis, ...]]
    shape: tuple[int, ...]

    def index(self, place: int) -> tuple[int, ...]:
        """Return the position of a point on each dimension."""
        return tuple(int(position) for position in np.unravel_index(place, self.shape))

    def at(self, place: int) -> dict[str, float | int]:
        """Return the layout and the values of all axes at a point."""
        row, *others = self.index(place)
        values = {
            axis.path: axis.plain()[at] for together, at in zip(self.axes, others, strict=True) for axis in together
        }
        return {**self.space.at(row), **values}

    def names(self, head: str, places: tuple[Indices, ...]) -> dict[str, Array]:
        """Return the values of all axes on a piece of the grid, by the paths that formulas use."""
        sizes = tuple(len(part) for part in places)
        columns_by_path: dict[str, Array] = {}
        for dimension, part in enumerate(places):
            place = tuple(-1 if other == dimension else 1 for other in range(len(places)))
            columns = (
                dict(zip(self.space.paths(head), self.space.columns.values(), strict=True))
                if dimension == 0
                else {axis.path: axis.values for axis in self.axes[dimension - 1]}
            )
            columns_by_path |= {path: _flat(values[part].reshape(place), sizes) for path, values in columns.items()}
        return columns_by_path


_NONE = _Rows(np.zeros(0, dtype=np.intp), np.zeros(0), np.zeros(0), np.zeros(0))


def search_passes(request: SearchRequest, result: SearchResult, on_progress: OnProgress) -> None:
    """Search the layouts of a pass, and the front of the rate of a device against that of a user."""
    workload, head = request.workload, request.head
    original = workload.scenario(request.scenario)
    batches = [
        axis.values.tolist() for together in request.axes for axis in together
        if axis.path == f"{head}batch_per_device"
    ]  # fmt: skip
    space = inference_space(original, request.devices, np.unique(batches[0]).tolist() if batches else BATCHES)
    own = [together for together in request.axes if any(axis.path.removeprefix(head) in OWN for axis in together)]
    grid = [together for together in request.axes if together not in own]
    space = space.crossed(own, head)
    check_size(space.size * math.prod(len(together[0].values) for together in grid))
    if not space.size:
        return
    scenario, shape = workload.varied(request.scenario, {
        space.paths(head): tuple(space.columns.values()),
        **{tuple(axis.path for axis in together): tuple(axis.values for axis in together) for together in grid},
    })  # fmt: skip
    calibration = workload.calibration(scenario)
    looked_at = math.prod(shape)
    result.looked_at += looked_at
    layout = int(np.broadcast_to(feasible_layout(scenario), shape).sum())
    result.feasible += layout
    result.scheduled += layout
    best = edge = _NONE
    done = 0
    for index in cut(shape):
        rows = _evaluate(request, scenario, calibration, _Grid(space, grid, shape), index)
        best, edge = _join(best, rows).best(), _join(edge, rows).front()
        done += math.prod(len(part) for part in index)
        on_progress(done / looked_at)
    edge = edge if FRONT[1] in PHASES[original.result_kind][1] else _NONE
    whole = _Grid(space, grid, shape)
    result.best, result.front = ([
        candidate(
            evaluate_point(single(scenario, whole.index(place)), calibration), whole.at(place), score, request.goal
        )
        for place, score in zip(of.place.tolist(), of.score.tolist(), strict=True)
    ] for of in (best, edge))  # fmt: skip
    result.best = ranked(result.best)
    if not result.best:
        _note_memory(scenario, shape, result)


def _note_memory(scenario: Scenario, shape: tuple[int, ...], result: SearchResult) -> None:
    """Note what a device needs at least, where no layout fits."""
    capacity = scenario.cluster.device.device_memory.capacity
    layout = np.broadcast_to(feasible_layout(scenario), shape)
    totals = np.full(shape, np.nan)
    with np.errstate(all="ignore"):
        for block in blocks(scenario, shape):
            ledger = ledger_of(block.scenario)
            assert ledger is not None, "a pass has a ledger"
            totals[np.ix_(*block.index)] = ledger.total
    if not np.any(layout & (totals <= capacity)):
        result.needs(totals[layout & ~np.isnan(totals)])


def _evaluate(request: SearchRequest, scenario: Scenario, calibration: Calibration, grid: _Grid, index: Index) -> _Rows:
    """Return the points of one piece of the grid that fit and meet the constraints."""
    places = tuple(np.arange(part.start, part.stop) for part in index)
    sizes = tuple(len(part) for part in places)
    part = take(scenario, places, grid.shape)
    result = evaluate_grid(part, calibration, sizes)
    size = math.prod(sizes)
    score, meets = request.goal.judged(result, size, _flat(part.devices, sizes), grid.names(request.head, places))
    rows = np.flatnonzero(meets)
    flat = np.ravel_multi_index(np.ix_(*places), grid.shape).reshape(-1)
    rate, user = (
        np.zeros(size) if result.metrics.get(name) is None else _flat(result.metrics[name], sizes) for name in FRONT
    )
    return _Rows(flat, score, rate, user).select(rows)


def _join(one: _Rows, other: _Rows) -> _Rows:
    return _Rows(
        np.concatenate((one.place, other.place)),
        *(np.concatenate(pair) for pair in zip(one[1:], other[1:], strict=True)),
    )


def _flat(value: Any, sizes: tuple[int, ...]) -> Array:
    return np.broadcast_to(np.asarray(value, dtype=np.float64), sizes).reshape(-1)
