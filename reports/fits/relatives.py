"""What rows of devices say of the fits that they take from a relative: `hardware/calibrations/relatives.yaml`.

python -m reports.fits.relatives MEASUREMENTS --output hardware/calibrations/relatives.yaml

Of each implementation of the device that another one inherits from, and that this one has no file of its own of:

    log(measured / predicted) = sum of launch, compute, memory of its log factor * its share of the time

by robust least squares with a normal prior about one (`PRIOR`). Rows in a row of the table are of one shape but for its
sizes; each fifth of them is left out in turn, which gives the half width of the 80 % interval.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from scipy.optimize import least_squares

from costmodel.calibration.device_chain import CALIBRATIONS
from costmodel.calibration.fit_files import FitStore, default_framework
from costmodel.calibration.fit_lookup import FitLookup
from costmodel.calibration.kernel_anchors import moves, standardised
from costmodel.calibration.row_times import Choice, variant_of
from costmodel.cost.calibration import Calibration
from costmodel.measurements.row_mapping import map_rows
from costmodel.quantities import Array
from costmodel.schema.fit_plan import ImplementationFile
from costmodel.schema.references import Library
from reports.fits.measured import Measured, Origin, device_of, options, publish

COMMAND = "python -m reports.fits.relatives MEASUREMENTS --output hardware/calibrations/relatives.yaml"
FEWEST = 20  # rows of a `family/variant`
FOLDS = 5
PRIOR = 0.2  # chosen: standard deviation of a log factor
NOISE = 0.1  # chosen: of a row's log time about a moved fit, from which on an error counts less than its square
WORTH = 10.0  # chosen: rows of one family that count as independent at most
PARTS = ("launch", "compute", "memory")


def relatives(measured: Measured, store: FitStore) -> dict[str, str]:
    """Return the devices that inherit fits, each with the nearest that it inherits from of which the plan has some."""
    planned, known = set(measured.planned), sorted({device for device in measured.devices.values() if device})
    donors = ((device, next((one for one, _ in store.chain(device)[1:] if one in planned), "")) for device in known)
    return {device: donor for device, donor in donors if donor}


def rows_of(
    file: ImplementationFile, device: str, measured: Measured, store: FitStore
) -> Iterator[tuple[str, Array, Array]]:
    """Yield (`family/variant`, shares of time, log errors) of a relative's implementation on the rows of a device."""
    owner, _, implementation = file.name.partition("/")
    fits, table = store.device_fits(owner, implementation), measured.rows(file, device)
    own = store.device_fits(device, implementation)
    if fits is None or not len(table):
        return
    known, framework = FitLookup(store, device, {}), default_framework(measured.path)
    for part in map_rows(table, measured.catalogue)[0]:
        key = f"{part.family}/{variant_of(part)}"
        fit = fits.fit(key, device) if moves(part) and not (own and key in own.file.families) else None
        if fit is not None and fit.form is not None:
            lent = {key: store.on_device(fit, device, owner)}
            choice = Choice(Calibration(f"{CALIBRATIONS}/{file.name}", ChainMap(lent, known)), "")  # type: ignore[arg-type]
            shares, errors, half = standardised(part, table, choice, framework)
            yield key, shares, errors * half


def factors(shares: Array, logs: Array) -> Array:
    """Return the logs of the factors of launch, compute and memory."""
    each = min(WORTH / len(logs), 1.0) ** 0.5

    def misses(x: Array) -> Array:
        return np.concatenate([each * _soft((logs - shares @ x) / NOISE), x / PRIOR])

    return np.asarray(least_squares(misses, np.zeros(3)).x)


def _soft(misses: Array) -> Array:
    """Return misses whose squares are 2 (sqrt(1 + z^2) - 1), which grow as |z| where these are large."""
    return np.asarray(np.sign(misses) * np.sqrt(2.0 * (np.sqrt(1.0 + misses * misses) - 1.0)))


def half_width(shares: Array, logs: Array) -> float:
    """Return half of the 80 % interval of rows that were left out, a fifth at a time, in the order of the table."""
    fold = np.arange(len(logs)) * FOLDS // len(logs)
    misses = np.empty(len(logs))
    for each in range(FOLDS):
        out = fold == each
        misses[out] = logs[out] - shares[out] @ factors(shares[~out], logs[~out])
    return float(np.quantile(np.abs(misses), 0.8))


def lines(measured: Measured, store: FitStore) -> Iterator[str]:
    """Yield the lines of all devices."""
    for device, relative in relatives(measured, store).items():
        found: dict[str, dict[str, list[tuple[Array, Array]]]] = {}
        for file in measured.plan.implementations:
            if device_of(file) == relative and file.name.startswith(f"{relative}/"):
                for key, shares, logs in rows_of(file, device, measured, store):
                    by_key = found.setdefault(file.name.partition("/")[2], {})
                    by_key.setdefault(key, []).append((shares, logs))
        text = [line for name, by_key in sorted(found.items()) for line in _implementation(name, by_key)]
        if text:
            yield from (f"  {device}:", f"    of: {relative}", "    fits:", *text)


def _implementation(name: str, by_key: dict[str, list[tuple[Array, Array]]]) -> Iterator[str]:
    """Yield the lines of one implementation, nothing where no family has enough rows."""
    text = []
    for key, parts in by_key.items():
        shares, logs = (np.concatenate(side) for side in zip(*parts, strict=True))
        if len(logs) >= FEWEST:
            stated = dict(zip(PARTS, np.exp(factors(shares, logs)), strict=True))
            stated["half_width"] = half_width(shares, logs)
            values = ", ".join(f"{part}: {value:.3g}" for part, value in stated.items())
            text.append(f"        {key}: {{{values}, rows: {len(logs)}}}")
    return iter([f"      {name}:", *text] if text else [])


def main(arguments: Sequence[str] | None = None) -> None:
    """Fit the factors of all devices that inherit fits; write and print the file."""
    chosen = options("fits.relatives", main, "calibration file").parse_args(arguments)
    measured = Measured.read(chosen.measurements)
    store = FitStore(Library(()))
    text = ["schema: costmodel/relatives@1", "name: relatives", "devices:", *lines(measured, store)]
    note = (f"Rows of a device over the fits of the one that it inherits from. Made by `{COMMAND}`.",)
    publish(Path(chosen.output), "\n".join([*text, *Origin(note, rests_on=measured.rests_on).lines("devices")]) + "\n")


if __name__ == "__main__":
    main()
