"""Flows over time: they arrive, share links fairly, and complete."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from costmodel.errors import InfeasibleError, InputError
from costmodel.network.sharing import Incidence, check_plain, fair_rates
from costmodel.quantities import Array, Bytes, Seconds

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


class FlowSession:
    """Flows that are added while others run, for an engine with a clock of its own.

    capacity: of each link [B/s]. `add` flows, ask for `next_completion`, `advance` to it or to any earlier time.
    """

    def __init__(self, capacity: Array) -> None:
        self._capacity = capacity
        self._links: dict[int, tuple[Array, Array]] = {}
        self._left: dict[int, float] = {}
        self._rates: dict[int, float] | None = None
        self._number = 0
        self.now: float = 0.0

    def add(self, links: Sequence[int], size: Bytes, weights: Sequence[float] | None = None) -> int:
        """Start a flow of `size` [B] over `links` now and return its number."""
        if not np.isfinite(size) or size < 0:
            raise InputError.single("a flow's size is negative or not a number")
        self._number += 1
        load = np.ones(len(links)) if weights is None else np.asarray(weights, float)
        self._links[self._number] = (np.asarray(links, np.int32), load)
        self._left[self._number] = float(size)
        self._rates = None
        return self._number

    def next_completion(self) -> Seconds | None:
        """Return when the next flow completes if none is added [s]; null where none runs."""
        rates = self._shared()
        ends = [self._left[flow] / rate if self._left[flow] else 0.0 for flow, rate in rates.items()]
        return self.now + min(ends) if ends else None

    def advance(self, to: Seconds) -> list[int]:
        """Let the flows run until `to` [s], at most the next completion, and return those that have completed."""
        following = self.next_completion()
        if to < self.now:
            raise InputError.single(f"the flows are at {self.now:g} s and cannot go back to {float(to):g} s")
        if following is not None and to > following * (1 + TIE):
            raise InputError.single(
                f"a flow completes at {float(following):g} s, before {float(to):g} s", hint="advance to it first"
            )
        done = []
        for flow, rate in self._shared().items():
            end = self.now + (self._left[flow] / rate if self._left[flow] else 0.0)
            if end <= to * (1 + TIE):
                done.append(flow)
            else:
                self._left[flow] -= rate * (float(to) - self.now)
        self.now = float(to)
        for flow in done:
            del self._links[flow], self._left[flow]
        if done:
            self._rates = None
        return done

    def _shared(self) -> dict[int, float]:
        """Return the rate of each flow that runs [B/s]."""
        if self._rates is None:
            parts = list(self._links.values())
            start = np.concatenate(([0], np.cumsum([len(links) for links, _ in parts], dtype=np.int64)))
            links = np.concatenate([links for links, _ in parts]) if parts else np.empty(0, np.int32)
            weights = np.concatenate([load for _, load in parts]) if parts else np.empty(0)
            rates = fair_rates(Incidence(start, links.astype(np.int32), weights, self._capacity))
            self._rates = dict(zip(self._links, map(float, rates), strict=True))
        return self._rates
