"""Errors of published runs of inference: a shipped table, by device, engine and kind of model."""

from __future__ import annotations

import csv
import io

from costmodel.records import ValueRecord
from costmodel.schema.loader import MAX_TABLE_BYTES, read_text
from costmodel.schema.references import display_path, package_root

RECEIPTS = "receipts.csv"  # in `workloads/` of the package's data; made by `python -m reports.validation.receipts`


class Receipt(ValueRecord):
    """Errors of published runs. kind: `dense` or `experts`; metric: `ttft`, `tpot` or `rate`.

    state: `blind` where nothing that a prediction rests on saw the runs, else `seen`.
    median, mean: of the absolute relative errors.
    """

    device: str
    framework: str
    kind: str
    metric: str
    state: str
    runs: int
    median: float
    mean: float


def receipts(device: str, framework: str, kind: str) -> list[Receipt]:
    """Return what is known of runs of a device and kind of model under an engine, of any release."""
    path = package_root() / "workloads" / RECEIPTS
    rows = csv.DictReader(io.StringIO(read_text(path, display_path(path), MAX_TABLE_BYTES), newline=""))
    return [
        Receipt(
            row["device"], row["framework"], row["kind"], row["metric"], row["state"], int(row["runs"]),
            float(row["median"]), float(row["mean"]),
        )
        for row in rows
        if (row["device"], row["framework"], row["kind"]) == (device, framework, kind)
    ]  # fmt: skip
