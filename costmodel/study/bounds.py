"""What a training step takes at least, and holds at least, in each of many layouts: no schedule is run.

Layers are priced once for all layouts, as arrays. What follows from the number of stages is added up rank by rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from costmodel.analytic.anchors import standing
from costmodel.analytic.blocks import take
from costmodel.analytic.evaluation import unanchored_step
from costmodel.analytic.intervals import run_deviation
from costmodel.analytic.operator_timing import OperatorTimer, TimedOperator, operator_timer
from costmodel.analytic.overlapped_comm import OverlappedComm, overlapped_comm
from costmodel.analytic.step_model import micro_batch_count, training_context
from costmodel.analytic.stream_times import StreamTimes, seconds_of, stream_times
from costmodel.cost.calibration import Calibration
from costmodel.quantities import Array, Indices, Quantity
from costmodel.records import MutableRecord, Record, field
from costmodel.study.placement import stage_sizes
from costmodel.workload.context import Context
from costmodel.workload.layers import ModelWork, model_work
from costmodel.workload.memory import minimum_memory
from costmodel.workload.optimizer import step_operators
from costmodel.workload.plans import Training
from costmodel.workload.scenario import Scenario
from costmodel.workload.schedules import Kind, first_rank_chunks, placement_of
from costmodel.workload.stages import stage_layout
from costmodel.workload.work import LayerWork

_ONE_WAY = ("gpipe", "1f1b", "interleaved")  # a chunk's backward pass is one, and all micro-batches go the same way
_TWICE = ("dualpipe",)  # schedules that keep each stage on two ranks
_SHARE = 1 - 1e-9  # of a bound: what rounding may take from it


class _Streams(NamedTuple):
    """Seconds of all passes of one layer for a micro-batch, by kind of layer: [kind, layout].

    compute: kernels and the messages that they wait for.
    exchanges: of experts.
    wire: messages beside the passes.
    starts: of the host, to start them all.
    """

    compute: Array
    exchanges: Array
    wire: Array
    starts: Array


class _Passes(NamedTuple):
    """What layers take, by key in their order: seconds and starts by [kind, key]."""

    keys: Indices
    compute: Array
    exchanges: Array
    starts: Array


class _Split(Record):
    """How layouts with one number of stages share the layers.

    stages: layers by [stage, kind].
    ranks: by [rank, kind], all stages of the rank.
    held: of the first rank, by [its first stage or its others, kind].
    """

    stages: Array
    ranks: Array
    held: Array


class Splits(Record):
    """How all layouts share the layers. member: which of `of` each one has; held: theirs, on a new last axis."""

    member: Indices
    of: Sequence[_Split]
    held: Array


class Bounder(MutableRecord, eq=False):
    """Bounds of layouts of one scenario, whose values are arrays over `size` of them. What variants share is kept.

        step >= max over ranks r of (M * t_r + waits_r) + the end of the step
        t_r  = max(computation, exchanges, messages beside the passes, starts of the host) of the layers on r

    M: micro-batches. One-way schedules expose the exchanges, so that computation and exchanges are a sum. There rank r
    waits for the first micro-batch to come through the r stages before its own, and after its last backward pass the
    gradient goes back through them: waits_r = t of these stages, without messages that run on beside other passes. The
    end of the step: reductions, optimizer and gathers of the rank with most of the commonest layers, as far as they end
    it. Memory is that of the first rank.

    stated: the step as its scenario states it, whose stages say what its ends weigh.
    keys: number of each layout among those whose layers do the same work (`alike_layers` of `search_steps`).
    """

    calibration: Calibration
    stated: Training
    keys: Indices
    _splits: Splits | None = None
    _passes: dict[tuple[frozenset[str], bool], _Passes] = field(default_factory=dict)

    def memory(self, scenario: Scenario, plan: Training) -> Array:
        """Return the bytes that the fullest device holds at least, in every layout of a variant."""
        context = training_context(scenario, plan)
        kinds = _kinds(model_work(context))
        size = len(self.keys)
        splits = self._split(scenario, plan)
        chunks = first_rank_chunks(plan.schedule, scenario.parallel.pp, _row(micro_batch_count(scenario, plan), size))
        held = splits.held[:, :, splits.member]
        stages = [(list(zip(of, kinds, strict=True)), each) for of, each in zip(held, chunks, strict=True)]
        return _SHARE * _row(minimum_memory(context, plan, _copies(plan), stages), size)

    def price(self, scenario: Scenario, rows: Indices) -> None:
        """Price the layers of some layouts, which all variants with the same work of layers share."""
        keys, first = np.unique(self.keys[rows], return_index=True)
        part, plan = self._some(scenario, rows[first])
        price = operator_timer(part, self.calibration)
        sums = [_passes(price, kind) for kind in _kinds(model_work(training_context(part, plan)))]
        streams = zip(*((one.compute, one.expert_all_to_alls, one.launches) for one in sums), strict=True)
        self._passes[plan.recompute, part.parallel.sequence_parallel] = _Passes(
            keys, *(_rows(stream, len(keys)) for stream in streams)
        )

    def step(self, scenario: Scenario, rows: Indices) -> Array:
        """Return the seconds that a step takes at least, in some layouts of a variant that have been priced."""
        part, plan = self._some(scenario, rows)
        context = training_context(part, plan)
        work, price, size = model_work(context), operator_timer(part, self.calibration), len(rows)
        passes, splits = self._passes[plan.recompute, part.parallel.sequence_parallel], self._splits
        assert splits is not None, "memory was asked for first"
        at = np.searchsorted(passes.keys, self.keys[rows])
        traffic = overlapped_comm(part, plan, context, work, _copies(plan), price)
        overlapped = _overlapped(traffic, _kinds(work))
        waited, wire = (_rows(stream, size) for stream in zip(*overlapped, strict=True))
        starts = part.framework.host.operator * passes.starts[:, at]
        streams = _Streams(passes.compute[:, at] + waited, passes.exchanges[:, at], wire, starts)
        count = _row(micro_batch_count(part, plan), size) / _copies(plan)
        member, seconds = splits.member[rows], np.empty(size)
        for number in np.unique(member):
            own = member == number
            of = _Streams(*(stream[:, own] for stream in streams))
            seconds[own] = _span(
                plan, splits.of[number], of, count[own], runs_on=traffic is not None and traffic.reduces_async
            )
        end = _end(price, context, plan, work, [splits.of[number] for number in member])
        return _SHARE * _factor(part, work, price, self.calibration) * (seconds + end)

    def _some(self, scenario: Scenario, rows: Indices) -> tuple[Scenario, Training]:
        """Return the scenario of some layouts, and its step."""
        part = take(scenario, (rows,), (len(self.keys),))
        assert isinstance(part.plan, Training)
        return part, part.plan

    def _split(self, scenario: Scenario, plan: Training) -> Splits:
        """Return how layouts share the layers: the same in all variants of a family of schedules."""
        if self._splits is None:
            self._splits = _split(scenario, plan, self.stated, len(self.keys))
        return self._splits


def _factor(part: Scenario, work: ModelWork, price: OperatorTimer, calibration: Calibration) -> Quantity:
    """Return by what measured steps multiply a step's time, as `Anchored` has it."""
    if part.anchor is None:
        return 1.0
    timed = [one for kind in _kinds(work) for each in _timed(price, kind) for one in each]
    known = standing(part, part.anchor, partial(unanchored_step, calibration=calibration))
    return np.exp(run_deviation(part, calibration, timed) * known.mean)


def _timed(price: OperatorTimer, kind: LayerWork) -> tuple[tuple[TimedOperator, ...], ...]:
    priced = price.time_work(kind)
    return priced.forward, priced.input_gradient, priced.weight_gradient


def _copies(plan: Training) -> int:
    """Return on how many ranks a schedule keeps each stage."""
    return 2 if plan.schedule in _TWICE else 1


def _row(value: Quantity, size: int) -> Array:
    return np.broadcast_to(np.asarray(value, dtype=np.float64), (size,))


def _rows(values: Sequence[Quantity], size: int) -> Array:
    return np.stack([_row(value, size) for value in values])


def _kinds(work: ModelWork) -> list[LayerWork]:
    """Return the work of every kind of layer: embedding, layers, head and MTP module."""
    return [work.embedding, *work.layers, work.head, *([] if work.mtp is None else [work.mtp])]


def _passes(price: OperatorTimer, kind: LayerWork) -> StreamTimes:
    """Return the times of all passes of one layer for one micro-batch."""
    forward, *backward = (stream_times(part, None) for part in _timed(price, kind))
    return forward + backward[0] + backward[1]


def _overlapped(traffic: OverlappedComm | None, kinds: Sequence[LayerWork]) -> list[tuple[Quantity, Quantity]]:
    """Return what moves beside all passes of one layer of each kind: what passes wait for, and the ranks' messages."""
    if traffic is None:
        return [(0.0, 0.0)] * len(kinds)
    streams = []
    for kind in kinds:
        waited: Quantity = 0.0
        wire: Quantity = 0.0
        transfers = [each for way in (Kind.FORWARD, Kind.BACKWARD) for each in traffic.of_layer(kind.name, way)]
        for part, priced in transfers:
            seconds = seconds_of(priced, None)
            if traffic.is_blocking(part):
                waited = waited + seconds
            elif part in ("gather", "reduce"):
                wire = wire + seconds
        streams.append((waited, wire))
    return streams


def _split(scenario: Scenario, plan: Training, stated: Training, size: int) -> Splits:
    """Return how layouts share the layers, number of stages by number of stages."""
    architecture, parallel = scenario.architecture, scenario.parallel
    degrees = [_row(each, size).astype(np.intp) for each in (parallel.pp, parallel.virtual)]
    distinct, member = np.unique(np.stack(degrees), axis=1, return_inverse=True)
    several = "interleaved" if plan.schedule == "1f1b" else plan.schedule  # the same where virtual is 1
    found = []
    for pp, virtual in distinct.T.tolist():
        placement = placement_of(several, pp, virtual)
        number = 1 + max(stage for rank in placement for stage in rank)
        layout = stage_layout(architecture, number, stage_sizes(architecture, stated, number), plan.placement)
        kinds = None if architecture.mtp is not None else -1
        stages = np.array([(one.embedding, *one.layers, one.head, one.mtp)[:kinds] for one in layout], dtype=np.float64)
        ranks = np.array([stages[list(rank)].sum(axis=0) for rank in placement])
        first, *others = placement[0]
        found.append(_Split(stages, ranks, np.array([stages[first], stages[others].sum(axis=0)])))
    return Splits(member.reshape(-1), found, np.stack([one.held for one in found], axis=-1))


def _span(plan: Training, split: _Split, of: _Streams, count: Array, *, runs_on: bool) -> Array:
    """Return the least makespan of some layouts.

    count: micro-batches that pass each stage of a rank.
    runs_on: no pass waits for its own messages.
    """
    if plan.schedule not in _ONE_WAY:
        most: Array = np.max([(split.ranks @ stream).max(axis=0) for stream in of], axis=0)
        return most * count
    pp = len(split.ranks)
    longest = []
    for stream in (of.compute + of.exchanges, of.wire, of.starts):
        through = np.cumsum(split.stages[: pp - 1] @ stream, axis=0)
        waits = np.concatenate([np.zeros((1, stream.shape[1])), through])
        if runs_on and stream is of.wire:
            waits[:] = 0.0
        longest.append((count * (split.ranks @ stream) + waits).max(axis=0))
    span: Array = np.max(longest, axis=0)
    return span


def _end(price: OperatorTimer, context: Context, plan: Training, work: ModelWork, splits: Sequence[_Split]) -> Array:
    """Return what ends the step on the rank with most of the commonest layers. splits: of each layout.

    Left out: other layers with experts, of which the rank may have none, and a head that is tied to the embedding.
    """
    kinds = _kinds(work)
    main = 1 + int(np.argmax([context.architecture.kinds[layer] for layer in context.architecture.kinds]))
    held = np.stack([split.ranks[np.argmax(split.ranks[:, main])] for split in splits], axis=-1)
    ends = (work.embedding, work.head) if context.architecture.tied_embeddings else ()
    counted = [
        (count, kind)
        for at, (count, kind) in enumerate(zip(held, kinds, strict=True))
        if at == main or not (kind in ends or any(item.expert for item in kind.parameters))
    ]
    ending = step_operators(context, plan, counted, _copies(plan))
    found = stream_times(price.time_all(ending.serial), None).compute + context.framework.host.step
    return _row(found, len(splits))
