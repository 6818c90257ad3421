"""Linear recurrences over prompts and queries that select their keys: times by hand, and what moves them."""

from __future__ import annotations

import pytest
from builders import DEVICE, FRAMEWORK, with_level
from hypothesis import given
from hypothesis import strategies as st

from costmodel.cost.mixed_attention import SelectedForm
from costmodel.cost.scan import ScanForm
from costmodel.cost.time import Machine
from costmodel.records import replace
from costmodel.workload.operators import AttentionKernel

# The device: 100 processors at 1 GHz with 10,000 FLOP a cycle each in BF16, memory of 2 TB/s.
CLOCK, PROCESSORS, RATE = 1e9, 100.0, 10_000.0
ON = Machine(with_level(DEVICE, "hbm", 1e18), FRAMEWORK, PROCESSORS)
SCAN = ScanForm(
    launch=2e-5, compute_efficiency=0.5, hbm_efficiency=1.0, state_step=1000.0, chunk_cycles=5000.0, chunk=64
)
SELECTED = SelectedForm(
    launch=1e-5, compute_efficiency=0.5, hbm_efficiency=1.0, cta_overhead=1000.0, wave_tail_loss=1.0, head_tile=64
)


def scan(sequences: float, tokens: float, heads: float = 16.0) -> AttentionKernel:
    return AttentionKernel(
        "scan", sequences=sequences, heads=heads, q_len=tokens, qk_pairs=tokens, macs_per_pair=50_000.0, dtype="bf16",
        traffic=sequences * tokens * heads * 1024.0, family="linear_attention_prefill", kind="delta", kv_heads=heads,
        kv_len=tokens,
    )  # fmt: skip


def selected(queries: float, heads: float = 64.0, keys: float = 2048.0) -> AttentionKernel:
    """Return queries that may select 2,048 of `keys` cached tokens."""
    pairs = queries * min(keys, 2048.0)
    return AttentionKernel(
        "selected", sequences=1.0, heads=heads, q_len=queries, qk_pairs=pairs, macs_per_pair=1088.0, dtype="bf16",
        traffic=keys * 1152.0, family="sparse_mla_prefill", kv_len=keys, kv_token_bytes=1152.0, selected=2048.0,
    )  # fmt: skip


def seconds(form: ScanForm | SelectedForm, kernel: AttentionKernel) -> float:
    return float(form.time(kernel, ON).seconds)


def test_a_prompt_s_scan_adds_its_states_its_chunks_and_its_rows():
    kernel = scan(4.0, 640.0)
    rows = 2 * 4 * 16 * 640 * 50_000 / (0.5 * PROCESSORS * RATE * CLOCK)
    chunks = (10 * 1000.0 + 4 * 16 * 10 * 5000.0 / PROCESSORS) / CLOCK
    assert seconds(SCAN, kernel) == pytest.approx(2e-5 + rows + chunks, rel=1e-6)


def test_a_chunk_that_is_not_full_costs_its_fixed_part():
    one, full = scan(256.0, 1.0), scan(256.0, 64.0)
    fixed = 2e-5 + (1000.0 + 256 * 16 * 5000.0 / PROCESSORS) / CLOCK
    assert seconds(SCAN, one) - fixed == pytest.approx((seconds(SCAN, full) - fixed) / 64, rel=1e-6)


@given(st.floats(1, 512), st.floats(1, 1e5), st.floats(1, 128), st.floats(1.0, 4.0))
def test_more_of_anything_is_no_faster_to_scan(sequences: float, tokens: float, heads: float, more: float):
    least = seconds(SCAN, scan(sequences, tokens, heads))
    for larger in (scan(sequences * more, tokens, heads), scan(sequences, tokens * more, heads),
                   scan(sequences, tokens, heads * more)):  # fmt: skip
        assert seconds(SCAN, larger) >= least * (1 - 1e-9)


def test_a_wave_of_queries_takes_the_time_of_one_query():
    cta = (1000.0 + 2 * 64 * 2048 * 1088 / (0.5 * RATE)) / CLOCK
    assert seconds(SELECTED, selected(1.0)) == pytest.approx(1e-5 + cta)
    assert seconds(SELECTED, selected(100.0)) == pytest.approx(1e-5 + cta)
    assert seconds(SELECTED, selected(101.0)) == pytest.approx(1e-5 + 2 * cta)


def test_few_heads_and_empty_slots_cost_what_full_ones_do():
    full = seconds(SELECTED, selected(1000.0))
    assert seconds(SELECTED, selected(1000.0, heads=8.0)) == full
    assert seconds(SELECTED, selected(1000.0, keys=129.0)) == full
    assert seconds(SELECTED, selected(1000.0, heads=65.0)) == pytest.approx(2 * full, rel=0.01)


def test_queries_without_a_selection_cost_their_pairs():
    half = replace(selected(1000.0, keys=1024.0), selected=0.0)
    assert seconds(SELECTED, half) < 0.55 * seconds(SELECTED, selected(1000.0))
