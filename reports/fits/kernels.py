"""Makes the shipped calibration files: runs a fit plan over measurement tables.

python -m reports.fits.kernels MEASUREMENTS workloads/published/deepep.csv --output hardware/calibrations
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Container, Mapping, Sequence
from pathlib import Path

import numpy as np

from costmodel.calibration.fit_files import read
from costmodel.calibration.fit_selection import Chooser, Kernel
from costmodel.calibration.substitutes import ELEMENTWISE, nearest_variants
from costmodel.cost.calibration import Calibration, FamilyFit
from costmodel.fitting.run_plan import (
    KIND,
    PLAN,
    Siblings,
    fit_implementation,
    report,
    rooflines_of,
    rows_of,
    samples_of,
)
from costmodel.fitting.writing import PUBLIC, write_calibration
from costmodel.measurements.origins import origins, repositories
from costmodel.measurements.row_group import Catalogue
from costmodel.measurements.row_mapping import map_rows
from costmodel.measurements.tables import Table, join, read_tables
from costmodel.records import replace
from costmodel.schema.fit_plan import FitPlanFile, ImplementationFile
from costmodel.schema.references import Library

_THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")


def main(arguments: Sequence[str] | None = None) -> None:
    """Fit every implementation of a plan; print the cross-validated errors, write the calibration files."""
    parser = argparse.ArgumentParser(prog="python -m reports.fits.kernels", description=main.__doc__)
    parser.add_argument("measurements", type=Path, nargs="+", help="measurement tables, or folders of them")
    parser.add_argument("--output", type=Path, required=True, help="folder of calibration files")
    parser.add_argument("--plan", default=PLAN, help="fit plan, by name")
    parser.add_argument("--only", default="", help="implementations, by name or by parts of names, by comma")
    chosen = parser.parse_args(arguments)
    plan = read(Library(()), "fit_plans", chosen.plan, FitPlanFile)
    catalogue, table = Catalogue(), join([read_tables(path) for path in chosen.measurements])
    repository = {meta: name for path in chosen.measurements for meta, name in repositories(path).items()}
    rooflines = rooflines_of()
    known: dict[str, dict[str, FamilyFit]] = {}
    devices = {name: catalogue.name(name) for name in np.unique(table.text("device").astype(str))}
    of_row = np.array([devices[name] for name in table.text("device")], dtype=np.object_)
    files = {file.name: file for file in plan.implementations}
    for file in plan.implementations:
        if is_chosen(file.name, chosen.only.split(","), files):
            started = time.process_time()
            rows = table.take(of_row == file.device[len(KIND) :])
            own = known.setdefault(file.device, {})
            bare = Calibration(file.name, rooflines)
            siblings = [
                _samples(files[name], plan, table.take(of_row == files[name].device[len(KIND) :]), catalogue, bare)
                for name in file.siblings
            ]
            others = {**_with_nearest(rooflines, own), **_streams(file, rows, catalogue)}
            outcome = fit_implementation(file, plan, rows, catalogue, Calibration(file.name, others), siblings)
            for key, fit in outcome.evidence.fitted.items():
                own.setdefault(key, fit.fit())
            measured = [rows, *(table.take(of_row == files[name].device[len(KIND) :]) for name in file.siblings)]
            used = [
                part.take(rows_of(files[name], part))
                for name, part in zip((file.name, *file.siblings), measured, strict=True)
            ]
            rests_on = tuple(sorted({each for part in used for each in origins(part, repository)}))
            write_calibration(chosen.output / f"{file.name}.yaml", outcome.evidence, replace(PUBLIC, rests_on=rests_on))
            report(outcome, lambda line: sys.stdout.write(f"{line}\n"))
            sys.stdout.write(f"{file.name}: {time.process_time() - started:.0f} s of one core\n")


def is_chosen(name: str, asked: Sequence[str], names: Container[str]) -> bool:
    """Tell whether an implementation is asked for: by its whole name, or by a part that is no other's whole name."""
    return any(part == name or (part not in names and part in name) for part in asked)


def _samples(
    file: ImplementationFile, plan: FitPlanFile, table: Table, catalogue: Catalogue, known: Calibration
) -> Siblings:
    """Return the rows of every family of an implementation."""
    chosen = table.take(rows_of(file, table))
    mapped, _ = map_rows(chosen, catalogue)
    found = {key: samples_of(key, chosen, mapped, plan.recipes[rule], known) for key, rule in file.families.items()}
    return {key: rows for key, rows in found.items() if rows is not None}


def _streams(file: ImplementationFile, rows: Table, catalogue: Catalogue) -> dict[str, FamilyFit]:
    """Return the shipped fits of the streams that rows include, such as rotary embeddings beside attention.

    They are those that `predict` adds to such rows, so that what a core takes is what they leave of the whole.
    """
    mapped, _ = map_rows(rows.take(rows_of(file, rows)), catalogue)
    parts = (operator for part in mapped for operator in part.operators if operator.family == ELEMENTWISE)
    kinds = {f"{ELEMENTWISE}/{each.variant}" if each.variant else ELEMENTWISE for each in parts} - set(file.families)
    kernel = Kernel(*(next(iter(names), "") for names in (file.frameworks, file.kernels, file.timings)))
    family, _, variant = next(iter(file.families)).partition("/")
    found = Chooser(file.device[len(KIND) :]).choose(family, variant, kernel).calibration.families
    return {key: found[key] for key in sorted(kinds) if key in found}


def _with_nearest(rooflines: Mapping[str, FamilyFit], fits: Mapping[str, FamilyFit]) -> dict[str, FamilyFit]:
    """Return what is known of a device so far; streams that were not fitted are priced as their nearest kind."""
    near = next(
        (fits[key] for kind in nearest_variants("elementwise", "") if (key := f"elementwise/{kind}") in fits), None
    )
    return {**rooflines, **({} if near is None else {"elementwise": near}), **fits}


def with_one_thread() -> None:
    """Start the command again with one thread of linear algebra: its sums have one order, and files the same bytes."""
    if any(os.environ.get(name) != "1" for name in _THREADS):
        os.environ.update(dict.fromkeys(_THREADS, "1"))
        os.execv(sys.executable, [sys.executable, "-m", "reports.fits.kernels", *sys.argv[1:]])


if __name__ == "__main__":
    with_one_thread()
    main()
