"""Flows over time: they arrive, share links fairly, and complete."""

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


def run_flows(incidence: Incidence, sizes: Array, starts: Array | None = None, *, batch: float = 0.0) -> Completed:
    """Return the completion of flows of `sizes` [B] that arrive at `starts` [s] (default: all at once).

    Between two arrivals or completions rates are constant and max-min fair. batch: completions within this share of the
    time since the start, or of this share of the flows, count as one event. Each flow still completes at its own time,
    but what it leaves is shared anew only at the end of the batch, so that the makespan errs to the long side.
    """
    _check(incidence, sizes, starts)
    arrivals = np.zeros(len(sizes)) if starts is None else starts.astype(float)
    finish = arrivals.copy()
    active, remaining = np.flatnonzero(sizes > 0), sizes[sizes > 0].astype(float)
    part = incidence.select(sizes > 0)
    now = float(arrivals[active].min(initial=0.0)) if len(active) else 0.0
    while len(active):
        arrived = arrivals[active] <= now
        upcoming = float(arrivals[active[~arrived]].min(initial=np.inf)) if not arrived.all() else np.inf
        if not arrived.any():
            now = upcoming
            continue
        rates = np.zeros(len(active))
        rates[arrived] = fair_rates(part if arrived.all() else part.select(arrived))
        with np.errstate(divide="ignore"):
            ends = np.where(rates > 0, now + remaining / rates, np.inf)
        first = float(ends.min())
        if not np.isfinite(min(first, upcoming)):
            raise InfeasibleError("flows remain that no link lets through")
        batch_end = np.partition(ends, int(batch * len(ends)))[int(batch * len(ends))] if batch else first
        horizon = min(max(first * (1 + batch), float(batch_end)), upcoming)
        done = ends <= horizon * (1 + TIE)
        finish[active[done]] = ends[done]
        remaining = remaining - np.where(np.isfinite(rates), rates, 0.0) * (horizon - now)
        now = horizon
        if done.any():
            active, remaining = active[~done], np.maximum(remaining[~done], 0.0)
            part = part.select(~done)
    return Completed(finish, incidence.load(sizes.astype(float)))


def _check(incidence: Incidence, sizes: Array, starts: Array | None) -> None:
    for name, values in (("size", sizes), ("start", starts)):
        if values is None:
            continue
        if len(values) != incidence.flows:
            raise InputError.single(f"{len(values):,} flows have a {name}, {incidence.flows:,} have links")
        if not (np.isfinite(values).all() and (values >= 0).all()):
            raise InputError.single(f"a flow's {name} is negative or not a number")
    check_flow_count(incidence.flows)
