"""Timelines as a file in the Chrome trace-event format, which Perfetto and chrome://tracing show.

A process is a pipeline rank or a stage, a thread one of its streams. Categories are those of the PyTorch profiler.
Above the streams are the actions of the schedule. Counters show the messages in flight, the load of the busiest link
where links are shared, and the activations that a rank keeps. Arrows follow results to other ranks. [Trace Event
Format, Google, 2016; PyTorch, libkineto.]
"""

from __future__ import annotations

import json
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, TypeAlias

from costmodel.event.engine import Timeline
from costmodel.event.graph import COPY, KERNEL, LAUNCH, MARK, MESSAGE
from costmodel.schema.whole_files import make_folder, write_whole
from costmodel.study.timelines import ACTIONS, MICRO, Slice, class_of

Event: TypeAlias = "dict[str, Any]"

CATEGORIES = {KERNEL: "kernel", MESSAGE: "kernel", COPY: "gpu_memcpy", LAUNCH: "cuda_runtime"}
DIGITS = 4  # of microseconds
_ACTION_THREAD = 0
_SIDE = 1 << 16  # process numbers of one side of a comparison
_CHUNK = 2000  # events that are compressed at once
_GZIP = 16 + zlib.MAX_WBITS


def write_trace(path: Path, timelines: Mapping[str, Timeline]) -> None:
    """Write timelines by scenario as one file, gzip-compressed if its name ends in `.gz`."""
    write_events(path, _all_events(timelines))


def write_merged(path: Path, predicted: Sequence[Slice], measured: Sequence[Slice]) -> None:
    """Write two timelines as one file, each starting at zero."""
    sides = (("predicted", predicted), ("measured", measured))
    parts = (_slice_events(side, slices, _SIDE * i) for i, (side, slices) in enumerate(sides))
    write_events(path, chain.from_iterable(parts))


def write_events(path: Path, events: Iterable[Event]) -> None:
    """Write events as one file, gzip-compressed if its name ends in `.gz`."""
    make_folder(path.parent)
    lines = document_lines(events)
    write_whole(path, _compressed(lines) if path.suffix == ".gz" else lines)


def document_lines(events: Iterable[Mapping[str, Any]]) -> Iterator[bytes]:
    """Yield the JSON document of events, one per line. The same events give the same bytes."""
    yield b'{"schemaVersion": 1, "displayTimeUnit": "ms", "traceEvents": [\n'
    separator = ""
    chunk: list[str] = []
    for event in events:
        chunk.append(separator + json.dumps(event, separators=(",", ":"), allow_nan=False))
        separator = ",\n"
        if len(chunk) == _CHUNK:
            yield "".join(chunk).encode()
            chunk = []
    yield "".join(chunk).encode() + b"\n]}\n"


def _slice_events(side: str, slices: Sequence[Slice], first_process: int) -> Iterator[Event]:
    start = min(piece.start for piece in slices)
    processes = {name: first_process + i for i, name in enumerate(dict.fromkeys(piece.process for piece in slices))}
    threads = {key: i for i, key in enumerate(dict.fromkeys((piece.process, piece.thread) for piece in slices))}
    for name, process in processes.items():
        yield from _process_names(process, f"{side}: {name}")
    for (name, thread), i in threads.items():
        yield _meta("thread_name", processes[name], i, {"name": thread})
    for piece in slices:
        times = piece.start - start, piece.start - start + piece.seconds
        thread_id = processes[piece.process], threads[piece.process, piece.thread]
        kind = piece.kind or class_of(piece.name, piece.category)
        yield _slice(piece.name, piece.category, times, thread_id, {"class": kind})


def _compressed(lines: Iterable[bytes]) -> Iterator[bytes]:
    compressor = zlib.compressobj(wbits=_GZIP)
    for line in lines:
        yield compressor.compress(line)
    yield compressor.flush()


def _all_events(timelines: Mapping[str, Timeline]) -> Iterator[Event]:
    first = 0
    for name, timeline in timelines.items():
        yield from trace_events(timeline, name, first)
        first += 1 + max((stream.device for stream in timeline.graph.streams), default=0)


def trace_events(timeline: Timeline, scenario: str, first: int = 0) -> Iterator[Event]:
    """Yield the events of a timeline. first: number of its first process."""
    yield from _names(timeline, scenario, first)
    yield from _actions(timeline, first)
    yield from _tasks(timeline, first)
    yield from _arrows(timeline, first)
    yield from _counters(timeline, first)


def _names(timeline: Timeline, scenario: str, first: int) -> Iterator[Event]:
    used = {task.stream for task in timeline.graph.tasks if task.kind != MARK}
    named: set[int] = set()
    for i, stream in enumerate(timeline.graph.streams):
        process = first + stream.device
        if process not in named:
            named.add(process)
            yield from _process_names(process, f"{scenario}, {stream.process}")
            yield _meta("thread_name", process, _ACTION_THREAD, {"name": "actions"})
        if i in used:
            yield _meta("thread_name", process, i + 1, {"name": stream.name})
            yield _meta("thread_sort_index", process, i + 1, {"sort_index": i + 1})


def _process_names(process: int, name: str) -> Iterator[Event]:
    yield _meta("process_name", process, 0, {"name": name})
    yield _meta("process_sort_index", process, 0, {"sort_index": process})


def _meta(name: str, process: int, thread: int, args: Mapping[str, Any]) -> Event:
    return {"ph": "M", "name": name, "pid": process, "tid": thread, "args": dict(args)}


def _slice(
    name: str, category: str, times: tuple[float, float], thread_id: tuple[int, int], args: Mapping[str, Any]
) -> Event:
    start, finish = (_microseconds(time) for time in times)
    process, thread = thread_id
    return {
        "ph": "X", "name": name, "cat": category, "pid": process, "tid": thread, "ts": start,
        "dur": round(max(finish - start, 0.0), DIGITS), "args": dict(args),
    }  # fmt: skip


def _microseconds(seconds: float) -> float:
    return round(float(seconds) / MICRO, DIGITS)


def _actions(timeline: Timeline, first: int) -> Iterator[Event]:
    for span in timeline.graph.spans:
        times = timeline.start[span.first : span.last + 1].min(), _end(timeline, span.last)
        yield _slice(span.title, ACTIONS, times, (first + span.device, _ACTION_THREAD), {"kind": span.kind})


def _end(timeline: Timeline, i: int) -> float:
    """Return when a span ends whose last task is i: a mark is no work, though later tasks may wait for it."""
    times = timeline.start if timeline.graph.tasks[i].kind == MARK else timeline.finish
    return float(times[i])


def _tasks(timeline: Timeline, first: int) -> Iterator[Event]:
    streams = timeline.graph.streams
    for task, start, finish in zip(timeline.graph.tasks, timeline.start, timeline.finish, strict=True):
        if task.kind != MARK and finish > start:
            thread_id = first + streams[task.stream].device, task.stream + 1
            args: dict[str, Any] = {"stream": task.stream}
            if task.classes:
                args["classes"] = {name: _microseconds(seconds) for name, seconds in task.classes}
            elif task.kind == MESSAGE:
                args["classes"] = {"collective": _microseconds(finish - start)}
            yield _slice(task.name, CATEGORIES[task.kind], (start, finish), thread_id, args)


def _arrows(timeline: Timeline, first: int) -> Iterator[Event]:
    """Yield an arrow from each message between ranks to what it triggers. Viewers draw those that begin in a slice."""
    graph = timeline.graph
    for number, ends in enumerate(graph.arrows):
        for task, kind in zip(ends, "sf", strict=True):
            stream = graph.tasks[task].stream
            event = {
                "ph": kind, "cat": "ac2g", "name": "ac2g", "id": (first << 24) + number,
                "pid": first + graph.streams[stream].device, "tid": stream + 1,
                "ts": _microseconds(timeline.start[task]),
            }  # fmt: skip
            yield event if kind == "s" else {**event, "bp": "e"}


def _counters(timeline: Timeline, first: int) -> Iterator[Event]:
    """Yield the counters of each process as they change.

    messages: in flight. Busiest link: its load in per cent at the mean rate of each message.
    memory: activations [B].
    """
    for (device, name, unit), changes in sorted(_counter_changes(timeline).items()):
        level = 0.0
        by_time: dict[float, float] = defaultdict(float)
        for time, change in changes:
            by_time[time] += change
        for time, change in sorted(by_time.items()):
            if change:
                level += change
                yield {
                    "ph": "C", "name": name, "pid": first + device, "tid": 0, "ts": _microseconds(time),
                    "args": {unit: abs(round(level))},
                }  # fmt: skip


def _counter_changes(timeline: Timeline) -> dict[tuple[int, str, str], list[tuple[float, float]]]:
    graph = timeline.graph
    changes: dict[tuple[int, str, str], list[tuple[float, float]]] = defaultdict(list)
    for task, start, finish in zip(graph.tasks, timeline.start, timeline.finish, strict=True):
        if task.kind == MESSAGE and finish > start:
            device = graph.streams[task.stream].device
            changes[device, "links", "messages"] += [(float(start), 1.0), (float(finish), -1.0)]
            if task.message is not None and task.message.loads:
                load = 100.0 * task.message.size * max(task.message.loads.values()) / float(finish - start)
                changes[device, "busiest link", "per cent"] += [(float(start), load), (float(finish), -load)]
    for span in graph.spans:
        begin = float(timeline.start[span.first : span.last + 1].min())
        memory = changes[span.device, "memory", "activations"]
        memory += [(begin, float(span.allocates)), (_end(timeline, span.last), -float(span.frees))]
    return changes
