"""How measured times scatter about the bare cost functions, per operator family: `hardware/calibrations/roofline.yaml`.

python -m reports.fits.roofline MEASUREMENTS --output hardware/calibrations/roofline.yaml
"""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from costmodel import units
from costmodel.calibration.fit_files import DEFAULT_FRAMEWORK, default_framework
from costmodel.fitting.family_fit import roofline_time
from costmodel.fitting.interval_width import groups, spread
from costmodel.measurements.row_group import Catalogue, ExcludedRows
from costmodel.measurements.row_mapping import map_rows
from costmodel.measurements.tables import Table
from costmodel.quantities import Array, Indices
from costmodel.records import Record
from costmodel.workload.scenario import Framework
from reports.fits.measured import CITE, Measured, options, publish

_METHOD = (
    "10, 50 and 90 % points of measured over predicted time, each row with the same weight, both tiers, in groups by "
    "predicted time (below 10 us, 100 us, 1 ms, and above); `time` is the median of the group."
)
_COMMAND = "python -m reports.fits.roofline MEASUREMENTS --output hardware/calibrations/roofline.yaml"


class Ratios(Record):
    """Measured over predicted time of some rows of one family on one device.

    rows: their positions in the table; predicted: their predicted times [s].
    """

    family: str
    device: str
    rows: Indices
    values: Array
    predicted: Array


def measured_over_roofline(
    table: Table, framework: Framework, catalogue: Catalogue
) -> tuple[list[Ratios], list[ExcludedRows]]:
    """Return the ratios of all rows that the package can price, and the rows that it cannot with the reason."""
    mapped, left_out = map_rows(table, catalogue)
    ratios = []
    for one in mapped:
        seconds = np.broadcast_to(roofline_time(one, framework), one.rows.shape)
        ratios.append(Ratios(one.family, one.device.name, one.rows, table.seconds[one.rows] / seconds, seconds))
    return ratios, left_out


def by_family(ratios: Iterable[Ratios]) -> dict[str, list[Ratios]]:
    """Return the ratios of each family, by name."""
    found: dict[str, list[Ratios]] = {}
    for one in ratios:
        found.setdefault(one.family, []).append(one)
    return dict(sorted(found.items()))


def render(ratios: Sequence[Ratios], left_out: Sequence[ExcludedRows]) -> str:
    """Return the text of the calibration file; the same rows give the same bytes."""
    lines = [
        "schema: costmodel/calibration@1", "name: roofline",
        "device: null                                     # no device in particular", "basis: roofline",
        f"frameworks: [{DEFAULT_FRAMEWORK}]",
        "families:                                        # efficiencies are one: the bare cost functions",
    ]  # fmt: skip
    for family, parts in by_family(ratios).items():
        values = np.concatenate([part.values for part in parts])
        seconds = np.concatenate([part.predicted for part in parts])
        lines += [f"  {family}:", "    spread:"]
        for rows in groups(seconds):
            low, median, high = spread(values[rows])
            time = units.render(float(f"{np.median(seconds[rows]):.3g}"), "time")
            points = f"low: {low:g}, median: {median:g}, high: {high:g}, rows: {len(rows)}"
            lines.append(f"      - {{time: {time}, {points}}}")
        low, median, high = spread(values)
        devices = ", ".join(sorted({part.device for part in parts}))
        lines += [
            f"    rows: {len(values)}",
            "    note: >-",
            *_wrapped(f"All rows together: low {low:g}, median {median:g}, high {high:g}. Devices: {devices}."),
        ]
    lines += [
        "sources:", "  - fields: [families]", f'    cite: "{CITE}"', "    kind: measurement", "    note: >-",
        *_wrapped(f"{_METHOD} Made by `{_COMMAND}`. {_left_out_sentence(left_out)}"),
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _wrapped(text: str) -> list[str]:
    """Return the lines of a folded YAML text."""
    return textwrap.wrap(text, 110, initial_indent=" " * 6, subsequent_indent=" " * 6, break_on_hyphens=False)


def _left_out_sentence(left_out: Sequence[ExcludedRows]) -> str:
    total: Counter[str] = Counter()
    for one in left_out:
        total[one.reason] += len(one.rows)
    if not total:
        return "No row is left out."
    return "Rows left out: " + "; ".join(f"{rows}, {reason}" for reason, rows in sorted(total.items())) + "."


def main(arguments: Sequence[str] | None = None) -> None:
    """Compare all rows of a folder of tables with the roofline; write the calibration file."""
    chosen = options("fits.roofline", main, "calibration file").parse_args(arguments)
    table = Measured.read(chosen.measurements).table
    publish(chosen.output, render(*measured_over_roofline(table, default_framework(), Catalogue())))


if __name__ == "__main__":
    main()
