"""Fits a device's kernels to its own measurement tables, by the plan's default recipes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from costmodel.calibration.fit_files import read
from costmodel.cost.calibration import Calibration
from costmodel.errors import InputError
from costmodel.fitting.run_plan import FEWEST, PLAN, ImplementationFits, MappedRows, fit_families, rooflines_of
from costmodel.fitting.writing import Origin, write_calibration
from costmodel.measurements.exclusions import Exclusion, Screened, screen
from costmodel.measurements.row_group import Catalogue, OperatorRows
from costmodel.measurements.tables import Table, join, read_tables
from costmodel.schema.files import load_device
from costmodel.schema.fit_plan import FitPlanFile, ImplementationFile
from costmodel.schema.references import Library, is_name

SCHEMA = "costmodel/calibration_report@1"


@dataclass(frozen=True, slots=True, eq=False)
class CalibrationRun:
    """What a calibration found, and what it did not.

    too_few: rows of families that have fewer than a fit needs; without_recipe: rows of families that the plan has no
    recipe for; left_out: rows that measure no kernel, with the reason; other_devices: rows that were not asked for;
    kernels: how many different ones, by framework and name, share these fits; inherits: the device whose fits stand in
    for families without.
    """

    outcome: ImplementationFits
    too_few: Mapping[str, int]
    without_recipe: Mapping[str, int]
    left_out: Sequence[Exclusion]
    other_devices: int
    kernels: int
    inherits: str | None

    def document(self) -> dict[str, Any]:
        """Return the report as JSON holds it."""
        evidence = self.outcome.evidence
        return {
            "schema": SCHEMA,
            "name": evidence.file.name,
            "families": [
                {
                    "family": key, "form": fit.recipe.form, "rows": fit.rows, "groups": fit.groups,
                    "held_out": evidence.held_out[key],
                    "mean": {model: errors.mean for model, errors in fit.errors.items()},
                    "median": fit.errors["residual"].median, "bias": fit.errors["residual"].bias,
                }
                for key, fit in evidence.fitted.items()
            ],
            "too_few": dict(self.too_few),
            "without_recipe": dict(self.without_recipe),
            "left_out": [one.document() for one in self.left_out],
            "other_devices": self.other_devices,
        }  # fmt: skip


def calibrate(
    measurements: Sequence[Path], device: str, output: Path, search_path: Sequence[str | Path] = ()
) -> CalibrationRun:
    """Fit every `family/variant` that a device's rows measure, by the default recipes, and write the calibration file.

    Raises InputError where the device is unknown, no row is of it, or no family has enough rows.
    """
    if output.suffix != ".yaml":
        raise InputError.single(f"{output} is no .yaml file", hint="name one, such as torch.yaml", field="--output")
    if not is_name(output.stem):
        hint = "use letters, digits, `.`, `_` and `-`, as files are named by what refers to them"
        raise InputError.single(f"`{output.stem}` cannot be the name of a file here", hint=hint, field="--output")
    plan = read(Library(search_path), "fit_plans", PLAN, FitPlanFile)
    catalogue = Catalogue(search_path)
    chosen = load_device(device, search_path)
    known = chosen.name
    table = join([read_tables(path, otherwise=known) for path in measurements])
    rows = _rows_of(table, known, catalogue)
    found = screen(rows, catalogue)
    defaults = plan.defaults | plan.architectures.get(chosen.architecture, {})
    families, without = default_families(defaults, found.mapped)
    file = _file(known, output, found.rows, families)
    outcome = fit_families(
        file, plan, MappedRows(found.rows, found.mapped), Calibration(file.name, rooflines_of(search_path))
    )
    if not outcome.evidence.fitted:
        raise _nothing_fitted(outcome, without, found)
    made = f"costmodel calibrate {' '.join(path.name for path in measurements)} --device {known} --output {output.name}"
    write_calibration(output, outcome.evidence, Origin(f"measurement tables of {known}", made))
    pairs = set(zip(found.rows.text("framework"), found.rows.text("kernel"), strict=True))
    return CalibrationRun(
        outcome, outcome.skipped, without, found.omissions, len(table) - len(rows), len(pairs),
        catalogue.inherits(known),
    )  # fmt: skip


def default_families(
    defaults: Mapping[str, str], mapped: Sequence[OperatorRows]
) -> tuple[dict[str, str], dict[str, int]]:  # fmt: skip
    """Return the recipe of every `family/variant` that rows measure, and the rows of those without one.

    defaults: family or `family/variant` -> recipe; a kernel without a variant is fitted with all of its family.
    """
    families: dict[str, str] = {}
    without: dict[str, int] = {}
    for part in mapped:
        for variant in {operator.variant for operator in part.operators if operator.family == part.family}:
            key = f"{part.family}/{variant}" if variant else part.family
            recipe = defaults.get(key, defaults.get(part.family))
            if recipe is None:
                without[key] = without.get(key, 0) + len(part.rows)
            else:
                families[key] = recipe
    return dict(sorted(families.items())), dict(sorted(without.items()))


def _rows_of(table: Table, device: str, catalogue: Catalogue) -> Table:
    names = {alias: catalogue.name(alias) for alias in set(table.text("device"))}
    rows = table.take(np.array([names[alias] == device for alias in table.text("device")], dtype=bool))
    if not len(rows):
        hint = f"the tables have {', '.join(sorted(set(names.values())))}"
        raise InputError.single(f"no row is of {device}", hint=hint, field="--device")
    return rows


def _file(device: str, output: Path, rows: Table, families: Mapping[str, str]) -> ImplementationFile:
    frameworks, kernels, timings = (sorted(set(rows.text(name)) - {""}) for name in ("framework", "kernel", "timing"))
    return ImplementationFile.model_construct(
        name=f"{device}/{output.stem}", library=output.stem, device=f"devices/{device}", frameworks=frameworks,
        kernels=kernels, timings=timings, families=dict(families),
    )  # fmt: skip


def _nothing_fitted(outcome: ImplementationFits, without: Mapping[str, int], found: Screened) -> InputError:
    reasons = [f"{key}: {rows} rows" for key, rows in outcome.skipped.items()]
    reasons += [f"{key}: {rows} rows, and no recipe" for key, rows in without.items()]
    reasons += [f"{one.op}: {one.rows} rows left out, {one.reason}" for one in found.omissions]
    return InputError.single(
        f"no kernel has the {FEWEST} rows that a fit needs", hint="; ".join(reasons), field="measurements"
    )
