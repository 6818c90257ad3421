"""Flows over time: they arrive, share links fairly, and complete."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from costmodel.errors import InfeasibleError, InputError
from costmodel.network.sharing import Incidence, check_plain, fair_rates
from costmodel.quantities import Array

TIE = 1e-12  # completions that differ by less are one event


@dataclass(frozen=True, slots=True, eq=False)
class Completed:
    """When each flow completed [s], and the bytes that each link carried [B]."""

    finish: Array
    carried: Array

    @property
    def makespan(self) -> float:
        """Return when the last flow completed [s]; zero without flows."""
        return float(self.finish.max(initial=0.0))


def run_flows(incidence: Incidence, sizes: Array, starts: Array | None = None, *, batch: float = 0.0) -> Completed:
    """Return the completion of flows of `sizes` [B] that arrive at `starts` [s] (default: all at once).

    Between two arrivals or completions rates are constant and max-min fair. batch: completions within this share of the
    time since the start, or of this share of the flows, count as one event: each flow still completes at its own time,
    but what it leaves is shared anew only at the end of the batch, so that the makespan errs to the long side.
    """
    _check(incidence, sizes, starts)
    finish = np.zeros(len(sizes)) if starts is None else starts.astype(float)
    waiting = np.zeros(len(sizes)) if starts is None else starts.astype(float)
    open_, left = np.flatnonzero(sizes > 0), sizes[sizes > 0].astype(float)
    part = incidence.only(sizes > 0)
    now = float(waiting[open_].min(initial=0.0)) if len(open_) else 0.0
    while len(open_):
        arrived = waiting[open_] <= now
        upcoming = float(waiting[open_[~arrived]].min(initial=np.inf)) if not arrived.all() else np.inf
        if not arrived.any():
            now = upcoming
            continue
        rates = np.zeros(len(open_))
        rates[arrived] = fair_rates(part if arrived.all() else part.only(arrived))
        with np.errstate(divide="ignore"):
            ends = np.where(rates > 0, now + left / rates, np.inf)
        first = float(ends.min())
        if not np.isfinite(min(first, upcoming)):
            raise InfeasibleError("flows are left that no link lets through")
        several = np.partition(ends, int(batch * len(ends)))[int(batch * len(ends))] if batch else first
        horizon = min(max(first * (1 + batch), float(several)), upcoming)
        done = ends <= horizon * (1 + TIE)
        finish[open_[done]] = ends[done]
        left = left - np.where(np.isfinite(rates), rates, 0.0) * (horizon - now)
        now = horizon
        if done.any():
            open_, left = open_[~done], np.maximum(left[~done], 0.0)
            part = part.only(~done)
    return Completed(finish, incidence.load(sizes.astype(float)))


def _check(incidence: Incidence, sizes: Array, starts: Array | None) -> None:
    for what, values in (("size", sizes), ("start", starts)):
        if values is None:
            continue
        if len(values) != incidence.flows:
            raise InputError.single(f"{len(values):,} flows have a {what}, {incidence.flows:,} have links")
        if not (np.isfinite(values).all() and (values >= 0).all()):
            raise InputError.single(f"a flow's {what} is negative or not a number")
    check_plain(incidence.flows)
