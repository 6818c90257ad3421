"""The errors of kernel predictions and of fits, and what was left out of them, as tables for people."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from costmodel.fitting.calibrate import CalibrationRun
from costmodel.fitting.run_plan import FEWEST
from costmodel.fitting.scoring import Score
from costmodel.measurements.exclusions import Exclusion
from costmodel.report.number import Number
from costmodel.report.page import show, table
from costmodel.report.text import NONE

_PATH = re.compile(r"(?<!\S)\S*/(?=\S+:\d+)")  # folders in front of a file's name and line


def show_scores(scores: Sequence[Score]) -> None:
    """Print one row for each device, operator and number format that has scored rows."""
    rows = table(
        "device", "operator", "format", ">rows", ">mean error", "?>median", "?>bias", "?>in 80 %", "?>half width"
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


def show_omissions(left_out: Sequence[Exclusion]) -> None:
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


def show_fits(found: CalibrationRun) -> None:
    """Print the cross-validated errors of a calibration's fits, what was not fitted, and what to do with the file."""
    evidence = found.outcome.evidence
    rows = table(
        "family", "form", ">rows", ">groups", "held out", ">roofline", ">data", ">form", ">residual", ">median", ">bias"
    )  # fmt: skip
    for key, fit in evidence.fitted.items():
        best = fit.errors["residual"]
        rows.add(
            key, fit.recipe.form, f"{fit.rows:,}", f"{fit.groups:,}", evidence.held_out[key],
            *(_percent(fit.errors[model].mean) for model in ("roofline", "data", "form", "residual")),
            _percent(best.median), _percent(best.bias, sign=True),
        )  # fmt: skip
    show(rows)
    show("Mean errors of rows whose group a fit had not seen; `residual` is what prices are made of.", "dim")
    for key, count in found.too_few.items():
        show(f"{key}: {count} rows are too few to fit, at least {FEWEST} are needed")
    for key, count in found.without_recipe.items():
        show(f"{key}: {count:,} rows, but the plan has no recipe for it")
    if found.too_few or found.without_recipe:
        _show_sibling(found)
    if found.kernels > 1:
        show(f"{found.kernels} kernels share these fits; where they differ, fit the rows of each to a file of its own")
    if found.other_devices:
        show(f"{found.other_devices:,} rows are of other devices", "dim")


def show_use(found: CalibrationRun, output: Path) -> None:
    """Print how a scenario comes to use a calibration file."""
    file = found.outcome.evidence.file
    families = sorted({key.partition("/")[0] for key in found.outcome.evidence.fitted})
    named = ", ".join(f"{family}: {file.library}" for family in families)
    folder = f"hardware/calibrations/{file.name.partition('/')[0]}"
    show(f"Wrote {output} and {output.with_suffix('.json').name}. With both in {folder} of a search path,")
    show(f"and `calibration: {{default: {{{named}}}}}` in the device file, simulate uses them.")


def _show_sibling(found: CalibrationRun) -> None:
    device = found.outcome.evidence.file.device
    if found.inherits:
        show(f"the fits of {found.inherits} stand in for these, where it has them: {device} inherits from it")
    else:
        show(f"`calibration: {{inherit: SIBLING}}` in {device} lets another device's fits stand in for these")


def _percent(value: float | None, *, sign: bool = False) -> str:
    if value is None:
        return NONE
    return Number(f"{100 * value:+.1f} %" if sign else f"{100 * value:.1f} %", value)
