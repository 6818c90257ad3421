"""80 % intervals: one perturbed evaluation per operator family and side, combined in quadrature.

A family's error is the same for all its operators (they share one fit), so it is moved as a whole; families are
independent. The centre is the metric with every family at its median ratio of measured to predicted time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from costmodel.analytic.pricing import Scales
from costmodel.cost.calibration import Calibration
from costmodel.quantities import Array, Quantity, maximum, minimum
from costmodel.result import Interval, Metrics

# These can be zero, so their deviations are added as they are; all other metrics' as ratios.
LINEAR = frozenset({"bubble_time", "exposed_communication_time"})


def perturbations(families: Iterable[str], calibration: Calibration, dimensions: int) -> Scales:
    """Return scales along a new leading axis: all at the median, then each family low and high in turn.

    Families that nothing is known about (no spread) are left out. dimensions: of the grid that the scales meet.
    """
    known = [name for name in sorted(families) if _uncertain(calibration, name)]
    scales: dict[str, Quantity] = {}
    for position, name in enumerate(known):
        spread = calibration.family(name).spread
        values = np.full(1 + 2 * len(known), float(spread.median))
        values[1 + 2 * position], values[2 + 2 * position] = spread.low, spread.high
        scales[name] = values.reshape(-1, *(1,) * dimensions)
    return scales


def _uncertain(calibration: Calibration, family: str) -> bool:
    spread = calibration.family(family).spread
    return (spread.low, spread.median, spread.high) != (1.0, 1.0, 1.0)


def intervals(
    point: Metrics,
    families: Iterable[str],
    calibration: Calibration,
    dimensions: int,
    evaluate: Callable[[Scales], Metrics],
) -> dict[str, Interval]:
    """Return [low, high] of every metric; it always contains the point.

        low = c - sqrt(sum_f down_f^2),   high = c + sqrt(sum_f up_f^2)

    with c the metric at all medians, down_f and up_f the largest moves that family f causes; on a logarithmic scale
    except for `LINEAR` metrics.
    """
    scales = perturbations(families, calibration, dimensions)
    if not scales:
        return {name: None if value is None else (value, value) for name, value in point.items()}
    moved = evaluate(scales)
    return {name: _interval(name, value, moved[name], 1 + 2 * len(scales), dimensions) for name, value in point.items()}


def _interval(name: str, point: Quantity | None, moved: Quantity | None, count: int, dimensions: int) -> Interval:
    if point is None or moved is None:
        return None
    values = np.asarray(moved, dtype=np.float64)
    if values.ndim <= dimensions or len(values) != count:  # no family moves it
        return point, point
    if name in LINEAR:
        low, high = _quadrature(values)
        return minimum(point, maximum(low, 0.0)), maximum(point, high)
    low, high = _quadrature(np.log(values))
    return minimum(point, np.exp(low)), maximum(point, np.exp(high))


def _quadrature(values: Array) -> tuple[Array, Array]:
    """Return centre minus and plus the root of the summed squares of each family's moves down and up."""
    centre, lows, highs = values[0], values[1::2], values[2::2]
    down = np.maximum(centre - np.minimum(lows, highs), 0.0)
    up = np.maximum(np.maximum(lows, highs) - centre, 0.0)
    return centre - np.sqrt((down * down).sum(axis=0)), centre + np.sqrt((up * up).sum(axis=0))
