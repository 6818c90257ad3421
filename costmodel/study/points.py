"""The table of a sweep, in parts: a row a point, the last axis fastest, scenario after scenario. SI.

Each part is written aside, flushed and then named, so that a folder holds whole parts only. What is there is not
evaluated again. Workers write what they make where they see the folder. The client notes it and names it.
"""

from __future__ import annotations

import json
import math
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from costmodel.errors import InputError, Location
from costmodel.quantities import Array
from costmodel.records import Record
from costmodel.result import INTERVAL
from costmodel.schema.loader import MAX_SWEEP_BYTES, read_data
from costmodel.schema.results import SweepFile, read_head, read_json, read_study
from costmodel.schema.whole_files import make_folder, reporting_os_errors, write_whole
from costmodel.study.chunks import Cutter, Desk, cutter, make_part
from costmodel.study.executors import HERE, Pool, in_any_order
from costmodel.study.files import POINTS, STUDY, as_json, check_folder, digest, fingerprint, found_form, part_path
from costmodel.study.sweep import Sweep
from costmodel.study.tables import PARQUET, Columns, OnProgress, Summary, best_form, decode, numbers

_ENDS = tuple(f"_{end}" for end in INTERVAL)  # of names of columns


def write_sweep(
    sweep: Sweep, folder: Path, on_progress: OnProgress = lambda _: None, pool: Pool = HERE, form: str | None = None
) -> dict[str, Any]:
    """Write `study.json`, then the parts of the table that are not there yet. Return the summary of each scenario.

    on_progress: called with the points that are done.
    form: of a new table (default: the best that is installed). Raises InputError where the folder holds something else
    or cannot be written.
    """
    check_folder(folder, sweep.document())
    cutting = cutter(sweep, _form(folder, form))
    document = {
        **sweep.document(), "form": cutting.form, "parts": len(cutting.runs), "inputs": fingerprint(sweep),
    }  # fmt: skip
    record = _Record(folder, document, _begin(folder, document))
    summary, reader = Summary(sweep), cutting.reader
    missing = []
    for number in range(len(cutting.runs)):
        columns = _present(cutting, folder, number, record.digests[number])
        if columns is None:
            missing.append(number)
        else:
            summary.add(number, reader.read(columns))
    on_progress(summary.points)
    with _desk(folder / POINTS) as desk:
        for part in in_any_order(pool, partial(make_part, desk=desk), map(cutting.chunk, missing)):
            record.add(part.number, part.digest)  # first, so that a part that is there is known
            path = part_path(folder, part.number, cutting.form)
            if part.aside is not None:
                with reporting_os_errors(path):
                    Path(part.aside).replace(path)
            elif part.data is not None:
                write_whole(path, [part.data])
            summary.add(part.number, part.summary)
            on_progress(summary.points)
    return summary.scenarios()


@contextmanager
def _desk(folder: Path) -> Iterator[Desk]:
    """Give a folder with a file of its own meanwhile, which tells it from all others of its name."""
    mark = folder.absolute() / f".desk.{os.getpid()}.part"
    content = secrets.token_hex()
    write_whole(mark, [content.encode()])
    try:
        yield Desk(str(mark.parent), mark.name, content)
    finally:
        mark.unlink(missing_ok=True)


class _Record:
    """The `study.json` of a sweep under way: the digest of every part that is written, or is about to be."""

    def __init__(self, folder: Path, document: Mapping[str, Any], digests: list[str | None]) -> None:
        self._path, self._document, self.digests = folder / STUDY, document, digests

    def add(self, number: int, known: str) -> None:
        if self.digests[number] != known:
            self.digests[number] = known
            write_whole(self._path, [as_json({**self._document, "digests": self.digests})])


def _form(folder: Path, requested: str | None) -> str:
    """Return the form of the table: that of the parts that are there. Raises InputError where another is requested."""
    present = found_form(folder)
    location = Location(str(folder))
    if requested is not None and present is not None and present != requested:
        raise InputError.single(
            f"holds parts as {present}", hint="keep their format, or name another", location=location
        )
    if (present or requested) == PARQUET and not find_spec("polars"):
        raise InputError.single(
            "Parquet needs polars", hint="install costmodel[sweep], or write CSV", location=location
        )
    return present or requested or best_form()


def _begin(folder: Path, document: Mapping[str, Any]) -> list[str | None]:
    """Make the folder. Remove what an interrupted run left half written, and parts that other inputs gave.

    Returns the digests of the parts that are there, null for one of which none is known.
    """
    points = folder / POINTS
    make_folder(points)
    study = folder / STUDY
    nothing: list[str | None] = [None] * int(document["parts"])
    digests = _digests(study, document) if study.exists() else None
    same = digests is not None
    with reporting_os_errors(points):
        for path in points.iterdir():
            if not same or _is_left_over(path):
                path.unlink(missing_ok=True)
    if not same:
        write_whole(study, [as_json({**document, "digests": nothing})])
    return digests or nothing


def _digests(study: Path, document: Mapping[str, Any]) -> list[str | None] | None:
    """Return the digests of parts that a study states, null where other inputs gave them."""
    present, head = read_json(study, "remove the folder, or name another"), read_head(study)
    expected = json.loads(as_json(document))
    if {**present, "digests": None} != {**expected, "digests": None}:
        return None
    digests = head.digests or []
    return digests if len(digests) == document["parts"] else [None] * int(document["parts"])


def _is_left_over(path: Path) -> bool:
    """Tell whether a file is half written, by a process that is gone."""
    *_, process, ending = ("", *path.name.rsplit(".", 2))
    if ending != "part" or not process.isdigit():
        return False
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return int(process) == os.getpid()


def _present(cutting: Cutter, folder: Path, number: int, expected: str | None) -> Columns | None:
    """Return a part that is there as it was written, null for one that has to be made. expected: its digest."""
    path = part_path(folder, number, cutting.form)
    if expected is None or not path.exists():
        return None
    try:
        data = read_data(path, str(path), MAX_SWEEP_BYTES)
        if digest(data) != expected:
            return None
        columns = decode(data, cutting.form, Location(str(path)))
    except InputError:
        return None
    rows = sum(math.prod(len(part) for part in index) for _, index in cutting.runs[number])
    whole = list(columns) == list(cutting.sweep.columns()) and len(columns["scenario"]) == rows
    return columns if whole else None


class Grid(Record):
    """A metric of one scenario over a sweep's grid, with the ends of its 80 % interval, NaN where it has none.

    NaN where a point cannot run, for the reason that stands there; reason is empty where it can.
    """

    value: Array
    low: Array
    high: Array
    reason: npt.NDArray[np.str_]

    def part(self, index: tuple[slice | int, ...]) -> Grid:
        """Return what lies at an index of the grid: a position on an axis, or all of it."""
        return Grid(self.value[index], self.low[index], self.high[index], self.reason[index])

    def transpose(self) -> Grid:
        """Return the grid with its axes in reverse order."""
        return Grid(self.value.T, self.low.T, self.high.T, self.reason.T)


class Table(Record):
    """A sweep read back: its study, and each scenario's grid."""

    study: SweepFile
    grids: Mapping[str, Grid]


def read_sweep(folder: Path, metric: str | None = None) -> Table:
    """Return the sweep that a folder holds. Raises InputError where it holds none, or not all of it, or no such metric.

    Only axes of numbers make a grid. Those that vary together are one dimension of it. metric: whose grids they are
    (default: each scenario's headline, the only one with intervals).
    """
    study = _with_headline(read_study(folder / STUDY), metric)
    location = Location(str(folder / POINTS))
    parts = list(_parts(study, folder))
    heading = list(study.columns)
    if any(list(part) != heading for part in parts):
        raise InputError.single(f"is not the table of {STUDY}", hint="run the sweep again", location=location)
    columns = {name: np.concatenate([part[name] for part in parts]) for name in heading}
    shape = tuple(len(axis.values) for axis in study.dimensions)
    size = math.prod(shape)
    if len(columns["scenario"]) != study.points or study.points != size * len(study.scenarios):
        raise InputError.single(f"is not the table of {STUDY}", hint="run the sweep again", location=location)
    grids = {}
    for at, name in enumerate(study.scenarios):
        rows = slice(at * size, (at + 1) * size)
        grids[name] = _grid(study, name, {key: column[rows] for key, column in columns.items()}, shape, location)
    return Table(study, grids)


def _with_headline(study: SweepFile, metric: str | None) -> SweepFile:
    """Return a study with another metric, if any, as the headline of its scenarios. Raises InputError without it."""
    if metric is None:
        return study
    axes = {axis.path for axis in study.axes}
    known = [name for name, unit in study.columns.items() if unit and name not in axes and not name.endswith(_ENDS)]
    if metric not in known:
        raise InputError.single(f"the sweep has no {metric}", field="--metric", hint=f"one of {', '.join(known)}")
    scenarios = {name: one.model_copy(update={"headline": metric}) for name, one in study.scenarios.items()}
    return study.model_copy(update={"scenarios": scenarios})


def _parts(study: SweepFile, folder: Path) -> Iterator[Columns]:
    left = MAX_SWEEP_BYTES
    for number in range(study.parts):
        path = part_path(folder, number, study.form)
        data = read_data(path, str(path), left, missing_hint="run the sweep again")
        left -= len(data)
        if study.digests is not None and digest(data) != study.digests[number]:
            raise InputError.single(
                f"is not the part that {STUDY} names: it was changed or swapped",
                hint="run the sweep again, which makes it anew", location=Location(str(path)),
            )  # fmt: skip
        yield decode(data, study.form, Location(str(path)))


def _grid(study: SweepFile, scenario: str, columns: Columns, shape: tuple[int, ...], location: Location) -> Grid:
    """Return the grid of one scenario's rows. Raises InputError where they are not those of its points."""
    headline = study.scenarios[scenario].headline
    try:
        positions = dict(zip((axis.path for axis in study.dimensions), np.indices(shape), strict=True))
        for axis in study.axes:
            expected = np.array(axis.values)[positions[study.dimension_of(axis).path].reshape(-1)]
            if not np.array_equal(numbers(columns[axis.path]), expected):
                raise ValueError
        if any(columns["scenario"] != scenario):
            raise ValueError
        value = numbers(columns[headline]).reshape(shape)
        low, high = (
            numbers(columns[name]).reshape(shape) if name in columns else np.full(shape, np.nan)
            for name in (f"{headline}{end}" for end in _ENDS)
        )
    except (ValueError, KeyError, IndexError):
        raise InputError.single(
            f"the rows of {scenario} are not those of {STUDY}", hint="run the sweep again", location=location
        ) from None
    return Grid(value, low, high, columns["reason"].reshape(shape))
