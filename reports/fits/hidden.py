"""How far rows are predicted while the fit of their kernels, or all fits of their device, are hidden, each in turn.

python -m reports.fits.hidden MEASUREMENTS --every 16

Prints rows, mean and median of |predicted / measured - 1|, and the share inside 80 % intervals: of all kernels and of
each `family/variant` of implementations that are hidden by themselves, by whether another kernel of their device
answers or a fit of another device; of each device that is hidden. Effects and prior stay as they are shipped.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from costmodel.calibration.fit_files import default_framework
from costmodel.calibration.fit_lookup import FitLookup
from costmodel.calibration.fit_selection import Chooser
from costmodel.calibration.row_times import Choice, times_of
from costmodel.quantities import Array
from reports.fits.backcasts import Backcasts
from reports.fits.measured import device_of, options

ANOTHER, ELSEWHERE = "another kernel of the device", "no rows of that kernel on the device"
DEVICE = "the device hidden"


def found(here: Backcasts, *, whole_devices: bool) -> Iterator[tuple[str, str, Array]]:
    """Yield (class, `family/variant` or device, times) of rows. times: measured, predicted, low, high, (4, rows) [s].

    whole_devices: hide all fits of a device, else those of one implementation.
    """
    framework = default_framework(here.path)
    for file in here.plan.implementations:
        device = device_of(file)
        chooser = Chooser(device, here.path, frozenset({device if whole_devices else file.name}))
        for key, part, rows, choice in here.chosen(file, chooser):
            times = np.array([rows.seconds[part.rows], *times_of(part, choice, framework)])
            yield (DEVICE, device, times) if whole_devices else (_answers(choice, key, device), key, times)


def _answers(choice: Choice, key: str, device: str) -> str:
    """Return whether another kernel of a device answers for a key."""
    fits = choice.calibration.families
    considered = fits.considered(key) if isinstance(fits, FitLookup) else ()
    return ANOTHER if considered and considered[-1].device == device else ELSEWHERE


def lines(rows: Mapping[tuple[str, str], Sequence[Array]]) -> Iterator[str]:
    """Yield a line for each class and for each part of it."""
    classes = dict.fromkeys(kind for kind, _ in rows)
    for kind in classes:
        own = {name: parts for (each, name), parts in rows.items() if each == kind}
        for name, parts in {"all": [one for each in own.values() for one in each], **dict(sorted(own.items()))}.items():
            measured, predicted, low, high = np.concatenate(parts, axis=1)
            off, inside = np.abs(predicted / measured - 1.0), (measured >= low) & (measured <= high)
            said = f"mean {off.mean():6.1%}  median {np.median(off):6.1%}  inside {inside.mean():4.0%}"
            yield f"{kind:38} {name:40} {len(off):6} rows  {said}\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Predict rows without the fit of their kernels, and without those of their device; print the errors."""
    asked = options("fits.hidden", main, every=16)
    chosen = asked.parse_args(arguments)
    here = Backcasts.read(chosen.measurements, chosen.every)
    for whole_devices in (False, True):
        rows: dict[tuple[str, str], list[Array]] = {}
        for kind, name, times in found(here, whole_devices=whole_devices):
            rows.setdefault((kind, name), []).append(times)
        sys.stdout.writelines(lines(rows))


if __name__ == "__main__":
    main()
