"""How kernels scatter about the form that stands in for theirs: `hardware/calibrations/transferred.yaml`.

python -m costmodel.calibration.transfer MEASUREMENTS --output hardware/calibrations/transferred.yaml
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from costmodel import units
from costmodel.calibration.batch import Catalogue, Mapped
from costmodel.calibration.load import STANDING_IN, Shelf
from costmodel.calibration.operators import map_rows
from costmodel.calibration.roofline import default_framework, spread
from costmodel.calibration.tables import Table, read_tables
from costmodel.cost.calibration import Form
from costmodel.quantities import Array
from costmodel.schema.references import Library

_COMMAND = "python -m costmodel.calibration.transfer MEASUREMENTS --output hardware/calibrations/transferred.yaml"


def ratios(family: str, table: Table, mapped: list[Mapped], shelf: Shelf) -> tuple[Array, Array]:
    """Return (predicted times [s], measured over predicted) of a family's rows.

    Every row counts once for each implementation of the family that stands in, on the row's device or, where that has
    none, on the nearest that it inherits from.
    """
    instead, framework = STANDING_IN[family], default_framework()
    predicted: list[Array] = []
    measured: list[Array] = []
    for part in mapped:
        (operator,) = part.operators
        for fit in _fits(f"{instead}/{operator.variant}", instead, part.device.name, shelf):
            predicted.append(np.asarray(fit.time(operator, part.machine(framework)).seconds))
            measured.append(table.seconds[part.rows])
    times = np.concatenate(predicted)
    return times, np.concatenate(measured) / times


def _fits(key: str, family: str, device: str, shelf: Shelf) -> list[Form]:
    for owner, _ in shelf.chain(device):
        held = [shelf.held(owner, name) for name in shelf.names(owner)]
        found = [each.fit(key, owner) or each.fit(family, owner) for each in held if each is not None]
        forms = [fit.form for fit in found if fit is not None and fit.form is not None]
        if forms:
            return list(forms)
    return []


def render(table: Table, catalogue: Catalogue, shelf: Shelf) -> str:
    """Return the text of the calibration file; the same rows give the same bytes."""
    mapped, _ = map_rows(table, catalogue)
    lines = [
        "schema: costmodel/calibration@1",
        "name: transferred",
        "device: null                                     # no device in particular",
        "basis: transferred",
        "families:                                        # about the form of the family that stands in",
    ]
    for family, instead in STANDING_IN.items():
        parts = [part for part in mapped if part.family == family]
        times, values = ratios(family, table, parts, shelf)
        low, median, high = spread(values)
        time = units.render(float(f"{np.median(times):.3g}"), "time")
        rows = sum(len(part.rows) for part in parts)
        devices = ", ".join(sorted({part.device.name for part in parts}))
        lines += [
            f"  {family}:",
            "    spread:",
            f"      - {{time: {time}, low: {low:g}, median: {median:g}, high: {high:g}, rows: {len(values)}}}",
            f"    rows: {len(values)}",
            f"    note: {rows} rows of {devices}, each about the form of {instead} of every library fitted there.",
        ]
    lines += [
        "sources:",
        "  - fields: [families]",
        '    cite: "measured kernel times of public repositories, as listed in sources.csv beside the tables"',
        "    kind: measurement",
        f"    note: 10, 50 and 90 % points of measured over predicted time. Made by `{_COMMAND}`.",
    ]
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> None:
    """Hold rows of families that others stand in for against the forms of those; write the calibration file."""
    parser = argparse.ArgumentParser(prog="python -m costmodel.calibration.transfer", description=main.__doc__)
    parser.add_argument("measurements", type=Path, help="folder of measurement tables")
    parser.add_argument("--output", type=Path, required=True, help="calibration file to write")
    chosen = parser.parse_args(arguments)
    text = render(read_tables(chosen.measurements), Catalogue(), Shelf(Library(())))
    chosen.output.write_text(text, encoding="utf-8")
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
