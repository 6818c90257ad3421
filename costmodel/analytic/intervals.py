"""80 % intervals: one perturbed evaluation per operator family and side, combined in quadrature.

A family's error is the same for all its operators (they share one fit), so it is moved as a whole; families are
independent. The centre is the metric with every family at its median ratio of measured to predicted time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from costmodel.analytic.sums import Move, Moves
from costmodel.quantities import Array, Quantity, maximum, minimum
from costmodel.result import Interval, Metrics

# These can be zero, so their deviations are added as they are; all other metrics' as ratios.
LINEAR = frozenset({"bubble_time", "exposed_communication_time"})


def moves_of(families: Iterable[str], dimensions: int) -> dict[str, Move]:
    """Return moves along a new leading axis: all families at the median, then each one low and high in turn.

    dimensions: of the grid that the axis stands in front of.
    """
    uncertain = sorted(families)
    positions = np.arange(1 + 2 * len(uncertain)).reshape(-1, *(1,) * dimensions)
    return {
        name: Move(low=1.0 * (positions == 1 + 2 * number), high=1.0 * (positions == 2 + 2 * number))
        for number, name in enumerate(uncertain)
    }


def intervals(
    point: Metrics,
    families: Iterable[str],
    dimensions: int,
    evaluate: Callable[[Moves], Metrics],
) -> dict[str, Interval]:
    """Return [low, high] of every metric; it always contains the point. families: those whose times are uncertain.

        low = c - sqrt(sum_f down_f^2),   high = c + sqrt(sum_f up_f^2)

    with c the metric at all medians, down_f and up_f the largest moves that family f causes; on a logarithmic scale
    except for `LINEAR` metrics.
    """
    moves = moves_of(families, dimensions)
    if not moves:
        return {name: None if value is None else (value, value) for name, value in point.items()}
    moved = evaluate(moves)
    return {name: _interval(name, value, moved[name], 1 + 2 * len(moves), dimensions) for name, value in point.items()}


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
