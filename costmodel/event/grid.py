"""The event engine over a grid: one simulation per point."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import numpy.typing as npt

from costmodel.analytic.blocks import single
from costmodel.analytic.expert_load import routing_grid
from costmodel.analytic.grid import evaluate_single
from costmodel.cost.calibration import Calibration
from costmodel.event.evaluation import EventEngine
from costmodel.result import BAD_LAYOUT, FITS, PHASES, Interval, Result, empty_grid
from costmodel.workload.scenario import Scenario
from costmodel.workload.validity import feasible_layout


def simulate_grid(scenario: Scenario, calibration: Calibration, shape: tuple[int, ...], engine: EventEngine) -> Result:
    """Return a scenario whose values vary over a grid of that shape. Each feasible point is simulated by itself."""
    _, names = PHASES[scenario.result_kind]
    layout = np.broadcast_to(feasible_layout(scenario), shape)
    reason = np.full(shape, BAD_LAYOUT, dtype=np.int8)
    metrics = {name: empty_grid(shape) for name in names}
    for index in _points(layout):
        point = evaluate_single(single(scenario, index), calibration, engine.evaluate)
        reason[index] = point.reason
        for name, value in point.metrics.items():
            metrics.setdefault(name, empty_grid(shape))[index] = np.nan if value is None else value
    fits = reason == FITS
    return Result(
        scenario.name,
        {name: None if fits.any() and np.isnan(grid[fits]).all() else grid for name, grid in metrics.items()},
        fits, reason, lambda names: _intervals(scenario, calibration, fits, names, engine),
        lambda index: engine.point(single(scenario, index), calibration),
        lambda: routing_grid(scenario, shape, layout),
    )  # fmt: skip


def _points(mask: npt.NDArray[np.bool_]) -> list[tuple[int, ...]]:
    """Return the indices of a mask's points."""
    return [tuple(index) for index in np.argwhere(mask).tolist()]


def _intervals(
    scenario: Scenario, calibration: Calibration, fits: npt.NDArray[np.bool_], names: Collection[str],
    engine: EventEngine,
) -> dict[str, Interval]:  # fmt: skip
    """Return the intervals of some metrics over the grid."""
    lows, highs = ({name: empty_grid(fits.shape) for name in names} for _ in range(2))
    for index in _points(fits):
        spans = evaluate_single(single(scenario, index), calibration, engine.evaluate).intervals
        for name in names:
            pair = spans[name]
            if pair is not None:
                lows[name][index], highs[name][index] = pair
    return {name: (lows[name], highs[name]) for name in names}
