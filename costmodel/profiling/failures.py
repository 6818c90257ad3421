"""Kernels that cannot run on this machine, written down at once, so that no later run tries them again."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from costmodel.errors import InputError, Location

ENDED = 3  # times that a kernel may have ended the process, or been running when something else did


class FailureLog:
    """A file of lines of JSON: `{"begun": ROW}` before a kernel runs, `{"failed": ROW, "reason": …}` where it cannot.

    A kernel that was begun, and has neither a row nor a reason, was running when the process ended. That may have been
    a user's doing, so it is tried again. After `ENDED` times it counts as failed. Lines are only added: a kill loses
    none. Without a path nothing is written.

    failed: reason by `row_id`.
    """

    def __init__(self, path: Path | None) -> None:
        self.failed: dict[str, str] = {}
        self._file: BinaryIO | None = None
        self._begun: dict[str, int] = {}
        if path is None:
            return
        try:
            for line in self._whole_lines(path):
                self._take_up(line)
            self._file = path.open("ab")
        except OSError as error:
            raise InputError.single(
                f"cannot be written: {error.strerror}", hint="name another --output", location=Location(str(path))
            ) from None

    def __enter__(self) -> FailureLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()

    def begin(self, row_id: str) -> None:
        """Note that a kernel is about to run."""
        self._write({"begun": row_id}, durable=False)

    def end(self, row_id: str) -> None:
        """Note that a kernel was interrupted by its user, who may want it later."""
        self._write({"interrupted": row_id}, durable=False)

    def add(self, row_id: str, reason: str) -> None:
        """Note why a kernel cannot run, and wait until that is on the disk."""
        self.failed[row_id] = reason
        self._write({"failed": row_id, "reason": reason}, durable=True)

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
        elif "begun" in entry:
            row = str(entry["begun"])
            self._begun[row] = self._begun.get(row, 0) + 1
        elif "interrupted" in entry:
            self._begun.pop(str(entry["interrupted"]), None)

    def _write(self, entry: dict[str, str], *, durable: bool) -> None:
        if self._file is None:
            return
        self._file.write((json.dumps(entry, ensure_ascii=False) + "\n").encode("utf-8"))
        self._file.flush()
        if durable:
            os.fsync(self._file.fileno())

    @staticmethod
    def _whole_lines(path: Path) -> list[bytes]:
        """Return the lines of the file, half of one that a kill has left is dropped."""
        if not path.exists():
            return []
        with path.open("rb+") as file:
            data = file.read()
            file.truncate(data.rfind(b"\n") + 1)
        return data[: data.rfind(b"\n") + 1].splitlines()
