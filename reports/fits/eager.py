"""What share of the memory bandwidth PyTorch's own kernels reach: `hardware/calibrations/DEVICE/eager.yaml`.

python -m reports.fits.eager MEASUREMENTS --output hardware/calibrations/a100-pcie-40gb/eager.yaml
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from costmodel import units
from costmodel.fitting.interval_width import spread
from costmodel.measurements.row_group import Catalogue
from costmodel.measurements.row_mapping import map_rows
from costmodel.measurements.tables import Table, read_tables
from costmodel.quantities import Array
from costmodel.records import Record
from costmodel.schema.whole_files import write_whole
from costmodel.workload.operators import Elementwise

DEVICE = "a100-pcie-40gb"
FRAMEWORK = "torch 2.1 cu121"
KINDS = ("add", "activation", "norm", "softmax")
LARGE = 5.0  # times L2: smaller working sets may stay there, and launches count


class Streams(Record):
    """Rows of one kind of kernel. share: traffic / (time * B_memory); seconds: measured [s]."""

    share: Array
    seconds: Array


def streams(table: Table, catalogue: Catalogue) -> Mapping[str, Streams]:
    """Return, by kind, the rows of the framework on the device whose bytes are many times what L2 holds."""
    wanted = (table.text("framework") == FRAMEWORK) & (table.text("op") == "elementwise")
    chosen = table.take(np.flatnonzero(wanted))
    mapped, _ = map_rows(chosen, catalogue)
    found: dict[str, list[Streams]] = {}
    for part in mapped:
        kernel = part.operators[0]
        if part.device.name != DEVICE or not isinstance(kernel, Elementwise) or kernel.kind not in KINDS:
            continue
        cache, bandwidth = part.device.level("l2"), part.device.device_memory.bandwidth
        assert cache is not None and bandwidth is not None, "the device's file states both"  # noqa: PT018
        large = kernel.traffic > LARGE * cache.capacity
        seconds = chosen.seconds[part.rows]
        share = kernel.traffic / (seconds * bandwidth)
        found.setdefault(kernel.kind, []).append(Streams(share[large], seconds[large]))
    return {
        kind: Streams(*(np.concatenate([getattr(one, name) for one in parts]) for name in ("share", "seconds")))
        for kind, parts in sorted(found.items())
    }


def render(found: Mapping[str, Streams]) -> str:
    """Return the text of the calibration file; the same rows give the same bytes."""
    families = "\n".join(_family(kind, rows) for kind, rows in found.items())
    return f"""\
schema: costmodel/calibration@1
name: {DEVICE}/eager
device: devices/{DEVICE}
library: eager
basis: fitted
frameworks: []                                   # single operators of PyTorch, as training programs start them
families:
{families}
sources:
  - fields: [families]
    cite: "NeuSight, measured kernel times of {FRAMEWORK}, as listed in sources.csv beside the tables"
    kind: measurement
    rests_on: [sitar-lab/NeuSight]
    note: >-
      Median share of the memory bandwidth over shapes of at least {LARGE:g} times the L2 capacity, FP32. Made by
      `python -m reports.fits.eager MEASUREMENTS --output hardware/calibrations/{DEVICE}/eager.yaml`.
"""


def _family(kind: str, rows: Streams) -> str:
    """Return the lines of one kind: the median share, and how the rows scatter about it."""
    share = float(f"{np.median(rows.share):.3g}")
    low, median, high = spread(share / rows.share)
    time = units.render(float(f"{np.median(rows.seconds):.3g}"), "time")
    return f"""\
  elementwise/{kind}:
    hbm_efficiency: {100 * share:g} %
    spread:
      - {{time: {time}, low: {low:g}, median: {median:g}, high: {high:g}, rows: {len(rows.share)}}}
    rows: {len(rows.share)}"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Take the shares from a folder of measurement tables; write the calibration file."""
    parser = argparse.ArgumentParser(prog="python -m reports.fits.eager", description=main.__doc__)
    parser.add_argument("measurements", type=Path, help="folder of measurement tables")
    parser.add_argument("--output", type=Path, required=True, help="calibration file to write")
    chosen = parser.parse_args(arguments)
    text = render(streams(read_tables(chosen.measurements), Catalogue()))
    write_whole(chosen.output, [text.encode()])
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
