"""Which stages ranks hold, and how many chunks the first one keeps, in closed form: no order is built."""

from __future__ import annotations

from typing import NamedTuple

from costmodel.quantities import Count, minimum

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
