"""A deployment as a scenario states it, before the first request arrives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from costmodel.analytic.serving.cache_transfer import CacheTransfer
from costmodel.cost.calibration import Calibration
from costmodel.errors import InputError
from costmodel.quantities import Array
from costmodel.records import Record
from costmodel.serving.availability import (
    MODULUS,
    OFF,
    UP,
    Breakdown,
    Fleet,
    FleetState,
    Member,
    Outage,
    draw_gap,
    next_change,
)  # fmt: skip
from costmodel.serving.prices import Tables
from costmodel.serving.routing import LEAST_LOADED, POWER_OF_TWO, PREFIX, RANDOM, ROUND_ROBIN, Service, new_router
from costmodel.serving.rows import Records, as_objects
from costmodel.serving.state import NEVER, Engines, Policy, Requests, new_engines, new_records
from costmodel.workload.engine_memory import kv_pool
from costmodel.workload.plans import Serving
from costmodel.workload.pools import Pools
from costmodel.workload.requests import Replicas, Transfer
from costmodel.workload.scenario import Scenario

KINDS = {
    "round_robin": ROUND_ROBIN, "random": RANDOM, "least_loaded": LEAST_LOADED, "power_of_two": POWER_OF_TWO,
    "prefix": PREFIX,
}  # fmt: skip
BINS = 256  # of an engine's occupancy over time


class PromptPool(Record):
    """Engines that compute the prompts of those of another scenario, and the way of caches to these.

    token_time: until a prompt's cache is there, a token [s]. sending: of that, for which the link of an engine that
    sends it is taken; receiving: for which those of all engines that decode are; latency: of a cache [s].
    """

    scenario: Scenario
    plan: Serving
    token_time: float
    sending: float
    receiving: float
    latency: float

    @classmethod
    def of(cls, scenario: Scenario, plan: Pools, calibration: Calibration) -> PromptPool:
        """Return the pool for prompts of two, whose caches cross links as the closed form says.

        token_time = max(size / senders, size / receivers) / bandwidth
        sending = size / senders / bandwidth
        receiving = size / all_receivers / bandwidth
        """
        link = CacheTransfer.of(scenario, plan, calibration)
        whole = float(link.size) / float(plan.input_tokens) / float(link.bandwidth)
        senders, receivers = float(link.senders), float(link.receivers)
        return cls(
            plan.prefill, plan.engines[0], whole / min(senders, receivers), whole / senders,
            whole / (receivers * float(link.engines[1])), float(link.latency),
        )  # fmt: skip

    @property
    def engines(self) -> int:
        """Return how many there are, with data-parallel groups."""
        return engine_count(self.scenario, self.plan)


class Sharers(Record):
    """Engines of another kind that share the requests of a scenario."""

    scenario: Scenario
    plan: Serving

    @property
    def engines(self) -> int:
        """Return how many there are, with data-parallel groups."""
        return engine_count(self.scenario, self.plan)


def replica_count(plan: Serving) -> int:
    """Return the number of replicas, the most that there may be."""
    scale = plan.replicas.autoscale
    return int(plan.replicas.count if scale is None else scale.most)


def engine_count(scenario: Scenario, plan: Serving) -> int:
    """Return the number of engines: replicas, each with its data-parallel groups, of all kinds."""
    return replica_count(plan) * int(scenario.parallel.dp) + sum(
        engine_count(each, each.plan) for each in plan.replicas.others
    )


def kinds_of(plan: Serving) -> int:
    """Return how many kinds of engines share the requests, none where all are equal."""
    return 1 + len(plan.replicas.others) if plan.replicas.others else 0


def weights_of(scenario: Scenario, plan: Serving) -> Array:
    """Return the weight of each engine of all kinds, the scenario's own first."""
    kinds = zip((scenario, *plan.replicas.others), (1.0, *plan.replicas.weights), strict=True)
    own = replica_count(plan) * int(scenario.parallel.dp)
    return np.concatenate([
        np.full(own if each is scenario else engine_count(each, each.plan), float(weight)) for each, weight in kinds
    ])  # fmt: skip


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


class Dice:
    """Gives requests the engines that are known before they arrive, and the dice of routers that draw."""

    def __init__(self, scenario: Scenario, plan: Serving, others: int = 0) -> None:
        self._draw = np.random.default_rng([scenario.simulation.seed, 4])
        self._kind, self._engines = KINDS[plan.replicas.routing], engine_count(scenario, plan) + others
        self._given, self._weights = 0, weights_of(scenario, plan)

    def give(self, requests: Records) -> None:
        """Give the next requests their dice, and an engine as if all of them were dealt out."""
        number = len(requests)
        if self._kind == RANDOM and np.ptp(self._weights):
            requests["die"] = self._draw.choice(self._engines, number, p=self._weights / self._weights.sum())
        elif self._kind in (RANDOM, POWER_OF_TWO):
            requests["die"], requests["other_die"] = self._draw.integers(0, self._engines, (number, 2)).T
        if self._kind == ROUND_ROBIN:
            requests["replica"] = np.arange(self._given, self._given + number) % self._engines
        elif self._kind == RANDOM:
            requests["replica"] = requests["die"]
        self._given += number


Kind: TypeAlias = "tuple[PromptPool | Sharers, Policy, Tables]"  # of engines, their policy and step times


def new_service(  # noqa: PLR0913  engines of several kinds
    scenario: Scenario,
    plan: Serving,
    requests: Requests,
    policy: Policy,
    tables: Tables,
    sizes: npt.NDArray[np.int32] | None = None,
    others: Sequence[Kind] = (),
) -> Service:  # fmt: skip
    """Return a deployment that has served nothing. The first arrival is at 0.

    sizes: of the runs of all requests, where `requests` are only the first of them.
    others: engines of other kinds: those that compute the prompts, or such that share the requests, in the order of
        `replicas.others`.
    """
    pool = next((each for each, _, _ in others if isinstance(each, PromptPool)), None)
    prompts = 0 if pool is None else pool.engines
    number, count = prompts + engine_count(scenario, plan), len(requests.arrival) if sizes is None else None
    paths = requests.paths if sizes is None else requests.paths._replace(sizes=sizes)
    records, first = new_records(requests), number
    places: list[tuple[slice, Policy]] = []
    for each, own, _ in reversed(others):
        last, first = first, first - (0 if isinstance(each, PromptPool) else each.engines)
        places.insert(0, (slice(prompts) if isinstance(each, PromptPool) else slice(first, last), own))
    engines = new_engines(number, policy, paths.sizes, BINS, count, places)
    router = new_router(KINDS[plan.replicas.routing], float(plan.replicas.signal_delay), number, requests)
    fleet = fleet_of(scenario, plan, number, pool)
    engines.state["prompts_only"][: fleet.prefill] = 1
    members = np.asarray(fleet.members)
    members["blocks"], members["weight"][prompts:] = policy.blocks, weights_of(scenario, plan)
    for kind, (rows, own) in enumerate(places, 1):
        members["kind"][rows], members["blocks"][rows] = kind, own.blocks
    kinds = [(policy, tables), *((own, times) for _, own, times in others), (policy, tables)]
    policies, times = zip(*kinds[: max(len(others) + 1, 2)], strict=True)
    service = Service(records, paths, requests.calls, engines, policies, times, router, fleet)
    Dice(scenario, plan, prompts).give(records)
    if is_dealt_out(scenario, plan, service):
        deal_out(records, engines)
        np.asarray(router.state)["listed"] = router.state["known"]
    return service


def is_dealt_out(scenario: Scenario, plan: Serving, service: Service) -> bool:
    """Tell whether every request's engine and arrival are known beforehand."""
    return (
        is_fixed(scenario, plan)
        and service.fleet.prefill == 0
        and bool(service.router.state["known"][0] == len(service.requests))
    )


def deal_out(requests: Records, engines: Engines, first: int = 0) -> None:
    """Queue the requests from `first` on, whose engines are known, at these, behind those that are there."""
    order, state = first + np.argsort(requests["replica"][first:], kind="stable"), engines.state
    engine = requests["replica"][order]
    begins = np.append(True, engine[1:] != engine[:-1])
    ends = np.append(begins[1:], True)
    requests["following"][order[~ends]] = order[~begins]
    own, heads = engine[begins], order[begins]
    behind = state["tail"][own] >= 0
    requests["following"][state["tail"][own[behind]]] = heads[behind]
    state["head"][own[~behind]] = heads[~behind]
    unseen, idle = state["unseen"][own] < 0, np.isinf(state["moment"][own])
    state["unseen"][own[unseen]], state["tail"][own] = heads[unseen], order[ends]
    next_moment = np.maximum(requests["arrival"][heads], state["busy_until"][own])
    state["moment"][own[idle]] = next_moment[idle]
    state["waiting"] += np.bincount(engine, minlength=len(state))


def fleet_of(scenario: Scenario, plan: Serving, number: int, prompts: PromptPool | None = None) -> Fleet:
    """Return who serves when, of `number` engines. prompts: those of another kind that compute prompts."""
    replicas, scale = plan.replicas, plan.replicas.autoscale
    groups = int(scenario.parallel.dp)  # a failure takes all data-parallel groups of a replica
    stated = sorted(
        (float(moment), int(failure.replica) * groups + group, ends)
        for failure in replicas.failures
        for group in range(groups)
        for moment, ends in ((failure.at, 0), (failure.at + failure.lasts, 1))
    )
    outages = np.array(stated, dtype=Outage.dtype)
    members, state = Member.zeros(number), FleetState.zeros(1)
    members["status"], members["weight"] = UP, 1.0
    state["tick"] = np.inf if scale is None else float(scale.interval)
    if scale is not None:
        members["status"][int(scale.least) * groups :] = OFF
    prefill = int(replicas.prefill) * groups if prompts is None else prompts.engines
    link = prompts if prompts is not None or not prefill else _own_link(scenario, plan)
    random = replicas.breakdowns
    fleet = Fleet(
        state, members, outages, _breakdowns(scenario, replicas, number),
        mtbf=0.0 if random is None else float(random.device_mtbf) / float(scenario.parallel.all_devices),
        repair=0.0 if random is None else float(random.repair),
        interval=0.0 if scale is None else float(scale.interval),
        least=0 if scale is None else int(scale.least) * groups,
        most=number, target=1.0 if scale is None else float(scale.target),
        start_up=0.0 if scale is None else float(scale.start_up),
        max_waiting=int(NEVER) if replicas.max_waiting is None else int(replicas.max_waiting), prefill=prefill,
        token_time=0.0 if link is None else link.token_time, sending=0.0 if link is None else link.sending,
        receiving=0.0 if link is None else link.receiving, latency=0.0 if link is None else link.latency,
        lockstep=lockstep_of(scenario), prompt_lockstep=lockstep_of(scenario if link is None else link.scenario),
    )  # fmt: skip
    with as_objects(fleet) as objects:
        for replica in range(len(fleet.breakdowns)):
            objects.breakdowns[replica].fails = draw_gap(objects, replica)
        objects.state[0].change = next_change(objects)
    return fleet


def _breakdowns(scenario: Scenario, replicas: Replicas, number: int) -> Records:
    """Return the replicas of `number` engines that fail at random: with any device, and all their engines."""
    count = 0 if replicas.breakdowns is None else number // int(scenario.parallel.dp)
    breakdowns = Breakdown.zeros(count)
    breakdowns["fails"] = breakdowns["back"] = np.inf
    breakdowns["die"] = np.random.default_rng([scenario.simulation.seed, 5]).integers(1, MODULUS, count)
    return breakdowns


def _own_link(scenario: Scenario, plan: Serving) -> PromptPool:
    """Return engines of a scenario that compute prompts for the others, whose links alone bound how caches move."""
    pool, transfer = kv_pool(scenario, plan), transfer_of(scenario, plan.replicas)
    seconds = float(pool.block_bytes) / float(pool.tokens) * int(scenario.parallel.tp) / float(transfer.bandwidth)
    return PromptPool(scenario, plan, seconds, seconds, 0.0, float(transfer.latency))


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
