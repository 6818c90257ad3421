"""A figure with its data."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping

from matplotlib.figure import Figure

from costmodel.records import Record
from costmodel.report.page import harmless


class Plot(Record):
    """A figure and its data. data: suffix of the file name -> table as CSV."""

    figure: Figure
    data: Mapping[str, bytes]


def table(headings: Iterable[str], rows: Iterable[Iterable[object]]) -> bytes:
    """Return a CSV table: numbers to full precision, nothing for none."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(map(harmless, headings))
    writer.writerows([_cell(value) for value in row] for row in rows)
    return text.getvalue().encode("utf-8", "replace")


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(value) if isinstance(value, float) else harmless(str(value))
