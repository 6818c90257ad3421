"""What evaluations of all phases share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import cached_property
from typing import Generic, TypeVar

from costmodel.analytic.anchors import Anchored
from costmodel.analytic.operator_timing import TimedOperator
from costmodel.analytic.stream_times import Perturbations
from costmodel.quantities import Quantity

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
