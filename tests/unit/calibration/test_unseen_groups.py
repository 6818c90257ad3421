"""Intervals of kernels whose heads, widths or models no fit saw: wider the farther they are."""

from __future__ import annotations

import numpy as np
import pytest

from costmodel.calibration.row_prediction import predict
from costmodel.errors import Location
from costmodel.measurements.tables import join, single_row

ROW = {
    "device": "A800_SXM4_80GB", "op": "attention_prefill", "dtype_in": "bf16", "kv_dtype": "bf16", "batch": "1",
    "q_len": "1024", "kv_len": "1024", "head_dim": "128", "v_head_dim": "128", "framework": "frontier (vllm 0.10.x)",
    "timing": "kineto_kernel", "causal": "1",
}  # fmt: skip


def half_widths(heads: list[tuple[int, int]]) -> list[float]:
    """Return half of the interval of a prefill over its time, for query and key heads."""
    rows = [{**ROW, "q_heads": str(q), "kv_heads": str(kv)} for q, kv in heads]
    found = predict(join([single_row(row, Location("table", at)) for at, row in enumerate(rows, 1)]))
    assert not np.isnan(found.seconds).any(), found.why
    return ((found.high - found.low) / 2.0 / found.seconds).tolist()


def test_heads_that_no_fit_saw_widen_the_interval_the_more_the_farther_they_are() -> None:
    measured, near, far = half_widths([(4, 1), (8, 2), (64, 8)])  # one configuration of heads was measured
    assert measured < 0.5 * near < 0.5 * far
    assert near > 0.1


def test_a_family_of_many_measured_groups_is_as_sure_inside_them_as_its_held_out_groups_say() -> None:
    row = {
        **ROW, "device": "A100_SXM4_80GB", "framework": "sglang 0.5.10", "kernel": "flash_attention",
        "timing": "cuda_graph_loop", "q_heads": "24", "kv_heads": "6",
    }  # fmt: skip
    found = predict(single_row(row, Location("table", 1)))
    assert (found.high - found.low)[0] / 2.0 / found.seconds[0] == pytest.approx(0.05, abs=0.05)
