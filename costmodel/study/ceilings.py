"""The most that a change can save, bounded without asking the model what the change does.

share    of the lines of a breakdown that the change touches, of what slows them, and of bubble and waits: nothing
         else can shrink
f        the largest factor by which the change improves any rate or reduces any size: no time shrinks by more

saved <= share * (1 - 1/f)           of kernels: what overlaps them does not get shorter
saved <= min(share, 1 - 1/f)         of messages: what is exposed of one goes wholly where the rest is hidden

A server at a rate has none: shorter steps leave fewer requests at once, which shortens those of other lines as well.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from costmodel.analytic.breakdown import ALL_TO_ALL_CONTENTION
from costmodel.quantities import maximum
from costmodel.result import Entry
from costmodel.workload.dtypes import ELEMENT_BYTES, LOGARITHMIC, payload_width
from costmodel.workload.scenario import Scenario

MESSAGES = (
    "hardware.node.nic", "hardware.node.peer", "hardware.network", "hardware.links", "hardware.node.host",
    "hardware.node.count",
)  # fmt: skip
KERNELS = ("hardware.memory", "hardware.math", "hardware.clock", "hardware.processors")
_KEYS = "dispatch", "combine", "in_network", "multicast", "reduction", "codec", "checksum", "fences", "host_link"
OF_EXCHANGE = tuple(f"communication.{key}" for key in _KEYS)
SENDING = "communication.processors"
_SLOWED = (ALL_TO_ALL_CONTENTION,)  # lines that grow with what runs during kernels
_SERVERS = ("serving", "disaggregated", "pools")
_WAITS = ("wait", "bubble")
_MATH = "hardware.math."


class Whole(NamedTuple):
    """A scenario whose parts changes shorten. headline: the metric that the lines of its breakdown and the bubble
    make up."""

    phase: str
    headline: float
    breakdown: Sequence[Entry]


def ceiling(before: Whole, scenario: Scenario, values: Mapping[str, tuple[Any, Any]]) -> float | None:
    """Return the most that changes can save of the headline, a share of it, null of a server.

    scenario: without them.
    values: path -> its value before and after, paths without the name of a scenario.
    """
    if before.phase in _SERVERS:
        return None
    share = _of_lines(before, values)
    factor = 1.0 - 1.0 / max((_factor(scenario, path, *pair) for path, pair in values.items()), default=1.0)
    of_kernels = all(path.startswith(KERNELS) or path == SENDING for path in values)
    return share * factor if of_kernels else min(share, factor)


def with_waves(before: Whole, values: Mapping[str, tuple[Any, Any]]) -> float | None:
    """Return the most that freed processors save where their share does not bound it, null for other changes.

    A kernel of two waves of tiles may need one: half of its time. What sends instead of a few processors may send as
    fast as the library's own number of them: an exchange may be hidden whole.
    """
    if SENDING not in values or before.phase in _SERVERS:
        return None
    exchanges = {path: pair for path, pair in values.items() if path != SENDING} | {OF_EXCHANGE[0]: (None, None)}
    return min(0.5 * _of_lines(before, values) + _of_lines(before, exchanges), 1.0)


def _factor(scenario: Scenario, path: str, old: Any, new: Any) -> float:
    """Return f by which a change improves a rate or reduces a size, at least one; infinite of no number or format."""
    if path == SENDING:
        processors = float(np.asarray(scenario.cluster.device.processors))
        return max((processors - float(new)) / (processors - float(old)), 1.0)
    if isinstance(old, bool) or isinstance(new, bool):
        return math.inf
    if isinstance(old, int | float) and isinstance(new, int | float):
        return _ratio(float(old), float(new))
    if isinstance(old, str) and isinstance(new, str) and {old, new} <= {*ELEMENT_BYTES, *LOGARITHMIC}:
        return max(payload_width(old) / payload_width(new), 1.0)
    return 1.0 if old == new else math.inf


def _ratio(old: float, new: float) -> float:
    """Return how many times a number grows or shrinks."""
    if old == new:
        return 1.0
    return math.inf if 0.0 in (old, new) else max(new / old, old / new)


def _of_lines(before: Whole, values: Mapping[str, tuple[Any, Any]]) -> float:
    """Return the share of the headline that the lines make which any of the changes touches."""
    touched = [entry for entry in before.breakdown if any(_touches(path, entry) for path in values)]
    listed = math.fsum(entry.time for entry in before.breakdown)
    bubble = max(before.headline - listed, 0.0)  # of a training step, besides its lines
    return min((math.fsum(entry.time for entry in touched) + bubble) / before.headline, 1.0)


def _touches(path: str, entry: Entry) -> bool:
    """Tell whether a change of a path can shorten a line."""
    if entry.name in _SLOWED or any(word in entry.name for word in _WAITS):
        return True
    is_message = entry.traffic is None
    if path.startswith(_MATH):
        return entry.dtype == path.removeprefix(_MATH).partition(".")[0]
    if path.startswith((*MESSAGES, *OF_EXCHANGE)):
        return is_message
    if path.startswith(KERNELS) or path == SENDING:
        return not is_message
    return True


def within(saved: float, most: float, tolerance: float = 1e-9) -> bool:
    """Tell whether a saving keeps to its ceiling but for rounding."""
    return bool(saved <= float(maximum(most, 0.0)) + tolerance)
