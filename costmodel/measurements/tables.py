"""Measurement tables: one CSV row is one timed kernel or communication. A table is its columns as arrays."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from costmodel.errors import Location, suggest
from costmodel.measurements.raw_tables import FOREIGN, RawTable, is_nccl, read_raw_table, table_files, translated
from costmodel.quantities import Array, Indices
from costmodel.records import Record, replace
from costmodel.schema.references import display_path

Texts: TypeAlias = "npt.NDArray[np.object_]"  # of str: notes are long, and few are distinct

NUMBERS = (
    "m", "n", "k", "batch", "num_groups", "num_experts", "topk", "ep_size", "tp_size", "num_tokens", "hidden", "inter",
    "q_heads", "kv_heads", "head_dim", "v_head_dim", "q_len", "kv_len", "batch2", "q2_len", "kv2_len", "sparse_topk",
    "bytes", "world_size", "gpus_per_node", "num_sms", "num_slots", "window", "compress_ratio", "k_heads", "d_conv",
    "conv_channels", "hc_mult",
)  # fmt: skip
"""Columns of whole numbers above zero; blank (NaN) where an operation has none."""
TEXTS = (
    "row_id", "device", "op", "sub_op", "dtype_in", "dtype_out", "kv_dtype", "distribution", "causal", "flag", "tier",
    "includes", "gated", "score_mode", "meta_id", "framework", "kernel", "backend", "timing", "queued", "notes",
    "model", "gemm_type",
)  # fmt: skip
"""Columns of text; blank where an operation has none."""
REQUIRED = ("device", "op", "dtype_in", "time_us")

_TOLD = (
    "graph_us",
    "achieved_tflops", "achieved_gbps", "spread", "source_id", "predicted_us", "low_us", "high_us", "basis", "why",
)  # fmt: skip
"""Columns of results, which are kept and say nothing of the work."""
_JOINED = ("framework", "kernel", "timing", "notes")  # what meta.csv says about a meta_id
_ALIKE = 0.85  # chosen: a slip of a letter or two in the name of a column
_BLANK = {"device": "every row needs it, or --device stands in"}
_SECONDS = 1e-6  # tables state microseconds
_UNKNOWN_TIME = -1.0  # only a bandwidth or FLOP rate was published
_ZERO_IS_NONE = ("window",)  # columns where zero says that an operation has none
_OTHERS = ("seconds", "graph_seconds", "files", "lines")  # fields of a table that are single columns
_MARKS = {"": "", "0": "0", "1": "1", "0.0": "0", "1.0": "1", "false": "0", "true": "1"}
# The schema's column -> its unit, and how columns are called that hold the same in some other unit.
_OTHER_UNITS = {
    "time_us": (
        "microseconds",
        re.compile(r"(time|latency|duration|elapsed|runtime)(_?(s|sec|ms|us|ns|seconds|milliseconds))?", re.IGNORECASE),
    ),
    "bytes": ("bytes", re.compile(r"(size|message_size|bytes)_?(kb|mb|gb|kib|mib|gib)", re.IGNORECASE)),
}


class Table(Record):
    """Measured rows, column by column.

    texts, numbers: the columns of TEXTS and NUMBERS, blank or NaN where a row has none.
    seconds: measured time [s], NaN where the source states none.
    graph_seconds: the same of a call inside a graph.
    files, lines: where each row is written.
    """

    texts: Mapping[str, Texts]
    numbers: Mapping[str, Array]
    seconds: Array
    graph_seconds: Array
    files: Texts
    lines: Indices

    def __len__(self) -> int:
        return len(self.seconds)

    def text(self, name: str) -> Texts:
        """Return a column of text."""
        return self.texts[name]

    def number(self, name: str) -> Array:
        """Return a column of numbers."""
        return self.numbers[name]

    def location(self, row: int | np.intp) -> Location:
        """Return where a row is written."""
        return Location(str(self.files[row]), int(self.lines[row]))

    def take(self, rows: Indices | npt.NDArray[np.bool_]) -> Table:
        """Return the rows at some positions, or where a mask holds."""
        return Table(
            {name: column[rows] for name, column in self.texts.items()},
            {name: column[rows] for name, column in self.numbers.items()},
            self.seconds[rows], self.graph_seconds[rows], self.files[rows], self.lines[rows],
        )  # fmt: skip

    def filled(self, name: str, value: float) -> Table:
        """Return the table with a number where a column of numbers has none."""
        column = self.numbers[name]
        return replace(self, numbers={**self.numbers, name: np.where(np.isnan(column), value, column)})

    def groups(self, *names: str) -> Iterator[tuple[tuple[str, ...], Indices]]:
        """Yield every combination of values of some columns, in order, with the positions of its rows.

        Numbers are written as text, blank where a row has none, and stand in the order of numbers.
        """
        rows_by_key: dict[tuple[str, ...], list[int]] = {}
        for row, key in enumerate(zip(*(self._written(name) for name in names), strict=True)):
            rows_by_key.setdefault(key, []).append(row)
        for key in sorted(
            rows_by_key,
            key=lambda key: [(len(v), v) if n in NUMBERS else (0, v) for n, v in zip(names, key, strict=True)],
        ):
            yield key, np.array(rows_by_key[key], dtype=np.intp)

    def has(self, name: str) -> bool:
        """Tell whether any row states a column."""
        return any(self.texts[name]) if name in self.texts else not np.isnan(self.numbers[name]).all()

    def _written(self, name: str) -> Texts:
        if name in self.texts:
            return self.texts[name]
        return np.array(["" if np.isnan(each) else f"{each:.15g}" for each in self.numbers[name]], dtype=np.object_)

    def marked(self, *flags: str) -> npt.NDArray[np.bool_]:
        """Return where a row carries one of some flags. A row may have several, joined by semicolons."""
        return np.array([not set(flags).isdisjoint(text.split(";")) for text in self.texts["flag"]], dtype=bool)


def read_tables(
    measurements: Path, *, timed: bool = True, device: str | None = None, otherwise: str | None = None
) -> Table:
    """Return all rows of a file, or of a folder of tables (`calibration/*.csv` below it where there is such a folder).

    timed: rows have to state a time. Those of a table to predict need not, but one that is stated has to be one.
    device: stands for the rows' own.
    otherwise: the same where a row of another tool's file has none. Traces of the PyTorch profiler and output of
    nccl-tests are read as tables.

    Joins `meta.csv`, next to the tables or above them, on `meta_id`. A column that a table has itself is kept. Raises
    MeasurementError with file and line: a missing column, one in another unit, a row that is truncated, a number
    that is
    none, not above zero or not whole.
    """
    files = table_files(measurements)
    folder = measurements if measurements.is_dir() else measurements.parent
    meta = _meta(next((path for base in (folder, folder.parent) if (path := base / "meta.csv").is_file()), None))
    return join(
        [table_of(_requested(_named(_sheet(path), otherwise), timed=timed, device=device), meta) for path in files]
    )


def ignored_columns(headers: Iterable[str]) -> list[str]:
    """Return the columns of a table that no operation reads, in order."""
    known = {*TEXTS, *NUMBERS, *REQUIRED, *_TOLD, ""}
    return [name for name in dict.fromkeys(each.strip() for each in headers) if name not in known]


def ignored_note(headers: Iterable[str]) -> str | None:
    """Return what to say of the columns that no operation reads, with what may be meant, nothing where all are read."""
    known = (*TEXTS, *NUMBERS, *REQUIRED)
    meant = ((name, get_close_matches(name, known, n=1, cutoff=_ALIKE)) for name in ignored_columns(headers))
    names = [f"`{name}`" + (f" (did you mean `{close[0]}`?)" if close else "") for name, close in meant]
    return f"no operation reads the columns {', '.join(names)}" if names else None


def _sheet(path: Path) -> RawTable:
    sheet = read_raw_table(path)
    return translated(sheet) if is_nccl(sheet) else sheet


def single_row(cells: Mapping[str, str], location: Location) -> Table:
    """Return a table of one row that no file holds. cells: column -> text; location: where it is written.

    Raises MeasurementError as `read_tables` does.
    """
    sheet = RawTable(Path(location.source), {name: [cell] for name, cell in cells.items()}, [location.line or 1])
    for name in cells:
        if name not in (*TEXTS, *NUMBERS):
            raise sheet.error(
                "is no column of a measurement table", row=0, field=name, hint=suggest(name, [*TEXTS, *NUMBERS])
            )
    return table_of(_requested(sheet, timed=False, device=None), {})


def join(tables: Sequence[Table]) -> Table:
    """Return the rows of several tables as one."""
    return Table(
        {name: np.concatenate([table.texts[name] for table in tables]) for name in TEXTS},
        {name: np.concatenate([table.numbers[name] for table in tables]) for name in NUMBERS},
        *(np.concatenate([getattr(table, name) for table in tables]) for name in _OTHERS),
    )


def _named(sheet: RawTable, device: str | None) -> RawTable:
    """Return a sheet with a device where another tool has stated none."""
    if device is None or sheet.path.suffix not in FOREIGN or "device" not in sheet.columns:
        return sheet
    return replace(sheet, columns={**sheet.columns, "device": [cell or device for cell in sheet.column("device")]})


def _requested(sheet: RawTable, *, timed: bool, device: str | None) -> RawTable:
    """Return a sheet with the device that stands in for its own, and with no times where none are asked for."""
    if device is not None:
        sheet = sheet.with_column("device", device)
    _refuse_other_units(sheet)
    if timed:
        return sheet
    if "time_us" not in sheet.columns:
        return sheet.with_column("time_us", str(_UNKNOWN_TIME))
    times = [cell if cell.strip() else str(_UNKNOWN_TIME) for cell in sheet.column("time_us")]
    return replace(sheet, columns={**sheet.columns, "time_us": times})


def _refuse_other_units(sheet: RawTable) -> None:
    """Raise MeasurementError where a column states a time or a size in another unit than the schema's column."""
    for ours, (unit, spelling) in _OTHER_UNITS.items():
        for number, name in enumerate(sheet.columns, 1):
            if name != ours and spelling.fullmatch(name.strip()):
                hint = (
                    f"keep `{ours}` alone" if ours in sheet.columns else f"convert `{name}` to {unit}, named `{ours}`"
                )
                message = f"`{name}` (column {number}) is no column of the measurement schema"
                raise sheet.error(message, field=ours, hint=hint)


def table_of(sheet: RawTable, meta: Mapping[str, Mapping[str, str]] | None = None) -> Table:
    """Return the rows of a sheet. Raises MeasurementError at the first that is wrong. meta: what `meta.csv` says."""
    if missing := [name for name in REQUIRED if name not in sheet.columns]:
        message = "the column is missing" if len(missing) == 1 else "the columns are missing"
        raise sheet.error(message, field=", ".join(missing), hint=suggest(missing[0], list(sheet.columns)))
    for name in REQUIRED[:-1]:
        cells = sheet.column(name)
        if "" in cells:
            raise sheet.error("is blank", row=cells.index(""), field=name, hint=_BLANK.get(name, "every row needs it"))
    numbers = {name: _numbers(sheet, name) for name in NUMBERS}
    joined = {**_joined(sheet, meta or {}), **{name: _marks(sheet, name) for name in ("causal", "queued")}}
    texts = {name: np.array(joined.get(name, sheet.column(name)), dtype=np.object_) for name in TEXTS}
    files = np.full(len(sheet), display_path(sheet.path), dtype=np.object_)
    times, in_graphs = _times(sheet, "time_us"), _times(sheet, "graph_us")
    return Table(texts, numbers, times, in_graphs, files, np.array(sheet.lines, dtype=np.intp))


def _numbers(sheet: RawTable, name: str) -> Array:
    numbers = _floats(sheet, name)
    if name in _ZERO_IS_NONE:
        numbers = np.where(numbers == 0, np.nan, numbers)
    wrong = np.flatnonzero((numbers <= 0) | np.isinf(numbers) | (numbers != np.floor(numbers)) & ~np.isnan(numbers))
    if len(wrong):
        raise sheet.error(
            f"{sheet.column(name)[wrong[0]]!r} is impossible", row=wrong[0], field=name,
            hint="write a whole number above zero, or leave it blank",
        )  # fmt: skip
    return numbers


def _times(sheet: RawTable, name: str) -> Array:
    """Return measured times [s], NaN where the table says -1. A time inside a graph may be blank as well."""
    numbers = _floats(sheet, name)
    unknown = (numbers == _UNKNOWN_TIME) | (np.isnan(numbers) & (name != REQUIRED[-1]))
    wrong = np.flatnonzero(~unknown & ~((numbers > 0) & np.isfinite(numbers)))
    if len(wrong):
        raise sheet.error(
            f"{sheet.column(name)[wrong[0]]!r} is no time", row=wrong[0], field=name,
            hint="write microseconds above zero, or -1 where only a rate is known",
        )  # fmt: skip
    return np.where(unknown, np.nan, numbers * _SECONDS)


def _floats(sheet: RawTable, name: str) -> Array:
    if name not in sheet.columns:
        return np.full(len(sheet), np.nan)
    values = sheet.column(name)
    filled = ["nan" if not value or value.isspace() else value for value in values]
    try:
        numbers = np.array(filled, dtype=np.float64)
    except ValueError:
        first = next(index for index, value in enumerate(filled) if not _is_number(value))
        raise sheet.error(f"{values[first]!r} is not a number", row=first, field=name) from None
    not_numbers = [int(index) for index in np.flatnonzero(np.isnan(numbers)) if values[int(index)].strip()]
    if not_numbers:
        raise sheet.error(f"{values[not_numbers[0]]!r} is not a number", row=not_numbers[0], field=name)
    return numbers


def _is_number(value: str) -> bool:
    try:
        float(value)
    except ValueError:
        return False
    return True


def _marks(sheet: RawTable, name: str) -> list[str]:
    """Return a column of yes and no, as that of causal masks, as 0, 1 or blank."""
    cells = sheet.column(name)
    known = {cell: _MARKS.get(cell.strip().lower()) for cell in set(cells)}
    for row, cell in enumerate(cells):
        if known[cell] is None:
            raise sheet.error(f"{cell!r} is neither 0 nor 1", row=row, field=name)
    return [known[cell] or "" for cell in cells]


def _joined(sheet: RawTable, meta: Mapping[str, Mapping[str, str]]) -> dict[str, Sequence[str]]:
    """Return what meta.csv says of each row's meta_id, for the columns that the sheet does not have itself."""
    if not meta or "meta_id" not in sheet.columns:
        return {}
    identifiers = sheet.column("meta_id")
    known = {"": dict.fromkeys(_JOINED, ""), **meta}
    for row, identifier in enumerate(identifiers):
        if identifier not in known:
            raise sheet.error(f"meta.csv has no {identifier!r}", row=row, field="meta_id")
    wanted = [name for name in _JOINED if name not in sheet.columns]
    return {name: [known[identifier][name] for identifier in identifiers] for name in wanted}


def _meta(path: Path | None) -> dict[str, dict[str, str]]:
    """Return what meta.csv says of each meta_id, nothing where there is no such file."""
    if path is None:
        return {}
    sheet = read_raw_table(path)
    for name in ("meta_id", *_JOINED):
        if name not in sheet.columns:
            raise sheet.error("the column is missing", field=name, hint=suggest(name, list(sheet.columns)))
    rows = zip(*(sheet.column(name) for name in _JOINED), strict=True)
    return {
        identifier: dict(zip(_JOINED, row, strict=True))
        for identifier, row in zip(sheet.column("meta_id"), rows, strict=True)
    }


# ---- Which of a row's times a fit is of: that of a call in a graph, or of one behind another on a stream -------------

IN_A_GRAPH = "cuda_graph_l2flush"  # the method of timing of such rows: a graph of all repeats, each with own operands


def waited(table: Table) -> npt.NDArray[np.bool_]:
    """Return where a call waited for the host, so that its time is no kernel's."""
    return np.asarray(table.text("queued") == "0", dtype=bool)


def timed_for(table: Table, *, graphs: bool) -> Table:
    """Return rows with the times that kernels have under a program which replays graphs, or does not.

    A row has its time in a graph where it states one, and the program replays graphs or the other time is no kernel's,
    since the host was late. Other rows stay as they are.
    """
    taken = np.isfinite(table.graph_seconds) & (graphs | waited(table))
    texts = {
        "timing": np.where(taken, IN_A_GRAPH, table.text("timing")),
        "queued": np.where(taken, "", table.text("queued")),
    }
    return replace(table, seconds=np.where(taken, table.graph_seconds, table.seconds), texts={**table.texts, **texts})


# ---- Writes rows of a measurement table as the file that they could have come from -----------------------------------

_MICROSECONDS = 1e6  # tables state microseconds
_TABLE_ID = "meta_id"  # what it names stands in the rows


def text_of(table: Table) -> str:
    """Return a table as CSV: the columns that some row fills, and the times."""
    columns = {name: table.text(name).astype(str).tolist() for name in TEXTS if name != _TABLE_ID}
    columns |= {name: ["" if np.isnan(value) else f"{value:.0f}" for value in table.number(name)] for name in NUMBERS}
    columns = {name: cells for name, cells in columns.items() if any(cells)}
    columns["time_us"] = [f"{seconds * _MICROSECONDS:.6g}" for seconds in table.seconds]
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    return text.getvalue()
