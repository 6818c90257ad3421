"""Kernel times against times worked out by hand on a device of round numbers."""

from __future__ import annotations

import numpy as np
import pytest
from builders import DEVICE, FRAMEWORK, MACHINE, with_level, with_math

from costmodel.cost.calibration import ROOFLINE, FamilyFit
from costmodel.cost.expected_roofline import ExpectedForm, bare_times
from costmodel.cost.kernels import (
    attention_terms,
    attention_time,
    elementwise_terms,
    gemm_terms,
    gemm_time,
    mixed_terms,
    tile_terms,
)
from costmodel.cost.promotion import expected_loop, shortest_loop
from costmodel.cost.time import Machine, Time, kernel
from costmodel.hardware import MathUnit
from costmodel.quantities import Quantity
from costmodel.records import replace
from costmodel.workload.operators import AttentionKernel, Elementwise, Gemm, MixedAttention
from costmodel.workload.scenario import Tile

LAUNCH, PEAK, MEMORY = 1e-6, 1e15, 2e12  # of the test device in BF16
WIDE = with_level(with_level(DEVICE, "hbm", 1e16), "l2", 1e16)  # only arithmetic binds


def gemm(m: Quantity, n: float, k: float, dtype: str = "bf16", groups: float = 1.0) -> Gemm:
    element = 1.0 if dtype == "fp8" else 2.0
    scaled = dtype == "fp8"  # by blocks, which the kernel applies
    return Gemm(
        "product", m=m, n=n, k=k, dtype=dtype, a_bytes=element, b_bytes=element, out_bytes=2.0, groups=groups,
        block_scaled=scaled,
    )  # fmt: skip


def machine(tiles: tuple[Tile, ...] = (Tile(128, 128),), processors: Quantity = 100.0) -> Machine:
    return Machine(WIDE, replace(FRAMEWORK, gemm_tiles=tiles), processors)


def core(rows: float, heads: float, pairs: float, traffic: float, family: str = "attention_prefill") -> AttentionKernel:
    return AttentionKernel(
        "core",
        sequences=1.0,
        heads=heads,
        q_len=rows,
        qk_pairs=pairs,
        macs_per_pair=128.0,
        dtype="bf16",
        traffic=traffic,
        family=family,
    )


# ---- matrix products ------------------------------------------------------------------------------------------------


def test_whole_waves_of_whole_tiles_run_at_the_peak() -> None:
    shape = gemm(10 * 128, 10 * 128, 32_768)  # a hundred tiles on a hundred processors
    time = gemm_time(shape, machine(), ROOFLINE)
    assert time.seconds == pytest.approx(LAUNCH + 2 * 1280**2 * 32_768 / PEAK)
    assert time.bound == "compute"


def test_one_tile_too_many_takes_a_second_wave() -> None:
    full, over = (gemm_time(gemm(10 * 128, n, 32_768), machine(), ROOFLINE).seconds for n in (1280, 1281))
    assert over - LAUNCH == pytest.approx(2 * (full - LAUNCH))


def test_processors_held_by_communication_lengthen_a_product_by_whole_waves() -> None:
    times = [
        gemm_time(gemm(1280, 1280, 32_768), machine(processors=count), ROOFLINE).seconds for count in (100, 99, 51)
    ]
    assert times[1] == times[2] == pytest.approx(LAUNCH + 2 * (times[0] - LAUNCH))


def test_a_thin_product_waits_for_memory() -> None:
    shape = gemm(1, 8192, 8192)
    time = gemm_time(shape, MACHINE, ROOFLINE)
    assert time.seconds == pytest.approx(LAUNCH + shape.traffic / MEMORY, rel=1e-6)
    assert time.bound == "memory"


def test_a_serial_k_chain_bounds_a_product_with_few_tiles() -> None:
    shape = gemm(128, 128, 65_536)
    serial = gemm_time(shape, machine(), ROOFLINE)
    assert serial.seconds == pytest.approx(LAUNCH + 2 * 128 * 128 * 65_536 / (PEAK / 100))
    split = gemm_time(shape, machine((Tile(128, 128), Tile(128, 128, 8))), ROOFLINE)
    assert split.seconds == pytest.approx(LAUNCH + (serial.seconds - LAUNCH) / 8, rel=0.01)


def test_split_sums_pay_their_traffic() -> None:
    slow = with_level(DEVICE, "hbm", 1e9)
    shape = gemm(128, 128, 1024)
    split = gemm_time(shape, Machine(slow, replace(FRAMEWORK, gemm_tiles=(Tile(128, 128, 4),)), 100.0), ROOFLINE)
    assert split.seconds == pytest.approx(LAUNCH + (shape.traffic + 8 * 128 * 128 * 3) / 1e9)


def test_groups_share_waves() -> None:
    one = gemm_time(gemm(128, 1280, 32_768, groups=10), machine(), ROOFLINE)
    assert one.seconds == pytest.approx(LAUNCH + 10 * 2 * 128 * 1280 * 32_768 / PEAK)


def test_the_second_level_cache_feeds_tiles() -> None:
    slow = with_level(WIDE, "l2", 1e11)
    time = gemm_time(gemm(1280, 1280, 4096), Machine(slow, machine().framework, 100.0), ROOFLINE)
    assert time.seconds == pytest.approx(LAUNCH + 100 * 4096 * 256 * 2 / 1e11)


def test_a_cache_without_a_stated_bandwidth_never_binds() -> None:
    levels = tuple(replace(each, bandwidth=None) if each.name == "l2" else each for each in WIDE.memory)
    unknown = replace(WIDE, memory=levels)
    time = gemm_time(gemm(1280, 1280, 32_768), Machine(unknown, machine().framework, 100.0), ROOFLINE)
    assert time.seconds == pytest.approx(LAUNCH + 2 * 1280**2 * 32_768 / PEAK)


def test_more_candidate_tiles_are_never_slower() -> None:
    tiles = (Tile(128, 128), Tile(64, 64), Tile(64, 64, 4), Tile(256, 128))
    for shape in (gemm(1, 4096, 4096), gemm(100, 7168, 2048), gemm(4096, 4096, 4096)):
        times = [gemm_time(shape, machine(tiles[:count]), ROOFLINE).seconds for count in range(1, 5)]
        assert times == sorted(times, reverse=True)


def test_an_array_of_products_takes_what_each_takes() -> None:
    rows = np.array([1.0, 77.0, 128.0, 129.0, 5000.0])
    together = np.asarray(gemm_time(gemm(rows, 2048, 1024), MACHINE, ROOFLINE).seconds)
    apart = [float(gemm_time(gemm(float(row), 2048, 1024), MACHINE, ROOFLINE).seconds) for row in rows]
    np.testing.assert_allclose(together, apart, rtol=1e-14)


# ---- the FP8 unit ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("accumulate", "scaling", "promotes"),
    [("fp32", "native", False), ("fp32", "software", True), ("fp22", "native", True), ("fp22", "software", True)],
)
def test_promotions_go_only_with_full_accumulation_and_native_scaling(
    accumulate: str, scaling: str, promotes: bool
) -> None:
    # CUDA cores so slow that promotions bind: 1 FLOP a cycle, against 20,000 / 128 that the tensor core would need.
    device = with_math(WIDE, "fp32", MathUnit(1.0, 1e9))
    device = with_math(device, "fp8", MathUnit(20_000.0, 1e9, accumulate, scaling))
    shape = gemm(1280, 1280, 32_768, "fp8")
    time = gemm_time(shape, Machine(device, machine().framework, 100.0), ROOFLINE)
    tensor, promotion = shape.flop / 2e15, shape.flop / 128 / (1e9 * 100)
    assert time.seconds == pytest.approx(LAUNCH + (promotion if promotes else tensor))


def test_promotions_hide_behind_the_tensor_cores_of_a_balanced_device() -> None:
    shape = gemm(1280, 1280, 32_768, "fp8")
    assert gemm_time(shape, machine(), ROOFLINE).seconds == pytest.approx(LAUNCH + shape.flop / 2e15)


def test_a_cache_without_a_bandwidth_is_no_term_of_a_product() -> None:
    shape, seen = gemm(128, 128, 128), machine()
    l2 = seen.device.level("l2")
    assert l2 is not None
    memory = tuple(replace(level, bandwidth=None) if level is l2 else level for level in seen.device.memory)
    unknown = replace(seen, device=replace(seen.device, memory=memory))
    assert gemm_terms(shape, seen, ROOFLINE)["l2_bandwidth"] == l2.bandwidth
    assert "l2_bandwidth" not in gemm_terms(shape, unknown, ROOFLINE)


@pytest.mark.parametrize(
    ("rows", "shortest", "expected"),
    [
        (64, 256.0 + 64.0, 256.0 + 64.0),  # one warpgroup: either its WGMMAs or its promotions
        (128, 512.0, 512.0 + 128.0**2 / (512.0 + 128.0)),  # two: 128 cycles of promotions beside 512 of WGMMAs
        (256, 1024.0, 1024.0 + 256.0**2 / (1024.0 + 256.0)),
    ],
)
def test_hopper_promotes_128_columns_by_hand(rows: int, shortest: float, expected: float) -> None:
    """A tile of `rows` x 128 x 128: rows*128*128 / 4096 cycles of WGMMAs, rows*128 / 128 of multiply-adds."""
    device = with_math(with_math(WIDE, "fp32", MathUnit(256.0, 1e9)), "fp8", MathUnit(8192.0, 1e9, "fp22", "software"))
    seen = Machine(device, machine((Tile(rows, 128),)).framework, 1.0)
    shape = gemm(rows, 128, 128, "fp8")
    for overlap, cycles in ((shortest_loop, shortest), (expected_loop, expected)):
        (terms,) = tile_terms(shape, seen, ROOFLINE, overlap)
        assert terms["loop_time"] == pytest.approx(cycles * 1e-9)
        assert terms["chip_time"] == terms["loop_time"]
    assert bare_times(shape, seen, 1.0)[0] == pytest.approx(expected * 1e-9)
    assert gemm_time(shape, seen, ROOFLINE).seconds == pytest.approx(LAUNCH + shortest * 1e-9)
    (terms,) = tile_terms(replace(shape, block_scaled=False), seen, ROOFLINE, expected_loop)
    assert terms["loop_time"] == pytest.approx(rows * 4e-9)  # sums stay in the tensor cores


@pytest.mark.parametrize("groups", [1, 2, 3])
def test_a_promoted_loop_lies_between_its_longer_unit_and_both_in_turn(groups: int) -> None:
    tensor, promotion = np.array([1e-6, 3e-6, 1e-6]), np.array([0.0, 1e-6, 8e-6])
    shortest, expected = (f(tensor, promotion, groups) for f in (shortest_loop, expected_loop))
    assert np.all(shortest >= np.maximum(tensor, promotion))
    assert np.all(expected >= shortest * (1 - 1e-12))
    assert np.all(expected <= (tensor + promotion) * (1 + 1e-12))
    assert expected[0] == pytest.approx(1e-6)
    if groups == 3:  # T = 3, P = 1: (27 + 9 + 3 + 1) / (9 + 3 + 1)
        assert expected[1] == pytest.approx(40 / 13 * 1e-6)


def test_bf16_products_do_not_promote() -> None:
    slow = with_math(WIDE, "fp32", MathUnit(1e-3, 1e9))
    shape = gemm(1280, 1280, 32_768)
    assert gemm_time(shape, Machine(slow, machine().framework, 100.0), ROOFLINE).seconds == pytest.approx(
        LAUNCH + shape.flop / PEAK
    )


@pytest.mark.parametrize("interval", [16.0, 64.0, 128.0])
def test_software_scaling_is_never_faster(interval: float) -> None:
    for vector in (10.0, 100.0, 500.0):
        times = []
        for scaling in ("native", "software"):
            device = with_math(WIDE, "fp32", MathUnit(vector, 1e9))
            device = with_math(device, "fp8", MathUnit(20_000.0, 1e9, "fp32", scaling))
            kernels = replace(FRAMEWORK, promotion_interval=interval)
            times.append(gemm_time(gemm(4096, 4096, 7168, "fp8"), Machine(device, kernels, 100.0), ROOFLINE).seconds)
        assert times[0] <= times[1]


# ---- attention and streaming ----------------------------------------------------------------------------------------


def test_attention_runs_whole_query_tiles_in_whole_waves() -> None:
    full = attention_time(core(1280, 10, 1280 * 1280, 1e3), MACHINE, ROOFLINE)
    flop = 2 * 10 * 1280 * 1280 * 128
    assert full.seconds == pytest.approx(LAUNCH + flop / PEAK)
    half = attention_time(core(1280, 10, 1280 * 1280, 1e3), MACHINE, FamilyFit(compute_efficiency=0.5))
    assert half.seconds == pytest.approx(LAUNCH + 2.0 * flop / PEAK)
    ragged = attention_time(core(1281, 10, 1280 * 1280, 1e3), MACHINE, ROOFLINE)  # 11 tiles a head: two waves
    assert ragged.seconds == pytest.approx(LAUNCH + flop / PEAK * (11 / (1281 / 128)) * 200 / 110)


def test_decoding_streams_its_cache_and_has_no_waves() -> None:
    reading = attention_time(core(1, 8, 4096, 1e9, "attention_decode"), MACHINE, ROOFLINE)
    assert reading.seconds == pytest.approx(LAUNCH + 1e9 / MEMORY)
    assert reading.bound == "memory"
    busy = attention_time(core(1, 1, 4096, 0.0, "attention_decode"), MACHINE, ROOFLINE)
    assert busy.seconds == pytest.approx(LAUNCH + 2 * 4096 * 128 / PEAK)


def elementwise_time(operator: Elementwise, machine: Machine, fit: FamilyFit) -> Time:
    terms = elementwise_terms(operator, machine, fit)
    return kernel(0.0, terms["hbm_time"], terms["launch"])


def test_streaming_takes_its_bytes_over_the_bandwidth() -> None:
    time = elementwise_time(Elementwise("norm", 4e6), MACHINE, ROOFLINE)
    assert time.seconds == pytest.approx(LAUNCH + 2e-6)
    assert elementwise_time(Elementwise("norm", 1.0), MACHINE, ROOFLINE).bound == "latency"


def test_an_efficiency_divides_its_own_resource_only() -> None:
    fit = FamilyFit(compute_efficiency=0.5, hbm_efficiency=0.25, launch_factor=3.0)
    busy, thin = gemm(1280, 1280, 32_768), gemm(1, 8192, 8192)
    plain, slowed = (gemm_time(busy, machine(), each).seconds for each in (FamilyFit(), fit))
    assert slowed - 3 * LAUNCH == pytest.approx(2 * (plain - LAUNCH))
    plain, slowed = (gemm_time(thin, MACHINE, each).seconds for each in (FamilyFit(), fit))
    assert slowed - 3 * LAUNCH == pytest.approx(4 * (plain - LAUNCH), rel=0.01)
    streamed = elementwise_time(Elementwise("norm", 4e6), MACHINE, fit).seconds
    assert streamed == pytest.approx(3 * LAUNCH + 8e-6)


def test_terms_of_a_kernel_without_a_form_are_its_time_and_scale_as_their_fit_says() -> None:
    """A launch by its factor, tensor work and bytes by their efficiencies; of several populations the sum of theirs."""
    part = AttentionKernel(
        "core", sequences=4.0, heads=8.0, q_len=64.0, qk_pairs=4096.0, macs_per_pair=256.0, dtype="bf16", traffic=1e7,
        family="attention_prefill", kv_heads=8.0, kv_len=96.0, kv_token_bytes=512.0,
    )  # fmt: skip
    fit = replace(ROOFLINE, launch_factor=3.0, compute_efficiency=0.5, hbm_efficiency=0.25)
    both = mixed_terms(MixedAttention("both", (part, part)), MACHINE, fit)
    one, best = attention_terms(part, MACHINE, fit), attention_terms(part, MACHINE, ROOFLINE)
    assert both["launch"] == one["launch"] == pytest.approx(3.0 * FRAMEWORK.launch)
    assert both["compute_time"] == pytest.approx(2.0 * one["compute_time"])
    assert both["hbm_time"] == pytest.approx(2.0 * one["hbm_time"])
    assert one["compute_time"] >= best["compute_time"]
    assert one["hbm_time"] == pytest.approx(4.0 * part.traffic / MACHINE.hbm_bandwidth)


def test_places_of_a_fit_are_octaves_of_work_and_bytes_and_of_none_the_first() -> None:
    form = ExpectedForm(launch=0.0, compute_efficiency=1.0, hbm_efficiency=1.0)
    once, twice = (form.features(gemm(m, 1024.0, 512.0)) for m in (128.0, 256.0))
    assert twice[0] - once[0] == pytest.approx(1.0)
    assert 0.0 < twice[1] - once[1] < 1.0  # the other operand is read once
    assert form.features(Elementwise("copy", 0.0)) == (0.0, 0.0)
