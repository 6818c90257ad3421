"""Writes what a fit found as a calibration file for people and the residuals beside it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from costmodel import units
from costmodel.calibration.residual_files import DIGITS, write_residuals
from costmodel.cost.form_registry import FORMS
from costmodel.fitting.family_fit import STREAM, CompanionFit, FamilyFitResult, Samples
from costmodel.fitting.interval_width import HalfWidths, Knot, spread_knots
from costmodel.quantities import Array
from costmodel.schema.fit_plan import ImplementationFile
from costmodel.schema.forms import dimension, parameter
from costmodel.schema.whole_files import make_folder, write_whole

_UNITS = frozenset(
    ("time", "size", "bandwidth")
)  # dimensions of parameters that are written with one; others have none
_PLAIN = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*(/[a-z0-9]+(-[a-z0-9]+)*)?")
_WORDS = frozenset(("null", "true", "false", "yes", "no", "on", "off", "y", "n"))  # that YAML takes for something else


@dataclass(frozen=True, slots=True, eq=False)
class Evidence:
    """What goes into one calibration file. held_out: what the rows share that cross-validation holds out together."""

    file: ImplementationFile
    fitted: Mapping[str, FamilyFitResult]
    samples: Mapping[str, Samples]
    held_out: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a file's values come from: what is cited, and the command that made it."""

    cite: str
    command: str


PUBLIC = Origin(
    "measured kernel times of public repositories, as listed in sources.csv beside the tables",
    "python -m reports.fits.kernels MEASUREMENTS workloads/published/deepep.csv --output hardware/calibrations",
)


def write_calibration(path: Path, evidence: Evidence, origin: Origin) -> None:
    """Write a calibration file and, beside it as .json, its residuals; nothing where no family was fitted."""
    if not evidence.fitted:
        return
    make_folder(path.parent)
    write_residuals(path.with_suffix(".json"), {name: fit.residual for name, fit in evidence.fitted.items()})
    text = "\n".join(_lines(evidence, origin, path.with_suffix(".json").name)) + "\n"
    write_whole(path, [text.encode("utf-8")])


def _lines(evidence: Evidence, origin: Origin, residuals: str) -> Iterator[str]:
    file = evidence.file
    yield "schema: costmodel/calibration@1"
    yield f"name: {_word(file.name)}"
    yield f"device: {_word(file.device)}"
    yield f"library: {_word(file.library)}"
    yield "basis: fitted"
    for key in ("frameworks", "kernels", "timings"):
        yield f"{key}: {_listed(_seen(evidence, key.removesuffix('s')))}"
    yield f"residuals: {residuals}"
    yield "families:"
    for name, fit in evidence.fitted.items():
        yield from _family(name, fit, evidence)
    yield "sources:"
    yield "  - fields: [families]"
    yield f"    cite: {_quoted(origin.cite)}"
    yield "    kind: measurement"
    made = f"Made by `{origin.command}`."
    yield f"    note: {made if origin is PUBLIC else _quoted(made)}"


def _seen(evidence: Evidence, column: str) -> list[str]:
    """Return what the rows say in a column, as the plan states it."""
    stated: list[str] = getattr(evidence.file, f"{column}s")
    return list(stated)


def _family(name: str, fit: FamilyFitResult, evidence: Evidence) -> Iterator[str]:
    kind = FORMS[fit.recipe.form]
    yield f"  {name}:"
    yield f"    form: {{kind: {fit.recipe.form}, {_joined(_parameters(fit))}}}"
    yield f"    errors: {{{_joined({key: _percent(value) for key, value in fit.estimate.errors.items()})}}}"
    sizes = zip(kind.axes, np.exp2(fit.domain.low), np.exp2(fit.domain.high), strict=True)
    yield f"    domain: {{{', '.join(f'{axis}: [{low:.6g}, {high:.6g}]' for axis, low, high in sizes)}}}"
    yield f"    radius: {fit.domain.radius:.{DIGITS}g}"
    means = {model: _percent(errors.mean) for model, errors in fit.errors.items() if model != "near"}
    best, near = fit.errors["residual"], fit.errors["near"]
    ratio = evidence.samples[name].seconds / fit.predictions
    knots = list(spread_knots(fit.predictions, ratio))
    inside, half_width = _intervals(fit, ratio)
    yield (
        f'    accuracy: {{held_out: "{evidence.held_out[name]}", groups: {fit.groups}, {_joined(means)}, '
        f"median: {_percent(best.median)}, bias: {_percent(best.bias)}, inside: {_percent(inside)}, "
        f"half_width: {_percent(half_width)}, near_median: {_percent(near.median)}}}"
    )
    yield from _spread(knots)
    if fit.nearness is not None:
        values = {each: f"{getattr(fit.nearness, each):.3g}" for each in ("near", "far", "share")}
        yield f"    nearness: {{{_joined(values)}}}"
    yield f"    rows: {fit.rows}"
    if fit.companion is not None:
        yield from _beside(name, fit, fit.companion, ratio)


def _beside(name: str, fit: FamilyFitResult, beside: CompanionFit, ratio: Array) -> Iterator[str]:
    """Yield the streams that were fitted in the same rows, with the scatter of the rows as a whole."""
    yield f"  {beside.key}:"
    yield f"    form: {{kind: {STREAM}, {_joined(_values(STREAM, beside.estimate.values))}}}"
    yield f"    errors: {{{_joined({key: _percent(value) for key, value in beside.estimate.errors.items()})}}}"
    yield from _spread([Knot.of(fit.predictions, ratio)])
    yield f"    rows: {fit.rows}"
    yield f"    note: Fitted together with {name}, in the same rows; the spread is that of their whole time."


def _intervals(fit: FamilyFitResult, ratio: Array) -> tuple[float, float]:
    """Return the share of unseen rows in their 80 % intervals, and the median of half of these over the time."""
    halves = HalfWidths.of(fit.predictions, ratio)
    half = fit.widths * (halves.below + halves.above) / 2.0
    return float((halves.misses(ratio) <= fit.widths).mean()), float(np.median(half))


def _spread(knots: Iterable[Knot]) -> Iterator[str]:
    yield "    spread:"
    for knot in knots:
        points = f"low: {knot.low:g}, median: {knot.median:g}, high: {knot.high:g}"
        yield f"      - {{time: {units.render(knot.time, 'time')}, {points}, rows: {knot.rows}}}"


def _parameters(fit: FamilyFitResult) -> dict[str, str]:
    """Return the form's parameters and choices as they are written."""
    form = fit.recipe.form
    chosen = {name: _choice(value, dimension(form, name)) for name, value in fit.recipe.choices.items()}
    return _values(form, fit.estimate.values) | chosen


def _choice(value: Any, measure: str | None) -> str:
    return _written(float(value), measure) if measure in _UNITS else _plain(value)


def _values(form: str, values: Mapping[str, float]) -> dict[str, str]:
    """Return parameters as they are written, with the unit that the file's schema asks for."""
    return {name: _written(float(f"{value:.{DIGITS}g}"), parameter(form, name)) for name, value in values.items()}


def _written(value: float, dimension: str) -> str:
    return units.render(value, dimension) if dimension in _UNITS else f"{value:.{DIGITS}g}"


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"[{', '.join(_plain(each) for each in value)}]"
    return str(value)


def _percent(value: float) -> str:
    return "null" if not math.isfinite(value) else f"{100 * value:.3g} %"


def _joined(values: Mapping[str, str]) -> str:
    return ", ".join(f"{name}: {value}" for name, value in values.items())


def _listed(values: list[str]) -> str:
    return f"[{', '.join(_quoted(value) for value in values)}]"


def _quoted(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)


def _word(value: str) -> str:
    """Return a name as it stands, in quotes where YAML would read something else."""
    return value if _PLAIN.fullmatch(value) and value not in _WORDS else _quoted(value)
