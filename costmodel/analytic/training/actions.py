"""Times of the actions of a training step: of their layers by stream, and of the action itself."""

from __future__ import annotations

from collections.abc import Mapping

from costmodel.analytic.stream_times import NO_TIME, StreamTimes
from costmodel.analytic.training.layer_overlap import AsyncReduceTimes
from costmodel.analytic.training.overlapped_comm import Works
from costmodel.equations import equation
from costmodel.quantities import Quantity, Seconds, maximum, minimum
from costmodel.records import Record
from costmodel.workload.schedules import Kind


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
