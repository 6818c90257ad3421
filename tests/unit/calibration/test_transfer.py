"""Backward cores without measurements: the forward kernels' form, told as transferred, with an interval of its own."""

from __future__ import annotations

import numpy as np
import pytest
from small_world import write

from costmodel.calibration.calibrating import calibrate
from costmodel.calibration.load import Fits, Shelf
from costmodel.calibration.planning import UNKNOWN, half_widths
from costmodel.calibration.predicting import predict
from costmodel.calibration.tables import read_tables
from costmodel.schema.references import Library

CORE = "{op},CHIP,bf16,{batch},{heads},{heads},64,64,{tokens},{tokens},1,{time:.4f}"
HEADER = "op,device,dtype_in,batch,q_heads,kv_heads,head_dim,v_head_dim,q_len,kv_len,causal,time_us"


def table(root, name, op, scale):
    """Write cores that take 40 % of the peak and 5 us; `scale`: of the FLOP, over those of a forward pass."""
    lines = [HEADER]
    for heads in (4, 8, 16, 32, 64):
        for tokens in (256, 512, 1024, 2048, 4096, 8192):
            flop = scale * 4 * 2 * heads * 64 * tokens * (tokens + 1) / 2
            line = CORE.format(op=op, batch=2, heads=heads, tokens=tokens, time=5.0 + 1e6 * flop / (0.4 * 1e15))
            lines.append(line)
    return write(root, name, "\n".join(lines) + "\n")


@pytest.fixture
def forward(world):
    """Return the root with the forward kernels of the chip fitted."""
    calibrate(
        [table(world, "f.csv", "attention_prefill", 1.0)], "chip", world / "hardware/calibrations/chip/t.yaml", [world]
    )
    return world


def test_backward_cores_are_transferred_until_they_are_measured(forward):
    rows = read_tables(table(forward, "b.csv", "attention_backward", 2.5))
    found = predict(rows, [forward])
    assert set(found.basis) == {"transferred"}
    assert set(found.why) == {"chip/t; attention_prefill stands in for attention_backward"}
    assert np.abs(found.seconds / rows.seconds - 1).mean() < 0.25
    assert (found.low < found.seconds).all()
    assert (found.seconds < found.high).all()
    calibrate([forward / "b.csv"], "chip", forward / "hardware/calibrations/chip/b.yaml", [forward])
    own = predict(rows, [forward])
    assert set(own.basis) <= {"measured", "fitted"}
    assert np.abs(own.seconds / rows.seconds - 1).mean() < 0.05


def test_a_transferred_fit_keeps_the_form_and_leaves_the_residual(forward):
    fits = Fits(Shelf(Library([forward])), "chip", {"attention_prefill": "t"})
    fit, stands = fits["attention_backward/bf16"], fits["attention_prefill/bf16"]
    assert fit.form is not None
    assert stands.residual is not None
    assert (fit.basis, fit.residual, fit.domain) == ("transferred", None, None)
    assert fit.spread.low[0] < 0.95
    assert fit.spread.high[0] > 1.1


def test_without_forward_fits_a_backward_core_stays_on_the_roofline(world):
    fits = Fits(Shelf(Library([world])), "chip", {})
    assert "attention_backward/bf16" not in fits
    assert fits["attention_backward"].basis == "roofline"


def test_widths_are_those_of_the_interval_where_a_fit_stands_behind_it(forward):
    line = CORE.format(op="attention_prefill", batch=2, heads=8, tokens=1024, time=1.0)
    row = dict(zip(HEADER.split(",")[:-1], line.split(","), strict=False))
    product = {"op": "bmm", "batch": "4", "device": "CHIP", "dtype_in": "bf16", "m": "64", "n": "64", "k": "64"}
    unknown = {"op": "launch", "device": "CHIP", "dtype_in": "bf16"}
    widths = half_widths([row, product, unknown], [forward])
    assert 0.0 < widths[0] < 0.2
    assert widths[1] >= UNKNOWN
    assert widths[2] == UNKNOWN
    assert half_widths([], [forward]).shape == (0,)
