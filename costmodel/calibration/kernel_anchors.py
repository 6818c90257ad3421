"""Reads the few measured rows of a device that move what others lend it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from costmodel.calibration.device_chain import CALIBRATIONS
from costmodel.calibration.fit_files import default_framework, read
from costmodel.calibration.row_times import Choice, times_of, variant_of
from costmodel.cost.anchored_fit import KERNELS, KernelAnchors, SharedErrors, half_width, time_shares
from costmodel.cost.calibration import Calibration, FamilyFit
from costmodel.cost.operator_time import operator_time
from costmodel.errors import InputError
from costmodel.measurements.row_group import Catalogue, OperatorRows
from costmodel.measurements.row_mapping import map_rows
from costmodel.measurements.tables import Table, read_tables
from costmodel.quantities import Array
from costmodel.schema.calibration import KernelAnchorsFile
from costmodel.schema.references import FOLDERS, Library, display_path, is_name
from costmodel.workload.scenario import Framework

SHARED = "kernel_anchors"  # calibrations/kernel_anchors: how errors of a fit go together
_FIELD = "calibration.anchor"


def read_anchors(
    library: Library, device: str, name: str, donor_fits: Mapping[str, FamilyFit]
) -> Mapping[str, KernelAnchors]:
    """Return the rows of a device's table by the `family/variant` that they move.

    donor_fits: those that they move. Raises InputError where the table is missing, has rows of another device, or rows
    that move no fit.
    """
    path = _find(library, device, name)
    catalogue = Catalogue(library.roots, only=(device,))
    table = read_tables(path, otherwise=device)
    unknown = sorted({alias for alias in table.text("device").astype(str) if catalogue.known(alias) is None})
    if unknown:
        raise InputError.single(
            f"{display_path(path)} has rows of {', '.join(unknown)}",
            field=_FIELD,
            hint=f"leave rows of {device} alone in it",
        )  # fmt: skip
    mapped, left_out = map_rows(table, catalogue)
    if left_out or not mapped:
        reasons = "; ".join(f"{one.op}: {one.reason}" for one in left_out) or "it has no rows"
        raise InputError.single(
            f"{display_path(path)} cannot move a fit: {reasons}", field=_FIELD, hint="remove these rows"
        )
    source = f"{CALIBRATIONS}/{device}/{name}"
    return anchors_of(table, mapped, Calibration(source, donor_fits), shared_errors(library), source)


def anchors_of(
    table: Table, mapped: list[OperatorRows], donor_fits: Calibration, shared: SharedErrors, source: str
) -> dict[str, KernelAnchors]:
    """Return rows of one device by the `family/variant` that they move. donor_fits: those fits."""
    framework, choice = default_framework(), Choice(donor_fits, "")
    scores: dict[str, list[tuple[Array, Array]]] = {}
    for part in mapped:
        if not moves(part):
            raise InputError.single(
                f"{source}: rows of {part.family} are messages, which move no fit", field=_FIELD,
                hint="give `costmodel calibrate` enough of them for a fit",
            )  # fmt: skip
        key = "/".join(filter(None, (part.family, variant_of(part))))
        scores.setdefault(key, []).append(standardised(part, table, choice, framework)[:2])
    machine = mapped[0].machine(framework)
    anchors = {}
    for key, parts in scores.items():
        shares, errors = (np.concatenate(side) for side in zip(*parts, strict=True))
        anchors[key] = KernelAnchors.of(shares, errors, shared, machine, source)
    return anchors


def moves(part: OperatorRows) -> bool:
    """Tell whether rows move a fit: those of kernels do, messages do not."""
    operators = _named(part)
    return bool(operators) and all(isinstance(each, KERNELS) for each in operators)


def standardised(part: OperatorRows, table: Table, choice: Choice, framework: Framework) -> tuple[Array, Array, Array]:
    """Return the shares of launch, compute and memory in rows' time, (rows, 3), log(measured / predicted) over half of
    the interval of the donor's fit, and that half, (rows,): of several kernels the mean by their times.
    """
    machine, operators = part.machine(framework), _named(part)
    whole: Any = 0.0
    halves: Any = 0.0
    for operator in operators:
        fit = choice.calibration.fit(operator)
        time = operator_time(operator, machine, part.cluster, fit)
        whole, halves = whole + time.seconds, halves + time.seconds * half_width(fit, operator, time)
    logs = np.log(table.seconds[part.rows] / times_of(part, choice, framework)[0])
    half = np.broadcast_to(halves / whole, logs.shape)
    return np.broadcast_to(time_shares(operators, machine), (*logs.shape, 3)), logs / half, half


def _named(part: OperatorRows) -> list[Any]:
    return [each for each in part.operators if each.family == part.family]


def shared_errors(library: Library) -> SharedErrors:
    """Return how errors of a fit at two kernels go together."""
    file = read(library, CALIBRATIONS, SHARED, KernelAnchorsFile, SHARED)
    return SharedErrors(*(float(getattr(file, name)) for name in ("common", "launch", "compute", "memory", "own")))


def _find(library: Library, device: str, name: str) -> Path:
    folders = [root / FOLDERS[CALIBRATIONS] / CALIBRATIONS / device for root in library.roots] if is_name(name) else []
    places = [folder / f"{name}.csv" for folder in folders]
    path = next((file for file in places if file.is_file()), None)
    if path is None:
        raise InputError.single(
            f"devices/{device} names `{name}`, but there is no {CALIBRATIONS}/{device}/{name}.csv", field=_FIELD,
            hint="put the table into hardware/calibrations/DEVICE of a folder on the search path",
        )  # fmt: skip
    return path
