"""The error of kernel predictions, and what was left out of it, as tables for people."""

from __future__ import annotations

import re
from collections.abc import Sequence

from costmodel.calibration.omissions import Omission
from costmodel.calibration.scoring import Score
from costmodel.report.page import show, table

_PATH = re.compile(r"(?<!\S)\S*/(?=\S+:\d+)")  # folders in front of a file's name and line


def show_scores(scores: Sequence[Score]) -> None:
    """Print one row for each device, operator and number format that has scored rows."""
    rows = table(
        "device", "operator", "format", ">rows", ">mean error", ">median", ">bias", ">in 80 %", ">half width"
    )  # fmt: skip
    for one in scores:
        if one.rows:
            rows.add(
                one.device, one.op, one.dtype, f"{one.rows:,}", _percent(one.mean), _percent(one.median),
                _percent(one.bias, sign=True), _percent(one.inside), _percent(one.half_width),
            )  # fmt: skip
    if rows.rows:
        show(rows)
    else:
        show("no row can be scored")


def show_omissions(left_out: Sequence[Omission]) -> None:
    """Print what was left out, and why."""
    if not left_out:
        show("no row is left out", "dim")
        return
    rows = table(">left out", "operator", "reason", "rows")
    for one in left_out:
        more = ", …" if one.rows > len(one.places) else ""
        places = ", ".join(_PATH.sub("", place) for place in one.places)
        rows.add(f"{one.rows:,}", one.op, one.reason, places + more)
    show(rows)


def _percent(value: float | None, *, sign: bool = False) -> str:
    if value is None:
        return "-"
    return f"{100 * value:+.1f} %" if sign else f"{100 * value:.1f} %"
