"""Tasks on streams: what a device is told to do, in the order of each stream, and what each task waits for."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from costmodel.quantities import Array, Bytes, Count, Seconds

KERNEL, MESSAGE, COPY, START, MARK = "kernel", "message", "copy", "start", "mark"
"""Kinds of tasks: of processors, of the network, between host and device, of the host's program; marks are no work."""


class Stream(NamedTuple):
    """A queue of one device that runs one task after the other. process: the stage or node that it belongs to."""

    process: str
    device: int
    name: str


@dataclass(slots=True, eq=False)
class Message:
    """What a task puts on links that it shares: a flow of `size` of the flow level [B].

    loads: bytes on each link a byte of the message; limit: its rate without anybody else [B/s]. Tasks may have one in
    common.
    """

    loads: Mapping[int, float]
    size: float
    limit: float = math.inf


class Task(NamedTuple):
    """One piece of work. Tasks of a stream run in the order in which they are listed, as those of a CUDA stream do.

    seconds: what it takes alone, of one with a message before the bytes move [s]; after: tasks that must have finished;
    elastic: share of its time that shrinks with more processors; holds: processors that it takes from kernels;
    classes: seconds by class of operator; slows: kernels beside it take longer.
    """

    name: str
    stream: int
    seconds: Seconds
    after: tuple[int, ...] = ()
    kind: str = KERNEL
    processor_bound_share: float = 0.0
    holds: Count = 0.0
    message: Message | None = None
    classes: tuple[tuple[str, float], ...] = ()
    slows: bool = False


class Span(NamedTuple):
    """What tasks `first` to `last` of a device are for. kind: as of an action; title: with its micro-batches.

    takes, frees: memory that it holds from its start, and gives back at its end [B].
    """

    first: int
    last: int
    device: int
    kind: str
    title: str
    takes: Bytes = 0.0
    frees: Bytes = 0.0


@dataclass(slots=True, eq=False)
class Graph:
    """Tasks of all devices; a task's number is its position.

    arrows: (from, to) of results that go to other devices; spans: what groups of tasks are for; slowing: kernels take
    as much longer while a task that slows them runs on their device; capacity: of the links that messages share [B/s].
    """

    streams: list[Stream] = field(default_factory=list)
    tasks: list[Task] = field(default_factory=list)
    arrows: list[tuple[int, int]] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)
    slowing: float = 1.0
    capacity: Array = field(default_factory=lambda: np.empty(0))

    def stream(self, process: str, device: int, name: str) -> int:
        """Add a stream and return its number."""
        self.streams.append(Stream(process, device, name))
        return len(self.streams) - 1

    def add(self, task: Task) -> int:
        """Add a task and return its number."""
        self.tasks.append(task)
        return len(self.tasks) - 1

    def mark(self, stream: int, after: Iterable[int], name: str = "", wait: Seconds = 0.0) -> int:
        """Add a task that is no work: it begins when the stream has come to it and the others have finished.

        wait: for which it holds up what comes after it [s].
        """
        return self.add(Task(name, stream, wait, tuple(after), MARK))

    def extend(self, tasks: Iterable[Task]) -> None:
        """Add tasks whose waits are numbered as in the whole graph."""
        self.tasks.extend(tasks)
