"""What share of the forward kernels' rate backward attention reaches: `hardware/calibrations/backward.yaml`.

python -m reports.fits.backward_attention MEASUREMENTS --output hardware/calibrations/backward.yaml
python -m reports.fits.backward_attention MEASUREMENTS hardware/calibrations/h100-sxm/fa3-backward.csv \
    --device h100-sxm --cite SOURCE --output hardware/calibrations/h100-sxm/backward.yaml
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Hashable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.optimize import least_squares

from costmodel import units
from costmodel.errors import InputError
from costmodel.fitting.interval_width import spread
from costmodel.measurements.row_group import Catalogue
from costmodel.measurements.tables import Table, join, read_tables
from costmodel.quantities import Array
from costmodel.records import Record
from costmodel.schema.whole_files import write_whole

FAMILY = "attention_backward"
LENGTHS = 3  # how many numbers of keys tell the share of long sequences from what a query costs
_LENGTHS = ("q_len", "kv_len")
_SHAPE = ("batch", "q_heads", "kv_heads", "head_dim", "v_head_dim", *_LENGTHS)
_KERNEL = ("device", "framework", "dtype_in", "causal")


class Pairs(Record):
    """Backward rows whose forward core the same source timed on the same device.

    devices: by pair; share: FLOP rate of the backward kernel over that of the forward one; seconds: backward [s];
    latent: where keys are wider than values, as in MLA; keys: that a query sees in the mean; one_key: what one key
    more of every query adds to the forward time, over that time.
    """

    devices: tuple[str, ...]
    share: Array
    seconds: Array
    latent: npt.NDArray[np.bool_]
    keys: Array
    one_key: Array

    def of(self, rows: npt.NDArray[np.bool_]) -> Pairs:
        """Return some of the pairs."""
        devices = tuple(device for device, row in zip(self.devices, rows, strict=True) if row)
        share, seconds, latent, keys = self.share[rows], self.seconds[rows], self.latent[rows], self.keys[rows]
        return Pairs(devices, share, seconds, latent, keys, self.one_key[rows])


class Share(Record):
    """The fitted share of the forward rate: compute / (1 + query * one_key).

    compute: of long sequences; query: keys that a query costs beside those it sees; low, median, high, error: of
    measured over predicted time, and its mean distance from one.
    """

    compute: float
    query: float
    low: float
    median: float
    high: float
    error: float


def pairs(table: Table) -> Pairs:
    """Return the backward rows beside their forward ones.

        share = (3*q + 2*v) / (q + v) * t_forward / t_backward

    since a backward core recomputes the scores: 3*q + 2*v multiply-adds a pair of query and key, and a forward one has
    q + v. Rows without a time have no share. One key more costs what it does in the longest forward row of the kernel:

        one_key = q_len * t_longest / (q_len_longest * keys_longest) / t_forward
    """
    rows = np.flatnonzero(np.isfinite(table.seconds))
    of = {name: rows[table.text("op")[rows] == name] for name in ("attention_prefill", FAMILY)}
    forward = {_key(table, row): table.seconds[row] for row in of["attention_prefill"]}
    both = [row for row in of[FAMILY] if _key(table, row) in forward]
    backward = table.seconds[both]
    q, v = table.number("head_dim")[both], table.number("v_head_dim")[both]
    share = (3 * q + 2 * v) / (q + v) * np.array([forward[_key(table, row)] for row in both]) / backward
    queries, keys = table.number("q_len")[both], table.number("kv_len")[both]
    seen = np.where(table.text("causal")[both] == "1", keys - (queries - 1) / 2, keys)
    kernels = [_key(table, row)[: -len(_LENGTHS)] for row in both]
    one_key = _one_key(kernels, queries, seen, np.array([forward[_key(table, row)] for row in both]))
    devices = tuple(str(device) for device in table.text("device")[both])
    return Pairs(devices, share, backward, q > v, seen, one_key)


def _one_key(kernels: Sequence[Hashable], queries: Array, keys: Array, seconds: Array) -> Array:
    """Return what one key more of every query adds to each forward time, over that time."""
    longest: dict[Hashable, tuple[float, float]] = {}  # of a kernel: keys, and seconds of a key and a query
    for kernel, length, each in zip(kernels, keys, seconds / (queries * keys), strict=True):
        longest[kernel] = max(longest.get(kernel, (0.0, 0.0)), (float(length), float(each)))
    return np.array([longest[kernel][1] for kernel in kernels]) * queries / seconds


def _key(table: Table, row: np.intp) -> tuple[object, ...]:
    """Return what a backward row and its forward one have in common."""
    return (*(table.text(name)[row] for name in _KERNEL), *(table.number(name)[row] for name in _SHAPE))


def fit(found: Pairs) -> Share:
    """Return the share that the pairs show.

        share = compute / (1 + query * one_key)

    A backward kernel sums dO*O in a pass before it, clears, adds up and converts dQ in FP32 [FlashAttention-2, arXiv
    2307.08691, section 3.1]: work of a query, not of a pair. Rows of fewer than LENGTHS numbers of keys do not tell the
    two apart: query is zero there.
    """
    compute, query = float(np.median(found.share)), 0.0
    if len(np.unique(found.keys)) >= LENGTHS:

        def residuals(logs: Array) -> Array:
            return np.asarray(logs[0] - np.log1p(np.exp(logs[1]) * found.one_key) - np.log(found.share))

        solved = least_squares(residuals, [0.0, np.log(np.median(found.keys) / 2)], loss="soft_l1", f_scale=0.05)
        compute, query = (float(each) for each in np.exp(solved.x))
    return _share(found, compute, query)


def _share(found: Pairs, compute: float, query: float) -> Share:
    """Return a share as it is written, and how the rows scatter about it."""
    compute, query = float(f"{compute:.3g}"), float(f"{query:.3g}")
    ratio = compute / (1 + query * found.one_key) / found.share
    return Share(compute, query, *spread(ratio), float(np.mean(np.abs(1 / ratio - 1))))


def render(found: Pairs, device: str | None, files: str) -> str:
    """Return the text of the calibration file; the same rows give the same bytes.

    device: the file is of its kernels alone. Without latent rows of its own they are, against the others, what they are
    on the devices that have both.
    """
    own = found if device is None else found.of(_on(found, device))
    if not len(own.share):
        raise InputError.single(f"no table has a backward core of {device}", field="--device")
    other = found if device is None else found.of(~_on(found, device))
    parts = {name: own.of(own.latent == latent) for name, latent in ((FAMILY, False), ("mla_backward", True))}
    families = {name: (fit(part), part, "") for name, part in parts.items() if len(part.share)}
    if "mla_backward" not in families and other.latent.any():
        ratio = float(np.median(other.share[other.latent]) / np.median(other.share[~other.latent]))
        plain, part, _ = families[FAMILY]
        shown = _share(part, plain.compute, plain.query)
        note = f"no rows here: {ratio:.3g} times the rate of the others, as on {', '.join(sorted(set(other.devices)))}"
        wide = Share(
            float(f"{plain.compute * ratio:.3g}"), plain.query, shown.low, shown.median, shown.high, plain.error
        )
        families["mla_backward"] = (wide, part, note)
    return _document(device, own, families, files)


def _on(found: Pairs, device: str) -> npt.NDArray[np.bool_]:
    """Return which pairs are of a device file."""
    catalogue = Catalogue()
    return np.array([catalogue.name(each) == device for each in found.devices])


def _document(device: str | None, own: Pairs, families: dict[str, tuple[Share, Pairs, str]], files: str) -> str:
    text = "\n".join(_family(name, *each) for name, each in families.items())
    where = (
        "null                                     # no device in particular" if device is None else f"devices/{device}"
    )
    transfer = "on any other device the shares are transferred" if device is None else "those of this device alone"
    devices = ", ".join(sorted(set(own.devices)))
    return f"""\
schema: costmodel/calibration@1
name: {"backward" if device is None else f"{device}/backward"}
device: {where}
basis: fitted
families:                                        # over the forward fit of the device at hand
{text}
sources:
  - fields: [families]
    cite: "{files}"
    kind: measurement
    note: >-
      Rows of {devices}; {transfer}. Of shapes whose forward core the same source timed as
      well. Made by `python -m reports.fits.backward_attention`.
"""


def _family(name: str, share: Share, found: Pairs, note: str) -> str:
    """Return the lines of one family: the share, and how the rows scatter about it."""
    time = units.render(float(f"{np.median(found.seconds):.3g}"), "time")
    points = (
        f"time: {time}, low: {share.low:g}, median: {share.median:g}, high: {share.high:g}, rows: {len(found.share)}"
    )
    extra = f"    extra_keys_per_query: {share.query:g}".ljust(49) + "# keys that a query costs beside those it sees\n"
    rate = f"    backward_rate: {100 * share.compute:.3g} %"
    return f"""\
  {name}:
{rate.ljust(49)}# of the forward kernels' rate
{extra if share.query else ""}    spread:
      - {{{points}}}
    rows: {0 if note else len(found.share)}""" + (f'\n    note: "{note}"' if note else "")


def main(arguments: Sequence[str] | None = None) -> None:
    """Compare the backward rows of tables with their forward ones; write the calibration file."""
    parser = argparse.ArgumentParser(prog="python -m reports.fits.backward_attention", description=main.__doc__)
    parser.add_argument("measurements", type=Path, nargs="+", help="folders of measurement tables, or single tables")
    parser.add_argument("--device", help="the device file that the shares are of (default: none in particular)")
    parser.add_argument(
        "--cite",
        default="backward attention kernels of public repositories, as listed in sources.csv beside the tables",
        help="where the rows of the device come from",
    )
    parser.add_argument("--output", type=Path, required=True, help="calibration file to write")
    chosen = parser.parse_args(arguments)
    found = pairs(join([read_tables(each) for each in chosen.measurements]))
    text = render(found, chosen.device, chosen.cite)
    write_whole(chosen.output, [text.encode()])
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
