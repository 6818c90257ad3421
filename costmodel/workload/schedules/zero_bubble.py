"""Schedules that move weight gradients, for which nobody waits, into the gaps of the pipeline: ZB-H1 and ZB-V."""

from __future__ import annotations

from collections.abc import Iterator

from costmodel.workload.schedules.actions import Action, Chunk, forward, input_gradient, weight_gradient
from costmodel.workload.schedules.schedule import Schedule


def zb_h1(pp: int, virtual: int, micro_batches: int) -> Schedule:  # noqa: ARG001  every schedule has this signature
    """Return ZB-H1: 1F1B in which rank r runs each weight gradient r micro-batches late, so that all ranks hold PP.

    Source: Qi et al., Zero Bubble Pipeline Parallelism, arXiv 2401.10241, section 2.1 and figure 3.
    """
    ranks = tuple(_late_weights(rank, pp, micro_batches) for rank in range(pp))
    return Schedule("zb-h1", ranks, tuple((rank,) for rank in range(pp)), micro_batches)


def _late_weights(rank: int, pp: int, micro_batches: int) -> tuple[Action, ...]:
    """Return the order of one rank of ZB-H1: PP-1-r forwards, forward and backward in turn, backwards, weights left."""
    chunks = [Chunk(rank, micro_batch) for micro_batch in range(micro_batches)]
    warm_up = min(pp - 1 - rank, micro_batches)
    actions = [forward(chunk) for chunk in chunks[:warm_up]]
    for number, chunk in enumerate(chunks):
        actions.extend(forward(following) for following in chunks[number + warm_up : number + warm_up + 1])
        actions.append(input_gradient(chunk))
        if number >= rank:
            actions.append(weight_gradient(chunks[number - rank]))
    actions.extend(weight_gradient(chunk) for chunk in chunks[max(micro_batches - rank, 0) :])
    return tuple(actions)


def zb_v(pp: int, virtual: int, micro_batches: int) -> Schedule:  # noqa: ARG001
    """Return ZB-V: rank r holds stages r and 2*PP-1-r, so that the model goes down the ranks and comes back up.

    Source: Qi et al., arXiv 2401.10241. The order is the handcrafted one, for F = B_in = W, of their implementation
    (github.com/sail-sg/zero-bubble-pipeline-parallelism). With fewer than 2*PP-1 micro-batches it is the order of that
    many with those that do not exist left out.
    """
    placement = tuple((rank, 2 * pp - 1 - rank) for rank in range(pp))
    ranks = tuple(_down_and_up(down, up, pp, micro_batches) for down, up in placement)
    return Schedule("zb-v", ranks, placement, micro_batches)


def _down_and_up(down: int, up: int, pp: int, micro_batches: int) -> tuple[Action, ...]:
    """Return the order of the rank that holds stage `down` on the way down and `up` on the way back up."""
    there = pp - down  # ranks from this one to the one where the model turns
    total = max(micro_batches, 2 * pp - 1)
    forward_down, input_down, weight_down = _passes(down, total)
    forward_up, input_up, weight_up = _passes(up, total)
    steady = [input_down, weight_down, forward_up, input_up, weight_up]
    turns = [
        *(2 * there - 1) * [forward_down],
        *down * [forward_up, forward_down],
        *there * [forward_up, input_up, weight_up],
        *(total - pp - there + 1) * [forward_down, *steady],
        *(there - 1) * steady,
        *down * [input_down, input_up],
        *there * [input_down, weight_down],
        *down * [weight_up],
        *down * [weight_down],
    ]
    return tuple(action for action in map(next, turns) if _chunk(action).micro_batch < micro_batches)


def _passes(stage: int, micro_batches: int) -> tuple[Iterator[Action], Iterator[Action], Iterator[Action]]:
    """Return the forwards, input gradients and weight gradients of a stage, micro-batch by micro-batch."""
    chunks = [Chunk(stage, micro_batch) for micro_batch in range(micro_batches)]
    return map(forward, chunks), map(input_gradient, chunks), map(weight_gradient, chunks)


def _chunk(action: Action) -> Chunk:
    chunk = action.forward or action.backward
    assert chunk is not None
    return chunk
