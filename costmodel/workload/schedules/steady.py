"""The steady state of a long step: what happens between its first and last micro-batches repeats.

Passes take max-plus sums of fixed durations in a fixed order that repeats, so that the time of M micro-batches grows by
the same amount with every period once the pipeline is full [Baccelli et al., Synchronization and Linearity, 1992,
theorem 3.112]: T(M + c) = T(M) + c * lambda for M >= M0. Two short steps give the time of any longer one:

    T(M) = T(m) + r * (T(m + c) - T(m)),   r = (M - m) / c
"""

from __future__ import annotations

from typing import NamedTuple

from costmodel.quantities import Quantity

LEAST = 512  # micro-batches up to which each is run
_FILLS = 4  # times that the pipeline is filled before its steady state is read off
_PERIODS = 4  # of a schedule's order, which repeats after PP micro-batches or fewer, that one period here has


class SteadyState(NamedTuple):
    """A step of many micro-batches as two shorter ones. repeats: periods that the shorter one lacks, zero if none."""

    shorter: int
    longer: int
    repeats: float

    def at(self, shorter: Quantity, longer: Quantity) -> Quantity:
        """Return what the step has of a quantity that grows evenly, from those of the two shorter ones."""
        return shorter + self.repeats * (longer - shorter)


def steady_state(schedule: str, pp: int, virtual: int, micro_batches: int) -> SteadyState:
    """Return two short steps that say how long a step of many micro-batches takes. Itself where it is no longer.

    GPipe has no steady state: it keeps all micro-batches.
    """
    period = _PERIODS * pp
    base = max(LEAST, _FILLS * pp * virtual)
    if schedule == "gpipe" or micro_batches <= base + period:
        return SteadyState(micro_batches, micro_batches, 0.0)
    shorter = base + (micro_batches - base) % period
    return SteadyState(shorter, shorter + period, (micro_batches - shorter) / period)
