"""Metrics of requests that were served."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from costmodel.quantities import Array
from costmodel.records import Record
from costmodel.serving.rows import Records
from costmodel.serving.simulation import Served
from costmodel.serving.state import GAPS_PER_FACTOR_E, SHORTEST_GAP
from costmodel.workload.requests import Slo

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
    """Return the times of each request since its client sent it. Waiting is for engines, and for links between them."""
    requests = served.requests
    arrival, first, finish, joined = (requests[name] for name in ("arrival", "first", "finish", "joined"))
    later = requests["output"] - 1
    tpot = np.divide(finish - first, later, out=np.full(len(later), np.nan), where=later > 0)
    joining = np.where(np.isfinite(joined), joined - first - transfers(served), 0.0)
    return RequestTimes(
        first - arrival + served.front_end, tpot, finish - arrival + served.front_end,
        requests["scheduled"] - arrival + joining,
    )  # fmt: skip


def transfers(served: Served) -> Array:
    """Return how long a link sends each prompt's cache to the engine that decodes, 0 where the same one does [s]."""
    fleet, prompt = served.fleet, served.requests["prompt"]
    return np.where(np.isfinite(served.requests["joined"]), prompt * fleet.token_time + fleet.latency, 0.0)


def percentiles(served: Served, times: RequestTimes) -> Percentiles:
    """Return the percentiles of requests' times, and of gaps between tokens: those from bins 1 % wide."""
    values = {"ttft": times.ttft, "tpot": times.tpot[np.isfinite(times.tpot)], "e2e": times.e2e}
    exact = {
        name: {key: float(np.quantile(each, share)) for key, share in QUANTILES.items()}
        for name, each in values.items()
        if len(each)
    }
    return exact | {"itl": gap_percentiles(served.engines.gaps.sum(axis=0))}


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


def duration(served: Served) -> float:
    """Return the time from the first arrival to the last token [s]."""
    return float(served.requests["finish"].max() - served.requests["arrival"].min())


def arrival_rate(served: Served) -> float | None:
    """Return the rate at which requests arrive, those that are rejected too [1/s], null where all come at once."""
    arrival = served.requests["arrival"]
    span = float(arrival.max() - arrival.min())
    return (len(arrival) - 1) / span if span > 0 else None


def verdict(served: Served, times: RequestTimes) -> str:
    """Return `overloaded` where waiting grows with arrival, `backlogged` where most requests queue, else `stable`.

    At load rho > 1 a queue's waiting time grows by 1 - 1/rho per time of arrival, be it that of an engine or, where
    prompts are computed separately, of a link or an engine that decodes. One queues that waits longer than
    three prompts take on average, each from its first computed token to its first returned one: the steps with prompts
    that may run, are decided on already and come before it on an engine that has seats left.
    """
    arrival = served.requests["arrival"]
    spread = arrival - arrival.mean()
    across = float(spread @ spread)
    slope = float(spread @ times.wait) / across if across > 0 else 0.0
    if slope > GROWING:
        return "overloaded"
    prompt = float(np.mean(served.requests["first"] - served.requests["scheduled"]))
    return "backlogged" if float(np.mean(times.wait > AHEAD * prompt)) > MOST else "stable"


def changes(served: Served) -> dict[str, float]:
    """Return what failures, an autoscaler and a full queue did: requests that lost their engine, requests that were
    rejected, failures at random, and the engines that were paid for on average.
    """
    state = served.fleet.state
    end = float(np.nanmax(served.requests["finish"]))
    return {
        "lost_requests": float(state["lost"][0]),
        "rejected_requests": float(state["rejected"][0]),
        "breakdowns": float(state["failures"][0]),
        "engines": served.rented / end if end > 0 else float(len(served.engines.state)),
    }


def sums(occupancy: Records) -> dict[str, float]:
    """Return the sums of all fields over engines and bins of time."""
    fields = occupancy.dtype.names or ()
    return dict(zip(fields, occupancy.view(np.float64).reshape(-1, len(fields)).sum(axis=0).tolist(), strict=True))


def totals(served: Served) -> dict[str, float]:
    """Return sums and means over the run.

    busy_share: of all engines' time.
    running: requests of an engine while it is busy.
    kv_use: share of blocks then.
    """
    requests, state, elapsed = served.requests, served.engines.state, duration(served)
    occupancy = sums(served.engines.occupancy)
    busy = max(occupancy["busy"], 1e-300)
    return {
        "requests": float(len(requests)),
        "duration": elapsed,
        "input_tokens": float(requests["prompt"].sum()),
        "output_tokens": float(requests["output"].sum()),
        "cached_tokens": float(requests["hit"].sum()),
        "preemptions": float(state["preemptions"].sum()),
        "recomputed_tokens": float(state["recomputed"].sum()),
        "swapped_tokens": float(state["swapped_out"].sum()),
        "loaded_tokens": float(state["loaded"].sum()),
        "steps": float(state["steps"].sum()),
        "busy_share": occupancy["busy"] / max(served.rented, 1e-300),
        "running": occupancy["requests"] / busy,
        "kv_use": occupancy["blocks"] / busy / served.policy.blocks,
        "queue_time": float(np.mean(requests["queued"] - requests["arrival"])),
        "wait_time": float(np.mean(requests["scheduled"] - requests["arrival"])),
    }
