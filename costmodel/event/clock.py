"""The clock of a simulation: actions at times to come, the earliest first and of equals the one that was set first."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any, TypeAlias

from costmodel.quantities import Seconds

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
