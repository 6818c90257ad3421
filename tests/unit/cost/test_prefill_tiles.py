"""Tiles and bytes of prompts' attention, by hand."""

from __future__ import annotations

import numpy as np
import pytest
from attention_cores import LAUNCH, PREFILL, RATE, core, machine

from costmodel.records import replace


def test_a_warm_benchmark_finds_of_a_prompt_what_l2_holds_again() -> None:
    small, large = core(1.0, 8.0, 64.0, 64.0), core(4096.0, 8.0, 64.0, 64.0)
    keeping = replace(PREFILL, warm_l2_share=1.0)
    warm = replace(machine(), warm_l2=True)
    assert small.traffic < warm.l2_capacity < large.traffic / 2.0
    assert keeping.terms(small, warm)["hbm_time"] == 0.0
    assert keeping.terms(large, warm)["hbm_time"] == PREFILL.terms(large, warm)["hbm_time"]
    half = core(1.5 * warm.l2_capacity / small.traffic, 8.0, 64.0, 64.0)
    assert keeping.terms(half, warm)["l2_miss_bytes"] == pytest.approx(0.5 * half.traffic)
    assert keeping.time(small, machine()).seconds == PREFILL.time(small, machine()).seconds  # a run of an engine
    assert PREFILL.terms(small, warm)["hbm_time"] > 0.0


RULED = replace(
    PREFILL, pack_gqa=True, tiles=((16, 128), (64, 128), (128, 128)), tile_q_limits=(16, 64), wide_head_dims=512,
    warp_rows=(16, 16, 32), fragment_loss=0.4,
)  # fmt: skip


@pytest.mark.parametrize(
    ("rows", "sharing", "width", "tile"),
    [(16, 1, 256, 16), (17, 1, 256, 64), (64, 1, 256, 64), (65, 1, 256, 128), (17, 4, 256, 128), (4, 4, 256, 16),
     (65, 1, 512, 64), (16, 1, 512, 16), (4096, 8, 511, 128)],
)  # fmt: skip
def test_flashinfer_takes_a_tile_by_rows_of_queries_and_width(rows: int, sharing: int, width: int, tile: int) -> None:
    kernel = replace(core(2.0, 8.0, float(rows), 4096.0, kv_heads=8.0 / sharing), macs_per_pair=float(width))
    found = RULED.terms(kernel, machine())
    assert found["m_t"] == tile
    loss = 0.4 * 16 / (32 if tile == 128 else 16)
    assert found["step_cycles"] == pytest.approx(2 * tile * 128 * width / RATE * (1 + loss))
    assert RULED.time(kernel, machine()).seconds == pytest.approx(LAUNCH + found["busy_time"])


def test_a_rule_of_tiles_is_elementwise() -> None:
    rows = np.array([8.0, 40.0, 300.0])
    grid = RULED.time(core(2.0, 8.0, rows, 4096.0), machine()).seconds
    points = [RULED.time(core(2.0, 8.0, float(each), 4096.0), machine()).seconds for each in rows]
    assert grid == pytest.approx(points, rel=1e-12)
