"""The steady state of a long step: what happens between its first and last micro-batches repeats.

Passes take max-plus sums of fixed durations in a fixed order that repeats, so that the time of M micro-batches grows by
the same amount with every period once the pipeline is full [Baccelli et al., Synchronization and Linearity, 1992,
theorem 3.112]: T(M + c) = T(M) + c * lambda for M >= M0. Two short steps give the time of any longer one:

    T(M) = T(m) + r * (T(m + c) - T(m)),   r = (M - m) / c
"""

from __future__ import annotations

from typing import NamedTuple

from costmodel.quantities import Count, Quantity, minimum

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


_THERE_AND_BACK = ("zb-v", "dualpipe-v")  # a rank holds a stage on the way down and one on the way up


class PeakChunks(NamedTuple):
    """Activations that the first rank keeps at its fullest: chunks of its first stage, and of each of its others."""

    first: Count
    others: Count


def placement_of(name: str, pp: int, virtual: int) -> tuple[tuple[int, ...], ...]:
    """Return the stages of each rank, as `order(name, pp, virtual, …).placement` has them."""
    if name == "dualpipe":
        return tuple((rank, pp - 1 - rank) for rank in range(pp))
    if name in _THERE_AND_BACK:
        return tuple((rank, 2 * pp - 1 - rank) for rank in range(pp))
    return tuple(tuple(range(rank, virtual * pp, pp)) for rank in range(pp))


def first_rank_chunks(name: str, pp: Count, micro_batches: Count) -> PeakChunks:
    """Return a state that the first rank passes through, one of its fullest: as of `Schedule.in_flight(0)`.

    gpipe            M
    1f1b, zb-h1      min(PP, M)
    interleaved      min(2*PP - 1, M) and min(PP, M)
    combined-1f1b    min(2*PP, M) and min(PP, M)
    zb-v             min(2*PP - 1, M) and 1
    dualpipe         PP and 1
    dualpipe-v       2*PP and 1
    """
    if name == "gpipe":
        return PeakChunks(micro_batches, 0.0)
    if name in ("1f1b", "zb-h1"):
        return PeakChunks(minimum(pp, micro_batches), 0.0)
    if name == "interleaved":
        return PeakChunks(minimum(2 * pp - 1, micro_batches), minimum(pp, micro_batches))
    if name == "combined-1f1b":
        return PeakChunks(minimum(2 * pp, micro_batches), minimum(pp, micro_batches))
    if name == "zb-v":
        return PeakChunks(minimum(2 * pp - 1, micro_batches), 1.0)
    return PeakChunks(pp if name == "dualpipe" else 2 * pp, 1.0)
