"""How far a fit misses groups of rows that it has not seen, one by one: of a width, a number of ranks, a model.

python -m reports.fits.left_out MEASUREMENTS a800-sxm-80gb/cublas-vllm gemm/bf16 --by n,k

Cross-validation of a plan holds out five parts, or single shapes where a family has few groups. This leaves out each
value of some columns alone and fits form and residual to all other rows of the implementation. Writes no file.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from costmodel.calibration.fit_files import read
from costmodel.cost.calibration import Calibration
from costmodel.fitting.family_fit import predict_groups
from costmodel.fitting.run_plan import FEWEST, KIND, PLAN, recipe_of, rooflines_of, rows_of, samples_of
from costmodel.measurements.row_group import Catalogue
from costmodel.measurements.row_mapping import map_rows
from costmodel.measurements.tables import NUMBERS, read_tables
from costmodel.quantities import Array
from costmodel.records import Record
from costmodel.schema.fit_plan import FitPlanFile
from costmodel.schema.references import Library


class LeftOut(Record):
    """One value of the columns. errors: predicted over measured time of its rows, less one."""

    name: str
    errors: Array

    def __str__(self) -> str:
        mean, median = 100.0 * float(np.abs(self.errors).mean()), 100.0 * float(np.median(np.abs(self.errors)))
        bias = 100.0 * float(np.median(self.errors))
        rows = f"{self.name:28} {len(self.errors):6} rows"
        return f"{rows}   mean {mean:5.1f} %   median {median:5.1f} %   bias {bias:+5.1f} %"


def left_out(measurements: Path, implementation: str, key: str, columns: Sequence[str]) -> Iterator[LeftOut]:
    """Yield the errors of each group of rows, predicted from all others."""
    plan = read(Library(()), "fit_plans", PLAN, FitPlanFile)
    (file,) = (each for each in plan.implementations if each.name == implementation)
    catalogue, table = Catalogue(), read_tables(measurements)
    device = file.device[len(KIND) :]
    table = table.take(np.array([catalogue.known(name) == device for name in table.text("device").astype(str)]))
    rows = table.take(rows_of(file, table))
    mapped, _ = map_rows(rows, catalogue)
    rule = plan.recipes[file.families[key]]
    samples = samples_of(key, rows, mapped, rule, Calibration(file.name, rooflines_of()))
    if samples is None:
        raise SystemExit(f"no rows of {key} for {implementation} in {measurements}")
    places = np.concatenate([part.rows for part in samples.parts])
    values = [[f"{value:g}" for value in rows.number(name)[places]] for name in columns]
    names = np.array([" x ".join(row) for row in zip(*values, strict=True)], dtype=np.object_)
    for name in np.unique(names):
        held_out = names == name
        if int((~held_out).sum()) >= FEWEST:
            found = predict_groups(samples.take(~held_out), samples.take(held_out), recipe_of(rule))
            yield LeftOut(str(name), np.expm1(-found.log_errors))


def main(arguments: Sequence[str] | None = None) -> None:
    """Leave out each group of a family's rows and print the errors of its predictions."""
    parser = argparse.ArgumentParser(prog="python -m reports.fits.left_out", description=main.__doc__)
    parser.add_argument("measurements", type=Path, help="folder of measurement tables")
    parser.add_argument("implementation", help="of the fit plan, by name")
    parser.add_argument("key", help="family/variant")
    parser.add_argument("--by", required=True, help=f"columns that name a group, by comma: {', '.join(NUMBERS)}")
    chosen = parser.parse_args(arguments)
    groups = []
    for group in left_out(chosen.measurements, chosen.implementation, chosen.key, chosen.by.split(",")):
        sys.stdout.write(f"{group}\n")
        groups.append(group)
    if groups:
        sys.stdout.write(f"{LeftOut('all', np.concatenate([group.errors for group in groups]))}\n")


if __name__ == "__main__":
    main()
