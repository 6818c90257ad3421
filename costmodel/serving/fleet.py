"""Several engines: one after the other where requests are dealt out beforehand, in step with arrivals otherwise."""

from __future__ import annotations

from costmodel.serving.compiled import inner
from costmodel.serving.engine import enqueue
from costmodel.serving.loop import advance
from costmodel.serving.prices import Tables
from costmodel.serving.state import REPLICA, Engine, Policy, Progress, Requests


@inner
def engine_of(fleet: Engine, replica: int) -> Engine:
    """Return one engine: views of its rows."""
    return Engine(
        fleet.clock[replica], fleet.count[replica], fleet.list[replica], fleet.phase[replica], fleet.entry[replica],
        fleet.place[replica], fleet.step[replica], fleet.gaps[replica], fleet.occupancy[replica],
    )  # fmt: skip


@inner
def deal_out(requests: Requests, progress: Progress, fleet: Engine) -> None:
    """Queue all requests at their engines."""
    for request in range(len(requests.arrival)):
        enqueue(requests, progress, engine_of(fleet, progress.count[request, REPLICA]), request)


def run_apart(
    requests: Requests, progress: Progress, fleet: Engine, policy: Policy, tables: Tables, until: float
) -> int:
    """Run each engine over the requests that it was given; return one that is stuck, -1: none."""
    deal_out(requests, progress, fleet)
    for replica in range(len(fleet.clock)):
        if advance(requests, progress, engine_of(fleet, replica), policy, tables, until):
            return replica
    return -1
