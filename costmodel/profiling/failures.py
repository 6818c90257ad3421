"""Kernels that cannot run on this machine, written down at once. Later runs try only those whose failure passes."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path

from costmodel.profiling.rows import Appended
from costmodel.profiling.shapes import Shape

ENDED = 3  # times that a kernel may have ended the process, or been running when something else did
LATER = 20  # kernels between a failure that may pass and the second try
# In the reasons of failures that pass: of memory that others may give back, and of a capture that others disturb.
_PASSING = ("out of memory", "outofmemory", "memoryerror", "alloc_failed", "cannot allocate", "captur")


def passes(reason: str) -> bool:
    """Tell whether a kernel that failed for a reason may run later: it lacked memory, or its capture was disturbed."""
    return any(words in reason.lower() for words in _PASSING)


class SecondTries:
    """Kernels that failed for what may pass: each is tried once more in a run.

    tried: `row_id` of all of them.
    """

    def __init__(self) -> None:
        self.tried: set[str] = set()
        self._waiting: deque[tuple[int, Shape]] = deque()
        self._count = 0  # kernels so far

    def add(self, shape: Shape) -> None:
        """Note a kernel that has failed. Nothing follows where that was its second try."""
        if shape.row_id not in self.tried:
            self.tried.add(shape.row_id)
            self._waiting.append((self._count + LATER, shape))

    def among(self, order: Iterable[Shape]) -> Iterator[Shape]:
        """Yield kernels in their order, and each that has failed again, `LATER` later or after the last."""
        for shape in order:
            yield shape
            self._count += 1
            while self._waiting and self._waiting[0][0] <= self._count:
                yield self._waiting.popleft()[1]
        while self._waiting:
            yield self._waiting.popleft()[1]


class FailureLog(Appended):
    """A file of lines of JSON: `{"begun": ROW}` before a kernel runs, `{"failed": ROW, "reason": …}` where it cannot.

    `{"uncaptured": ROW, "reason": …}` where it can, and no graph holds it.

    A kernel that was begun, and has neither a row nor a reason, was running when the process ended. That may have been
    a user's doing, so it is tried again. After `ENDED` times it counts as failed.

    failed: reason by `row_id`, of kernels that have no row yet.
    uncaptured: reason by `row_id`, of rows without the time in a graph.
    """

    def __init__(self, path: Path | None) -> None:
        self.failed: dict[str, str] = {}
        self.uncaptured: dict[str, str] = {}
        self._begun: dict[str, int] = {}
        super().__init__(path)
        for line in self.before.splitlines():
            self._take_up(line)

    def begin(self, row_id: str) -> None:
        """Note that a kernel is about to run."""
        self._write({"begun": row_id}, durable=False)

    def end(self, row_id: str) -> None:
        """Note that a kernel was interrupted by its user, who may want it later."""
        self._write({"interrupted": row_id}, durable=False)

    def fail(self, row_id: str, reason: str) -> None:
        """Note why a kernel cannot run, and wait until that is on the disk."""
        self.failed[row_id] = reason
        self._write({"failed": row_id, "reason": reason}, durable=True)

    def add_uncaptured(self, row_id: str, reason: str) -> None:
        """Note why a row has no time in a graph."""
        self.uncaptured[row_id] = reason
        self._write({"uncaptured": row_id, "reason": reason}, durable=False)

    def forget(self, measured: Iterable[str]) -> None:
        """Take back the failures of kernels that have a row."""
        for row_id in measured:
            self.failed.pop(row_id, None)

    @property
    def settled(self) -> frozenset[str]:
        """Return the kernels that are not tried again: those whose failure does not pass."""
        return frozenset(row_id for row_id, reason in self.failed.items() if not passes(reason))

    def ended_by(self, measured: frozenset[str]) -> dict[str, str]:
        """Return the kernels that have ended the process too often to be tried again, with the reason.

        measured: the `row_id` of kernels that have a row.
        """
        often = {row: count for row, count in self._begun.items() if count >= ENDED}
        return {
            row: f"the process ended while it ran, {count} times"
            for row, count in often.items()
            if row not in measured and row not in self.failed
        }

    def _take_up(self, line: bytes) -> None:
        try:
            entry = json.loads(line)
        except ValueError:
            return  # half a line, from a disk that was full
        if not isinstance(entry, dict):
            return
        if "failed" in entry:
            self.failed[str(entry["failed"])] = str(entry.get("reason", ""))
            self._begun.pop(str(entry["failed"]), None)  # it has not ended the process
        elif "uncaptured" in entry:
            self.uncaptured[str(entry["uncaptured"])] = str(entry.get("reason", ""))
        elif "begun" in entry:
            row = str(entry["begun"])
            self._begun[row] = self._begun.get(row, 0) + 1
        elif "interrupted" in entry:
            self._begun.pop(str(entry["interrupted"]), None)

    def _write(self, entry: dict[str, str], *, durable: bool) -> None:
        self.add(json.dumps(entry, ensure_ascii=False) + "\n", durable=durable)
