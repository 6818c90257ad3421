"""How many rows the fullest rank of an expert-parallel group gets, as the benchmarks of moe_layer draw routing."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from costmodel.calibration.batch import Batch, Unmapped
from costmodel.quantities import Array

_DRAWS = 32  # the tables do not record the draw, so it is averaged over
_SEED = 0
_POWER_LAW = "power_law_"
_BALANCED = ("balanced", "uniform_random")


def expected_routing(batch: Batch) -> tuple[Array, Array]:
    """Return (rows of the timed rank, its experts that get any), expected over the draw.

    balanced: T*k/ep rows, over all local experts as long as each gets one. power_law_a: weights of the experts come
    from a power law with exponent a on [1, 0.8*T] where T*k > E, else on [0.01, 2]; they are scaled to T*k rows, capped
    at T an expert and rounded; the fullest of the ep ranks is timed (the schema of the tables, routing distributions).
    """
    columns = ("num_tokens", "topk", "num_experts", "ep_size")
    shapes = np.stack([*(batch.number(name) for name in columns), _exponents(batch)], axis=1)
    distinct, which = np.unique(shapes, axis=0, return_inverse=True)
    found = np.array([_fullest(*(float(value) for value in shape)) for shape in distinct])
    return found[which.ravel(), 0], found[which.ravel(), 1]


def _exponents(batch: Batch) -> Array:
    """Return the exponent of the power law, zero where experts are loaded equally."""
    names = batch.rows.text("distribution")
    unknown = [name for name in np.unique(names) if not name.startswith(_POWER_LAW) and name not in _BALANCED]
    if unknown:
        raise Unmapped(f"routing distribution {unknown[0]} is unknown")
    return np.array([float(name.removeprefix(_POWER_LAW)) if name.startswith(_POWER_LAW) else 0.0 for name in names])


def _fullest(tokens: float, choices: float, experts: float, ranks: float, exponent: float) -> tuple[float, float]:
    local = experts / ranks
    if local != int(local):
        raise Unmapped("the experts do not divide over the ranks")
    total = tokens * choices
    if not exponent:
        rows = total / ranks
        return rows, min(local, max(rows, 1.0))
    loads = _loads(tokens, total, int(experts), exponent).reshape(_DRAWS, int(ranks), int(local))
    heaviest = loads[np.arange(_DRAWS), loads.sum(axis=2).argmax(axis=1)]
    return max(float(heaviest.sum(axis=1).mean()), 1.0), max(float((heaviest > 0).sum(axis=1).mean()), 1.0)


def _loads(tokens: float, total: float, experts: int, exponent: float) -> npt.NDArray[np.float64]:
    """Return rows of every expert, one line a draw.

    Inverse of the law's distribution function: x = (u*(b^(1-a) - c^(1-a)) + c^(1-a))^(1/(1-a)) on [c, b].
    """
    low, high = (1.0, max(0.8 * tokens, 1.0)) if total > experts else (0.01, 2.0)
    power = 1.0 - exponent
    uniform = np.random.default_rng([_SEED, experts]).random((_DRAWS, experts))
    weights = (uniform * (high**power - low**power) + low**power) ** (1.0 / power)
    loads = total * weights / weights.sum(axis=1, keepdims=True)
    for _ in range(4):  # what is over the cap goes to the others, in proportion
        loads = np.minimum(loads, tokens)
        free = np.where(loads < tokens, loads, 0.0)
        missing = total - loads.sum(axis=1, keepdims=True)
        loads = loads + missing * free / np.maximum(free.sum(axis=1, keepdims=True), 1e-12)
    return _whole(np.minimum(loads, tokens), total)


def _whole(loads: npt.NDArray[np.float64], total: float) -> npt.NDArray[np.float64]:
    """Return whole rows that sum to `total`: the largest remainders are rounded up."""
    floors = np.floor(loads)
    up = np.rint(total - floors.sum(axis=1)).astype(int)
    order = np.argsort(np.argsort(floors - loads, axis=1, kind="stable"), axis=1, kind="stable")
    return np.asarray(floors + (order < up[:, None]), dtype=np.float64)
