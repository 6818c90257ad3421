"""How one kernel is timed: warm-up, repeats with operands that no cache holds, the least median of a few series."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias

import numpy as np

from costmodel.records import ValueRecord

Call: TypeAlias = "Callable[[], object]"
Maker: TypeAlias = "Callable[[], Call]"
"""Gives a call of one kernel with operands of its own, which no earlier call has touched for a while."""


class Series(ValueRecord):
    """Calls that were timed one after the other.

    seconds: of each call on the device, those left out that something disturbed.
    host: seconds that it took to start one.
    queued: the device never waited for the host.
    """

    seconds: Sequence[float]
    host: float
    queued: bool = True


class Stopwatch(Protocol):
    """Times calls on a device."""

    def series(self, calls: Sequence[Call]) -> Series:
        """Return how long some calls took, one after the other."""


class Rule(ValueRecord):
    """How often a kernel is run. seconds: of one series; fewest, most: repeats; quiet: a spread that needs no other."""

    seconds: float = 0.03
    fewest: int = 4
    most: int = 60
    warm: int = 3
    series: int = 3
    quiet: float = 0.05


class Timing(ValueRecord):
    """A kernel's median time [s], half its interquartile range over it, and of how many repeats.

    host: seconds to start a call.
    queued: the device never waited for the host.
    """

    seconds: float
    spread: float
    repeats: int
    host: float = 0.0
    queued: bool = True


def measure(make: Maker, watch: Stopwatch, rule: Rule = Rule()) -> Timing:
    """Return the time of one kernel.

    After the warm-up a series of repeats is taken, and another one as long as the spread is above `rule.quiet` or the
    device has waited for the host. Of the series in which it did not, the one with the least median counts, since what
    else runs on a machine only adds time.
    """
    repeats, series = _effort(make, watch, rule)
    timings: list[Timing] = []
    for _ in range(series):
        timings.append(_summary(watch.series([make() for _ in range(repeats)])))
        if timings[-1].spread <= rule.quiet and timings[-1].queued:
            break
    return min(timings, key=lambda timing: (not timing.queued, timing.seconds))


def fixed_series(make: Maker, watch: Stopwatch, warm: int, repeats: int) -> Timing:
    """Return the time of one series of as many calls on every rank of a group, after as many to warm up."""
    watch.series([make() for _ in range(warm)])
    return _summary(watch.series([make() for _ in range(repeats)]))


def _effort(make: Maker, watch: Stopwatch, rule: Rule) -> tuple[int, int]:
    """Warm up. Return how many repeats a series has, and how many series there are at most.

    The first call may compile and plan, and is not timed. A kernel of which one call takes longer than a series should
    is timed in one short series.
    """
    make()()
    if min(watch.series([make()]).seconds) > rule.seconds:
        return rule.fewest, 1
    quickest = min(watch.series([make() for _ in range(rule.warm)]).seconds)
    return int(min(max(rule.seconds / max(quickest, 1e-9), rule.fewest), rule.most)), rule.series


def _summary(series: Series) -> Timing:
    low, median, high = (float(point) for point in np.percentile(series.seconds, (25.0, 50.0, 75.0)))
    return Timing(median, (high - low) / 2.0 / median, len(series.seconds), series.host, series.queued)
