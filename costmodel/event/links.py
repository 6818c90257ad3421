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
    from costmodel.network.loads import LinkLoad, Wires

FULL = 1.0 + 1e-6  # of a link's time: sums of loads that come to less never make it bound
ROUNDING = 1e-9  # weights that differ by less are one
Sender: TypeAlias = "tuple[int, int]"  # (device, stream) of a message


class _Sent(NamedTuple):
    """A message that is sent again and again. target: as of `Links.sent`."""

    message: Message
    priced: TimedOperator
    sender: Sender
    target: int | None


@dataclass(slots=True)
class Links:
    """Collects the messages of a graph and finds the links on which they meet. wires: null without contention."""

    wires: Wires | None
    _sent: list[_Sent] = field(default_factory=list)
    _known: dict[tuple[object, ...], tuple[float, Message | None]] = field(default_factory=dict)
    _copies: dict[int, tuple[Message, ...]] = field(default_factory=dict)  # by the identity of a message

    def sent(
        self, seconds: float, wire: float, priced: TimedOperator | None, sender: Sender, target: int | None = None
    ) -> tuple[float, Message | None]:
        """Return (time before bytes move [s], what moves then); `settle` tells it the links once all is known.

        wire: the part of `seconds` in which bytes move [s]; priced: the message, null for what is none; target:
        pipeline rank that a message between two ranks goes to.
        """
        if self.wires is None or priced is None or wire <= 0:
            return seconds, None
        key = (id(priced), seconds, wire, sender, target)
        known = self._known.get(key)
        if known is None:
            message = Message({}, wire, 1.0)
            known = self._known[key] = max(seconds - wire, 0.0), message
            self._sent.append(_Sent(message, priced, sender, target))
        return known

    def assign_links(self, graph: Graph, replicas: int = 1, of: int = 1) -> None:
        """Tell every message its links, and the graph how many of them there are.

        replicas: of `of` data-parallel ones, that are simulated one by one, each with messages of its own. A message's
        bytes are the seconds that it takes by itself: links carry one a second, and so does a message.
        """
        if self.wires is None:
            return
        parts = [(0, 1)] if replicas == 1 else [(replica, of) for replica in range(replicas)]
        loads = [self._load(each, part) for each in self._sent for part in parts]
        last = 1 + max((each.sender for each in self._sent), default=(0, 0))[0]
        senders = [
            (number * last + each.sender[0], number * len(graph.streams) + each.sender[1])
            for each in self._sent
            for number in range(len(parts))
        ]
        found = iter(zip(binding(loads, senders), loads, strict=True))
        for each in self._sent:
            size = each.message.size
            made = [Message(weights, size * load.slower, 1.0) for weights, load in (next(found) for _ in parts)]
            each.message.loads, each.message.size = made[0].loads, made[0].size
            self._copies[id(each.message)] = tuple(made)
        links = [link for made in self._copies.values() for message in made for link in message.loads]
        graph.capacity = np.ones(1 + max(links, default=-1))

    def copies(self, message: Message) -> tuple[Message, ...]:
        """Return a message of each replica."""
        return self._copies[id(message)]

    def _load(self, sent: _Sent, part: tuple[int, int]) -> LinkLoad:
        assert self.wires is not None, "there is contention"
        operator, rank = sent.priced.operator, sent.sender[0]
        if sent.target is not None:
            assert isinstance(operator, Collective), "it has a size"
            return self.wires.send(float(operator.size), rank, sent.target, part)
        assert isinstance(operator, Collective | ExpertAllToAll), "it has a group"
        return self.wires.collective(operator, rank, part)


def links_of(scenario: Scenario, copies: int = 1) -> Links:
    """Return the links of a scenario's cluster. copies: ranks of a pipeline that hold each stage."""
    if not scenario.simulation.contention:
        return Links(None)
    from costmodel.network.loads import Wires  # builds graphs: nothing that a simulation without contention waits for

    ranks = round(float(scenario.parallel.pp))
    width = round(float(scenario.parallel.devices)) // ranks
    return Links(Wires(scenario.cluster, ranks, width, copies, scenario.simulation.seed))


def wire_seconds(priced: TimedOperator, seconds: float) -> float:
    """Return the part of an operator's exposed `seconds` in which bytes move [s]."""
    whole = float(priced.time.seconds)
    return seconds * float(priced.time.network) / whole if whole else 0.0


def binding(loads: Sequence[LinkLoad], senders: Sequence[Sender]) -> list[dict[int, float]]:
    """Return of each message its weights on the links that can come to bound it, which are numbered anew.

    A weight is the share of a link's time that the message takes by itself. Links on which every message weighs the
    same are one. A link that is never full goes: where the messages of all streams at once do not fill it, where
    another one is always fuller, or where links of their own hold its senders to less than it carries.
    """
    matrix = _weights(loads)
    streams, devices = ([sender[at] for sender in senders] for at in (1, 0))
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
    kept: list[int] = []
    for link in order:
        rows = np.flatnonzero(matrix[:, link])
        others = matrix[rows][:, kept]
        if not (others >= matrix[rows, link][:, None]).all(axis=0).any():
            kept.append(int(link))
    return matrix[:, sorted(kept)]


def _implied(matrix: Array, streams: Sequence[int], devices: Sequence[int]) -> Flags:
    """Tell of each link whether the links that only one device sends over keep it from ever being full.

    A device with such a link k sends at most max_m(w_ml / w_mk) over link l, with w the weights of its messages m, or
    what its streams send at most.
    """
    place, held = np.asarray(devices), np.zeros(matrix.shape[1])
    users = np.array([np.unique(place[column > 0]).size for column in matrix.T], np.intp)
    for device in np.unique(place):
        own = matrix[place == device]
        most = _summed(_peaks(own, np.asarray(streams)[place == device].tolist()))
        for link in np.flatnonzero((users == 1) & (own > 0).any(axis=0)):
            base = own[:, link][:, None]
            with np.errstate(divide="ignore", invalid="ignore"):
                ratio = np.where(own > 0, own / base, 0.0).max(axis=0)
            most = np.minimum(most, ratio)
        held += most
    return (users > 1) & (held <= FULL)
