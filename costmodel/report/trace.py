"""Timelines as a file in the Chrome trace-event format, which Perfetto and chrome://tracing show.

A process is a pipeline rank or a stage, a thread one of its streams; categories are those of the PyTorch profiler.
Above the streams stand the actions of the schedule; counters show the messages under way, how busy the busiest link is
where links are shared, and the activations that a rank holds; arrows follow results to other ranks. [Trace Event
Format, Google, 2016; PyTorch, libkineto.]
"""

from __future__ import annotations

import json
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from costmodel.event.engine import Timeline
from costmodel.event.graph import COPY, KERNEL, LAUNCH, MARK, MESSAGE
from costmodel.schema.whole_files import make_folder, write_whole
from costmodel.study.timelines import ACTIONS, MICRO, Slice, class_of

CATEGORIES = {KERNEL: "kernel", MESSAGE: "kernel", COPY: "gpu_memcpy", LAUNCH: "cuda_runtime"}
DIGITS = 4  # of microseconds
_ACTION_THREAD = 0
_SIDE = 1 << 16  # processes of one side of a comparison
_LINES = 2000  # that are packed together
_GZIP = 16 + zlib.MAX_WBITS


def write_trace(path: Path, timelines: Mapping[str, Timeline]) -> None:
    """Write timelines, by scenario, as one file: packed where its name ends in `.gz`, whole or not at all."""
    make_folder(path.parent)
    lines = document_lines(event for timeline in _placed(timelines) for event in timeline)
    write_whole(path, _packed(lines) if path.suffix == ".gz" else lines)


def document_lines(events: Iterable[Mapping[str, Any]]) -> Iterator[bytes]:
    """Yield the JSON document of some events, one a line; the same events give the same bytes."""
    yield b'{"schemaVersion": 1, "displayTimeUnit": "ms", "traceEvents": [\n'
    separator = ""
    held: list[str] = []
    for event in events:
        held.append(separator + json.dumps(event, separators=(",", ":"), allow_nan=False))
        separator = ",\n"
        if len(held) == _LINES:
            yield "".join(held).encode()
            held = []
    yield "".join(held).encode() + b"\n]}\n"


def write_beside(path: Path, predicted: Sequence[Slice], measured: Sequence[Slice]) -> None:
    """Write two timelines as one file, each from its own first moment on."""
    make_folder(path.parent)
    sides = (("predicted", predicted), ("measured", measured))
    lines = document_lines(event for number, (side, own) in enumerate(sides) for event in _again(side, own, number))
    write_whole(path, _packed(lines) if path.suffix == ".gz" else lines)


def _again(side: str, slices: Sequence[Slice], number: int) -> Iterator[dict[str, Any]]:
    """Yield the events of slices that were read. number: of the side, which its processes' numbers begin with."""
    first = min(each.start for each in slices)
    processes = {name: _SIDE * number + at for at, name in enumerate(dict.fromkeys(each.process for each in slices))}
    threads = dict.fromkeys((each.process, each.thread) for each in slices)
    threads_of = {key: at for at, key in enumerate(threads)}
    for name, process in processes.items():
        yield _meta("process_name", process, 0, {"name": f"{side}: {name}"})
        yield _meta("process_sort_index", process, 0, {"sort_index": process})
    for (name, thread), at in threads_of.items():
        yield _meta("thread_name", processes[name], at, {"name": thread})
    for each in slices:
        times = each.start - first, each.start - first + each.seconds
        kind = each.kind or class_of(each.name, each.category)
        place = processes[each.process], threads_of[each.process, each.thread]
        yield _slice(each.name, each.category, times, place, {"class": kind})


def _packed(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Yield gzip without a time stamp."""
    packer = zlib.compressobj(wbits=_GZIP)
    for line in lines:
        yield packer.compress(line)
    yield packer.flush()


def _placed(timelines: Mapping[str, Timeline]) -> Iterator[Iterator[dict[str, Any]]]:
    first = 0
    for name, timeline in timelines.items():
        yield trace_events(timeline, name, first)
        first += 1 + max((stream.device for stream in timeline.graph.streams), default=0)


def trace_events(timeline: Timeline, scenario: str, first: int = 0) -> Iterator[dict[str, Any]]:
    """Yield the events of a timeline. first: number of its first process."""
    yield from _names(timeline, scenario, first)
    yield from _actions(timeline, first)
    yield from _tasks(timeline, first)
    yield from _arrows(timeline, first)
    yield from _counters(timeline, first)


def _names(timeline: Timeline, scenario: str, first: int) -> Iterator[dict[str, Any]]:
    used = {task.stream for task in timeline.graph.tasks if task.kind != MARK}
    named: set[int] = set()
    for number, stream in enumerate(timeline.graph.streams):
        process = first + stream.device
        if process not in named:
            named.add(process)
            yield _meta("process_name", process, 0, {"name": f"{scenario}, {stream.process}"})
            yield _meta("process_sort_index", process, 0, {"sort_index": process})
            yield _meta("thread_name", process, _ACTION_THREAD, {"name": "actions"})
        if number in used:
            yield _meta("thread_name", process, number + 1, {"name": stream.name})
            yield _meta("thread_sort_index", process, number + 1, {"sort_index": number + 1})


def _meta(name: str, process: int, thread: int, args: Mapping[str, Any]) -> dict[str, Any]:
    return {"ph": "M", "name": name, "pid": process, "tid": thread, "args": dict(args)}


def _slice(
    name: str, category: str, times: tuple[float, float], place: tuple[int, int], args: Mapping[str, Any]
) -> dict[str, Any]:
    start, finish = (_microseconds(time) for time in times)
    return {
        "ph": "X", "name": name, "cat": category, "pid": place[0], "tid": place[1], "ts": start,
        "dur": round(max(finish - start, 0.0), DIGITS), "args": dict(args),
    }  # fmt: skip


def _microseconds(seconds: float) -> float:
    return round(float(seconds) / MICRO, DIGITS)


def _actions(timeline: Timeline, first: int) -> Iterator[dict[str, Any]]:
    for span in timeline.graph.spans:
        times = timeline.start[span.first : span.last + 1].min(), _ended(timeline, span.last)
        yield _slice(span.title, ACTIONS, times, (first + span.device, _ACTION_THREAD), {"kind": span.kind})


def _ended(timeline: Timeline, number: int) -> float:
    """Return when a span is over that ends with a task: a mark is no work, though it may hold up what comes after."""
    times = timeline.start if timeline.graph.tasks[number].kind == MARK else timeline.finish
    return float(times[number])


def _tasks(timeline: Timeline, first: int) -> Iterator[dict[str, Any]]:
    streams = timeline.graph.streams
    for task, start, finish in zip(timeline.graph.tasks, timeline.start, timeline.finish, strict=True):
        if task.kind != MARK and finish > start:
            place = first + streams[task.stream].device, task.stream + 1
            args: dict[str, Any] = {"stream": task.stream}
            if task.classes:
                args["classes"] = {name: _microseconds(seconds) for name, seconds in task.classes}
            elif task.kind == MESSAGE:
                args["classes"] = {"collective": _microseconds(finish - start)}
            yield _slice(task.name, CATEGORIES[task.kind], (start, finish), place, args)


def _arrows(timeline: Timeline, first: int) -> Iterator[dict[str, Any]]:
    """Yield an arrow from each message between ranks to what it brings on: viewers draw those that begin in a slice."""
    graph = timeline.graph
    for number, (source, target) in enumerate(graph.arrows):
        common = {"cat": "ac2g", "name": "ac2g", "id": (first << 24) + number}
        for end, kind in ((source, "s"), (target, "f")):
            stream = graph.tasks[end].stream
            event = {
                "ph": kind, **common, "pid": first + graph.streams[stream].device, "tid": stream + 1,
                "ts": _microseconds(timeline.start[end]),
            }  # fmt: skip
            yield event if kind == "s" else {**event, "bp": "e"}


def _counters(timeline: Timeline, first: int) -> Iterator[dict[str, Any]]:
    """Yield counters of each process as they change.

    messages: on their way; busiest link: per cent of it that they use, where links are shared, each at its mean rate;
    memory: bytes of activations that are held.
    """
    graph = timeline.graph
    steps: dict[tuple[int, str, str], list[tuple[float, float]]] = defaultdict(list)
    for task, start, finish in zip(graph.tasks, timeline.start, timeline.finish, strict=True):
        if task.kind == MESSAGE and finish > start:
            device = graph.streams[task.stream].device
            steps[device, "links", "messages"] += [(float(start), 1.0), (float(finish), -1.0)]
            if task.message is not None and task.message.loads:
                share = 100.0 * task.message.size * max(task.message.loads.values()) / float(finish - start)
                steps[device, "busiest link", "per cent"] += [(float(start), share), (float(finish), -share)]
    for span in graph.spans:
        begin = float(timeline.start[span.first : span.last + 1].min())
        own = steps[span.device, "memory", "activations"]
        own += [(begin, float(span.allocates)), (_ended(timeline, span.last), -float(span.frees))]
    for (device, name, what), changes in sorted(steps.items()):
        level = 0.0
        by_time: dict[float, float] = defaultdict(float)
        for time, change in changes:
            by_time[time] += change
        for time, change in sorted(by_time.items()):
            if change:
                level += change
                yield {
                    "ph": "C", "name": name, "pid": first + device, "tid": 0, "ts": _microseconds(time),
                    "args": {what: abs(round(level))},
                }  # fmt: skip
