"""Makes the residuals of the shipped calibrations grow along sizes: no kernel is faster than a smaller one.

python -m reports.fits.growth MEASUREMENTS --output hardware/calibrations

A fit of today does so by itself (`costmodel.fitting.family_fit`); this brings files that were fitted before, without
their forms being fitted again. Prints the mean error over the rows of each family that changes, before and after.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from costmodel.calibration.fit_files import DeviceFits, FitStore, default_framework, read
from costmodel.calibration.residual_files import write_residuals
from costmodel.cost.calibration import Calibration, FamilyFit
from costmodel.cost.machine import Machine
from costmodel.cost.residual import Residual
from costmodel.fitting.growth import FittedRows, growing
from costmodel.fitting.run_plan import KIND, PLAN, rooflines_of, rows_of, samples_of
from costmodel.fitting.samples import Samples
from costmodel.measurements.row_group import Catalogue
from costmodel.measurements.row_mapping import map_rows
from costmodel.measurements.tables import Table, read_tables
from costmodel.schema.fit_plan import FitPlanFile, ImplementationFile
from costmodel.schema.references import Library
from costmodel.schema.whole_files import make_folder
from reports.fits.kernels import is_chosen


def main(arguments: Sequence[str] | None = None) -> None:
    """Change the residuals of every implementation of a plan that has a file."""
    parser = argparse.ArgumentParser(prog="python -m reports.fits.growth", description=main.__doc__)
    parser.add_argument("measurements", type=Path, help="folder of measurement tables")
    parser.add_argument("--output", type=Path, required=True, help="folder of calibration files")
    parser.add_argument("--only", default="", help="implementations, by name or by parts of names, by comma")
    chosen = parser.parse_args(arguments)
    plan = read(Library(()), "fit_plans", PLAN, FitPlanFile)
    store, catalogue, table = FitStore(Library(())), Catalogue(), read_tables(chosen.measurements)
    devices = {name: catalogue.name(name) for name in np.unique(table.text("device").astype(str))}
    of_row = np.array([devices[name] for name in table.text("device")], dtype=np.object_)
    names = {file.name for file in plan.implementations}
    for file in plan.implementations:
        if not is_chosen(file.name, chosen.only.split(","), names):
            continue
        device, _, implementation = file.name.partition("/")
        fits = store.device_fits(device, implementation)
        if fits is not None and fits.residuals:
            changed = grown(file, fits, plan, table.take(of_row == file.device[len(KIND) :]), catalogue)
            if changed:
                make_folder((chosen.output / file.name).parent)
                write_residuals(chosen.output / f"{file.name}.json", {**fits.residuals, **changed})


def grown(
    file: ImplementationFile, fits: DeviceFits, plan: FitPlanFile, table: Table, catalogue: Catalogue
) -> dict[str, Residual]:
    """Return the residuals of a file that change."""
    rows = table.take(rows_of(file, table))
    mapped, _ = map_rows(rows, catalogue)
    device = file.device[len(KIND) :]
    own = {key: fit for key in fits.file.families if (fit := fits.fit(key, device)) is not None}
    changed: dict[str, Residual] = {}
    for key in file.families:
        fit = own.get(key)
        if fit is None or fit.residual is None:
            continue
        known = Calibration(file.name, {**rooflines_of(), **own})
        samples = samples_of(key, rows, mapped, plan.recipes[file.families[key]], known)
        residual = None if samples is None else _grown(key, fit, samples)
        if residual is not None:
            changed[key] = residual
    return changed


def _grown(key: str, fit: FamilyFit, samples: Samples) -> Residual | None:
    """Return the residual of a family where it changes; tell what it does to the family's rows."""
    assert fit.form is not None
    assert fit.residual is not None
    count, device = samples.repeats, samples.parts[0].device
    rows = FittedRows(
        samples.features(fit.form, count), samples.form_times(fit.form, count), samples.other_times(), samples.seconds
    )
    residual = growing(key, fit, Machine(device, default_framework(), device.processors), rows)
    if residual is not None:
        before, after = 100.0 * rows.mean_error(fit.residual), 100.0 * rows.mean_error(residual)
        sys.stdout.write(f"{device.name:22} {key:40} {len(samples):6} rows: {before:5.2f} -> {after:5.2f} %\n")
    return residual


if __name__ == "__main__":
    main()
