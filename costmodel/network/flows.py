"""Flows over time: they share links fairly, and complete."""

from __future__ import annotations

import numpy as np

from costmodel.errors import InfeasibleError, InputError
from costmodel.network.sharing import Incidence, check_flow_count, fair_rates
from costmodel.quantities import Array
from costmodel.records import Record

TIE = 1e-12  # completions that differ by less are one event


class Completed(Record):
    """When each flow completed [s], and the bytes that each link carried [B]."""

    finish: Array
    carried: Array

    @property
    def makespan(self) -> float:
        """Return when the last flow completed [s], zero without flows."""
        return float(self.finish.max(initial=0.0))


def run_flows(incidence: Incidence, sizes: Array, *, batch: float = 0.0) -> Completed:
    """Return the completion of flows of `sizes` [B] that start together.

    Between two completions rates are constant and max-min fair. batch: completions within this share of the time since
    the start, or of this share of the flows, count as one event. Each flow still completes at its own time, but what it
    leaves is shared anew only at the end of the batch, so that the makespan errs to the long side.
    """
    _check(incidence, sizes)
    finish = np.zeros(len(sizes))
    active, remaining = np.flatnonzero(sizes > 0), sizes[sizes > 0].astype(float)
    part = incidence.select(sizes > 0)
    now = 0.0
    while len(active):
        rates = fair_rates(part)
        with np.errstate(divide="ignore"):
            ends = np.where(rates > 0, now + remaining / rates, np.inf)
        first = float(ends.min())
        if not np.isfinite(first):
            raise InfeasibleError("flows remain that no link lets through")
        batch_end = np.partition(ends, int(batch * len(ends)))[int(batch * len(ends))] if batch else first
        horizon = max(first * (1 + batch), float(batch_end))
        done = ends <= horizon * (1 + TIE)
        finish[active[done]] = ends[done]
        remaining = remaining - np.where(np.isfinite(rates), rates, 0.0) * (horizon - now)
        now = horizon
        active, remaining = active[~done], np.maximum(remaining[~done], 0.0)
        part = part.select(~done)
    return Completed(finish, incidence.load(sizes.astype(float)))


def _check(incidence: Incidence, sizes: Array) -> None:
    if len(sizes) != incidence.flows:
        raise InputError.single(f"{len(sizes):,} flows have a size, {incidence.flows:,} have links")
    if not (np.isfinite(sizes).all() and (sizes >= 0).all()):
        raise InputError.single("a flow's size is negative or not a number")
    check_flow_count(incidence.flows)
