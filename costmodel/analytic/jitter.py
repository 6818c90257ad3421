"""What it costs a pipeline that its chunks do not always take equally long: experts are uneven anew in every chunk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple, TypeAlias

import numpy as np

from costmodel.analytic.recurrence import program_of, side_by_side
from costmodel.analytic.recurrence.waves import Waves, makespan_by_waves
from costmodel.analytic.stream_times import StreamTimes
from costmodel.quantities import Array, Count, Indices, Quantity, Seconds, is_single, where
from costmodel.workload.order_statistics import normal_maximum, normal_maximum_std
from costmodel.workload.schedules import Kind, order
from costmodel.workload.schedules.table import KINDS

Pass: TypeAlias = "Sequence[tuple[int, StreamTimes]]"  # (how many, times) of each kind of layer that a chunk passes

SEED, SMALL = 1, 0.01  # of drawn times; the answer is the same at a third or six times that deviation
DRAWS, _AT_ONCE, _MOST = 16384, 16, 16  # of micro-batches in all; steps drawn together; how often at most
_LENGTH = {  # of an action's forward and of its backward pass
    Kind.FORWARD: (1.0, 0.0),
    Kind.BACKWARD_INPUT: (0.0, 1.0),
    Kind.BACKWARD_WEIGHT: (0.0, 1.0),
    Kind.BACKWARD: (0.0, 2.0),
    Kind.FORWARD_BACKWARD: (1.0, 2.0),
}


def relative_deviation(ranks: Count) -> Quantity:
    """Return the standard deviation of what the fullest rank has above the mean, over its expected value.

    Of independent normal loads, s(n)/e(n): 0.19 of 64 ranks, whatever the load.
    """
    shared = normal_maximum_std(ranks) / np.maximum(normal_maximum(ranks), 1e-12)
    return where(ranks > 1, shared, 0.0)


def deviation(passes: Sequence[Pass], relative: Quantity, *, alike: bool) -> Seconds:
    """Return the standard deviation of the time of an action [s]. passes: of a chunk each.

        sd^2 = sum over passes of (relative * sum over layers of t_uneven)^2      alike: a micro-batch draws once
        sd^2 = sum over passes and layers of (relative * t_uneven)^2              each layer draws anew

    All that a layer does follows its draw.
    """
    variance: Quantity = 0.0
    for layers in passes:
        if alike:
            uneven: Quantity = sum(count * sums.imbalance_time for count, sums in layers)
            variance = variance + uneven**2
        else:
            variance = variance + sum(count * sums.imbalance_time**2 for count, sums in layers)
    return np.sqrt(variance) * relative


@lru_cache(maxsize=256)
def coupling(schedule: str, pp: int, virtual: int, micro_batches: int, *, alike: bool) -> float:
    """Return how much of the actions' standard deviation a schedule loses, as if all of them took as much longer.

        (E[makespan with normal times] - makespan) / (makespan with all times a deviation longer - makespan)

    of equal stages with F = B_in = W, from steps drawn with a fixed seed, more of them the shorter they are: one draw
    for all that a micro-batch passes, or one for each stage. A rank waits for the latest of its neighbours, so that the
    pace is that of maxima; where a rank has other work meanwhile, little of it is lost.
    """
    events = _events(schedule, pp, virtual, micro_batches)
    forward, backward = events.length
    length, rows = (forward + backward)[:, None], np.arange(len(forward))
    mine = events.micro_batch if alike else events.chunk  # of each event's passes, the draw that they follow
    generator = np.random.default_rng(SEED)

    def mean_span(longer: Array) -> float:
        return float(makespan_by_waves(events.waves, rows, length + longer, np.zeros(longer.shape[1])).mean())

    def drawn() -> Array:
        half = generator.normal(0.0, SMALL, (int(mine.max()) + 1, _AT_ONCE // 2))
        draws = np.concatenate([half, -half], axis=1)  # in pairs, whose mean is that of the times
        return np.asarray(forward[:, None] * draws[mine[0]] + backward[:, None] * draws[mine[1]])

    whole = mean_span(np.zeros_like(length))
    times = min(max(DRAWS // (micro_batches * _AT_ONCE), 1), _MOST)
    lost = float(np.mean([mean_span(drawn()) for _ in range(times)])) - whole
    a_deviation = mean_span(SMALL * np.hypot(forward, backward)[:, None]) - whole
    return max(lost / a_deviation, 0.0)


class _Events(NamedTuple):
    """The actions of all ranks in the order of the recurrence; two rows each: of forward and of backward passes.

    length: zero of a pass that an action does not make; micro_batch, chunk: which one passes, any where none does.
    """

    waves: Waves
    length: Array
    micro_batch: Indices
    chunk: Indices


def _events(schedule: str, pp: int, virtual: int, micro_batches: int) -> _Events:
    """Return the schedule's events, mirrored ranks too: what passes them differs."""
    of = order(schedule, pp, virtual, micro_batches)
    table = of.table()
    waves = program_of(of, (0,) * of.stages).waves
    assert waves is not None, "schedules are compiled with their waves"
    listed = np.concatenate(side_by_side(table, of.name))
    length = np.array([_LENGTH[kind] for kind in KINDS])[table.kind[listed]].T
    micro_batch = np.maximum(table.micro_batch[:, listed], 0)
    stage = np.maximum(np.stack([table.forward, table.backward])[:, listed], 0)
    return _Events(waves, length, micro_batch, stage * micro_batches + micro_batch)


def is_even(layers: Mapping[str, Sequence[StreamTimes]]) -> bool:
    """Tell whether no layer has experts that are unevenly loaded."""
    return all(
        is_single(sums.imbalance_time) and sums.imbalance_time == 0 for passes in layers.values() for sums in passes
    )
