"""Links that messages share, where a scenario states contention: which ones can be full, and who loads them.

A message is one flow that loads all links of its ranks in proportion, as a kernel that sends chunk by chunk. Alone it
takes the time of its fit, times what its own flows wait for each other on the fabric. Messages on a common link share
it max-min fairly. Copies to and from the host are flows on the device's link to it, which messages of NICs cross, too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np

from costmodel.analytic.inference import PassModel
from costmodel.analytic.operator_timing import TimedOperator
from costmodel.analytic.segments import D2H, H2D, Segment, SegmentKey
from costmodel.event.graph import MESSAGE, Graph, Message, Task
from costmodel.event.task_groups import ALL_TO_ALL, TaskGroup
from costmodel.hardware import Cluster
from costmodel.network.host import COPIES_FIRST, HOST_IN, HOST_OUT, MESSAGES_FIRST, SEPARATE, SHARED, link_shares
from costmodel.network.sharing import Flags
from costmodel.quantities import Array
from costmodel.records import MutableRecord, Record, field
from costmodel.workload.operators import Collective, ExpertAllToAll, HostTransfer
from costmodel.workload.scenario import Scenario

if TYPE_CHECKING:
    from costmodel.network.link_loads import LinkLoad, LinkLoads

FULL = 1.0 + 1e-6  # of a link's time: a sum of loads below it never makes the link a bottleneck
ROUNDING = 1e-9  # weights that differ by less are equal
Sender: TypeAlias = "tuple[int, int]"  # (device, stream) of a message


class _Sent(NamedTuple):
    """A message that is sent again and again. target: pipeline rank that a point-to-point message goes to."""

    message: Message
    timed: TimedOperator
    sender: Sender
    target: int | None


class _OnDevice(NamedTuple):
    """What a message or a copy of `wire` seconds takes of its device's own links while it runs alone."""

    message: Message
    device: int
    wire: float
    shares: Mapping[str, float]


class Links(MutableRecord):
    """Collects the messages of a graph and finds the links that they share.

    wires: null without contention.
    host_link: who gives way on a device's own links.
    """

    wires: LinkLoads | None
    host_link: str = SHARED
    _sent: list[_Sent] = field(default_factory=list)
    _on_device: dict[int, _OnDevice] = field(default_factory=dict)  # by the identity of a message
    _known: dict[tuple[object, ...], tuple[float, Message | None]] = field(default_factory=dict)
    _replicas: dict[int, tuple[Message, ...]] = field(default_factory=dict)  # by the identity of a message

    def message(
        self, seconds: float, wire: float, timed: TimedOperator | None, sender: Sender, target: int | None = None
    ) -> tuple[float, Message | None]:
        """Return (time before bytes move [s], their message, whose links `assign_links` sets).

        wire: part of `seconds` in which bytes move [s].
        timed: the operator, null for no message.
        target: pipeline rank that a point-to-point message goes to.
        """
        if self.wires is None or timed is None or wire <= 0:
            return seconds, None
        key = (id(timed), seconds, wire, sender, target)
        known = self._known.get(key)
        if known is None:
            message = Message({}, wire, 1.0)
            known = self._known[key] = max(seconds - wire, 0.0), message
            self._sent.append(_Sent(message, timed, sender, target))
        return known

    def task(
        self, group: TaskGroup, stream: int, kind: str, after: tuple[int, ...], device: int, use: LinkUse | None = None
    ) -> Task:
        """Return a group as a task on a stream of a device. kind: of a group that is no message.

        use: what it takes of links of the device that others cross, too
        """
        seconds, message = self.message(group.seconds, group.wire, group.message, (device, stream))
        if use is not None:
            seconds, message = self.crossing(group.seconds, use, (device, stream), message)
        return Task(
            group.name, stream, seconds, after, kind if group.message is None else MESSAGE, group.processor_bound_share,
            group.processors, message, group.classes, slows_kernels=group.stream == ALL_TO_ALL,
        )  # fmt: skip

    def crossing(
        self, seconds: float, use: LinkUse, sender: Sender, message: Message | None = None
    ) -> tuple[float, Message]:
        """Return (time before bytes move [s], their message) of what loads the device's own links.

        message: the same on links of the cluster, null without contention
        """
        wire = seconds * use.wire
        if message is None:
            key = (id(use), seconds, sender)
            message = (self._known.get(key) or (0.0, None))[1] or Message({}, wire, 1.0)
            self._known[key] = seconds - wire, message
        message.priority = int(self.host_link == (COPIES_FIRST if use.is_copy else MESSAGES_FIRST))
        self._on_device[id(message)] = _OnDevice(message, sender[0], wire, use.shares)
        return seconds - wire, message

    def assign_links(self, graph: Graph, replicas: int = 1, of: int = 1) -> None:
        """Set the links of every message, and their number in the graph.

        replicas: data-parallel replicas, of `of`, that are simulated one by one, each with messages of its own. A
        message's bytes are the seconds that it takes alone: links carry one per second, and so does a message.
        """
        parts = [(0, 1)] if replicas == 1 else [(replica, of) for replica in range(replicas)]
        if self.wires is not None:
            self._assign_cluster(parts)
        links = [link for messages in self._replicas.values() for message in messages for link in message.loads]
        first = 1 + max(links, default=-1)
        last = first + self._assign_devices(first, len(parts))
        graph.capacity = np.ones(last)

    def _assign_cluster(self, parts: Sequence[tuple[int, int]]) -> None:
        """Set the messages' loads on the links of the cluster. parts: (number, count) of each replica."""
        loads = [self._load(sent, part) for sent in self._sent for part in parts]
        senders = [tuple((replica, place) for place in sent.sender) for sent in self._sent for replica, _ in parts]
        weighted = iter(zip(binding_links(loads, senders), loads, strict=True))
        for sent in self._sent:
            size, priority = sent.message.size, sent.message.priority
            messages = [
                Message(weights, size * load.slowdown, 1.0, priority)
                for weights, load in (next(weighted) for _ in parts)
            ]
            sent.message.loads, sent.message.size = messages[0].loads, messages[0].size
            self._replicas[id(sent.message)] = tuple(messages)

    def _assign_devices(self, first: int, replicas: int) -> int:
        """Add loads on the devices' own links, numbered from `first` on, and return how many there are.

        A message takes a link for as many bytes however long the fabric makes it.
        """
        numbers: dict[tuple[int, int, str], int] = {}
        for on in self._on_device.values():
            alone = self._replicas.get(id(on.message)) or tuple(
                Message({}, on.message.size, 1.0, on.message.priority) for _ in range(replicas)
            )
            for replica, message in enumerate(alone):
                part = on.wire / message.size
                message.loads = dict(message.loads) | {
                    first + numbers.setdefault((replica, on.device, link), len(numbers)): share * part
                    for link, share in on.shares.items()
                }
            on.message.loads = alone[0].loads
            self._replicas[id(on.message)] = alone
        return len(numbers)

    def per_replica(self, message: Message) -> tuple[Message, ...]:
        """Return the message of each replica."""
        return self._replicas[id(message)]

    def _load(self, sent: _Sent, part: tuple[int, int]) -> LinkLoad:
        assert self.wires is not None, "there is contention"
        operator, rank = sent.timed.operator, sent.sender[0]
        if sent.target is not None:
            assert isinstance(operator, Collective), "it has a size"
            return self.wires.send(float(operator.size), rank, sent.target, part)
        assert isinstance(operator, Collective | ExpertAllToAll), "it has a group"
        return self.wires.collective(operator, rank, part)


def links_of(scenario: Scenario, copies: int = 1) -> Links:
    """Return the links of a scenario's cluster. copies: ranks of a pipeline that hold each stage."""
    host_link = scenario.communication.host_link
    if not scenario.simulation.contention:
        return Links(None, host_link)
    from costmodel.network.link_loads import LinkLoads  # imports networkx, which no simulation without contention needs

    ranks = round(float(scenario.parallel.pp))
    width = round(float(scenario.parallel.devices)) // ranks
    return Links(LinkLoads(scenario.cluster, ranks, width, copies, scenario.simulation.seed), host_link)


def binding_links(loads: Sequence[LinkLoad], senders: Sequence[Sequence[Any]]) -> list[dict[int, float]]:
    """Return each message's weights on the links that can be its bottleneck, renumbered.

    senders: the device and the stream of each message, by numbers or tuples of numbers.

    A weight is the share of a link's time that the message takes alone. Links with equal weights for every message are
    one. A link that is never full is dropped: where the messages of all streams at once do not fill it, where
    another one is always fuller, or where links of their own hold its senders to less than its capacity.
    """
    matrix = _weights(loads)
    places = ([sender[i] for sender in senders] for i in (0, 1))
    devices, streams = (np.unique(each, axis=0, return_inverse=True)[1].ravel().tolist() for each in places)
    matrix = matrix[:, _peaks(matrix, streams).sum(axis=0) > FULL]
    matrix = _undominated(matrix)
    matrix = matrix[:, ~_implied(matrix, streams, devices)]
    return [{int(link): float(row[link]) for link in np.flatnonzero(row)} for row in matrix]


def _weights(loads: Sequence[LinkLoad]) -> Array:
    """Return the weight of each message on each distinct link, (messages, links)."""
    used = np.unique(np.concatenate([np.empty(0, np.intp), *(load.links for load in loads)]))
    matrix = np.zeros((len(loads), len(used)))
    for row, load in zip(matrix, loads, strict=True):
        if load.uncontended_time:
            row[np.searchsorted(used, load.links)] = np.round(load.busy / load.isolated_time / ROUNDING) * ROUNDING
    with np.errstate(over="ignore"):  # hash columns modulo 2^64: one pair in 2^64 collides
        mixed = np.random.default_rng(0).integers(1, 2**63, (len(loads), 1), np.uint64)
        bits = (np.round(matrix / ROUNDING).astype(np.uint64) * mixed).sum(axis=0, dtype=np.uint64)
    return matrix[:, np.sort(np.unique(bits, return_index=True)[1])]


def _peaks(matrix: Array, groups: Sequence[int]) -> Array:
    """Return the greatest weight of each group of messages on each link, (groups, links)."""
    order = np.argsort(groups, kind="stable")
    starts = np.flatnonzero(np.diff(np.asarray(groups)[order], prepend=-1))
    return np.maximum.reduceat(matrix[order], starts, axis=0) if len(order) else matrix


def _undominated(matrix: Array) -> Array:
    """Return the links without those on which no message has more weight than on another one of them."""
    order = np.argsort(-matrix.sum(axis=0), kind="stable")
    undominated: list[int] = []
    for link in order:
        rows = np.flatnonzero(matrix[:, link])
        others = matrix[rows][:, undominated]
        if not (others >= matrix[rows, link][:, None]).all(axis=0).any():
            undominated.append(int(link))
    return matrix[:, sorted(undominated)]


def _implied(matrix: Array, streams: Sequence[int], devices: Sequence[int]) -> Flags:
    """Tell of each link whether links that a single device sends over keep it from ever being full.

    A device with such a link k sends at most max_m(w_ml / w_mk) over link l, with w the weights of its messages m, or
    the greatest weights of its streams.
    """
    device_of, load = np.asarray(devices), np.zeros(matrix.shape[1])
    users = np.array([np.unique(device_of[column > 0]).size for column in matrix.T], np.intp)
    for device in np.unique(device_of):
        own = matrix[device_of == device]
        most = _peaks(own, np.asarray(streams)[device_of == device].tolist()).sum(axis=0)
        for link in np.flatnonzero((users == 1) & (own > 0).any(axis=0)):
            base = own[:, link][:, None]
            with np.errstate(divide="ignore", invalid="ignore"):
                ratio = np.where(own > 0, own / base, 0.0).max(axis=0)
            most = np.minimum(most, ratio)
        load += most
    return (users > 1) & (load <= FULL)


# ---- Links of a device that its messages and its copies both cross: how much of each a segment of a pass takes -------

_TRANSFERS = (Collective, ExpertAllToAll, HostTransfer)


class LinkUse(Record):
    """What a message or a copy takes of its device's links while it runs alone.

    wire: share of its seconds in which bytes move [-]
    shares: of each link's time while they do [-]
    is_copy: to or from the host; all else are messages
    """

    wire: float
    shares: Mapping[str, float]
    is_copy: bool = False


def pass_link_use(scenario: Scenario, model: PassModel) -> dict[SegmentKey, LinkUse]:
    """Return what each segment of a pass takes of its device's links; nothing where no link can be full.

    A link can be full where the largest shares of a message and of a copy exceed its time together.
    """
    efficiency, is_separate = _host_efficiency(model), scenario.communication.host_link == SEPARATE
    uses = {
        key: use
        for key, segment in _segments(model)
        if (use := _link_use(segment, scenario.cluster, efficiency, is_separate=is_separate)) is not None
    }
    messages, copies = ([use for use in uses.values() if use.is_copy is is_copy] for is_copy in (False, True))
    largest_message, largest_copy = _largest(messages), _largest(copies)
    can_be_full = any(largest_message.get(link, 0.0) + share > 1.0 for link, share in largest_copy.items())
    return uses if can_be_full else {}


def _segments(model: PassModel) -> Iterator[tuple[SegmentKey, Segment]]:
    for kind, layer in enumerate(model.segments):
        for number, segment in enumerate(layer):
            yield (kind, number), segment


def _host_efficiency(model: PassModel) -> float:
    """Return the share of the host link's bandwidth that copies reach, one where there are none."""
    operators = (timed for _, segment in _segments(model) for timed in segment.operators)
    copies = (timed.fit.network_efficiency for timed in operators if isinstance(timed.operator, HostTransfer))
    return float(next(copies, 1.0))


def _largest(uses: Sequence[LinkUse]) -> dict[str, float]:
    links = {link for use in uses for link in use.shares}
    return {link: max(use.shares.get(link, 0.0) for use in uses) for link in links}


def _link_use(segment: Segment, cluster: Cluster, efficiency: float, *, is_separate: bool) -> LinkUse | None:
    """Return what operators that run back to back take; null where some move no bytes, or over no link of these.

    Shares are those of the seconds in which bytes move, of all operators together. is_separate: the NIC does not hang
    behind the link to the host.
    """
    operators: Sequence[TimedOperator] = segment.operators
    wire = sum(float(timed.time.network) for timed in operators)
    if wire <= 0.0 or not all(isinstance(timed.operator, _TRANSFERS) for timed in operators):
        return None
    is_copy, shares = segment.placement.stream in (H2D, D2H), dict[str, float]()
    for timed in operators:
        seconds = float(timed.time.network)
        for link, share in link_shares(timed.operator, seconds, cluster, efficiency).items():
            if is_copy or not (is_separate and link in (HOST_OUT, HOST_IN)):
                shares[link] = shares.get(link, 0.0) + float(share) * seconds / wire
    total = sum(float(timed.time.seconds) for timed in operators)
    return LinkUse(wire / total, shares, is_copy) if shares else None
