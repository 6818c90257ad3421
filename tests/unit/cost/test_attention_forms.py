"""Calibrated attention against times worked out by hand on a device of round numbers, and properties of its forms."""

from __future__ import annotations

import math
from typing import get_args

import numpy as np
import pytest
from attention_cores import (
    CLOCK,
    DECODE,
    FILL,
    L2,
    LAUNCH,
    MEMORY,
    MMHA,
    PREFILL,
    PROCESSORS,
    RATE,
    STEP,
    VARLEN,
    WIDTH,
    XQA,
    core,
    machine,
)
from builders import DEVICE, with_level
from hypothesis import given
from hypothesis import strategies as st

from costmodel.cost.attention import (
    NO_COPIES,
    DecodeForm,
    PrefillForm,
    SplitKvRule,
    UnsplitKernel,
    WidenedCache,
    split_keys,
)
from costmodel.cost.calibration import FamilyFit
from costmodel.cost.xqa import NarrowHeadKernel, XqaForm
from costmodel.quantities import Quantity
from costmodel.records import replace
from costmodel.workload.operators import AttentionKernel, MixedAttention

# ---- splits ---------------------------------------------------------------------------------------------------------


def rule_of_flash_attention(blocks: int, slots: int, tiles: int, few: int) -> int:
    """Return the splits as the published loop finds them: the fewest with 85 % of the best use of (eight) waves."""
    if blocks >= 0.8 * slots or tiles <= few:
        return 1
    waves = {s: blocks * s / slots for s in range(1, min(tiles, 128, slots) + 1) if blocks * s <= 8 * slots}
    uses = [filled / math.ceil(filled) for filled in waves.values()]
    return next(s for s, use in enumerate(uses, 1) if use >= 0.85 * max(uses))


@given(st.integers(1, 300), st.integers(1, 2000))
def test_splits_are_those_of_the_published_loop(blocks: int, tiles: int) -> None:
    assert split_keys("fa3", float(blocks), 132.0, float(tiles), True) == rule_of_flash_attention(blocks, 132, tiles, 4)
    assert split_keys("fa2", float(blocks), 108.0, float(tiles), True) == rule_of_flash_attention(blocks, 216, tiles, 1)


def test_keys_are_split_to_fill_the_processors_once_or_twice() -> None:
    assert split_keys("once", 30.0, 100.0, 50.0, True) == 3.0
    assert split_keys("twice", 30.0, 100.0, 50.0, True) == 6.0
    assert split_keys("xqa", 30.0, 100.0, 50.0, True) == 20.0  # sqrt(8 * 50)
    assert split_keys("xqa", 60.0, 100.0, 50.0, True) == 13.0
    assert split_keys("xqa", 1.0, 100.0, 3.0, True) == 3.0
    assert split_keys("once", 30.0, 100.0, 2.0, True) == 2.0  # no key tile is cut
    assert split_keys("once", 130.0, 100.0, 50.0, True) == 1.0


def test_the_shared_rule_leaves_heads_with_a_cache_of_their_own_whole() -> None:
    assert split_keys("fa2_shared", 10.0, 100.0, 50.0, True) > 1.0
    assert split_keys("fa2_shared", 10.0, 100.0, 50.0, False) == 1.0


@given(st.sampled_from(get_args(SplitKvRule)), st.floats(1, 500), st.floats(1, 1000))
def test_splits_of_a_grid_are_those_of_its_points(rule: SplitKvRule, blocks: float, tiles: float) -> None:
    grid = split_keys(rule, np.array([math.floor(blocks), 7.0]), 100.0, np.array([math.floor(tiles), 64.0]), True)
    point = split_keys(rule, float(math.floor(blocks)), 100.0, float(math.floor(tiles)), True)
    assert np.broadcast_to(grid, (2,))[0] == point


# ---- prefill --------------------------------------------------------------------------------------------------------


def test_tiles_that_a_window_masks_cost_their_share() -> None:
    rows, window, share = 1280.0, 128.0, 0.25
    causal = core(100.0, 1.0, rows, rows)
    pairs = window * (window + 1) / 2 + (rows - window) * window
    windowed = replace(causal, qk_pairs=pairs, last_query_kv_len=window)
    visiting = replace(PREFILL, masked_tiles=share)
    found = visiting.terms(windowed, machine())
    seen, all_tiles = pairs / rows / 128 + 0.5, (rows + 1) / 2 / 128 + 0.5
    assert found["mean_kv_tiles"] == pytest.approx(seen + share * (all_tiles - seen))
    assert found["serial_tiles"] == 1 + share * (10 - 1)  # of the last queries
    assert PREFILL.terms(windowed, machine())["mean_kv_tiles"] == pytest.approx(seen)
    assert visiting.time(causal, machine()).seconds == PREFILL.time(causal, machine()).seconds
    encoder = replace(causal, qk_pairs=rows * rows)  # sees more than a causal one
    assert visiting.time(encoder, machine()).seconds == PREFILL.time(encoder, machine()).seconds
    early_and_late = replace(causal, q_len=rows / 4, qk_pairs=causal.qk_pairs / 4)  # of a rank that gathers all keys
    assert visiting.time(early_and_late, machine()).seconds == PREFILL.time(early_and_late, machine()).seconds


def test_one_block_takes_its_key_tiles_one_after_another() -> None:
    time = PREFILL.time(core(1.0, 1.0, 64.0, 1280.0), machine())
    # the single block by itself, near the grid's whole wave at half the speed: the larger of the two binds
    expected = LAUNCH + (FILL + 10 * STEP / 0.5) / CLOCK
    assert time.seconds == pytest.approx(expected, rel=0.01)
    assert time.fixed == LAUNCH


def test_many_waves_take_the_mean_block_each() -> None:
    shape = core(50.0, 64.0, 64.0, 64.0)  # 3,200 blocks of one tile: 32 whole waves
    expected = LAUNCH + 32 * (FILL + STEP / 0.5) / CLOCK
    assert PREFILL.time(shape, machine()).seconds == pytest.approx(expected, rel=1e-6)


def test_a_causal_block_takes_half_a_tile_more_than_its_mean_keys() -> None:
    """640 queries on 640 keys: 320.5 keys on the mean, 2.5 tiles of 128, and half of one that the diagonal cuts."""
    shape = core(50.0, 64.0, 640.0, 640.0)  # 32,000 blocks: 320 whole waves
    expected = LAUNCH + 320 * (FILL + (320.5 / 128 + 0.5) * STEP / 0.5) / CLOCK
    assert PREFILL.time(shape, machine()).seconds == pytest.approx(expected, rel=1e-6)


def test_a_wave_that_is_not_full_costs_a_whole_one_with_a_full_tail() -> None:
    full, over = (PREFILL.time(core(count, 64.0, 64.0, 64.0), machine()).seconds for count in (25.0, 25.5))
    assert over - LAUNCH == pytest.approx((full - LAUNCH) * 17 / 16)


def test_long_prompts_run_at_the_share_of_the_peak() -> None:
    shape = core(1.0, 64.0, 65_536.0, 65_536.0)
    assert PREFILL.time(shape, machine()).seconds == pytest.approx(shape.flop / (0.5 * PROCESSORS * RATE * CLOCK), 0.01)


def test_scattered_pages_lengthen_only_what_memory_binds() -> None:
    slow = machine(with_level(DEVICE, "hbm", 1e9))
    shape = core(1.0, 1.0, 64.0, 8192.0)
    cache = 8192 * 2 * WIDTH
    plain, scattered = (replace(PREFILL, paged_kv_penalty=extra).time(shape, slow).seconds for extra in (0.0, 1.0))
    assert scattered - plain == pytest.approx(cache / 1e9, rel=1e-6)


def test_split_keys_shorten_the_longest_block() -> None:
    shape = core(1.0, 1.0, 64.0, 128.0 * 400)
    split = replace(PREFILL, split_kv_rule="fa3", combine_latency=1e-9).time(shape, machine()).seconds
    assert split < PREFILL.time(shape, machine()).seconds / 20


def test_packed_heads_share_a_query_tile() -> None:
    shape = core(200.0, 64.0, 16.0, 1024.0, kv_heads=16.0)  # four heads of 16 queries fill a tile of 64
    packed, apart = (replace(PREFILL, pack_gqa=each).time(shape, machine()).seconds for each in (True, False))
    assert apart - LAUNCH == pytest.approx(4 * (packed - LAUNCH), rel=1e-3)


def test_calls_that_share_a_core_take_their_part_of_the_keys_each() -> None:
    whole = core(1.0, 64.0, 4096.0, 8192.0)
    part = replace(whole, qk_pairs=whole.qk_pairs / 4, traffic=whole.traffic / 4, kv_len=whole.kv_len / 4)
    fit = FamilyFit(basis="fitted", form=PREFILL)
    four = fit.fitted_time(PREFILL, replace(whole, calls=4.0), machine()).seconds
    assert four == pytest.approx(4 * PREFILL.time(part, machine()).seconds)
    grid = fit.fitted_time(PREFILL, replace(whole, calls=np.array([1.0, 4.0])), machine()).seconds
    assert np.asarray(grid).tolist() == pytest.approx([PREFILL.time(whole, machine()).seconds, four])


# ---- decode ---------------------------------------------------------------------------------------------------------


def test_one_decoding_block_pads_its_queries_to_a_tile() -> None:
    expected = LAUNCH + (FILL + 10 * STEP / 0.5) / CLOCK
    assert DECODE.time(core(1.0, 1.0, 1.0, 1280.0), machine()).seconds == pytest.approx(expected, rel=1e-6)
    sharing = DECODE.time(core(1.0, 64.0, 1.0, 1280.0, kv_heads=1.0), machine()).seconds
    assert sharing == pytest.approx(expected + DECODE.copies.gqa_gather, rel=1e-6)


def test_a_block_loads_the_keys_that_there_are_not_a_whole_tile() -> None:
    slow = replace(DECODE, cta_load_rate=1.0)  # byte a cycle: loading binds
    expected = LAUNCH + (FILL + 100 * 2 * WIDTH) / CLOCK
    assert slow.time(core(1.0, 1.0, 1.0, 100.0), machine()).seconds == pytest.approx(expected, rel=1e-6)


def test_decoding_blocks_run_in_waves() -> None:
    block = (FILL + 10 * STEP / 0.5) / CLOCK
    times = [DECODE.time(core(count, 1.0, 1.0, 1280.0), machine()).seconds - LAUNCH for count in (100.0, 101.0, 250.0)]
    assert times == pytest.approx([block, 2 * block, 3 * block], rel=1e-6)


def test_long_caches_stream_at_the_memory_bandwidth() -> None:
    shape = core(1000.0, 8.0, 1.0, 8192.0)
    fast = replace(DECODE, compute_efficiency=100.0, cta_overhead=1.0, cta_overhead_per_dim=0.0)
    assert fast.time(shape, machine(DEVICE)).seconds == pytest.approx(LAUNCH + shape.traffic / MEMORY, rel=0.01)


def test_the_last_wave_waits_for_its_blocks_however_few_they_are() -> None:
    device = with_level(DEVICE, "hbm", MEMORY)
    shape = core(101.0, 1.0, 1.0, 128.0 * 1000)
    one = DECODE.time(replace(shape, sequences=1.0, traffic=shape.traffic / 101), machine(device)).seconds
    full = DECODE.time(replace(shape, sequences=100.0, traffic=shape.traffic * 100 / 101), machine(device)).seconds
    assert DECODE.time(shape, machine(device)).seconds == pytest.approx(full + one - LAUNCH, rel=1e-6)


def test_split_keys_use_idle_processors_and_are_joined() -> None:
    shape = core(1.0, 1.0, 1.0, 128.0 * 100)
    expected = LAUNCH + (FILL + STEP / 0.5) / CLOCK + 3e-6 + 100 * 1e-7
    assert replace(DECODE, split_kv_rule="once").time(shape, machine()).seconds == pytest.approx(expected, rel=1e-6)


def test_queries_are_regrouped_only_with_several_key_heads_and_sequences() -> None:
    extra = []
    for sequences, kv_heads in ((1.0, 1.0), (2.0, 1.0), (1.0, 2.0), (2.0, 2.0)):
        found = DECODE.time(core(sequences, 8.0, 1.0, 128.0, kv_heads=kv_heads), machine()).fixed
        extra.append(found - LAUNCH)
    assert extra == pytest.approx([2e-6, 2e-6, 2e-6, 6e-6])


def test_a_head_of_uneven_width_is_padded() -> None:
    even = core(1.0, 1.0, 1.0, 128.0)
    assert DECODE.time(replace(even, macs_per_pair=384.0), machine()).fixed == pytest.approx(LAUNCH + 8e-6)
    assert DECODE.time(even, machine()).fixed == LAUNCH


def test_a_repeated_run_finds_a_small_cache_in_the_cache_and_a_large_one_in_memory() -> None:
    form = replace(DECODE, compute_efficiency=100.0, cta_overhead=1.0, cta_overhead_per_dim=0.0)
    small, large = core(8.0, 8.0, 1.0, 1000.0), core(800.0, 8.0, 1.0, 1000.0)
    assert small.traffic < L2 < 2 * L2 < large.traffic
    cold, warm = (form.time(small, machine(DEVICE, warm=each)) for each in (False, True))
    assert warm.memory == 0.0
    assert warm.seconds < cold.seconds / 3
    times = [form.time(large, machine(DEVICE, warm=each)).seconds for each in (False, True)]
    assert times[0] == times[1]


def test_neighbours_slow_each_other_where_both_are_in_use() -> None:
    crowded = replace(DECODE, tpc_contention=0.5)
    few, all_of_them = (crowded.time(core(count, 1.0, 1.0, 1280.0), machine()).seconds for count in (50.0, 100.0))
    assert all_of_them - LAUNCH == pytest.approx(1.5 * (few - LAUNCH), rel=1e-6)


# ---- two kernels ----------------------------------------------------------------------------------------------------


def test_the_kernel_for_shared_caches_runs_for_two_to_its_widest_group() -> None:
    fixed = [XQA.time(core(25.0, heads, 1.0, 128.0, kv_heads=1.0), machine()).fixed for heads in (1.0, 2.0, 32.0, 33.0)]
    assert fixed == [9e-6, LAUNCH, LAUNCH, 9e-6]


def test_the_kernel_for_shared_caches_needs_blocks_for_a_quarter_of_the_processors() -> None:
    shapes = [core(24.0, 8.0, 1.0, 128.0, 1.0), core(25.0, 8.0, 1.0, 128.0, 1.0), core(1.0, 8.0, 1.0, 25 * 128.0, 1.0)]
    assert [XQA.time(shape, machine()).fixed for shape in shapes] == [9e-6, LAUNCH, LAUNCH]


def test_without_it_each_query_head_reads_the_cache_again() -> None:
    mmha = replace(MMHA, cta_load_rate=10.0, compute_efficiency=1.0, cta_overhead=1e-9, cta_overhead_per_dim=0.0)
    loading = replace(XQA, mmha=mmha)
    own = loading.time(core(100.0, 64.0, 1.0, 1280.0, kv_heads=1.0), machine()).seconds
    assert own - 9e-6 == pytest.approx(64 * 1280 * 2 * WIDTH / 10.0 / CLOCK, rel=1e-6)


def test_queries_of_a_key_head_come_in_multiples_and_heads_in_powers_of_two() -> None:
    ending = replace(
        XQA,
        q_multiple=8,
        epilogue_per_q_dim=10.0,
        cta_overhead=1e-9,
        cta_overhead_per_dim=0.0,
        compute_efficiency=1e9,
        min_block_factor=1000,
    )

    def end(sharing: float, width: float) -> float:
        shape = replace(core(1.0, sharing, 1.0, 128.0, kv_heads=1.0), macs_per_pair=width)
        return float(ending.time(shape, machine()).seconds - LAUNCH)

    assert end(8.0, 256.0) == pytest.approx(10.0 * 8 * 256 / CLOCK, rel=1e-6)
    assert end(2.0, 256.0) == pytest.approx(end(8.0, 256.0))
    assert end(9.0, 256.0) == pytest.approx(2 * end(8.0, 256.0), rel=1e-6)
    assert end(8.0, 384.0) == pytest.approx(2 * end(8.0, 256.0), rel=1e-6)


def test_wide_blocks_share_a_processor_with_fewer_others() -> None:
    two = replace(
        XQA, q_multiple=8, occupancy=2, occupancy_elements=2 * 8 * 256, compute_efficiency=1e9, cta_overhead_per_dim=0.0
    )

    def waves(width: float) -> float:
        shape = replace(core(200.0, 8.0, 1.0, 128.0, kv_heads=1.0), macs_per_pair=width)
        return float((two.time(shape, machine()).seconds - LAUNCH) * CLOCK / two.cta_overhead)

    assert waves(256.0) == pytest.approx(2.0, rel=1e-6)  # one wave of two blocks to a processor, one after the other
    assert waves(512.0) == pytest.approx(2.0, rel=1e-6)  # two waves of one
    assert float(np.asarray(two.occupancy)) == 2


def test_narrow_heads_run_on_a_kernel_of_their_own() -> None:
    narrow = NarrowHeadKernel(launch=5e-6, cta_overhead=1000.0, max_dims=128, occupancy=4)
    plain = replace(XQA, min_block_factor=1000, narrow_head=narrow)
    shapes = [
        replace(core(1.0, heads, 1.0, 128.0, 1.0), macs_per_pair=width)
        for heads, width in ((8, 128), (8, 256), (1, 128))
    ]
    assert [plain.time(shape, machine()).fixed for shape in shapes] == [5e-6, LAUNCH, 9e-6]


# ---- several populations --------------------------------------------------------------------------------------------


def together(*parts: AttentionKernel) -> MixedAttention:
    return MixedAttention("attention", parts)


def test_parts_share_the_processors() -> None:
    chunk, decode = core(1.0, 100.0, 64.0, 64.0), core(9.0, 100.0, 1.0, 64.0)
    expected = LAUNCH + 10 * (FILL - WIDTH + STEP / 0.5) / CLOCK
    assert VARLEN.time(together(chunk, decode), machine()).seconds == pytest.approx(expected, rel=1e-6)


def test_the_longest_sequence_bounds_a_small_grid() -> None:
    chunk, decode = core(1.0, 1.0, 64.0, 64.0), core(1.0, 1.0, 1.0, 128.0 * 1000)
    expected = LAUNCH + (1000.0 + 1000 * STEP) / CLOCK
    assert VARLEN.time(together(chunk, decode), machine()).seconds == pytest.approx(expected, rel=1e-6)


def test_short_sequences_leave_empty_blocks_beside_a_long_prompt() -> None:
    decode = core(1000.0, 100.0, 1.0, 128.0)
    short, long = (
        VARLEN.time(together(core(1.0, 1.0, rows, 640.0), decode), machine()).seconds for rows in (64.0, 640.0)
    )
    assert long - short == pytest.approx(1000 * 9 * 100.0 / CLOCK, rel=0.1)  # 9 empty blocks of 100 cycles a sequence


def test_heads_that_share_a_cache_read_it_again_once_it_leaves_the_cache() -> None:
    slow = machine(with_level(DEVICE, "hbm", 1e10))
    fits, leaves = core(100.0, 32.0, 1.0, 500.0, kv_heads=8.0), core(100.0, 32.0, 1.0, 5000.0, kv_heads=8.0)
    assert VARLEN.time(together(fits), slow).memory == pytest.approx(fits.traffic / 1e10)
    again = 100 * 5000 * 2 * WIDTH * 8 * 3  # one head of all sequences at a time: three of four find nothing
    assert VARLEN.time(together(leaves), slow).memory == pytest.approx((leaves.traffic + again) / 1e10)


def test_a_mixed_kernel_does_the_work_of_its_parts() -> None:
    chunk, decode = core(1.0, 8.0, 64.0, 64.0), core(9.0, 8.0, 1.0, 64.0)
    whole = together(chunk, decode)
    assert (whole.flop, whole.traffic) == (chunk.flop + decode.flop, chunk.traffic + decode.traffic)
    assert whole.variant == "bf16"


# ---- properties -----------------------------------------------------------------------------------------------------

COUNTS = st.sampled_from([1.0, 2.0, 7.0, 64.0, 300.0])
KEYS = st.integers(1, 100_000).map(float)
FORMS = st.sampled_from([
    PREFILL, replace(PREFILL, pack_gqa=True, split_kv_rule="fa3"), DECODE, replace(DECODE, split_kv_rule="fa2"),
    replace(DECODE, split_kv_rule="twice", occupancy=2, tpc_contention=0.3), XQA,
])  # fmt: skip


@given(FORMS, COUNTS, COUNTS, KEYS, st.floats(1.0, 10.0))
def test_more_bandwidth_or_peak_is_never_slower(
    form: PrefillForm | DecodeForm | XqaForm, sequences: float, sharing: float, keys: float, factor: float
) -> None:
    shape = core(sequences, 4 * sharing, 1.0, keys, kv_heads=4.0)
    base = form.time(shape, machine(DEVICE)).seconds
    assert form.time(shape, machine(with_level(DEVICE, "hbm", factor * MEMORY))).seconds <= base * (1 + 1e-12)
    unit = replace(DEVICE.math["bf16"], flop_per_cycle=factor * RATE)
    faster = replace(DEVICE, math={**DEVICE.math, "bf16": unit})
    assert form.time(shape, machine(faster)).seconds <= base * (1 + 1e-12)


@given(FORMS, COUNTS, KEYS)
def test_cold_kernels_are_no_faster_than_the_roofline(
    form: PrefillForm | DecodeForm | XqaForm, sequences: float, keys: float
) -> None:
    shape = core(sequences, 32.0, 1.0, keys, kv_heads=8.0)
    floor = max(shape.traffic / MEMORY, shape.flop / (PROCESSORS * RATE * CLOCK))
    assert form.time(shape, machine(DEVICE)).seconds >= floor * (1 - 1e-9)


@given(FORMS, st.lists(st.tuples(COUNTS, KEYS), min_size=2, max_size=5))
def test_a_grid_is_its_points(form: PrefillForm | DecodeForm | XqaForm, points: list[tuple[float, float]]) -> None:
    sequences, keys = (np.array(column) for column in zip(*points, strict=True))
    grid = form.time(core(sequences, 32.0, 1.0, keys, kv_heads=8.0), machine(DEVICE, warm=True))
    for place, (count, length) in enumerate(points):
        point = form.time(core(count, 32.0, 1.0, length, kv_heads=8.0), machine(DEVICE, warm=True))
        assert np.broadcast_to(grid.seconds, keys.shape)[place] == pytest.approx(point.seconds, rel=1e-12)
        assert np.broadcast_to(grid.memory, keys.shape)[place] == pytest.approx(point.memory, rel=1e-12)


@given(st.lists(st.tuples(COUNTS, KEYS), min_size=2, max_size=5))
def test_a_grid_of_mixed_kernels_is_its_points(points: list[tuple[float, float]]) -> None:
    sequences, keys = (np.array(column) for column in zip(*points, strict=True))

    def mixed(count: Quantity, length: Quantity) -> MixedAttention:
        return together(core(1.0, 32.0, 100.0, 512.0, kv_heads=8.0), core(count, 32.0, 1.0, length, kv_heads=8.0))

    grid = VARLEN.time(mixed(sequences, keys), machine(DEVICE)).seconds
    for place, (count, length) in enumerate(points):
        assert np.asarray(grid)[place] == pytest.approx(VARLEN.time(mixed(count, length), machine(DEVICE)).seconds)


# ---- tiles of keys, and blocks over part of them ---------------------------------------------------------------------


def test_a_tile_of_keys_is_not_split_however_wide_the_heads() -> None:
    """One sequence of one key head: 128 keys in one piece, 256 in two, which are then joined."""
    form = replace(DECODE, split_kv_rule="once", kv_tile=128, copies=NO_COPIES, combine_per_split=0.0)
    one, two = (float(form.time(core(1.0, 4.0, 1.0, keys, 1.0), machine()).seconds) for keys in (128.0, 256.0))
    assert two - one == pytest.approx(3e-6, rel=0.02)
    narrow = replace(form, kv_tile=0, kv_tile_elements=16_384)  # tiles of 64 keys, of which 128 are two
    assert float(narrow.time(core(1.0, 4.0, 1.0, 128.0, 1.0), machine()).seconds) > one + 2e-6


def test_blocks_over_part_of_the_keys_load_at_their_own_rate() -> None:
    """Loading binds: 8,192 keys of 512 bytes in 64 pieces at 4 bytes a cycle, or in one block at 8."""
    form = replace(
        DECODE,
        split_kv_rule="once",
        cta_load_rate=8.0,
        split_load_rate=4.0,
        combine_latency=0.0,
        combine_per_split=0.0,
        copies=NO_COPIES,
    )
    cycles = 8192 * 512 / 64 / 4 + FILL
    assert float(form.time(core(1.0, 1.0, 1.0, 8192.0), machine()).seconds) == pytest.approx(
        LAUNCH + cycles / CLOCK, rel=0.01
    )
    whole = replace(form, split_kv_rule="never")
    assert float(whole.time(core(1.0, 1.0, 1.0, 8192.0), machine()).seconds) == pytest.approx(
        LAUNCH + (8192 * 512 / 8 + FILL) / CLOCK, rel=0.01
    )


def test_keys_in_one_piece_may_have_a_kernel_of_their_own() -> None:
    """256 keys of width 128 + 128: under 128 rows, or in two halves as ever."""
    rows = UnsplitKernel(q_tile=128, compute_efficiency=0.5)
    form = replace(DECODE, copies=NO_COPIES, unsplit=rows, kv_tile=128, combine_latency=0.0, combine_per_split=0.0)
    flop_per_cycle = machine().device.math["bf16"].flop_per_cycle
    shape = core(1.0, 1.0, 1.0, 256.0)
    whole, split = (replace(form, split_kv_rule=rule).terms(shape, machine()) for rule in ("never", "once"))
    assert whole["math_cycles"] == pytest.approx(2 * 128 * 256 * 256 / (0.5 * flop_per_cycle))
    plain = replace(form, unsplit=None, split_kv_rule="once").terms(shape, machine())
    assert split["splits"] == 2
    assert split["math_cycles"] == plain["math_cycles"]


def test_a_cache_that_is_copied_wider_is_read_twice() -> None:
    """A latent cache of 64 sequences of 4,096 keys, 576 bytes a token: copied at a quarter of 2 TB/s, then read."""
    cache = 64.0 * 4096.0 * 576.0
    narrow = replace(core(64.0, 128.0, 1.0, 4096.0, 1.0), kv_token_bytes=576.0, traffic=cache + 1e6)
    wide = replace(narrow, kv_token_bytes=1152.0, traffic=2.0 * cache + 1e6)
    copying = replace(DECODE, widening=WidenedCache(factor=2.0, rate=0.25))
    copied = copying.time(narrow, machine(DEVICE))
    assert float(copied.seconds - DECODE.time(wide, machine(DEVICE)).seconds) == pytest.approx(3.0 * cache / 0.5e12)
    assert copied.bound == "memory"
    sizes = np.array([1024.0, 4096.0])
    grid = replace(narrow, kv_len=sizes, qk_pairs=sizes, traffic=64.0 * sizes * 576.0 + 1e6)
    assert copying.time(grid, machine(DEVICE)).seconds[1] == pytest.approx(float(copied.seconds), rel=1e-12)


def test_each_query_row_of_a_block_ends_with_a_step() -> None:
    shape = core(1.0, 8.0, 1.0, 128.0, 1.0)
    without, of_rows = (
        float(replace(DECODE, epilogue_per_q_dim=each).time(shape, machine()).seconds) for each in (0.0, 2.0)
    )
    assert of_rows - without == pytest.approx(2.0 * 8 * WIDTH / CLOCK, rel=0.01)
