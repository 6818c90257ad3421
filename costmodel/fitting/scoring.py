"""How far predictions are from measured times, per device, operator and number format."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from costmodel.calibration.row_prediction import Predictions, predict_mapped
from costmodel.measurements.exclusions import Exclusion, screen
from costmodel.measurements.row_group import Catalogue
from costmodel.measurements.tables import Table
from costmodel.quantities import Indices

SCHEMA = "costmodel/evaluation@1"


@dataclass(frozen=True, slots=True)
class Score:
    """Errors of the rows of one device, operator and number format.

    rows: those with a time and a prediction; left_out: of the primary tier, those that are not scored; mean, median: of
    the absolute relative error; bias: median of predicted over measured, less one; inside: share of rows that their
    80 % interval holds; half_width: median of half an interval over the prediction. Null where no row has both.
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

    def document(self) -> dict[str, Any]:
        """Return the score as JSON holds it."""
        return asdict(self)


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
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


def score(table: Table, search_path: Sequence[str | Path] = ()) -> Evaluation:
    """Return the scores of all groups of a table; every row is either scored or left out with the reason.

    Left out are rows of the secondary tier, rows that measure no kernel and rows that no rule maps.
    """
    found = screen(table, Catalogue(search_path))
    predictions = predict_mapped(found.rows, found.mapped, found.unmapped, search_path)
    return Evaluation(scores_of(found.rows, predictions), found.omissions)


def scores_of(rows: Table, predictions: Predictions) -> list[Score]:
    """Return the scores of predictions by device, operation and number format."""
    return [_score(key, group, rows, predictions) for key, group in rows.groups("device", "op", "dtype_in")]


def _score(key: tuple[str, ...], group: Indices, table: Table, found: Predictions) -> Score:
    known = group[np.isfinite(found.seconds[group]) & np.isfinite(table.seconds[group])]
    device, op, dtype = key
    if not len(known):
        return Score(
            device=device,
            op=op,
            dtype=dtype,
            rows=0,
            left_out=len(group),
            mean=None,
            median=None,
            bias=None,
            inside=None,
            half_width=None,
        )
    measured, predicted = table.seconds[known], found.seconds[known]
    misses = np.abs(predicted / measured - 1.0)
    inside = (measured >= found.low[known]) & (measured <= found.high[known])
    half = (found.high[known] - found.low[known]) / 2.0 / predicted
    return Score(
        device=device, op=op, dtype=dtype, rows=len(known), left_out=len(group) - len(known),
        mean=float(misses.mean()), median=float(np.median(misses)),
        bias=float(np.median(predicted / measured)) - 1.0, inside=float(inside.mean()),
        half_width=float(np.median(half)),
    )  # fmt: skip
