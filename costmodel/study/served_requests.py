"""Tables of served requests, as `simulate --engine event --trace FILE.csv` writes them, read back."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path

import numpy as np

from costmodel.errors import InputError, Location
from costmodel.quantities import Array
from costmodel.records import Record
from costmodel.schema.loader import MAX_SWEEP_BYTES, read_text
from costmodel.schema.references import display_path

LATEST = 1e10  # [s]: a time beyond it is a mistake
NEEDED = ("start_time", "ttft", "tpot", "latency", "scheduled", "last_token")
FIRST_COLUMN = b"request_id,"  # what such a table begins with


class ServedRequests(Record):
    """Requests in order of arrival, NaN where one was rejected or has no such time [s].

    arrival, scheduled, end: moments.
    ttft, tpot, latency: as its client sees them.
    """

    arrival: Array
    ttft: Array
    tpot: Array
    latency: Array
    scheduled: Array
    end: Array


def is_request_table(path: Path) -> bool:
    """Tell whether a file is a table of served requests."""
    if path.suffix != ".csv" or not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(FIRST_COLUMN)) == FIRST_COLUMN


def read_requests(path: Path) -> ServedRequests:
    """Return the requests of a table. Raises InputError at the row that is wrong."""
    shown = display_path(path)
    columns: dict[str, list[float]] = {name: [] for name in NEEDED}
    reader = csv.DictReader(io.StringIO(read_text(path, shown, MAX_SWEEP_BYTES), newline=""))
    missing = [name for name in NEEDED if name not in (reader.fieldnames or ())]
    if missing:
        raise InputError.single(
            f"has no column {missing[0]}", location=Location(shown, 1),
            hint="write it with `simulate --engine event --trace FILE.csv`",
        )  # fmt: skip
    for row in reader:
        for name in NEEDED:
            columns[name].append(_number(row[name], shown, reader.line_num, name))
    if all(map(math.isnan, columns["start_time"])):
        raise InputError.single(
            "has no requests that came at a time", location=Location(shown), hint="write one request a row"
        )
    return ServedRequests(*(np.array(columns[name]) for name in ("start_time", *NEEDED[1:])))


def _number(text: str | None, shown: str, line: int, name: str) -> float:
    if text == "":
        return float("nan")
    try:
        number = float(text or "missing")
    except ValueError:
        number = math.nan
    if not abs(number) <= LATEST:
        raise InputError.single(
            f"{name} {str(text)[:40]!r} is no number", location=Location(shown, line), hint="write seconds, or nothing"
        )  # fmt: skip
    return number
