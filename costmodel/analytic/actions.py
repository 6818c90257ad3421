"""Times of the actions of a training step: of their layers by stream, and how they go."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from costmodel.analytic.layer_overlap import AsyncReduceTimes
from costmodel.analytic.overlapped_comm import Works
from costmodel.analytic.stream_times import NO_TIME, StreamTimes
from costmodel.quantities import Quantity, Seconds, maximum, minimum
from costmodel.workload.schedules import Kind


@dataclass(frozen=True, slots=True, eq=False)
class PassSums:
    """Times of a layer or a stage: forward, input gradient, weight gradient."""

    forward: StreamTimes = NO_TIME
    input_gradient: StreamTimes = NO_TIME
    weight_gradient: StreamTimes = NO_TIME

    @property
    def backward(self) -> StreamTimes:
        """Return both gradients together."""
        return self.input_gradient + self.weight_gradient


@dataclass(frozen=True, slots=True, eq=False)
class ActionTimes:
    """Times of one kind of action [s]. kernels: of the device; reducing: how it goes where its reductions run on."""

    seconds: Seconds
    kernels: Seconds
    reducing: AsyncReduceTimes | None = None

    @property
    def parts(self) -> tuple[Seconds, Seconds, Seconds]:
        """Return head, rest and trail: all of an action is its head where nothing runs on."""
        own = self.reducing
        return (self.seconds, 0.0, 0.0) if own is None else (own.head, own.rest, own.trail)


def settling(own: AsyncReduceTimes, kernels: Seconds, started: Seconds) -> ActionTimes:
    """Return an action whose reductions run on. started: what the host takes to start its kernels."""
    head = maximum(own.head, started - own.rest)
    return ActionTimes(head + own.rest, kernels, AsyncReduceTimes(head, own.rest, own.trail))


def stage_sums(works: Works, layers: Mapping[str, PassSums]) -> PassSums:
    """Return the times of a stage: those of its layers added up."""
    total = PassSums()
    for count, part in works:
        layer = layers[part.name]
        total = PassSums(
            total.forward + layer.forward.times(count),
            total.input_gradient + layer.input_gradient.times(count),
            total.weight_gradient + layer.weight_gradient.times(count),
        )
    return total


def all_to_all_contention(both: StreamTimes, slowing: Quantity) -> Seconds:
    """Return how much longer the computation of a pair takes because exchanges run beside it.

    Kernels take `slowing` times as long while both run, which is min(exchanges, slowing * compute):

        contention = min(exchanges, slowing * compute) * (1 - 1/slowing)
    """
    return minimum(both.expert_all_to_alls, slowing * both.compute) * (1.0 - 1.0 / slowing)


def pass_of(sums: PassSums, kind: Kind) -> StreamTimes:
    """Return the times of one kind of pass by itself."""
    return {
        Kind.FORWARD: sums.forward,
        Kind.BACKWARD: sums.backward,
        Kind.BACKWARD_INPUT: sums.input_gradient,
        Kind.BACKWARD_WEIGHT: sums.weight_gradient,
    }[kind]


def lone_seconds(layers: Mapping[str, PassSums], kind: Kind) -> dict[str, Seconds]:
    """Return the seconds of one layer's pass by itself, by kind of layer."""
    return {name: pass_of(sums, kind).total for name, sums in layers.items()}
