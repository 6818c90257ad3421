"""Which shipped fits no longer predict the rows that they were made from.

python -m reports.fits.own_rows MEASUREMENTS

A fit is made beside others: streams that rows include, links of a device, choices of the lookup. Where one of these
has changed since, `predict` is off on the very rows of the fit. Lists each `family/variant` of a calibration file whose
rows are missed by more on one side than half of what it states as its held-out error; exits with 1 where there is any.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence

import numpy as np

from costmodel.calibration.effects import held_out_error
from costmodel.calibration.fit_files import FitStore, default_framework
from costmodel.calibration.fit_selection import Chooser, Kernel
from costmodel.calibration.row_times import times_of, variant_of
from costmodel.quantities import Array
from costmodel.schema.fit_plan import ImplementationFile
from costmodel.schema.references import Library
from reports.fits.measured import Measured, device_of, options

FEW = 8  # rows from which on a median says something
LEAST = 0.05  # of log(measured / predicted): nothing is called stale below


def logs_of(file: ImplementationFile, measured: Measured) -> dict[str, Array]:
    """Return log(measured / predicted) of the rows of a calibration file, by `family/variant`."""
    device, framework = device_of(file), default_framework(())
    rows, mapped = measured.parts(file)
    chooser, found = Chooser(device), dict[str, list[Array]]()
    for part in mapped:
        key = f"{part.family}/{variant_of(part)}".rstrip("/")
        if not {key, part.family} & set(file.families):
            continue
        said = (str(rows.text(column)[part.rows[0]]) for column in ("framework", "kernel", "timing"))
        choice = chooser.choose(part.family, variant_of(part), Kernel(*said))
        found.setdefault(key, []).append(np.log(rows.seconds[part.rows] / times_of(part, choice, framework)[0]))
    return {key: np.concatenate(parts) for key, parts in found.items()}


def stale(measured: Measured) -> Iterator[str]:
    """Yield a line for each family of a file that is off on its own rows."""
    store = FitStore(Library(()))
    for file in measured.plan.implementations:
        fits = store.device_fits(device_of(file), file.name.partition("/")[2])
        for key, logs in (logs_of(file, measured) if fits is not None else {}).items():
            families = fits.file.families if fits is not None else {}
            fit = families.get(key, families.get(key.partition("/")[0]))
            bias, stated = float(np.median(logs)), 0.0 if fit is None else held_out_error(fit)
            if fit is not None and len(logs) >= FEW and abs(bias) > max(stated / 2.0, LEAST):
                yield f"{file.name:32} {key:40} {len(logs):5d} rows, {100 * bias:+.1f} %, stated {100 * stated:.1f} %"


def main(arguments: Sequence[str] | None = None) -> int:
    """Predict the rows of every shipped fit; list those that are off."""
    chosen = options("fits.own_rows", main, every=4).parse_args(arguments)
    found = list(stale(Measured.read(chosen.measurements, chosen.every)))
    sys.stdout.write("".join(f"{line}\n" for line in found) or "every fit predicts its own rows\n")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
