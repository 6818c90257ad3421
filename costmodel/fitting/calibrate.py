"""Fits a device's kernels to its own measurement tables, by the plan's default recipes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from costmodel.calibration.fit_files import default_framework, read
from costmodel.calibration.kernel_anchors import moves
from costmodel.calibration.row_times import variant_of
from costmodel.cost.calibration import Calibration, FamilyFit
from costmodel.errors import InputError, Location, MeasurementError, Problem
from costmodel.fitting.run_plan import FEWEST, PLAN, ImplementationFits, MappedRows, fit_families, rooflines_of
from costmodel.fitting.writing import Origin, write_calibration
from costmodel.hardware import Device
from costmodel.measurements.exclusions import Exclusion, Screened, screen
from costmodel.measurements.row_group import Catalogue, OperatorRows
from costmodel.measurements.screening import slowness
from costmodel.measurements.tables import Table, join, read_tables, text_of, timed_for
from costmodel.quantities import Indices, Seconds
from costmodel.records import Record, ValueRecord, field, replace
from costmodel.schema.files import load_device, load_document
from costmodel.schema.fit_plan import FitPlanFile, ImplementationFile
from costmodel.schema.references import Library, is_name
from costmodel.schema.whole_files import make_folder, write_whole

SCHEMA = "costmodel/calibration_report@1"
_JSON_NAMES = {"shape_only": "data"}  # of the document, whose keys other programs read


class CalibrationRun(Record):
    """What a calibration fitted, and what it did not.

    too_few: rows of families that have fewer than a fit needs.
    without_recipe: rows of families that the plan has no recipe for.
    left_out: rows that measure no kernel, with the reason.
    other_devices: rows that were not asked for.
    kernels: how many different ones, by framework and name, share these fits.
    inherits: the device whose fits stand in for families without.
    backends: runs of the same rows' other backends, by the file that each has written.
    anchors: table of rows that are too few for a fit and move those transferred from other devices, none without any.
    moved: their number by family.
    """

    outcome: ImplementationFits
    too_few: Mapping[str, int]
    without_recipe: Mapping[str, int]
    left_out: Sequence[Exclusion]
    other_devices: int
    kernels: int
    inherits: str | None
    backends: Mapping[Path, CalibrationRun] = field(default_factory=dict)
    anchors: Path | None = None
    moved: Mapping[str, int] = field(default_factory=dict)

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
                    "mean": {_JSON_NAMES.get(model, model): errors.mean for model, errors in fit.errors.items()},
                    "median": fit.errors["residual"].median, "bias": fit.errors["residual"].bias,
                }
                for key, fit in evidence.fitted.items()
            ],
            "too_few": dict(self.too_few),
            "anchors": dict(self.moved),
            "without_recipe": dict(self.without_recipe),
            "left_out": [one.document() for one in self.left_out],
            "other_devices": self.other_devices,
            "backends": {path.name: run.document() for path, run in self.backends.items()},
        }  # fmt: skip


def calibrate(
    measurements: Sequence[Path],
    device: str,
    output: Path,
    search_path: Sequence[str | Path] = (),
    framework: str | None = None,
) -> CalibrationRun:
    """Fit every `family/variant` that a device's rows measure, by the default recipes, and write the calibration file.

    Where the rows of one `family/variant` are of several backends of a library, the file has the one with the most
    rows, and every other one a file of its own next to it, named `OUTPUT-BACKEND.yaml`: their times differ at equal
    sizes. Kernels that have too few rows for a fit stand in `OUTPUT.csv`: named as the device's anchor, they move and
    narrow the fits transferred from other devices. framework: whose engine replays graphs or does not, which says which
    time of a row counts (`timings.timed_for`); none: one that does not. Raises InputError where device or framework is
    unknown, no row is of the device, or no row is of use.
    """
    if output.suffix != ".yaml":
        raise InputError.single(f"{output} is no .yaml file", hint="name one, such as torch.yaml", field="--output")
    if not is_name(output.stem):
        hint = "use letters, digits, `.`, `_` and `-`, as files are named by what refers to them"
        raise InputError.single(f"`{output.stem}` cannot be the name of a file here", hint=hint, field="--output")
    catalogue = Catalogue(search_path)
    chosen = load_device(device, search_path)
    plan = read(Library(search_path), "fit_plans", PLAN, FitPlanFile)
    table = join([read_tables(path, otherwise=chosen.name) for path in measurements])
    rows = timed_for(_rows_of(table, chosen.name, catalogue), graphs=_replays_graphs(framework, search_path))
    screened = screen(rows, catalogue)
    _check_units(screened, default_framework(search_path).launch)
    parts = by_backend(screened)
    tables = [path.name for path in measurements]
    fitter = _Fitter(chosen, plan, tables, catalogue, rooflines_of(search_path), framework)
    first = screen(parts.pop(""), catalogue)
    run = fitter.fit(first, output)
    few, moved = _too_few(first, run.outcome.skipped)
    if not run.outcome.evidence.fitted and not moved:
        reasons = [f"{key}: {rows} rows" for key, rows in run.outcome.skipped.items()]
        reasons += [f"{key}: {rows} rows, and no recipe" for key, rows in run.without_recipe.items()]
        reasons += [f"{one.op}: {one.rows} rows left out, {one.reason}" for one in screened.omissions]
        raise InputError.single(
            f"no kernel has the {FEWEST} rows that a fit needs", hint="; ".join(reasons), field="measurements"
        )
    anchors = output.with_suffix(".csv") if moved else None
    if anchors is not None:
        _write_anchors(anchors, measurements, few)
    runs = {output: run} | {
        path: fitter.fit(screen(some, catalogue), path)
        for backend, some in parts.items()
        for path in [output.with_name(f"{output.stem}-{backend}.yaml")]
    }
    fitted = {path: one for path, one in runs.items() if one.outcome.evidence.fitted}
    for path, one in fitted.items():
        write_calibration(path, one.outcome.evidence, fitter.origin(path))
    others = {path: one for path, one in fitted.items() if path != output}
    return replace(
        run, left_out=screened.omissions, other_devices=len(table) - len(rows), backends=others,
        anchors=anchors, moved=moved,
    )  # fmt: skip


def _replays_graphs(framework: str | None, search_path: Sequence[str | Path]) -> bool:
    """Tell whether a framework's engine captures graphs: its file states for how many sequences."""
    if framework is None:
        return False
    engine = load_document("frameworks", framework.removeprefix("frameworks/"), search_path)["engine"]
    return bool(engine and engine["graph_sizes"])


def _check_units(screened: Screened, launch: Seconds) -> None:
    """Raise MeasurementError where the times of a file are nearer to what its kernels need in another unit."""
    for file, (ratio, rows) in slowness(screened.mapped, screened.rows, launch).items():
        thousands = round(math.log(ratio, 1e3))
        if not thousands:
            continue
        unit = {-2: "seconds", -1: "milliseconds", 1: "nanoseconds"}.get(thousands, "another unit")
        many = f"{ratio:,.0f} times" if ratio > 1.0 else f"one {1.0 / ratio:,.0f}th of"
        message = (
            f"the median of {rows:,} kernels takes {many} what its device needs for launch, arithmetic and traffic"
        )
        hint = f"these seem to be {unit}: write microseconds"
        raise MeasurementError([Problem(Location(file), "time_us", message, hint)])


def _too_few(screened: Screened, skipped: Mapping[str, int]) -> tuple[Table, dict[str, int]]:
    """Return the rows of kernels that have too few for a fit, and their number by `family/variant`."""
    parts: dict[str, list[Indices]] = {}
    for part in screened.mapped:
        key = "/".join(filter(None, (part.family, variant_of(part))))
        if key in skipped and moves(part):
            parts.setdefault(key, []).append(part.rows)
    rows = np.sort(np.concatenate([each for some in parts.values() for each in some] or [np.array([], dtype=np.intp)]))
    return screened.rows.take(rows), {key: sum(map(len, some)) for key, some in parts.items()}


def _write_anchors(path: Path, measurements: Sequence[Path], rows: Table) -> None:
    """Write rows that move fits. Raises InputError where that would replace a table that they come from."""
    if any(path.resolve() == each.resolve() for each in measurements):
        raise InputError.single(
            f"{path} is itself a table of measurements, and rows that are too few for a fit go there", field="--output",
            hint="name another file",
        )  # fmt: skip
    make_folder(path.parent)
    write_whole(path, [text_of(rows).encode("utf-8")])


def by_backend(screened: Screened) -> dict[str, Table]:
    """Return the rows that share fits.

    Under "" those of each `family/variant`'s most measured backend. Under a backend's name those that it has besides.
    """
    backends = screened.rows.text("backend")
    members: dict[str, list[Indices]] = {}
    for part in screened.mapped:
        variant = next((one.variant for one in part.operators if one.family == part.family), "")
        members.setdefault(f"{part.family}/{variant}", []).append(part.rows)
    label = np.full(len(screened.rows), "", dtype=np.object_)
    for parts in members.values():
        indices = np.concatenate(parts)
        names, counts = np.unique(backends[indices].astype(str), return_counts=True)
        main = names[np.argmax(counts)]
        label[indices] = np.where(backends[indices] == main, "", backends[indices])
    return {name: screened.rows.take(label == name) for name in sorted({"", *label.tolist()})}


class _Fitter(ValueRecord):
    """Fits tables of one device by the default recipes.

    tables: names of the measurement files.
    framework: whose times they are, none where nobody asked for one.
    """

    device: Device
    plan: FitPlanFile
    tables: Sequence[str]
    catalogue: Catalogue
    rooflines: Mapping[str, FamilyFit]
    framework: str | None

    def fit(self, screened: Screened, output: Path) -> CalibrationRun:
        """Return the fits of a table for a file that is not written yet."""
        name = self.device.name
        defaults = self.plan.defaults | self.plan.architectures.get(self.device.architecture, {})
        families, without = default_families(defaults, screened.mapped)
        file = _file(name, output, screened.rows, families)
        rows = MappedRows(screened.rows, screened.mapped)
        outcome = fit_families(file, self.plan, rows, Calibration(file.name, self.rooflines))
        pairs = set(zip(screened.rows.text("framework"), screened.rows.text("kernel"), strict=True))
        return CalibrationRun(
            outcome=outcome, too_few=outcome.skipped, without_recipe=without, left_out=screened.omissions,
            other_devices=0, kernels=len(pairs), inherits=self.catalogue.inherits(name),
        )  # fmt: skip

    def origin(self, output: Path) -> Origin:
        command = f"costmodel calibrate {' '.join(self.tables)} --device {self.device.name} --output {output.name}"
        if self.framework is not None:
            command += f" --framework {self.framework}"
        return Origin(f"measurement tables of {self.device.name}", command, tuple(map(str, self.tables)))


def default_families(
    defaults: Mapping[str, str], mapped: Sequence[OperatorRows]
) -> tuple[dict[str, str], dict[str, int]]:  # fmt: skip
    """Return the recipe of every `family/variant` that rows measure, and the rows of those without one.

    defaults: family or `family/variant` -> recipe. A kernel without a variant is fitted with all of its family.
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
