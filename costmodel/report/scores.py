"""The error of kernel predictions as a table for people."""

from __future__ import annotations

from collections.abc import Sequence

from costmodel.calibration.scoring import Score
from costmodel.report.page import show, table


def show_scores(scores: Sequence[Score]) -> None:
    """Print one row for each device, operator and number format."""
    rows = table(
        "device", "operator", "format", ">rows", ">mean error", ">median", ">bias", ">in 80 %", ">half width"
    )  # fmt: skip
    for one in scores:
        rows.add(
            one.device, one.op, one.dtype, f"{one.rows:,}", _percent(one.mean), _percent(one.median),
            _percent(one.bias, sign=True), _percent(one.inside), _percent(one.half_width),
        )  # fmt: skip
    show(rows)
    missing = sum(one.unpredicted for one in scores)
    if missing:
        show(f"{missing:,} rows have no prediction: `costmodel predict` says why", "dim")


def _percent(value: float | None, *, sign: bool = False) -> str:
    if value is None:
        return "-"
    return f"{100 * value:+.1f} %" if sign else f"{100 * value:.1f} %"
