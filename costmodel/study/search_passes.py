"""The best layouts of a prefill, a decoding step or images: all of them, at all axis values, as one grid in pieces."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from costmodel.analytic.blocks import blocks, single, take
from costmodel.analytic.evaluation import ledger_of
from costmodel.analytic.grid import evaluate_grid, evaluate_point
from costmodel.cost.calibration import Calibration
from costmodel.quantities import Array, Indices
from costmodel.records import Record
from costmodel.result import PHASES
from costmodel.study.axes import Axis
from costmodel.study.chunks import Index, cut
from costmodel.study.goals import (
    FRONT,
    KEPT,
    Candidate,
    Goal,
    OnProgress,
    SearchRequest,
    SearchResult,
    candidate,
    front,
    front_of,
    ranked,
)
from costmodel.study.layouts import BATCHES, OWN, Space, check_size, diffusion_space, inference_space
from costmodel.workload.plans import Diffusion
from costmodel.workload.scenario import Scenario
from costmodel.workload.validity import feasible_layout

BATCH = "batch_per_device"
_SIXTEENTHS = 1.0 / 16.0  # of a batch, between two that are tried
_NEAR = 2.0  # times the best objective, up to which layouts have batches between powers of two tried
_MOST_NEAR = 256  # layouts that have


class _Rows(NamedTuple):
    """Points that may be among the best or on the front: their places in the grid, objective and rates."""

    position: Indices
    score: Array
    rate: Array
    user: Array

    def select(self, rows: Indices) -> _Rows:
        return _Rows(self.position[rows], self.score[rows], self.rate[rows], self.user[rows])

    def near(self, layout: Indices, others: int) -> _Rows:
        """Return the best of each layout at each value of the other axes, those near the best of all.

        layout: of each row of the grid's first dimension.
        others: points of the grid's other dimensions.
        """
        order = np.lexsort((-self.rate, self.score))
        row, other = np.divmod(self.position[order], others)
        first = np.sort(np.unique(layout[row] * others + other, return_index=True)[1])
        kept = order[first][:_MOST_NEAR]
        if not kept.size:
            return self.select(kept)
        best = self.score[kept[0]]
        return self.select(kept[self.score[kept] <= (best * _NEAR if best > 0.0 else best / _NEAR)])

    def front(self) -> _Rows:
        return self.select(np.array(list(front(np.arange(len(self.position)), self.rate, self.user)), dtype=np.intp))


class _Grid(Record):
    """Layouts on the first dimension, and a dimension for each of the other axes."""

    space: Space
    axes: Sequence[tuple[Axis, ...]]
    shape: tuple[int, ...]

    def index(self, flat: int) -> tuple[int, ...]:
        return tuple(int(position) for position in np.unravel_index(flat, self.shape))

    def at(self, position: int) -> dict[str, float | int]:
        row, *others = self.index(position)
        values = {
            axis.path: axis.plain()[at] for together, at in zip(self.axes, others, strict=True) for axis in together
        }
        return {**self.space.at(row), **values}

    def names(self, head: str, places: tuple[Indices, ...]) -> dict[str, Array]:
        sizes = tuple(len(part) for part in places)
        columns_by_path: dict[str, Array] = {}
        for dimension, part in enumerate(places):
            axis_shape = tuple(-1 if other == dimension else 1 for other in range(len(places)))
            columns = (
                dict(zip(self.space.paths(head), self.space.columns.values(), strict=True))
                if dimension == 0
                else {axis.path: axis.values for axis in self.axes[dimension - 1]}
            )
            columns_by_path |= {
                path: _flat(values[part].reshape(axis_shape), sizes) for path, values in columns.items()
            }
        return columns_by_path


_NONE = _Rows(np.zeros(0, dtype=np.intp), np.zeros(0), np.zeros(0), np.zeros(0))


class _Found(Record):
    """Points of one grid that fit and meet the constraints. near: the best of each layout, at one of its batches, at
    each value of the other axes, where it is near the best of all; edge: those on the front."""

    scenario: Scenario
    calibration: Calibration
    grid: _Grid
    near: _Rows
    edge: _Rows

    def candidates(self, rows: _Rows, goal: Goal) -> list[Candidate]:
        return [
            candidate(
                evaluate_point(single(self.scenario, self.grid.index(position)), self.calibration),
                self.grid.at(position), score, goal,
            )
            for position, score in zip(rows.position.tolist(), rows.score.tolist(), strict=True)
        ]  # fmt: skip


def search_passes(request: SearchRequest, result: SearchResult, on_progress: OnProgress) -> None:
    """Search the layouts of a pass, and the front of the rate of a device against that of a user.

    Batches of decoding are powers of two first. Between those that are best, layouts within a factor of `_NEAR` of the
    best have sixteenths of an octave tried, and the best ones every whole number: a step is no shorter with a larger
    batch, so that a rate at most doubles from one power to the next. An axis over batches leaves its own values alone.
    """
    head = request.head
    original = request.workload.scenario(request.scenario)
    batches = [
        axis.values.tolist() for together in request.axes for axis in together
        if axis.path == f"{head}batch_per_device"
    ]  # fmt: skip
    if isinstance(original.plan, Diffusion):
        space = diffusion_space(original, request.devices)
    else:
        space = inference_space(original, request.devices, np.unique(batches[0]).tolist() if batches else BATCHES)
    own = [together for together in request.axes if any(axis.path.removeprefix(head) in OWN for axis in together)]
    grid = [together for together in request.axes if together not in own]
    space = space.crossed(own, head)
    finer = (_SIXTEENTHS, 1.0) if BATCH in space.columns and not batches else ()

    def part(number: int) -> OnProgress:
        return lambda share: on_progress((number + share) / (1 + len(finer)))

    first_stage = _searched(request, space, grid, result, part(0))
    if first_stage is None:
        return
    stages = [first_stage]
    for number, step in enumerate(finer, start=1):
        between = _between(stages, step)
        more = None if between is None else _searched(request, between, grid, result, part(number))
        stages += [] if more is None else [more]
    chosen = _distinct(stages)[:KEPT]
    result.best = ranked(
        [one for stage, row in chosen for one in stage.candidates(stage.near.select(row), request.goal)]
    )
    if FRONT[1] in PHASES[original.result_kind][1]:
        result.front = front_of([*first_stage.candidates(first_stage.edge, request.goal), *result.best])
    if not result.best:
        note_memory(first_stage.scenario, first_stage.grid.shape, result)


def _searched(
    request: SearchRequest,
    space: Space,
    axes: Sequence[tuple[Axis, ...]],
    result: SearchResult,
    on_progress: OnProgress,
) -> _Found | None:
    """Evaluate all layouts of a space at all values of the axes, null where there is none. Count them in the result."""
    check_size(space.size * math.prod(len(together[0].values) for together in axes))
    if not space.size:
        return None
    scenario, shape = request.workload.varied(request.scenario, {
        space.paths(request.head): tuple(space.columns.values()),
        **{tuple(axis.path for axis in together): tuple(axis.values for axis in together) for together in axes},
    })  # fmt: skip
    calibration, grid = request.workload.calibration(scenario), _Grid(space, axes, shape)
    looked_at = math.prod(shape)
    layouts = int(np.broadcast_to(feasible_layout(scenario), shape).sum())
    result.looked_at += looked_at
    result.feasible += layouts
    result.scheduled += layouts
    best = edge = _NONE
    columns = np.stack([column for name, column in space.columns.items() if name != BATCH])
    layout = np.unique(columns, axis=1, return_inverse=True)[1].reshape(-1)  # a number, whatever the batch
    done = 0
    for index in cut(shape):
        rows = _evaluate(request, scenario, calibration, grid, index)
        best, edge = _join(best, rows).near(layout, looked_at // space.size), _join(edge, rows).front()
        done += math.prod(len(part) for part in index)
        on_progress(done / looked_at)
    return _Found(scenario, calibration, grid, best, edge)


def _distinct(stages: Sequence[_Found]) -> list[tuple[_Found, Indices]]:
    """Return the best of each layout at each value of the other axes, the best first: its stage and its row there."""
    best: dict[tuple[object, ...], tuple[float, float, int, int]] = {}
    for number, stage in enumerate(stages):
        near = stage.near
        for row, position in enumerate(near.position.tolist()):
            key = tuple(value for name, value in stage.grid.at(position).items() if name != BATCH)
            one = (float(near.score[row]), -float(near.rate[row]), number, row)
            best[key] = min(best.get(key, one), one)
    return [(stages[number], np.array([row])) for _, _, number, row in sorted(best.values())]


def _between(stages: Sequence[_Found], step: float) -> Space | None:
    """Return layouts at batches around those that are best so far, null where there are none between.

    step: share of a batch between two of them.
    one: whole numbers, of the best few layouts alone.
    """
    known = {tuple(stage.grid.space.at(row).items()) for stage in stages for row in range(stage.grid.space.size)}
    rows = []
    for stage, row in _distinct(stages)[: KEPT if step == 1.0 else _MOST_NEAR]:
        at = stage.grid.space.at(stage.grid.index(int(stage.near.position[row[0]]))[0])
        batch = float(at[BATCH])
        steps = np.arange(-batch // 16.0, batch // 16.0 + 1.0) if step == 1.0 else batch * np.arange(-0.5, 1.0, step)
        for value in np.unique(np.round(batch + steps)):
            other = {**at, BATCH: int(value) if float(value).is_integer() else value}
            if value >= 1.0 and tuple(other.items()) not in known:
                known.add(tuple(other.items()))
                rows.append(list(other.values()))
    names = list(stages[0].grid.space.columns)
    return Space(dict(zip(names, np.array(rows, dtype=np.float64).T, strict=True))) if rows else None


def note_memory(scenario: Scenario, shape: tuple[int, ...], result: SearchResult) -> None:
    """Note what a device needs at least, where no layout fits."""
    capacity = np.broadcast_to(scenario.cluster.device.device_memory.capacity, shape)
    layout = np.broadcast_to(feasible_layout(scenario), shape)
    totals = np.full(shape, np.nan)
    with np.errstate(all="ignore"):
        for block in blocks(scenario, shape):
            ledger = ledger_of(block.scenario)
            assert ledger is not None, "a pass has a ledger"
            totals[np.ix_(*block.index)] = ledger.total
    if not np.any(layout & (totals <= capacity)):
        known = layout & ~np.isnan(totals)
        result.needs(totals[known], capacity[known])


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
        np.concatenate((one.position, other.position)),
        *(np.concatenate(pair) for pair in zip(one[1:], other[1:], strict=True)),
    )


def _flat(value: Any, sizes: tuple[int, ...]) -> Array:
    return np.broadcast_to(np.asarray(value, dtype=np.float64), sizes).reshape(-1)
