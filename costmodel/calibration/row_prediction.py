"""Predicts the rows of a measurement table: time, interval, basis, and which fit it rests on."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from costmodel.calibration.fit_files import default_framework
from costmodel.calibration.fit_selection import Chooser, Kernel
from costmodel.calibration.row_times import times_of, variant_of
from costmodel.cost.anchored_fit import AnchoredFit
from costmodel.cost.calibration import FamilyFit
from costmodel.errors import InputError, Problem
from costmodel.measurements.row_group import Catalogue, ExcludedRows, OperatorRows
from costmodel.measurements.row_mapping import map_all
from costmodel.measurements.tables import NUMBERS, Table, Texts
from costmodel.quantities import Array, Indices
from costmodel.records import Record, replace
from costmodel.schema.whole_files import make_folder, write_whole
from costmodel.workload.operators import Operator

MICROSECONDS = 1e6  # tables state microseconds
_NUMERIC = frozenset((*NUMBERS, "predicted_us", "low_us", "high_us"))  # columns that Parquet holds as numbers


class Predictions(Record):
    """What is predicted of every row: seconds, NaN where nothing can be said, its 80 % interval, basis and reason.

    fits: the calibration files, by comma, that price the operator which a row is named after. Blank for the roofline.
    """

    seconds: Array
    low: Array
    high: Array
    basis: Texts
    why: Texts
    fits: Texts

    def count_by_basis(self) -> dict[str, int]:
        """Return how many rows rest on what, `none` where nothing is predicted."""
        names, counts = np.unique(self.basis.astype(str), return_counts=True)
        return {name or "none": int(count) for name, count in zip(names, counts, strict=True)}


def predict(table: Table, search_path: Sequence[str | Path] = (), *, is_own: bool = False) -> Predictions:
    """Return the predictions for the rows of a table, in its order. is_own: rows are of the source of the fits.

    A kernel that no file covers is priced by the nearest one, which `why` names. A time from the bare roofline is
    multiplied by the median ratio that measured times have to it. Rows that hold no operator of the package stay empty,
    with the reason.
    """
    return predict_mapped(table, *map_all(table, Catalogue(search_path)), search_path, is_own=is_own)


def in_thousands(table: Table, predictions: Predictions) -> str:
    """Return what is said of measured times that are nearer to a thousandth of predictions, or a thousand, or blank."""
    ratios = table.seconds / predictions.seconds
    ratios = ratios[np.isfinite(ratios)]
    if not len(ratios) or round(math.log(float(np.median(ratios)), 1e3)) == 0:
        return ""
    return f"the median of {len(ratios):,} times is {np.median(ratios):.2g} of what is predicted: check their unit"


def predict_mapped(
    table: Table,
    mapped: Sequence[OperatorRows],
    left_out: Sequence[ExcludedRows],
    search_path: Sequence[str | Path] = (),
    *,
    is_own: bool = False,
    choosers: dict[str, Chooser] | None = None,
) -> Predictions:
    """Return the predictions for rows whose operators are known. Those left out stay empty, with the reason."""
    count = len(table)
    seconds, low, high = (np.full(count, np.nan) for _ in range(3))
    basis, why, fits = (np.full(count, "", dtype=np.object_) for _ in range(3))
    framework = default_framework(search_path)
    choosers = {} if choosers is None else choosers
    for part in mapped:
        chooser = choosers.setdefault(part.device.name, Chooser(part.device.name, search_path))
        kernel = _kernel(table, part.rows)
        if part.program is None:
            choice = chooser.choose(part.family, variant_of(part), kernel)
        else:
            choice = chooser.under(part.program)
        choice = replace(choice, across=None) if is_own else choice
        rows = part.rows
        seconds[rows], low[rows], high[rows] = times_of(part, choice, part.program or framework)
        fit = choice.calibration.fit(part.named)
        basis[rows], fits[rows] = _bases_of(fit, part.named, len(rows)), ", ".join(fit.sources)
        why[rows] = f"{choice.why}, moved by {fit.anchors.source}" if isinstance(fit, AnchoredFit) else choice.why
    for left in left_out:
        why[left.rows] = left.reason
    return Predictions(seconds, low, high, basis, why, fits)


def write_predictions(path: Path, columns: Mapping[str, Sequence[str]], predictions: Predictions) -> None:
    """Write a table's columns with the predictions as further ones. The file is whole or it is not there.

    Times in microseconds, blank where nothing is predicted. Columns of earlier predictions are replaced.
    """
    added = {
        "predicted_us": _written(predictions.seconds), "low_us": _written(predictions.low),
        "high_us": _written(predictions.high),
        "basis": predictions.basis.tolist(), "why": predictions.why.tolist(),
    }  # fmt: skip
    whole = {**{name: column for name, column in columns.items() if name not in added}, **added}
    make_folder(path.parent)
    if path.suffix == ".parquet":
        _write_parquet(path, whole)
        return
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(whole)
    writer.writerows(zip(*whole.values(), strict=True))
    write_whole(path, [text.getvalue().encode("utf-8")])


def _write_parquet(path: Path, columns: Mapping[str, Sequence[str]]) -> None:
    try:
        import polars
    except ImportError:
        problem = Problem(
            None, "--output", "writing Parquet needs polars, which is not installed",
            "pip install 'costmodel[sweep]', or name a .csv file",
        )  # fmt: skip
        raise InputError([problem]) from None
    content = io.BytesIO()
    typed = {name: _numeric(column) if name in _NUMERIC else list(column) for name, column in columns.items()}
    polars.DataFrame(typed).write_parquet(content)
    write_whole(path, [content.getvalue()])


def _numeric(column: Sequence[str]) -> list[float | None]:
    return [float(cell) if cell.strip() else None for cell in column]


def _written(seconds: Array) -> list[str]:
    return ["" if np.isnan(value) else f"{value * MICROSECONDS:.6g}" for value in seconds]


def _kernel(table: Table, rows: Indices) -> Kernel:
    first = rows[0]
    return Kernel(*(str(table.text(column)[first]) for column in ("framework", "kernel", "timing")))


def _bases_of(fit: FamilyFit, operator: Operator, count: int) -> Texts:
    return np.broadcast_to(np.asarray(fit.bases(operator), dtype=np.object_), (count,))
