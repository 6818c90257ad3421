"""A deployment as a scenario states it, before the first request arrives."""

from __future__ import annotations

from typing import Any

import numpy as np

from costmodel.errors import InputError
from costmodel.serving.availability import FAILS, MODULUS, OFF, UP, Fleet, draw_gap, next_change
from costmodel.serving.prices import Tables
from costmodel.serving.routing import (
    LEAST_LOADED,
    POWER_OF_TWO,
    PREFIX,
    RANDOM,
    ROUND_ROBIN,
    Service,
    new_router,
)
from costmodel.serving.state import NEVER, PROMPTS_ONLY, REPLICA, Policy, Requests, new_fleet, new_progress
from costmodel.workload.engine_memory import kv_pool
from costmodel.workload.plans import Serving
from costmodel.workload.requests import Replicas, Transfer
from costmodel.workload.scenario import Scenario

KINDS = {
    "round_robin": ROUND_ROBIN, "random": RANDOM, "least_loaded": LEAST_LOADED, "power_of_two": POWER_OF_TWO,
    "prefix": PREFIX,
}  # fmt: skip
BINS = 256  # of an engine's occupancy over time


def replica_count(plan: Serving) -> int:
    """Return the number of replicas, the most that there may be."""
    scale = plan.replicas.autoscale
    return int(plan.replicas.count if scale is None else scale.most)


def engine_count(scenario: Scenario, plan: Serving) -> int:
    """Return the number of engines: replicas, each with its data-parallel groups."""
    return replica_count(plan) * int(scenario.parallel.dp)


def lockstep_of(scenario: Scenario) -> int:
    """Return how many engines step together: the data-parallel groups that share experts."""
    return int(scenario.parallel.lockstep)


def is_fixed(scenario: Scenario, plan: Serving) -> bool:
    """Tell whether every request's engine is known beforehand: requests are dealt out to engines that always serve."""
    replicas = plan.replicas
    changes = (
        replicas.failures
        or replicas.breakdowns is not None
        or replicas.autoscale is not None
        or replicas.max_waiting is not None
    )
    return (
        replicas.routing in ("round_robin", "random")
        and not changes
        and not replicas.prefill
        and lockstep_of(scenario) == 1
    )


def new_service(scenario: Scenario, plan: Serving, requests: Requests, policy: Policy, tables: Tables) -> Service:
    """Return a deployment that has served nothing. The first arrival is at 0."""
    number, count, seed = engine_count(scenario, plan), len(requests.arrival), scenario.simulation.seed
    kind = KINDS[plan.replicas.routing]
    progress, engines = new_progress(requests, policy.order), new_fleet(number, policy, requests, BINS)
    router = new_router(kind, float(plan.replicas.signal_delay), number, count, seed)
    fleet = fleet_of(scenario, plan, number)
    engines.count[: fleet.prefill, PROMPTS_ONLY] = 1
    if is_fixed(scenario, plan):
        turns = np.arange(count) % number
        progress.count[:, REPLICA] = turns if kind == ROUND_ROBIN else router.dice[:, 0]
    return Service(requests, progress, engines, policy, tables, router, fleet)


def fleet_of(scenario: Scenario, plan: Serving, number: int) -> Fleet:
    """Return who serves when, of `number` engines."""
    replicas, scale = plan.replicas, plan.replicas.autoscale
    groups = int(scenario.parallel.dp)  # a failure takes all data-parallel groups of a replica
    outages = sorted(
        (moment, int(failure.replica) * groups + group, ends)
        for failure in replicas.failures
        for group in range(groups)
        for moment, ends in ((float(failure.at), 0), (float(failure.at + failure.lasts), 1))
    )
    at, which, ends = (np.array(column) for column in zip(*outages, strict=True)) if outages else (np.zeros(0),) * 3
    status = np.full(number, UP)
    if scale is not None:
        status[int(scale.least) * groups :] = OFF
    prefill = int(replicas.prefill) * groups
    transfer = transfer_of(scenario, replicas) if prefill else Transfer(bandwidth=1.0)
    pool = kv_pool(scenario, plan)
    token_bytes = float(pool.block_bytes) / float(pool.tokens) * int(scenario.parallel.tp)
    fleet = Fleet(
        status=status, ready=np.zeros(number), since=np.zeros(number), rented=np.zeros(number),
        outage_time=at.astype(np.float64), outage_engine=which.astype(np.int64), outage_ends=ends.astype(np.int64),
        next_outage=np.zeros(1, np.int64), change=np.zeros(1), **_breakdowns(scenario, replicas, number),
        tick=np.array([np.inf if scale is None else float(scale.interval)]),
        interval=0.0 if scale is None else float(scale.interval),
        least=0 if scale is None else int(scale.least) * groups,
        most=number, target=1.0 if scale is None else float(scale.target),
        start_up=0.0 if scale is None else float(scale.start_up),
        max_waiting=int(NEVER) if replicas.max_waiting is None else int(replicas.max_waiting),
        lost=np.zeros(1, np.int64), rejected=np.zeros(1, np.int64), prefill=prefill,
        token_time=token_bytes / float(transfer.bandwidth) if prefill else 0.0,
        latency=float(transfer.latency) if prefill else 0.0, link_free=np.zeros(number),
        lockstep=lockstep_of(scenario),
    )  # fmt: skip
    for replica in range(len(fleet.breakdown)):
        fleet.breakdown[replica, FAILS] = draw_gap(fleet, replica)
    fleet.change[0] = next_change(fleet)
    return fleet


def _breakdowns(scenario: Scenario, replicas: Replicas, number: int) -> dict[str, Any]:
    """Return what makes engines fail at random, as fields of the fleet. number: of engines.

    A replica fails with any of its devices, all data-parallel groups of it.
    """
    random = replicas.breakdowns
    count = 0 if random is None else number // int(scenario.parallel.dp)
    return {
        "breakdown": np.full((count, 2), np.inf),
        "dice": np.random.default_rng([scenario.simulation.seed, 5]).integers(1, MODULUS, count),
        "mtbf": 0.0 if random is None else float(random.device_mtbf) / float(scenario.parallel.all_devices),
        "repair": 0.0 if random is None else float(random.repair),
        "outages": np.zeros(number, np.int64),
        "failures": np.zeros(1, np.int64),
    }


def transfer_of(scenario: Scenario, replicas: Replicas) -> Transfer:
    """Return how prompts' caches move: as stated, else over the NICs of the devices of one engine."""
    if replicas.transfer is not None:
        return replicas.transfer
    nic = scenario.cluster.node.nic
    if nic is None:
        raise InputError.single(
            "prompts' caches have no way to the engines that decode", hint="write `transfer: {bandwidth: 50 GB/s}`",
            field=f"scenarios.{scenario.name}.replicas.transfer",
        )  # fmt: skip
    devices = float(scenario.parallel.devices) / float(scenario.parallel.dp)
    return Transfer(bandwidth=float(nic.bandwidth) * float(nic.per_device) * devices, latency=float(nic.latency or 0.0))
