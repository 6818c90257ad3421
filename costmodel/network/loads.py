"""What a message of many ranks puts on every link of a cluster, and how long its flows take there by themselves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import numpy as np

from costmodel.errors import InputError
from costmodel.hardware import Cluster
from costmodel.network.cluster_links import ClusterLinks, build_cluster_links
from costmodel.network.collectives import LIBRARY, algorithm_time
from costmodel.network.group_links import group_links
from costmodel.network.layout import Layout, pairs
from costmodel.network.nominal import nominal_cluster
from costmodel.network.patterns import Phase, algorithms, exchange_phases, phases
from costmodel.network.routing import Flows, route
from costmodel.network.sharing import Incidence
from costmodel.network.simulation import BATCH, MOST_EXACT_FLOWS
from costmodel.network.symmetry import run_collapsed
from costmodel.quantities import Array, Indices
from costmodel.workload.operators import Collective, ExpertAllToAll, Group

UNMET = "one switch"  # a fabric on which no two flows meet but at the NICs


@dataclass(frozen=True, slots=True, eq=False)
class LinkLoad:
    """A message on the links. links, busy: those that its own flows use, and how long each is full with them [s].

    alone: of all flows of the groups that move together, on this cluster [s]; ideal: on one where NICs and links inside
    nodes are all that bounds [s]. Both without latencies.
    """

    links: Indices
    busy: Array
    isolated_time: float
    uncontended_time: float

    @property
    def slower(self) -> float:
        """Return how many times as long the message takes on this fabric as on one where no flows meet."""
        return self.isolated_time / self.uncontended_time if self.uncontended_time else 1.0


Part: TypeAlias = "tuple[int, int]"  # (number, count): a device block of a rank cut into so many parts, which of them
WHOLE = (0, 1)


@dataclass(slots=True)
class _Unit:
    """Phases whose largest message has one byte. phases: (sources, sizes, links) of their flows; as of `Load`."""

    phases: list[tuple[Indices, Array, Incidence]]
    alone: float
    ideal: float

    def busy(self, first: int, width: int, part: Part) -> Array:
        """Return how long each link is full with the flows of a part of `width` devices from `first` on [s]."""
        number, count = part
        total: Array = np.zeros(0)
        for source, size, routed in self.phases:
            mine = (source - first) // (width // count) == number
            busy = routed.load(np.where(mine, size, 0.0)) / routed.capacity
            total = busy if not len(total) else total + busy
        return total


@dataclass(slots=True)
class Wires:
    """The links of a cluster, as messages of a pipeline load them.

    ranks: of the pipeline; width: devices of one rank, which stand side by side; copies: ranks that hold each stage, of
    which `rank` and its mirror image are two; seed: of the hashes of ECMP.
    """

    cluster: Cluster
    ranks: int
    width: int
    copies: int = 1
    seed: int = 0
    plant: ClusterLinks = field(init=False)
    _ideal: ClusterLinks = field(init=False)
    _known: dict[tuple[object, ...], _Unit] = field(default_factory=dict)
    _apart_known: dict[tuple[bytes, ...], float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        nodes = -(-self.ranks * self.width // int(self.cluster.node.count))
        self.plant = build_cluster_links(self.cluster, nodes)
        self._ideal = build_cluster_links(nominal_cluster(self.cluster, UNMET), nodes)

    def collective(self, operator: Collective | ExpertAllToAll, rank: int, part: Part = WHOLE) -> LinkLoad:
        """Return the load of a collective or exchange of all groups of a pipeline rank, or of a part of its devices."""
        members = self._members(operator.group, rank)
        local = _beside(operator.group, int(self.cluster.node.count))
        made = list(self._phases(operator, Layout(members.shape[1], local, members.shape[1] // local)))
        return self._load(made, members, rank, part)

    def send(self, size: float, rank: int, target: int, part: Part = WHOLE) -> LinkLoad:
        """Return the load of a message from every device of a rank, or a part of them, to the same of another rank."""
        members = np.stack([np.arange(self.width) + each * self.width for each in (rank, target)], axis=1)
        return self._load([Phase(np.array([0]), np.array([1]), np.array([size]))], members, rank, part)

    def _phases(self, operator: Collective | ExpertAllToAll, where: Layout) -> Iterator[Phase]:
        """Yield what moves one after the other, by the library's algorithm that is fastest in closed form."""
        if isinstance(operator, ExpertAllToAll):
            yield from exchange_phases(operator, where)
            return
        way = group_links(operator.group, nominal_cluster(self.cluster))
        size = float(operator.size)
        names = [name for name in algorithms(operator.kind, where) if name in LIBRARY[operator.kind]]
        fastest = min(names, key=lambda name: float(algorithm_time(operator.kind, name, size, way)))
        yield from phases(operator.kind, fastest, size, where)

    def _members(self, group: Group, rank: int) -> Indices:
        """Return the devices of each group, (groups, ranks of one), of a pipeline rank."""
        size, stride = round(float(group.size)), round(float(group.stride))
        own = np.arange(self.width) + rank * self.width
        span = size * stride
        if span > self.width and self.copies > 1:
            mirror = np.arange(self.width) + (self.ranks - 1 - rank) * self.width
            own = own if self.ranks - 1 == 2 * rank else np.concatenate([own, mirror])
        if len(own) % span:
            raise InputError.single(
                f"a group of {size} ranks, {stride} apart, does not divide {len(own):,} devices of a stage",
                field="contention",
                hint="leave it out, or use degrees of parallelism that divide each other",
            )  # fmt: skip
        return own.reshape(-1, size, stride).swapaxes(1, 2).reshape(-1, size)

    def _load(self, made: Sequence[Phase], members: Indices, rank: int, part: Part) -> LinkLoad:
        """Return the load of phases among groups that all work at the same time."""
        largest = max((float(phase.size.max(initial=0.0)) for phase in made), default=0.0)
        if not largest:
            return LinkLoad(np.empty(0, np.intp), np.empty(0), 0.0, 0.0)
        shape = tuple(
            (phase.source.tobytes(), phase.target.tobytes(), phase.uniform, _rounded(phase.size / largest))
            for phase in made
        )
        key = (rank, members.tobytes(), shape)
        if key not in self._known:
            self._known[key] = self._unit([replace(phase, size=phase.size / largest) for phase in made], members)
        one = self._known[key]
        busy = one.busy(rank * self.width, self.width, part)
        used = np.flatnonzero(busy)
        return LinkLoad(used, busy[used] * largest, one.alone * largest, one.ideal * largest)

    def _unit(self, made: Sequence[Phase], members: Indices) -> _Unit:
        """Return what phases take by themselves, and which of their flows load what.

        Adaptive routes give way to whatever else is under way: what they load beside others is spread over all paths.
        """
        found = _Unit([], 0.0, 0.0)
        for phase in made:
            flows = _flows(phase, members)
            routed = route(self.plant, flows, self._policy, self.seed).incidence
            unmet = route(self._ideal, flows, "static").incidence
            apart = self._apart(flows, unmet)
            same = np.array_equal(routed.start, unmet.start) and np.array_equal(routed.links, unmet.links)
            found.alone += apart if same else _makespan(flows, routed)
            found.ideal += apart
            spread = route(self.plant, flows, "spray").incidence if self._policy == "adaptive" and not same else routed
            found.phases.append((flows.source, flows.size, spread))
        return found

    def _apart(self, flows: Flows, unmet: Incidence) -> float:
        """Return the time of flows where they meet at NICs and in nodes only: the same wherever their nodes are [s]."""
        local = int(self.cluster.node.count)
        first = int(flows.source.min()) // local * local
        key = ((flows.source - first).tobytes(), (flows.target - first).tobytes(), flows.size.tobytes())
        if key not in self._apart_known:
            self._apart_known[key] = _makespan(flows, unmet)
        return self._apart_known[key]

    @property
    def _policy(self) -> str:
        return "static" if self.cluster.network is None else self.cluster.network.routing


def _makespan(flows: Flows, routed: Incidence) -> float:
    """Return when the last of some flows has completed [s]."""
    batch = 0.0 if routed.flows <= MOST_EXACT_FLOWS else BATCH
    return run_collapsed(routed, flows.size, batch=batch).makespan


def _flows(phase: Phase, members: Indices) -> Flows:
    """Return the messages of a phase between devices, group after group."""
    source, target, size = phase.source, phase.target, phase.size
    if phase.uniform:
        source, target = pairs(members.shape[1])
        size = np.full(len(source), phase.size[0])
    return Flows(members[:, source].ravel(), members[:, target].ravel(), np.tile(size, len(members)))


def _beside(group: Group, devices: int) -> int:
    """Return how many ranks of a group count as one node's: as many as stand on one, where that divides the group."""
    size, local = round(float(group.size)), int(float(group.on_one_node(float(devices))))
    return local if size % local == 0 else 1


def _rounded(shares: Array) -> bytes:
    return np.round(shares, 12).tobytes()
