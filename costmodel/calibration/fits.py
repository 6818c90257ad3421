"""Makes the calibration files of a fit plan from measurement tables.

python -m costmodel.calibration.fits MEASUREMENTS --output hardware/calibrations
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from costmodel.calibration.batch import Catalogue, LeftOut, Mapped
from costmodel.calibration.fitting import Fitted, Groups, Recipe, Samples, fit_family
from costmodel.calibration.forms import stated
from costmodel.calibration.load import Shelf, family_fit, nearest_variants, read
from costmodel.calibration.operators import map_rows
from costmodel.calibration.roofline import default_framework
from costmodel.calibration.tables import Table, join, read_tables
from costmodel.calibration.writing import Evidence, write_calibration
from costmodel.cost.calibration import Calibration, FamilyFit
from costmodel.errors import InputError
from costmodel.schema.files import load_device
from costmodel.schema.fit_plan import FitPlanFile, ImplementationFile, RecipeFile
from costmodel.schema.references import Library

PLAN = "public"
KIND = "devices/"  # before the name of a device in a plan
FEWEST = 20  # rows of a family, below which nothing is fitted
CONTEXT = "secondary"  # the tier that is left out


Siblings: TypeAlias = "Mapping[str, Samples]"


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """The fits of one implementation; skipped: families with too few rows."""

    file: ImplementationFile
    fitted: Mapping[str, Fitted]
    samples: Mapping[str, Samples]
    left_out: Sequence[LeftOut]
    skipped: Mapping[str, int]


def fit_implementation(
    file: ImplementationFile,
    plan: FitPlanFile,
    table: Table,
    catalogue: Catalogue,
    known: Calibration,
    siblings: Sequence[Siblings] = (),
) -> Outcome:
    """Return the fits of the families that a plan asks for, in its order.

    known: prices a row's other kernels; siblings: rows of the same kernels elsewhere, by family.
    """
    chosen = table.take(_rows_of(file, table))
    mapped, left_out = map_rows(chosen, catalogue)
    fitted: dict[str, Fitted] = {}
    samples: dict[str, Samples] = {}
    skipped: dict[str, int] = {}
    for key, recipe in file.families.items():
        rule = plan.recipes[recipe]
        rows = samples_of(key, chosen, mapped, rule, known)
        if rows is None or len(rows) < FEWEST:
            skipped[key] = 0 if rows is None else len(rows)
            continue
        rows = replace(rows, siblings=tuple(each[key] for each in siblings if key in each))
        found = fit_family(rows, recipe_of(rule))
        fitted[key], samples[key] = found, rows
    return Outcome(file, fitted, samples, left_out, skipped)


def samples_of(
    key: str, table: Table, mapped: Sequence[Mapped], rule: RecipeFile, known: Calibration
) -> Samples | None:
    """Return the rows that measure a family; None where there are none."""
    family, _, variant = key.partition("/")
    parts = tuple(
        part
        for part in mapped
        if part.family == family and (not variant or any(operator.variant == variant for operator in part.operators))
    )
    if not parts:
        return None
    rows = np.concatenate([part.rows for part in parts])
    return Samples(key, parts, table.seconds[rows], _groups(table, rows, rule.held_out), known, default_framework())


def recipe_of(rule: RecipeFile) -> Recipe:
    """Return a recipe as the fit takes it."""
    return Recipe(
        rule.form, {name: stated(value) for name, value in rule.choices.items()}, tuple(rule.terms), rule.beside or ""
    )


def _groups(table: Table, rows: npt.NDArray[np.intp], columns: Sequence[str]) -> Groups:
    """Return the group of every row: the values of some columns, joined."""
    values = [[f"{value:g}" for value in table.number(name)[rows]] for name in columns]
    return np.array(["x".join(each) for each in zip(*values, strict=True)], dtype=np.object_)


def _rows_of(file: ImplementationFile, table: Table) -> npt.NDArray[np.bool_]:
    """Return the rows of an implementation: device by name or alias is checked by the mapping; tier primary."""
    mask = np.array(table.text("tier") != CONTEXT, dtype=bool)
    for column, wanted in (("framework", file.frameworks), ("kernel", file.kernels), ("timing", file.timings)):
        if wanted:
            mask &= np.isin(table.text(column).astype(str), wanted)
    return mask


def calibrate(
    measurements: Sequence[Path], device: str, output: Path, search_path: Sequence[str | Path] = ()
) -> Outcome:
    """Fit every family that a device's rows measure, by the default recipes, and write the calibration file.

    Raises InputError where the device is unknown, no row is of it, or no family has enough rows.
    """
    if output.suffix != ".yaml":
        raise InputError.single(f"{output} is no .yaml file", hint="name one, such as torch.yaml", field="--output")
    plan = read(Library(search_path), "fit_plans", PLAN, FitPlanFile)
    catalogue = Catalogue(search_path)
    known = load_device(device, search_path).name
    table = join([read_tables(path) for path in measurements])
    rows = table.take(np.array([catalogue.name(name) == known for name in table.text("device")], dtype=bool))
    if not len(rows):
        names = sorted(set(table.text("device").tolist()))
        raise InputError.single(f"no row is of {known}", hint=f"the tables have {', '.join(names)}", field="--device")
    file = ImplementationFile(
        name=f"{known}/{output.stem}", library=output.stem, device=f"devices/{known}",
        frameworks=sorted(set(rows.text("framework").tolist()) - {""}),
        kernels=sorted(set(rows.text("kernel").tolist()) - {""}),
        timings=sorted(set(rows.text("timing").tolist()) - {""}), families=plan.defaults,
    )  # fmt: skip
    rooflines = _rooflines(search_path)
    outcome = fit_implementation(file, plan, rows, catalogue, Calibration(file.name, rooflines))
    if not outcome.fitted:
        raise InputError.single(
            f"no kernel has the {FEWEST} rows that a fit needs",
            hint="; ".join(f"{key}: {count} rows" for key, count in outcome.skipped.items()), field="measurements",
        )  # fmt: skip
    write_calibration(output, Evidence(file, plan, outcome.fitted, outcome.samples))
    return outcome


def _rooflines(search_path: Sequence[str | Path] = ()) -> dict[str, FamilyFit]:
    base = Shelf(Library(search_path)).roofline()
    return {family: family_fit(fit, base.basis) for family, fit in base.families.items()}


def main(arguments: Sequence[str] | None = None) -> None:
    """Fit every implementation of a plan; print the cross-validated errors, write the calibration files."""
    parser = argparse.ArgumentParser(prog="python -m costmodel.calibration.fits", description=main.__doc__)
    parser.add_argument("measurements", type=Path, help="folder of measurement tables")
    parser.add_argument("--output", type=Path, required=True, help="folder of calibration files")
    parser.add_argument("--plan", default=PLAN, help="fit plan, by name")
    parser.add_argument("--only", default="", help="implementations whose name contains this")
    chosen = parser.parse_args(arguments)
    plan = read(Library(()), "fit_plans", chosen.plan, FitPlanFile)
    catalogue, table = Catalogue(), read_tables(chosen.measurements)
    rooflines = _rooflines()
    known: dict[str, dict[str, FamilyFit]] = {}
    devices = {name: catalogue.name(name) for name in np.unique(table.text("device").astype(str))}
    of_row = np.array([devices[name] for name in table.text("device")], dtype=np.object_)
    files = {file.name: file for file in plan.implementations}
    for file in plan.implementations:
        if chosen.only in file.name:
            rows = table.take(of_row == file.device[len(KIND) :])
            own = known.setdefault(file.device, {})
            bare = Calibration(file.name, rooflines)
            siblings = [
                _samples(files[name], plan, table.take(of_row == files[name].device[len(KIND) :]), catalogue, bare)
                for name in file.siblings
            ]
            outcome = fit_implementation(
                file, plan, rows, catalogue, Calibration(file.name, _with_nearest(rooflines, own)), siblings
            )
            for key, fit in outcome.fitted.items():
                own.setdefault(key, fit.fit())
            write_calibration(
                chosen.output / f"{file.name}.yaml", Evidence(file, plan, outcome.fitted, outcome.samples)
            )
            report(outcome, lambda line: sys.stdout.write(f"{line}\n"))


def _samples(
    file: ImplementationFile, plan: FitPlanFile, table: Table, catalogue: Catalogue, known: Calibration
) -> Siblings:
    """Return the rows of every family of an implementation."""
    chosen = table.take(_rows_of(file, table))
    mapped, _ = map_rows(chosen, catalogue)
    found = {key: samples_of(key, chosen, mapped, plan.recipes[rule], known) for key, rule in file.families.items()}
    return {key: rows for key, rows in found.items() if rows is not None}


def _with_nearest(rooflines: Mapping[str, FamilyFit], fits: Mapping[str, FamilyFit]) -> dict[str, FamilyFit]:
    """Return what is known of a device so far; streams that were not fitted are priced as their nearest kind."""
    near = next(
        (fits[key] for kind in nearest_variants("elementwise", "") if (key := f"elementwise/{kind}") in fits), None
    )
    return {**rooflines, **({} if near is None else {"elementwise": near}), **fits}


def report(outcome: Outcome, write: Callable[[str], object]) -> None:
    """Write the errors of an implementation's fits, line by line, as plain text."""
    write(outcome.file.name)
    for key, fit in outcome.fitted.items():
        errors = {name: f"{100 * each.mean:5.1f}" for name, each in fit.errors.items()}
        best = fit.errors["residual"]
        write(
            f"  {key:28} {fit.rows:6} rows {fit.groups:5} groups   roofline {errors['roofline']}  "
            f"data {errors['data']}  form {errors['form']}  residual {errors['residual']} %  "
            f"median {100 * best.median:5.1f} %  bias {100 * best.bias:+5.1f} %"
        )
    for key, rows in outcome.skipped.items():
        if rows:
            write(f"  {key:28} {rows:6} rows: too few")


if __name__ == "__main__":
    main()
