"""Links of a device that its messages and its copies both cross: how much of each a segment of a pass takes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from costmodel.analytic.inference import PassModel
from costmodel.analytic.operator_timing import TimedOperator
from costmodel.analytic.segments import D2H, H2D, Segment, SegmentKey
from costmodel.hardware import Cluster
from costmodel.network.link_shares import HOST_IN, HOST_OUT, SEPARATE, link_shares
from costmodel.records import Record
from costmodel.workload.operators import Collective, ExpertAllToAll, HostTransfer
from costmodel.workload.scenario import Scenario

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
