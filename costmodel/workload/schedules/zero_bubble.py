"""Schedules that move weight gradients, for which nobody waits, into the gaps of the pipeline: ZB-H1 and ZB-V."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TypeAlias

from costmodel.workload.schedules.actions import Action, Chunk, Kind, forward, input_gradient, weight_gradient
from costmodel.workload.schedules.schedule import Schedule

_Step: TypeAlias = "tuple[Kind, int]"  # the next micro-batch of a kind in a stage


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

    Source: Qi et al., arXiv 2401.10241; the order is the handcrafted one, for F = B_in = W, of their implementation
    (github.com/sail-sg/zero-bubble-pipeline-parallelism). With fewer than 2*PP-1 micro-batches it is the order of that
    many with those that do not exist left out.
    """
    placement = tuple((rank, 2 * pp - 1 - rank) for rank in range(pp))
    full = max(micro_batches, 2 * pp - 1)
    ranks = (_down_and_up(down, up, pp, full) for down, up in placement)
    return Schedule("zb-v", tuple(_numbered(steps, micro_batches) for steps in ranks), placement, micro_batches)


def _down_and_up(down: int, up: int, pp: int, micro_batches: int) -> Iterator[_Step]:
    """Yield the order of the rank that holds stage `down` on the way down and `up` on the way back."""
    last = pp - down  # ranks from this one to the one where the model turns
    yield from (2 * last - 1) * [(Kind.FORWARD, down)]
    yield from down * [(Kind.FORWARD, up), (Kind.FORWARD, down)]
    yield from last * [(Kind.FORWARD, up), *_backward(up)]
    for number in range(pp, micro_batches):  # forward passes of `up` done so far
        if number <= micro_batches - last:
            yield Kind.FORWARD, down
        yield from (*_backward(down), (Kind.FORWARD, up), *_backward(up))
    yield from down * [(Kind.BACKWARD_INPUT, down), (Kind.BACKWARD_INPUT, up)]
    yield from last * _backward(down)
    yield from down * [(Kind.BACKWARD_WEIGHT, up)]
    yield from down * [(Kind.BACKWARD_WEIGHT, down)]


def _backward(stage: int) -> list[_Step]:
    return [(Kind.BACKWARD_INPUT, stage), (Kind.BACKWARD_WEIGHT, stage)]


def _numbered(steps: Iterable[_Step], micro_batches: int) -> tuple[Action, ...]:
    """Return the steps as actions: each kind takes the micro-batches of a stage in order, as far as they exist."""
    make = {
        Kind.FORWARD: forward,
        Kind.BACKWARD_INPUT: input_gradient,
        Kind.BACKWARD_WEIGHT: weight_gradient,
    }
    done: Counter[_Step] = Counter()
    actions = []
    for step in steps:
        kind, stage = step
        if done[step] < micro_batches:
            actions.append(make[kind](Chunk(stage, done[step])))
        done[step] += 1
    return tuple(actions)
