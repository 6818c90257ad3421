"""What the segments of a pass move over links that others cross meanwhile."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from costmodel.analytic.link_sharing import Moving, meets
from costmodel.analytic.operator_timing import TimedOperator
from costmodel.analytic.recurrence import Program
from costmodel.analytic.recurrence.waves import NOTHING
from costmodel.analytic.segments import D2H, H2D, Segment, SegmentKey
from costmodel.hardware import Cluster
from costmodel.network.link_shares import link_shares
from costmodel.quantities import Quantity, sum_of, where
from costmodel.records import replace
from costmodel.workload.operators import Collective, ExpertAllToAll, HostTransfer

BACKGROUND = D2H + 1
"""Stream of a message beside the pass."""
BACKGROUND_SLOT: SegmentKey = (-1, 0)
_MOVING = (Collective, ExpertAllToAll, HostTransfer)


def moving_of(
    layers: Sequence[Sequence[Segment]], background: TimedOperator | None, cluster: Cluster, policy: str
) -> dict[SegmentKey, Moving]:
    """Return what each segment moves over shared links, none where no two that run at the same time fill one.

    background: a message beside the pass, under `BACKGROUND_SLOT`.
    """
    efficiency = host_efficiency(layers)
    found: dict[SegmentKey, Moving] = {}
    for kind, layer in enumerate(layers):
        for number, segment in enumerate(layer):
            item = segment_moving(
                segment.operators, cluster, efficiency, is_copy=segment.placement.stream in (H2D, D2H)
            )
            if item is not None:
                found[kind, number] = item
    if background is not None:
        item = segment_moving((background,), cluster, efficiency)
        if item is not None:
            found[BACKGROUND_SLOT] = item
    beside = found.get(BACKGROUND_SLOT)
    copies = [item for item in found.values() if item.is_copy]
    messages = [item for key, item in found.items() if not item.is_copy and key != BACKGROUND_SLOT]
    pairs = [(message, copy) for copy in copies for message in (*messages, *([beside] if beside else ()))]
    pairs += [(message, beside) for message in messages if beside is not None]
    is_slowed = any(bool(np.any(np.less(speed, 1.0))) for pair in pairs for speed in meets(*pair, policy))
    return found if is_slowed else {}


def host_efficiency(layers: Sequence[Sequence[Segment]]) -> Quantity:
    """Return the share of the host link's bandwidth that copies reach, one where there are none."""
    copies = (timed for layer in layers for segment in layer for timed in segment.operators)
    return next((timed.fit.network_efficiency for timed in copies if isinstance(timed.operator, HostTransfer)), 1.0)


def segment_moving(
    operators: Sequence[TimedOperator], cluster: Cluster, efficiency: Quantity, *, is_copy: bool = False
) -> Moving | None:
    """Return what operators that run back to back move. Null where some do not, or over no shared link.

    Shares are those of the seconds in which bytes move, of all of them together.
    """
    wires = [timed.time.network for timed in operators]
    wire, total = sum_of(wires), sum_of(timed.time.seconds for timed in operators)
    if not np.any(np.greater(wire, 0)) or not all(isinstance(timed.operator, _MOVING) for timed in operators):
        return None
    busy = where(np.greater(wire, 0), wire, 1.0)
    shares: dict[str, Quantity] = {}
    for timed, seconds in zip(operators, wires, strict=True):
        for link, share in link_shares(timed.operator, seconds, cluster, efficiency).items():
            shares[link] = shares.get(link, 0.0) + share * seconds / busy
    return Moving(wire / where(np.greater(total, 0), total, 1.0), shares, is_copy) if shares else None


def with_background(program: Program[SegmentKey], moving: Mapping[SegmentKey, Moving]) -> Program[SegmentKey]:
    """Return a pass with a message beside it, which begins when the pass's first message may.

    Where in a pass it comes is chance. Layers before the first exchange are not those that most of it meets.
    """
    first = first_message(program, moving)
    after = np.full((len(program.after), 1), NOTHING) if first is None else program.after[:, [first]]
    return replace(
        program,
        stream=np.append(program.stream, BACKGROUND),
        slot=np.append(program.slot, len(program.slots)),
        after=np.hstack([program.after, after]),
        receives=np.hstack([program.receives, np.full((len(program.receives), 1), NOTHING)]),
        slots=(*program.slots, BACKGROUND_SLOT),
    )


def first_message(program: Program[SegmentKey], moving: Mapping[SegmentKey, Moving]) -> int | None:
    """Return the first event of a pass that is a message over a shared link, null without any."""
    messages = [slot in moving and not moving[slot].is_copy for slot in program.slots]
    return next((event for event, slot in enumerate(program.slot.tolist()) if messages[slot]), None)


def beside_background(background: TimedOperator | None) -> frozenset[int]:
    """Return the streams whose messages share links with those of a pass."""
    return frozenset() if background is None else frozenset({BACKGROUND})
