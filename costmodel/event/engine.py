"""Runs tasks on streams by SimPy's clock.

A task starts when the one before it on its stream and all that it waits for have finished. Its time counts down at the
speed of the moment: that of its device, and of a kernel the processors that resident communication kernels leave,

    speed = s / c / (1 - e + e * p / p_free)

with s the disturbances' factor, c the slowing of kernels beside expert exchanges (1 without any), e the elastic share,
p the processors at which its time was taken. When a communication kernel starts or ends, what is left is rescaled;
nothing waits in line for processors. Messages with links share them max-min fairly through the flow level.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import numpy as np
import simpy

from costmodel.errors import InfeasibleError
from costmodel.event.conditions import Conditions
from costmodel.event.graph import KERNEL, Graph, Task
from costmodel.network.flow_session import FlowSession
from costmodel.quantities import Array

LISTED = 6  # waiting streams that an error names


class DeadlockError(InfeasibleError):
    """Nothing goes on although tasks are left. waiting: by stream, the task at its head and what that waits for."""

    def __init__(self, message: str, waiting: tuple[str, ...]) -> None:
        self.waiting = waiting
        more = [f"and {len(waiting) - LISTED} more"] if len(waiting) > LISTED else []
        super().__init__("\n  ".join([message, *waiting[:LISTED], *more]))


@dataclass(frozen=True, slots=True, eq=False)
class Timeline:
    """When each task of a graph started and finished [s]."""

    graph: Graph
    start: Array
    finish: Array

    @property
    def makespan(self) -> float:
        """Return when the last task has finished [s]."""
        return float(self.finish.max(initial=0.0))


def run(graph: Graph, conditions: Conditions | None = None) -> Timeline:
    """Return when each task runs. Raises StuckError on a deadlock, or where nothing finishes within the patience."""
    return _Run(graph, Conditions() if conditions is None else conditions).timeline()


class _Run:
    """One run. `_missing` counts what each task still waits for: the task before it on its stream, and `after`."""

    def __init__(self, graph: Graph, conditions: Conditions) -> None:
        self._graph, self._conditions = graph, conditions
        self._environment = simpy.Environment()
        self._factors = conditions.factors(graph)
        self._seconds = [float(t.seconds) * f for t, f in zip(graph.tasks, self._factors, strict=True)]
        self._varying = conditions.varying(graph)
        self._device = [stream.device for stream in graph.streams]
        count = len(graph.tasks)
        self._start, self._finish = [np.nan] * count, [np.nan] * count
        self._followers: list[list[int]] = [[] for _ in range(count)]
        self._missing = [0] * count
        self._connect()
        self._left: dict[int, float] = {}  # varying tasks that run: seconds of work that were left ...
        self._since: dict[int, tuple[float, float]] = {}  # ... at that time, and the speed since then
        self._running: dict[int, set[int]] = defaultdict(set)  # varying tasks by device
        self._alarm: dict[int, simpy.Timeout | None] = {}
        self._held: dict[int, float] = defaultdict(float)
        self._slowed: dict[int, int] = defaultdict(int)  # tasks that slow kernels, by device
        self._flows = FlowSession(graph.capacity)
        self._moving: dict[int, int] = {}  # flow -> task
        self._wake: simpy.Timeout | None = None
        self._finished = 0

    def _connect(self) -> None:
        last: dict[int, int] = {}
        for number, task in enumerate(self._graph.tasks):
            needs = set(task.after)
            if task.stream in last:
                needs.add(last[task.stream])
            last[task.stream] = number
            self._missing[number] = len(needs)
            for needed in needs:
                self._followers[needed].append(number)

    def timeline(self) -> Timeline:
        self._watch()
        self._begin([number for number, missing in enumerate(self._missing) if not missing])
        while self._finished < len(self._graph.tasks):
            if self._environment.peek() == np.inf:
                raise DeadlockError("the streams wait for each other and nothing runs", self._waiting())
            self._environment.step()
        return Timeline(self._graph, np.array(self._start), np.array(self._finish))

    def _watch(self) -> None:
        """Set clocks for disturbances and for the watchdog."""
        times = {time for each in self._conditions.slowdown_windows for time in (each.begin, each.end)}
        for time in sorted(float(time) for time in times if 0 < time < np.inf):
            self._call(time, lambda _: self._disturb())
        if np.isfinite(self._conditions.patience):
            patience = float(self._conditions.patience)
            self._call(patience, lambda _: self._check(patience, 0))

    def _call(self, delay: float, action: Callable[[simpy.Event], None]) -> simpy.Timeout:
        timeout = self._environment.timeout(delay)
        timeout.callbacks.append(action)
        return timeout

    def _check(self, patience: float, before: int) -> None:
        """Give up where no task has finished since the last look; look again later."""
        if self._finished == before:
            raise DeadlockError(f"no task has finished for {patience:g} s", self._waiting())
        now = self._finished
        self._call(patience, lambda _: self._check(patience, now))

    def _begin(self, ready: list[int]) -> None:
        """Start tasks, and those that follow ones that take no time."""
        now, graph, seconds = self._environment.now, self._graph.tasks, self._seconds
        while ready:
            number = ready.pop()
            self._start[number] = now
            task = graph[number]
            if task.holds or task.slows:
                self._hold(task, 1)
            if self._varying[number]:
                self._left[number] = seconds[number]
                self._since[number] = (now, 0.0)
                self._running[self._device[task.stream]].add(number)
                self._set_alarm(number)
            elif seconds[number] > 0:
                timeout = self._environment.timeout(seconds[number], number)
                timeout.callbacks.append(self._elapsed)
            elif task.message is not None:
                self._send(number)
            else:
                ready.extend(self._end(number))

    def _end(self, number: int) -> list[int]:
        """Note that a task has finished and return those that can start now."""
        task = self._graph.tasks[number]
        self._finish[number] = self._environment.now
        self._finished += 1
        if task.holds or task.slows:
            self._hold(task, -1)
        ready = []
        missing = self._missing
        for follower in self._followers[number]:
            missing[follower] -= 1
            if not missing[follower]:
                ready.append(follower)
        return ready

    def _elapsed(self, timeout: simpy.Event) -> None:
        number = cast(int, timeout.value)
        if self._graph.tasks[number].message is None:
            self._begin(self._end(number))
        else:
            self._send(number)

    def _hold(self, task: Task, sign: int) -> None:
        """Note that a task begins (1) or ends (-1) to take processors from kernels, or to slow them down."""
        device = self._device[task.stream]
        self._held[device] += sign * float(task.holds)
        self._slowed[device] += sign * task.slows
        if self._conditions.processors is not None or self._graph.slowing > 1:
            self._rescale([device])

    def _speed(self, number: int) -> float:
        """Return the speed of a task now, 1 where nothing disturbs it."""
        task, now = self._graph.tasks[number], self._environment.now
        device = self._device[task.stream]
        speed = self._conditions.speed(device, task.kind, now)
        if task.kind == KERNEL and self._slowed[device]:
            speed /= self._graph.slowing
        if self._conditions.processors is not None and task.processor_bound_share:
            whole, priced = map(float, self._conditions.processors)
            free = max(whole - self._held[device], 0.0)
            return (
                speed / (1 - task.processor_bound_share + task.processor_bound_share * priced / free) if free else 0.0
            )
        return speed

    def _rescale(self, devices: list[int]) -> None:
        """Count what is left of the tasks that run, and set their ends anew."""
        now = self._environment.now
        for device in devices:
            for number in sorted(self._running[device]):
                since, speed = self._since[number]
                self._left[number] = max(self._left[number] - speed * (now - since), 0.0)
                self._set_alarm(number)

    def _set_alarm(self, number: int) -> None:
        speed = self._speed(number)
        self._since[number] = (self._environment.now, speed)
        self._alarm[number] = None
        if speed > 0:
            timeout = self._environment.timeout(self._left[number] / speed, number)
            timeout.callbacks.append(self._rung)
            self._alarm[number] = timeout

    def _rung(self, timeout: simpy.Event) -> None:
        number = cast(int, timeout.value)
        if self._alarm.get(number) is not timeout:  # set anew since
            return
        del self._left[number], self._since[number], self._alarm[number]
        self._running[self._device[self._graph.tasks[number].stream]].discard(number)
        self._elapsed(timeout)

    def _send(self, number: int) -> None:
        message = self._graph.tasks[number].message
        assert message is not None, "only messages move"
        self._advance()
        size = float(message.size) * self._factors[number]
        flow = self._flows.add(message.loads, size, self._limit(number))
        self._moving[flow] = number
        self._set_wake()

    def _limit(self, number: int) -> float:
        """Return the rate that a message cannot exceed now, as its sender is disturbed."""
        task = self._graph.tasks[number]
        assert task.message is not None, "only messages move"
        if not self._conditions.slowdown_windows:
            return task.message.limit
        speed = self._conditions.speed(self._device[task.stream], task.kind, self._environment.now)
        return float(task.message.limit) * speed if speed else 0.0

    def _advance(self) -> None:
        """Let the flows run until now, and end those that have completed."""
        ready = [other for flow in self._flows.advance(self._environment.now) for other in self._ended(flow)]
        if ready:
            self._begin(ready)

    def _ended(self, flow: int) -> list[int]:
        return self._end(self._moving.pop(flow))

    def _disturb(self) -> None:
        """Rescale everything that runs, because a disturbance begins or ends."""
        self._rescale(list(self._running))
        if self._moving:
            self._advance()
            for flow, number in list(self._moving.items()):
                self._flows.limit(flow, self._limit(number))
            self._set_wake()

    def _set_wake(self) -> None:
        following = self._flows.next_completion()
        self._wake = None
        if following is not None and np.isfinite(following):
            self._wake = self._call(max(float(following) - self._environment.now, 0.0), self._arrived)

    def _arrived(self, timeout: simpy.Event) -> None:
        if timeout is self._wake:
            self._advance()
            self._set_wake()

    def _waiting(self) -> tuple[str, ...]:
        """Return what the head of each stream waits for, or that it stands still."""
        heads: dict[int, int] = {}
        for number, task in enumerate(self._graph.tasks):
            if np.isnan(self._finish[number]):
                heads.setdefault(task.stream, number)
        told = [self._told(number) for number in heads.values()]
        return tuple(sorted(told, key=lambda line: " waits for " in line))  # first what all others wait for

    def _speed_of(self, number: int) -> float:
        """Return the speed of a task that runs: the rate of one whose bytes move."""
        flow = next((flow for flow, task in self._moving.items() if task == number), None)
        return self._since.get(number, (0.0, 1.0))[1] if flow is None else self._flows.rate(flow)

    def _told(self, number: int) -> str:
        task = self._graph.tasks[number]
        stream = self._graph.streams[task.stream]
        place = f"{stream.process}, {stream.name}: {task.name or 'mark'}"
        if not np.isnan(self._start[number]):
            return f"{place} runs" if self._speed_of(number) else f"{place} stands still"
        open_ = [self._graph.tasks[each] for each in task.after if np.isnan(self._finish[each])]
        named = {f"{each.name or 'mark'} of {self._graph.streams[each.stream].process}": None for each in open_}
        return f"{place} waits for {', '.join(named) or 'its turn'}"
