"""Parts of a table as bytes and back: Parquet where polars is there, else CSV. The same columns give the same bytes."""

from __future__ import annotations

import csv
import importlib.util
import io
import math
import os
from collections.abc import Collection, Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from costmodel.errors import InputError, Location

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
    """Return a column as text, numbers to full precision. A missing one is empty."""
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
