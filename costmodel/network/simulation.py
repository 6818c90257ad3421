"""Collectives on the flow level: phases of flows over the links of a cluster."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from costmodel.errors import InputError
from costmodel.hardware import Cluster
from costmodel.network.cluster_links import KINDS, UNBOUNDED, ClusterLinks, build_cluster_links, ports
from costmodel.network.flows import run_flows
from costmodel.network.layout import Layout, pairs
from costmodel.network.patterns import Phase, algorithms, exchange_phases, phases
from costmodel.network.routing import FlowRoutes, Flows, fabric_latency, inside_latency, route
from costmodel.network.sharing import Incidence, check_plain
from costmodel.network.symmetry import run_collapsed
from costmodel.network.uniform import LINKS, Symmetry, uniform_classes
from costmodel.quantities import Array, Indices
from costmodel.workload.operators import ExpertAllToAll

WORDS = {
    "intra": "links between devices of a node", "pcie": "links to the host", "nic": "NICs", "memory": "host memory",
    "socket": "links between sockets", "fabric": "links between switches", "core": "links between spines and cores",
}  # fmt: skip
BATCH = 0.05  # completions closer than this count as one event: halving it moves makespans by less than 0.5 %
MOST_EXACT_FLOWS = 20_000  # up to here every completion is an event


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """What a collective takes on the flow level.

    time: all of it [s]; latency: the part that does not shrink with the size; bottleneck: kind of the fullest link;
    link: its name; busy: share of the time for which it is full; carried: bytes over each link, null by symmetry.
    """

    algorithm: str
    time: float
    latency: float
    bottleneck: str
    link: str = ""
    busy: float = 0.0
    carried: Array | None = None
    plant: ClusterLinks | None = None

    @property
    def document(self) -> str:
        """Return the bottleneck in words."""
        name = f", such as {self.link}" if self.link else ""
        return f"{WORDS.get(self.bottleneck, self.bottleneck)}{name}"


@dataclass(frozen=True, slots=True, eq=False)
class Setting:
    """How a collective is run. shares: achieved part of the bandwidth by kind of link, as measured; seed: of hashes."""

    cluster: Cluster
    where: Layout
    shares: Mapping[str, float]
    seed: int = 0

    @property
    def policy(self) -> str:
        """Return the routing of the fabric."""
        return "static" if self.cluster.network is None else self.cluster.network.routing


def setting(cluster: Cluster, where: Layout, shares: Mapping[str, float] | None = None, seed: int = 0) -> Setting:
    """Return how a collective is run on a cluster."""
    return Setting(cluster, where, shares or {}, seed)


def run_collective(
    kind: str, size: float, run: Setting, algorithm: str | None = None, *, bytes_alone: bool = False
) -> Outcome:
    """Return the time of a collective of `size` [B], as nccl-tests counts it; without an algorithm the fastest's.

    bytes_alone: the fastest without latencies.
    """
    if not (np.isfinite(size) and size >= 0):
        raise InputError.single("the size is negative or not a number", hint="write --size 64MiB")
    names = (algorithm,) if algorithm else algorithms(kind, run.where)
    outcomes = [_run(name, phases(kind, name, size, run.where), run) for name in names]
    return min(outcomes, key=lambda outcome: outcome.time - (outcome.latency if bytes_alone else 0.0))


def run_exchange(exchange: ExpertAllToAll, run: Setting, *, in_network: bool = False) -> Outcome:
    """Return the time of one direction of the expert all-to-all."""
    return _run(exchange.mode, exchange_phases(exchange, run.where, in_network=in_network), run)


def _run(algorithm: str, made: list[Phase], run: Setting) -> Outcome:
    """Return the sum over phases; the bottleneck is that of the longest."""
    if not made:
        return Outcome(algorithm, 0.0, 0.0, "none")
    plant: ClusterLinks | None = None
    total = latency = longest = 0.0
    best = Outcome(algorithm, 0.0, 0.0, "none")
    for phase in made:
        symmetric = _symmetric(phase, run)
        if symmetric is not None:
            one = symmetric
        else:
            plant = plant or build_cluster_links(run.cluster, run.where.last_node, run.shares)
            one = run_phase(phase, plant, run)
        total, latency = total + one.time, latency + one.latency
        if one.time - one.latency >= longest:
            longest, best = one.time - one.latency, one
    best = replace(best, algorithm=algorithm, time=total, latency=latency)
    return best if total - latency > latency else replace(best, bottleneck="latency", link="")


def _symmetric(phase: Phase, run: Setting) -> Outcome | None:
    """Return a uniform all-to-all by symmetry, null where that does not hold."""
    if not phase.uniform:
        return None
    capacity = _one_of_each(run)
    found = uniform_classes(run.cluster, run.where, capacity, run.policy)
    if found is None:
        return None
    done = run_flows(found.incidence, np.full(len(found.count), phase.size[0]))
    latency = phase.steps * _farthest(found, run.cluster)
    busy = done.carried / found.incidence.capacity
    at = int(np.argmax(busy))
    kind = [name for name in LINKS if name in capacity][at]
    share = float(busy[at] / done.makespan) if done.makespan else 0.0
    return Outcome("", done.makespan + latency, latency, kind, "", share)


def _one_of_each(run: Setting) -> dict[str, float]:
    """Return the bandwidth of a link of each kind that a uniform exchange meets [B/s]."""
    node = build_cluster_links(replace(run.cluster, network=None), 1, run.shares)
    links = {kind: int(node.numbers[f"{kind}_up"][0]) for kind in ("intra", "pcie")}
    capacity = {kind: float(node.capacity[link]) for kind, link in links.items() if link != UNBOUNDED}
    if run.where.nodes == 1:
        return capacity
    nic, port = ports(run.cluster)
    between = port * run.shares.get("fabric", 1.0)
    return capacity | {"nic": nic * run.shares.get("nic", 1.0), "fabric": between, "core": between}


def _farthest(found: Symmetry, cluster: Cluster) -> float:
    """Return the latency of the farthest class [s]."""
    inside = inside_latency(cluster)
    times = np.full(len(found.count), inside)
    away = found.outside
    if away.any():
        times[away] = fabric_latency(cluster, found.hops[away]) + found.forwarded[away] * inside
    return float(times.max())


def run_phase(phase: Phase, plant: ClusterLinks, run: Setting) -> Outcome:
    """Return a phase flow by flow, those that are alike as one."""
    source, target, size = phase.source, phase.target, phase.size
    if phase.uniform:
        check_plain(run.where.ranks * (run.where.ranks - 1) * run.where.groups)
        source, target = pairs(run.where.ranks)
        size = np.full(len(source), phase.size[0])
    ends = [
        np.concatenate([run.where.device(rank, plant.ranks_per_node, group) for group in range(run.where.groups)])
        for rank in (source, target)
    ]
    size = np.tile(size, run.where.groups)
    if phase.switched:
        if not plant.cluster.node.peer_to_peer:
            raise InputError.single(f"{plant.cluster.node.name} has no switches that copy or add up")
        routed = _through_switches(plant, ends[0], size)
    else:
        routed = route(plant, Flows(ends[0], ends[1], size), run.policy, run.seed)
    incidence = _lightened(routed.incidence, plant, phase.lighter)
    batch = 0.0 if incidence.flows <= MOST_EXACT_FLOWS else BATCH
    done = run_collapsed(incidence, size, batch=batch)
    latency = phase.steps * float(routed.latency.max(initial=0.0))
    busy = done.carried / plant.capacity
    at = int(np.argmax(busy)) if len(busy) else 0
    kind, name = (KINDS[plant.kind[at]], plant.names[at]) if len(busy) else ("none", "")
    share = float(busy[at] / done.makespan) if done.makespan else 0.0
    return Outcome(
        algorithm="",
        time=done.makespan + latency,
        latency=latency,
        bottleneck=kind,
        link=name,
        busy=share,
        carried=done.carried,
        plant=plant,
    )


def _through_switches(plant: ClusterLinks, devices: Indices, size: Array) -> FlowRoutes:
    """Return what each rank loads where switches add up or copy: its own link, once each way.

    Between switches one stream a leaf is left, which is no more than one NIC's.
    """
    way = "nic" if plant.switches is not None else "intra"
    links = np.stack([plant.numbers[f"{way}_{side}"][devices] for side in ("up", "down")], axis=1)
    start = np.arange(0, 2 * len(devices) + 1, 2)
    between = plant.switches is not None
    latency = float(fabric_latency(plant.cluster, np.array([2.0]))[0]) if between else inside_latency(plant.cluster)
    return FlowRoutes(
        Incidence(start, links.ravel().astype(np.int32), None, plant.capacity), np.full(len(size), latency)
    )


def _lightened(incidence: Incidence, plant: ClusterLinks, lighter: tuple[str, float]) -> Incidence:
    """Return the incidence with less weight on the NICs' links of one direction."""
    side, share = lighter
    if share == 1.0:
        return incidence
    light = np.zeros(len(plant.capacity), bool)
    light[plant.numbers[f"nic_{side}"]] = True
    weights = incidence.entry_weights() * np.where(light[incidence.links], share, 1.0)
    return replace(incidence, weights=weights)
