"""FlashAttention-2 on H100: the fit of published rates, forward and backward."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from costmodel.calibration.fit_files import default_framework
from costmodel.cost.machine import Machine
from costmodel.schema.files import load_device
from reports.fits.backward_attention import fit as backward_share
from reports.fits.flash2 import Rates, counted, fit, form_of, main, read, times

FOLDER = Path(__file__).parents[3] / "hardware" / "calibrations" / "h100-sxm"
TABLE = FOLDER / "flash2-rates.csv"
DEVICE = load_device("h100-sxm")
MACHINE = Machine(DEVICE, default_framework(), DEVICE.processors)


def test_the_fit_finds_the_parameters_that_made_the_times() -> None:
    rates = read(TABLE)
    made = Rates(rates.cores, times(form_of(0.4, 5000.0), rates.cores, MACHINE), rates.backward)
    compute, overhead = fit(made, MACHINE)
    assert compute == pytest.approx(0.4, rel=0.01)
    assert overhead == pytest.approx(5000.0, rel=0.02)


def test_published_rates_are_met_within_six_percent_in_the_mean() -> None:
    rates = read(TABLE)
    predicted = times(form_of(*fit(rates, MACHINE)), rates.cores, MACHINE)
    assert np.abs(predicted / rates.seconds - 1).mean() < 0.06


def test_a_causal_core_counts_half_the_flop_but_computes_the_tiles_on_its_diagonal() -> None:
    assert counted(4096.0, is_causal=True) == counted(4096.0, is_causal=False) / 2
    cores = {float(each.qk_pairs): each for each in read(TABLE).cores}
    causal, full = cores[2048.0 * 2049.0 / 2.0], cores[2048.0**2]
    assert causal.q_len == full.q_len
    ratio = times(form_of(0.4, 1.0), [causal, full], MACHINE)
    assert ratio[0] / ratio[1] == pytest.approx((2048 / 2 / 64 + 0.5) / (2048 / 64), rel=0.01)


def test_backward_rates_come_back_from_the_share_of_the_forward_ones() -> None:
    pairs = read(TABLE).backward
    share = backward_share(pairs)
    assert np.abs(share.compute / (1 + share.query / pairs.keys) / pairs.share - 1).mean() < 0.02


def test_the_command_writes_the_shipped_file(tmp_path: Path) -> None:
    main([str(TABLE), "--output", str(tmp_path / "flash2.yaml")])
    assert (tmp_path / "flash2.yaml").read_text() == (FOLDER / "flash2.yaml").read_text()
