"""The time of one step, looked up in tables."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from costmodel.serving.compiled import inner
from costmodel.serving.state import Step

# Axes of the tables.
ROWS, DECODE_KEYS, CHUNKS, CHUNK_ROWS, CHUNK_KEYS = 0, 1, 2, 3, 4
MIXED_DECODES, MIXED_KEYS, MIXED_CHUNKS, MIXED_ROWS, MIXED_CHUNK_KEYS = 5, 6, 7, 8, 9
AXES = 10


class Tables(NamedTuple):
    """Step times [s]."""

    axes: Any  # points of all axes, one axis after the other
    ends: Any  # where each begins, and the end of the last one
    by_rows: Any  # everything that depends on the tokens of a step
    by_sequences: Any  # on its sequences, from 0 on
    decode: Any  # what decoding requests alone need, over their number (from 0 on) and mean keys
    prompt: Any  # what prompt chunks alone need, over their number, all their tokens, and mean keys
    mixed: Any  # both in one kernel
    fused: bool  # that it is so
    prompt_floor: Any = np.zeros(2)  # least time of a step with prompts, alone and with requests that decode
    ahead: bool = False  # the host needs it, and begins while the step before runs
    pool: Any = np.zeros((3, 1))  # of devices with experts only: kernels, messages there and back, over a step's tokens
    batches: int = 1  # micro-batches
    shared: Any = np.zeros(1)  # of `by_rows`, what ranks that step together compute and send for all of them
    padded: bool = False  # as if each had as many tokens as the one with most
    pooled: int = 0  # these times layers with experts, 0: the experts are no devices of their own


@inner
def locate(tables: Tables, axis: int, value: float) -> tuple[int, float]:
    """Return the place before `value` on an axis, and the share of the way to the next. At the ends values hold."""
    axes, first, last = tables.axes, tables.ends[axis], tables.ends[axis + 1] - 1
    if last == first or value <= axes[first]:
        return 0, 0.0
    if value >= axes[last]:
        return last - 1 - first, 1.0
    low, high = first, last
    while high - low > 1:
        middle = (low + high) >> 1
        if axes[middle] <= value:
            low = middle
        else:
            high = middle
    return low - first, (value - axes[low]) / (axes[low + 1] - axes[low])


@inner
def locate_from(tables: Tables, axis: int, value: float, index: int) -> tuple[int, float]:
    """Return as `locate` for a value that is not before `place`, which is close to it."""
    axes, first, last = tables.axes, tables.ends[axis], tables.ends[axis + 1] - 1
    if last == first or value <= axes[first] or value >= axes[last]:
        return locate(tables, axis, value)
    index += first
    while axes[index + 1] <= value:
        index += 1
    return index - first, (value - axes[index]) / (axes[index + 1] - axes[index])


@inner
def between(values: Any, index: int, share: float) -> float:
    """Return the value on the way from one place to the next."""
    if share == 0.0:
        return float(values[index])
    return float(values[index] + share * (values[index + 1] - values[index]))


@inner
def rows_time(tables: Tables, rows: float, sequences: int) -> float:
    """Return the time of everything but attention."""
    index, share = locate(tables, ROWS, rows)
    sequences = min(sequences, len(tables.by_sequences) - 1)
    return between(tables.by_rows, index, share) + float(tables.by_sequences[sequences])


@inner
def step_time(tables: Tables, step: Step, rows: float) -> float:
    """Return the time of a step that begins on an idle device. step: as of `Engine`; rows: its tokens."""
    seconds = device_time(tables, step, rows)
    return max(seconds, host_floor(tables, step))


@inner
def device_time(tables: Tables, step: Step, rows: float) -> float:
    """Return the time of a step whose kernels do not wait for the host. step: as of `Engine`; rows: its tokens."""
    own = rows_time(tables, rows, int(step.decodes + step.chunks)) + attention_time(tables, step)
    return with_expert_pool(tables, own, rows)


@inner
def shared_time(tables: Tables, rows: float) -> float:
    """Return the time of what ranks that step together share, where each has so many tokens."""
    index, share = locate(tables, ROWS, rows)
    return between(tables.shared, index, share)


@inner
def host_floor(tables: Tables, step: Step) -> float:
    """Return the time in which the host starts a step's kernels, none of one that a graph holds."""
    return float(tables.prompt_floor[int(step.decodes > 0)]) if step.chunks > 0 else 0.0


@inner
def host_time(tables: Tables, step: Step) -> float:
    """Return what the host takes to start a step's kernels, where it begins while the step before runs. step: as of
    `Engine`.
    """
    return host_floor(tables, step) if tables.ahead else 0.0


@inner
def with_expert_pool(tables: Tables, own: float, rows: float) -> float:
    """Return the time of a step whose micro-batches go to and fro between devices with layers and with experts only.

    A, E, T, F: seconds of the former's kernels, the latter's, messages to and from these, of m micro-batches in l equal
    layers. What is busy all the time, with the first and last run of the others. Or a micro-batch's way, with the
    others in a row before it:

        X = max(A, E, T, F),  S = A + E + T + F,  max(X + (S - X)/(m*l), S/m + (m - 1)/(m*l) * X)
    """
    if tables.pooled == 0:
        return own
    index, share = locate(tables, ROWS, rows)
    experts = between(tables.pool[0], index, share)
    there, back = between(tables.pool[1], index, share), between(tables.pool[2], index, share)
    busiest, total = max(own, experts, there, back), own + experts + there + back
    one_run = 1.0 / tables.pooled
    return max(busiest + (total - busiest) * one_run, total / tables.batches + (tables.batches - 1) * one_run * busiest)


@inner
def attention_time(tables: Tables, step: Step) -> float:
    """Return the time of attention. step: as of `Engine`."""
    decodes, chunks = step.decodes, step.chunks
    keys = step.keys / decodes if decodes > 0 else 0.0
    if chunks == 0.0:
        index, share = locate(tables, DECODE_KEYS, keys)
        return between(tables.decode[int(decodes)], index, share)
    chunk_keys = step.chunk_keys / step.rows
    if decodes > 0 and tables.fused:
        return mixed_time(tables, (decodes, keys, chunks, step.rows, chunk_keys))
    seconds = prompt_time(tables, chunks, step.rows, chunk_keys)
    if decodes > 0:
        index, share = locate(tables, DECODE_KEYS, keys)
        seconds += between(tables.decode[int(decodes)], index, share)
    return seconds


@inner
def prompt_time(tables: Tables, chunks: float, rows: float, keys: float) -> float:
    """Return the time of attention of prompt chunks, linear between the table's points."""
    i, a = locate(tables, CHUNKS, chunks)
    j, b = locate(tables, CHUNK_ROWS, rows)
    k, c = locate(tables, CHUNK_KEYS, keys)
    total = 0.0
    for corner in range(8):
        di, dj, dk = corner & 1, (corner >> 1) & 1, corner >> 2
        weight = (a if di else 1.0 - a) * (b if dj else 1.0 - b) * (c if dk else 1.0 - c)
        if weight > 0.0:
            total += weight * tables.prompt[i + di, j + dj, k + dk]
    return total


@inner
def mixed_time(tables: Tables, point: tuple[float, float, float, float, float]) -> float:
    """Return the time of attention of decoding requests and prompt chunks in one kernel, linear between points."""
    g, u = locate(tables, MIXED_DECODES, point[0])
    h, v = locate(tables, MIXED_KEYS, point[1])
    i, a = locate(tables, MIXED_CHUNKS, point[2])
    j, b = locate(tables, MIXED_ROWS, point[3])
    k, c = locate(tables, MIXED_CHUNK_KEYS, point[4])
    total = 0.0
    for corner in range(32):
        dg, dh, di, dj, dk = corner & 1, (corner >> 1) & 1, (corner >> 2) & 1, (corner >> 3) & 1, corner >> 4
        weight = (u if dg else 1.0 - u) * (v if dh else 1.0 - v) * (a if di else 1.0 - a)
        weight *= (b if dj else 1.0 - b) * (c if dk else 1.0 - c)
        if weight > 0.0:
            total += weight * tables.mixed[g + dg, h + dh, i + di, j + dj, k + dk]
    return total
