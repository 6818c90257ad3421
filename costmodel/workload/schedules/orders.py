"""The order of each schedule: GPipe and the 1F1B family, those that delay weight gradients, and DualPipe.

Where backward passes are whole (GPipe, 1F1B, interleaved and combined 1F1B), each rank runs some forward passes first,
then a forward and a backward pass in turn, then the backward passes that are left. The schedules differ in the number
of forward passes before the first backward pass, the warm-up.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence

from costmodel.workload.schedules.schedule import (
    Action,
    Chunk,
    Kind,
    Schedule,
    backward,
    forward,
    input_gradient,
    weight_gradient,
)


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


# ---- Schedules that move weight gradients, for which nobody waits, into the gaps of the pipeline: ZB-H1 and ZB-V -----


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


# ---- Schedules that overlap a forward pass with another micro-batch's backward pass: DualPipe and DualPipeV ----------


def dualpipe(pp: int, virtual: int, micro_batches: int) -> Schedule:  # noqa: ARG001  every schedule has this signature
    """Return DualPipe: micro-batches enter at both ends, and a forward overlaps the other direction's backward.

    Rank i holds stages i and PP-1-i. The first half of the micro-batches enters at rank 0, the second at rank PP-1. The
    order is that of DeepSeek's published implementation (github.com/deepseek-ai/DualPipe, method `step`).
    """
    half = micro_batches // 2
    ranks = []
    for rank in range(pp):
        ways = ((rank, 0), (pp - 1 - rank, half))
        near = min(rank, pp - 1 - rank)
        writer = _Rank(ways if rank == near else ways[::-1], near, pp // 2 - near - 1, half)
        ranks.append(writer.order())
    placement = tuple((rank, pp - 1 - rank) for rank in range(pp))
    return Schedule("dualpipe", tuple(ranks), placement, micro_batches, directions=2)


def dualpipe_v(pp: int, virtual: int, micro_batches: int) -> Schedule:  # noqa: ARG001
    """Return DualPipeV: the first half of a DualPipe of 2*PP ranks, which needs no second copy of the stages.

    Rank r holds stages r and 2*PP-1-r. Every micro-batch goes down the ranks and comes back up. Source: Qi et al.,
    DualPipe could be better without the Dual, 2025. In github.com/deepseek-ai/DualPipe since (`dualpipev.py`).
    """
    placement = tuple((rank, 2 * pp - 1 - rank) for rank in range(pp))
    ranks = tuple(_Rank(((down, 0), (up, 0)), down, pp - down - 1, micro_batches).order() for down, up in placement)
    return Schedule("dualpipe-v", ranks, placement, micro_batches)


class _Rank:
    """Writes the order of one rank, step by step.

    ways: the (stage, first micro-batch) of either way through the model, first the one that enters at the nearer end.
    near: ranks between this one and that end.
    far: and the middle, where the other way comes from.
    micro_batches: of each way.
    """

    __slots__ = ("_actions", "_deferred", "_far", "_micro_batches", "_near", "_next_backward", "_next_forward", "_ways")

    def __init__(self, ways: tuple[tuple[int, int], ...], near: int, far: int, micro_batches: int) -> None:
        self._ways = ways
        self._near = near
        self._far = far
        self._micro_batches = micro_batches
        self._actions: list[Action] = []
        self._deferred: deque[Chunk] = deque()  # chunks whose weight gradient is still to do, oldest first
        self._next_forward = [0, 0]
        self._next_backward = [0, 0]

    def order(self) -> tuple[Action, ...]:
        """Return the rank's actions: warm-up, overlapped middle, drain."""
        self._fill()
        self._overlap()
        self._drain()
        return tuple(self._actions)

    def _fill(self) -> None:
        for _ in range(2 * self._far):
            self._forward(0)
        for _ in range(self._near + 1):
            self._forward(0)
            self._forward(1)
        for _ in range(self._far):
            self._backward(1, Kind.BACKWARD_INPUT)
            self._weight()
            self._forward(1)

    def _overlap(self) -> None:
        for repetition in range(self._micro_batches - self._near - 2 * self._far - 1):
            if repetition == 0 and self._far == 0:  # apart on the middle ranks: their neighbour waits for the forward
                self._forward(0)
                self._backward(1, Kind.BACKWARD)
            else:
                self._pair(0, 1)
            self._pair(1, 0)
        for _ in range(self._far):
            self._backward(1, Kind.BACKWARD)
            self._pair(1, 0)

    def _drain(self) -> None:
        lone = 2 * (self._near + 1)  # backwards, ways 1 and 0 in turn; the second half defers its weight gradients
        for turn in range(lone):
            self._backward(1 - turn % 2, Kind.BACKWARD if turn < lone // 2 else Kind.BACKWARD_INPUT)
        for _ in range(self._far):
            self._weight()
            self._backward(0, Kind.BACKWARD_INPUT)
        for _ in range(self._near + 1):
            self._weight()

    def _forward(self, way: int) -> None:
        self._actions.append(Action(Kind.FORWARD, forward=self._chunk(way, self._next_forward)))

    def _backward(self, way: int, kind: Kind) -> None:
        chunk = self._chunk(way, self._next_backward)
        if kind is Kind.BACKWARD_INPUT:
            self._deferred.append(chunk)
        self._actions.append(Action(kind, backward=chunk))

    def _weight(self) -> None:
        self._actions.append(Action(Kind.BACKWARD_WEIGHT, backward=self._deferred.popleft()))

    def _pair(self, forward: int, backward: int) -> None:
        chunks = self._chunk(forward, self._next_forward), self._chunk(backward, self._next_backward)
        self._actions.append(Action(Kind.FORWARD_BACKWARD, *chunks))

    def _chunk(self, way: int, following: list[int]) -> Chunk:
        stage, first = self._ways[way]
        number = following[way]
        following[way] += 1
        return Chunk(stage, first + number)
