"""A schedule as arrays: what each action works on and waits for, for all actions of all ranks at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from costmodel.quantities import Indices
from costmodel.records import Record
from costmodel.workload.schedules.actions import Action, Kind

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
