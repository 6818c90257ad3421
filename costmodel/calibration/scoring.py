"""How far predictions are from measured times, per device, operator and number format."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from costmodel.calibration.predicting import Predictions, predict
from costmodel.calibration.tables import Table
from costmodel.quantities import Indices

CONTEXT = "secondary"  # the tier that is not scored


@dataclass(frozen=True, slots=True)
class Score:
    """Errors of the rows of one device, operator and number format.

    rows: those with a time and a prediction; unpredicted: those without a prediction; mean, median: of the absolute
    relative error; bias: median of predicted over measured, less one; inside: share of rows that their 80 % interval
    holds; half_width: median of half an interval over the prediction. Null where no row has both.
    """

    device: str
    op: str
    dtype: str
    rows: int
    unpredicted: int
    mean: float | None
    median: float | None
    bias: float | None
    inside: float | None
    half_width: float | None

    def document(self) -> dict[str, Any]:
        """Return the score as JSON holds it."""
        return asdict(self)


def score(table: Table, search_path: Sequence[str | Path] = ()) -> list[Score]:
    """Return the scores of all groups of a table; rows without a time, or of the secondary tier, do not count."""
    counted = np.isfinite(table.seconds) & (table.text("tier") != CONTEXT)
    rows = table.take(np.asarray(counted, dtype=bool))
    found = predict(rows, search_path)
    return [_score(key, group, rows, found) for key, group in rows.groups("device", "op", "dtype_in")]


def _score(key: tuple[str, ...], group: Indices, table: Table, found: Predictions) -> Score:
    known = group[np.isfinite(found.seconds[group])]
    device, op, dtype = key
    if not len(known):
        return Score(device, op, dtype, 0, len(group), None, None, None, None, None)
    measured, predicted = table.seconds[known], found.seconds[known]
    misses = np.abs(predicted / measured - 1.0)
    inside = (measured >= found.low[known]) & (measured <= found.high[known])
    half = (found.high[known] - found.low[known]) / 2.0 / predicted
    return Score(
        device, op, dtype, len(known), len(group) - len(known), float(misses.mean()), float(np.median(misses)),
        float(np.median(predicted / measured)) - 1.0, float(inside.mean()), float(np.median(half)),
    )  # fmt: skip
