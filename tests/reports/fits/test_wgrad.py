"""Weight-gradient kernels: the fit of published rates, and what fewer processors do to them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from costmodel.calibration.fit_files import default_framework
from costmodel.cost.time import Machine
from costmodel.records import replace
from costmodel.schema.files import load_device
from costmodel.workload.operators import Gemm
from reports.fits.product_rates import SPEED_UP, Rates, main, slowed, times, wgrad
from reports.fits.product_rates import read_wgrad as read
from reports.fits.product_rates import wgrad_form as form_of

FOLDER = Path(__file__).parents[3] / "hardware" / "calibrations"
TABLE = FOLDER / "h800-sxm" / "deepgemm-wgrad.csv"
MACHINE = Machine(load_device("h800-sxm"), default_framework(), 132.0)
MODEL = wgrad()


def test_the_fit_finds_the_parameters_that_made_the_times() -> None:
    products = read(TABLE).products
    found = MODEL.fit(Rates(products, times(form_of(0.55, 4000.0), products, MACHINE)))
    assert found == (pytest.approx(0.55, rel=0.01), pytest.approx(4000, rel=0.02))


def test_published_rates_are_met_within_five_percent_in_the_mean() -> None:
    rates = read(TABLE)
    predicted = times(form_of(*MODEL.fit(rates)), rates.products, MACHINE)
    assert np.abs(predicted / rates.seconds - 1).mean() < 0.05


def test_processors_that_communication_holds_are_missing_in_full() -> None:
    gradient = Gemm(
        "dW",
        m=7168.0,
        n=4096.0,
        k=8192.0,
        dtype="fp8",
        a_bytes=1.03,
        b_bytes=1.03,
        out_bytes=8.0,
        groups=4.0,
        block_scaled=True,
        is_wgrad=True,
    )
    whole, part = (
        float(form_of(0.62, 5300.0).time(gradient, replace(MACHINE, processors=count)).seconds)
        for count in (132.0, 112.0)
    )
    assert part / whole == pytest.approx(54 / 46, rel=0.02)  # 56 x 27 tiles of four groups, in waves


def test_the_command_writes_the_shipped_files(tmp_path: Path) -> None:
    (tmp_path / "h800-sxm").mkdir()
    main(["wgrad", str(TABLE), "--output", str(tmp_path)])
    for name in ("deepgemm-wgrad", "cutlass-wgrad"):
        assert (tmp_path / "h800-sxm" / f"{name}.yaml").read_text() == (
            FOLDER / "h800-sxm" / f"{name}.yaml"
        ).read_text()


def test_the_kernels_before_take_as_much_longer_as_stated() -> None:
    product = read(TABLE).products[:1]
    compute, fill = MODEL.fit(read(TABLE))
    slower = slowed(form_of(compute, fill), SPEED_UP)
    assert times(slower, product, MACHINE) == pytest.approx(SPEED_UP * times(form_of(compute, fill), product, MACHINE))
