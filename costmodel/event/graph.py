"""Tasks on streams: the work of a device in the order of each stream, and what each task waits for."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from costmodel.quantities import Array, Bytes, Count, Seconds
from costmodel.records import MutableRecord, field

KERNEL, MESSAGE, COPY, LAUNCH, MARK = "kernel", "message", "copy", "start", "mark"
"""Kinds of tasks: of processors, of the network, between host and device, of the host's program; marks do no work."""


class Stream(NamedTuple):
    """A queue of one device that runs one task after the other. process: the stage or node that it belongs to."""

    process: str
    device: int
    name: str


class Message(MutableRecord, eq=False):
    """A flow of `size` bytes on links that messages share. Several tasks may have the same message.

    loads: bytes on each link per byte of the message.
    limit: its rate without contention [B/s].
    priority: of its class. One of a lower class gets what those of higher ones leave
    """

    loads: Mapping[int, float]
    size: float
    limit: float = math.inf
    priority: int = 0


class Task(NamedTuple):
    """One piece of work. Tasks of a stream run in the order in which they are listed, as those of a CUDA stream do.

    seconds: duration alone, with a message the time before bytes move [s]
    after: tasks that must have finished
    processor_bound_share: share of its time that shrinks with more processors
    processors: that it takes from kernels
    classes: seconds by class of operator
    slows_kernels: concurrent kernels are slower by the graph's `moe_comm_slowdown`
    """

    name: str
    stream: int
    seconds: Seconds
    after: tuple[int, ...] = ()
    kind: str = KERNEL
    processor_bound_share: float = 0.0
    processors: Count = 0.0
    message: Message | None = None
    classes: tuple[tuple[str, float], ...] = ()
    slows_kernels: bool = False


class Span(NamedTuple):
    """Tasks `first` to `last` of a device as one action. kind: of the action; title: with its micro-batches.

    allocates, frees: memory allocated at its start and freed at its end [B]
    """

    first: int
    last: int
    device: int
    kind: str
    title: str
    allocates: Bytes = 0.0
    frees: Bytes = 0.0


class Graph(MutableRecord, eq=False):
    """Tasks of all devices. A task's number is its position.

    arrows: (from, to) of results that go to other devices.
    spans: actions.
    moe_comm_slowdown: of kernels while a task that slows them runs on their device
    capacity: of the links that messages share [B/s]
    """

    streams: list[Stream] = field(default_factory=list)
    tasks: list[Task] = field(default_factory=list)
    arrows: list[tuple[int, int]] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)
    moe_comm_slowdown: float = 1.0
    capacity: Array = field(default_factory=lambda: np.empty(0))

    def stream(self, process: str, device: int, name: str) -> int:
        """Add a stream and return its number."""
        self.streams.append(Stream(process, device, name))
        return len(self.streams) - 1

    def add(self, task: Task) -> int:
        """Add a task and return its number."""
        self.tasks.append(task)
        return len(self.tasks) - 1

    def mark(self, stream: int, after: Iterable[int], name: str = "") -> int:
        """Add a mark: it starts when its stream has reached it and the tasks `after` have finished."""
        return self.add(Task(name, stream, 0.0, tuple(after), MARK))
