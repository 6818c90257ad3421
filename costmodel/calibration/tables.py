"""Measurement tables: one CSV row is one timed kernel or communication; a table is its columns as arrays."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from costmodel.errors import InputError, Location, MeasurementError, Problem
from costmodel.quantities import Array, Indices
from costmodel.schema.loader import MOST_TABLE_BYTES, read_text
from costmodel.schema.references import near, shown

Texts: TypeAlias = "npt.NDArray[np.object_]"  # of str: notes are long, and few are distinct

NUMBERS = (
    "m", "n", "k", "batch", "num_groups", "num_experts", "topk", "ep_size", "tp_size", "num_tokens", "hidden", "inter",
    "q_heads", "kv_heads", "head_dim", "v_head_dim", "q_len", "kv_len", "batch2", "q2_len", "kv2_len", "sparse_topk",
    "bytes", "world_size", "gpus_per_node", "num_sms",
)  # fmt: skip
"""Columns of numbers above zero; blank (NaN) where an operation has none."""
TEXTS = (
    "row_id", "device", "op", "sub_op", "dtype_in", "dtype_out", "kv_dtype", "distribution", "causal", "flag", "tier",
    "meta_id", "framework", "kernel", "timing", "notes",
)  # fmt: skip
"""Columns of text; blank where an operation has none."""
SUFFIXES = (".csv", ".parquet")
REQUIRED = ("device", "op", "dtype_in", "time_us")

_JOINED = ("framework", "kernel", "timing", "notes")  # what meta.csv says about a meta_id
_SECONDS = 1e-6  # tables state microseconds
_UNKNOWN_TIME = -1.0  # only a bandwidth or FLOP rate was published


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """Measured rows, column by column.

    texts, numbers: the columns of TEXTS and NUMBERS, blank or NaN where a row has none; seconds: measured time [s], NaN
    where the source states none.
    """

    texts: Mapping[str, Texts]
    numbers: Mapping[str, Array]
    seconds: Array

    def __len__(self) -> int:
        return len(self.seconds)

    def text(self, name: str) -> Texts:
        """Return a column of text."""
        return self.texts[name]

    def number(self, name: str) -> Array:
        """Return a column of numbers."""
        return self.numbers[name]

    def take(self, rows: Indices | npt.NDArray[np.bool_]) -> Table:
        """Return the rows at some positions, or where a mask holds."""
        return Table(
            {name: column[rows] for name, column in self.texts.items()},
            {name: column[rows] for name, column in self.numbers.items()},
            self.seconds[rows],
        )

    def groups(self, *names: str) -> Iterator[tuple[tuple[str, ...], Indices]]:
        """Yield every combination of values of some text columns, in order, with the positions of its rows."""
        found: dict[tuple[str, ...], list[int]] = {}
        for row, key in enumerate(zip(*(self.texts[name] for name in names), strict=True)):
            found.setdefault(key, []).append(row)
        for key in sorted(found):
            yield key, np.array(found[key], dtype=np.intp)

    def marked(self, *flags: str) -> npt.NDArray[np.bool_]:
        """Return where a row carries one of some flags; a row may have several, joined by semicolons."""
        return np.array([not set(flags).isdisjoint(text.split(";")) for text in self.texts["flag"]], dtype=bool)


def read_tables(measurements: Path, *, timed: bool = True, device: str | None = None) -> Table:
    """Return all rows of a file, or of a folder of tables (`calibration/*.csv` below it where there is such a folder).

    timed: rows have to state a time; a table to predict need not. device: stands for the rows' own.

    Joins `meta.csv`, beside the tables or above them, on `meta_id`; a column that a table has itself is kept. Raises
    MeasurementError with file and line: a missing column, a row that is cut off, a number that is none or not above
    zero.
    """
    files = _files(measurements)
    folder = measurements if measurements.is_dir() else measurements.parent
    meta = _meta(next((path for base in (folder, folder.parent) if (path := base / "meta.csv").is_file()), None))
    tables = [_table(path, _columns(path), meta, _Wanted(timed, device)) for path in files]
    return join(tables)


def join(tables: Sequence[Table]) -> Table:
    """Return the rows of several tables as one."""
    return Table(
        {name: np.concatenate([table.texts[name] for table in tables]) for name in TEXTS},
        {name: np.concatenate([table.numbers[name] for table in tables]) for name in NUMBERS},
        np.concatenate([table.seconds for table in tables]),
    )


def _files(measurements: Path) -> list[Path]:
    if not measurements.is_dir():
        return [measurements]
    inside = measurements / "calibration"
    folder = inside if inside.is_dir() else measurements
    found = (path for suffix in SUFFIXES for path in folder.glob(f"*{suffix}"))
    files = sorted(path for path in found if path.name not in ("meta.csv", "sources.csv"))
    if not files:
        raise _error(measurements, "holds no measurement table", hint="name a folder of CSV files")
    return files


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What rows have to state: a time, where `timed`; a device, where `device` is no stand-in for it."""

    timed: bool
    device: str | None


def _table(
    path: Path, columns: dict[str, Sequence[str]], meta: Mapping[str, Mapping[str, str]], wanted: _Wanted
) -> Table:
    length = len(next(iter(columns.values())))
    if wanted.device is not None:
        columns["device"] = [wanted.device] * length
    if not wanted.timed:
        columns["time_us"] = ["-1"] * length
    for name in REQUIRED:
        if name not in columns:
            raise _error(path, "the column is missing", line=1, field=name, hint=near(name, list(columns)))
    _require_text(path, columns)
    numbers = {name: _numbers(path, name, columns.get(name, [""] * length)) for name in NUMBERS}
    joined = _join(path, columns, meta)
    texts = {name: np.array(joined.get(name, [""] * length), dtype=np.object_) for name in TEXTS}
    return Table(texts, numbers, _times(path, columns["time_us"]))


def read_columns(path: Path) -> dict[str, Sequence[str]]:
    """Return the columns of a table file as text, in order, just as they are written."""
    return _columns(path)


def _columns(path: Path) -> dict[str, Sequence[str]]:
    """Return the columns of a file as text."""
    if path.suffix == ".parquet":
        return _parquet_columns(path)
    try:
        text = read_text(path, shown(path), MOST_TABLE_BYTES)
    except InputError as error:
        raise MeasurementError(error.problems) from None
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = next(reader, [])
        if len(set(header)) != len(header):
            raise _error(path, "a column name stands twice", line=1, hint="rename or remove one of them")
        rows = []
        for row in reader:
            if len(row) != len(header):
                message = f"has {len(row)} values for {len(header)} columns"
                raise _error(path, message, line=reader.line_num, hint="complete the row: the file may be cut off")
            rows.append(row)
    except csv.Error as error:
        raise _error(path, f"is not valid CSV: {error}", line=reader.line_num) from None
    if not rows:
        raise _error(path, "holds no row", hint="write a header line and at least one row")
    return dict(zip(header, zip(*rows, strict=True), strict=True))


def _parquet_columns(path: Path) -> dict[str, Sequence[str]]:
    """Return the columns of a Parquet file as the text that a CSV file would hold."""
    try:
        import polars
    except ImportError:
        message = "reading Parquet needs polars, which is not installed"
        raise _error(path, message, hint="pip install 'costmodel[sweep]', or write the table as CSV") from None
    try:
        frame = polars.read_parquet(path)
    except (OSError, polars.exceptions.PolarsError) as error:
        raise _error(path, f"cannot be read: {error}") from None
    if frame.is_empty():
        raise _error(path, "holds no row", hint="write at least one row")
    return {name: ["" if value is None else f"{value}" for value in frame[name].to_list()] for name in frame.columns}


def _numbers(path: Path, name: str, values: Sequence[str]) -> Array:
    """Return a column of numbers above zero, NaN where it is blank."""
    numbers = _floats(path, name, values)
    wrong = np.flatnonzero((numbers <= 0) | np.isinf(numbers))
    if len(wrong):
        raise _error(path, f"{values[wrong[0]]!r} is impossible", line=_line(wrong[0]), field=name,
                     hint="write a finite number above zero, or leave it blank")  # fmt: skip
    return numbers


def _times(path: Path, values: Sequence[str]) -> Array:
    """Return measured times [s]; NaN where the table says -1."""
    numbers = _floats(path, "time_us", values)
    unknown = numbers == _UNKNOWN_TIME
    wrong = np.flatnonzero(~unknown & ~((numbers > 0) & np.isfinite(numbers)))
    if len(wrong):
        raise _error(path, f"{values[wrong[0]]!r} is no time", line=_line(wrong[0]), field="time_us",
                     hint="write microseconds above zero, or -1 where only a rate is known")  # fmt: skip
    return np.where(unknown, np.nan, numbers * _SECONDS)


def _floats(path: Path, name: str, values: Sequence[str]) -> Array:
    filled = ["nan" if not value or value.isspace() else value for value in values]
    try:
        numbers = np.array(filled, dtype=np.float64)
    except ValueError:
        first = next(index for index, value in enumerate(filled) if not _is_number(value))
        raise _error(path, f"{values[first]!r} is not a number", line=_line(first), field=name) from None
    stated = [int(index) for index in np.flatnonzero(np.isnan(numbers)) if values[int(index)].strip()]
    if stated:
        raise _error(path, f"{values[stated[0]]!r} is not a number", line=_line(stated[0]), field=name)
    return numbers


def _is_number(value: str) -> bool:
    try:
        float(value)
    except ValueError:
        return False
    return True


def _require_text(path: Path, columns: Mapping[str, Sequence[str]]) -> None:
    for name in REQUIRED[:-1]:
        if "" in columns[name]:
            raise _error(path, "is blank", line=_line(columns[name].index("")), field=name, hint="every row needs it")


def _join(
    path: Path, columns: Mapping[str, Sequence[str]], meta: Mapping[str, Mapping[str, str]]
) -> dict[str, Sequence[str]]:
    """Return the columns with what meta.csv says of each row's meta_id."""
    joined = dict(columns)
    identifiers = columns.get("meta_id", ())
    known = {"": dict.fromkeys(_JOINED, ""), **meta}
    for index, identifier in enumerate(identifiers):
        if meta and identifier not in known:
            raise _error(path, f"meta.csv has no {identifier!r}", line=_line(index), field="meta_id")
    for name in _JOINED if identifiers and meta else ():
        if name not in columns:
            joined[name] = [known[identifier][name] for identifier in identifiers]
    return joined


def _meta(path: Path | None) -> dict[str, dict[str, str]]:
    """Return what meta.csv says of each meta_id; nothing where there is no such file."""
    if path is None:
        return {}
    columns = _columns(path)
    for name in ("meta_id", *_JOINED):
        if name not in columns:
            raise _error(path, "the column is missing", line=1, field=name, hint=near(name, list(columns)))
    rows = zip(*(columns[name] for name in _JOINED), strict=True)
    return {
        identifier: dict(zip(_JOINED, row, strict=True))
        for identifier, row in zip(columns["meta_id"], rows, strict=True)
    }


def _line(index: int | np.intp) -> int:
    """Return the line of a row, the header being the first; quoted line breaks are not used in these tables."""
    return int(index) + 2


def _error(path: Path, message: str, *, line: int | None = None, field: str = "", hint: str = "") -> InputError:
    return MeasurementError([Problem(Location(shown(path), line), field, message, hint)])
