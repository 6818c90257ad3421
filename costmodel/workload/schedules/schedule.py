"""A pipeline schedule: the words of its actions, all actions of all ranks as arrays, and what follows from them."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from itertools import pairwise
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from costmodel.quantities import Count, Indices, Quantity, minimum
from costmodel.records import Record, replace


class Kind(Enum):
    """What a rank does. `BACKWARD` makes both gradients at once. `FORWARD_BACKWARD` overlaps two chunks."""

    FORWARD = "forward"
    BACKWARD_INPUT = "backward_input"
    BACKWARD_WEIGHT = "backward_weight"
    BACKWARD = "backward"
    FORWARD_BACKWARD = "forward_backward"


class Chunk(NamedTuple):
    """One micro-batch in one stage. Stages, virtual ones included, are numbered along the model from 0."""

    stage: int
    micro_batch: int


class Action(NamedTuple):
    """One thing that a rank does: `forward` is the chunk it runs forward, `backward` the one it runs backward."""

    kind: Kind
    forward: Chunk | None = None
    backward: Chunk | None = None


class Dependency(NamedTuple):
    """An action whose result is needed: its rank and position there. transfer: the result comes over a link."""

    rank: int
    position: int
    transfer: bool


def forward(chunk: Chunk) -> Action:
    """Return the forward pass of a chunk."""
    return Action(Kind.FORWARD, chunk)


def backward(chunk: Chunk) -> Action:
    """Return the full backward pass of a chunk."""
    return Action(Kind.BACKWARD, None, chunk)


def input_gradient(chunk: Chunk) -> Action:
    """Return the part of a chunk's backward pass that the stage before waits for."""
    return Action(Kind.BACKWARD_INPUT, None, chunk)


def weight_gradient(chunk: Chunk) -> Action:
    """Return the part of a chunk's backward pass that nobody waits for."""
    return Action(Kind.BACKWARD_WEIGHT, None, chunk)


KINDS = tuple(Kind)
NONE = -1  # no stage, or nothing to wait for
_CODE = {kind: code for code, kind in enumerate(KINDS)}
_Flags: TypeAlias = "npt.NDArray[np.bool_]"
_Columns: TypeAlias = Indices  # [kind, forward stage and micro-batch, backward stage and micro-batch; actions]


class Table(Record):
    """The actions of all ranks as arrays, one rank after the other.

    rank, kind (a position in `KINDS`), forward and backward (stages): one number an action; needs: for its forward and
    its backward pass the action that makes its input; comes_over_a_link: the same of whether another rank makes it
    micro_batch: the same of which one passes.
    """

    rank: Indices
    kind: Indices
    forward: Indices
    backward: Indices
    needs: Indices
    is_transfer: _Flags
    micro_batch: Indices

    @property
    def first(self) -> Indices:
        """Return where the actions of each rank begin, and where those of the last one end."""
        return np.searchsorted(self.rank, np.arange(self.rank[-1] + 2))


def table_of(ranks: Sequence[Sequence[Action]], stages: int, micro_batches: int) -> Table:
    """Return the table of a schedule with `stages` stages.

    A result that no rank makes is one of a mirrored rank that was folded away: its mirror makes it for the micro-batch
    half a step on, at the same time, and sends it.
    """
    columns = np.concatenate([_columns(actions) for actions in ranks], axis=1)
    kind, *passes = columns
    rank = np.repeat(np.arange(len(ranks)), [len(actions) for actions in ranks])
    backward = np.where(kind == _CODE[Kind.BACKWARD_WEIGHT], NONE, passes[2])  # a weight gradient needs no neighbour
    needs, linked = zip(
        _neighbours(rank, passes[0], passes[1], micro_batches, range(-1, stages - 1)),
        _neighbours(rank, backward, passes[3], micro_batches, range(1, stages + 1)),
        strict=True,
    )
    return Table(rank, kind, passes[0], passes[2], np.stack(needs), np.stack(linked), np.stack(passes[1::2]))


def peak_states(actions: Sequence[Action], stages: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """Return how many chunks of each of `stages` a rank with these actions holds at its fullest.

    A chunk is held from the start of its forward to the end of its weight gradient. Every combination that no other one
    contains is returned.
    """
    kind, forward, _, backward, _ = _columns(actions)
    ends = np.where(kind == _CODE[Kind.BACKWARD_INPUT], NONE, backward)[:, None] == np.array(stages)
    begun = np.cumsum(forward[:, None] == np.array(stages), axis=0)
    ended = np.cumsum(ends, axis=0) - ends  # before the action: it holds its own chunk to the end
    before = (begun - ended)[ends.any(axis=1)]  # it is fullest just before it lets a chunk go
    # Without np.unique, here and in the recurrence: it loads all of numpy.ma, a fiftieth of a simulation's start.
    states = np.array(sorted(set(map(tuple, before.tolist())))).reshape(-1, len(stages))
    contained = (states[:, None] <= states[None]).all(axis=-1).sum(axis=1) > 1  # in another one than itself
    return tuple(tuple(state) for state in states[~contained].tolist())


def _columns(actions: Sequence[Action]) -> _Columns:
    none = (NONE, NONE)
    rows = [(_CODE[kind], *(forward or none), *(backward or none)) for kind, forward, backward in actions]
    return np.array(rows, dtype=np.int64).T


def _neighbours(
    rank: Indices, stage: Indices, micro_batch: Indices, micro_batches: int, source: range
) -> tuple[Indices, _Flags]:
    """Return which action makes the input of each action's pass, and whether it comes from another rank.

    stage, micro_batch: what each action passes through, `NONE` where it does not.
    source: by stage, where its input is made, outside the model where there is none.
    """
    made = np.full((len(source), micro_batches), NONE)
    passing = np.flatnonzero(stage != NONE)
    made[stage[passing], micro_batch[passing]] = passing
    taking = passing[np.isin(np.array(source)[stage[passing]], np.arange(len(source)))]
    before, number = np.array(source)[stage[taking]], micro_batch[taking]
    producer = made[before, number]
    mirrored = producer == NONE
    producer[mirrored] = made[before[mirrored], (number[mirrored] + micro_batches // 2) % micro_batches]
    if (producer == NONE).any():
        lost = taking[producer == NONE][0]
        raise ValueError(f"no rank makes what stage {stage[lost]} takes for micro-batch {micro_batch[lost]}")
    needed, linked = np.full(len(rank), NONE), np.zeros(len(rank), dtype=bool)
    needed[taking] = producer
    linked[taking] = mirrored | (rank[producer] != rank[taking])
    return needed, linked


# ---- The orders of all ranks of one pipeline, and what follows from them ---------------------------------------------


class Schedule(Record):
    """The orders of all ranks of one pipeline.

    ranks: actions of each rank in order.
    placement: stages that each rank holds.
    micro_batches: of the whole step.
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
    def stage_replicas(self) -> int:
        """Return how many ranks of one pipeline hold each stage."""
        return self.directions

    def stages_of(self, rank: int) -> tuple[int, ...]:
        """Return the stages whose parameters the rank holds."""
        return self.placement[rank]

    def fold(self) -> Schedule:
        """Return the same schedule with one rank for each pair of mirrored ranks. Itself where nothing mirrors.

        Exact: rank PP-1-i runs the order of rank i with the two halves of the micro-batches exchanged, on the same
        stages, so both keep the same clock.
        """
        if self.directions == 1 or self.folded:
            return self
        half = len(self.ranks) // 2
        return replace(self, ranks=self.ranks[:half], placement=self.placement[:half], folded=True)

    def table(self) -> Table:
        """Return the schedule as arrays. Raises ValueError where an action takes what no rank makes."""
        return table_of(self.ranks, self.stages, self.micro_batches)

    def dependencies(self) -> tuple[tuple[tuple[Dependency, ...], ...], ...]:
        """Return, for each action of each rank, the actions that must have finished before it.

        The rank's own order, which every action obeys as well, is not repeated: only results of other ranks and, where
        neighbouring stages share a rank, of earlier actions of this one.
        """
        table = self.table()
        first, rank = table.first, table.rank
        rows = [
            tuple(
                Dependency(int(rank[need]), int(need - first[rank[need]]), bool(linked))
                for need, linked in zip(needs, over_a_link, strict=True)
                if need != NONE
            )
            for needs, over_a_link in zip(table.needs.T, table.is_transfer.T, strict=True)
        ]
        return tuple(tuple(rows[begin:end]) for begin, end in pairwise(first))

    def in_flight(self, rank: int) -> tuple[tuple[int, ...], ...]:
        """Return what the rank holds at its fullest: activations of how many chunks of each stage of `stages_of(rank)`.

        A chunk is held from the start of its forward to the end of its weight gradient. Stages may weigh differently,
        so every combination that no other one contains is returned: memory is the largest weighted sum over them.
        """
        return peak_states(self.ranks[rank], self.placement[rank])


# ---- The steady state of a long step: what happens between its first and last micro-batches repeats ------------------
#
# Passes take max-plus sums of fixed durations in a fixed order that repeats, so that the time of M micro-batches grows
# by the same amount with every period once the pipeline is full [Baccelli et al., Synchronization and Linearity, 1992,
# theorem 3.112]: T(M + c) = T(M) + c * lambda for M >= M0. Two short steps give the time of any longer one:
#
#     T(M) = T(m) + r * (T(m + c) - T(m)),   r = (M - m) / c

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
