"""Files that lines are added to while a run goes on: a kill loses none that was written."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from costmodel.errors import InputError, Location


class Appended:
    """A file that one process adds lines to. Without a path nothing is written: another process does.

    before: its lines so far. A last one without an end, which a kill has left, is dropped.
    """

    def __init__(self, path: Path | None) -> None:
        self.before = b""
        self._file: BinaryIO | None = None
        if path is None:
            return
        try:
            if path.exists():
                with path.open("rb+") as file:
                    data = file.read()
                    self.before = data[: data.rfind(b"\n") + 1]
                    file.truncate(len(self.before))
            self._file = path.open("ab")
        except OSError as error:
            raise InputError.single(
                f"cannot be written: {error.strerror}", hint="name another --output", location=Location(str(path))
            ) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            os.fsync(self._file.fileno())
            self._file.close()

    def add(self, line: str, *, durable: bool) -> None:
        """Add a line. durable: wait until it is on the disk."""
        if self._file is None:
            return
        self._file.write(line.encode("utf-8"))
        self._file.flush()
        if durable:
            os.fsync(self._file.fileno())
