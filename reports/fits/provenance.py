"""Writes into every calibration file of the plan what its fits rest on: the repositories of its rows.

python -m reports.fits.provenance MEASUREMENTS workloads/published/deepep.csv --output hardware/calibrations

`reports.fits.kernels` writes the same when it fits; this one fits nothing.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence

import numpy as np

from costmodel.calibration.fit_files import BACKWARD, EFFECTS, PRIOR, ROOFLINE, SOURCES
from costmodel.calibration.kernel_anchors import SHARED
from costmodel.errors import InputError
from costmodel.fitting.run_plan import PLAN
from costmodel.schema.whole_files import write_whole
from reports.fits.measured import Measured, options, origins


def main(arguments: Sequence[str] | None = None) -> None:
    """Write `rests_on` into the calibration files of a plan, and into those that all tables make."""
    asked = options("fits.provenance", main, "folder of calibration files", plan=PLAN)
    chosen = asked.parse_args(arguments)
    for name, found in rests_on(Measured.read(chosen.measurements, plan=chosen.plan)).items():
        path = chosen.output / f"{name}.yaml"
        if path.is_file():
            field = "common" if name == SHARED else "families"
            write_whole(path, [stated(path.read_text(encoding="utf-8"), field, found).encode()])
            sys.stdout.write(f"{name}: {', '.join(found)}\n")


def rests_on(measured: Measured) -> dict[str, list[str]]:
    """Return calibration file -> what its fits rest on."""
    table, known = measured.table, measured.repository
    rows = {file.name: measured.rows(file) for file in measured.plan.implementations}
    found = {
        file.name: sorted({each for name in (file.name, *file.siblings) for each in origins(rows[name], known)})
        for file in measured.plan.implementations
    }
    whole = origins(table, known)
    backward = table.take(np.isin(table.text("op").astype(str), ["attention_backward"]))
    of_all = dict.fromkeys((EFFECTS, PRIOR, ROOFLINE, SOURCES, SHARED), whole)
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
