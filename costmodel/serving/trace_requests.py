"""Rows of a trace as requests: who waits for whom, and which blocks prompts share."""

from __future__ import annotations

import warnings
from array import array
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from costmodel.errors import ImplausibleInput, InputError, Location
from costmodel.quantities import Array
from costmodel.schema.references import display_path
from costmodel.serving.draw import in_order_of_arrival
from costmodel.serving.message_texts import Texts
from costmodel.serving.state import NEXT, Calls, Paths, Requests
from costmodel.serving.trace_rows import problem
from costmodel.serving.traces import read_rows
from costmodel.workload.requests import RequestStream

Ints = npt.NDArray[np.int64]


class Columns(NamedTuple):
    """The rows of a trace as arrays. Of blocks, those of one row come after those of the one before it."""

    arrival: Array
    earliest: Array
    length: Ints
    blocks: Ints
    number: Ints
    size: Ints
    priority: npt.NDArray[np.int32]
    calls: Calls


def read_trace(stream: RequestStream, block: int, lanes: int = 0) -> Requests:
    """Return the requests of a trace, the first arriving at 0.

    block: tokens of a block of the engine's cache.
    lanes: sessions that are under way, each of which that ends is replaced by the next one; 0: as they arrived.
    Raises InputError at the row that is wrong.
    """
    assert stream.trace is not None
    path, speed = Path(stream.trace), float(stream.speed)
    columns, paths = _read(
        path, path.stat().st_mtime_ns, stream.format, None if stream.count is None else int(stream.count), block
    )
    begin = float(columns.arrival.min())
    requests = Requests(
        (columns.arrival - begin) / speed, columns.length, columns.calls, paths, columns.priority,
        np.maximum(columns.earliest - begin, 0.0) / speed,
    )  # fmt: skip
    requests = requests if stream.shuffle is None else dealt(requests, stream.shuffle)
    return in_lanes(requests, lanes) if lanes else requests


@lru_cache(maxsize=4)
def _read(path: Path, changed: int, kind: str | None, count: int | None, block: int) -> tuple[Columns, Paths]:
    """Return the rows of a file and the runs of blocks of its prompts, read once for engines with blocks of a size."""
    columns, texts = _columns(path, changed, kind, count)
    return columns, _paths(columns, texts, block, display_path(path))


@lru_cache(maxsize=2)
def _columns(
    path: Path,
    changed: int,  # noqa: ARG001  renews what is kept
    kind: str | None,
    count: int | None,
) -> tuple[Columns, Texts]:
    """Return the rows of a file and the messages of its prompts, read once for runs that follow each other."""
    texts = Texts()
    times, (length, blocks, number, size, priority) = array("d"), (array("q") for _ in range(5))
    names, waits = dict[str, int](), list[tuple[int, int, str, float]]()
    for index, row in enumerate(read_rows(path, kind, count, texts)):
        times.extend((row.arrival, row.earliest))
        length.extend((row.prompt, row.output))
        blocks.extend(row.blocks)
        number.append(len(row.blocks))
        size.append(row.size)
        if row.name:
            names[row.name] = index
        waits += [(index, row.line, *each) for each in row.after]
        if row.priority is not None:  # of all rows, or of none
            priority.append(row.priority)
    arrival, earliest = np.asarray(times).reshape(-1, 2).T
    calls = _calls(len(arrival), names, waits, None if count is not None else display_path(path))
    arrival = np.where(np.isinf(arrival) & (calls.callers == 0), earliest, arrival)  # what it waits for was cut off
    columns = Columns(
        arrival, earliest, np.asarray(length, np.int64).reshape(-1, 2), np.asarray(blocks, np.int64),
        np.asarray(number, np.int64), np.asarray(size, np.int64),
        np.asarray(priority if len(priority) == len(arrival) else [], np.int32), calls,
    )  # fmt: skip
    return columns, texts


def _calls(count: int, names: dict[str, int], waits: list[tuple[int, int, str, float]], shown: str | None) -> Calls:
    """Return who calls whom. shown: the file, null where it was cut, and what requests wait for may lack.

    waits: number and line of a request, the name of one that it waits for, and how long from its end [s].
    """
    lines = {index: line for index, line, _, _ in waits}
    for _, line, name, _ in waits if shown is not None else ():
        if name not in names:
            raise problem(shown or "", line, f"waits for {name[:40]!r}, which is no request", "complete the file")
    known = [each for each in waits if each[2] in names]
    calls = Calls.of(
        count, np.array([names[each[2]] for each in known], np.int64), np.array([each[0] for each in known], np.int64),
        np.array([each[3] for each in known]),
    )  # fmt: skip
    left, ready = calls.callers.tolist(), np.flatnonzero(calls.callers == 0).tolist()
    while ready:
        request = ready.pop()
        for called in calls.called[calls.first[request] : calls.first[request + 1]].tolist():
            left[called] -= 1
            if left[called] == 0:
                ready.append(called)
    stuck = next((index for index, each in enumerate(left) if each > 0), None)
    if stuck is not None:
        raise problem(shown or "the trace", lines[stuck], "waits for itself, by others", "remove one of them")
    return calls


def _paths(columns: Columns, texts: Texts, block: int, shown: str) -> Paths:
    """Return the runs of blocks of prompts, and of answers where the next prompt of a session or a message has them."""
    prompt, output = columns.length.T
    number = columns.number
    if not number.any():
        return Paths.none(len(number))
    if texts:
        of_message = texts.blocks(block)
        paths = paths_of_blocks(columns.blocks, number, of_message)
        reached = np.zeros(len(number), np.int64)
        np.add.at(reached, np.repeat(np.arange(len(number)), number), of_message[columns.blocks])
        return paths._replace(blocks=np.minimum(reached, (prompt + output) // block).astype(np.int32))
    known = set(columns.size[number > 0].tolist())
    if len(known) > 1:
        raise problem(shown, None, f"has blocks of {' and '.join(map(str, sorted(known)))} tokens", "split the file")
    size = known.pop() or trace_block(number, prompt, shown)
    check_sizes(size, block, shown)
    blocks, number, tokens = with_answers(columns, size)
    return paths_of_trace(blocks, number, tokens, block, size)


def with_answers(columns: Columns, size: int) -> tuple[Ints, Ints, Ints]:
    """Return blocks, their number and tokens of each request: of its prompt, and of its answer where a request that it
    calls goes on from both, so that its blocks name them.
    """
    prompt, output = columns.length.T
    first = np.concatenate([[0], np.cumsum(columns.number)])
    begin, number, tokens = first[:-1].copy(), columns.number.copy(), prompt.copy()
    for request in range(len(prompt)):
        own = columns.blocks[first[request] : first[request + 1]][: prompt[request] // size]
        for called in columns.calls.called[columns.calls.first[request] : columns.calls.first[request + 1]]:
            other = columns.blocks[first[called] : first[called + 1]]
            if len(own) and len(other) > len(own) and np.array_equal(other[: len(own)], own):
                begin[request], number[request] = first[called], len(other)
                tokens[request] = min(prompt[request] + output[request], prompt[called])
                break
    place = np.arange(number.sum()) - np.repeat(np.cumsum(number) - number, number)
    return columns.blocks[np.repeat(begin, number) + place], number, tokens


def _sessions(calls: Calls) -> tuple[Ints, Ints, Ints]:
    """Return the requests that none calls, which of these each request follows from, and the caller of each call."""
    count = len(calls.first) - 1
    openings = np.flatnonzero(calls.callers == 0)
    session, caller = np.full(count, -1), np.repeat(np.arange(count), np.diff(calls.first))
    session[openings] = np.arange(len(openings))
    while (session < 0).any():
        np.maximum.at(session, calls.called, session[caller])
    return openings, session, caller


def dealt(requests: Requests, seed: int) -> Requests:
    """Return the requests of a trace, or its sessions, with the arrivals dealt out anew among them, in order of these.

    Lengths, shared prefixes and bursts of arrivals stay as they are. What meets in a burst does not.
    """
    openings, session, _ = _sessions(requests.calls)
    begin = requests.arrival[openings]
    new = np.random.default_rng(seed).permutation(begin)
    arrival = requests.arrival.copy()
    arrival[openings] = new
    earliest = np.maximum(requests.earliest + (new - begin)[session], 0.0)
    return in_order_of_arrival(requests._replace(arrival=arrival, earliest=earliest))


def in_lanes(requests: Requests, lanes: int) -> Requests:
    """Return the requests with so many sessions at the start; each that ends calls the next one.

    A session is a request that none calls, with all that it calls in turn. Its end is that of its last request.
    """
    count, calls = len(requests.arrival), requests.calls
    openings, session, caller = _sessions(calls)
    ends = np.zeros(len(openings), np.int64)
    np.maximum.at(ends, session, np.arange(count))
    arrival = np.where(np.isfinite(requests.arrival) & (session < lanes), 0.0, np.inf)
    recycled = Calls.of(
        count, np.concatenate([caller, ends]), np.concatenate([calls.called, np.full(len(ends), NEXT)]),
        np.concatenate([calls.delay, np.zeros(len(ends))]),
    )  # fmt: skip
    return requests._replace(arrival=arrival, calls=recycled, earliest=0.0)


SIZES = tuple(2**power for power in range(12))  # tokens of a trace's block


def paths_of_trace(blocks: Ints, number: Ints, tokens: Ints, block: int, size: int) -> Paths:
    """Return the paths of requests in blocks of the engine, of those of a trace: equal numbers are equal texts.

    blocks: of the trace, one request's after the other's; number: of each request; tokens: of each prompt, with what is
    known of its answer; size: tokens of one of the trace's. Only full blocks of the engine count.
    """
    if 2 * np.count_nonzero(number * size >= tokens + size) > len(number):
        text = "most prompts of the trace have blocks of more tokens than they have: check the unit of their lengths"
        warnings.warn(ImplausibleInput(text), stacklevel=2)
    known = np.minimum(number * size, tokens) // block
    step = max(block // size, 1)  # blocks of the trace in one of the engine
    taken = known if step > 1 else -(-known * block // size)
    first = np.cumsum(number) - number
    place = np.arange(taken.sum()) - np.repeat(np.cumsum(taken) - taken, taken)
    paths = paths_of_blocks(blocks[np.repeat(first, taken) + (place + 1) * step - 1], taken)
    return paths._replace(blocks=known.astype(np.int32), sizes=paths.sizes * max(size // block, 1))


def check_sizes(size: int, block: int, shown: str) -> None:
    """Raise InputError where blocks of a trace and of the cache do not go together."""
    if max(size, block) % min(size, block):
        raise InputError.single(
            f"its blocks of {size} tokens do not go with the cache's of {block}", field="requests.trace",
            hint=f"write `memory: {{block: {size}}}`", location=Location(shown),
        )  # fmt: skip


def trace_block(number: Ints, prompt: Ints, shown: str) -> int:
    """Return the tokens of a trace's block: the size with which every prompt has its number of blocks.

    The last one may be incomplete: it has a number in some traces and none in others.
    """
    has = number > 0
    fits = [
        size for size in SIZES
        if np.all((number == prompt // size)[has]) or np.all((number == -(-prompt // size))[has])
    ]  # fmt: skip
    if len(fits) == 1:
        return int(fits[0])
    raise InputError.single(
        "its numbers of blocks go with no size of a block" if not fits else "any size of a block goes with it",
        field="requests.trace", hint="give every prompt the blocks of all its tokens", location=Location(shown),
    )  # fmt: skip


ROOT = -1


def paths_of_blocks(blocks: Ints, number: Ints, sizes: Ints | None = None) -> Paths:
    """Return the paths of requests whose blocks have numbers, one request's after the other's.

    A node is a number with all that comes before it; a run begins where no node is the parent, or it has several
    children. number: of blocks of each request; sizes: blocks that each number stands for, one by default.
    """
    requests = len(number)
    is_first = np.zeros(len(blocks), bool)
    is_first[(np.cumsum(number) - number)[number > 0]] = True
    node, parent = _nodes(blocks, is_first)
    # By node: its parent, whether a run begins with it, and its run.
    nodes = int(node.max(initial=-1)) + 1
    parent_of = np.full(nodes, ROOT)
    parent_of[node] = parent
    children = np.bincount(parent_of[parent_of >= 0], minlength=nodes)
    is_head = (parent_of < 0) | (children[parent_of] > 1)
    run_of_head = np.cumsum(is_head) - 1
    # By block: the head before it in its request, whose run it is in.
    begins_run = is_head[node]
    head_before = np.maximum.accumulate(np.where(begins_run, np.arange(len(node)), 0))
    run_of = np.zeros(nodes, np.int64)
    run_of[node] = run_of_head[node[head_before]]
    blocks_of = np.ones(nodes, np.int64)
    if sizes is not None:
        blocks_of[node] = sizes[blocks]
    request_of_block = np.repeat(np.arange(requests), number)
    runs_of_request = np.bincount(request_of_block[begins_run], minlength=requests)
    first = np.concatenate([[0], np.cumsum(runs_of_request)])
    run_sizes = np.bincount(run_of, blocks_of, minlength=int(is_head.sum()))
    return Paths(
        first.astype(np.int64), run_of_head[node[begins_run]].astype(np.int32), number.astype(np.int32),
        run_sizes.astype(np.int32),
    )  # fmt: skip


def _nodes(blocks: Ints, is_first: npt.NDArray[np.bool_]) -> tuple[Ints, Ints]:
    node: Ints = np.unique(blocks, return_inverse=True)[1].astype(np.int64)
    parent = np.where(is_first, ROOT, np.roll(node, 1))
    parent_of = np.full(int(node.max(initial=-1)) + 1, ROOT)
    parent_of[node] = parent
    if np.array_equal(parent_of[node], parent):
        return node, parent
    # Numbers that do not tell what is before them: level by level, pairs of the node before and the number do.
    start = np.flatnonzero(is_first)
    length = np.diff(np.append(start, len(blocks)))
    tree, before, nodes, distinct = np.empty_like(node), np.full(len(start), ROOT), 0, len(parent_of)
    for level in range(int(length.max())):
        alive = length > level
        at = start[alive] + level
        pairs, index = np.unique((before[alive] + 1) * distinct + node[at], return_inverse=True)
        tree[at] = before[alive] = nodes + index
        nodes += len(pairs)
    return tree, np.where(is_first, ROOT, np.roll(tree, 1))
