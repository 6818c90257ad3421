"""Weight-gradient kernels of block-scaled FP8: the fit of DeepGEMM's published rates, and of the kernels before them.

python -m reports.fits.wgrad hardware/calibrations/h800-sxm/deepgemm-wgrad.csv --output hardware/calibrations

Both operands of such a product carry vectors of scales, and its sums are read and written in FP32. No measurement table
has them; DeepSeek published the rates of those that replaced the ones of V3's training, and how much faster they are.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Sequence
from pathlib import Path

from costmodel.calibration.fit_files import default_framework
from costmodel.cost.gemm import GemmForm
from costmodel.cost.machine import Machine
from costmodel.records import replace
from costmodel.schema.files import load_device
from costmodel.workload.operators import Gemm
from reports.fits.measured import publish
from reports.fits.product_rates import NOTHING, UNBOUNDED, Rates, TwoParameters, domain, parameters

TILE = (128, 152)  # the tile of every row, as the source states
LAUNCH, HBM_EFFICIENCY, OVERLAP_P = 2.52e-6, 0.955, 2.0  # those of DeepGEMM's other kernels: h800-sxm/deepgemm
OPERAND = 1 + 4 / 128  # bytes of an FP8 number with its share of an FP32 scale
ACCUMULATED = 8.0  # bytes of a sum, read and written
SPEED_UP = 1.2  # of DeepGEMM's kernels over DeepSeek's own CUTLASS ones, "about 20 %"


START = (0.6, 5000.0)


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
    return Rates.of(products, [row["TFLOP/s"] for row in rows])


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


def render(name: str, rates: Rates, model: TwoParameters, slower: float) -> str:
    """Return the text of the calibration of kernels that take `slower` times as long as the published ones."""
    error = f"{100 * model.held_out(rates, lambda each: (each.m, each.n)):.3g} %"
    return f"""\
schema: costmodel/calibration@1
name: {name}
device: devices/h800-sxm
library: {"deepgemm" if slower == 1 else "cutlass"}
basis: fitted
frameworks: []                                   # no table has rows of it
families:                                        # weight gradients
  gemm/fp8_block_wgrad: &rates
    form: {{{parameters(slowed(form_of(*model.fit(rates)), slower))}}}
    domain: {{{domain(rates)}}}
    radius: 0.5
    spread: [{model.points(rates, slower)}]
    rows: {len(rates.seconds)}
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


def slowed(form: GemmForm, slower: float) -> GemmForm:
    """Return the form of kernels that take `slower` times as long."""
    return replace(
        form, launch=form.launch * slower, compute_efficiency=form.compute_efficiency / slower,
        hbm_efficiency=form.hbm_efficiency / slower, cta_overhead=form.cta_overhead * slower,
    )  # fmt: skip


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
    machine = Machine(device, default_framework(), device.processors)
    rates, model = read(chosen.rates), TwoParameters(form_of, START, machine)
    for name, slower in (("h800-sxm/deepgemm-wgrad", 1.0), ("h800-sxm/cutlass-wgrad", SPEED_UP)):
        publish(chosen.output / f"{name}.yaml", render(name, rates, model, slower))


if __name__ == "__main__":
    main()
