"""What a training step takes at least, and holds at least, in each of many layouts: no schedule is run.

Layers are priced once for all layouts, as arrays. What follows from the number of stages is added up rank by rank.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from costmodel.analytic.anchors import standing
from costmodel.analytic.blocks import gathered, take
from costmodel.analytic.intervals import run_deviation
from costmodel.analytic.operator_timing import OperatorTimer, TimedOperator, operator_timer
from costmodel.analytic.stream_times import seconds_of, stream_times
from costmodel.analytic.training.overlapped_comm import OverlappedComm, message_contention, overlapped_comm
from costmodel.analytic.training.step_model import micro_batch_count, training_context
from costmodel.analytic.training_evaluation import unanchored_step
from costmodel.cost.calibration import Calibration
from costmodel.cost.power import fastest
from costmodel.quantities import Array, Indices, Quantity
from costmodel.records import Record, replace
from costmodel.study.layouts import Variant, stage_sizes
from costmodel.workload.architecture import stage_layout
from costmodel.workload.context import Context
from costmodel.workload.layers import ModelWork, model_work
from costmodel.workload.memory import minimum_memory, receive_buffers
from costmodel.workload.optimizer import step_operators
from costmodel.workload.plans import Training
from costmodel.workload.scenario import Scenario
from costmodel.workload.schedules.catalogue import concurrent_messages
from costmodel.workload.schedules.schedule import Kind, first_rank_chunks, placement_of
from costmodel.workload.sharding import saved_bytes
from costmodel.workload.work import LayerWork, SavedTensor

_ONE_WAY = ("gpipe", "1f1b", "interleaved")  # a chunk's backward pass is one, and all micro-batches go the same way
_TWICE = ("dualpipe",)  # schedules that keep each stage on two ranks
_SHARE = 1 - 1e-9  # of a bound: what rounding may take from it


class _Passes(NamedTuple):
    """Seconds of all passes of one layer for a micro-batch, by [kind, layout].

    compute: kernels and the messages that they wait for
    exchanges: of experts
    contention: what exchanges at the same time make kernels longer, at least
    starts: of the host, to start them all
    forward: the forward pass alone, its exchanges after its kernels
    """

    compute: Array
    exchanges: Array
    contention: Array
    starts: Array
    forward: Array

    def at(self, layouts: Indices | npt.NDArray[np.bool_]) -> _Passes:
        return _Passes(*(each[:, layouts] for each in self))


class _Split(Record):
    """How layouts with one number of stages share the layers.

    stages: layers by [stage, kind]
    ranks: by [rank, kind], all stages of the rank
    held: of the first rank, by [its first stage or its others, kind]
    before: stages before the first one of each rank
    """

    stages: Array
    ranks: Array
    held: Array
    before: Indices

    def until(self, seconds: Array) -> Array:
        """Return how long the stages before each rank take, by [rank, layout]. seconds: of a layer, [kind, layout]."""
        through = np.cumsum(self.stages[: self.before.max()] @ seconds, axis=0)
        return np.concatenate([np.zeros((1, seconds.shape[1])), through])[self.before]


class _Splits(Record):
    """How all layouts share the layers. member: which of `of` each one has."""

    member: Indices
    of: Sequence[_Split]

    def by_layout(self, part: Callable[[_Split], Array]) -> Array:
        """Return a part of each layout's split, layouts on a new last axis."""
        return np.stack([part(one) for one in self.of], axis=-1)[..., self.member]


class Bounder:
    """Bounds of layouts of one scenario, whose values are arrays over all of them. What variants share is kept.

        step >= max over ranks r of (M * t_r + waits_r) + the end of the step
        t_r  = max(computation, exchanges, messages during the passes, starts of the host) of the layers on r

    M: micro-batches.

    Where passes of two micro-batches overlap, exchanges overlap computation and slow it down. Elsewhere the two add up.
    Rank r waits for the first forward pass to come through the stages before its own. One-way schedules send the
    gradient back through these stages after the rank's last backward pass: there waits_r = t of them, without messages
    that run on during other passes. The end of the step: reductions, optimizer and gathers of the rank with most of
    the commonest layers, as far as they end it. Memory is that of the first rank.
    """

    def __init__(self, calibration: Calibration, base: Scenario, keys: Indices) -> None:
        """Start with nothing priced.

        base: the step as its scenario states it, whose stages say what its ends weigh
        keys: number of each layout among those whose layers do the same work (`alike_layers` of `search_steps`)
        """
        self._calibration, self._base, self._keys = calibration, base, keys
        base = replace(base, cluster=fastest(base.cluster))
        first = np.unique(keys, return_index=True)[1]
        self._distinct = take(base, (first,), (len(keys),))  # one layout of each key
        self._timer, self._layer_timer = (operator_timer(one, calibration) for one in (base, self._distinct))
        self._splits: _Splits | None = None
        self._works: dict[tuple[frozenset[str], bool], tuple[ModelWork, ModelWork]] = {}
        self._passes: dict[tuple[frozenset[str], bool], _Passes] = {}

    @np.errstate(all="ignore")  # layouts whose degrees do not divide
    def memory(self, variant: Variant) -> Array:
        """Return the bytes that the fullest device holds at least, in every layout of a variant."""
        scenario, plan = variant.planned(self._base)
        size, kinds = len(self._keys), self._work(variant)[1].kinds
        chunks = first_rank_chunks(plan.schedule, scenario.parallel.pp, _row(micro_batch_count(scenario, plan), size))
        held = self._split(plan).by_layout(lambda one: one.held)
        stages = [(list(zip(of, kinds, strict=True)), each) for of, each in zip(held, chunks, strict=True)]
        return _SHARE * _row(minimum_memory(training_context(scenario, plan), plan, _copies(plan), stages), size)

    @np.errstate(all="ignore")
    def step(self, variant: Variant) -> Array:
        """Return the seconds that a step takes at least, in every layout of a variant."""
        scenario, plan = variant.planned(self._base)
        size, splits, copies = len(self._keys), self._split(plan), _copies(plan)
        context, work = training_context(scenario, plan), self._work(variant)[1]
        traffic = overlapped_comm(scenario, plan, context, work, copies, self._timer)
        overlapped = zip(*_overlapped(traffic, work.kinds), strict=True)
        waited, wire = (_rows(stream, size) for stream in overlapped)
        passes = self._priced(variant).at(self._keys)
        passes = passes._replace(compute=passes.compute + waited)
        count = _row(micro_batch_count(scenario, plan), size) / copies
        seconds, runs_on = np.empty(size), traffic is not None and traffic.reduces_async
        for number, split in enumerate(splits.of):
            own = splits.member == number
            seconds[own] = _span(plan, split, passes.at(own), wire[:, own], count[own], runs_on=runs_on)
        end = _end(self._timer, context, plan, work, splits)
        return _SHARE * self._factor(scenario, context) * (seconds + end)

    def _work(self, variant: Variant) -> tuple[ModelWork, ModelWork]:
        """Return the work of a variant's layers: that of each key, and that of each layout without its operators."""
        if variant.layer_work not in self._works:
            work = model_work(training_context(*variant.planned(self._distinct)))
            layers, mtp = tuple(map(_kept, work.layers)), None if work.mtp is None else _kept(work.mtp)
            kept = ModelWork(_kept(work.embedding), layers, _kept(work.head), mtp)
            self._works[variant.layer_work] = work, gathered(kept, self._keys)
        return self._works[variant.layer_work]

    def _priced(self, variant: Variant) -> _Passes:
        """Return the times of a variant's layers, by key instead of the layout."""
        if variant.layer_work not in self._passes:
            slowdown = self._distinct.framework.comm_slowdown(self._distinct.communication)
            each = [_passes(self._layer_timer, kind, slowdown) for kind in self._work(variant)[0].kinds]
            size = 1 + int(self._keys.max())
            self._passes[variant.layer_work] = _Passes(*(_rows(stream, size) for stream in zip(*each, strict=True)))
        return self._passes[variant.layer_work]

    def _split(self, plan: Training) -> _Splits:
        """Return how layouts share the layers: the same in all variants of a family of schedules."""
        if self._splits is None:
            self._splits = _split(self._base, plan, len(self._keys))
        return self._splits

    def _factor(self, scenario: Scenario, context: Context) -> Quantity:
        """Return by what measured steps multiply a step's time, as `Anchored` has it."""
        if scenario.anchor is None:
            return 1.0
        passes = [each for kind in model_work(context).kinds for each in _timed(self._timer, kind)]
        known = standing(scenario, scenario.anchor, partial(unanchored_step, calibration=self._calibration))
        timed = [one for each in passes for one in each]
        return np.exp(run_deviation(scenario, self._calibration, timed) * known.mean)


def _kept(work: LayerWork) -> LayerWork:
    """Return a layer's work without operators, its saved tensors as one: its memory is the same, and arrays are few."""
    saved, buffers = (SavedTensor("all", "all", saved_bytes(work)),), receive_buffers([work])
    return replace(work, forward=(), input_gradient=(), weight_gradient=(), saved=saved, receive_buffers=buffers)


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


def _passes(price: OperatorTimer, kind: LayerWork, slowdown: Quantity) -> tuple[Quantity, ...]:
    """Return the times of one layer as `_Passes` has them. slowdown: of kernels during exchanges of experts."""
    graphs = price.framework.training.graphs
    forward, *gradients = (stream_times(part, None, graphs=graphs) for part in _timed(price, kind))
    backward = gradients[0] + gradients[1]
    both = forward + backward
    first, second = (message_contention(one.compute, one.expert_all_to_alls, slowdown) for one in (forward, backward))
    starts = price.framework.host.operator * both.launches
    return both.compute, both.expert_all_to_alls, first + second, starts, forward.total


def _overlapped(traffic: OverlappedComm | None, kinds: Sequence[LayerWork]) -> list[tuple[Quantity, Quantity]]:
    """Return what moves during all passes of one layer of each kind: what passes wait for, and the ranks' messages."""
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


def _split(scenario: Scenario, plan: Training, size: int) -> _Splits:
    """Return how layouts share the layers, number of stages by number of stages."""
    architecture, parallel, stated = scenario.architecture, scenario.parallel, scenario.plan
    assert isinstance(stated, Training)
    degrees = [_row(each, size).astype(np.intp) for each in (parallel.pp, parallel.virtual)]
    distinct, member = np.unique(np.stack(degrees), axis=1, return_inverse=True)
    several = "interleaved" if plan.schedule == "1f1b" else plan.schedule  # the same where virtual is 1
    splits = []
    for pp, virtual in distinct.T.tolist():
        placement = placement_of(several, pp, virtual)
        number = 1 + max(stage for rank in placement for stage in rank)
        layout = stage_layout(architecture, number, stage_sizes(architecture, stated, number), plan.placement)
        kinds = None if architecture.mtp is not None else -1
        stages = np.array([(one.embedding, *one.layers, one.head, one.mtp)[:kinds] for one in layout], dtype=np.float64)
        ranks = np.array([stages[list(rank)].sum(axis=0) for rank in placement])
        first, *others = placement[0]
        held = np.array([stages[first], stages[others].sum(axis=0)])
        splits.append(_Split(stages, ranks, held, np.array([min(rank) for rank in placement])))
    return _Splits(member.reshape(-1), splits)


def _span(plan: Training, split: _Split, passes: _Passes, wire: Array, count: Array, *, runs_on: bool) -> Array:
    """Return the least makespan of some layouts.

    wire: seconds of the messages during a layer's passes, by [kind, layout]
    count: micro-batches that pass each stage of a rank
    runs_on: no pass waits for its own messages
    """
    if concurrent_messages(plan.schedule) > 1:  # a pass overlaps another micro-batch's
        kernels = [passes.compute + passes.contention, passes.exchanges]
    else:
        kernels = [passes.compute + passes.exchanges]
    first = split.until(passes.forward)
    longest = []
    for stream in (*kernels, wire, passes.starts):
        returns = plan.schedule in _ONE_WAY and not (runs_on and stream is wire)
        waits = np.maximum(first, split.until(stream)) if returns else first
        longest.append((count * (split.ranks @ stream) + waits).max(axis=0))
    span: Array = np.max(longest, axis=0)
    return span


def _end(price: OperatorTimer, context: Context, plan: Training, work: ModelWork, splits: _Splits) -> Array:
    """Return what ends the step on the rank with most of the commonest layers, in every layout.

    Left out: other layers with experts, of which the rank may have none, and a head that is tied to the embedding.
    """
    main = 1 + int(np.argmax([context.architecture.kinds[layer] for layer in context.architecture.kinds]))
    held = splits.by_layout(lambda one: one.ranks[np.argmax(one.ranks[:, main])])
    ends = (work.embedding, work.head) if context.architecture.tied_embeddings else ()
    counted = [
        (count, kind)
        for at, (count, kind) in enumerate(zip(held, work.kinds, strict=True))
        if at == main or not (kind in ends or any(item.expert for item in kind.parameters))
    ]
    ending = step_operators(context, plan, counted, _copies(plan))
    seconds = stream_times(price.time_all(ending.serial), None).compute + context.framework.host.step
    return _row(seconds, len(splits.member))
