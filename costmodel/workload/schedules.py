"""Pipeline schedules: in which order each rank works on which micro-batch of which stage. Structure only, no times.

Both engines and the memory ledger read the same order. A schedule is data: one tuple of actions per pipeline rank.
What an action needs from other ranks follows from the model's chain of stages (a forward needs the forward of the stage
before it, a backward the backward of the stage after it), so `Schedule.dependencies` serves every schedule, and a new
one is a function that returns per-rank orders and an entry in `SCHEDULES`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from typing import NamedTuple, TypeAlias

from costmodel.errors import InputError


class Kind(Enum):
    """What a rank does. `BACKWARD` makes both gradients at once; `FORWARD_BACKWARD` overlaps two chunks."""

    FORWARD = "forward"
    BACKWARD_INPUT = "backward_input"
    BACKWARD_WEIGHT = "backward_weight"
    BACKWARD = "backward"
    FORWARD_BACKWARD = "forward_backward"


class Chunk(NamedTuple):
    """One micro-batch in one stage. Stages, virtual ones included, are numbered along the model from 0."""

    stage: int
    micro_batch: int


_Output: TypeAlias = "tuple[bool, Chunk]"  # what a chunk yields: its forward's result (True) or its input gradient


@dataclass(frozen=True, slots=True)
class Action:
    """One thing that a rank does: `forward` is the chunk it runs forward, `backward` the one it runs backward."""

    kind: Kind
    forward: Chunk | None = None
    backward: Chunk | None = None


class Dependency(NamedTuple):
    """An action whose result is needed: its rank and position there. transfer: the result comes over a link."""

    rank: int
    position: int
    transfer: bool


@dataclass(frozen=True, slots=True, eq=False)
class Schedule:
    """The orders of all ranks of one pipeline.

    ranks: actions of each rank in order; placement: stages that each rank holds; micro_batches: of the whole step.
    directions: 2 where the second half of the micro-batches runs through a second copy of the stages, placed the other
    way round (DualPipe), else 1. folded: only the first PP/2 ranks are kept, each standing for its mirror as well.
    """

    name: str
    ranks: tuple[tuple[Action, ...], ...]
    placement: tuple[tuple[int, ...], ...]
    micro_batches: int
    directions: int = 1
    folded: bool = False

    @property
    def stages(self) -> int:
        """Return the number of stages that the model is cut into."""
        return 1 + max(stage for held in self.placement for stage in held)

    @property
    def parameter_copies(self) -> int:
        """Return how many ranks of one pipeline hold each stage."""
        return self.directions

    def stages_of(self, rank: int) -> tuple[int, ...]:
        """Return the stages whose parameters the rank holds."""
        return self.placement[rank]

    def fold(self) -> Schedule:
        """Return the same schedule with one rank for each pair of mirrored ranks; itself where nothing mirrors.

        Exact: rank PP-1-i runs the order of rank i with the two halves of the micro-batches exchanged, on the same
        stages, so both keep the same clock.
        """
        if self.directions == 1 or self.folded:
            return self
        half = len(self.ranks) // 2
        return Schedule(self.name, self.ranks[:half], self.placement[:half], self.micro_batches, self.directions, True)

    def dependencies(self) -> tuple[tuple[tuple[Dependency, ...], ...], ...]:
        """Return, for each action of each rank, the actions that must have finished before it.

        The rank's own order, which every action obeys as well, is not repeated: only results of other ranks and, where
        neighbouring stages share a rank, of earlier actions of this one.
        """
        made = self._producers()
        last = self.stages - 1
        return tuple(
            tuple(tuple(self._locate(rank, need, made) for need in _needs(action, last)) for action in actions)
            for rank, actions in enumerate(self.ranks)
        )

    def in_flight(self, rank: int) -> tuple[tuple[int, ...], ...]:
        """Return what the rank holds at its fullest: activations of how many chunks of each stage of `stages_of(rank)`.

        A chunk is held from the start of its forward to the end of its weight gradient. Stages may weigh differently,
        so every combination that no other one contains is returned: memory is the largest weighted sum over them.
        """
        held = dict.fromkeys(self.placement[rank], 0)
        fullest: set[tuple[int, ...]] = set()
        for action in self.ranks[rank]:
            if action.forward is not None:
                held[action.forward.stage] += 1
                fullest.add(tuple(held.values()))
            if action.backward is not None and action.kind is not Kind.BACKWARD_INPUT:
                held[action.backward.stage] -= 1
        return tuple(sorted(state for state in fullest if not any(_contains(other, state) for other in fullest)))

    def peak_chunks(self, rank: int) -> int:
        """Return the largest number of chunks, of all its stages together, that the rank holds at a time."""
        return max(sum(state) for state in self.in_flight(rank))

    def _producers(self) -> dict[_Output, tuple[int, int]]:
        """Return the rank and position of the action that makes each output."""
        made: dict[_Output, tuple[int, int]] = {}
        for rank, actions in enumerate(self.ranks):
            for position, action in enumerate(actions):
                if action.forward is not None:
                    made[True, action.forward] = rank, position
                if action.backward is not None and action.kind is not Kind.BACKWARD_WEIGHT:
                    made[False, action.backward] = rank, position
        return made

    def _locate(self, rank: int, need: _Output, made: Mapping[_Output, tuple[int, int]]) -> Dependency:
        if need in made:
            producer, position = made[need]
            return Dependency(producer, position, producer != rank)
        # Folded: the producer is the mirror of a rank that is kept, and works on the mirrored micro-batch there.
        forward, chunk = need
        mirrored = (chunk.micro_batch + self.micro_batches // 2) % self.micro_batches
        producer, position = made[forward, Chunk(chunk.stage, mirrored)]
        return Dependency(producer, position, True)


def _needs(action: Action, last: int) -> list[_Output]:
    """Return what the action takes from neighbouring stages; `last` is the number of the last stage."""
    needs: list[_Output] = []
    if action.forward is not None and action.forward.stage > 0:
        needs.append((True, Chunk(action.forward.stage - 1, action.forward.micro_batch)))
    backward = None if action.kind is Kind.BACKWARD_WEIGHT else action.backward
    if backward is not None and backward.stage < last:
        needs.append((False, Chunk(backward.stage + 1, backward.micro_batch)))
    return needs


def _contains(larger: tuple[int, ...], smaller: tuple[int, ...]) -> bool:
    return larger != smaller and all(a >= b for a, b in zip(larger, smaller, strict=True))


@lru_cache(maxsize=64)
def folded_order(schedule: str, pp: int, virtual: int, micro_batches: int) -> Schedule:
    """Return the schedule with one rank for each pair of mirrored ranks."""
    return order(schedule, pp, virtual, micro_batches).fold()


@lru_cache(maxsize=64)
def order(schedule: str, pp: int, virtual: int, micro_batches: int) -> Schedule:
    """Return the schedule of that name for `pp` ranks of `virtual` stages each and `micro_batches` a step."""
    if schedule not in SCHEDULES:
        names = ", ".join(sorted(SCHEDULES))
        raise InputError.single(f"unknown schedule `{schedule}`", field="schedule", hint=f"write one of {names}")
    for field, value in (("parallel.pp", pp), ("parallel.virtual", virtual), ("micro-batches", micro_batches)):
        if value < 1:
            raise InputError.single(f"is {value}", field=field, hint="at least 1 is needed")
    return SCHEDULES[schedule](pp, virtual, micro_batches)


def one_forward_one_backward(pp: int, virtual: int, micro_batches: int) -> Schedule:
    """Return 1F1B: rank r runs PP-1-r forwards, then alternates, then drains [Narayanan et al., SC 2021]."""
    _require_one_stage("1f1b", virtual)
    ranks = []
    for rank in range(pp):
        forwards = [Action(Kind.FORWARD, forward=Chunk(rank, m)) for m in range(micro_batches)]
        backwards = [Action(Kind.BACKWARD, backward=Chunk(rank, m)) for m in range(micro_batches)]
        warm = min(pp - 1 - rank, micro_batches)
        alternating = [action for pair in zip(forwards[warm:], backwards, strict=False) for action in pair]
        ranks.append((*forwards[:warm], *alternating, *backwards[micro_batches - warm :]))
    return Schedule("1f1b", tuple(ranks), tuple((rank,) for rank in range(pp)), micro_batches)


def dualpipe(pp: int, virtual: int, micro_batches: int) -> Schedule:
    """Return DualPipe: micro-batches enter at both ends, and a forward overlaps the other direction's backward.

    Rank i holds stages i and PP-1-i; the first half of the micro-batches enters at rank 0, the second at rank PP-1.
    The order is that of DeepSeek's published implementation (github.com/deepseek-ai/DualPipe, method `step`).
    """
    _require_one_stage("dualpipe", virtual)
    if pp % 2:
        message = f"DualPipe needs an even number of ranks, but pp is {pp}"
        raise InputError.single(message, field="parallel.pp", hint=f"write {pp + 1}, or `schedule: 1f1b`")
    if micro_batches % 2 or micro_batches < 2 * pp:
        message = f"DualPipe needs an even number of micro-batches, at least {2 * pp}, but there are {micro_batches}"
        fewest = max(2 * pp, micro_batches + micro_batches % 2)
        hint = f"choose global_batch, dp and micro_batch for {fewest} micro-batches, or `schedule: 1f1b`"
        raise InputError.single(message, field="global_batch", hint=hint)
    ranks = tuple(_DualPipeRank(rank, pp, micro_batches).order() for rank in range(pp))
    return Schedule("dualpipe", ranks, tuple((rank, pp - 1 - rank) for rank in range(pp)), micro_batches, directions=2)


def _require_one_stage(name: str, virtual: int) -> None:
    if virtual != 1:
        message = f"schedule `{name}` does not interleave, but virtual is {virtual}"
        raise InputError.single(message, field="parallel.virtual", hint="write 1")


class _DualPipeRank:
    """Writes the order of one rank, step by step; `phase` 0 is the direction that enters at the nearer end."""

    __slots__ = ("_actions", "_deferred", "_half", "_next_backward", "_next_forward", "_pp", "_rank")

    def __init__(self, rank: int, pp: int, micro_batches: int) -> None:
        self._rank = rank
        self._pp = pp
        self._half = micro_batches // 2
        self._actions: list[Action] = []
        self._deferred: deque[Chunk] = deque()  # chunks whose weight gradient is still to do, oldest first
        self._next_forward = [0, 0]
        self._next_backward = [0, 0]

    def order(self) -> tuple[Action, ...]:
        """Return the rank's actions: warm-up, overlapped middle, drain."""
        near = min(self._rank, self._pp - 1 - self._rank)  # ranks between this one and the nearer end
        far = self._pp // 2 - near - 1  # and the middle
        self._fill(near, far)
        self._overlap(near, far)
        self._drain(near, far)
        return tuple(self._actions)

    def _fill(self, near: int, far: int) -> None:
        for _ in range(2 * far):
            self._forward(0)
        for _ in range(near + 1):
            self._forward(0)
            self._forward(1)
        for _ in range(far):
            self._backward(1, Kind.BACKWARD_INPUT)
            self._weight()
            self._forward(1)

    def _overlap(self, near: int, far: int) -> None:
        for repetition in range(self._half - self._pp + near + 1):
            if repetition == 0 and far == 0:  # apart on the middle ranks: their neighbour waits for the forward
                self._forward(0)
                self._backward(1, Kind.BACKWARD)
            else:
                self._pair(0, 1)
            self._pair(1, 0)
        for _ in range(far):
            self._backward(1, Kind.BACKWARD)
            self._pair(1, 0)

    def _drain(self, near: int, far: int) -> None:
        lone = 2 * (near + 1)  # backwards, phases 1 and 0 in turn; the second half defers its weight gradients
        for turn in range(lone):
            self._backward(1 - turn % 2, Kind.BACKWARD if turn < lone // 2 else Kind.BACKWARD_INPUT)
        for _ in range(far):
            self._weight()
            self._backward(0, Kind.BACKWARD_INPUT)
        for _ in range(near + 1):
            self._weight()

    def _forward(self, phase: int) -> None:
        self._actions.append(Action(Kind.FORWARD, forward=self._chunk(phase, self._next_forward)))

    def _backward(self, phase: int, kind: Kind) -> None:
        chunk = self._chunk(phase, self._next_backward)
        if kind is Kind.BACKWARD_INPUT:
            self._deferred.append(chunk)
        self._actions.append(Action(kind, backward=chunk))

    def _weight(self) -> None:
        self._actions.append(Action(Kind.BACKWARD_WEIGHT, backward=self._deferred.popleft()))

    def _pair(self, forward: int, backward: int) -> None:
        chunks = self._chunk(forward, self._next_forward), self._chunk(backward, self._next_backward)
        self._actions.append(Action(Kind.FORWARD_BACKWARD, *chunks))

    def _chunk(self, phase: int, following: list[int]) -> Chunk:
        direction = phase if self._rank < self._pp // 2 else 1 - phase
        number = following[direction]
        following[direction] += 1
        stage = self._pp - 1 - self._rank if direction else self._rank
        return Chunk(stage, direction * self._half + number)


SCHEDULES: dict[str, Callable[[int, int, int], Schedule]] = {"1f1b": one_forward_one_backward, "dualpipe": dualpipe}
