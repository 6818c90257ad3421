"""Products at the clock that a board sustains: the fit of cuBLASLt's FP8 rates on H100 after 10,000 iterations.

python -m reports.fits.sustained ../shared/truth3/azure_sustained.csv \
    --output hardware/calibrations/h100-sxm/cublaslt.yaml

Training programs multiply FP8 by cuBLASLt [Transformer Engine, common/gemm/cublaslt_gemm.cu]. No table of kernels has
such rows of H100; these have random operands and hold the board at its power limit.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from costmodel.calibration.fit_files import default_framework
from costmodel.cost.gemm import GemmForm
from costmodel.cost.machine import Machine
from costmodel.fitting.interval_width import spread
from costmodel.quantities import Array
from costmodel.records import Record
from costmodel.schema.files import load_device
from costmodel.schema.whole_files import write_whole
from costmodel.workload.operators import Gemm
from reports.fits.two_parameters import fitted, memory_rate

DEVICE, GPU, FORMAT = "h100-sxm", "h100", "fp8"
TILES = ((128, 256), (256, 128), (128, 128))  # of cuBLASLt's largest kernels: cublasLtMatmulTile_t
MEASURED = "gemm/bf16"  # whose share of the memory's bandwidth is taken: memory bounds one row here
UNBOUNDED = 1e5  # a limit that no row meets
NOTHING = 1e-3  # a loss that none shows; the clock's droop at this power is in compute_efficiency already
OVERLAP_P = 2.0
FP8, BF16 = 1.0, 2.0  # bytes of an operand and of a result
_START = (0.7, 2e-6)


class Rates(Record):
    """Products and their times [s]."""

    products: tuple[Gemm, ...]
    seconds: Array

    def without(self, place: int) -> Rates:
        """Return all rows but one."""
        kept = [at for at in range(len(self.seconds)) if at != place]
        return Rates(tuple(self.products[at] for at in kept), self.seconds[kept])


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
    rates = np.array([1e12 * float(row["value"]) for row in rows])
    return Rates(products, np.array([product.flop for product in products]) / rates)


def form_of(compute: float, launch: float) -> GemmForm:
    """Return the form with the two parameters that the rates determine: share of the dense peak, fixed time [s]."""
    memory = memory_rate(DEVICE, MEASURED)
    return GemmForm(
        launch=launch, compute_efficiency=compute, hbm_efficiency=memory, cta_load_rate=UNBOUNDED,
        l2_rate=UNBOUNDED, cta_overhead=1.0, k_step=NOTHING, small_tile_loss=NOTHING, overlap_p=OVERLAP_P,
        clock_droop=NOTHING, tiles=TILES, has_split_k=False,
    )  # fmt: skip


def times(form: GemmForm, products: Sequence[Gemm], machine: Machine) -> Array:
    """Return the predicted times of products [s]."""
    return np.array([float(form.time(product, machine).seconds) for product in products])


def fit(rates: Rates, machine: Machine) -> tuple[float, float]:
    """Return (compute, launch): those of the least squares of log times."""

    def predicted(compute: float, launch: float) -> Array:
        return times(form_of(compute, launch), rates.products, machine)

    return fitted(predicted, rates.seconds, _START)


def render(rates: Rates, machine: Machine) -> str:
    """Return the text of the calibration file; the same rows give the same bytes."""
    compute, launch = fit(rates, machine)
    low, median, high = spread(rates.seconds / times(form_of(compute, launch), rates.products, machine))
    held_out = [
        float(times(form_of(*fit(rates.without(place), machine)), [product], machine)[0] / rates.seconds[place] - 1)
        for place, product in enumerate(rates.products)
    ]
    sizes = {axis: [getattr(each, axis) for each in rates.products] for axis in ("m", "n", "k", "groups")}
    domain = ", ".join(f"{axis}: [{min(each):g}, {max(each):g}]" for axis, each in sizes.items())
    memory = memory_rate(DEVICE, MEASURED)
    parameters = {
        "kind": "gemm", "launch": f"{1e6 * launch:g} us", "compute_efficiency": f"{compute:g}",
        "hbm_efficiency": f"{memory:g}", "cta_load_rate": f"{UNBOUNDED:g}", "l2_rate": f"{UNBOUNDED:g}",
        "cta_overhead": "1", "k_step": f"{NOTHING:g}", "small_tile_loss": f"{NOTHING:g}", "overlap_p": f"{OVERLAP_P:g}",
        "clock_droop": f"{NOTHING:g}",
        "tiles": str([list(tile) for tile in TILES]), "has_split_k": "false",
    }  # fmt: skip
    written = ", ".join(f"{name}: {value}" for name, value in parameters.items())
    middle = 1e6 * float(np.median(rates.seconds))
    return f"""\
schema: costmodel/calibration@1
name: {DEVICE}/cublaslt
device: devices/{DEVICE}
library: cublaslt
basis: fitted
frameworks: []                                   # no table of kernels has rows of it
families:
  gemm/{FORMAT}:
    form: {{{written}}}
    domain: {{{domain}}}
    radius: 1.0
    spread: [{{time: {middle:.3g} us, low: {low:g}, median: {median:g}, high: {high:g}, rows: {len(rates.seconds)}}}]
    rows: {len(rates.seconds)}
    note: "Rows held out one after the other: {100 * float(np.mean(np.abs(held_out))):.3g} % mean error."
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
    text = render(read(chosen.rates), Machine(device, default_framework(), device.processors))
    write_whole(chosen.output, [text.encode()])
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
