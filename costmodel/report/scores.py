"""The terminal views of errors: of kernel predictions, of a calibration's fits, and the skipped rows."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path

from costmodel.fitting.calibrate import CalibrationRun
from costmodel.fitting.run_plan import FEWEST
from costmodel.fitting.scoring import Score
from costmodel.measurements.exclusions import Exclusion
from costmodel.report.page import Number, show, table
from costmodel.report.text import NONE, metric
from costmodel.study.anchoring import AnchoredSite

_FOLDERS = re.compile(r"(?<!\S)\S*/(?=\S+:\d+)")  # folders before a file's name and line
_MODELS = {
    "roofline": "error: roofline", "shape_only": "data only", "form": "formula only",
    "residual": "formula + correction",
}  # fmt: skip


def show_scores(scores: Sequence[Score]) -> None:
    """Print one row for each device, operator, number format and value of further columns that has scored rows."""
    columns = tuple(scores[0].by) if scores else ()
    rows = table(
        "device", "operator", "format", *columns, ">rows", ">mean error", "?>median", "?>bias",
        "?>within 80 % interval", "?>interval half-width",
    )  # fmt: skip
    for score in scores:
        if score.rows:
            rows.add(
                score.device, score.op, score.dtype, *score.by.values(), f"{score.rows:,}", _percent(score.mean),
                _percent(score.median), _percent(score.bias, sign="+"), _percent(score.inside),
                _percent(score.half_width),
            )  # fmt: skip
    scored = [(score.rows, score.mean) for score in scores if score.rows and score.mean is not None]
    if total := sum(count for count, _ in scored):
        show(f"{total:,} rows: mean error {_percent(sum(count * mean for count, mean in scored) / total)}", "bold")
    show(rows if rows.rows else "no rows could be scored")


def show_exclusions(exclusions: Sequence[Exclusion]) -> None:
    """Print the skipped rows with the reason."""
    if not exclusions:
        show("no rows were skipped", "dim")
        return
    rows = table(">skipped", "operator", "reason", "rows")
    for group in exclusions:
        places = ", ".join(_FOLDERS.sub("", path) for path in group.places)
        rows.add(f"{group.rows:,}", group.op, group.reason, places + (", …" if group.rows > len(group.places) else ""))
    show(rows)


def show_fits(run: CalibrationRun) -> None:
    """Print the cross-validated errors of a calibration's fits, what was not fitted, and what to do about it."""
    evidence = run.outcome.evidence
    if evidence.fitted:
        _show_errors(run)
    for key, count in run.too_few.items():
        said = "they move the fit that another device lends" if key in run.moved else f"at least {FEWEST} are needed"
        show(f"{key}: {count} rows are too few for a fit of their own; {said}")
    for key, count in run.without_recipe.items():
        show(f"{key}: {count:,} rows, but the fit plan does not cover this operator")
    if run.without_recipe or set(run.too_few) - set(run.moved):
        device = run.outcome.evidence.file.device
        if run.inherits:
            show(f"these use the fits of {run.inherits} where available, because {device} inherits from it")
        else:
            show(f"add `calibration: {{inherit: SIBLING}}` to {device} to use another device's fits for these")
    if run.kernels > 1:
        show(f"{run.kernels} kernels share these fits; if they differ, fit each to its own file")
    if run.other_devices:
        show(f"{run.other_devices:,} rows are of other devices", "dim")


def _show_errors(run: CalibrationRun) -> None:
    evidence = run.outcome.evidence
    errors = (f"{'' if key == 'residual' else '??'}>{heading}" for key, heading in _MODELS.items())
    rows = table("family", "?formula", ">rows", "?>groups", "?held out by", *errors, ">median", ">bias")
    for key, fit in evidence.fitted.items():
        used = fit.errors["residual"]
        rows.add(
            key, fit.recipe.form, f"{fit.rows:,}", f"{fit.groups:,}", evidence.held_out[key],
            *(_percent(fit.errors[model].mean) for model in _MODELS), _percent(used.median),
            _percent(used.bias, sign="+"),
        )  # fmt: skip
    show(rows)
    show(
        "Mean errors on held-out groups of rows; predictions use formula + correction, whose median and bias follow.",
        "dim",
    )


def show_use(run: CalibrationRun, output: Path) -> None:
    """Print how a scenario comes to use a calibration file, and rows that move transferred fits."""
    file = run.outcome.evidence.file
    if run.anchors is not None:
        show(
            f"Wrote {run.anchors}, whose rows are used where it lies in hardware/calibrations/"
            f"{file.name.partition('/')[0]} on your search path and the device file's `calibration` says "
            f"`anchor: {run.anchors.stem}`."
        )
    if not run.outcome.evidence.fitted:
        return
    families = sorted({key.partition("/")[0] for key in run.outcome.evidence.fitted})
    default = ", ".join(f"{family}: {file.library}" for family in families)
    show(f"Wrote {output} and {output.with_suffix('.json').name}.")
    for path, other in run.backends.items():
        fitted = ", ".join(other.outcome.evidence.fitted)
        show(f"Wrote {path} and {path.with_suffix('.json').name}: another backend of {fitted}.")
    show(
        f"Put both into hardware/calibrations/{file.name.partition('/')[0]} on your search path "
        f"and add `calibration: {{default: {{{default}}}}}` to the device file to use them."
    )
    show(
        "Programs that name libraries of their own, such as vllm for servers, go on with these: add "
        f"`--set 'scenarios.NAME.framework={{extends: frameworks/vllm, name: mine, implementations: {{{default}}}}}'`, "
        "or `--set scenarios.NAME.framework=default`."
    )


def _percent(value: float | None, sign: str = "") -> str:
    return NONE if value is None else Number(f"{100 * value:{sign}.1f} %", value)


# ---- The terminal view of `calibrate --run`: measured steps next to predictions, and what they say of their site -----


def show_site(site: AnchoredSite, output: Path) -> None:
    """Print the steps, the site's factor, and how to use the file."""
    show(f"{site.framework} on {site.cluster} ({site.device})", "bold")
    rows = table("run", "metric", ">measured", ">predicted", ">time: measured/predicted")
    for (name, step), ratio in zip(site.steps.items(), site.anchored.ratios, strict=True):
        values = metric(step.metric, step.value), metric(step.metric, site.predicted[name])
        rows.add(name, step.metric, *values, f"{ratio:.3f}")
    show(rows)
    logs = [math.log(ratio) for ratio in site.anchored.ratios]
    show(f"times of these runs are {math.exp(sum(logs) / len(logs)):.3f} times the predicted ones (geometric mean)")
    show(f"wrote {output}; name it in a scenario of this framework and device: anchor: ./{output.name}")
