"""Communication of a training step that passes overlap: gathers, reductions and copies to and from the host."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias

from costmodel.analytic.operator_timing import OperatorTimer, TimedOperator
from costmodel.analytic.stream_times import NO_TIME, Perturbations, StreamTimes, seconds_of
from costmodel.analytic.training.layer_overlap import (
    COMMUNICATION,
    COMPUTE,
    AsyncReduceTimes,
    LayerSegment,
    pass_seconds,
    stream_of,
)
from costmodel.equations import equation
from costmodel.quantities import Quantity, Seconds, maximum, minimum
from costmodel.records import Record, fields
from costmodel.workload.context import Context
from costmodel.workload.layers import ModelWork
from costmodel.workload.optimizer import tied_table
from costmodel.workload.plans import Training
from costmodel.workload.scenario import Offload, Scenario
from costmodel.workload.schedules.schedule import Kind
from costmodel.workload.sharding import LayerTransfers, layer_transfers, saved_bytes
from costmodel.workload.work import LayerWork

REMOTE_TIED_HEAD = "tied head"  # a head tied to an embedding on another stage
Works: TypeAlias = "Sequence[tuple[int, LayerWork]]"  # (how many, work) along a stage
PartOperator: TypeAlias = "tuple[str, TimedOperator]"  # (one of `layer_overlap.PARTS`, operator)

_GATHERING = (Kind.BACKWARD, Kind.BACKWARD_INPUT)
_REDUCING = (Kind.BACKWARD, Kind.BACKWARD_WEIGHT)


class OverlappedComm(Record):
    """Communication that passes overlap.

    one_link: ranks communicate over the link to the host
    layers: by kind of layer, its timed operators by field of `LayerTransfers`
    """

    plan: Training
    offload: Offload
    one_link: bool
    layers: Mapping[str, Mapping[str, tuple[TimedOperator, ...]]]

    @property
    def reduces_async(self) -> bool:
        """Tell whether later passes overlap the reductions of earlier ones.

        Not where gradients move on to the host: its optimizer waits for all of them after every backward pass
        [DeepSpeed, runtime/zero/stage_1_and_2.py, independent_gradient_partition_epilogue].
        """
        return self.plan.has_async_reduce and not self.offload.is_used

    def has_async_reduce(self, kind: Kind) -> bool:
        """Tell whether actions of a kind leave reductions running."""
        return self.reduces_async and (kind in _REDUCING or kind is Kind.FORWARD_BACKWARD)

    def is_blocking(self, part: str) -> bool:
        """Tell whether a pass waits for the operators of a part."""
        return not (self.plan.overlaps_communication if part in ("gather", "reduce") else self.offload.overlap)

    def stream(self, part: str) -> str:
        """Return the stream that a part occupies."""
        return COMPUTE if self.is_blocking(part) else stream_of(part, one_link=self.one_link)

    def of_layer(self, label: str, kind: Kind, *, once_per_step: bool = False) -> Iterator[PartOperator]:
        """Yield the communication of one layer's pass. once_per_step: with that of the step's first or last pass.

        Stage 3 gathers weights for a forward pass, and for a backward pass unless they were kept. Stages 1 and 2 once,
        for the first forward pass. Gradients are reduced after every micro-batch or after the last one.
        """
        plan, layer = self.plan, self.layers[label]
        once = once_per_step and plan.overlaps_communication

        def operators(part: str, *names: str) -> Iterator[PartOperator]:
            return ((part, timed) for name in names for timed in layer[name])

        if kind is Kind.FORWARD:
            yield from operators("h2d", "weights_in")
            if plan.zero == 3 or (once and plan.zero in (1, 2)):
                yield from operators("gather", "gather")
            yield from operators("d2h", "activations_out")
        if kind in _GATHERING:
            yield from operators("h2d", "weights_in", "activations_in")
            if plan.regathers_weights:
                yield from operators("gather", "gather")
        if kind in _REDUCING and (plan.reduces_each_micro_batch or once):
            yield from operators("reduce", "reduce")
            yield from operators("d2h", "gradients_out")

    def operators(self) -> list[TimedOperator]:
        """Return the distinct operators of all passes and kinds of layers."""
        passes = [
            self.of_layer(label, kind, once_per_step=True)
            for label in self.layers
            for kind in (Kind.FORWARD, Kind.BACKWARD)
        ]
        return list({id(timed): timed for operators in passes for _, timed in operators}.values())

    def by_layer(
        self, works: Works, kind: Kind, *, once_per_step: bool = False
    ) -> Iterator[tuple[int, LayerWork, tuple[PartOperator, ...]]]:
        """Yield (how many, work, communication of one) of the layers of a stage, in the order of the pass."""
        has_embedding = any(work.name == "embedding" for _, work in works)
        for count, work in works if kind is Kind.FORWARD else reversed(works):
            is_remote = work.name == "head" and not has_embedding and REMOTE_TIED_HEAD in self.layers
            label = REMOTE_TIED_HEAD if is_remote else work.name
            yield count, work, tuple(self.of_layer(label, kind, once_per_step=once_per_step))

    def of_pair(self, forward: Works, backward: Works) -> Iterator[tuple[str, int, TimedOperator]]:
        """Yield (part, how often, operator) of the communication of an overlapped pair."""
        for works, kind in ((forward, Kind.FORWARD), (backward, Kind.BACKWARD)):
            for count, _, operators in self.by_layer(works, kind):
                yield from ((part, count, timed) for part, timed in operators)

    def seconds(self, chain: Sequence[LayerSegment]) -> Seconds:
        """Return the time of a pass through a chain of layers [s]."""
        return pass_seconds(chain, one_link=self.one_link)

    def chain(
        self,
        stages: Sequence[Works],
        kind: Kind,
        compute: Mapping[str, Seconds],
        perturbations: Perturbations,
        *,
        once_per_step: bool = False,
    ) -> list[LayerSegment]:
        """Return the layers of some stages in the order of a pass, each with its communication [s].

        compute: of one layer's own pass, by name [s].
        """
        chain = []
        for works in stages if kind is Kind.FORWARD else reversed(stages):
            for count, work, operators in self.by_layer(works, kind, once_per_step=once_per_step):
                parts: dict[str, Quantity] = {"compute": compute[work.name]}
                for name, timed in operators:
                    part = "compute" if self.is_blocking(name) else name
                    parts[part] = parts.get(part, 0.0) + seconds_of(timed, perturbations)
                chain.append(LayerSegment(count, **parts))
        return chain

    def overlapped_pair(
        self, pair: tuple[Works, Works], compute: Seconds, all_to_alls: Seconds, perturbations: Perturbations
    ) -> Seconds:
        """Return the time of a forward pass that overlaps another chunk's backward pass [s].

        Its streams overlap in full: max(compute, all-to-alls, each stream of communication). pair: works of forward and
        backward; compute, all_to_alls: of both [s].
        """
        return maximum(*self._stream_totals(pair, compute, all_to_alls, perturbations).values())

    def async_reduce_pair(
        self, pair: tuple[Works, Works], compute: Seconds, all_to_alls: Seconds, perturbations: Perturbations
    ) -> AsyncReduceTimes:
        """Return the times of an overlapped pair that earlier reductions may delay [s]. Its own reductions end with it.

        max(compute, all-to-alls, collectives), where its collectives wait for the earlier ones.
        """
        totals = self._stream_totals(pair, compute, all_to_alls, perturbations)
        collectives = totals.get(COMMUNICATION, 0.0)
        return AsyncReduceTimes(maximum(*totals.values()) - collectives, collectives, 0.0)

    def _stream_totals(
        self, pair: tuple[Works, Works], compute: Seconds, all_to_alls: Seconds, perturbations: Perturbations
    ) -> dict[str, Quantity]:
        """Return the busy time of each stream of an overlapped pair [s]."""
        totals: dict[str, Quantity] = {COMPUTE: compute, "all-to-all": all_to_alls}
        for part, count, timed in self.of_pair(*pair):
            stream = self.stream(part)
            totals[stream] = totals.get(stream, 0.0) + count * seconds_of(timed, perturbations)
        return totals


def overlapped_comm(
    scenario: Scenario, plan: Training, context: Context, work: ModelWork, copies: int, timer: OperatorTimer
) -> OverlappedComm | None:
    """Return the communication that passes overlap, null where all of it follows them. copies: ranks of each stage."""
    offload = scenario.offload
    if not (plan.zero == 3 or plan.reduces_each_micro_batch or plan.overlaps_communication or offload.is_used):
        return None
    listed = {kind.name: (kind.parameters, saved_bytes(kind)) for kind in work.kinds}
    if context.architecture.tied_embeddings:
        listed[REMOTE_TIED_HEAD] = ((*work.head.parameters, tied_table(context)), saved_bytes(work.head))
    layers = {}
    for name, (parameters, kept) in listed.items():
        traffic = layer_transfers(context, plan, copies, parameters, saved=kept)
        layers[name] = {part: timer.time_all(getattr(traffic, part)) for part in fields(LayerTransfers)}
    node = scenario.cluster.node
    return OverlappedComm(plan, offload, node.host.link == node.intra.name, layers)


# ---- Times of the actions of a training step: of their layers by stream, and of the action itself --------------------


class LayerTimes(Record):
    """Times of the three passes of a layer, or of the layers of a stage."""

    forward: StreamTimes = NO_TIME
    input_gradient: StreamTimes = NO_TIME
    weight_gradient: StreamTimes = NO_TIME

    @property
    def backward(self) -> StreamTimes:
        """Return both gradients together."""
        return self.input_gradient + self.weight_gradient

    def of(self, kind: Kind) -> StreamTimes:
        """Return the times of one kind of pass that overlaps no other."""
        if kind is Kind.BACKWARD:
            return self.backward
        if kind is Kind.FORWARD:
            return self.forward
        return self.input_gradient if kind is Kind.BACKWARD_INPUT else self.weight_gradient


class ActionTimes(Record):
    """Times of one kind of action [s].

    kernels: of the device.
    async_reduce: the action in parts, null where it leaves no reductions running.
    """

    seconds: Seconds
    kernels: Seconds
    async_reduce: AsyncReduceTimes | None = None

    @property
    def parts(self) -> tuple[Seconds, Seconds, Seconds]:
        """Return head, rest and trail. Without asynchronous reductions all of the action is its head."""
        parts = self.async_reduce
        return (self.seconds, 0.0, 0.0) if parts is None else (parts.head, parts.rest, parts.trail)


def with_async_reduce(parts: AsyncReduceTimes, kernels: Seconds, launches: Seconds) -> ActionTimes:
    """Return an action with asynchronous reductions. launches: time of the host to launch its kernels."""
    head = maximum(parts.head, launches - parts.rest)
    return ActionTimes(head + parts.rest, kernels, AsyncReduceTimes(head, parts.rest, parts.trail))


def stage_times(works: Works, layers: Mapping[str, LayerTimes]) -> LayerTimes:
    """Return the times of a stage, the sum over its layers."""
    each = [(count, layers[work.name]) for count, work in works]
    return LayerTimes(
        sum((layer.forward.scaled(count) for count, layer in each), NO_TIME),
        sum((layer.input_gradient.scaled(count) for count, layer in each), NO_TIME),
        sum((layer.weight_gradient.scaled(count) for count, layer in each), NO_TIME),
    )


@equation
def message_contention(compute: Seconds, messages: Seconds, slowdown: Quantity) -> Seconds:
    """Return the extra time of kernels due to concurrent messages: all-to-alls of experts, exchanges of sharded states.

    Kernels take `slowdown` times as long while both run, which is min(messages, slowdown * compute):

        slower = min(messages, slowdown * compute) * (1 - 1 / slowdown)
    """
    return minimum(messages, slowdown * compute) * (1.0 - 1.0 / slowdown)


def layer_seconds(layers: Mapping[str, LayerTimes], kind: Kind) -> dict[str, Seconds]:
    """Return the time of one layer's pass that overlaps no other, by kind of layer [s]."""
    return {name: times.of(kind).total for name, times in layers.items()}
