"""What is known of kernels that nobody has measured yet: how wide the interval of a prediction is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from costmodel.calibration.row_prediction import predict_mapped
from costmodel.measurements.raw_tables import RawTable
from costmodel.measurements.row_group import Catalogue
from costmodel.measurements.row_mapping import map_all
from costmodel.measurements.tables import REQUIRED, table_of
from costmodel.quantities import Array

UNKNOWN = 1.0  # half width over the prediction of a kernel of which nothing can be said


def half_widths(
    rows: Sequence[Mapping[str, str]],
    search_path: Sequence[str | Path] = (),
    families: Mapping[str, float] | None = None,
) -> Array:
    """Return half of the predicted 80 % interval of every row over its predicted time.

    At least `UNKNOWN` where no fit of any device stands behind it: how kernels elsewhere scatter about their roofline
    says little of this one. rows: cells by column of the measurement schema, without times. families: what the widths
    are multiplied by, over the largest of them, by operator family, zero for others. None: one for all.
    """
    if not rows:
        return np.zeros(0)
    names = dict.fromkeys([*REQUIRED, *(name for row in rows for name in row)])
    columns = {name: [row.get(name, "") for row in rows] for name in names} | {"time_us": ["-1"] * len(rows)}
    table = table_of(RawTable(Path("rows"), columns, range(1, len(rows) + 1)))
    mapped, left_out = map_all(table, Catalogue(search_path))
    predictions = predict_mapped(table, mapped, left_out, search_path, is_own=True)
    widths = (predictions.high - predictions.low) / 2.0 / predictions.seconds
    fitted = np.isfinite(widths) & (predictions.basis != "roofline")
    known = np.where(fitted, widths, np.fmax(widths, UNKNOWN))
    if not families:
        return known
    counted = np.zeros(len(rows))
    for part in mapped:
        counted[part.rows] = families.get(part.family, 0.0) / max(families.values())
    return np.asarray(known * counted)


def device_names(search_path: Sequence[str | Path] = ()) -> Callable[[str], str | None]:
    """Return what gives the name of the device file that has a product's name as its own or as an alias."""
    catalogue = Catalogue(search_path)
    return catalogue.known
