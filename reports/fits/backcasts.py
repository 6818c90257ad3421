"""How far the rows of a device are predicted without its own fits: medians, and what their intervals hold.

python -m reports.fits.backcasts MEASUREMENTS --table PAGE

A device is hidden by itself (others of its die stay), or with all devices of its architecture. Everything else is what
`predict` does for a device without rows. `--path` names a folder whose prior and step errors were made without the
hidden architecture: `reports.fits.prior` and `reports.fits.effects` take `--without`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from costmodel.calibration.fit_files import default_framework
from costmodel.calibration.fit_selection import Chooser, Kernel
from costmodel.calibration.row_times import Choice, times_of, variant_of
from costmodel.measurements.row_group import OperatorRows
from costmodel.measurements.tables import Table
from costmodel.quantities import Array
from costmodel.records import Record
from costmodel.schema.fit_plan import ImplementationFile
from reports.fits.effects import OWN_KIND
from reports.fits.measured import KIND, Measured, options, publish
from reports.fits.prior import FAMILIES

DIE = ("h100-sxm", "h200-sxm", "h800-sxm", "a800-sxm-80gb")
BALANCE = ("h20",)
NEW = "blackwell"
COMMAND = "python -m reports.fits.backcasts MEASUREMENTS --path WITHOUT --table PAGE"


class Found(Record):
    """Of one `family/variant` of a device: logs of measured over predicted time, of low and of high over predicted."""

    key: str
    device: str
    logs: Array
    low: Array
    high: Array

    @property
    def median(self) -> float:
        """Return the median of |log|."""
        return float(np.median(np.abs(self.logs)))

    @property
    def inside(self) -> float:
        """Return the share of rows inside their intervals."""
        return float(np.mean((self.logs >= self.low) & (self.logs <= self.high)))

    @property
    def factor(self) -> float:
        """Return the median factor that half of an interval is wide."""
        return float(np.exp(np.median(self.high - self.low) / 2.0))


class Backcasts(Measured):
    """Measured rows beside what `predict` says of them while the fits of some devices are hidden."""

    def backcast(self, device: str, hidden: frozenset[str]) -> Iterator[Found]:
        """Yield the errors of every `family/variant` of a device while the fits of some are hidden."""
        chooser = Chooser(device, self.path, hidden)
        found: dict[str, list[tuple[Array, Array, Array]]] = {}
        for file in self.plan.implementations:
            if file.device == KIND + device:
                for key, logs in self._of(file, chooser):
                    found.setdefault(key, []).append(logs)
        for key, parts in sorted(found.items()):
            yield Found(key, device, *(np.concatenate(side) for side in zip(*parts, strict=True)))

    def _of(self, file: ImplementationFile, chooser: Chooser) -> Iterator[tuple[str, tuple[Array, Array, Array]]]:
        framework = default_framework(self.path)
        for key, part, rows, choice in self.chosen(file, chooser):
            middle, low, high = times_of(part, choice, framework)
            measured = rows.seconds[part.rows]
            yield key, (np.log(measured / middle), np.log(low / middle), np.log(high / middle))

    def chosen(self, file: ImplementationFile, chooser: Chooser) -> Iterator[tuple[str, OperatorRows, Table, Choice]]:
        """Yield (family/variant, operators, their table, fits that answer) of the rows of an implementation."""
        rows, mapped = self.parts(file)
        for part in mapped:
            key = f"{part.family}/{variant_of(part)}"
            is_own = file.library == OWN_KIND and part.family.startswith("attention")
            if part.family in FAMILIES and not is_own and {key, part.family} & set(file.families):
                said = (str(rows.text(column)[part.rows[0]]) for column in ("framework", "kernel", "timing"))
                yield key, part, rows, chooser.choose(part.family, variant_of(part), Kernel(*said))


def together_of(key: str, cases: Sequence[Found]) -> Found:
    """Return the errors of several devices as one."""
    sides = zip(*((one.logs, one.low, one.high) for one in cases), strict=True)
    return Found(key, "all", *(np.concatenate(side) for side in sides))


def lines_of(title: str, cases: Sequence[Found]) -> list[str]:
    """Return a table of the page: rows by `family/variant`, all devices together, then by device."""
    lines = [
        "", f"## {title}", "", "| kernels | device | rows | median of abs(log) | inside 80 % | half as wide as |",
        "|---|---|---|---|---|---|",
    ]  # fmt: skip
    rows = [together_of("all kernels", cases)]
    for key in dict.fromkeys(one.key for one in sorted(cases, key=lambda one: one.key)):
        own = [one for one in cases if one.key == key]
        rows += [*own, *([together_of(key, own)] if len(own) > 1 else [])]
    for one in rows:
        shown = f"{100 * one.median:.0f} % | {100 * one.inside:.0f} % | {one.factor:.2f}"
        lines.append(f"| {one.key} | {one.device} | {len(one.logs)} | {shown} |")
    return lines


def main(arguments: Sequence[str] | None = None) -> None:
    """Predict the rows of devices whose fits are hidden; write the page."""
    asked = options("fits.backcasts", main, table=Path("backcasts.md"), every=16, path=[])
    chosen = asked.parse_args(arguments)
    known = Backcasts.read(chosen.measurements, chosen.every)
    apart = Backcasts(known.table, known.plan, chosen.path)
    new = known.of_architectures(NEW)
    one_by_one = [each for name in DIE for each in known.backcast(name, frozenset({name}))]
    balance = [each for name in BALANCE for each in known.backcast(name, frozenset({name}))]
    without = [each for name in known.planned if name in new for each in apart.backcast(name, new)]
    lines = [
        "# Predicting devices without their fits", "", f"Made by `{COMMAND} --every {chosen.every}`.", "",
        "Rows of a device predicted as `predict` does for one without any, while its fits are hidden.",
        "`half as wide as`: the median factor from a prediction to an end of its 80 % interval.",
        *lines_of("Without the device, others of its die known", one_by_one),
        *lines_of("Without the device, of another balance of peak and bandwidth", balance),
        *lines_of("Without all devices of Blackwell", without),
    ]  # fmt: skip
    publish(chosen.table, "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
