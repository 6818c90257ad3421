"""Products at the clock that a board sustains: the fit of cuBLASLt's FP8 rates on H100 after 10,000 iterations.

python -m reports.fits.sustained ../shared/truth3/azure_sustained.csv \
    --output hardware/calibrations/h100-sxm/cublas-lt.yaml

Training programs multiply FP8 by cuBLASLt [Transformer Engine, common/gemm/cublaslt_gemm.cu]. No table of kernels has
such rows of H100; these have random operands and hold the board at its power limit.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from costmodel.calibration.fit_files import default_framework
from costmodel.calibration.fit_lookup import load_calibration
from costmodel.cost.gemm import GemmForm
from costmodel.cost.machine import Machine
from costmodel.schema.files import load_device
from costmodel.workload.operators import Gemm
from reports.fits.measured import publish
from reports.fits.product_rates import NOTHING, UNBOUNDED, Rates, TwoParameters, domain, parameters

DEVICE, GPU, FORMAT = "h100-sxm", "h100", "fp8"
TILES = ((128, 256), (256, 128), (128, 128))  # of cuBLASLt's largest kernels: cublasLtMatmulTile_t
MEASURED = "gemm/bf16"  # whose share of the memory's bandwidth is taken: memory bounds one row here
# The clock's droop at this power is in compute_efficiency already.
OVERLAP_P = 2.0
FP8, BF16 = 1.0, 2.0  # bytes of an operand and of a result
START = (0.7, 2e-6)


def read(path: Path) -> Rates:
    """Return the rows of products of the device in the number format."""
    with path.open(newline="") as file:
        rows = [
            row for row in csv.DictReader(file) if (row["kind"], row["gpu"], row["precision"]) == ("gemm", GPU, FORMAT)
        ]
    products = tuple(
        Gemm("product", m=float(row["m"]), n=float(row["n"]), k=float(row["k"]), dtype=FORMAT, a_bytes=FP8, b_bytes=FP8,
             out_bytes=BF16)
        for row in rows
    )  # fmt: skip
    return Rates.of(products, [row["value"] for row in rows])


def form_of(compute: float, launch: float) -> GemmForm:
    """Return the form with the two parameters that the rates determine: share of the dense peak, fixed time [s]."""
    memory = memory_rate(DEVICE, MEASURED)
    return GemmForm(
        launch=launch, compute_efficiency=compute, hbm_efficiency=memory, cta_load_rate=UNBOUNDED,
        l2_rate=UNBOUNDED, cta_overhead=1.0, k_step=NOTHING, small_tile_loss=NOTHING, overlap_p=OVERLAP_P,
        clock_droop=NOTHING, tiles=TILES, has_split_k=False,
    )  # fmt: skip


@cache
def memory_rate(device: str, family: str) -> float:
    """Return the share of the memory's bandwidth that the device's own kernels of a family reach, by their fit."""
    form = load_calibration(device, default_framework()).families[family].form
    assert isinstance(form, GemmForm), "a family with a fit"
    return float(f"{form.hbm_efficiency:.3g}")


def render(rates: Rates, model: TwoParameters) -> str:
    """Return the text of the calibration file; the same rows give the same bytes."""
    error = 100 * model.held_out(rates, lambda each: (each.m, each.n, each.k))
    return f"""\
schema: costmodel/calibration@1
name: {DEVICE}/cublas-lt
device: devices/{DEVICE}
library: cublas
basis: fitted
frameworks: []                                   # no table of kernels has rows of it
families:
  gemm/{FORMAT}:
    form: {{{parameters(form_of(*model.fit(rates)), droop=True)}}}
    domain: {{{domain(rates)}}}
    radius: 1.0
    spread: [{model.points(rates)}]
    rows: {len(rates.seconds)}
    note: "Rows held out one after the other: {error:.3g} % mean error."
sources:
  - fields: [families]
    cite: "Azure/AI-benchmarking-guide: cuBLASLt on ND H100 v5, random operands, after 10,000 iterations; nine products"
    kind: measurement
    rests_on: [Azure/AI-benchmarking-guide]
    note: The board's sustained clock is in them. Made by `python -m reports.fits.sustained`.
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Fit the sustained rates of products; write the calibration file."""
    parser = argparse.ArgumentParser(prog="python -m reports.fits.sustained", description=main.__doc__)
    parser.add_argument("rates", type=Path, help="table: kind, gpu, precision, m, n, k, value in TFLOP/s")
    parser.add_argument("--output", type=Path, required=True, help="calibration file to write")
    chosen = parser.parse_args(arguments)
    device = load_device(DEVICE)
    machine = Machine(device, default_framework(), device.processors)
    publish(chosen.output, render(read(chosen.rates), TwoParameters(form_of, START, machine)))


if __name__ == "__main__":
    main()
