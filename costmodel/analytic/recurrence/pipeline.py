"""Pipeline schedules as programs: one stream a rank, one slot for actions that take equally long."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from costmodel.analytic.recurrence.program import NOTHING, Program, waves_of
from costmodel.quantities import Indices
from costmodel.records import replace
from costmodel.workload.schedules import Kind, Schedule, folded_order, steady_state
from costmodel.workload.schedules.schedule import KINDS, NONE, Table


class Slot(NamedTuple):
    """Actions of a pipeline that take equally long: of one kind, on stages of one class each."""

    kind: Kind
    forward: int | None
    backward: int | None


@lru_cache(maxsize=64)
def compile_schedule(
    schedule: str, pp: int, virtual: int, micro_batches: int, stage_class: tuple[int, ...] | None = None
) -> Program[Slot]:
    """Return the program of a pipeline schedule, one stream a rank. Mirrored ranks are folded into one, exactly.

    A step longer than its steady state needs is two shorter programs. stage_class: a label for each stage (default: its
    number). Stages of one label take equally long and share slots.
    """
    steady = steady_state(schedule, pp, virtual, micro_batches)
    program = program_of(folded_order(schedule, pp, virtual, steady.shorter), stage_class)
    if not steady.repeats:
        return program
    longer = program_of(folded_order(schedule, pp, virtual, steady.longer), stage_class)
    return replace(program, steady=(program, longer, steady.repeats))


def program_of(schedule: Schedule, stage_class: tuple[int, ...] | None = None) -> Program[Slot]:
    """Return the program of the schedule as it stands, folded or not. Raises ValueError where it deadlocks.

    What the rank's own order implies is left out: neighbouring stages on one rank cost no transfer.
    """
    label = tuple(range(schedule.stages)) if stage_class is None else stage_class
    if len(label) != schedule.stages:
        raise ValueError(f"{len(label)} stage classes for {schedule.stages} stages")
    table = schedule.table()
    groups = _side_by_side(table, schedule.name)
    order = np.concatenate(groups)
    position = np.full(len(order) + 1, NOTHING)  # one more, which `NONE` points at
    position[order] = np.arange(len(order))
    receives = position[np.where(table.is_transfer, table.needs, NONE)][:, order]
    stream, (slots, slot) = table.rank[order], _slots(table, label)
    waves = waves_of([len(group) for group in groups], stream, receives)
    return Program(stream, slot[order], receives[:0], receives, slots, waves)


def _side_by_side(table: Table, name: str) -> list[Indices]:
    """Return the actions in groups: as early as what they need allows, each group at most one action of every rank.

    One group after the other they are the events of the schedule's program.
    """
    position, end = table.first[:-1].copy(), table.first[1:]
    done = np.zeros(len(table.rank) + 1, dtype=bool)
    done[NONE] = True  # the last one, which is no action
    forward, backward = table.needs
    groups = []
    ranks = np.flatnonzero(position < end)
    while len(ranks):
        following = position[ranks]
        ready = done[forward[following]] & done[backward[following]]
        group = following[ready]
        if not len(group):
            finished = (position - table.first[:-1]).tolist()
            raise ValueError(f"schedule `{name}` deadlocks: its ranks have finished {finished} actions")
        done[group] = True
        groups.append(group)
        position[ranks[ready]] += 1
        ranks = np.flatnonzero(position < end)
    return groups


def _slots(table: Table, label: tuple[int, ...]) -> tuple[tuple[Slot, ...], Indices]:
    """Return the distinct slots, and which one each action has."""
    labels = np.array((*label, NONE))  # the last one, which `NONE` points at
    width = max(label) + 2
    keys = ((table.kind * width + labels[table.forward] + 1) * width) + labels[table.backward] + 1
    example = {key: one for one, key in reversed(list(enumerate(keys.tolist())))}  # the first of each
    distinct = sorted(example)
    slots = tuple(
        Slot(KINDS[table.kind[one]], _label(label, table.forward[one]), _label(label, table.backward[one]))
        for one in map(example.__getitem__, distinct)
    )
    return slots, np.searchsorted(distinct, keys)


def _label(label: tuple[int, ...], stage: int) -> int | None:
    return None if stage == NONE else label[stage]
