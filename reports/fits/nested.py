"""What cross-validated errors of kernel fits flatter, and what their intervals hold of rows that no choice has seen.

python -m reports.fits.nested MEASUREMENTS --output reports/kernels/nested.md --each 1 --most 30

Lengths of bumps, ridge and widths are chosen on the folds whose errors a calibration file reports. So a sample of
families of every device is fitted again, choices and all, without a third of its groups of shapes, and without a fifth
of its single shapes; the rows left out are predicted with their intervals and compared with what plain cross-validation
says of the same family.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from costmodel.calibration.fit_files import FitStore
from costmodel.calibration.row_times import Choice, times_of
from costmodel.cost.calibration import Calibration, FamilyFit
from costmodel.cost.spread import Spread
from costmodel.errors import CostModelError
from costmodel.fitting.family_fit import FOLDS, FamilyFitResult, Recipe, fit_family
from costmodel.fitting.interval_width import HalfWidths, spread_knots
from costmodel.fitting.run_plan import KIND, recipe_of, rooflines_of
from costmodel.fitting.samples import RowMask, Samples
from costmodel.quantities import Array
from costmodel.records import Record, replace
from costmodel.schema.fit_plan import FitPlanFile, ImplementationFile
from costmodel.schema.references import Library
from costmodel.schema.whole_files import write_whole
from reports.fits.measured import Measured, options

FEWEST = 50  # rows of a family
LARGEST = 150  # of which a fit sees at most so many, whole groups of them
GROUPS, SHAPES = 1 / 3, 1 / 5  # of a family's groups and shapes, left out
SEED = 0
DRAWS = 1000  # of families, for the interval of a mean


class LeftOut(Record):
    """Rows that a fit and its choices have not seen. errors: predicted over measured less one; half: of the interval
    over the prediction; inside: whether it holds the measured time; groups: of shapes, whose rows err together."""

    errors: Array
    half: Array
    inside: RowMask
    groups: int


class Nested(Record):
    """One family. plain: errors of cross-validated rows; groups, shapes: of rows that no choice has seen.

    plain_inside: share of the plain ones that the stated widths hold, 80 % by construction.
    """

    device: str
    implementation: str
    family: str
    plain: Array
    plain_inside: float
    groups: LeftOut
    shapes: LeftOut


class Candidate(Record):
    """A family of an implementation, and a sample of its rows."""

    file: ImplementationFile
    key: str
    samples: Samples

    @property
    def of(self) -> tuple[str, str]:
        """Return its device and operator."""
        return self.file.device, self.key.partition("/")[0]


def candidates(measured: Measured, devices: Sequence[str]) -> Iterator[Candidate]:
    """Yield the families that can be fitted without a third of their groups, with a sample of their rows, at random.

    devices: of which to take, by a part of the name.
    """
    plan = measured.plan
    for at in np.random.default_rng(SEED).permutation(len(plan.implementations)).tolist():
        file = plan.implementations[at]
        if not any(part in file.device for part in devices):
            continue
        for key, found in measured.samples(file, Calibration(file.name, rooflines_of())):
            is_companion = plan.recipes[file.families[key]].companion
            if not is_companion and len(found) >= FEWEST and len(np.unique(found.groups)) >= 2 * FOLDS:
                yield Candidate(file, key, _fewer(found))


def _fewer(samples: Samples) -> Samples:
    """Return whole groups of some rows, at random, at most `LARGEST` rows but for the last group."""
    names, sizes = np.unique(samples.groups, return_counts=True)
    order = np.random.default_rng(SEED).permutation(len(names))
    taken = order[: max(int(np.searchsorted(np.cumsum(sizes[order]), LARGEST)) + 1, 2 * FOLDS)]
    found = samples.take(np.isin(samples.groups, names[taken]))
    return found if len(found) <= 4 * LARGEST else found.take(_some(len(found), LARGEST * 4 / len(found)))


def _some(count: int, share: float) -> RowMask:
    return np.asarray(np.random.default_rng(SEED).random(count) < share)


def nested(one: Candidate, recipe: Recipe) -> Nested:
    """Return what a family's fits say of rows that plain cross-validation held out, and of rows that nothing saw."""
    samples = one.samples
    plain = fit_family(samples, recipe)
    ratio = samples.seconds / plain.predictions
    inside = HalfWidths.of(plain.predictions, ratio).errors(ratio) <= plain.widths
    names = np.unique(samples.groups)
    draws = np.random.default_rng([SEED, 1])
    by_group = np.isin(samples.groups, draws.choice(names, size=max(round(GROUPS * len(names)), 1), replace=False))
    by_shape = draws.random(len(samples)) < SHAPES
    parts = []
    for mask in (by_group, by_shape):
        seen = samples.take(~mask)
        parts.append(left_out_rows(one, fit_family(seen, recipe), seen, samples.take(mask)))
    device, implementation = one.file.device[len(KIND) :], one.file.name.partition("/")[2]
    return Nested(device, implementation, one.key, 1.0 / ratio - 1.0, float(inside.mean()), *parts)


def left_out_rows(one: Candidate, found: FamilyFitResult, seen: Samples, others: Samples) -> LeftOut:
    """Return what a family's fit to the rows seen says of others."""
    samples, file, key = one.samples, one.file, one.key
    fit = _stated(found, seen, key)
    joint = {} if found.companion is None else found.companion.fits()
    choice = Choice(Calibration(file.name, {**samples.known.families, **joint, key: fit}), "")
    times, lows, highs = (
        np.concatenate(column)
        for column in zip(*(times_of(part, choice, samples.framework) for part in others.parts), strict=True)
    )
    held = (others.seconds >= lows) & (others.seconds <= highs)
    groups = len(np.unique(others.groups))
    return LeftOut(times / others.seconds - 1.0, (highs - lows) / 2.0 / times, held, groups)


def _stated(found: FamilyFitResult, seen: Samples, key: str) -> FamilyFit:
    """Return a fit with its spread and what unseen groups add to it, as a calibration file of these rows would."""
    knots = sorted(spread_knots(found.predictions, seen.seconds / found.predictions), key=lambda knot: knot.time)
    spread = Spread(*(tuple(getattr(knot, name) for knot in knots) for name in ("time", "low", "median", "high")))
    is_shape_wise = len(np.unique(seen.groups)) < FOLDS
    unseen = FitStore(Library(())).effects.unseen(key, is_shape_wise=is_shape_wise)
    return replace(found.fit(), spread=spread, unseen=unseen)


def sample(plan: FitPlanFile, found: Iterable[Candidate], each: int, most: int) -> Iterator[Nested]:
    """Yield what `nested` says of families, `each` of a device and operator and `most` in all."""
    taken: Counter[tuple[str, str]] = Counter()
    for one in found:
        if taken[one.of] >= each:
            continue
        try:
            yield nested(one, recipe_of(plan.recipes[one.file.families[one.key]]))
        except CostModelError as error:
            sys.stderr.write(f"{one.file.name} {one.key}: {error}\n")
            continue
        taken[one.of] += 1
        if taken.total() >= most:
            return


def page(rows: Sequence[Nested], command: str) -> str:
    """Return the page of a sample of families."""
    lines = [
        "# Errors and intervals of kernel fits where nothing was chosen on the rows",
        "",
        "`plain` is what calibration files state: rows held out of the fit, on whose errors lengths of bumps, ridges",
        "and widths were chosen. `nested`: rows left out of all of it, a third of the groups of shapes (other heads,",
        f"widths, models) and, `within`, a fifth of single shapes. Of families with more rows about {LARGEST} are",
        "taken, in whole groups, so that errors are larger than those of the shipped fits.",
        "",
        *_summary(rows),
        "",
        "| device | fit | rows | plain: mean | median | nested: mean | median | inside 80 % | half width / median "
        "| within: mean | inside 80 % |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in sorted(rows, key=lambda row: (row.device, row.implementation, row.family)):
        plain, groups, shapes = np.abs(row.plain), np.abs(row.groups.errors), np.abs(row.shapes.errors)
        cells = (
            row.device, f"{row.implementation}, {row.family}", str(len(plain)), f"{plain.mean():.1%}",
            f"{np.median(plain):.1%}", f"{groups.mean():.1%}", f"{np.median(groups):.1%}",
            f"{row.groups.inside.mean():.0%}", f"{np.median(row.groups.half) / np.median(groups):.1f}",
            f"{shapes.mean():.1%}", f"{row.shapes.inside.mean():.0%}",
        )  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", f"Regenerate: `{command}`"]
    return "\n".join(lines) + "\n"


def _summary(rows: Sequence[Nested]) -> Iterator[str]:
    """Yield by what factor plain errors flatter, each family with the same weight, and what intervals hold."""
    factors = np.log([np.abs(row.groups.errors).mean() / np.abs(row.plain).mean() for row in rows])
    draws = np.random.default_rng(SEED).choice(factors, size=(DRAWS, len(factors))).mean(axis=1)
    low, high = np.exp(np.percentile(draws, [10, 90]))
    yield (
        f"{len(rows)} families: nested mean errors are {np.exp(factors.mean()):.2f} times the plain ones "
        f"(80 % interval {low:.2f} to {high:.2f}; median family {np.exp(np.median(factors)):.2f})."
    )
    for name, parts in (
        ("groups that were not seen", [row.groups for row in rows]),
        ("shapes within groups", [row.shapes for row in rows]),
    ):  # fmt: skip
        shares = np.array([part.inside.mean() for part in parts])
        yield (
            f"80 % intervals hold {np.concatenate([part.inside for part in parts]).mean():.0%} of the rows of {name}, "
            f"{shares.mean():.0%} in the mean of families, {np.mean(shares >= 0.65):.0%} of which hold 65 % and more."
        )


def main(arguments: Sequence[str] | None = None) -> None:
    """Fit a sample of families again without some of their rows; write how plain errors and intervals fare."""
    wanted = options("fits.nested", main, "page", each=1, most=1000, only="")
    chosen = wanted.parse_args(arguments)
    measured = Measured.read(chosen.measurements)
    asked = f" --each {chosen.each} --most {chosen.most}" + (f" --only {chosen.only}" if chosen.only else "")
    command = f"python -m reports.fits.nested MEASUREMENTS --output {chosen.output.as_posix()}{asked}"
    found = candidates(measured, chosen.only.split(","))
    rows: list[Nested] = []
    for row in sample(measured.plan, found, chosen.each, chosen.most):
        rows.append(row)
        plain, nest = np.abs(row.plain).mean(), np.abs(row.groups.errors).mean()
        sys.stdout.write(f"{row.device} {row.implementation} {row.family}: plain {plain:.1%}, nested {nest:.1%}\n")
        sys.stdout.flush()
        write_whole(chosen.output, [page(rows, command).encode()])


if __name__ == "__main__":
    main()
