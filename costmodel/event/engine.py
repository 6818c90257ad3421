"""Runs tasks on streams.

A task starts when the one before it on its stream and all that it waits for have finished. It progresses at a speed
that may change, and when it does, its remaining time is rescaled:

    speed = s / c / (1 - e + e * p / p_free)

s: factor of the slowdown windows.
c: `moe_comm_slowdown` of kernels during expert all-to-alls, 1 without any.
e: the processor-bound share of a kernel.
p: processors at which its time was taken.
p_free: those that resident communication kernels leave, without any queueing. Messages with links share them max-min
fairly on the flow level.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from costmodel.errors import InfeasibleError
from costmodel.event.graph import KERNEL, Conditions, Graph
from costmodel.network.flows import FlowSession
from costmodel.quantities import Array, Seconds
from costmodel.records import Record

LISTED = 6  # waiting streams that an error names


class DeadlockError(InfeasibleError):
    """No task can finish although some are left. waiting: by stream, the task at its head and what that waits for."""

    def __init__(self, message: str, waiting: tuple[str, ...]) -> None:
        self.waiting = waiting
        more = [f"and {len(waiting) - LISTED} more"] if len(waiting) > LISTED else []
        super().__init__("\n  ".join([message, *waiting[:LISTED], *more]))


class Timeline(Record):
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
        self._clock = Clock()
        self._factors = conditions.factors(graph)
        self._seconds = [float(t.seconds) * f for t, f in zip(graph.tasks, self._factors, strict=True)]
        self._varying = conditions.varying(graph)
        devices = [stream.device for stream in graph.streams]
        self._device = [devices[task.stream] for task in graph.tasks]  # of each task
        self._occupies = [bool(task.processors or task.slows_kernels) for task in graph.tasks]
        self._is_slowed = [graph.moe_comm_slowdown > 1 and task.kind == KERNEL for task in graph.tasks]
        count = len(graph.tasks)
        self._start, self._finish = [np.nan] * count, [np.nan] * count
        self._followers: list[list[int]] = [[] for _ in range(count)]
        self._missing = [0] * count
        self._connect()
        # Of running tasks that vary: work left [s], at that time, and the speed since then.
        self._progress: dict[int, tuple[float, float, float]] = {}
        self._running: dict[int, set[int]] = defaultdict(set)  # varying tasks by device
        self._completion: dict[int, Timer] = {}  # of varying tasks that move
        self._busy_processors: dict[int, float] = defaultdict(float)  # by device, taken from kernels
        self._slowing: dict[int, int] = defaultdict(int)  # by device, running tasks that slow kernels
        self._flows = FlowSession(graph.capacity)
        self._task_of: dict[int, int] = {}  # flow -> task
        self._next_flow_end: Timer | None = None
        self._finished = 0

    def _connect(self) -> None:
        last: dict[int, int] = {}
        for number, task in enumerate(self._graph.tasks):
            needs, before = task.after, last.get(task.stream)
            if before is not None and before not in needs:
                needs = (*needs, before)
            last[task.stream] = number
            self._missing[number] = len(needs)
            for needed in needs:
                self._followers[needed].append(number)

    def timeline(self) -> Timeline:
        self._set_timers()
        self._begin([number for number, missing in enumerate(self._missing) if not missing])
        step, tasks = self._clock.step, len(self._graph.tasks)
        while self._finished < tasks:
            if not step():
                raise DeadlockError("the streams wait for each other and nothing runs", self._waiting())
        return Timeline(self._graph, np.array(self._start), np.array(self._finish))

    def _set_timers(self) -> None:
        """Set timers for the ends of slowdown windows and for the watchdog."""
        times = {time for window in self._conditions.slowdown_windows for time in (window.begin, window.end)}
        for time in sorted(float(time) for time in times if 0 < time < np.inf):
            self._clock.set(time, lambda _: self._change_speeds())
        if np.isfinite(self._conditions.patience):
            patience = float(self._conditions.patience)
            self._clock.set(patience, lambda _: self._check_progress(patience, 0))

    def _check_progress(self, patience: float, before: int) -> None:
        """Give up where no task has finished since the last check. Schedule the next one."""
        if self._finished == before:
            raise DeadlockError(f"no task has finished for {patience:g} s", self._waiting())
        now = self._finished
        self._clock.set(patience, lambda _: self._check_progress(patience, now))

    def _begin(self, ready: list[int]) -> None:
        """Start tasks, and those that follow ones of zero duration."""
        now, graph, seconds = self._clock.now, self._graph.tasks, self._seconds
        while ready:
            number = ready.pop()
            self._start[number] = now
            if self._occupies[number]:
                self._occupy(number, 1)
            if self._varying[number]:
                self._running[self._device[number]].add(number)
                self._schedule_completion(number, seconds[number])
            elif seconds[number] > 0:
                self._clock.set(seconds[number], self._elapsed, number)
            elif graph[number].message is not None:
                self._send(number)
            else:
                ready.extend(self._end(number))

    def _end(self, number: int) -> list[int]:
        """Record that a task has finished and return those that can start now."""
        self._finish[number] = self._clock.now
        self._finished += 1
        if self._occupies[number]:
            self._occupy(number, -1)
        ready = []
        missing = self._missing
        for follower in self._followers[number]:
            missing[follower] -= 1
            if not missing[follower]:
                ready.append(follower)
        return ready

    def _elapsed(self, number: int) -> None:
        if self._graph.tasks[number].message is None:
            self._begin(self._end(number))
        else:
            self._send(number)

    def _occupy(self, number: int, sign: int) -> None:
        task, device = self._graph.tasks[number], self._device[number]
        self._busy_processors[device] += sign * float(task.processors)
        self._slowing[device] += sign * task.slows_kernels
        if self._conditions.processors is not None or self._graph.moe_comm_slowdown > 1:
            self._rescale([device])

    def _speed(self, number: int) -> float:
        device, speed = self._device[number], 1.0
        if self._conditions.slowdown_windows:
            speed = self._conditions.speed(device, self._graph.tasks[number].kind, self._clock.now)
        if self._is_slowed[number] and self._slowing[device]:
            speed /= self._graph.moe_comm_slowdown
        if self._conditions.processors is not None:
            share = self._graph.tasks[number].processor_bound_share
            if share:
                total, nominal = map(float, self._conditions.processors)
                free = max(total - self._busy_processors[device], 0.0)
                return speed / (1 - share + share * nominal / free) if free else 0.0
        return speed

    def _rescale(self, devices: list[int]) -> None:
        """Update the remaining work of the tasks that run, and their ends."""
        now = self._clock.now
        for device in devices:
            for number in sorted(self._running[device]):
                remaining, since, speed = self._progress[number]
                self._schedule_completion(number, max(remaining - speed * (now - since), 0.0))

    def _schedule_completion(self, number: int, remaining: float) -> None:
        """Set when a task that varies ends. remaining: work that is left of it [s]."""
        speed = self._speed(number)
        self._progress[number] = remaining, self._clock.now, speed
        timer = self._completion.pop(number, None)
        if timer is not None:
            self._clock.stop(timer)
        if speed > 0:
            self._completion[number] = self._clock.set(remaining / speed, self._completed, number)

    def _completed(self, number: int) -> None:
        del self._progress[number], self._completion[number]
        self._running[self._device[number]].discard(number)
        self._elapsed(number)

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
        speed = self._conditions.speed(self._device[number], task.kind, self._clock.now)
        return float(task.message.limit) * speed if speed else 0.0

    def _advance_flows(self) -> None:
        completed = self._flows.advance(self._clock.now)
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
        if self._next_flow_end is not None:
            self._clock.stop(self._next_flow_end)
            self._next_flow_end = None
        if following is not None and following < np.inf:
            delay = max(float(following) - self._clock.now, 0.0)
            self._next_flow_end = self._clock.set(delay, self._flow_ended)

    def _flow_ended(self, _: None) -> None:
        self._next_flow_end = None
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
        task = self._graph.tasks[number]
        stream = self._graph.streams[task.stream]
        name = f"{stream.process}, {stream.name}: {task.name or 'mark'}"
        if not np.isnan(self._start[number]):
            return f"{name} runs" if self._speed_of(number) else f"{name} stands still"
        unfinished = [self._graph.tasks[needed] for needed in task.after if np.isnan(self._finish[needed])]
        named = {f"{each.name or 'mark'} of {self._graph.streams[each.stream].process}": None for each in unfinished}
        return f"{name} waits for {', '.join(named) or 'its turn'}"

    def _speed_of(self, number: int) -> float:
        flow = next((flow for flow, task in self._task_of.items() if task == number), None)
        return self._progress.get(number, (0.0, 0.0, 1.0))[2] if flow is None else self._flows.rate(flow)


# ---- The clock of a simulation: actions at times to come, the earliest first and of equals the one that was set first.

Timer: TypeAlias = int


class Clock:
    """A heap of actions by time. now: [s]."""

    def __init__(self) -> None:
        self.now: float = 0.0
        self._timers: list[tuple[Any, ...]] = []  # (time, number, action, argument)
        self._number = 0
        self._stopped: set[Timer] = set()

    def set(self, delay: Seconds, action: Callable[[Any], None], argument: Any = None) -> Timer:
        """Call `action(argument)` after a delay [s]. Return the number of its timer."""
        self._number += 1
        heapq.heappush(self._timers, (self.now + delay, self._number, action, argument))
        return self._number

    def stop(self, timer: Timer) -> None:
        """Forget an action that has not been called yet."""
        self._stopped.add(timer)

    def step(self) -> bool:
        """Go to the next action and call it. False where there is none."""
        stopped = self._stopped
        while self._timers:
            time, number, action, argument = heapq.heappop(self._timers)
            if number in stopped:
                stopped.discard(number)
                continue
            self.now = time
            action(argument)
            return True
        return False
