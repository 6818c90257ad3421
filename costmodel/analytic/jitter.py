"""What it costs a pipeline that its chunks do not always take equally long: experts are uneven anew in every chunk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np

from costmodel.analytic.recurrence import compile_schedule
from costmodel.analytic.recurrence.waves import makespan_by_waves
from costmodel.analytic.sums import Sums
from costmodel.quantities import Count, Quantity, Seconds, is_single, where
from costmodel.workload.order_statistics import normal_maximum, normal_maximum_deviation
from costmodel.workload.schedules import Kind, folded_order

DRAWS, SEED, SMALL = 16, 1, 0.01  # of chunks' times; the answer is the same at a third or three times that deviation
_LENGTH = {
    Kind.FORWARD: 1.0,
    Kind.BACKWARD_INPUT: 1.0,
    Kind.BACKWARD_WEIGHT: 1.0,
    Kind.BACKWARD: 2.0,
    Kind.FORWARD_BACKWARD: 3.0,
}


def relative_deviation(ranks: Count) -> Quantity:
    """Return the standard deviation of what the fullest rank has above the mean, over its expected value.

    Of independent normal loads, s(n)/e(n): 0.19 of 64 ranks, whatever the load.
    """
    shared = normal_maximum_deviation(ranks) / np.maximum(normal_maximum(ranks), 1e-12)
    return where(ranks > 1, shared, 0.0)


def deviation(layers: Sequence[tuple[int, Sums]], relative: Quantity) -> Seconds:
    """Return the standard deviation of a chunk's time [s].

        sd^2 = sum over its layers of (relative * t_uneven)^2

    layers: (how many, times) of each kind; each layer draws anew, and all that it does follows its one draw.
    """
    variance: Quantity = 0.0
    for count, sums in layers:
        variance = variance + count * sums.uneven**2
    return np.sqrt(variance) * relative


@lru_cache(maxsize=256)
def coupling(schedule: str, pp: int, virtual: int, micro_batches: int) -> float:
    """Return how much of the chunks' standard deviation a schedule loses, as if all of them took as much longer.

        (E[makespan with independent normal times] - makespan) / (makespan with all times a deviation longer - makespan)

    of equal stages with F = B_in = W, from draws with a fixed seed. A rank waits for the latest of its neighbours, so
    that the pace is that of maxima; where a rank has other work meanwhile, little of it is lost.
    """
    stages = folded_order(schedule, pp, virtual, micro_batches).stages
    program = compile_schedule(schedule, pp, virtual, micro_batches, (0,) * stages)
    waves = program.waves
    assert waves is not None, "schedules are compiled with their waves"
    length = np.array([_LENGTH[slot.kind] for slot in program.slots])[program.slot]
    half = np.random.default_rng(SEED).normal(0.0, SMALL, (len(length), DRAWS // 2))
    drawn = 1.0 + np.concatenate([half, -half], axis=1)  # in pairs, whose mean is that of the times
    each = np.arange(len(length))
    spans = makespan_by_waves(waves, each, length[:, None] * drawn, np.zeros(DRAWS))
    whole = float(makespan_by_waves(waves, each, length[:, None], np.zeros(1))[0])
    return max(float(spans.mean()) / whole - 1.0, 0.0) / SMALL


def is_even(layers: Mapping[str, Sequence[Sums]]) -> bool:
    """Tell whether no layer has experts that are unevenly loaded."""
    return all(is_single(sums.uneven) and sums.uneven == 0 for passes in layers.values() for sums in passes)
