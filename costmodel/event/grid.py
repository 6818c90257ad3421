"""The event engine over a grid: one simulation a point."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import numpy.typing as npt

from costmodel.analytic.blocks import single
from costmodel.analytic.expert_load import routing_grid
from costmodel.analytic.grid import evaluate_single
from costmodel.cost.calibration import Calibration
from costmodel.event.evaluation import EventEngine
from costmodel.quantities import Array
from costmodel.result import BAD_LAYOUT, FITS, PHASES, Interval, Result, empty_grid
from costmodel.workload.scenario import Scenario
from costmodel.workload.validity import feasible_layout


def simulate_grid(scenario: Scenario, calibration: Calibration, shape: tuple[int, ...]) -> Result:
    """Return a scenario whose values vary over a grid of that shape; each point that can run is simulated by itself."""
    engine = EventEngine()
    _, names = PHASES[scenario.result_kind]
    layout = np.broadcast_to(feasible_layout(scenario), shape)
    reason = np.full(shape, BAD_LAYOUT, dtype=np.int8)
    metrics = {name: empty_grid(shape) for name in names}
    for index in np.argwhere(layout):
        place = tuple(int(position) for position in index)
        found = evaluate_single(single(scenario, place), calibration, engine.evaluate)
        reason[place] = found.reason
        for name, value in found.metrics.items():
            metrics[name][place] = np.nan if value is None else value
    fits = reason == FITS
    return Result(
        scenario.name,
        {name: _stated(grid, fits) for name, grid in metrics.items()},
        fits,
        reason,
        lambda names: _intervals(scenario, calibration, fits, names),
        lambda index: engine.point(single(scenario, index), calibration),
        lambda: routing_grid(scenario, shape, layout),
    )


def _stated(grid: Array, fits: npt.NDArray[np.bool_]) -> Array | None:
    """Return the grid of a metric; null where no point that runs has it."""
    return None if fits.any() and np.isnan(grid[fits]).all() else grid


def _intervals(
    scenario: Scenario, calibration: Calibration, fits: npt.NDArray[np.bool_], names: Collection[str]
) -> dict[str, Interval]:
    """Return the intervals of some metrics over the grid."""
    lows, highs = ({name: empty_grid(fits.shape) for name in names} for _ in range(2))
    for index in np.argwhere(fits):
        place = tuple(int(position) for position in index)
        found = evaluate_single(single(scenario, place), calibration, EventEngine().evaluate).intervals
        for name in names:
            pair = found[name]
            if pair is not None:
                lows[name][place], highs[name][place] = pair
    return {name: (lows[name], highs[name]) for name in names}
