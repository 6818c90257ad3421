"""The links that messages share, where a scenario asks for contention: which ones can be full, and who loads them.

A message is one flow that loads all links of its ranks in proportion, as a kernel does that moves chunk by chunk. By
itself it takes the time that its fit says, times what the fabric makes its own flows wait for each other; messages on a
common link share it max-min fairly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np

from costmodel.analytic.operator_timing import TimedOperator
from costmodel.event.graph import Graph, Message
from costmodel.network.sharing import Flags
from costmodel.quantities import Array
from costmodel.workload.operators import Collective, ExpertAllToAll
from costmodel.workload.scenario import Scenario

if TYPE_CHECKING:
    from costmodel.network.link_loads import LinkLoad, LinkLoads

FULL = 1.0 + 1e-6  # of a link's time: sums of loads that come to less never make it bound
ROUNDING = 1e-9  # weights that differ by less are one
Sender: TypeAlias = "tuple[int, int]"  # (device, stream) of a message


class _Repeated(NamedTuple):
    """A message that is sent again and again. target: as of `Links.message`."""

    message: Message
    timed: TimedOperator
    sender: Sender
    target: int | None


@dataclass(slots=True)
class Links:
    """Collects the messages of a graph and finds the links on which they meet. link_loads: null without contention."""

    link_loads: LinkLoads | None
    _repeated: list[_Repeated] = field(default_factory=list)
    _known: dict[tuple[object, ...], tuple[float, Message | None]] = field(default_factory=dict)
    _by_replica: dict[int, tuple[Message, ...]] = field(default_factory=dict)  # by the identity of a message

    def message(
        self, seconds: float, wire: float, timed: TimedOperator | None, sender: Sender, target: int | None = None
    ) -> tuple[float, Message | None]:
        """Return (time before bytes move [s], the message); it gets its links from `assign_links`.

        wire: the part of `seconds` in which bytes move [s].
        timed: the operator, null for what is no message.
        target: pipeline rank that a message between two ranks goes to.
        """
        if self.link_loads is None or timed is None or wire <= 0:
            return seconds, None
        key = (id(timed), seconds, wire, sender, target)
        known = self._known.get(key)
        if known is None:
            message = Message({}, wire, 1.0)
            known = self._known[key] = max(seconds - wire, 0.0), message
            self._repeated.append(_Repeated(message, timed, sender, target))
        return known

    def assign_links(self, graph: Graph, replicas: int = 1, of: int = 1) -> None:
        """Give every message its links, and the graph their number.

        replicas: of `of` data-parallel ones, that are simulated one by one, each with messages of its own. A message's
        bytes are the seconds that it takes by itself: links carry one a second, and so does a message.
        """
        if self.link_loads is None:
            return
        blocks = [(0, 1)] if replicas == 1 else [(replica, of) for replica in range(replicas)]
        loads = [self._load(repeated, block) for repeated in self._repeated for block in blocks]
        devices = 1 + max((repeated.sender for repeated in self._repeated), default=(0, 0))[0]
        senders = [
            (number * devices + repeated.sender[0], number * len(graph.streams) + repeated.sender[1])
            for repeated in self._repeated
            for number in range(len(blocks))
        ]
        weighted = iter(zip(binding(loads, senders), loads, strict=True))
        for repeated in self._repeated:
            size = repeated.message.size
            messages = [
                Message(weights, size * load.slowdown, 1.0) for weights, load in (next(weighted) for _ in blocks)
            ]
            repeated.message.loads, repeated.message.size = messages[0].loads, messages[0].size
            self._by_replica[id(repeated.message)] = tuple(messages)
        links = [link for messages in self._by_replica.values() for message in messages for link in message.loads]
        graph.capacity = np.ones(1 + max(links, default=-1))

    def of_replicas(self, message: Message) -> tuple[Message, ...]:
        """Return a message of each replica."""
        return self._by_replica[id(message)]

    def _load(self, repeated: _Repeated, block: tuple[int, int]) -> LinkLoad:
        assert self.link_loads is not None, "there is contention"
        operator, rank = repeated.timed.operator, repeated.sender[0]
        if repeated.target is not None:
            assert isinstance(operator, Collective), "it has a size"
            return self.link_loads.send(float(operator.size), rank, repeated.target, block)
        assert isinstance(operator, Collective | ExpertAllToAll), "it has a group"
        return self.link_loads.collective(operator, rank, block)


def links_of(scenario: Scenario, stage_replicas: int = 1) -> Links:
    """Return the links of a scenario's cluster. stage_replicas: ranks of a pipeline that hold each stage."""
    if not scenario.simulation.contention:
        return Links(None)
    from costmodel.network.link_loads import (
        LinkLoads,  # builds graphs: nothing that a simulation without contention waits for
    )

    ranks = round(float(scenario.parallel.pp))
    width = round(float(scenario.parallel.devices)) // ranks
    return Links(LinkLoads(scenario.cluster, ranks, width, stage_replicas, scenario.simulation.seed))


def wire_seconds(timed: TimedOperator, seconds: float) -> float:
    """Return the part of an operator's exposed `seconds` in which bytes move [s]."""
    whole = float(timed.time.seconds)
    return seconds * float(timed.time.network) / whole if whole else 0.0


def binding(loads: Sequence[LinkLoad], senders: Sequence[Sender]) -> list[dict[int, float]]:
    """Return of each message its weights on the links that can bound it, which are numbered anew.

    A weight is the share of a link's time that the message takes by itself. Links on which every message weighs the
    same are one. A link that is never full goes: where the messages of all streams at once do not fill it, where
    another one is always fuller, or where links of their own hold its senders to less than it carries.
    """
    matrix = _weights(loads)
    streams, devices = ([sender[i] for sender in senders] for i in (1, 0))
    matrix = matrix[:, _summed(_peaks(matrix, streams)) > FULL]
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
    with np.errstate(over="ignore"):  # sums modulo 2^64 tell columns apart, but for one pair in 2^64
        mixed = np.random.default_rng(0).integers(1, 2**63, (len(loads), 1), np.uint64)
        bits = (np.round(matrix / ROUNDING).astype(np.uint64) * mixed).sum(axis=0, dtype=np.uint64)
    return matrix[:, np.sort(np.unique(bits, return_index=True)[1])]


def _peaks(matrix: Array, groups: Sequence[int]) -> Array:
    """Return the greatest weight of each group of messages on each link, (groups, links)."""
    order = np.argsort(groups, kind="stable")
    starts = np.flatnonzero(np.diff(np.asarray(groups)[order], prepend=-1))
    return np.maximum.reduceat(matrix[order], starts, axis=0) if len(order) else matrix


def _summed(values: Array) -> Array:
    total: Array = values.sum(axis=0)
    return total


def _undominated(matrix: Array) -> Array:
    """Return the links without those on which no message weighs more than on another one of them."""
    order = np.argsort(-matrix.sum(axis=0), kind="stable")
    links: list[int] = []
    for link in order:
        rows = np.flatnonzero(matrix[:, link])
        others = matrix[rows][:, links]
        if not (others >= matrix[rows, link][:, None]).all(axis=0).any():
            links.append(int(link))
    return matrix[:, sorted(links)]


def _implied(matrix: Array, streams: Sequence[int], devices: Sequence[int]) -> Flags:
    """Tell of each link whether the links that only one device sends over keep it from ever being full.

    A device with such a link k sends at most max_m(w_ml / w_mk) over link l, with w the weights of its messages m, or
    what its streams send at most.
    """
    device_of, bound = np.asarray(devices), np.zeros(matrix.shape[1])
    users = np.array([np.unique(device_of[column > 0]).size for column in matrix.T], np.intp)
    for device in np.unique(device_of):
        own = matrix[device_of == device]
        most = _summed(_peaks(own, np.asarray(streams)[device_of == device].tolist()))
        for link in np.flatnonzero((users == 1) & (own > 0).any(axis=0)):
            base = own[:, link][:, None]
            with np.errstate(divide="ignore", invalid="ignore"):
                ratio = np.where(own > 0, own / base, 0.0).max(axis=0)
            most = np.minimum(most, ratio)
        bound += most
    return (users > 1) & (bound <= FULL)
