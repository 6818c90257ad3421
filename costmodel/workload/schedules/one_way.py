"""Schedules whose backward passes are whole: GPipe, 1F1B, interleaved 1F1B and combined 1F1B.

Each rank runs some forward passes first, then a forward and a backward pass in turn, then the backward passes that are
left. The schedules differ in the number of forward passes before the first backward pass, the warm-up.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from costmodel.workload.schedules.actions import Action, Chunk, Kind, backward, forward
from costmodel.workload.schedules.schedule import Schedule


def gpipe(pp: int, virtual: int, micro_batches: int) -> Schedule:  # noqa: ARG001  every schedule has this signature
    """Return GPipe: all forward passes, then all backward passes in the same order [Huang et al., NeurIPS 2019]."""
    ranks = []
    for rank in range(pp):
        chunks = [Chunk(rank, micro_batch) for micro_batch in range(micro_batches)]
        ranks.append(_in_turn(chunks, chunks, micro_batches))
    return Schedule("gpipe", tuple(ranks), _a_stage_each(pp), micro_batches)


def one_forward_one_backward(pp: int, virtual: int, micro_batches: int) -> Schedule:  # noqa: ARG001
    """Return 1F1B: rank r runs PP-1-r forwards, then alternates, then drains.

    Source: Narayanan et al., SC 2021, section 2.2.1.
    """
    ranks = []
    for rank in range(pp):
        chunks = [Chunk(rank, micro_batch) for micro_batch in range(micro_batches)]
        ranks.append(_in_turn(chunks, chunks, pp - 1 - rank))
    return Schedule("1f1b", tuple(ranks), _a_stage_each(pp), micro_batches)


def interleaved(pp: int, virtual: int, micro_batches: int) -> Schedule:
    """Return interleaved 1F1B: rank r holds `virtual` stages, r + i*PP, and takes PP micro-batches at a time.

    A group of PP micro-batches passes the rank's stages one after the other, backwards in reverse. Rank r warms up with
    2*(PP-1-r) + (virtual-1)*PP chunks. Source: Narayanan et al., SC 2021, section 2.2.2; NVIDIA/Megatron-LM,
    `forward_backward_pipelining_with_interleaving`.
    """
    ranks = []
    for rank in range(pp):
        stages = range(rank, virtual * pp, pp)
        there = list(_in_groups(stages, pp, micro_batches))
        back = list(_in_groups(stages[::-1], pp, micro_batches))
        ranks.append(_in_turn(there, back, 2 * (pp - 1 - rank) + (virtual - 1) * pp))
    placement = tuple(tuple(range(rank, virtual * pp, pp)) for rank in range(pp))
    return Schedule("interleaved", tuple(ranks), placement, micro_batches)


def combined(pp: int, virtual: int, micro_batches: int) -> Schedule:
    """Return combined 1F1B: interleaved 1F1B whose pairs of passes overlap, after one more forward pass of warm-up.

    The exchanges of experts of either pass run during the other one's kernels. Source: Megatron Core Developer Guide,
    Combined 1F1B: Expert-Parallel All-to-All Overlap (`--overlap-moe-expert-parallel-comm`).
    """
    ranks = []
    for rank in range(pp):
        stages = range(rank, virtual * pp, pp)
        there = list(_in_groups(stages, pp, micro_batches))
        back = list(_in_groups(stages[::-1], pp, micro_batches))
        warm_up = 2 * (pp - 1 - rank) + (virtual - 1) * pp + 1
        pairs = zip(there[warm_up:], back, strict=False)
        left = len(there[warm_up:])
        ranks.append((
            *map(forward, there[:warm_up]),
            *(Action(Kind.FORWARD_BACKWARD, *pair) for pair in pairs),
            *map(backward, back[left:]),
        ))  # fmt: skip
    placement = tuple(tuple(range(rank, virtual * pp, pp)) for rank in range(pp))
    return Schedule("combined-1f1b", tuple(ranks), placement, micro_batches)


def _in_turn(there: Sequence[Chunk], back: Sequence[Chunk], warm_up: int) -> tuple[Action, ...]:
    """Return `warm_up` forward passes, then a forward and a backward pass in turn, then the backward passes left."""
    forwards = [forward(chunk) for chunk in there]
    backwards = [backward(chunk) for chunk in back]
    left = len(forwards[warm_up:])
    steady = [action for pair in zip(forwards[warm_up:], backwards, strict=False) for action in pair]
    return (*forwards[:warm_up], *steady, *backwards[left:])


def _in_groups(stages: Sequence[int], pp: int, micro_batches: int) -> Iterator[Chunk]:
    """Yield a rank's chunks: groups of PP micro-batches, each through the stages in that order."""
    for group in range(0, micro_batches, pp):
        for stage in stages:
            yield from (Chunk(stage, micro_batch) for micro_batch in range(group, group + pp))


def _a_stage_each(pp: int) -> tuple[tuple[int, ...], ...]:
    return tuple((rank,) for rank in range(pp))
