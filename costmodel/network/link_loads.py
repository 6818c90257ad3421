"""The load of a message of many ranks on every link of a cluster, and how long its flows take there by themselves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np

from costmodel.errors import InputError
from costmodel.hardware import Cluster
from costmodel.network.cluster_links import build_cluster_links
from costmodel.network.collective_flows import Phase, algorithms, expert_phases, phases
from costmodel.network.collectives import LIBRARY, algorithm_time
from costmodel.network.flows import drained
from costmodel.network.grids import GRIDS
from costmodel.network.group_links import Layout, group_links, pairs
from costmodel.network.routing import Flows, route
from costmodel.network.sharing import Incidence
from costmodel.quantities import Array, Indices
from costmodel.records import MutableRecord, Record, field, replace
from costmodel.workload.operators import ExpertAllToAll, Group, Message

ONE_SWITCH = "one switch"  # a fabric on which no two flows meet but at the NICs


class LinkLoad(Record):
    """A message on the links.

    links, busy: those that its own flows use, and how long each is full with them [s].
    isolated_time: of all flows of the groups that move together, on this cluster, without latencies [s].
    uncontended_time: on one where NICs and links inside nodes are all that bounds [s].
    """

    links: Indices
    busy: Array
    isolated_time: float
    uncontended_time: float

    @property
    def slowdown(self) -> float:
        """Return how many times as long the message takes on this fabric as on one where no flows meet."""
        return self.isolated_time / self.uncontended_time if self.uncontended_time else 1.0


Block: TypeAlias = "tuple[int, int]"  # (number, count): the devices of a rank cut into so many blocks, which of them
WHOLE = (0, 1)


class _UnitLoad(MutableRecord):
    """Phases whose largest message has one byte. phases: (sources, sizes, links) of their flows. As of `LinkLoad`."""

    phases: list[tuple[Indices, Array, Incidence]]
    isolated_time: float
    uncontended_time: float

    def busy(self, first: int, width: int, block: Block) -> Array:
        """Return how long each link is full with the flows of a block of `width` devices from `first` on [s]."""
        number, count = block
        total: Array = np.zeros(0)
        for source, size, incidence in self.phases:
            is_own = (source - first) // (width // count) == number
            busy = incidence.load(np.where(is_own, size, 0.0)) / incidence.capacity
            total = busy if not len(total) else total + busy
        return total


class LinkLoads(MutableRecord, dict=True):
    """The links of a cluster, as the messages of a pipeline load them.

    ranks: of the pipeline.
    width: devices of one rank, side by side.
    stage_replicas: ranks that hold each stage, of which `rank` and its mirror image are two.
    seed: of the hashes of ECMP.
    """

    cluster: Cluster
    ranks: int
    width: int
    stage_replicas: int = 1
    seed: int = 0
    _unit_loads: dict[tuple[object, ...], _UnitLoad] = field(default_factory=dict)
    _uncontended_times: dict[tuple[bytes, ...], float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        nodes = -(-self.ranks * self.width // int(self.cluster.node.count))
        self.cluster_links = build_cluster_links(self.cluster, nodes)
        self._uncontended_links = build_cluster_links(nominal_cluster(self.cluster, ONE_SWITCH), nodes)

    def collective(self, operator: Message, rank: int, block: Block = WHOLE) -> LinkLoad:
        """Return the load of a collective of all groups of a pipeline rank, or of a block of its devices."""
        members = self._members(operator.group, rank)
        local = int(float(operator.group.on_one_node(float(int(self.cluster.node.count)))))
        local = local if round(float(operator.group.size)) % local == 0 else 1  # whole nodes of ranks, or one by one
        rank_layout = Layout(members.shape[1], local, members.shape[1] // local)
        return self._load(self._phases(operator, rank_layout), members, rank, block)

    def send(self, size: float, rank: int, target: int, block: Block = WHOLE) -> LinkLoad:
        """Return the load of a message from every device of a rank, or a block of them, to the same of another rank."""
        members = np.stack([np.arange(self.width) + end * self.width for end in (rank, target)], axis=1)
        return self._load([Phase(np.array([0]), np.array([1]), np.array([size]))], members, rank, block)

    def _phases(self, operator: Message, rank_layout: Layout) -> list[Phase]:
        """Return what moves one after the other, by the library's algorithm that is fastest in closed form."""
        if isinstance(operator, ExpertAllToAll):
            return expert_phases(operator, rank_layout)
        links = group_links(operator.group, nominal_cluster(self.cluster))
        kind, size = operator.kind, float(operator.size)
        names = [name for name in algorithms(kind, rank_layout) if name in LIBRARY[kind]]
        return phases(
            kind, min(names, key=lambda name: float(algorithm_time(kind, name, size, links))), size, rank_layout
        )

    def _members(self, group: Group, rank: int) -> Indices:
        size, stride = round(float(group.size)), round(float(group.stride))
        devices = np.arange(self.width) + rank * self.width
        span = size * stride
        if span > self.width and self.stage_replicas > 1:
            mirror = np.arange(self.width) + (self.ranks - 1 - rank) * self.width
            devices = devices if self.ranks - 1 == 2 * rank else np.concatenate([devices, mirror])
        if len(devices) % span:
            raise InputError.single(
                f"a group of {size} ranks, {stride} apart, does not divide {len(devices):,} devices of a stage",
                field="contention",
                hint="leave it out, or use degrees of parallelism that divide each other",
            )  # fmt: skip
        return devices.reshape(-1, size, stride).swapaxes(1, 2).reshape(-1, size)

    def _load(self, sequence: Sequence[Phase], members: Indices, rank: int, block: Block) -> LinkLoad:
        """Return the load of phases among groups that all work at the same time."""
        largest = max((float(phase.size.max(initial=0.0)) for phase in sequence), default=0.0)
        if not largest:
            return LinkLoad(np.empty(0, np.intp), np.empty(0), 0.0, 0.0)
        shape = tuple(
            (
                phase.source.tobytes(),
                phase.target.tobytes(),
                phase.uniform,
                np.round(phase.size / largest, 12).tobytes(),
            )
            for phase in sequence
        )
        key = (rank, members.tobytes(), shape)
        if key not in self._unit_loads:
            self._unit_loads[key] = self._unit_load(
                [replace(phase, size=phase.size / largest) for phase in sequence], members
            )
        unit = self._unit_loads[key]
        busy = unit.busy(rank * self.width, self.width, block)
        used = np.flatnonzero(busy)
        return LinkLoad(used, busy[used] * largest, unit.isolated_time * largest, unit.uncontended_time * largest)

    def _unit_load(self, sequence: Sequence[Phase], members: Indices) -> _UnitLoad:
        """Return what phases take by themselves, and the links that their flows load.

        Adaptive routes give way to whatever else is under way: what they load besides others is spread over all paths.
        """
        unit = _UnitLoad([], 0.0, 0.0)
        for phase in sequence:
            flows = _flows(phase, members)
            routed = route(self.cluster_links, flows, self._policy, self.seed).incidence
            uncontended = route(self._uncontended_links, flows, "static").incidence
            time = self._uncontended_time(flows, uncontended)
            is_same = all(
                np.array_equal(*ends) for ends in ((routed.start, uncontended.start), (routed.links, uncontended.links))
            )
            unit.isolated_time += time if is_same else drained(routed, flows.size)[0]
            unit.uncontended_time += time
            if self._policy == "adaptive" and not is_same:
                routed = route(self.cluster_links, flows, "spray").incidence
            unit.phases.append((flows.source, flows.size, routed))
        return unit

    def _uncontended_time(self, flows: Flows, incidence: Incidence) -> float:
        """Return the time of flows that meet at NICs and in nodes only: the same wherever their nodes are [s]."""
        local = int(self.cluster.node.count)
        first = int(flows.source.min()) // local * local
        key = ((flows.source - first).tobytes(), (flows.target - first).tobytes(), flows.size.tobytes())
        if key not in self._uncontended_times:
            self._uncontended_times[key] = drained(incidence, flows.size)[0]
        return self._uncontended_times[key]

    @property
    def _policy(self) -> str:
        return "static" if self.cluster.network is None else self.cluster.network.routing


def _flows(phase: Phase, members: Indices) -> Flows:
    source, target, size = phase.source, phase.target, phase.size
    if phase.uniform:
        source, target = pairs(members.shape[1])
        size = np.full(len(source), phase.size[0])
    return Flows(members[:, source].ravel(), members[:, target].ravel(), np.tile(size, len(members)))


# ---- Clusters as measurements had them: times before failures and narrow fabrics slow them down ----------------------


def nominal_cluster(cluster: Cluster, topology: str | None = None) -> Cluster:
    """Return the cluster as measurements had it: nothing has failed, no uplink is narrower than what it joins.

    Grids and optical circuits count as one switch.

    topology: replaces the fabric's own, null keeps it.
    """
    network = cluster.network
    if network is None:
        return cluster
    planes = network.planes if topology is None else 1.0
    nominal = replace(network, failed=(), pxn=True, oversubscription=1.0, planes=planes)
    if network.topology in (*GRIDS, "ocs"):
        nominal = replace(nominal, topology="unspecified", planes=1.0)
    return replace(cluster, network=nominal if topology is None else replace(nominal, topology=topology))
