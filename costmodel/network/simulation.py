"""Collectives on the flow level: phases of flows over the links of a cluster."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from costmodel.errors import InputError
from costmodel.hardware import Cluster
from costmodel.network.cluster_links import KINDS, UNBOUNDED, ClusterLinks, build_cluster_links, ports
from costmodel.network.collective_flows import Phase, algorithms, expert_phases, phases
from costmodel.network.flows import MAX_EXACT_FLOWS, drained, run_flows
from costmodel.network.group_links import Layout, lit_share, pairs
from costmodel.network.routing import FlowRoutes, Flows, fabric_latency, inside_latency, route
from costmodel.network.sharing import Incidence, check_flow_count
from costmodel.network.uniform_all_to_all import LINKS, UniformFlows, hashed_all_to_all, uniform_flow_classes
from costmodel.quantities import Array, Indices
from costmodel.records import MutableRecord, Record, field, replace
from costmodel.workload.operators import ExpertAllToAll

LINK_NAMES = {
    "intra": "links between devices of a node", "pcie": "links to the host", "nic": "NICs", "memory": "host memory",
    "socket": "links between sockets", "fabric": "links between switches",
}  # fmt: skip


class Outcome(Record):
    """What a collective takes on the flow level.

    time: all of it [s].
    latency: the part that does not shrink with the size [s].
    bottleneck, link: kind and name of the fullest link.
    busy: share of the time for which it is full.
    carried: bytes over each link of `cluster_links`, null by symmetry.
    """

    algorithm: str
    time: float
    latency: float
    bottleneck: str
    link: str = ""
    busy: float = 0.0
    carried: Array | None = None
    cluster_links: ClusterLinks | None = None

    @property
    def transfer(self) -> float:
        """Return the time in which bytes move [s]."""
        return self.time - self.latency

    @property
    def bottleneck_text(self) -> str:
        """Return the bottleneck in words."""
        name = f", such as {self.link}" if self.link else ""
        return f"{LINK_NAMES.get(self.bottleneck, self.bottleneck)}{name}"


class FlowRun(MutableRecord, eq=False):
    """Ranks of a cluster that run a collective.

    shares: achieved part of the bandwidth by kind of link, as measured (default: all of it).
    seed: of ECMP's hashes.
    """

    cluster: Cluster
    rank_layout: Layout
    shares: Mapping[str, float] = field(default_factory=dict)
    seed: int = 0
    _links: ClusterLinks | None = None

    @property
    def policy(self) -> str:
        """Return the routing of the fabric."""
        return "static" if self.cluster.network is None else self.cluster.network.routing

    @property
    def links(self) -> ClusterLinks:
        """Return the links of the nodes in use."""
        if self._links is None:
            self._links = build_cluster_links(self.cluster, self.rank_layout.last_node, self.shares)
        return self._links


def run_collective(
    kind: str, size: float, run: FlowRun, algorithm: str | None = None, *, bytes_alone: bool = False
) -> Outcome:
    """Return the time of a collective of `size` [B], as nccl-tests counts it. Without an algorithm the fastest's.

    bytes_alone: the fastest without latencies.
    """
    if not (np.isfinite(size) and size >= 0):
        raise InputError.single("the size is negative or not a number", hint="write --size 64MiB")
    names = (algorithm,) if algorithm else algorithms(kind, run.rank_layout)
    outcomes = [_run(name, phases(kind, name, size, run.rank_layout), run) for name in names]
    return min(outcomes, key=lambda outcome: outcome.transfer if bytes_alone else outcome.time)


def run_expert_all_to_all(exchange: ExpertAllToAll, run: FlowRun, *, in_network: bool = False) -> Outcome:
    """Return the time of one direction of the expert all-to-all."""
    return _run(exchange.mode, expert_phases(exchange, run.rank_layout, in_network=in_network), run)


def _run(algorithm: str, sequence: list[Phase], run: FlowRun) -> Outcome:
    """Return the sum over phases. The bottleneck is that of the longest."""
    if not sequence:
        return Outcome(algorithm, 0.0, 0.0, "none")
    outcomes = [
        _by_symmetry(phase, run) or phase_outcome(phase, run, before)
        for before, phase in zip([None, *sequence], sequence, strict=False)
    ]
    total, latency = sum(outcome.time for outcome in outcomes), sum(outcome.latency for outcome in outcomes)
    longest = max(reversed(outcomes), key=lambda outcome: outcome.transfer)
    whole = replace(longest, algorithm=algorithm, time=total, latency=latency)
    return whole if total - latency > latency else replace(whole, bottleneck="latency", link="")


def _by_symmetry(phase: Phase, run: FlowRun) -> Outcome | None:
    """Return a uniform all-to-all by symmetry, null where that does not hold."""
    if not phase.uniform:
        return None
    capacity = _one_of_each(run)
    flows = uniform_flow_classes(run.cluster, run.rank_layout, capacity, run.policy)
    if flows is None:
        return None
    done = run_flows(flows.incidence, np.full(len(flows.count), phase.size[0]))
    latency = phase.steps * _farthest(flows, run.cluster)
    fullest, busy = _fullest(done.makespan, done.carried, flows.incidence.capacity)
    kind = [name for name in LINKS if name in capacity][fullest]
    return Outcome("", done.makespan + latency, latency, kind, busy=busy)


def _fullest(time: float, carried: Array, capacity: Array) -> tuple[int, float]:
    seconds = carried / capacity
    fullest = int(np.argmax(seconds))
    return fullest, float(seconds[fullest] / time) if time else 0.0


def _one_of_each(run: FlowRun) -> dict[str, float]:
    node = build_cluster_links(replace(run.cluster, network=None), 1, run.shares)
    links = {kind: int(node.numbers[f"{kind}_up"][0]) for kind in ("intra", "pcie")}
    capacity = {kind: float(node.capacity[link]) for kind, link in links.items() if link != UNBOUNDED}
    if run.rank_layout.nodes == 1:
        return capacity
    nic, port = ports(run.cluster)
    fabric = port * run.shares.get("fabric", 1.0)
    return capacity | {"nic": nic * run.shares.get("nic", 1.0), "fabric": fabric}


def _farthest(flows: UniformFlows, cluster: Cluster) -> float:
    """Return the latency of the farthest class [s]."""
    inside = inside_latency(cluster)
    times = np.full(len(flows.count), inside)
    outside = flows.outside
    if outside.any():
        times[outside] = fabric_latency(cluster, flows.hops[outside]) + flows.forwarded[outside] * inside
    return float(times.max())


def phase_outcome(phase: Phase, run: FlowRun, before: Phase | None = None) -> Outcome:
    """Return a phase flow by flow, equivalent ones as one. before: the phase whose circuits are set."""
    links = run.links
    time, carried, latency = _by_hashes(phase, run) or _by_flows(phase, run, before)
    kind, name, busy = "none", "", 0.0
    if len(links.capacity):
        fullest, busy = _fullest(time, carried, links.capacity)
        kind, name = KINDS[links.kind[fullest]], links.names[fullest]
    return Outcome("", time + latency, latency, kind, link=name, busy=busy, carried=carried, cluster_links=links)


def _by_hashes(phase: Phase, run: FlowRun) -> tuple[float, Array, float] | None:
    """Return what `_by_flows` does of a large all-to-all of equal messages by ECMP, none of which is kept."""
    if not phase.uniform or run.policy != "ecmp" or _uniform_flows(run.rank_layout) <= MAX_EXACT_FLOWS:
        return None
    counted = hashed_all_to_all(run.links, run.rank_layout, run.seed)
    if counted is None:
        return None
    carried = counted[0] * phase.size[0]
    return float((carried / run.links.capacity).max()), carried, phase.steps * counted[1]


def _uniform_flows(rank_layout: Layout) -> int:
    return rank_layout.ranks * (rank_layout.ranks - 1) * rank_layout.groups


def _by_flows(phase: Phase, run: FlowRun, before: Phase | None) -> tuple[float, Array, float]:
    """Return the time in which the bytes of a phase move [s], those over each link [B], and the latency [s]."""
    links, rank_layout = run.links, run.rank_layout
    source, target, size = phase.source, phase.target, phase.size
    if phase.uniform:
        check_flow_count(_uniform_flows(rank_layout))
        source, target = pairs(rank_layout.ranks)
        size = np.full(len(source), phase.size[0])
    ends = [
        np.concatenate([rank_layout.device(rank, links.ranks_per_node, group) for group in range(rank_layout.groups)])
        for rank in (source, target)
    ]
    size = np.tile(size, rank_layout.groups)
    if phase.switched:
        if not links.cluster.node.peer_to_peer:
            raise InputError.single(f"{links.cluster.node.name} has no switches that copy or add up")
        routes = _through_switches(links, ends[0])
    else:
        routes = route(links, Flows(ends[0], ends[1], size), run.policy, run.seed)
    incidence = _lightened(routes.incidence, links, phase.lighter)
    dark, setup = _circuits(links, ends)
    setup = 0.0 if before is not None and _has_pairs_of(phase, before) else setup
    time, carried = drained(incidence, size * dark)
    return time, carried, phase.steps * float(routes.latency.max(initial=0.0)) + setup


def _has_pairs_of(phase: Phase, before: Phase) -> bool:
    """Tell whether the ranks of a phase have the partners of the one before, in whichever direction."""
    used, had = (
        {(min(pair), max(pair)) for pair in zip(each.source.tolist(), each.target.tolist(), strict=True)}
        for each in (phase, before)
    )
    return used == had and not phase.uniform


def _circuits(links: ClusterLinks, ends: tuple[Indices, Indices] | list[Indices]) -> tuple[Array | float, float]:
    """Return by how much longer flows take because ports stay dark, and the time in which circuits are set [s].

    A device with flows to d other nodes takes ceil(d / planes) slots, each set anew. Flows of a slot meet no others.
    """
    network = links.cluster.network
    if network is None or network.topology != "ocs" or links.switches is None:
        return 1.0, 0.0
    source, target = ends
    nodes = target // links.ranks_per_node
    outside = source // links.ranks_per_node != nodes
    if not outside.any():
        return 1.0, 0.0
    pairs_used = np.unique(np.stack([source[outside], nodes[outside]], axis=1), axis=0)
    degree = int(np.bincount(pairs_used[:, 0]).max())
    longer = 1.0 / float(lit_share(float(degree), network.planes))
    return np.where(outside, longer, 1.0), float(np.ceil(degree / network.planes)) * float(network.reconfiguration)


def _through_switches(links: ClusterLinks, devices: Indices) -> FlowRoutes:
    """Return what each rank loads where switches add up or copy: its own link, once each way.

    Between switches one stream a leaf is left, which is no more than one NIC's.
    """
    is_between = links.switches is not None
    kind = "nic" if is_between else "intra"
    rows = np.stack([links.numbers[f"{kind}_{side}"][devices] for side in ("up", "down")], axis=1)
    start = np.arange(0, 2 * len(devices) + 1, 2)
    cluster = links.cluster
    latency = float(fabric_latency(cluster, np.array([2.0]))[0]) if is_between else inside_latency(cluster)
    incidence = Incidence(start, rows.ravel().astype(np.int32), None, links.capacity)
    return FlowRoutes(incidence, np.full(len(devices), latency))


def _lightened(incidence: Incidence, links: ClusterLinks, lighter: tuple[str, float]) -> Incidence:
    """Return the incidence with less weight on the NICs' links of one direction."""
    side, share = lighter
    if share == 1.0:
        return incidence
    is_light = np.zeros(len(links.capacity), bool)
    is_light[links.numbers[f"nic_{side}"]] = True
    weights = incidence.entry_weights() * np.where(is_light[incidence.links], share, 1.0)
    return replace(incidence, weights=weights)
