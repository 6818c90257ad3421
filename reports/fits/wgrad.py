"""Weight-gradient kernels of block-scaled FP8: the fit of DeepGEMM's published rates, and of the kernels before them.

python -m reports.fits.wgrad hardware/calibrations/h800-sxm/deepgemm-wgrad.csv --output hardware/calibrations

Both operands of such a product carry vectors of scales, and its sums are read and written in FP32. No measurement table
has them; DeepSeek published the rates of those that replaced the ones of V3's training, and how much faster they are.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.optimize import least_squares

from costmodel.calibration.fit_files import default_framework
from costmodel.cost.gemm import GemmForm
from costmodel.cost.machine import Machine
from costmodel.fitting.interval_width import spread
from costmodel.quantities import Array
from costmodel.records import Record
from costmodel.schema.files import load_device
from costmodel.schema.whole_files import write_whole
from costmodel.workload.operators import Gemm

TILE = (128, 152)  # the tile of every row, as the source states
LAUNCH, HBM_EFFICIENCY, OVERLAP_P = 2.52e-6, 0.955, 2.0  # those of DeepGEMM's other kernels: h800-sxm/deepgemm
UNBOUNDED, NOTHING = 1e5, 1e-3  # a limit that no row meets; a loss that none shows
OPERAND = 1 + 4 / 128  # bytes of an FP8 number with its share of an FP32 scale
ACCUMULATED = 8.0  # bytes of a sum, read and written
SPEED_UP = 1.2  # of DeepGEMM's kernels over DeepSeek's own CUTLASS ones, "about 20 %"


class Rates(Record):
    """Published products and their times [s]."""

    products: tuple[Gemm, ...]
    seconds: Array

    def without(self, place: int) -> Rates:
        """Return all but those of one weight's shape."""
        shape = (self.products[place].m, self.products[place].n)
        kept = [at for at, each in enumerate(self.products) if (each.m, each.n) != shape]
        return Rates(tuple(self.products[at] for at in kept), self.seconds[kept])


def read(path: Path) -> Rates:
    """Return the rows of a table of rates."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    products = tuple(
        Gemm("weight gradient", m=float(row["m"]), n=float(row["n"]), k=float(row["k"]), dtype="fp8",
             a_bytes=OPERAND, b_bytes=OPERAND, out_bytes=ACCUMULATED, groups=float(row["num_groups"]),
             block_scaled=True, is_wgrad=True)
        for row in rows
    )  # fmt: skip
    rates = np.array([1e12 * float(row["TFLOP/s"]) for row in rows])
    return Rates(products, np.array([product.flop for product in products]) / rates)


def form_of(compute: float, overhead: float) -> GemmForm:
    """Return the form with the two parameters that the rates determine.

    compute: share of the dense peak.
    overhead: cycles of a CTA's prologue and epilogue, in which the sums are read and written.
    """
    return GemmForm(
        launch=LAUNCH, compute_efficiency=compute, hbm_efficiency=HBM_EFFICIENCY, cta_load_rate=UNBOUNDED,
        l2_rate=UNBOUNDED, cta_overhead=overhead, k_step=NOTHING, small_tile_loss=NOTHING, overlap_p=OVERLAP_P,
        tiles=(TILE,), has_split_k=False,
    )  # fmt: skip


def times(form: GemmForm, products: Sequence[Gemm], machine: Machine) -> Array:
    """Return the predicted times of products [s]."""
    return np.array([float(form.time(product, machine).seconds) for product in products])


def fit(rates: Rates, machine: Machine) -> tuple[float, float]:
    """Return (compute, overhead): those of the least squares of log times."""

    def residuals(logs: Array) -> Array:
        return np.asarray(np.log(times(form_of(*np.exp(logs)), rates.products, machine) / rates.seconds))

    solved = least_squares(residuals, np.log([0.6, 5000.0]), loss="soft_l1", f_scale=0.05)
    compute, overhead = np.exp(solved.x)
    return float(f"{compute:.3g}"), float(f"{overhead:.3g}")


def render(name: str, rates: Rates, machine: Machine, slower: float) -> str:
    """Return the text of the calibration of kernels that take `slower` times as long as the published ones."""
    compute, overhead = fit(rates, machine)
    ratio = rates.seconds / times(form_of(compute, overhead), rates.products, machine)
    held_out = [
        float(times(form_of(*fit(rates.without(place), machine)), [product], machine)[0] / rates.seconds[place] - 1)
        for place, product in enumerate(rates.products)
    ]
    low, median, high = spread(ratio)
    middle = 1e6 * slower * float(np.median(rates.seconds))
    sizes = {axis: [getattr(each, axis) for each in rates.products] for axis in ("m", "n", "k", "groups")}
    domain = ", ".join(f"{axis}: [{min(each):g}, {max(each):g}]" for axis, each in sizes.items())
    error = f"{100 * float(np.mean(np.abs(held_out))):.3g} %"
    return f"""\
schema: costmodel/calibration@1
name: {name}
device: devices/h800-sxm
library: {"deepgemm" if slower == 1 else "cutlass"}
basis: fitted
frameworks: []                                   # no table has rows of it
families:                                        # weight gradients
  gemm/fp8_block_wgrad: &rates
    form: {{{_parameters(compute, overhead, slower)}}}
    domain: {{{domain}}}
    radius: 0.5
    spread: [{{time: {middle:.3g} us, low: {low:g}, median: {median:g}, high: {high:g}, rows: {len(ratio)}}}]
    rows: {len(ratio)}
    note: >-
      {_kernels(slower)}
      Both operands have vectors of scales, sums are FP32. Weights held out one after the other: {error} mean error.
  grouped_gemm/fp8_block_wgrad: *rates
sources:
  - fields: [families]
    cite: "deepseek-ai/DeepGEMM pull request 95 (2025-05), and issue 107 for the grouped rows of its table"
    kind: measurement
    rests_on: ["deepseek-ai/DeepGEMM pull request 95"]
    note: Made by `python -m reports.fits.wgrad`; launch, hbm_efficiency and overlap_p are those of h800-sxm/deepgemm.
"""


def _parameters(compute: float, overhead: float, slower: float) -> str:
    """Return the form's parameters as the file has them, of kernels that take `slower` times as long."""
    found = {
        "launch": f"{1e6 * slower * LAUNCH:.4g} us",
        "compute_efficiency": f"{compute / slower:.4g}",
        "hbm_efficiency": f"{HBM_EFFICIENCY / slower:.4g}",
        "cta_load_rate": f"{UNBOUNDED:g}",
        "l2_rate": f"{UNBOUNDED:g}",
        "cta_overhead": f"{overhead * slower:.4g}",
        "k_step": f"{NOTHING:g}",
        "small_tile_loss": f"{NOTHING:g}",
        "overlap_p": f"{OVERLAP_P:g}",
        "tiles": f"[{list(TILE)}]",
        "has_split_k": "false",
    }
    return ", ".join(f"{name}: {value}" for name, value in {"kind": "gemm", **found}.items())


def _kernels(slower: float) -> str:
    """Return what the kernels are."""
    if slower == 1:
        return "Published rates."
    return (
        f"DeepSeek's own CUTLASS kernels, {slower:g} times as long as those of DeepGEMM that replaced them.\n"
        "      The spread is of the latter."
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Fit a table of published rates of weight gradients; write the two calibration files."""
    parser = argparse.ArgumentParser(prog="python -m reports.fits.wgrad", description=main.__doc__)
    parser.add_argument("rates", type=Path, help="table: num_groups, m, n, k, TFLOP/s")
    parser.add_argument("--output", type=Path, required=True, help="folder of calibration files")
    chosen = parser.parse_args(arguments)
    device = load_device("h800-sxm")
    machine, rates = Machine(device, default_framework(), device.processors), read(chosen.rates)
    for name, slower in (("h800-sxm/deepgemm-wgrad", 1.0), ("h800-sxm/cutlass-wgrad", SPEED_UP)):
        text = render(name, rates, machine, slower)
        write_whole(chosen.output / f"{name}.yaml", [text.encode()])
        sys.stdout.write(text)


if __name__ == "__main__":
    main()
