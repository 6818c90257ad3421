"""Schedules that overlap a forward pass with another micro-batch's backward pass: DualPipe and DualPipeV."""

from __future__ import annotations

from collections import deque

from costmodel.workload.schedules.actions import Action, Chunk, Kind
from costmodel.workload.schedules.schedule import Schedule


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
