"""Fits of a few published rates of products: two parameters of a GEMM form, the others stated.

python -m reports.fits.product_rates KIND RATES.csv --output hardware/calibrations

sustained, of ../shared/truth3/azure_sustained.csv: training programs multiply FP8 by cuBLASLt [Transformer Engine,
common/gemm/cublaslt_gemm.cu]. No table of kernels has such rows of H100; these have random operands and hold the board
at its power limit.
wgrad, of hardware/calibrations/h800-sxm/deepgemm-wgrad.csv: both operands of a block-scaled weight gradient carry
vectors of scales, and its sums are read and written in FP32. DeepSeek published the rates of kernels that replaced
those of V3's training, and how much faster they are.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import least_squares

from costmodel.calibration.fit_files import default_framework
from costmodel.calibration.fit_lookup import load_calibration
from costmodel.cost.gemm import GemmForm
from costmodel.cost.time import Machine
from costmodel.fitting.interval_width import spread
from costmodel.quantities import Array
from costmodel.records import Record, replace
from costmodel.schema.files import load_device
from costmodel.workload.operators import Gemm
from reports.fits.measured import publish
from reports.page import read_rows, rendered

UNBOUNDED, NOTHING = 1e5, 1e-3  # a limit that no row meets; a loss that none shows
SOFT = 0.05  # log error from which on a row counts less


class Rates(Record):
    """Products and their times [s]."""

    products: tuple[Gemm, ...]
    seconds: Array

    @classmethod
    def of(cls, products: Sequence[Gemm], teraflops: Sequence[str]) -> Rates:
        """Return products with their times, from their rates in TFLOP/s."""
        rates = np.array([1e12 * float(each) for each in teraflops])
        return cls(tuple(products), np.array([product.flop for product in products]) / rates)

    def take(self, kept: Sequence[bool]) -> Rates:
        """Return some rows."""
        chosen = [at for at, is_kept in enumerate(kept) if is_kept]
        return Rates(tuple(self.products[at] for at in chosen), self.seconds[chosen])


class TwoParameters(Record):
    """A form with two parameters that rates determine. form: of both; start: of the search; machine: of the rows."""

    form: Callable[[float, float], GemmForm]
    start: tuple[float, float]
    machine: Machine

    def times(self, parameters: tuple[float, float], products: Sequence[Gemm]) -> Array:
        """Return the predicted times of products [s]."""
        return times(self.form(*parameters), products, self.machine)

    def fit(self, rates: Rates) -> tuple[float, float]:
        """Return the parameters of the least robust squares of log times, to three digits."""

        def residuals(logs: Array) -> Array:
            first, second = np.exp(logs).tolist()
            return np.asarray(np.log(self.times((first, second), rates.products) / rates.seconds))

        first, second = np.exp(least_squares(residuals, np.log(self.start), loss="soft_l1", f_scale=SOFT).x)
        return float(f"{first:.3g}"), float(f"{second:.3g}")

    def held_out(self, rates: Rates, together: Callable[[Gemm], object]) -> float:
        """Return the mean error of rows that the fit has not seen, and none that goes with them."""
        groups, errors = [together(each) for each in rates.products], []
        for product, group, seconds in zip(rates.products, groups, rates.seconds, strict=True):
            others = rates.take([each != group for each in groups])
            errors.append(float(self.times(self.fit(others), [product])[0] / seconds - 1))
        return float(np.mean(np.abs(errors)))

    def points(self, rates: Rates, slower: float = 1.0) -> str:
        """Return the point of a family's spread, of kernels that take `slower` times as long."""
        low, median, high = spread(rates.seconds / self.times(self.fit(rates), rates.products))
        middle = 1e6 * slower * float(np.median(rates.seconds))
        return (
            f"{{time: {middle:.3g} us, low: {low:g}, median: {median:g}, high: {high:g}, rows: {len(rates.seconds)}}}"
        )


def times(form: GemmForm, products: Sequence[Gemm], machine: Machine) -> Array:
    """Return the predicted times of products [s]."""
    return np.array([float(form.time(product, machine).seconds) for product in products])


def domain(rates: Rates) -> str:
    """Return the sizes of the products as a calibration file has them."""
    sizes = {axis: [getattr(each, axis) for each in rates.products] for axis in ("m", "n", "k", "groups")}
    return f"{{{', '.join(f'{axis}: [{min(each):g}, {max(each):g}]' for axis, each in sizes.items())}}}"


def parameters(form: GemmForm, *, droop: bool = False) -> str:
    """Return a form's parameters as a calibration file has them. droop: that of the clock is among them."""
    names = ("compute_efficiency", "hbm_efficiency", "cta_load_rate", "l2_rate", "cta_overhead", "k_step",
             "small_tile_loss", "overlap_p", *(("clock_droop",) if droop else ()))  # fmt: skip
    stated = ", ".join(f"{name}: {float(f'{getattr(form, name):.4g}'):g}" for name in names)
    tiles = str([list(tile) for tile in form.tiles])
    return f"{{kind: gemm, launch: {1e6 * form.launch:.4g} us, {stated}, tiles: {tiles}, has_split_k: false}}"


def machine_of(device: str) -> Machine:
    """Return a device by itself."""
    built = load_device(device)
    return Machine(built, default_framework(), built.processors)


def _form(compute: float, launch: float, hbm: float, **stated: Any) -> GemmForm:
    """Return a form that nothing bounds but what is stated."""
    return GemmForm(
        launch=launch, compute_efficiency=compute, hbm_efficiency=hbm, cta_load_rate=UNBOUNDED, l2_rate=UNBOUNDED,
        k_step=NOTHING, small_tile_loss=NOTHING, overlap_p=OVERLAP_P, has_split_k=False, **stated,
    )  # fmt: skip


# ---- cuBLASLt's FP8 on H100 after 10,000 iterations -----------------------------------------------------------------

OVERLAP_P = 2.0
SUSTAINED = "h100-sxm"
TILES = ((128, 256), (256, 128), (128, 128))  # of cuBLASLt's largest kernels: cublasLtMatmulTile_t
MEASURED = "gemm/bf16"  # whose share of the memory's bandwidth is taken: memory bounds one row here
FP8, BF16 = 1.0, 2.0  # bytes of an operand and of a result
# The clock's droop at this power is in compute_efficiency already.


def read_sustained(path: Path) -> Rates:
    """Return the rows of FP8 products of H100. Columns: kind, gpu, precision, m, n, k, value in TFLOP/s."""
    rows = [row for row in read_rows(path) if (row["kind"], row["gpu"], row["precision"]) == ("gemm", "h100", "fp8")]
    products = tuple(
        Gemm("product", m=float(row["m"]), n=float(row["n"]), k=float(row["k"]), dtype="fp8", a_bytes=FP8, b_bytes=FP8,
             out_bytes=BF16)
        for row in rows
    )  # fmt: skip
    return Rates.of(products, [row["value"] for row in rows])


def sustained_form(compute: float, launch: float) -> GemmForm:
    """Return the form with the two parameters that the rates determine: share of the dense peak, fixed time [s]."""
    return _form(compute, launch, memory_rate(), cta_overhead=1.0, clock_droop=NOTHING, tiles=TILES)


@cache
def memory_rate() -> float:
    """Return the share of the memory's bandwidth that the device's own kernels reach, by their fit."""
    form = load_calibration(SUSTAINED, default_framework()).families[MEASURED].form
    assert isinstance(form, GemmForm), "a family with a fit"
    return float(f"{form.hbm_efficiency:.3g}")


def sustained() -> TwoParameters:
    """Return the model of sustained products."""
    return TwoParameters(sustained_form, (0.7, 2e-6), machine_of(SUSTAINED))


def render_sustained(rates: Rates, model: TwoParameters) -> str:
    """Return the text of the calibration file; the same rows give the same bytes."""
    error = 100 * model.held_out(rates, lambda each: (each.m, each.n, each.k))
    form = parameters(sustained_form(*model.fit(rates)), droop=True)
    return rendered(
        "fits/sustained.yaml", device=SUSTAINED, form=form, domain=domain(rates), points=model.points(rates),
        rows=len(rates.seconds), error=f"{error:.3g} %",
    )  # fmt: skip


# ---- Weight gradients of block-scaled FP8 on H800 -------------------------------------------------------------------

TILE = (128, 152)  # the tile of every row, as the source states
LAUNCH, HBM_EFFICIENCY = 2.52e-6, 0.955  # those of DeepGEMM's other kernels: h800-sxm/deepgemm
OPERAND = 1 + 4 / 128  # bytes of an FP8 number with its share of an FP32 scale
ACCUMULATED = 8.0  # bytes of a sum, read and written
SPEED_UP = 1.2  # of DeepGEMM's kernels over DeepSeek's own CUTLASS ones, "about 20 %"
SLOWER = {"deepgemm": 1.0, "cutlass": SPEED_UP}


def read_wgrad(path: Path) -> Rates:
    """Return the rows of weight gradients. Columns: num_groups, m, n, k, TFLOP/s."""
    rows = read_rows(path)
    products = tuple(
        Gemm("weight gradient", m=float(row["m"]), n=float(row["n"]), k=float(row["k"]), dtype="fp8",
             a_bytes=OPERAND, b_bytes=OPERAND, out_bytes=ACCUMULATED, groups=float(row["num_groups"]),
             block_scaled=True, is_wgrad=True)
        for row in rows
    )  # fmt: skip
    return Rates.of(products, [row["TFLOP/s"] for row in rows])


def wgrad_form(compute: float, overhead: float) -> GemmForm:
    """Return the form with the two parameters that the rates determine.

    compute: share of the dense peak.
    overhead: cycles of a CTA's prologue and epilogue, in which the sums are read and written.
    """
    return _form(compute, LAUNCH, HBM_EFFICIENCY, cta_overhead=overhead, tiles=(TILE,))


def wgrad() -> TwoParameters:
    """Return the model of weight gradients."""
    return TwoParameters(wgrad_form, (0.6, 5000.0), machine_of("h800-sxm"))


def slowed(form: GemmForm, slower: float) -> GemmForm:
    """Return the form of kernels that take `slower` times as long."""
    return replace(
        form, launch=form.launch * slower, compute_efficiency=form.compute_efficiency / slower,
        hbm_efficiency=form.hbm_efficiency / slower, cta_overhead=form.cta_overhead * slower,
    )  # fmt: skip


def render_wgrad(library: str, rates: Rates, model: TwoParameters) -> str:
    """Return the text of the calibration of a library's kernels."""
    slower, error = SLOWER[library], f"{100 * model.held_out(rates, lambda each: (each.m, each.n)):.3g} %"
    form = parameters(slowed(wgrad_form(*model.fit(rates)), slower))
    return rendered(
        "fits/wgrad.yaml", library=library, slower=slower, form=form, domain=domain(rates),
        points=model.points(rates, slower), rows=len(rates.seconds), error=error,
    )  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """Fit a table of published rates; write the calibration files."""
    parser = argparse.ArgumentParser(prog="python -m reports.fits.product_rates", description=main.__doc__)
    parser.add_argument("kind", choices=("sustained", "wgrad"))
    parser.add_argument("rates", type=Path, help="table of rates")
    parser.add_argument("--output", type=Path, required=True, help="folder of calibration files")
    chosen = parser.parse_args(arguments)
    if chosen.kind == "sustained":
        text = render_sustained(read_sustained(chosen.rates), sustained())
        publish(chosen.output / SUSTAINED / "cublas-lt.yaml", text)
        return
    rates, model = read_wgrad(chosen.rates), wgrad()
    for library in SLOWER:
        publish(chosen.output / "h800-sxm" / f"{library}-wgrad.yaml", render_wgrad(library, rates, model))


if __name__ == "__main__":
    main()
