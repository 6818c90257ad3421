"""Tasks on streams: the work of a device in the order of each stream, and what each task waits for."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from costmodel.errors import InputError
from costmodel.quantities import Array, Bytes, Count, Seconds
from costmodel.records import MutableRecord, Record, ValueRecord, field
from costmodel.workload.scenario import Scenario

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


# ---- What keeps a cluster from its nominal speed: jitter, slow or failed devices, links and planes, busy processors.

EVERYTHING = "everything"
_KINDS = {"compute": KERNEL, "network": MESSAGE, EVERYTHING: EVERYTHING}


class SlowdownWindow(ValueRecord):
    """Tasks of one kind on a device run `factor` times as fast from `begin` to `end` [s], 0: not at all.

    device: null for all of them.
    kind: of the tasks, or `everything`.
    """

    device: int | None
    begin: Seconds
    end: Seconds
    factor: float
    kind: str = EVERYTHING

    def affects(self, device: int, kind: str) -> bool:
        """Tell whether it slows tasks of a kind on a device."""
        return self.device in (None, device) and self.kind in (EVERYTHING, kind)


class Conditions(Record):
    """The conditions of a run.

    seed, jitter: of factors exp(N(-j^2/2, j)), whose mean is one, on each task's time
    slowdown_windows: in any order
    processors: of a device that kernels share with resident communication kernels, and those at which kernel times were
        taken; null: kernel times include whatever runs at the same time
    patience: time without any finished task after which a run is given up [s]
    """

    seed: int = 0
    jitter: float = 0.0
    slowdown_windows: tuple[SlowdownWindow, ...] = ()
    processors: tuple[Count, Count] | None = None
    patience: Seconds = np.inf

    @classmethod
    def of(cls, scenario: Scenario) -> Conditions:
        """Return the conditions that a scenario states."""
        simulation, processors = scenario.simulation, scenario.cluster.device.processors
        windows = tuple(
            SlowdownWindow(
                each.rank, each.begin, np.inf if each.end is None else each.end, each.speed, _KINDS[each.slows]
            )
            for each in simulation.slowdowns
        )
        shared = (processors, processors - scenario.communication.processors) if simulation.shares_processors else None
        patience = np.inf if simulation.patience is None else simulation.patience
        return cls(simulation.seed, simulation.jitter, windows, shared, patience)

    def __post_init__(self) -> None:
        windows = {f"slowdown_windows[{i}]": window for i, window in enumerate(self.slowdown_windows)}
        values = {"jitter": self.jitter} | {f"{name}.factor": window.factor for name, window in windows.items()}
        values |= {f"{name}.begin": float(window.begin) for name, window in windows.items()}
        for name, value in values.items():
            if not (np.isfinite(value) and value >= 0):
                raise InputError.single(f"is {value:g}", field=name, hint="write a number of 0 or more")
        if not self.patience > 0:
            raise InputError.single(f"is {float(self.patience):g}", field="patience", hint="write a time above zero")

    def factors(self, graph: Graph) -> list[float]:
        """Return the factor of jitter on each task's time: the same seed gives the same factors."""
        count = len(graph.tasks)
        if not self.jitter:
            return [1.0] * count
        draws = np.random.default_rng(self.seed).standard_normal(count)
        return [float(factor) for factor in np.exp(self.jitter * draws - self.jitter**2 / 2)]

    def speed(self, device: int, kind: str, now: Seconds) -> float:
        """Return how fast tasks of a kind run on a device at some time, 1 for their nominal speed."""
        speed = 1.0
        for window in self.slowdown_windows:
            if window.begin <= now < window.end and window.affects(device, kind):
                speed *= window.factor
        return speed

    def varying(self, graph: Graph) -> list[bool]:
        """Tell of each task whether its speed can change while it runs."""
        devices = [stream.device for stream in graph.streams]
        kinds = {task.kind for task in graph.tasks} - {MARK}
        slowed = {
            (device, kind): any(window.affects(device, kind) for window in self.slowdown_windows)
            for device in set(devices)
            for kind in kinds
        }
        return [
            task.kind != MARK
            and (
                slowed[devices[task.stream], task.kind]
                or (self.processors is not None and task.processor_bound_share > 0)
                or (graph.moe_comm_slowdown > 1 and task.kind == KERNEL)
            )
            for task in graph.tasks
        ]
