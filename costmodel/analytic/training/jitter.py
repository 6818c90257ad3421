"""Pipeline time lost because chunks vary about their mean time: the expert load of every chunk is drawn anew."""

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
from costmodel.workload.schedules import Kind, order, steady_state
from costmodel.workload.schedules.table import KINDS

Pass: TypeAlias = "Sequence[tuple[int, StreamTimes]]"  # (how many, times) of each kind of layer of a chunk

SEED, SMALL = 1, 0.01  # of drawn times; the answer is the same at a third or six times that deviation
DRAWS, _AT_ONCE, _MOST = 16384, 16, 16  # micro-batches in all; steps drawn together; repetitions at most
_LENGTH = {  # of an action's forward and of its backward pass
    Kind.FORWARD: (1.0, 0.0),
    Kind.BACKWARD_INPUT: (0.0, 1.0),
    Kind.BACKWARD_WEIGHT: (0.0, 1.0),
    Kind.BACKWARD: (0.0, 2.0),
    Kind.FORWARD_BACKWARD: (1.0, 2.0),
}


def relative_deviation(ranks: Count) -> Quantity:
    """Return the standard deviation of the busiest rank's excess over the mean, over its expected value.

    Of independent normal loads, s(n)/e(n): 0.19 of 64 ranks, whatever the load.
    """
    ratio = normal_maximum_std(ranks) / np.maximum(normal_maximum(ranks), 1e-12)
    return where(ranks > 1, ratio, 0.0)


def deviation(passes: Sequence[Pass], relative: Quantity, *, shared: bool) -> Seconds:
    """Return the standard deviation of the time of an action [s]. passes: of a chunk each.

    sd^2 = sum over passes of (relative * sum over layers of t_imbalance)^2      shared: one draw per micro-batch
    sd^2 = sum over passes and layers of (relative * t_imbalance)^2              a new draw in each layer
    """
    variance: Quantity = 0.0
    for layers in passes:
        if shared:
            imbalance: Quantity = sum(count * times.imbalance_time for count, times in layers)
            variance = variance + imbalance**2
        else:
            variance = variance + sum(count * times.imbalance_time**2 for count, times in layers)
    return np.sqrt(variance) * relative


@lru_cache(maxsize=256)
def coupling(schedule: str, pp: int, virtual: int, micro_batches: int, *, shared: bool) -> float:
    """Return the share of the actions' standard deviation that a schedule loses, as if all of them took that longer.

        (E[makespan with normal times] - makespan) / (makespan with all times a deviation longer - makespan)

    of equal stages with F = B_in = W, from steps drawn with a fixed seed, more of them the shorter they are. shared:
    one draw for all that a micro-batch passes, or one for each stage. A rank waits for the latest of its neighbours, so
    the pace is that of maxima. A rank with other work meanwhile loses little.
    """
    micro_batches = steady_state(schedule, pp, virtual, micro_batches).longer
    events = _events(schedule, pp, virtual, micro_batches)
    forward, backward = events.length
    length, rows = (forward + backward)[:, None], np.arange(len(forward))
    draw_of = events.micro_batch if shared else events.chunk  # by pass, then event
    generator = np.random.default_rng(SEED)
    repetitions = min(max(DRAWS // (micro_batches * _AT_ONCE), 1), _MOST)
    pairs = [generator.normal(0.0, SMALL, (int(draw_of.max()) + 1, _AT_ONCE // 2)) for _ in range(repetitions)]
    draws = np.concatenate([*pairs, *(-half for half in pairs)], axis=1)  # antithetic: their mean is that of the times
    drawn = forward[:, None] * draws[draw_of[0]] + backward[:, None] * draws[draw_of[1]]
    one_deviation = SMALL * np.hypot(forward, backward)[:, None]
    points = length + np.concatenate([np.zeros_like(length), one_deviation, drawn], axis=1)
    spans = makespan_by_waves(events.waves, rows, points, np.zeros(points.shape[1]))
    lost = spans[2:].mean() - spans[0]
    return max(float(lost / (spans[1] - spans[0])), 0.0)


class _Events(NamedTuple):
    """The actions of all ranks in the order of the recurrence. Arrays have rows for the forward and the backward pass.

    length: zero of an absent pass.
    micro_batch, chunk: those of the pass, any where it is absent.
    """

    waves: Waves
    length: Array
    micro_batch: Indices
    chunk: Indices


def _events(schedule: str, pp: int, virtual: int, micro_batches: int) -> _Events:
    """Return the schedule's events, mirrored ranks too: their draws differ."""
    unfolded = order(schedule, pp, virtual, micro_batches)
    table = unfolded.table()
    waves = program_of(unfolded, (0,) * unfolded.stages).waves
    assert waves is not None, "schedules are compiled with their waves"
    listed = np.concatenate(side_by_side(table, unfolded.name))
    length = np.array([_LENGTH[kind] for kind in KINDS])[table.kind[listed]].T
    micro_batch = np.maximum(table.micro_batch[:, listed], 0)
    stage = np.maximum(np.stack([table.forward, table.backward])[:, listed], 0)
    return _Events(waves, length, micro_batch, stage * micro_batches + micro_batch)


def is_balanced(layers: Mapping[str, Sequence[StreamTimes]]) -> bool:
    """Tell whether no layer has unevenly loaded experts."""
    return all(
        is_single(times.imbalance_time) and times.imbalance_time == 0 for passes in layers.values() for times in passes
    )
