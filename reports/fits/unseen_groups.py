"""How far kernels of heads, widths or models that were not measured lie off: part of `calibrations/effects.yaml`.

A family of few groups of shapes (heads of one model, widths of another) is cross-validated over single shapes, which
says nothing of a further group. So families of many groups are fitted to one, two and three of theirs, and predict the
rest. What sizes beyond the measured ones cost, they say as well as fits to the smaller sizes of all groups, which
predict the larger ones. Messages are fitted to the larger sizes, too: training sends megabytes, of which benchmarks are
made, decoding kilobytes.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence

import numpy as np
from scipy.optimize import minimize

from costmodel.calibration.fit_files import FitStore
from costmodel.calibration.fit_lookup import FitLookup
from costmodel.cost.calibration import Calibration
from costmodel.cost.parameter import parameters
from costmodel.cost.residual import GROUP_AXES
from costmodel.errors import CostModelError
from costmodel.fitting.family_fit import FOLDS, Recipe, predict_groups
from costmodel.fitting.run_plan import recipe_of
from costmodel.fitting.samples import RowMask, Samples
from costmodel.quantities import Array
from costmodel.records import Record, replace
from costmodel.schema.fit_plan import ImplementationFile
from costmodel.schema.references import Library
from reports.fits.measured import Measured, device_of

SEEN = (1, 2, 3)  # groups that a fit sees, one draw each
SHARES = (0.25, 0.5)  # of the rows, the smallest or largest sizes of all groups, that a fit sees
MESSAGES = ("collective", "send_recv")
FEWEST = 20  # rows of such groups below which nothing is fitted
MOST = 300  # rows of other groups that are predicted
SEED = 0
COVERAGE = 0.8
SHARED = {  # families that share a scatter
    "mla_prefill": "mla", "mla_decode": "mla", "mla_backward": "mla", "send_recv": "collective",
    "attention_mixed": "attention_prefill", "attention_backward": "attention_prefill",
}  # fmt: skip


class Errors(Record):
    """Of one fit to some rows: log errors of other rows.

    beyond: octaves that each lies outside those seen.
    has_new_groups: the rows are of groups that the fit did not see.
    """

    family: str
    beyond: Array
    log_errors: Array
    has_new_groups: bool


def errors_of(file: ImplementationFile, measured: Measured) -> Iterator[Errors]:
    """Yield the errors of each family of an implementation that has many groups, from fits to part of its rows.

    Streams in the same rows are taken as the device's own files have them.
    """
    known = Calibration(file.name, FitLookup(FitStore(Library(())), device_of(file), {}))
    for key, samples in measured.samples(file, known):
        recipe = replace(recipe_of(measured.plan.recipes[file.families[key]]), companion="")
        if len(np.unique(samples.groups)) <= FOLDS:
            continue
        draws = [(*_drawn(samples, number), True) for number in SEEN]
        draws += [(*_end(samples, recipe, share), False) for share in SHARES]
        if key.partition("/")[0] in MESSAGES:
            draws += [(*_end(samples, recipe, -share), False) for share in SHARES]
        for seen, others, has_new_groups in draws:
            if seen.sum() >= FEWEST and others.any():
                found = predict_groups(samples.take(seen), samples.take(others), recipe)
                yield Errors(key.partition("/")[0], found.beyond, found.log_errors, has_new_groups)


def _drawn(samples: Samples, number: int) -> tuple[RowMask, RowMask]:
    """Return masks of the rows of some groups, and of a sample of all others."""
    draws = np.random.default_rng([SEED, number])
    names = np.unique(samples.groups)
    seen = np.isin(samples.groups, draws.choice(names, size=number, replace=False))
    return seen, _some(~seen, draws)


def _end(samples: Samples, recipe: Recipe, share: float) -> tuple[RowMask, RowMask]:
    """Return masks of the rows of the smallest sizes, of the largest if `share` is negative, and of a sample of others.

    Size: the sum of a row's features along the axes that are swept for every group [octaves]; of messages the bytes.
    """
    swept = [axis for axis, name in enumerate(recipe.axes) if name not in (*GROUP_AXES, "ranks")]
    anywhere = {name: declared.start for name, declared in parameters(recipe.kind, recipe.terms).items()}
    features = samples.features(recipe.build(anywhere), 1)[0]  # shapes alone
    size = math.copysign(1.0, share) * features[:, swept].sum(axis=1)
    seen = size <= np.quantile(size, abs(share))
    return seen, _some(~seen, np.random.default_rng([SEED, 0]))


def _some(mask: RowMask, draws: np.random.Generator) -> RowMask:
    """Return a sample of the rows where a mask holds."""
    chosen = np.zeros(len(mask), dtype=bool)
    chosen[draws.permutation(np.flatnonzero(mask))[:MOST]] = True
    return chosen


def scatter(errors: Sequence[Errors]) -> tuple[float, float]:
    """Return u and g of the half-width sqrt(u^2 + (g b)^2) of log errors, b octaves beyond what was measured.

    Those under which exponential absolute errors are likeliest, each fit with the same weight, scaled so that 80 % of
    the weight lies within. Of rows whose groups a fit has seen, what they miss by inside stands in place of u; it is u
    where no fit has new groups: every size of a message is one.
    """
    size, beyond, weight, is_new = _columns(errors)

    def width(x: Array) -> Array:
        half: Array = np.hypot(np.exp(np.where(is_new, x[0], x[2])), np.exp(x[1]) * beyond)
        return half

    def cost(x: Array) -> float:
        return _cost(size, width(x), weight)

    found = minimize(cost, np.log([0.1, 0.1, 0.05]), method="Nelder-Mead", options={"maxiter": 2000}).x
    factor = _covering(size / width(found), weight)
    return factor * float(np.exp(found[0 if is_new.any() else 2])), factor * float(np.exp(found[1]))


def _columns(errors: Sequence[Errors]) -> tuple[Array, Array, Array, RowMask]:
    """Return, of all rows, |log error|, octaves outside, weight, and whether their groups are new to the fit."""
    size = np.abs(np.concatenate([one.log_errors for one in errors]))
    beyond = np.concatenate([one.beyond for one in errors])
    weight = np.concatenate([np.full(len(one.beyond), 1.0 / len(one.beyond)) for one in errors])
    is_new = np.concatenate([np.full(len(one.beyond), one.has_new_groups) for one in errors])
    return size, beyond, weight, is_new


def _cost(size: Array, mean: Array, weight: Array) -> float:
    """Return the negative logarithm of the likelihood of exponential errors, a miss at most five means."""
    return float((weight * (np.log(mean) + np.minimum(size / mean, 5.0))).sum())


def _covering(scores: Array, weight: Array) -> float:
    """Return the score below which `COVERAGE` of the weight lies."""
    order = np.argsort(scores)
    reached = np.cumsum(weight[order]) / weight.sum()
    return float(scores[order][np.searchsorted(reached, COVERAGE)])


def effects_of_shapes(measured: Measured) -> dict[str, dict[str, float]]:
    """Return `unseen` and `beyond` by family, from fits to few groups of each."""
    by_family: dict[str, list[Errors]] = {}
    for file in measured.plan.implementations:
        try:
            for one in errors_of(file, measured):
                for name in {SHARED.get(one.family, one.family), "any"}:
                    by_family.setdefault(name, []).append(one)
        except CostModelError as error:
            sys.stderr.write(f"{file.name}: {error}\n")
    effects: dict[str, dict[str, float]] = {}
    for family, errors in by_family.items():
        own = dict(zip(("unseen", "beyond"), scatter(errors), strict=True))
        sharing = [name for name, shared in SHARED.items() if shared == family]
        for name in sharing if family == "mla" else [family, *sharing]:
            effects[name] = own
    return effects
