"""Parts of a table as bytes and back: Parquet where polars is there, else CSV. The same columns give the same bytes."""

from __future__ import annotations

import csv
import importlib.util
import io
import math
import os
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from costmodel.errors import InputError, Location
from costmodel.records import ValueRecord
from costmodel.result import INTERVAL

if TYPE_CHECKING:
    from costmodel.study.sweep import Sweep

CSV, PARQUET = "csv", "parquet"
FORMS = (PARQUET, CSV)

Columns: TypeAlias = "Mapping[str, npt.NDArray[Any]]"  # name -> floats (NaN: nothing), texts or switches


def best_form() -> str:
    """Return the form that this installation writes: what $COSTMODEL_TABLE says, else the best that is installed."""
    return CSV if os.environ.get("COSTMODEL_TABLE") == CSV or not importlib.util.find_spec("polars") else PARQUET


def encode(columns: Columns, form: str, counts: Collection[str]) -> bytes:
    """Return a part of the table as a file holds it. counts: columns of whole numbers."""
    return _parquet(columns, counts) if form == PARQUET else _csv(columns, counts)


def decode(data: bytes, form: str, location: Location) -> Columns:
    """Return the columns of a part: those of numbers as floats, others as text. Raises InputError on other bytes."""
    try:
        return _from_parquet(data, location) if form == PARQUET else _from_csv(data)
    except InputError:
        raise
    except Exception as error:  # polars has errors of its own
        message = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError.single(f"cannot be read: {message}", hint="run the sweep again", location=location) from None


def _csv(columns: Columns, counts: Collection[str]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*(_texts(column, whole=name in counts) for name, column in columns.items()), strict=True))
    return text.getvalue().encode()


def _texts(column: npt.NDArray[Any], *, whole: bool) -> list[str]:
    if column.dtype == bool:
        return ["true" if value else "false" for value in column.tolist()]
    if column.dtype.kind == "U":
        return column.tolist()  # type: ignore[no-any-return]
    if whole:
        return [str(int(value)) for value in column.tolist()]
    return ["" if math.isnan(value) else repr(value) for value in column.tolist()]


def _from_csv(data: bytes) -> Columns:
    heading, *rows = csv.reader(io.StringIO(data.decode(), newline=""))
    if any(len(row) != len(heading) for row in rows):
        raise ValueError("a row is not as long as the heading")
    columns = zip(*rows, strict=True) if rows else iter([()] * len(heading))
    return {name: np.array(column, dtype=np.str_) for name, column in zip(heading, columns, strict=True)}


def _parquet(columns: Columns, counts: Collection[str]) -> bytes:
    import polars

    series = [
        polars.Series(name, column.astype(np.int64))
        if name in counts
        else polars.Series(name, column.tolist() if column.dtype.kind == "U" else np.ascontiguousarray(column))
        for name, column in columns.items()
    ]
    frame = polars.DataFrame(series).with_columns(polars.selectors.float().fill_nan(None))
    target = io.BytesIO()
    frame.write_parquet(target, compression="zstd", row_group_size=len(frame))
    return target.getvalue()


def _from_parquet(data: bytes, location: Location) -> Columns:
    try:
        import polars
    except ImportError:
        raise InputError.single(
            "is a Parquet file, which needs polars", hint="install costmodel[sweep]", location=location
        ) from None
    frame = polars.read_parquet(io.BytesIO(data))
    return {
        column.name: column.to_numpy().astype(np.str_ if column.dtype == polars.String else np.float64)
        if column.dtype != polars.Boolean
        else column.to_numpy()
        for column in frame
    }


def numbers(column: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Return a column as floats, NaN where nothing stands. Raises ValueError where it holds none."""
    if column.dtype.kind == "U":
        return np.array([float(text) if text else math.nan for text in column.tolist()])
    return column.astype(np.float64)


def switches(column: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Return a column as true and false."""
    return column == "true" if column.dtype.kind == "U" else column.astype(bool)


# ---- What a sweep's table says in a few lines: how many points run, why others do not, and where the headline is best.

OnProgress: TypeAlias = "Callable[[int], None]"  # called with the points that are done


class Reader(ValueRecord):
    """Reads from a part of a table what a summary says of it, wherever the part is made.

    headlines: of each scenario.
    axes: path of each, whether it holds texts, and whether whole numbers.
    """

    headlines: Mapping[str, str]
    axes: tuple[tuple[str, bool, bool], ...]

    def read(self, columns: Columns) -> list[dict[str, Any]]:
        """Return what there is to say of each scenario of a part."""
        names = columns["scenario"]
        different = dict.fromkeys(names.tolist())
        if len(different) == 1:
            return [self._of_scenario(name, columns) for name in different]
        rows = {name: np.flatnonzero(names == name) for name in different}
        return [
            self._of_scenario(name, {key: column[own] for key, column in columns.items()}) for name, own in rows.items()
        ]

    def _of_scenario(self, name: str, columns: Columns) -> dict[str, Any]:
        headline = self.headlines[name]
        times, reasons = numbers(columns[headline]), columns["reason"]
        runs = switches(columns["fits"]) & (reasons == "")
        times = np.where(runs, times, np.nan)
        known = not np.all(np.isnan(times))
        return {
            "scenario": name, "points": len(times), "fit": int(runs.sum()),
            "infeasible": Counter(reasons[reasons != ""].tolist()),
            "best": self._at(columns, headline, int(np.nanargmin(times))) if known else None,
            "worst": self._at(columns, headline, int(np.nanargmax(times))) if known else None,
        }  # fmt: skip

    def _at(self, columns: Columns, headline: str, row: int) -> dict[str, Any]:
        def number(name: str) -> float:
            return float(numbers(columns[name][row : row + 1])[0])

        at = {
            path: str(columns[path][row]) if texts else _plain(number(path), whole=whole)
            for path, texts, whole in self.axes
        }
        low, high = (number(f"{headline}_{end}") for end in INTERVAL)
        return {"at": at, "value": number(headline), "low": low, "high": high}


def reader_of(sweep: Sweep) -> Reader:
    """Return what reads the parts of a sweep."""
    headlines = {name: sweep.answers(name)[0] for name in sweep.scenarios}
    return Reader(headlines, tuple((axis.path, bool(axis.texts), axis.whole) for axis in sweep.axes))


class Summary:
    """Adds up the parts of a table, in whichever order they come."""

    def __init__(self, sweep: Sweep) -> None:
        self.points = 0
        self._sweep = sweep
        self._parts: dict[int, list[dict[str, Any]]] = {}

    def add(self, number: int, parts: list[dict[str, Any]]) -> None:
        """Add a part of the table, as `Reader` reads it."""
        self.points += sum(part["points"] for part in parts)
        self._parts[number] = parts

    def scenarios(self) -> dict[str, Any]:
        """Return for each scenario how many points run, why others do not, and its shortest and longest time."""
        scenarios: dict[str, Any] = {}
        for name in self._sweep.scenarios:
            parts = [part for _, of in sorted(self._parts.items()) for part in of if part["scenario"] == name]
            reasons: Counter[str] = Counter()
            for part in parts:
                reasons.update(part["infeasible"])
            ran = [part for part in parts if part["best"]]
            scenarios[name] = {
                "headline": self._sweep.answers(name)[0],
                "points": sum(part["points"] for part in parts),
                "fit": sum(part["fit"] for part in parts),
                "infeasible": dict(sorted(reasons.items())),
                "best": min((part["best"] for part in ran), key=_value, default=None),
                "worst": max((part["worst"] for part in ran), key=_value, default=None),
            }
        return scenarios


def _value(point: dict[str, Any]) -> float:
    return float(point["value"])


def _plain(value: float, *, whole: bool) -> float | int:
    return int(value) if whole else value
