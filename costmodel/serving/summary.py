"""Metrics of requests that were served."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from costmodel.quantities import Array
from costmodel.records import Record, replace
from costmodel.serving.availability import OFF, Fleet
from costmodel.serving.distributions import Histogram, Sample, Served
from costmodel.serving.rows import Records
from costmodel.serving.state import GAPS_PER_FACTOR_E, SHORTEST_GAP, Engines, Policy
from costmodel.workload.requests import RequestClass, Slo

QUANTILES = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99}
GROWING = 0.05  # of waiting time per time of arrival: requests exceed what is served by 5 %
MOST = 0.5  # of the requests: where more of them wait, a run is backlogged, as in the closed form
AHEAD = 3.0  # prompts: of the step that runs, of one already decided on, of another request; who waits longer queues

Percentiles = Mapping[str, Mapping[str, float]]


class RequestTimes(Record):
    """Times of each request [s]. tpot: mean per token after the first, NaN for a request of one token."""

    ttft: Array
    tpot: Array
    e2e: Array
    wait: Array


def request_times(served: Served) -> RequestTimes:
    """Return the times of each request since its client sent it. Waiting is for engines, and for links between them.

    The first token is there with its step, or when the engine that decodes has the prompt's cache and starts a step.
    """
    requests = served.requests
    arrival, prompt, finish, joined = (requests[name] for name in ("arrival", "first", "finish", "joined"))
    moved = np.isfinite(joined)
    first = np.where(moved, joined, prompt)
    later = requests["output"] - 1
    tpot = np.divide(finish - first, later, out=np.full(len(later), np.nan), where=later > 0)
    joining = np.where(moved, joined - prompt - transfers(served), 0.0)
    return RequestTimes(
        first - arrival + served.front_end, tpot, finish - arrival + served.front_end,
        requests["scheduled"] - arrival + joining,
    )  # fmt: skip


def transfers(served: Served) -> Array:
    """Return how long a link sends each prompt's cache to the engine that decodes, 0 where the same one does [s]."""
    fleet, prompt = served.fleet, served.requests["prompt"]
    return np.where(np.isfinite(served.requests["joined"]), prompt * fleet.token_time + fleet.latency, 0.0)


class Tally:
    """Sums and distributions of the requests of a run, which add up over parts of it.

    kind: of distributions.
    times: of the requests that were served, by their field of `RequestTimes`.
    sums: over them, by name.
    arrived: requests, those that were rejected too.
    arrivals: first and last one of all [s].
    first: arrival of those that were served [s].
    end: last token of all [s].
    classes: the same of each class of requests, whose objectives are their own.
    kinds: the same of each kind of engines that served them, none where all are equal.
    """

    def __init__(
        self, slo: Slo, kind: type[Sample] | type[Histogram], classes: Sequence[RequestClass] = (), kinds: int = 0
    ) -> None:  # fmt: skip
        self.kinds = [Tally(slo, kind) for _ in range(kinds)]
        self.classes = {each.name: Tally(each.slo or slo, kind) for each in classes}
        self._slo, self.times = slo, {name: kind() for name in ("ttft", "tpot", "e2e", "wait")}
        self.sums, self.arrived, self.served = dict.fromkeys(SUMS, 0.0), 0, 0
        self.arrivals, self.first, self.end = (np.inf, -np.inf), np.inf, -np.inf
        self._mean_arrival, self._mean_wait, self._across, self._together = 0.0, 0.0, 0.0, 0.0

    @classmethod
    def of(cls, served: Served, slo: Slo, classes: Sequence[RequestClass] = (), kinds: int = 0) -> Tally:
        """Return the tally of a whole run, with every time."""
        tally = cls(slo, Sample, classes, kinds)
        tally.add(served)
        return tally

    def add(self, served: Served) -> None:
        """Add requests that are over."""
        arrival = served.requests["arrival"]
        if not len(arrival):
            return
        self.arrived += len(arrival)
        self.arrivals = (
            min(self.arrivals[0], float(arrival.min())), max(self.arrivals[1], float(arrival.max()))
        )  # fmt: skip
        done = served.done
        if not len(done.requests):
            return
        requests, times = done.requests, request_times(done)
        for name, distribution in self.times.items():
            distribution.add(getattr(times, name))
        for name, value in _sums(done, times, self._slo).items():
            self.sums[name] += value
        for number, each in enumerate(self.classes.values()):
            each.add(served.of(served.requests["kind"] == number))
        own = done.fleet.members["kind"][requests["replica"]]
        for number, part in enumerate(self.kinds):
            part.add(done.of(np.asarray(own == number)))
        if self.classes:
            self.sums["good"] = sum(each.sums["good"] for each in self.classes.values())
        self.first = min(self.first, float(requests["arrival"].min()))
        self.end = max(self.end, float(requests["finish"].max()))
        self._add_moments(requests["arrival"], times.wait)
        self.served += len(requests)

    def _add_moments(self, arrival: Array, wait: Array) -> None:
        """Add what the slope of waiting over arrival needs [Chan et al., The American Statistician 37(3), 1983]."""
        spread, number = arrival - arrival.mean(), len(arrival)
        share = number / (self.served + number)
        later, longer = float(arrival.mean()) - self._mean_arrival, float(wait.mean()) - self._mean_wait
        self._across += float(spread @ spread) + later * later * self.served * share
        self._together += float(spread @ wait) + later * longer * self.served * share
        self._mean_arrival += later * share
        self._mean_wait += longer * share

    @property
    def slope(self) -> float:
        """Return the growth of waiting time per time of arrival."""
        return self._together / self._across if self._across > 0 else 0.0

    @property
    def duration(self) -> float:
        """Return the time from the first arrival to the last token [s]."""
        return self.end - self.first

    def mean(self, name: str) -> float:
        """Return the mean of what `sums` has."""
        return self.sums[name] / self.served

    @property
    def arrival_rate(self) -> float | None:
        """Return the rate at which requests arrive, those that are rejected too [1/s], null where all come at once."""
        span = self.arrivals[1] - self.arrivals[0]
        return (self.arrived - 1) / span if span > 0 else None


SUMS = (
    "input_tokens", "output_tokens", "cached_tokens", "queue_time", "wait_time", "prompt_time", "front_end", "transfer",
    "good",
)  # fmt: skip


def _sums(done: Served, times: RequestTimes, slo: Slo) -> dict[str, float]:
    """Return sums over requests that were served, by the names of `SUMS`."""
    requests = done.requests
    values = (
        requests["prompt"], requests["output"], requests["hit"], requests["queued"] - requests["arrival"],
        requests["scheduled"] - requests["arrival"], requests["first"] - requests["scheduled"], done.front_end,
        transfers(done), within(times, slo),
    )  # fmt: skip
    return {name: float(each.sum()) for name, each in zip(SUMS, values, strict=True)}


class Outcome(Record, kw_only=True):
    """What became of a run: of its requests, its engines and its fleet."""

    tally: Tally
    engines: Engines
    policy: Policy
    fleet: Fleet

    @classmethod
    def of(cls, served: Served, tally: Tally) -> Outcome:
        """Return what became of a run whose last requests are `served`."""
        return cls(tally=tally, engines=served.engines, policy=served.policy, fleet=served.fleet)

    def of_kind(self, kind: int) -> Outcome:
        """Return what became of the engines of a kind, and of the requests that they served."""
        own = self.fleet.members["kind"] == kind
        fleet = self.fleet._replace(members=self.fleet.members[own])
        return replace(
            self, tally=self.tally.kinds[kind], engines=Engines(*(rows[own] for rows in self.engines)), fleet=fleet
        )

    @property
    def rented(self) -> float:
        """Return for how long engines were paid for, all together [s]."""
        end, members = max(self.tally.end, 0.0), self.fleet.members
        still = np.where(members["status"] == OFF, 0.0, np.maximum(end - members["since"], 0.0))
        return float(np.sum(members["rented"] + still))


def percentiles(tally: Tally, gaps: Array) -> Percentiles:
    """Return the percentiles of requests' times, and of gaps between tokens: those from bins 1 % wide.

    gaps: tokens by their bins, a row for each engine.
    """
    known = {
        name: {key: each.quantile(share) for key, share in QUANTILES.items()}
        for name, each in tally.times.items()
        if name != "wait" and each.count
    }
    return known | {"itl": gap_percentiles(gaps.sum(axis=0))}


def of_classes(tally: Tally, rate: float, parts: Mapping[str, Tally] | None = None) -> dict[str, dict[str, Any]]:
    """Return what became of each class of requests, all of which come at a rate, by its name.

    share = arrived / all.arrived
    attainment = good / arrived                  those that were turned away are not within the objective
    goodput = rate * good / all.served           which add up to that of all

    parts: of the requests, instead of the classes.
    """
    known = {}
    for name, each in (tally.classes if parts is None else parts).items():
        means = {key: each.times[time].mean if each.times[time].count else None for key, time in _MEANS.items()}
        lengths = {key: each.mean(key) if each.served else None for key in ("input_tokens", "output_tokens")}
        known[name] = {
            "share": each.arrived / tally.arrived, **lengths, **means,
            "attainment": each.sums["good"] / each.arrived if each.arrived else None,
            "goodput": rate * each.sums["good"] / tally.served,
        }  # fmt: skip
    return known


_MEANS = {"ttft": "ttft", "tpot": "tpot", "latency": "e2e"}  # of a class -> of its tally


def gap_percentiles(gaps: Array) -> dict[str, float]:
    """Return the percentiles of gaps between tokens. Each is the middle of its bin."""
    total = np.cumsum(gaps)
    if total[-1] == 0:
        return {}
    places = {key: int(np.searchsorted(total, share * total[-1])) for key, share in QUANTILES.items()}
    return {key: float(SHORTEST_GAP * np.exp((index + 0.5) / GAPS_PER_FACTOR_E)) for key, index in places.items()}


def within(times: RequestTimes, slo: Slo) -> Array:
    """Return 1 for each request within the objective, else 0."""
    good = np.ones(len(times.ttft), dtype=bool)
    for limit, values in ((slo.ttft, times.ttft), (slo.tpot, times.tpot), (slo.e2e, times.e2e)):
        if limit is not None:
            good &= ~(values > float(limit))
    return good.astype(np.float64)


def verdict(tally: Tally) -> str:
    """Return `overloaded` where waiting grows with arrival, `backlogged` where most requests queue, else `stable`.

    At load rho > 1 a queue's waiting time grows by 1 - 1/rho per time of arrival, be it that of an engine or, where
    prompts are computed separately, of a link or an engine that decodes. One queues that waits longer than
    three prompts take on average, each from its first computed token to its first returned one: the steps with prompts
    that may run, are decided on already and come before it on an engine that has seats left.
    """
    if tally.slope > GROWING:
        return "overloaded"
    return "backlogged" if tally.times["wait"].share_above(AHEAD * tally.mean("prompt_time")) > MOST else "stable"


def changes(run: Outcome) -> dict[str, float]:
    """Return what failures, an autoscaler and a full queue did: requests that lost their engine, requests that were
    rejected, failures at random, and the engines that were paid for on average.
    """
    state, end = run.fleet.state, run.tally.end
    return {
        "lost_requests": float(state["lost"][0]),
        "rejected_requests": float(state["rejected"][0]),
        "breakdowns": float(state["failures"][0]),
        "engines": run.rented / end if end > 0 else float(len(run.engines.state)),
    }


def sums(occupancy: Records) -> dict[str, float]:
    """Return the sums of all fields over engines and bins of time."""
    fields = occupancy.dtype.names or ()
    return dict(zip(fields, occupancy.view(np.float64).reshape(-1, len(fields)).sum(axis=0).tolist(), strict=True))


def totals(run: Outcome) -> dict[str, float]:
    """Return sums and means over the run.

    busy_share: of all engines' time.
    running: requests of an engine while it is busy.
    kv_use: share of blocks then.
    """
    tally, state, occupancy = run.tally, run.engines.state, sums(run.engines.occupancy)
    busy = max(occupancy["busy"], 1e-300)
    used = (run.engines.occupancy["blocks"].sum(axis=1) / run.fleet.members["blocks"]).sum()
    return {
        "requests": float(tally.served),
        "duration": tally.duration,
        "input_tokens": tally.sums["input_tokens"],
        "output_tokens": tally.sums["output_tokens"],
        "cached_tokens": tally.sums["cached_tokens"],
        "preemptions": float(state["preemptions"].sum()),
        "recomputed_tokens": float(state["recomputed"].sum()),
        "swapped_tokens": float(state["swapped_out"].sum()),
        "loaded_tokens": float(state["loaded"].sum()),
        "steps": float(state["steps"].sum()),
        "busy_share": occupancy["busy"] / max(run.rented, 1e-300),
        "running": occupancy["requests"] / busy,
        "kv_use": float(used) / busy,
        "queue_time": tally.mean("queue_time"),
        "wait_time": tally.mean("wait_time"),
    }
