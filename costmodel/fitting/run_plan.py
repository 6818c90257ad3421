"""Fits the families of an implementation to measurement tables, as a fit plan says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from costmodel import units
from costmodel.calibration.fit_files import FitStore, default_framework, family_fit
from costmodel.cost.calibration import Calibration, FamilyFit
from costmodel.cost.form_registry import FORMS
from costmodel.cost.parameter import declarations, freeze
from costmodel.fitting.family_fit import FOLDS, FamilyFitResult, Recipe, fit_family
from costmodel.fitting.samples import Groups, Samples
from costmodel.fitting.writing import Evidence
from costmodel.measurements.row_group import ExcludedRows, OperatorRows
from costmodel.measurements.tables import NUMBERS, Table
from costmodel.quantities import Indices
from costmodel.records import Record, replace
from costmodel.schema.fit_plan import FitPlanFile, ImplementationFile, RecipeFile
from costmodel.schema.references import Library

PLAN = "public"
FEWEST = 20  # rows of a family, those of siblings too, below which nothing is fitted
SHAPE = "shape"  # what cross-validation holds out where a plan's groups are fewer than its folds

Siblings: TypeAlias = "Mapping[str, Samples]"


class ImplementationFits(Record):
    """The fits of one implementation with their evidence; skipped: families with too few rows."""

    evidence: Evidence
    left_out: Sequence[ExcludedRows]
    skipped: Mapping[str, int]


class MappedRows(Record):
    """Measured rows with their operators; siblings: rows of the same kernels elsewhere, by family."""

    table: Table
    mapped: Sequence[OperatorRows]
    siblings: Sequence[Siblings] = ()


def fit_families(
    file: ImplementationFile,
    plan: FitPlanFile,
    rows: MappedRows,
    known: Calibration,
    left_out: Sequence[ExcludedRows] = (),
) -> ImplementationFits:
    """Return the fits of a file's families to some rows.

    Families whose rows hold kernels of others as well are fitted after them, with what was determined of those.
    """
    fitted: dict[str, FamilyFitResult] = {}
    companions: dict[str, FamilyFit] = {}
    samples: dict[str, Samples] = {}
    held_out: dict[str, str] = {}
    skipped: dict[str, int] = {}
    for key in sorted(file.families, key=lambda key: _kinds(key, rows.mapped)):
        rule = plan.recipes[file.families[key]]
        fits = {name: fit.fit() for name, fit in fitted.items()}
        others = Calibration(known.name, {**known.families, **companions, **fits})
        rows_of_key = samples_of(key, rows.table, rows.mapped, rule, others)
        siblings = tuple(each[key] for each in rows.siblings if key in each)
        if rows_of_key is None or sum(map(len, (rows_of_key, *siblings))) < (rule.fewest or FEWEST):
            skipped[key] = 0 if rows_of_key is None else len(rows_of_key)
            continue
        held_out[key] = " x ".join(rule.held_out)
        if len(np.unique(rows_of_key.groups)) < FOLDS:
            rows_of_key, held_out[key] = replace(rows_of_key, groups=_shapes(rows.table, rows_of_key)), SHAPE
        samples[key] = replace(rows_of_key, siblings=siblings)
        recipe = recipe_of(rule)
        if recipe.companion in companions:  # fitted in the rows of an earlier family
            recipe = replace(recipe, companion="")
        fitted[key] = fit_family(samples[key], recipe)
        companion = fitted[key].companion
        companions |= {} if companion is None else companion.fits()
    ordered = {key: fitted[key] for key in file.families if key in fitted}
    return ImplementationFits(Evidence(file, ordered, samples, held_out), left_out, skipped)


def _kinds(key: str, mapped: Sequence[OperatorRows]) -> int:
    """Return how many families the rows of a family hold, at most."""
    family = key.partition("/")[0]
    own = (part for part in mapped if part.family == family)
    return max((len({operator.family for operator in part.operators}) for part in own), default=0)


def samples_of(
    key: str, table: Table, mapped: Sequence[OperatorRows], rule: RecipeFile, known: Calibration
) -> Samples | None:
    """Return the rows that measure a family. None where there are none."""
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
    """Return a recipe as the fit takes it. Raises InputError where a constant has a wrong unit."""
    known = declarations(FORMS[rule.form])
    constants = {name: _constant(value, known[name].kind.dimension) for name, value in rule.constants.items()}
    return Recipe(rule.form, constants, tuple(rule.terms), rule.companion or "")


def _constant(value: Any, dimension: str | None) -> Any:
    return freeze(value) if dimension is None or not isinstance(value, str) else units.parse(value, dimension)


def _groups(table: Table, rows: Indices, columns: Sequence[str]) -> Groups:
    values = [[f"{value:g}" for value in table.number(name)[rows]] for name in columns]
    return np.array(["x".join(row) for row in zip(*values, strict=True)], dtype=np.object_)


def _shapes(table: Table, samples: Samples) -> Groups:
    return _groups(table, np.concatenate([part.rows for part in samples.parts]), NUMBERS)


def rooflines_of(search_path: Sequence[str | Path] = ()) -> dict[str, FamilyFit]:
    """Return what a device is timed with of which nothing is known."""
    base = FitStore(Library(search_path)).roofline()
    return {family: family_fit(fit, base.basis) for family, fit in base.families.items()}
