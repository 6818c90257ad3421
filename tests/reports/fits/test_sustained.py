"""Products at a sustained clock: the fit of their rates, and what less power does to them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from costmodel.calibration.fit_files import default_framework
from costmodel.cost.time import Machine
from costmodel.schema.files import load_device
from reports.fits.product_rates import main, sustained, times
from reports.fits.product_rates import read_sustained as read
from reports.fits.product_rates import sustained_form as form_of

FOLDER = Path(__file__).parents[3]
DEVICE = load_device("h100-sxm")
MACHINE = Machine(DEVICE, default_framework(), DEVICE.processors)
ROWS = """\
kind,gpu,precision,m,n,k,value
gemm,h100,fp8,1024,1024,1024,270
gemm,h100,fp8,4096,4096,4096,1200
gemm,h100,fp8,8192,8192,8192,1350
gemm,h100,fp8,16384,16384,16384,1380
gemm,a100,fp16,8192,8192,8192,250
hbm,h100,,,,,2.9
"""


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Return a table with rows of other kinds and devices."""
    path = tmp_path / "rates.csv"
    path.write_text(ROWS)
    return path


def test_only_products_of_the_device_and_format_are_read(table: Path) -> None:
    rates = read(table)
    assert [each.m for each in rates.products] == [1024, 4096, 8192, 16384]
    assert rates.seconds[2] == pytest.approx(2 * 8192**3 / 1350e12)


def test_the_plateau_of_large_products_is_the_share_of_the_peak(table: Path) -> None:
    rates = read(table)
    compute, launch = sustained().fit(rates)
    assert compute == pytest.approx(1380 / 1978.9, rel=0.03)
    assert np.abs(times(form_of(compute, launch), rates.products, MACHINE) / rates.seconds - 1).max() < 0.1


def test_the_clock_of_a_board_at_its_limit_falls_with_the_cube_root_of_power(table: Path) -> None:
    large = read(table).products[-1:]
    form = form_of(0.7, 1e-6)
    slower = times(form.on_die(700.0 / 350.0, 1.0), large, MACHINE) / times(form, large, MACHINE)
    assert slower[0] == pytest.approx(2 ** (1 / 3), rel=0.01)


def test_the_command_writes_the_shipped_file(tmp_path: Path) -> None:
    source = FOLDER.parent / "shared" / "truth3" / "azure_sustained.csv"
    if not source.is_file():
        pytest.skip("the table of sustained rates is not here")
    (tmp_path / "h100-sxm").mkdir()
    main(["sustained", str(source), "--output", str(tmp_path)])
    shipped = FOLDER / "hardware" / "calibrations" / "h100-sxm" / "cublas-lt.yaml"
    assert (tmp_path / "h100-sxm" / "cublas-lt.yaml").read_text() == shipped.read_text()
