"""How one kernel is timed: warm-up, repeats with operands that no cache holds, the least median of a few series."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np

Call: TypeAlias = "Callable[[], object]"
Maker: TypeAlias = "Callable[[], Call]"
"""Gives a call of one kernel with operands of its own, which no earlier call has touched for a while."""


class Stopwatch(Protocol):
    """Times calls on a device."""

    def times(self, calls: Sequence[Call]) -> list[float]:
        """Return how long some calls took, one after the other; calls that something disturbed may be left out [s]."""


@dataclass(frozen=True, slots=True)
class Rule:
    """How often a kernel is run. seconds: of one series; fewest, most: repeats; quiet: a spread that needs no other."""

    seconds: float = 0.03
    fewest: int = 4
    most: int = 60
    warm: int = 3
    series: int = 3
    quiet: float = 0.05


@dataclass(frozen=True, slots=True)
class Timing:
    """A kernel's median time [s], half its interquartile range over it, and of how many repeats."""

    seconds: float
    spread: float
    repeats: int


def measure(make: Maker, watch: Stopwatch, rule: Rule = Rule()) -> Timing:
    """Return the time of one kernel.

    After the warm-up a series of repeats is taken, and another one as long as the spread is above `rule.quiet`; the
    series with the least median counts, since what else runs on a machine only adds time.
    """
    repeats, series = _effort(make, watch, rule)
    best: Timing | None = None
    for _ in range(series):
        timing = _summary(watch.times([make() for _ in range(repeats)]))
        if best is None or timing.seconds < best.seconds:
            best = timing
        if timing.spread <= rule.quiet:
            break
    assert best is not None, "a rule has at least one series"
    return best


def fixed_series(make: Maker, watch: Stopwatch, warm: int, repeats: int) -> Timing:
    """Return the time of one series of as many calls on every rank of a group, after as many to warm up."""
    watch.times([make() for _ in range(warm)])
    return _summary(watch.times([make() for _ in range(repeats)]))


def _effort(make: Maker, watch: Stopwatch, rule: Rule) -> tuple[int, int]:
    """Warm up; return how many repeats a series has, and how many series there are at most.

    The first call may compile and plan, and is not timed. A kernel of which one call takes longer than a series should
    is timed in one short series.
    """
    make()()
    if min(watch.times([make()])) > rule.seconds:
        return rule.fewest, 1
    quickest = min(watch.times([make() for _ in range(rule.warm)]))
    return int(min(max(rule.seconds / max(quickest, 1e-9), rule.fewest), rule.most)), rule.series


def _summary(times: Sequence[float]) -> Timing:
    low, median, high = (float(point) for point in np.percentile(times, (25.0, 50.0, 75.0)))
    return Timing(median, (high - low) / 2.0 / median, len(times))
