"""Writes a fit as a calibration file for people and the residuals next to it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import bdtr

from costmodel import units
from costmodel.calibration.residual_files import DIGITS, write_residuals
from costmodel.cost.form_registry import FORMS
from costmodel.cost.parameter import declarations
from costmodel.fitting.family_fit import COMPANION, CompanionFit, FamilyFitResult
from costmodel.fitting.interval_width import HalfWidths, Knot, spread_knots
from costmodel.fitting.samples import Samples
from costmodel.quantities import Array
from costmodel.records import Record, ValueRecord
from costmodel.schema.fit_plan import ImplementationFile
from costmodel.schema.whole_files import make_folder, write_whole

ENOUGH = 50  # rows from which on the median of their errors is taken as it is
_UNITS = ("time", "size", "bandwidth")  # dimensions of numbers that are written with one; others stand bare
_PLAIN = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*(/[a-z0-9]+(-[a-z0-9]+)*)?")
_WORDS = frozenset(("null", "true", "false", "yes", "no", "on", "off", "y", "n"))  # that YAML takes for something else


class Evidence(Record):
    """What goes into one calibration file. held_out: what the rows share that cross-validation holds out together."""

    file: ImplementationFile
    fitted: Mapping[str, FamilyFitResult]
    samples: Mapping[str, Samples]
    held_out: Mapping[str, str]


class Origin(ValueRecord):
    """Where a file's values come from.

    cite: what is cited.
    command: that made the file.
    rests_on: repositories or tables of the rows.
    """

    cite: str
    command: str
    rests_on: tuple[str, ...] = ()


PUBLIC = Origin(
    "measured kernel times of public repositories, as listed in sources.csv beside the tables",
    "python -m reports.fits.kernels MEASUREMENTS workloads/published/deepep.csv --output hardware/calibrations",
)


def write_calibration(path: Path, evidence: Evidence, origin: Origin) -> None:
    """Write a calibration file and, next to it as .json, its residuals, nothing where no family was fitted."""
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
        yield f"{key}: {_listed(getattr(file, key))}"
    if file.untuned:
        yield f"untuned: {_listed(file.untuned)}"
    yield f"residuals: {residuals}"
    yield "families:"
    for name, fit in evidence.fitted.items():
        yield from _family(name, fit, evidence)
    yield "sources:"
    yield "  - fields: [families]"
    yield f"    cite: {_quoted(origin.cite)}"
    yield "    kind: measurement"
    if origin.rests_on:
        yield f"    rests_on: [{', '.join(_word(each) if '/' not in each else each for each in origin.rests_on)}]"
    made = f"Made by `{origin.command}`."
    yield f"    note: {made if origin.command == PUBLIC.command else _quoted(made)}"


def _family(name: str, fit: FamilyFitResult, evidence: Evidence) -> Iterator[str]:
    yield f"  {name}:"
    yield f"    form: {{kind: {fit.recipe.form}, {_joined(_parameters(fit))}}}"
    yield f"    errors: {{{_joined({key: _percent(value) for key, value in fit.estimate.errors.items()})}}}"
    sizes = zip(fit.recipe.axes, np.exp2(fit.domain.low), np.exp2(fit.domain.high), strict=True)
    yield f"    domain: {{{', '.join(f'{axis}: [{low:.6g}, {high:.6g}]' for axis, low, high in sizes)}}}"
    yield f"    radius: {fit.domain.radius:.{DIGITS}g}"
    means = {model: _percent(errors.mean) for model, errors in fit.errors.items() if model != "near"}
    best, near = fit.errors["residual"], fit.errors["near"]
    ratio = evidence.samples[name].seconds / fit.predictions
    knots = list(spread_knots(fit.predictions, ratio))
    coverage, half_width = _intervals(fit, ratio)
    yield (
        f'    accuracy: {{held_out: "{evidence.held_out[name]}", groups: {fit.groups}, {_joined(means)}, '
        f"median: {_percent(best.median)}, {_median_ends(ratio)}bias: {_percent(best.bias)}, "
        f"coverage: {_percent(coverage)}, "
        f"half_width: {_percent(half_width)}, near_median: {_percent(near.median)}}}"
    )
    yield from _spread(knots)
    if fit.nearness is not None:
        values = {key: f"{getattr(fit.nearness, key):.3g}" for key in ("near", "far", "share")}
        yield f"    nearness: {{{_joined(values)}}}"
    yield f"    rows: {fit.rows}"
    if fit.companion is not None:
        yield from _companion(name, fit, fit.companion, ratio)


def median_ends(errors: Array) -> tuple[float, float]:
    """Return the ends of the 80 % interval of a median of absolute errors, whatever their distribution.

    Those of the order statistics between which a binomial count of n trials with chance 1/2 lies in 80 % of all cases.
    """
    count, ordered = len(errors), np.sort(errors)
    low, high = np.searchsorted(bdtr(np.arange(count + 1), count, 0.5), [0.1, 0.9]).tolist()
    return float(ordered[max(low - 1, 0)]), float(ordered[min(high, count - 1)])


def _median_ends(ratio: Array) -> str:
    """Return the ends of the median error of few rows, as a file has them, nothing of many."""
    if len(ratio) >= ENOUGH:
        return ""
    low, high = median_ends(np.abs(1.0 / ratio - 1.0))
    return f"median_low: {_percent(low)}, median_high: {_percent(high)}, "


def _companion(name: str, fit: FamilyFitResult, companion: CompanionFit, ratio: Array) -> Iterator[str]:
    """Yield the streams that were fitted in the same rows, with the spread of the rows as a whole."""
    estimate = companion.estimate
    yield f"  {companion.key}:"
    yield f"    form: {{kind: {COMPANION}, {_joined(_values(COMPANION, estimate.values))}}}"
    yield f"    errors: {{{_joined({key: _percent(value) for key, value in estimate.errors.items()})}}}"
    yield from _spread([Knot.of(fit.predictions, ratio)])
    yield f"    rows: {fit.rows}"
    yield f"    note: Fitted together with {name}, in the same rows; the spread is that of their whole time."


def _intervals(fit: FamilyFitResult, ratio: Array) -> tuple[float, float]:
    """Return the share of unseen rows in their 80 % intervals, and the median of half of these over the time."""
    halves = HalfWidths.of(fit.predictions, ratio)
    half = fit.widths * (halves.below + halves.above) / 2.0
    return float((halves.errors(ratio) <= fit.widths).mean()), float(np.median(half))


def _spread(knots: Iterable[Knot]) -> Iterator[str]:
    yield "    spread:"
    for knot in knots:
        points = f"low: {knot.low:g}, median: {knot.median:g}, high: {knot.high:g}"
        yield f"      - {{time: {units.render(knot.time, 'time')}, {points}, rows: {knot.rows}}}"


def _parameters(fit: FamilyFitResult) -> dict[str, str]:
    known = declarations(fit.recipe.kind)
    constants = {name: _constant(value, known[name].kind.dimension) for name, value in fit.recipe.constants.items()}
    return _values(fit.recipe.form, fit.estimate.values) | constants


def _constant(value: Any, dimension: str | None) -> str:
    return _written(float(value), dimension) if dimension in _UNITS else _plain(value)


def _values(form: str, values: Mapping[str, float]) -> dict[str, str]:
    """Return parameters as they are written, with the unit that the file's schema asks for."""
    known = declarations(FORMS[form])
    return {
        name: _written(float(f"{value:.{DIGITS}g}"), known[name].kind.dimension) for name, value in values.items()
    }  # fmt: skip


def _written(value: float, dimension: str | None) -> str:
    return units.render(value, dimension) if dimension in _UNITS else f"{value:.{DIGITS}g}"


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"[{', '.join(map(_plain, value))}]"
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
    return value if _PLAIN.fullmatch(value) and value not in _WORDS else _quoted(value)
