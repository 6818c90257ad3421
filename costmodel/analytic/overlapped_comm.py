"""What moves beside the passes of a training step: which part of which pass, and what a pass waits for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TypeAlias

import numpy as np

from costmodel.analytic.layer_overlap import AsyncReduceTimes, LayerSegment, async_reduce_times, pass_seconds
from costmodel.analytic.operator_timing import OperatorTimer, TimedOperator
from costmodel.analytic.stream_times import Perturbations, seconds_of
from costmodel.quantities import Count, Quantity, Seconds, maximum, minimum, where
from costmodel.workload.context import Context
from costmodel.workload.layers import ModelWork
from costmodel.workload.operators import Collective, Group
from costmodel.workload.optimizer import tied_table
from costmodel.workload.plans import Training
from costmodel.workload.scenario import Offload, Scenario
from costmodel.workload.schedules import Kind
from costmodel.workload.sharding import LayerTransfers, layer_transfers, saved_bytes
from costmodel.workload.work import LayerWork

INTERFERENCE = "interference of collectives"  # the name of what they make kernels longer by
HEAD_AWAY = "tied head"  # a head that is tied to an embedding on another stage
Works: TypeAlias = "Sequence[tuple[int, LayerWork]]"  # (how many, work) along a stage
Beside: TypeAlias = "tuple[str, TimedOperator]"  # a part of `streams.PARTS` or SLOWS, and an operator in it
SLOWS = "slows"  # what a pass is longer by because collectives run beside its kernels

_FETCHING = (Kind.BACKWARD, Kind.BACKWARD_INPUT)
_SETTLING = (Kind.BACKWARD, Kind.BACKWARD_WEIGHT)


@dataclass(frozen=True, slots=True, eq=False)
class OverlappedComm:
    """What moves beside the passes. layers: by kind of layer, the fields of its `LayerTraffic`, priced.

    one_link: ranks reach each other over the link to the host.
    """

    plan: Training
    offload: Offload
    one_link: bool
    layers: Mapping[str, Mapping[str, tuple[TimedOperator, ...]]]

    @property
    def runs_on(self) -> bool:
        """Tell whether reductions of a pass run on beside those that follow it.

        Not where gradients go on to the host: its optimizer waits for all of them at the end of every backward pass
        [DeepSpeed, runtime/zero/stage_1_and_2.py, independent_gradient_partition_epilogue].
        """
        return self.plan.has_async_reduce and not self.offload.is_used

    def has_async_reduce(self, kind: Kind) -> bool:
        """Tell whether actions of a kind have reductions that run on."""
        return self.runs_on and (kind in _SETTLING or kind is Kind.FORWARD_BACKWARD)

    def waits(self, part: str) -> bool:
        """Tell whether a pass waits for the operators of a part."""
        if part == SLOWS:
            return True
        return not (self.plan.overlaps_communication if part in ("gather", "reduce") else self.offload.overlap)

    def beside(self, label: str, kind: Kind, *, ends: bool) -> Iterator[Beside]:
        """Yield what a pass of one layer moves. ends: what happens once a step too, in its first or last pass.

        Stage 3 gathers weights for a forward pass, and for a backward pass if they were not kept; stages 1 and 2 once,
        for the first forward pass. Gradients are reduced after every micro-batch or after the last one.
        """
        plan, moved = self.plan, self.layers[label]
        once = ends and plan.overlaps_communication

        def named(part: str, *names: str) -> Iterator[Beside]:
            for name in names:
                yield from ((part, priced) for priced in moved[name])
                yield from ((SLOWS, priced) for priced in moved.get(_slowing(name), ()))

        if kind is Kind.FORWARD:
            yield from named("h2d", "weights_in")
            if plan.zero == 3 or (once and plan.zero in (1, 2)):
                yield from named("gather", "gather")
            yield from named("d2h", "activations_out")
        if kind in _FETCHING:
            yield from named("h2d", "weights_in", "activations_in")
            if plan.regathers_weights:
                yield from named("gather", "gather")
        if kind in _SETTLING and (plan.reduces_each_micro_batch or once):
            yield from named("reduce", "reduce")
            yield from named("d2h", "gradients_out")

    def operators(self) -> list[TimedOperator]:
        """Return all operators that move beside some pass, of every kind of layer."""
        every = (Kind.FORWARD, Kind.BACKWARD)
        moved = [self.beside(label, kind, ends=True) for label in self.layers for kind in every]
        return list({id(priced): priced for each in moved for _, priced in each}.values())

    def along(self, works: Works, kind: Kind, *, ends: bool) -> Iterator[tuple[int, LayerWork, tuple[Beside, ...]]]:
        """Yield (how many, work, what moves beside one) of the layers of a stage, in the order of the pass."""
        has_embedding = any(work.name == "embedding" for _, work in works)
        for count, work in works if kind is Kind.FORWARD else reversed(works):
            away = work.name == "head" and not has_embedding and HEAD_AWAY in self.layers
            yield count, work, tuple(self.beside(HEAD_AWAY if away else work.name, kind, ends=ends))

    def lone_pass(
        self,
        stages: Sequence[Works],
        kind: Kind,
        compute: Mapping[str, Seconds],
        moves: Perturbations,
        *,
        ends: bool = False,
    ) -> Seconds:
        """Return how long a pass through some stages takes [s]. compute: seconds of one layer's own pass, by name."""
        return pass_seconds(self._chain(stages, kind, compute, moves, ends=ends), one_link=self.one_link)

    def async_reduce_pass(
        self, works: Works, kind: Kind, compute: Mapping[str, Seconds], moves: Perturbations
    ) -> AsyncReduceTimes:
        """Return a backward pass through a stage whose reductions run on [s]."""
        return async_reduce_times(self._chain([works], kind, compute, moves, ends=False))

    def _chain(
        self, stages: Sequence[Works], kind: Kind, compute: Mapping[str, Seconds], moves: Perturbations, *, ends: bool
    ) -> list[LayerSegment]:
        """Return the layers of some stages in the order of a pass, with what moves beside each."""
        chain = []
        for works in stages if kind is Kind.FORWARD else reversed(stages):
            for count, work, moved in self.along(works, kind, ends=ends):
                parts: dict[str, Quantity] = {"compute": compute[work.name]}
                for part, priced in moved:
                    place = "compute" if self.waits(part) else part
                    parts[place] = parts.get(place, 0.0) + seconds_of(priced, moves)
                chain.append(LayerSegment(count, **parts))
        return chain

    def async_reduce_pair(
        self, forward: Works, backward: Works, compute: Seconds, exchanges: Seconds, moves: Perturbations
    ) -> AsyncReduceTimes:
        """Return an overlapped pair that begins while reductions of earlier actions run on; its own end with it [s].

        max(compute, exchanges, wire), and no sooner than its reductions after those before.
        """
        totals = self._totals(forward, backward, compute, exchanges, moves)
        wire = totals.get("wire", 0.0)
        return AsyncReduceTimes(maximum(*totals.values()) - wire, wire, 0.0)

    def overlapped_pair(
        self, forward: Works, backward: Works, compute: Seconds, exchanges: Seconds, moves: Perturbations
    ) -> Seconds:
        """Return how long a forward takes that overlaps another chunk's backward [s].

        All that runs beside its computation is hidden behind it, whatever the order inside:
        max(compute, exchanges, each stream of transfers). compute, exchanges: of both chunks.
        """
        return maximum(*self._totals(forward, backward, compute, exchanges, moves).values())

    def _totals(
        self, forward: Works, backward: Works, compute: Seconds, exchanges: Seconds, moves: Perturbations
    ) -> dict[str, Quantity]:
        """Return what each stream of an overlapped pair takes [s]."""
        totals: dict[str, Quantity] = {"compute": compute, "exchanges": exchanges}
        for part, count, priced in self.in_pair(forward, backward):
            place = "compute" if self.waits(part) else _stream(part, one_link=self.one_link)
            totals[place] = totals.get(place, 0.0) + count * seconds_of(priced, moves)
        return totals

    def in_pair(self, forward: Works, backward: Works) -> Iterator[tuple[str, int, TimedOperator]]:
        """Yield (part, how often, operator) of what moves beside an overlapped pair."""
        for works, kind in ((forward, Kind.FORWARD), (backward, Kind.BACKWARD)):
            for count, _, moved in self.along(works, kind, ends=False):
                yield from ((part, count, priced) for part, priced in moved)


def overlapped_comm(
    scenario: Scenario, plan: Training, context: Context, work: ModelWork, copies: int, pricing: OperatorTimer
) -> OverlappedComm | None:
    """Return what moves beside the passes; null where nothing does: all of it then ends the step."""
    offload = scenario.offload
    if not (plan.zero == 3 or plan.reduces_each_micro_batch or plan.overlaps_communication or offload.is_used):
        return None
    kinds = [work.embedding, *work.layers, work.head, *([] if work.mtp is None else [work.mtp])]
    listed = {kind.name: (kind.parameters, saved_bytes(kind)) for kind in kinds}
    if context.architecture.tied_embeddings:
        listed[HEAD_AWAY] = ((*work.head.parameters, tied_table(context)), saved_bytes(work.head))
    layers = {}
    for name, (parameters, kept) in listed.items():
        moved = layer_transfers(context, plan, copies, parameters, kept)
        layers[name] = {part.name: pricing.time_all(getattr(moved, part.name)) for part in fields(LayerTransfers)}
        if plan.overlaps_communication:
            layers[name] |= _interference(layers[name], pricing)
    node = scenario.cluster.node
    return OverlappedComm(plan, offload, node.host.link == node.intra.name, layers)


def _interference(
    moved: Mapping[str, tuple[TimedOperator, ...]], pricing: OperatorTimer
) -> dict[str, tuple[TimedOperator, ...]]:
    """Return what collectives make the kernels longer by that they run beside.

    min(t, t_inside) * (1 - 1/dp_comm_slowdown)        [as of expert exchanges: `all_to_all_contention` of `actions`]

    t: of the collective; t_inside: what its bytes take between the devices of one node, where it has several. NCCL runs
    on as many processors as a fabric's bandwidth needs, over a slow one on few for long [NCCL, src/graph/search.cc].
    """
    slowdown = pricing.framework.dp_comm_slowdown
    if np.all(np.asarray(slowdown) == 1.0):
        return {}
    share = 1.0 - 1.0 / slowdown
    return {
        _slowing(name): tuple(_slowed(priced, share, pricing) for priced in moved[name])
        for name in ("gather", "reduce")
    }


def _slowed(priced: TimedOperator, share: Quantity, pricing: OperatorTimer) -> TimedOperator:
    """Return what one operator makes kernels longer by: a share of the time that it keeps processors busy."""
    operator, busy = replace(priced.operator, name=INTERFERENCE), priced.time
    devices = pricing.cluster.node.count
    if isinstance(operator, Collective) and np.all(np.asarray(devices) > 1):
        inside = pricing.time_operator(among(operator, devices)).time.seconds
        busy = busy.scaled(minimum(1.0, inside / where(busy.seconds > 0, busy.seconds, 1.0)))
    return replace(priced, operator=operator, time=busy.scaled(share))


def among(operator: Collective, ranks: Count) -> Collective:
    """Return the collective in which each of some neighbours sends the same bytes: (n-1)/n of a buffer in rings."""
    size = operator.size * (operator.group.size - 1.0) / operator.group.size * ranks / (ranks - 1.0)
    return replace(operator, size=size, group=Group(ranks))


def _slowing(name: str) -> str:
    return f"{name} {SLOWS}"


def _stream(part: str, *, one_link: bool) -> str:
    """Return the name of the stream that a part runs on."""
    return "wire" if one_link or part in ("gather", "reduce") else part
