"""Writes rows of a measurement table as the file that they could have come from."""

from __future__ import annotations

import csv
import io

import numpy as np

from costmodel.measurements.tables import NUMBERS, TEXTS, Table

_MICROSECONDS = 1e6  # tables state microseconds
_JOINED = "meta_id"  # what it names stands in the rows


def text_of(table: Table) -> str:
    """Return a table as CSV: the columns that some row fills, and the times."""
    columns = {name: table.text(name).astype(str).tolist() for name in TEXTS if name != _JOINED}
    columns |= {name: ["" if np.isnan(value) else f"{value:.0f}" for value in table.number(name)] for name in NUMBERS}
    columns = {name: cells for name, cells in columns.items() if any(cells)}
    columns["time_us"] = [f"{seconds * _MICROSECONDS:.6g}" for seconds in table.seconds]
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    return text.getvalue()
