"""Times of operators added up per stream, as predicted or with operator families perturbed within their spread."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from typing import Any, Generic, TypeAlias, TypeVar

from costmodel.analytic.anchors import Anchored
from costmodel.analytic.operator_timing import TimedOperator
from costmodel.equations import equation
from costmodel.quantities import Count, Quantity, Seconds, is_single, maximum, minimum, where
from costmodel.records import Record
from costmodel.workload.operators import (
    AttentionKernel,
    Collective,
    Elementwise,
    ExpertAllToAll,
    Gemm,
    HostTime,
    HostTransfer,
)


class Perturbation(Record):
    """Where in its spread a family is taken: 1 selects the low (high) point, 0 in both the median."""

    low: Quantity
    high: Quantity


# By operator family. Families without an entry, and all of them under None, keep their predicted times.
Perturbations: TypeAlias = "Mapping[str, Perturbation] | None"


class StreamTimes(Record):
    """Times of operators that run one after another [s].

    kernels: kernels of the device, and GEMMs and updates that the host computes while the device waits
    collectives: messages, host transfers and host time that block kernels
    expert_all_to_alls: dispatch and combine
    launches: number of kernels and messages [-]
    """

    kernels: Seconds = 0.0
    collectives: Seconds = 0.0
    expert_all_to_alls: Seconds = 0.0
    launches: Count = 0.0

    @property
    @equation
    def compute(self) -> Seconds:
        """Return the time of the compute stream.

        compute = kernels + collectives      which kernels wait for
        """
        return self.kernels + self.collectives

    @property
    @equation
    def total(self) -> Seconds:
        """Return the time of all operators, one after another.

        total = kernels + collectives + expert_all_to_alls
        """
        return self.kernels + self.collectives + self.expert_all_to_alls

    def __add__(self, other: StreamTimes) -> StreamTimes:
        exchanges = self.expert_all_to_alls + other.expert_all_to_alls
        kernels, collectives = self.kernels + other.kernels, self.collectives + other.collectives
        return StreamTimes(kernels, collectives, exchanges, self.launches + other.launches)

    def scaled(self, count: float) -> StreamTimes:
        """Return the times of `count` repetitions."""
        kernels, collectives, exchanges = self.kernels, self.collectives, self.expert_all_to_alls
        return StreamTimes(count * kernels, count * collectives, count * exchanges, count * self.launches)


NO_TIME = StreamTimes()
BLOCKING = (Collective, HostTransfer, HostTime)  # operators that the kernels behind them wait for
_REPEATED = (AttentionKernel, Collective, Elementwise, Gemm)  # operators that may represent several calls


def seconds_of(timed: TimedOperator, perturbations: Perturbations) -> Seconds:
    """Return an operator's time, perturbed within its family's spread at the time of one call [s]."""
    seconds, operator = timed.time.seconds, timed.operator
    perturbation = None if perturbations is None else perturbations.get(operator.family)
    if perturbation is None:
        return seconds
    calls = operator.calls if isinstance(operator, _REPEATED) else 1.0
    one_call = seconds if is_single(calls) and calls == 1 else seconds / maximum(calls, 1.0)
    perturbed = seconds * timed.fit.ratio(timed.time, one_call, perturbation.low, perturbation.high)
    return perturbed if is_single(timed.least) and timed.least == 0.0 else maximum(perturbed, timed.least)


def exposed_seconds(
    operators: Iterable[TimedOperator], perturbations: Perturbations
) -> Iterator[tuple[TimedOperator, Seconds]]:
    """Yield each operator of a pass with its exposed time: what no other operator of the pass hides [s].

    Messages that overlap the attention kernels just before them, such as the c-1 sends of ring attention:

        max(0, t - overlap * t_attention)

    Tensor-parallel messages that overlap a GEMM, in n chunks of which the first is exposed, or unchunked:

        max(t - t_gemm, t / n)   or   max(t - t_gemm, 0)
    """
    attention: Quantity = 0.0
    after_message = False  # the next attention kernel starts a new sum
    for timed in operators:
        seconds, operator = seconds_of(timed, perturbations), timed.operator
        if isinstance(operator, AttentionKernel):
            attention, after_message = (seconds if after_message else attention + seconds), False
        elif isinstance(operator, Collective) and not (
            is_single(operator.attention_overlap) and operator.attention_overlap == 0
        ):
            seconds, after_message = maximum(seconds - operator.attention_overlap * attention, 0.0), True
        elif isinstance(operator, Collective) and timed.overlapped_gemm is not None:
            gemm, chunks = seconds_of(timed.overlapped_gemm, perturbations), maximum(operator.chunks, 1.0)
            seconds = maximum(seconds - gemm, where(operator.chunks > 0, seconds / chunks, 0.0))
        yield timed, seconds


def stream_times(
    operators: Iterable[TimedOperator], perturbations: Perturbations, *, graphs: bool = False
) -> StreamTimes:
    """Return the exposed times of operators, added up per stream.

    graphs: a CUDA graph holds them all, unless they compute routed experts, whose rows only the device knows.
    """
    kernels: Quantity = 0.0
    collectives: Quantity = 0.0
    all_to_alls: Quantity = 0.0
    launches: Quantity = 0.0
    for timed, seconds in exposed_seconds(operators, perturbations):
        operator = timed.operator
        starts = operator.starts if isinstance(operator, Gemm) else 1.0
        graphs = graphs and not (isinstance(operator, Gemm) and operator.is_of_experts)
        starts = operator.calls if isinstance(operator, Elementwise) else starts
        runs: Any = timed.time.seconds > 0
        launches = launches + starts * runs
        if isinstance(operator, ExpertAllToAll):
            all_to_alls = all_to_alls + seconds
        elif isinstance(operator, BLOCKING):
            collectives = collectives + seconds
        else:
            kernels = kernels + seconds
    return StreamTimes(kernels, collectives, all_to_alls, minimum(launches, 1.0) if graphs else launches)


# ---- What evaluations of all phases share ----------------------------------------------------------------------------

T = TypeVar("T")


class PhaseEvaluation(ABC, Generic[T]):
    """The evaluation of a phase with times of type T, without a pipeline schedule, notes or anchors."""

    anchored: Anchored | None = None

    @abstractmethod
    def _evaluate(self, perturbations: Perturbations) -> T:
        """Return the times of the phase."""

    @abstractmethod
    def operators(self) -> list[TimedOperator]:
        """Return every distinct operator, in the order of a pass."""

    def times(self, perturbations: Perturbations = None) -> T:
        """Return the times with families perturbed within their spread. Without perturbations they are kept."""
        return self._unperturbed if perturbations is None else self._evaluate(perturbations)

    @cached_property
    def _unperturbed(self) -> T:
        return self._evaluate(None)

    def families(self) -> frozenset[str]:
        """Return the families of the operators."""
        return frozenset(timed.operator.family for timed in self.operators())

    def schedule(self, perturbations: Perturbations = None) -> Mapping[str, Quantity] | None:  # noqa: ARG002  the protocol's signature
        """Return nothing: only a training step has a schedule."""
        return None

    def details(self) -> Mapping[str, object]:
        """Return nothing: what results hold beside metrics, by the keys of the document."""
        return {}

    def verdict(self) -> str | None:
        """Return nothing: only serving keeps up with a load, or does not."""
        return None

    def percentiles(self) -> Mapping[str, Mapping[str, float]] | None:
        """Return nothing: only serving has requests that differ."""
        return None

    def notes(self) -> tuple[str, ...]:
        """Return nothing."""
        return ()
