"""Measurement tables as they are written: the cells of CSV and Parquet files as text, with the line of each row.

What other tools measured is read as a table as well.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

from costmodel.errors import InputError, Location, MeasurementError, Problem
from costmodel.records import Record, replace
from costmodel.schema.loader import MAX_TABLE_BYTES, read_data, read_text
from costmodel.schema.references import display_path
from costmodel.workload.dtypes import ELEMENT_BYTES

MOST_COLUMNS = 2000  # far above any real table; each is compared with those that are known
SUFFIXES = (".csv", ".parquet")
FOREIGN = (".json", ".gz", ".txt", ".log", ".out")  # of files that are no tables, distinguished by their content
_BESIDE = ("meta.csv", "sources.csv")  # of a folder of tables, but no tables


class RawTable(Record):
    """One file. columns: text, cell by cell; lines: where each row begins (Parquet: its number, the first being 1)."""

    path: Path
    columns: Mapping[str, Sequence[str]]
    lines: Sequence[int]

    def __len__(self) -> int:
        return len(self.lines)

    def column(self, name: str) -> Sequence[str]:
        """Return a column, blank where the file has none of that name."""
        return self.columns.get(name, [""] * len(self))

    def with_column(self, name: str, value: str) -> RawTable:
        """Return the sheet with one value in all rows of a column."""
        return replace(self, columns={**self.columns, name: [value] * len(self)})

    def error(self, message: str, *, row: int | None = None, field: str = "", hint: str = "") -> MeasurementError:
        """Return an error at a row. Without one, at the header."""
        return table_error(self.path, message, line=1 if row is None else self.lines[row], field=field, hint=hint)


def table_files(measurements: Path) -> list[Path]:
    """Return a file itself, or the tables of a folder in order (`calibration/` below it where there is one)."""
    if not measurements.is_dir():
        return [measurements]
    inside = measurements / "calibration"
    folder = inside if inside.is_dir() else measurements
    paths = (path for suffix in SUFFIXES for path in folder.glob(f"*{suffix}"))
    files = sorted(path for path in paths if path.name not in _BESIDE)
    if not files:
        raise table_error(measurements, "holds no measurement table", hint="name a folder of CSV or Parquet files")
    return files


def read_raw_table(path: Path) -> RawTable:
    """Return the cells of a file. Raises MeasurementError where it is missing, empty, truncated or no such file."""
    if path.suffix == ".parquet":
        return _parquet(path)
    return _foreign(path) if path.suffix in FOREIGN else _csv(path)


def read_columns(measurements: Path) -> dict[str, Sequence[str]]:
    """Return the columns of a file, or of all tables of a folder, just as they are written.

    A column that some tables of a folder lack is blank there. Columns stand in the order in which they first appear.
    """
    sheets = [read_raw_table(path) for path in table_files(measurements)]
    names = dict.fromkeys(name for sheet in sheets for name in sheet.columns)
    return {name: [cell for sheet in sheets for cell in sheet.column(name)] for name in names}


def table_error(
    path: Path, message: str, *, line: int | None = None, field: str = "", hint: str = ""
) -> MeasurementError:
    """Return an error at a position in a file."""
    return MeasurementError([Problem(Location(display_path(path), line), field, message, hint)])


def _foreign(path: Path) -> RawTable:
    """Return what another tool measured: a profiler's trace, or the output of nccl-tests."""
    from costmodel.measurements.importing import read_foreign

    foreign = read_foreign(path, display_path(path))
    return RawTable(path, foreign.columns, foreign.lines)


def _csv(path: Path) -> RawTable:
    try:
        text = read_text(path, display_path(path), MAX_TABLE_BYTES)
    except InputError as error:
        raise MeasurementError(error.problems) from None
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    lines: list[int] = []
    try:
        header = next(reader, [])
        if text.lstrip()[:1] in ("{", "["):
            hint = "write its keys as a header line, and the values of each row below it"
            raise table_error(path, "is JSON, and a table is CSV or Parquet", line=1, hint=hint)
        _check_header(path, header)
        rows = list(_rows(path, reader, header, lines))
    except csv.Error as error:
        hint = "complete the file: it may be cut off" if "end of data" in str(error) else ""
        raise table_error(path, f"is not valid CSV: {error}", line=reader.line_num, hint=hint) from None
    if not rows:
        raise table_error(path, "holds no row", hint="write a header line and at least one row")
    return RawTable(path, dict(zip(header, zip(*rows, strict=True), strict=True)), lines)


def _check_header(path: Path, header: Sequence[str]) -> None:
    if len(header) > MOST_COLUMNS:
        hint = "name a table of the measurement schema"
        raise table_error(path, f"has {len(header):,} columns, {MOST_COLUMNS:,} are the most", line=1, hint=hint)
    twice = [name for name in header if header.count(name) > 1]
    if twice:
        raise table_error(
            path, "the column stands twice", line=1, field=twice[0], hint="rename or remove one of them"
        )  # fmt: skip


def _rows(path: Path, reader: Iterator[list[str]], header: Sequence[str], lines: list[int]) -> Iterator[list[str]]:
    """Yield the rows. Note in `lines` where each begins, which quoted line breaks move."""
    first: int = reader.line_num + 1  # type: ignore[attr-defined]
    for row in reader:
        if len(row) != len(header):
            message = f"has {len(row)} values for {len(header)} columns"
            raise table_error(path, message, line=first, hint="complete the row: the file may be cut off")
        lines.append(first)
        first = reader.line_num + 1  # type: ignore[attr-defined]
        yield row


def _parquet(path: Path) -> RawTable:
    try:
        import polars
    except ImportError:
        message = "reading Parquet needs polars, which is not installed"
        raise table_error(path, message, hint="pip install 'costmodel[sweep]', or write the table as CSV") from None
    try:
        frame = polars.read_parquet(io.BytesIO(read_data(path, display_path(path), MAX_TABLE_BYTES)))
    except InputError as error:
        raise MeasurementError(error.problems) from None
    except (OSError, polars.exceptions.PolarsError) as error:
        raise table_error(path, f"cannot be read: {error}") from None
    if frame.is_empty():
        raise table_error(path, "holds no row", hint="write at least one row")
    _check_header(path, frame.columns)
    columns = {name: [_cell(value) for value in frame[name].to_list()] for name in frame.columns}
    return RawTable(path, columns, range(1, len(frame) + 1))


def _cell(value: object) -> str:
    """Return a value as a CSV file would hold it: nothing for none and NaN, whole numbers without a point."""
    if value is None or (isinstance(value, float) and value != value):
        return ""
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    return f"{value}"


# ---- NCCL tables of aiconfigurator, read as measurement tables: sizes in elements, times in milliseconds -------------

_COLUMNS = ("device", "op_name", "nccl_dtype", "num_gpus", "message_size", "latency", "system", "file")
_OPERATIONS = {"alltoall": "all_to_all"}
_FORMATS = {"half": "fp16", "int8": "int8", "float": "fp32"}
_NODE = "8"  # GPUs of the nodes that these tables come from
_MICROSECONDS = 1e3  # of a millisecond


def is_nccl(sheet: RawTable) -> bool:
    """Tell whether a sheet has the columns of such a table."""
    return set(_COLUMNS) <= set(sheet.columns)


def translated(sheet: RawTable) -> RawTable:
    """Return the sheet with the columns of the measurement schema. Raises MeasurementError where a cell has no meaning.

    The version of NCCL is the folder of the file that a row comes from. A row without a device is of that which the
    others of its system name.
    """
    formats = [_known(sheet, "nccl_dtype", row, name, _FORMATS) for row, name in enumerate(sheet.column("nccl_dtype"))]
    versions = [PurePosixPath(path).parent.name for path in sheet.column("file")]
    columns: dict[str, Sequence[str]] = {
        "device": _devices(sheet),
        "op": [_OPERATIONS.get(name, name) for name in sheet.column("op_name")],
        "dtype_in": formats,
        "bytes": [
            f"{size * ELEMENT_BYTES[kind]:.0f}"
            for size, kind in zip(_numbers(sheet, "message_size"), formats, strict=True)
        ],
        "world_size": sheet.column("num_gpus"),
        "gpus_per_node": [_NODE] * len(sheet),
        "time_us": [f"{value * _MICROSECONDS:.6g}" for value in _numbers(sheet, "latency")],
        "framework": [f"nccl {version}" for version in versions],
        "kernel": ["nccl-tests out-of-place"] * len(sheet),
        "timing": ["nccl_tests"] * len(sheet),
    }
    return RawTable(sheet.path, columns, sheet.lines)


def _devices(sheet: RawTable) -> list[str]:
    systems, devices = sheet.column("system"), sheet.column("device")
    named = {system: device for system, device in zip(systems, devices, strict=True) if device}
    return [
        device or _known(sheet, "system", row, system, named)
        for row, (system, device) in enumerate(zip(systems, devices, strict=True))
    ]


def _known(sheet: RawTable, column: str, row: int, name: str, known: dict[str, str]) -> str:
    if name not in known:
        raise sheet.error(f"{name!r} is unknown", row=row, field=column, hint=f"known: {', '.join(sorted(known))}")
    return known[name]


def _numbers(sheet: RawTable, column: str) -> list[float]:
    numbers = []
    for row, cell in enumerate(sheet.column(column)):
        try:
            numbers.append(float(cell))
        except ValueError:
            raise sheet.error(f"{cell!r} is not a number", row=row, field=column) from None
    return numbers
