"""Runs tasks on streams with SimPy's clock.

A task starts when the one before it on its stream and all that it waits for have finished. It progresses at a speed
that may change, and when it does, its remaining time is rescaled:

    speed = s / c / (1 - e + e * p / p_free)

s: factor of the slowdown windows; c: `moe_comm_slowdown` of kernels beside expert all-to-alls, 1 without any; e: the
processor-bound share of a kernel; p: processors at which its time was taken; p_free: those that resident communication
kernels leave, without any queueing. Messages with links share them max-min fairly on the flow level.
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
    """No task can finish although some are left. waiting: by stream, the task at its head and what that waits for."""

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
    """Return when each task runs. Raises DeadlockError, also where nothing finishes within the patience."""
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
        self._remaining: dict[int, float] = {}  # of running tasks that vary, the work left [s] ...
        self._since: dict[int, tuple[float, float]] = {}  # ... at that time, and the speed since then
        self._running: dict[int, set[int]] = defaultdict(set)  # varying tasks by device
        self._completion: dict[int, simpy.Timeout | None] = {}  # of varying tasks
        self._busy_processors: dict[int, float] = defaultdict(float)  # by device, taken from kernels
        self._slowing: dict[int, int] = defaultdict(int)  # by device, running tasks that slow kernels
        self._flows = FlowSession(graph.capacity)
        self._task_of: dict[int, int] = {}  # flow -> task
        self._next_flow_end: simpy.Timeout | None = None
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
        self._set_timers()
        self._begin([number for number, missing in enumerate(self._missing) if not missing])
        step, tasks = self._environment.step, len(self._graph.tasks)
        while self._finished < tasks:
            try:
                step()
            except simpy.core.EmptySchedule as error:
                raise DeadlockError("the streams wait for each other and nothing runs", self._waiting()) from error
        return Timeline(self._graph, np.array(self._start), np.array(self._finish))

    def _set_timers(self) -> None:
        """Set timers for the ends of slowdown windows and for the watchdog."""
        times = {time for window in self._conditions.slowdown_windows for time in (window.begin, window.end)}
        for time in sorted(float(time) for time in times if 0 < time < np.inf):
            self._call(time, lambda _: self._change_speeds())
        if np.isfinite(self._conditions.patience):
            patience = float(self._conditions.patience)
            self._call(patience, lambda _: self._check_progress(patience, 0))

    def _call(self, delay: float, action: Callable[[simpy.Event], None]) -> simpy.Timeout:
        timeout = self._environment.timeout(delay)
        timeout.callbacks.append(action)
        return timeout

    def _check_progress(self, patience: float, before: int) -> None:
        """Give up where no task has finished since the last check; schedule the next one."""
        if self._finished == before:
            raise DeadlockError(f"no task has finished for {patience:g} s", self._waiting())
        now = self._finished
        self._call(patience, lambda _: self._check_progress(patience, now))

    def _begin(self, ready: list[int]) -> None:
        """Start tasks, and those that follow ones of zero duration."""
        now, graph, seconds = self._environment.now, self._graph.tasks, self._seconds
        while ready:
            number = ready.pop()
            self._start[number] = now
            task = graph[number]
            if task.processors or task.slows_kernels:
                self._occupy(task, 1)
            if self._varying[number]:
                self._remaining[number] = seconds[number]
                self._since[number] = (now, 0.0)
                self._running[self._device[task.stream]].add(number)
                self._schedule_completion(number)
            elif seconds[number] > 0:
                timeout = self._environment.timeout(seconds[number], number)
                timeout.callbacks.append(self._elapsed)
            elif task.message is not None:
                self._send(number)
            else:
                ready.extend(self._end(number))

    def _end(self, number: int) -> list[int]:
        """Record that a task has finished and return those that can start now."""
        task = self._graph.tasks[number]
        self._finish[number] = self._environment.now
        self._finished += 1
        if task.processors or task.slows_kernels:
            self._occupy(task, -1)
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

    def _occupy(self, task: Task, sign: int) -> None:
        """Record that a task starts (1) or stops (-1) to take processors from kernels, or to slow them down."""
        device = self._device[task.stream]
        self._busy_processors[device] += sign * float(task.processors)
        self._slowing[device] += sign * task.slows_kernels
        if self._conditions.processors is not None or self._graph.moe_comm_slowdown > 1:
            self._rescale([device])

    def _speed(self, number: int) -> float:
        """Return the speed of a task now, 1 for its nominal speed."""
        task = self._graph.tasks[number]
        device, share = self._device[task.stream], task.processor_bound_share
        speed = 1.0
        if self._conditions.slowdown_windows:
            speed = self._conditions.speed(device, task.kind, self._environment.now)
        if task.kind == KERNEL and self._slowing[device]:
            speed /= self._graph.moe_comm_slowdown
        if self._conditions.processors is not None and share:
            total, nominal = map(float, self._conditions.processors)
            free = max(total - self._busy_processors[device], 0.0)
            return speed / (1 - share + share * nominal / free) if free else 0.0
        return speed

    def _rescale(self, devices: list[int]) -> None:
        """Update the remaining work of the tasks that run, and their ends."""
        now = self._environment.now
        for device in devices:
            for number in sorted(self._running[device]):
                since, speed = self._since[number]
                self._remaining[number] = max(self._remaining[number] - speed * (now - since), 0.0)
                self._schedule_completion(number)

    def _schedule_completion(self, number: int) -> None:
        speed = self._speed(number)
        self._since[number] = (self._environment.now, speed)
        self._completion[number] = None
        if speed > 0:
            timeout = self._environment.timeout(self._remaining[number] / speed, number)
            timeout.callbacks.append(self._completed)
            self._completion[number] = timeout

    def _completed(self, timeout: simpy.Event) -> None:
        number = cast(int, timeout.value)
        if self._completion.get(number) is not timeout:  # rescheduled since
            return
        del self._remaining[number], self._since[number], self._completion[number]
        self._running[self._device[self._graph.tasks[number].stream]].discard(number)
        self._elapsed(timeout)

    def _send(self, number: int) -> None:
        message = self._graph.tasks[number].message
        assert message is not None, "only messages have bytes"
        self._advance_flows()
        size = float(message.size) * self._factors[number]
        flow = self._flows.add(message.loads, size, self._rate_limit(number), message.priority)
        self._task_of[flow] = number
        self._schedule_flow_end()

    def _rate_limit(self, number: int) -> float:
        """Return the rate that a message cannot exceed now, with the slowdowns of its sender."""
        task = self._graph.tasks[number]
        assert task.message is not None, "only messages have bytes"
        if not self._conditions.slowdown_windows:
            return task.message.limit
        speed = self._conditions.speed(self._device[task.stream], task.kind, self._environment.now)
        return float(task.message.limit) * speed if speed else 0.0

    def _advance_flows(self) -> None:
        """Advance the flows to now, and end those that have completed."""
        completed = self._flows.advance(self._environment.now)
        ready = [follower for flow in completed for follower in self._end(self._task_of.pop(flow))]
        if ready:
            self._begin(ready)

    def _change_speeds(self) -> None:
        """Rescale everything that runs: a slowdown window begins or ends."""
        self._rescale(list(self._running))
        if self._task_of:
            self._advance_flows()
            for flow, number in list(self._task_of.items()):
                self._flows.limit(flow, self._rate_limit(number))
            self._schedule_flow_end()

    def _schedule_flow_end(self) -> None:
        following = self._flows.next_completion()
        self._next_flow_end = None
        if following is not None and np.isfinite(following):
            delay = max(float(following) - self._environment.now, 0.0)
            self._next_flow_end = self._call(delay, self._flow_ended)

    def _flow_ended(self, timeout: simpy.Event) -> None:
        if timeout is self._next_flow_end:
            self._advance_flows()
            self._schedule_flow_end()

    def _waiting(self) -> tuple[str, ...]:
        """Return what the head of each stream waits for, or that it stands still."""
        heads: dict[int, int] = {}
        for number, task in enumerate(self._graph.tasks):
            if np.isnan(self._finish[number]):
                heads.setdefault(task.stream, number)
        states = [self._state(number) for number in heads.values()]
        return tuple(sorted(states, key=lambda state: " waits for " in state))  # first what all others wait for

    def _state(self, number: int) -> str:
        """Return the state of the task at the head of a stream."""
        task = self._graph.tasks[number]
        stream = self._graph.streams[task.stream]
        name = f"{stream.process}, {stream.name}: {task.name or 'mark'}"
        if not np.isnan(self._start[number]):
            return f"{name} runs" if self._speed_of(number) else f"{name} stands still"
        unfinished = [self._graph.tasks[needed] for needed in task.after if np.isnan(self._finish[needed])]
        named = {f"{each.name or 'mark'} of {self._graph.streams[each.stream].process}": None for each in unfinished}
        return f"{name} waits for {', '.join(named) or 'its turn'}"

    def _speed_of(self, number: int) -> float:
        """Return the speed of a task that runs, or the rate of its flow."""
        flow = next((flow for flow, task in self._task_of.items() if task == number), None)
        return self._since.get(number, (0.0, 1.0))[1] if flow is None else self._flows.rate(flow)
