"""How far predictions are from measured times, per device, operator and number format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from costmodel.calibration.row_prediction import Predictions, predict_mapped
from costmodel.errors import InputError, suggest
from costmodel.measurements.exclusions import Exclusion, screen
from costmodel.measurements.row_group import Catalogue
from costmodel.measurements.tables import NUMBERS, TEXTS, Table
from costmodel.quantities import Indices
from costmodel.records import Record, ValueRecord, asdict, field

SCHEMA = "costmodel/evaluation@1"


class Score(ValueRecord):
    """Errors of the rows of one device, operator and number format, and of equal values in further columns, `by`.

    rows: those with a time and a prediction.
    left_out: of the primary tier, those that are not scored.
    mean, median: of the absolute relative error.
    bias: median of predicted over measured, less one.
    inside: share of rows that their 80 % interval holds.
    half_width: median of half an interval over the prediction. Null where no row has both.
    """

    device: str
    op: str
    dtype: str
    rows: int
    left_out: int
    mean: float | None
    median: float | None
    bias: float | None
    inside: float | None
    half_width: float | None
    by: Mapping[str, str] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        """Return the score as JSON holds it. `by` only where columns were named."""
        return {name: each for name, each in asdict(self).items() if name != "by" or each}


class Evaluation(Record):
    """The scores of a table's groups, and which of its rows they leave out."""

    scores: Sequence[Score]
    left_out: Sequence[Exclusion]

    def document(self) -> dict[str, Any]:
        """Return the evaluation as JSON holds it."""
        return {
            "schema": SCHEMA,
            "scores": [one.document() for one in self.scores],
            "left_out": [one.document() for one in self.left_out],
        }


def score(table: Table, search_path: Sequence[str | Path] = (), by: Sequence[str] = ()) -> Evaluation:
    """Return the scores of all groups of a table. Every row is either scored or left out with the reason.

    Left out are rows of the secondary tier, rows that measure no kernel and rows that no rule maps. by: columns whose
    values are keys besides device, operation and number format. InputError where the schema has no such column.
    """
    for column in by:
        if column not in (*TEXTS, *NUMBERS):
            hint = suggest(column, (*TEXTS, *NUMBERS))
            raise InputError.single(f"measurements have no column {column!r}", hint=hint, field="--by")
        if not table.has(column):
            raise InputError.single(f"no row states `{column}`", hint="name a column that the table has", field="--by")
    screened = screen(table, Catalogue(search_path))
    predictions = predict_mapped(screened.rows, screened.mapped, screened.unmapped, search_path)
    return Evaluation(scores_of(screened.rows, predictions, by), screened.omissions)


def scores_of(rows: Table, predictions: Predictions, by: Sequence[str] = ()) -> list[Score]:
    """Return the scores of predictions by device, operation, number format and the columns of `by`."""
    return [
        _score(key[:3], dict(zip(by, key[3:], strict=True)), group, rows, predictions)
        for key, group in rows.groups("device", "op", "dtype_in", *by)
    ]


def _score(key: Sequence[str], by: Mapping[str, str], group: Indices, table: Table, predictions: Predictions) -> Score:
    known = group[np.isfinite(predictions.seconds[group]) & np.isfinite(table.seconds[group])]
    device, op, dtype = key
    mean = median = bias = within = half_width = None
    if len(known):
        measured, predicted = table.seconds[known], predictions.seconds[known]
        misses = np.abs(predicted / measured - 1.0)
        inside = (measured >= predictions.low[known]) & (measured <= predictions.high[known])
        half = (predictions.high[known] - predictions.low[known]) / 2.0 / predicted
        mean, median, within = float(misses.mean()), float(np.median(misses)), float(inside.mean())
        bias, half_width = float(np.median(predicted / measured)) - 1.0, float(np.median(half))
    return Score(
        device=device, op=op, dtype=dtype, rows=len(known), left_out=len(group) - len(known), mean=mean, median=median,
        bias=bias, inside=within, half_width=half_width, by=by,
    )  # fmt: skip
