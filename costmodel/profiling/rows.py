"""The table that a run appends to, row by row, each written before the next kernel is timed."""

from __future__ import annotations

import csv
import io
import math
import time
from collections.abc import Mapping
from pathlib import Path

from costmodel.errors import Location, MeasurementError, Problem
from costmodel.profiling.appended import Appended

COLUMNS = (
    "row_id", "device", "op", "sub_op", "dtype_in", "dtype_out", "m", "n", "k", "num_groups", "num_experts", "topk",
    "ep_size", "tp_size", "num_tokens", "hidden", "inter", "distribution", "batch", "q_heads", "kv_heads", "head_dim",
    "v_head_dim", "q_len", "kv_len", "causal", "bytes", "world_size", "gpus_per_node", "time_us", "tier", "framework",
    "kernel", "timing", "includes", "backend", "load", "spread", "repeats", "graph_us", "host_us", "queued",
    "clock_mhz", "power_w", "temperature_c", "throttle", "driver",
)  # fmt: skip
"""Columns of the measurement schema, and behind them what the harness adds.

includes: what the time holds; backend: which of a library's kernels ran; load: of a kernel that ran for seconds.
spread, repeats: half the interquartile range over the median, of how many calls.
graph_us: a call inside a graph; host_us: what the host takes to start one; queued: 1 where no call waited for the host.
clock_mhz, power_w, temperature_c, throttle: of the board, while the row was timed.
"""


_SYNC = 1.0  # seconds between two times that the system is made to write what it holds: each takes as long as a row


class RowTable(Appended):
    """A CSV file of timed kernels that one process appends to.

    measured: the rows that it holds, by `row_id`. No cell has a line break. Raises MeasurementError where the file is
    no table of the harness, or of another device.
    """

    def __init__(self, path: Path | None, device: str) -> None:
        self._synced = -math.inf
        super().__init__(path)
        self.measured: dict[str, dict[str, str]] = {} if path is None else self._read(path, device)
        if not self.before:
            self._write(COLUMNS)

    @property
    def rows(self) -> int:
        """Return how many rows are on the disk. An interrupt may have come before the last one was noted."""
        if self._file is None:
            return len(self.measured)
        return Path(self._file.name).read_bytes().count(b"\n") - 1

    def append(self, row: Mapping[str, str]) -> None:
        """Add a row: a kill of this process cannot take it back, a loss of power at most those of the last second."""
        unknown = [name for name in row if name not in COLUMNS]
        assert not unknown, f"rows have no column {unknown}"
        self._write([row.get(name, "") for name in COLUMNS])
        self.measured[row["row_id"]] = dict(row)

    def _write(self, cells: list[str] | tuple[str, ...]) -> None:
        text = io.StringIO(newline="")
        csv.writer(text, lineterminator="\n").writerow([" ".join(cell.splitlines()) for cell in cells])
        durable = time.monotonic() - self._synced > _SYNC
        self.add(text.getvalue(), durable=durable)
        self._synced = time.monotonic() if durable else self._synced

    def _read(self, path: Path, device: str) -> dict[str, dict[str, str]]:
        lines = list(csv.reader(io.StringIO(self.before.decode("utf-8", errors="replace"), newline="")))
        if not lines:
            return {}
        if tuple(lines[0]) != COLUMNS:
            raise _wrong(path, 1, "is no table of `costmodel profile`", "name a new file")
        measured = {}
        for number, cells in enumerate(lines[1:], start=2):
            if len(cells) != len(COLUMNS):
                raise _wrong(path, number, f"has {len(cells)} values for {len(COLUMNS)} columns", "remove the line")
            row = dict(zip(COLUMNS, cells, strict=True))
            if row["device"] != device:
                hint = f"name another file: this run is on {device}"
                raise _wrong(path, number, f"is a row of {row['device']}", hint)
            measured[row["row_id"]] = row
        return measured


def _wrong(path: Path, line: int, message: str, hint: str) -> MeasurementError:
    return MeasurementError([Problem(Location(str(path), line), "", message, hint)])
