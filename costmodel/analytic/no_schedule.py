"""What every phase but a training step has none of."""

from __future__ import annotations

from collections.abc import Mapping

from costmodel.analytic.stream_times import Perturbations
from costmodel.quantities import Quantity


class Unscheduled:
    """An evaluation without a pipeline schedule, and with nothing that a reader has to be told."""

    def schedule(self, moves: Perturbations = None) -> Mapping[str, Quantity] | None:  # noqa: ARG002  the protocol's signature
        """Return nothing: only a training step has a schedule."""
        return None

    def notes(self) -> tuple[str, ...]:
        """Return nothing."""
        return ()
