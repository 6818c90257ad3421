"""Two parameters of a form by a few published rates, the others stated."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
from scipy.optimize import least_squares

from costmodel.calibration.fit_files import default_framework
from costmodel.calibration.fit_lookup import load_calibration
from costmodel.cost.attention import PrefillForm
from costmodel.cost.gemm import GemmForm
from costmodel.quantities import Array

SOFT = 0.05  # log error from which on a row counts less


def fitted(times: Callable[[float, float], Array], measured: Array, start: tuple[float, float]) -> tuple[float, float]:
    """Return the parameters whose times have the least robust squares of logs about the measured ones [s].

    times: those that two parameters give.
    """

    def residuals(logs: Array) -> Array:
        first, second = np.exp(logs).tolist()
        return np.asarray(np.log(times(first, second) / measured))

    found = np.exp(least_squares(residuals, np.log(start), loss="soft_l1", f_scale=SOFT).x)
    return float(f"{found[0]:.3g}"), float(f"{found[1]:.3g}")


@cache
def memory_rate(device: str, family: str) -> float:
    """Return the share of the memory's bandwidth that the device's own kernels of a family reach, by their fit."""
    form = load_calibration(device, default_framework()).families[family].form
    assert isinstance(form, GemmForm | PrefillForm), "a family with a fit"
    return float(f"{form.hbm_efficiency:.3g}")
