"""When the last event of a program is done, at any number of points."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from costmodel.analytic.recurrence.paths import Paths, longest_path, makespan_at, makespan_by_paths
from costmodel.analytic.recurrence.program import K, Program
from costmodel.analytic.recurrence.tape import Workspace
from costmodel.analytic.recurrence.waves import makespan_by_waves
from costmodel.equations import equation, equation_with
from costmodel.quantities import Array, Seconds

CHUNK = 4096  # points evaluated together: enough to hide numpy's cost per call, few enough for a second-level cache
FEW = 64  # points that are evaluated sooner wave by wave than a tape is recorded


def _longest(names: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the events of each slot on the longest path, and the transfers on it, at a single point."""
    if names["durations"].shape[1] != 1:
        return {}
    *on_path, sends = longest_path(names["program"], [*names["durations"][:, 0], names["transfer"][0]])[0]
    return {"on_path": on_path, "sends": sends}


@equation
def makespan(
    program: Program[K], durations: Array, transfer: Seconds = 0.0, chunk: int = CHUNK, known: Paths | None = None
) -> Array:
    """Return when the last event of the program is done, at each point [s].

        span = max(shorter + periods * (longer - shorter), busiest)      of many micro-batches: two steps of fewer

    durations: a row for each of `program.slots`, a column for each point [s].
    transfer: one for all or one a point [s].
    known: longest paths of programs, to which those of this one are added.
    """
    if durations.ndim != 2 or len(durations) != len(program.slots):
        raise ValueError(f"durations of shape {durations.shape} for {len(program.slots)} slots")
    if program.steady is not None:
        *parts, periods = program.steady
        shorter, longer = (makespan(part, durations, transfer, chunk, known) for part in parts)
        busiest = np.max(program.counts @ durations, axis=0)  # of a rank that only ever works: no step is shorter
        return np.asarray(np.maximum(shorter + periods * (longer - shorter), busiest))
    transfers = np.broadcast_to(np.asarray(transfer, dtype=np.float64), durations.shape[1:])
    return _own_span(program, durations, transfers, chunk, known)


@equation_with(_longest)
def _own_span(program: Program[K], durations: Array, transfer: Array, chunk: int, known: Paths | None) -> Array:
    """Return when the last event is done of a program that stands for itself, at each point [s].

        span = sum(on_path * durations) + sends * transfer      on_path: events of each slot on the longest path
        shorter = sum(on_path * durations) + sends * transfer
        longer = sum(on_path * durations) + sends * transfer

    An event starts when those end that it waits for, of other ranks a transfer later.
    """
    points = durations.shape[1]
    if not points:
        return np.empty(0)
    if points == 1 and np.isfinite(durations).all():
        return np.array([makespan_at(program, [*durations[:, 0].tolist(), transfer.item()])])
    if program.waves is not None and points <= FEW:
        return makespan_by_waves(program.waves, program.slot, durations, transfer)
    result = makespan_by_paths(program, durations, transfer, {} if known is None else known)
    left = np.flatnonzero(np.isnan(result))
    if len(left):
        some = slice(None) if len(left) == points else left
        result[some] = _by_tape(program, durations[:, some], transfer[some], chunk)
    return result


def _by_tape(program: Program[K], durations: Array, transfers: Array, chunk: int) -> Array:
    """Return when the last event is done, at each point [s], from a tape. transfers: one a point [s]."""
    points = durations.shape[1]
    result = np.empty(points)
    width = -(-points // -(-points // chunk))  # chunks as equal as can be
    workspace = Workspace(program, width, transfers=bool(transfers.any()))
    for start in range(0, points, width):
        size = min(width, points - start)  # the last chunk may be shorter: what it leaves of the one before is not read
        workspace.durations[:, :size] = durations[:, start : start + size]
        workspace.transfer[:size] = transfers[start : start + size]
        result[start : start + size] = workspace.makespan()[:size]
    return result
