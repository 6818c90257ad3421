"""Two parameters of a GEMM form by a few published rates of products, the others stated, and the file that has them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from scipy.optimize import least_squares

from costmodel.cost.gemm import GemmForm
from costmodel.cost.machine import Machine
from costmodel.fitting.interval_width import spread
from costmodel.quantities import Array
from costmodel.records import Record
from costmodel.workload.operators import Gemm

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
    return ", ".join(f"{axis}: [{min(each):g}, {max(each):g}]" for axis, each in sizes.items())


def parameters(form: GemmForm, *, droop: bool = False) -> str:
    """Return a form's parameters as a calibration file has them. droop: that of the clock is among them."""
    names = ("compute_efficiency", "hbm_efficiency", "cta_load_rate", "l2_rate", "cta_overhead", "k_step",
             "small_tile_loss", "overlap_p", *(("clock_droop",) if droop else ()))  # fmt: skip
    stated = ", ".join(f"{name}: {float(f'{getattr(form, name):.4g}'):g}" for name in names)
    tiles = str([list(tile) for tile in form.tiles])
    return f"kind: gemm, launch: {1e6 * form.launch:.4g} us, {stated}, tiles: {tiles}, has_split_k: false"
