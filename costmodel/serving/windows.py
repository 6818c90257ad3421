"""Long runs in windows: requests that are over leave, and the next ones come.

Rows of requests are numbered from 0 in every window, in order of arrival. So a window holds those that are under way,
and those that arrive until its end; it grows where more and more of them wait.
"""

from __future__ import annotations

import numpy as np

from costmodel.network.sharing import Flags
from costmodel.quantities import Array
from costmodel.serving.deployment import deal_out
from costmodel.serving.routing import Call, Router, Service
from costmodel.serving.rows import Records
from costmodel.serving.state import ANONYMOUS, NONE_AT_FIRST, Calls, Paths


def under_way(service: Service) -> Flags:
    """Tell which requests are still to be served, or hold a seat of their engine."""
    requests, engines = service.requests, service.engines
    stays: Flags = np.isnan(requests["finish"]) & (requests["replica"] >= 0)
    seats = np.arange(engines.enders.shape[1]) < engines.state["ending"][:, None]
    stays[engines.enders[seats]] = True
    return stays


def next_window(service: Service, stays: Flags, more: Records, paths: Paths, *, dealt: bool) -> Service:
    """Return a service whose requests are those that stay and some more. paths: of these.

    dealt: each engine's requests are known; else a router sends them there.
    """
    old = service.requests[stays]
    number_of = np.append(np.cumsum(stays) - 1, -1)
    number_of[:-1][~stays] = -1
    kept = service.paths.of(stays)
    old["first_run"], more["first_run"] = kept.first[:-1], more["first_run"] + kept.first[-1]
    for link in ("following", "child"):
        old[link] = number_of[old[link]]
    requests = np.concatenate([old, more])
    _renumber(service, number_of)
    if dealt:
        deal_out(requests, service.engines, len(old))
    return service._replace(
        requests=requests,
        paths=Paths(
            np.concatenate([kept.first[:-1], kept.first[-1] + paths.first]),
            np.concatenate([kept.runs, paths.runs]),
            np.concatenate([kept.blocks, paths.blocks]),
            service.paths.sizes,
        ),
        calls=Calls.none(len(requests)),
        router=_router(service, stays, len(requests), dealt=dealt),
    )


def _renumber(service: Service, number_of: Array) -> None:
    """Let engines and calls name requests by their new numbers. number_of: the old ones, the last one of -1."""
    state, entry = service.engines.state, service.engines.entry
    for field in NONE_AT_FIRST:
        state[field] = number_of[state[field]]
    for chosen in (service.engines.decoders, service.engines.enders, service.engines.starters):
        chosen[...] = number_of[chosen]
    preempted = entry["owner"] < ANONYMOUS
    entry["owner"][preempted] = -2 - number_of[-2 - entry["owner"][preempted]]
    calls = service.router.calls["request"]
    calls[...] = number_of[calls]


def _router(service: Service, stays: Flags, number: int, *, dealt: bool) -> Router:
    """Return the router with room for the calls of so many requests."""
    router, state = service.router, service.router.state
    calls, size = Call.zeros(number), int(state["calls"][0])
    calls[:size] = np.asarray(router.calls)[:size]
    rows = np.asarray(state)
    rows["listed"] = number if dealt else np.count_nonzero(stays[: state["listed"][0]])
    rows["known"] = rows["uncalled"] = rows["openings"] = number
    return router._replace(calls=calls)
