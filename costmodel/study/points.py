"""The table of a sweep, written and read: a row a point, the last axis fastest, scenario after scenario; SI."""

from __future__ import annotations

import csv
import io
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from costmodel.errors import InputError, Location
from costmodel.quantities import Array, Quantity
from costmodel.result import FITS, REASONS
from costmodel.schema.loader import MOST_SWEEP_BYTES, read_data
from costmodel.schema.results import SweepFile, read_study
from costmodel.schema.whole_files import make_folder, write_whole
from costmodel.study.files import POINTS, STUDY, as_json, check_folder
from costmodel.study.sweep import INTERVAL, Sweep, Swept

ROWS_AT_ONCE = 4096

Column: TypeAlias = "Callable[[slice], list[str]]"  # rows -> their texts


def write_sweep(sweep: Sweep, swept: Sequence[Swept], folder: Path) -> None:
    """Write `study.json`, then `points.csv`, each whole or not at all.

    Raises InputError where the folder holds something else or cannot be written.
    """
    document = sweep.document()
    check_folder(folder, document)
    make_folder(folder)
    write_whole(folder / STUDY, [as_json(document)])
    write_whole(folder / POINTS, _table(sweep, swept))


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """The headline metric of one scenario over a sweep's grid, with the ends of its 80 % interval.

    NaN where a point cannot run, for the reason that stands there; reason is empty where it can.
    """

    value: Array
    low: Array
    high: Array
    reason: npt.NDArray[np.str_]

    def part(self, index: tuple[slice | int, ...]) -> Grid:
        """Return what lies at an index of the grid: a position on an axis, or all of it."""
        return Grid(self.value[index], self.low[index], self.high[index], self.reason[index])

    def turned(self) -> Grid:
        """Return the grid with its axes in reverse order."""
        return Grid(self.value.T, self.low.T, self.high.T, self.reason.T)


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """A sweep read back: what was asked, and each scenario's grid."""

    study: SweepFile
    grids: Mapping[str, Grid]


def read_sweep(folder: Path) -> Table:
    """Return the sweep that a folder holds; raise InputError where it holds none, or not all of it."""
    study = read_study(folder / STUDY)
    place = Location(str(folder / POINTS))
    data = read_data(folder / POINTS, str(folder / POINTS), MOST_SWEEP_BYTES, absent="run the sweep again")
    try:
        heading, *rows = csv.reader(io.StringIO(data.decode(), newline=""))
    except (ValueError, csv.Error) as error:
        raise InputError.single(f"cannot be read: {error}", hint="run the sweep again", location=place) from None
    shape = tuple(len(axis.values) for axis in study.axes)
    size = math.prod(shape)
    if heading != list(study.columns) or len(rows) != study.points or len(rows) != size * len(study.scenarios):
        raise InputError.single(f"is not the table of {STUDY}", hint="run the sweep again", location=place)
    parts = (rows[at * size : (at + 1) * size] for at in range(len(study.scenarios)))
    return Table(
        study, {name: _grid(study, name, part, shape, place) for name, part in zip(study.scenarios, parts, strict=True)}
    )


def _grid(
    study: SweepFile, scenario: str, rows: Sequence[Sequence[str]], shape: tuple[int, ...], place: Location
) -> Grid:
    """Return the grid of one scenario's rows; raise InputError where they are not those of its points."""
    headline, heading = study.scenarios[scenario].headline, list(study.columns)
    expected = itertools.product(*(axis.values for axis in study.axes))
    try:
        where = [heading.index(name) for name in (headline, *(f"{headline}_{end}" for end in INTERVAL), "reason")]
        for row, point in zip(rows, expected, strict=True):
            if row[0] != scenario or tuple(map(float, row[1 : 1 + len(point)])) != point:
                raise ValueError
        value, low, high = (np.array([float(row[at] or "nan") for row in rows]).reshape(shape) for at in where[:-1])
    except (ValueError, IndexError):
        raise InputError.single(
            f"the rows of {scenario} are not those of {STUDY}", hint="run the sweep again", location=place
        ) from None
    return Grid(value, low, high, np.array([row[where[-1]] for row in rows]).reshape(shape))


def _table(sweep: Sweep, swept: Sequence[Swept]) -> Iterator[bytes]:
    """Yield the table in parts."""
    yield _lines([list(sweep.columns())])
    size = math.prod(sweep.shape)
    for one in swept:
        columns = _columns(sweep, one)
        for start in range(0, size, ROWS_AT_ONCE):
            part = slice(start, min(start + ROWS_AT_ONCE, size))
            yield _lines(zip(*(column(part) for column in columns), strict=True))


def _columns(sweep: Sweep, one: Swept) -> list[Column]:
    """Return the columns of one scenario's rows; what it has not stays empty."""
    reasons = np.asarray(one.result.reason).reshape(-1)
    places = (np.broadcast_to(place, sweep.shape).reshape(-1) for place in np.indices(sweep.shape, sparse=True))
    ends = [end if name == one.headline else None for name in sweep.headlines for end in (one.low, one.high)]
    numbers = (*(one.result.metrics.get(name) for name in sweep.metrics), *ends)
    return [
        _constant(one.scenario),
        *(_chosen([repr(value) for value in axis.plain()], at) for axis, at in zip(sweep.axes, places, strict=True)),
        *(_constant("") if values is None else _numbers(values, sweep.shape) for values in numbers),
        lambda part: ["true" if code == FITS else "false" for code in reasons[part]],
        lambda part: ["" if code == FITS else REASONS[code] for code in reasons[part]],
    ]


def _constant(text: str) -> Column:
    return lambda part: [text] * (part.stop - part.start)


def _chosen(texts: Sequence[str], places: npt.NDArray[np.intp]) -> Column:
    return lambda part: [texts[place] for place in places[part]]


def _numbers(values: Quantity, shape: tuple[int, ...]) -> Column:
    """Return a column of numbers to full precision; a missing one is empty."""
    flat = np.broadcast_to(values, shape).reshape(-1)
    return lambda part: ["" if math.isnan(value) else repr(value) for value in flat[part].tolist()]


def _lines(rows: Iterable[Iterable[str]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()
