"""Writes into every calibration file of the plan what its fits rest on: the repositories of its rows.

python -m reports.fits.provenance MEASUREMENTS workloads/published/deepep.csv --output hardware/calibrations

`reports.fits.kernels` writes the same when it fits; this one fits nothing.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from costmodel.calibration.fit_files import BACKWARD, PRIOR, ROOFLINE, SOURCES, TRANSFER, read
from costmodel.calibration.kernel_anchors import SHARED
from costmodel.errors import InputError
from costmodel.fitting.run_plan import KIND, PLAN, rows_of
from costmodel.measurements.origins import origins, repositories
from costmodel.measurements.row_group import Catalogue
from costmodel.measurements.tables import Table, join, read_tables
from costmodel.schema.fit_plan import FitPlanFile
from costmodel.schema.references import Library
from costmodel.schema.whole_files import write_whole


def main(arguments: Sequence[str] | None = None) -> None:
    """Write `rests_on` into the calibration files of a plan, and into those that all tables make."""
    parser = argparse.ArgumentParser(prog="python -m reports.fits.provenance", description=main.__doc__)
    parser.add_argument("measurements", type=Path, nargs="+", help="measurement tables, or folders of them")
    parser.add_argument("--output", type=Path, required=True, help="folder of calibration files")
    parser.add_argument("--plan", default=PLAN, help="fit plan, by name")
    chosen = parser.parse_args(arguments)
    plan = read(Library(()), "fit_plans", chosen.plan, FitPlanFile)
    table = join([read_tables(path) for path in chosen.measurements])
    known = {meta: name for path in chosen.measurements for meta, name in repositories(path).items()}
    for name, found in rests_on(plan, table, known).items():
        path = chosen.output / f"{name}.yaml"
        if path.is_file():
            field = "common" if name == SHARED else "families"
            write_whole(path, [stated(path.read_text(encoding="utf-8"), field, found).encode()])
            sys.stdout.write(f"{name}: {', '.join(found)}\n")


def rests_on(plan: FitPlanFile, table: Table, known: dict[str, str]) -> dict[str, list[str]]:
    """Return calibration file -> what its fits rest on."""
    catalogue = Catalogue()
    devices = {name: catalogue.name(name) for name in np.unique(table.text("device").astype(str))}
    of_row = np.array([devices[name] for name in table.text("device")], dtype=np.object_)
    own = {
        file.name: table.take(of_row == file.device[len(KIND) :]) for file in plan.implementations
    }  # fmt: skip
    rows = {file.name: own[file.name].take(rows_of(file, own[file.name])) for file in plan.implementations}
    found = {
        file.name: sorted({each for name in (file.name, *file.siblings) for each in origins(rows[name], known)})
        for file in plan.implementations
    }
    whole = origins(table, known)
    backward = table.take(np.isin(table.text("op").astype(str), ["attention_backward"]))
    of_all = dict.fromkeys((PRIOR, ROOFLINE, SOURCES, TRANSFER, SHARED), whole)
    return found | of_all | {BACKWARD: origins(backward, known)}


def sourced_fields(text: str) -> list[list[str]]:
    """Return the fields that each entry of a file's `sources` covers."""
    found = re.findall(r"^  - fields: \[([^\]]*)\]", text, re.MULTILINE)
    return [[field.strip() for field in fields.split(",")] for fields in found]


def stated(text: str, field: str, ids: Sequence[str], key: str = "rests_on") -> str:
    """Return the text of a file in which the source of a field says what that rests on.

    Raises InputError where no entry of `sources` covers the field.
    """
    lines, entry, is_field = text.splitlines(), -1, False
    for number, line in enumerate(lines):
        if line.startswith("  - fields:"):
            entry = number
            is_field = re.search(rf"[\[ ,]{re.escape(field)}[\], ]", line) is not None
        if is_field and line.startswith("    kind:"):
            break
    else:
        raise InputError.single(f"no source of `{field}`", field="sources", hint="add one with `fields` and `kind`")
    assert entry >= 0
    at = number + 1
    end = next((each for each in range(at, len(lines)) if lines[each].startswith(("  - ", "    note"))), len(lines))
    kept = [line for line in lines[at:end] if not line.startswith(f"    {key}:")]
    return "\n".join([*lines[:at], f"    {key}: [{', '.join(ids)}]", *kept, *lines[end:], ""])


if __name__ == "__main__":
    main()
