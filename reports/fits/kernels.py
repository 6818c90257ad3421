"""Makes the shipped calibration files: runs a fit plan over measurement tables.

python -m reports.fits.kernels MEASUREMENTS workloads/published/deepep.csv --output hardware/calibrations
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Container, Iterator, Mapping, Sequence

from costmodel.calibration.candidates import ELEMENTWISE, nearest_variants
from costmodel.calibration.fit_selection import Chooser, Kernel
from costmodel.cost.calibration import Calibration, FamilyFit
from costmodel.fitting.run_plan import PLAN, ImplementationFits, MappedRows, fit_families, rooflines_of
from costmodel.fitting.writing import PUBLIC, write_calibration
from costmodel.measurements.row_group import Catalogue
from costmodel.measurements.row_mapping import map_rows
from costmodel.measurements.tables import Table
from costmodel.records import replace
from costmodel.schema.fit_plan import ImplementationFile
from reports.fits.measured import Measured, device_of, options, origins, rows_of

_THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")


def main(arguments: Sequence[str] | None = None) -> None:
    """Fit every implementation of a plan; print the cross-validated errors, write the calibration files."""
    asked = options("fits.kernels", main, "folder of calibration files", plan=PLAN, only="")
    chosen = asked.parse_args(arguments)
    measured = Measured.read(chosen.measurements, plan=chosen.plan)
    plan, catalogue = measured.plan, measured.catalogue
    rooflines = rooflines_of()
    known: dict[str, dict[str, FamilyFit]] = {}
    files = {file.name: file for file in plan.implementations}
    for file in plan.implementations:
        if is_chosen(file.name, chosen.only.split(","), files):
            started = time.process_time()
            rows = measured.table.take(measured.is_of(device_of(file)))
            own = known.setdefault(file.device, {})
            bare = Calibration(file.name, rooflines)
            others_of = [files[name] for name in file.siblings]
            siblings = [dict(measured.samples(each, bare)) for each in others_of]
            others = {**_with_nearest(rooflines, own), **_streams(file, rows, catalogue)}
            mine = rows.take(rows_of(file, rows))
            mapped, left_out = map_rows(mine, catalogue)
            outcome = fit_families(
                file, plan, MappedRows(mine, mapped, siblings), Calibration(file.name, others), left_out
            )
            for key, fit in outcome.evidence.fitted.items():
                own.setdefault(key, fit.fit())
            used = [measured.rows(each) for each in (file, *others_of)]
            rests_on = tuple(sorted({each for part in used for each in origins(part, measured.repository)}))
            write_calibration(chosen.output / f"{file.name}.yaml", outcome.evidence, replace(PUBLIC, rests_on=rests_on))
            sys.stdout.writelines(f"{line}\n" for line in _lines(outcome))
            sys.stdout.write(f"{file.name}: {time.process_time() - started:.0f} s of one core\n")


def _lines(outcome: ImplementationFits) -> Iterator[str]:
    """Yield the errors of an implementation's fits."""
    yield outcome.evidence.file.name
    for key, fit in outcome.evidence.fitted.items():
        errors = {name: f"{100 * error.mean:5.1f}" for name, error in fit.errors.items()}
        best = fit.errors["residual"]
        yield (
            f"  {key:28} {fit.rows:6} rows {fit.groups:5} groups   roofline {errors['roofline']}  "
            f"shape only {errors['shape_only']}  form {errors['form']}  residual {errors['residual']} %  "
            f"median {100 * best.median:5.1f} %  bias {100 * best.bias:+5.1f} %"
        )
    for key, rows in outcome.skipped.items():
        yield f"  {key:28} {rows:6} rows: too few, not fitted"


def is_chosen(name: str, asked: Sequence[str], names: Container[str]) -> bool:
    """Tell whether an implementation is asked for: by its whole name, or by a part that is no other's whole name."""
    return any(part == name or (part not in names and part in name) for part in asked)


def _streams(file: ImplementationFile, rows: Table, catalogue: Catalogue) -> dict[str, FamilyFit]:
    """Return the shipped fits of the streams that rows include, such as rotary embeddings beside attention.

    They are those that `predict` adds to such rows, so that what a core takes is what they leave of the whole.
    """
    mapped, _ = map_rows(rows.take(rows_of(file, rows)), catalogue)
    parts = (operator for part in mapped for operator in part.operators if operator.family == ELEMENTWISE)
    kinds = {f"{ELEMENTWISE}/{each.variant}" if each.variant else ELEMENTWISE for each in parts} - set(file.families)
    kernel = Kernel(*(next(iter(names), "") for names in (file.frameworks, file.kernels, file.timings)))
    family, _, variant = next(iter(file.families)).partition("/")
    found = Chooser(device_of(file)).choose(family, variant, kernel).calibration.families
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
