"""The closed-form bound of expert-parallel decoding (arXiv 2505.09343, section 2.3.2)."""

from __future__ import annotations

from costmodel.equations import equation
from costmodel.network.group_links import group_links
from costmodel.quantities import Seconds
from costmodel.records import Record
from costmodel.workload.dtypes import payload_width
from costmodel.workload.operators import Group
from costmodel.workload.plans import ExpertBound
from costmodel.workload.scenario import Scenario


class BoundTimes(Record):
    """Seconds of one all-to-all pair, of a layer and of a token."""

    all_to_all: Seconds
    layer: Seconds
    tpot: Seconds


@equation
def bound_times(scenario: Scenario, plan: ExpertBound) -> BoundTimes:
    """Return the bound: computation takes no time, and two micro-batches share the wire.

        tpot = layers * 2 * all_to_all
        layer = 2 * all_to_all
        all_to_all = width * plan.tokens_per_device * plan.sends * plan.hidden / bandwidth

    width: of an element, dispatched and combined [B]; bandwidth: of the slowest link that the expert-parallel group
    crosses [B/s]. Latency, scales and deduplication are excluded, as in the paper.
    """
    width = payload_width(scenario.communication.dispatch) + payload_width(scenario.communication.combine)
    bandwidth = group_links(Group(scenario.parallel.ep), scenario.cluster).slowest
    layers = scenario.architecture.depth
    all_to_all = width * plan.tokens_per_device * plan.sends * plan.hidden / bandwidth
    return BoundTimes(all_to_all, 2 * all_to_all, layers * 2 * all_to_all)
