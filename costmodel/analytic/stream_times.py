"""Adds up the times of operators by the stream they hold, as predicted or with families moved within their spread."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from costmodel.analytic.operator_timing import TimedOperator
from costmodel.quantities import Count, Quantity, Seconds, is_single, maximum, where
from costmodel.workload.operators import (
    AttentionKernel,
    Collective,
    Elementwise,
    ExpertAllToAll,
    Gemm,
    HostTime,
    HostTransfer,
)


@dataclass(frozen=True, slots=True, eq=False)
class Perturbation:
    """How a family is moved: 1 where it is taken at the low (high) point of its spread, 0 where at its median."""

    low: Quantity
    high: Quantity


# Operator family -> move. Families that are not named, and all of them under None, keep their predicted times.
Perturbations: TypeAlias = "Mapping[str, Perturbation] | None"


@dataclass(frozen=True, slots=True, eq=False)
class StreamTimes:
    """Times of some operators [s], each after the other.

    kernels: of the device, and updates and products of the host that it waits for; collectives: messages, host
    transfers and the host's program, which kernels wait for; exchanges: those of experts; starts: how many all are;
    uneven: of products of experts, the part that the fullest rank has above the mean.
    """

    kernels: Seconds = 0.0
    collectives: Seconds = 0.0
    expert_all_to_alls: Seconds = 0.0
    starts: Count = 0.0
    imbalance_time: Seconds = 0.0

    @property
    def compute(self) -> Seconds:
        """Return the time of the compute stream: kernels and the collectives between them."""
        return self.kernels + self.collectives

    @property
    def total(self) -> Seconds:
        """Return the time of all operators, one after another."""
        return self.kernels + self.collectives + self.expert_all_to_alls

    def __add__(self, other: StreamTimes) -> StreamTimes:
        """Return the sum, stream by stream."""
        return StreamTimes(
            kernels=self.kernels + other.kernels,
            collectives=self.collectives + other.collectives,
            expert_all_to_alls=self.expert_all_to_alls + other.expert_all_to_alls,
            starts=self.starts + other.starts,
            imbalance_time=self.imbalance_time + other.imbalance_time,
        )

    def times(self, count: float) -> StreamTimes:
        """Return `count` times these operators."""
        return StreamTimes(
            count * self.kernels, count * self.collectives, count * self.expert_all_to_alls, count * self.starts,
            count * self.imbalance_time,
        )  # fmt: skip


NO_TIME = StreamTimes()
_MESSAGES = (Collective, HostTransfer, HostTime)  # what kernels wait for
_REPEATED = (AttentionKernel, Collective, Elementwise)  # what may stand for several calls


def seconds_of(priced: TimedOperator, moves: Perturbations) -> Seconds:
    """Return an operator's time, moved within its family's spread: that of one call, where it stands for several."""
    seconds, operator = priced.time.seconds, priced.operator
    move = None if moves is None else moves.get(operator.family)
    if move is None:
        return seconds
    calls = operator.calls if isinstance(operator, _REPEATED) else 1.0
    one = seconds if is_single(calls) and calls == 1 else seconds / maximum(calls, 1.0)
    return seconds * priced.fit.spread.ratio(one, move.low, move.high)


def exposed_seconds(
    operators: Iterable[TimedOperator], moves: Perturbations
) -> Iterator[tuple[TimedOperator, Seconds]]:
    """Yield every operator of a pass with the part of its time that no other operator of the pass hides.

        messages that run beside the attention cores just before them: max(0, t - overlap * t_cores)

    which for the c-1 sends of a ring behind c blocks is (c-1) * max(0, t_send - t_block). Tensor-parallel messages that
    run beside a product, in n chunks of which the first waits, or as one message that nothing waits for:

        max(t - t_product, t / n)   or   max(t - t_product, 0)
    """
    cores: Quantity = 0.0
    ended = False  # a message has come since: the next core begins anew
    for priced in operators:
        seconds, operator = seconds_of(priced, moves), priced.operator
        if isinstance(operator, AttentionKernel):
            cores, ended = (seconds if ended else cores + seconds), False
        elif isinstance(operator, Collective) and not (
            is_single(operator.attention_overlap) and operator.attention_overlap == 0
        ):
            seconds, ended = maximum(seconds - operator.attention_overlap * cores, 0.0), True
        elif isinstance(operator, Collective) and priced.behind is not None:
            seconds = _beside_product(seconds, seconds_of(priced.behind, moves), operator.chunks)
        yield priced, seconds


def _beside_product(seconds: Seconds, product: Seconds, chunks: Count) -> Seconds:
    """Return what a product leaves of a message that runs beside it [s]."""
    parts = maximum(chunks, 1.0)
    return maximum(seconds - product, where(chunks > 0, seconds / parts, 0.0))


def stream_times(operators: Iterable[TimedOperator], moves: Perturbations) -> StreamTimes:
    """Return the times of some operators by stream, without what another one of them hides."""
    kernels: Quantity = 0.0
    collectives: Quantity = 0.0
    exchanges: Quantity = 0.0
    starts: Quantity = 0.0
    uneven: Quantity = 0.0
    for priced, seconds in exposed_seconds(operators, moves):
        operator = priced.operator
        kernels_of = operator.calls if isinstance(operator, Elementwise) else 1.0
        starts = starts + where(priced.time.seconds > 0, kernels_of, 0.0)
        if isinstance(operator, ExpertAllToAll):
            exchanges = exchanges + seconds
        elif isinstance(operator, _MESSAGES):
            collectives = collectives + seconds
        else:
            kernels = kernels + seconds
            if isinstance(operator, Gemm) and not (is_single(operator.expert_load) and operator.expert_load == 1):
                uneven = uneven + seconds * (1.0 - 1.0 / operator.expert_load)
    return StreamTimes(kernels, collectives, exchanges, starts, uneven)
