"""The table that a run appends to, row by row, each written before the next kernel is timed."""

from __future__ import annotations

import csv
import io
import math
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import BinaryIO, Self

import numpy as np
import numpy.typing as npt

from costmodel.errors import InputError, Location, MeasurementError, Problem
from costmodel.profiling.shapes import Shape
from costmodel.records import MutableRecord

if sys.platform != "win32":
    import fcntl


class Appended:
    """A file that one process adds lines to. Without a path nothing is written: another process does.

    before: its lines so far. A last one without an end, which a kill has left, is dropped. Raises InputError where the
    file cannot be written, or another process writes it.
    """

    def __init__(self, path: Path | None) -> None:
        self.before = b""
        self._file: BinaryIO | None = None
        if path is None:
            return
        try:
            self._file = path.open("ab+")
            if sys.platform != "win32":
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # two runs would time the same kernels
            self._file.seek(0)
            data = self._file.read()
            self.before = data[: data.rfind(b"\n") + 1]
            self._file.truncate(len(self.before))
        except OSError as error:
            is_taken = isinstance(error, BlockingIOError)
            raise InputError.single(
                "another run writes it" if is_taken else f"cannot be written: {error.strerror}",
                hint="wait for its end, or name another --output" if is_taken else "name another --output",
                location=Location(str(path)),
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


# ---- Which kernel to time next: the one that the measured ones say least about ---------------------------------------

ENOUGH = 20  # rows of a family, from which on it can be fitted
UNKNOWN = 1.0  # half width from which on nothing is known of a kernel

Array = npt.NDArray[np.float64]


class _Family(MutableRecord):
    """Kernels of one family: their places in units of its diameter, weights, and distances to the nearest measured one.

    count: of the measured ones.
    settled: what a weight falls to when there are `ENOUGH` of them.
    """

    name: tuple[str, ...]
    leads: bool

    shapes: list[Shape]
    places: Array
    weights: Array
    distances: Array
    count: int
    settled: float
    score: float = 0.0
    row: int = 0

    @property
    def begins(self) -> bool:
        """Tell whether this family comes before those that take little of a model's time."""
        return self.leads and self.count < ENOUGH

    def find(self) -> None:
        """Find the largest weight x distance, of zeros the farthest. Below zero where all are measured."""
        weights = self.weights if self.count < ENOUGH else np.minimum(self.weights, self.settled)
        scores = np.where(self.distances < 0.0, -1.0, weights * self.distances)
        self.row = int(np.argmax(scores if scores.max() != 0.0 else self.distances))
        self.score = float(scores[self.row])

    def take(self) -> Shape:
        chosen = self.row
        distance = np.sqrt(((self.places - self.places[chosen]) ** 2).sum(axis=1))
        self.distances = np.minimum(self.distances, distance)
        self.distances[chosen] = -1.0
        self.count += 1
        self.find()
        return self.shapes[chosen]


def most_informative(
    shapes: Sequence[Shape], measured: frozenset[str], widths: Array,
    costs: Mapping[tuple[str, ...], float] = MappingProxyType({}),
) -> Iterator[Shape]:  # fmt: skip
    """Yield the kernels that are not measured, the most informative first.

        next = argmax over i of w_i * min over measured j of the same family of |x_i - x_j| / D / sqrt(c)

    A greedy farthest-point design (Gonzalez, Theoretical Computer Science 38, 1985) in log-shape space: x are binary
    logarithms of the sizes, D the diameter of the family, w the half width of the kernel's predicted 80 % interval over
    its time. When a family has the rows that a fit needs, at most the median of all w between zero and one. A family of
    which nothing is measured is as distant as its own diameter, and begins in its middle. c is what a row of the family
    has cost so far [s], with all that is planned and compiled before it runs. A family that has no row yet costs the
    mean. The root is that of the optimal allocation n ~ S / sqrt(c) of samples to strata (Cochran, Sampling Techniques,
    5.5).
    Families that lead (products and attention, both ways) come first, until each can be fitted, but for those whose
    weights are zero.

    shapes: candidates and measured ones.
    measured: `row_id` of those.
    widths: w, of all shapes.
    costs: seconds a row by family, read anew for every kernel.
    """
    families = _families(shapes, measured, widths)
    for family in families:
        family.find()
    while families:
        mean = sum(costs.values()) / len(costs) if costs else 1.0
        scores = [
            (family.begins and family.score >= 0.0, family.score / math.sqrt(costs.get(family.name, mean) / mean))
            for family in families
        ]
        best = max(range(len(families)), key=scores.__getitem__)
        if families[best].score < 0.0:
            return
        yield families[best].take()


def _families(shapes: Sequence[Shape], measured: frozenset[str], widths: Array) -> list[_Family]:
    members: dict[tuple[str, ...], list[int]] = {}
    for index, shape in enumerate(shapes):
        members.setdefault(shape.family, []).append(index)
    families = []
    known = widths[(widths > 0.0) & (widths < UNKNOWN)]
    settled = float(np.median(known)) if len(known) else UNKNOWN
    for indices in members.values():
        own = [shapes[index] for index in indices]
        places = np.array([shape.point() for shape in own], dtype=np.float64)
        places = places / max(float(np.sqrt((np.ptp(places, axis=0) ** 2).sum())), 1.0)
        done = np.array([shape.row_id in measured for shape in own])
        if done.all():
            continue
        families.append(
            _Family(
                name=own[0].family, leads=own[0].leads and bool(widths[indices].any()), shapes=own, places=places,
                weights=widths[indices],
                distances=_distances(places, done), count=int(done.sum()), settled=settled,
            )
        )  # fmt: skip
    return families


def _distances(places: Array, done: npt.NDArray[np.bool_]) -> Array:
    """Return the distance of every kernel to the nearest that is done. Those themselves are never the farthest."""
    if not done.any():
        off_centre = np.sqrt(((places - np.median(places, axis=0)) ** 2).sum(axis=1))
        nearest: Array = 1.0 + 1e-3 * (1.0 - off_centre)
        return nearest
    nearest = np.full(len(places), np.inf)
    for row in places[done]:
        nearest = np.minimum(nearest, np.sqrt(((places - row) ** 2).sum(axis=1)))
    nearest[done] = -1.0
    return nearest
