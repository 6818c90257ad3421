"""What share of the forward kernels' rate backward attention reaches: `hardware/calibrations/backward.yaml`.

python -m costmodel.calibration.backward MEASUREMENTS --output hardware/calibrations/backward.yaml
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from costmodel import units
from costmodel.calibration.roofline import spread
from costmodel.calibration.tables import Table, read_tables
from costmodel.quantities import Array
from costmodel.schema.whole_files import write_whole

FAMILY = "attention_backward"
_SHAPE = ("batch", "q_heads", "kv_heads", "head_dim", "v_head_dim", "q_len", "kv_len")
_KERNEL = ("device", "framework", "dtype_in", "causal")


@dataclass(frozen=True, slots=True, eq=False)
class Pairs:
    """Backward rows whose forward core the same source timed on the same device.

    devices: by pair; share: FLOP rate of the backward kernel over that of the forward one; seconds: backward [s];
    latent: where keys are wider than values, as in MLA.
    """

    devices: tuple[str, ...]
    share: Array
    seconds: Array
    latent: npt.NDArray[np.bool_]


def pairs(table: Table) -> Pairs:
    """Return the backward rows beside their forward ones.

        share = (3*q + 2*v) / (q + v) * t_forward / t_backward

    since a backward core recomputes the scores: 3*q + 2*v multiply-adds a pair of query and key, and a forward one has
    q + v. Rows without a time have no share.
    """
    rows = np.flatnonzero(np.isfinite(table.seconds))
    of = {name: rows[table.text("op")[rows] == name] for name in ("attention_prefill", FAMILY)}
    forward = {_key(table, row): table.seconds[row] for row in of["attention_prefill"]}
    both = [row for row in of[FAMILY] if _key(table, row) in forward]
    backward = table.seconds[both]
    q, v = table.number("head_dim")[both], table.number("v_head_dim")[both]
    share = (3 * q + 2 * v) / (q + v) * np.array([forward[_key(table, row)] for row in both]) / backward
    return Pairs(tuple(str(device) for device in table.text("device")[both]), share, backward, q > v)


def _key(table: Table, row: np.intp) -> tuple[object, ...]:
    """Return what a backward row and its forward one have in common."""
    return (*(table.text(name)[row] for name in _KERNEL), *(table.number(name)[row] for name in _SHAPE))


def render(found: Pairs) -> str:
    """Return the text of the calibration file; the same rows give the same bytes."""
    devices = ", ".join(sorted(set(found.devices)))
    families = "\n".join(
        _family(name, found.share[rows], found.seconds[rows])
        for name, rows in (("attention_backward", ~found.latent), ("mla_backward", found.latent))
        if rows.any()
    )
    return f"""\
schema: costmodel/calibration@1
name: backward
device: null                                     # no device in particular
basis: fitted
families:                                        # over the forward fit of the device at hand
{families}
sources:
  - fields: [families]
    cite: "backward attention kernels of public repositories, as listed in sources.csv beside the tables"
    kind: measurement
    note: >-
      Rows of {devices}; on any other device the shares are transferred. Median over shapes whose forward core the same
      source timed as well. Made by `python -m costmodel.calibration.backward MEASUREMENTS --output
      hardware/calibrations/backward.yaml`.
"""


def _family(name: str, shares: Array, seconds: Array) -> str:
    """Return the lines of one family: the median share, and how the rows scatter about it."""
    share = float(f"{np.median(shares):.3g}")
    low, median, high = spread(share / shares)
    time = units.render(float(f"{np.median(seconds):.3g}"), "time")
    return f"""\
  {name}:
    compute: {100 * share:g} %                              # of the forward kernels' rate
    spread:
      - {{time: {time}, low: {low:g}, median: {median:g}, high: {high:g}, rows: {len(shares)}}}
    rows: {len(shares)}"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Compare the backward rows of a folder of tables with their forward ones; write the calibration file."""
    parser = argparse.ArgumentParser(prog="python -m costmodel.calibration.backward", description=main.__doc__)
    parser.add_argument("measurements", type=Path, help="folder of measurement tables")
    parser.add_argument("--output", type=Path, required=True, help="calibration file to write")
    chosen = parser.parse_args(arguments)
    text = render(pairs(read_tables(chosen.measurements)))
    write_whole(chosen.output, [text.encode()])
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
