"""Matrix products from a fitted form: limits by hand, the library's choice of tiles, what each further term adds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from builders import FRAMEWORK
from hypothesis import given
from hypothesis import strategies as st

from costmodel.cost.calibration import FamilyFit
from costmodel.cost.gemm import GemmForm, SplitK, scaled_droop
from costmodel.cost.operator_time import operator_time
from costmodel.cost.parameter import build
from costmodel.cost.time import Machine
from costmodel.hardware import Device
from costmodel.records import replace
from costmodel.schema.files import load_device
from costmodel.workload.operators import Gemm

DEVICE = load_device("h800-sxm")
MACHINE = Machine(DEVICE, FRAMEWORK, DEVICE.processors)
CLOCK = DEVICE.math["bf16"].clock
BANDWIDTH = DEVICE.device_memory.bandwidth or 0.0
FREE = 1e9  # of a rate: so fast that it never binds


def form(**given: Any) -> GemmForm:
    """Return a form of which only the tensor cores bind, in tiles of 128 x 128."""
    plain: dict[str, Any] = {
        **dict.fromkeys(("launch", "cta_overhead", "k_step", "small_tile_loss"), 0.0),
        **dict.fromkeys(("hbm_efficiency", "cta_load_rate", "l2_rate"), FREE),
        "compute_efficiency": 1.0, "overlap_p": 12.0, "tiles": ((128, 128),), "has_split_k": False,
    }  # fmt: skip
    return build(GemmForm, plain | given)


def product(m: Any, n: Any, k: Any, dtype: str = "bf16", *, block_scaled: bool = False) -> Gemm:
    width = 2.0 if dtype == "bf16" else 1.0
    return Gemm(
        "product", m=m, n=n, k=k, dtype=dtype, a_bytes=width, b_bytes=width, out_bytes=2.0, block_scaled=block_scaled
    )


def seconds(gemm: Gemm, machine: Machine = MACHINE, **given: Any) -> Any:
    return form(**given).time(gemm, machine).seconds


SMALL = ((16, 64),)
THIN = product(1.0, 8192.0, 8192.0)
WAVE = product(12 * 128.0, 11 * 128.0, 4096.0)  # 132 tiles of 128 x 128


def test_a_full_wave_runs_at_the_peak() -> None:
    assert seconds(WAVE) == pytest.approx(WAVE.flop / DEVICE.peak("bf16"), rel=1e-9)


def test_one_tile_more_takes_a_second_wave() -> None:
    more = replace(WAVE, n=WAVE.n + 1.0)
    assert seconds(more) == pytest.approx(2 * seconds(WAVE), rel=1e-9)


def test_a_serial_k_chain_bounds_a_product_of_one_tile() -> None:
    chain = product(16.0, 128.0, 65536.0, "fp8")  # 512 steps of 128 bytes
    assert seconds(chain, k_step=220.0, tiles=((64, 16),)) == pytest.approx(
        512 * 220.0 / DEVICE.math["fp8"].clock, rel=1e-6
    )


def test_a_block_pays_its_fill_once_a_wave() -> None:
    assert seconds(WAVE, cta_overhead=1000.0) - seconds(WAVE) == pytest.approx(1000.0 / CLOCK, rel=1e-6)


def test_a_block_waits_for_what_it_loads() -> None:
    """128 rows and 64 columns of two bytes, 4,096 deep, at 8 bytes a cycle; the next level gives as much to each."""
    wide = product(128.0, 64.0, 4096.0)
    loaded = (128 + 64) * 2 * 4096
    assert seconds(wide, cta_load_rate=8.0, tiles=((128, 64),)) == pytest.approx(loaded / 8 / CLOCK, rel=1e-6)
    assert seconds(wide, l2_rate=0.01, tiles=((128, 64),)) == pytest.approx(
        loaded / (0.01 * DEVICE.processors * CLOCK), rel=1e-6
    )


def test_a_thin_product_waits_for_memory() -> None:
    assert seconds(THIN, hbm_efficiency=0.8, tiles=SMALL) == pytest.approx(THIN.traffic / (0.8 * BANDWIDTH), rel=1e-3)


def test_the_first_bytes_push_others_out_of_the_cache() -> None:
    given = {"hbm_efficiency": 0.8, "tiles": SMALL, "writeback_ratio": 0.5}
    plain = THIN.traffic / (0.8 * BANDWIDTH)
    assert seconds(THIN, writeback_limit=1e7, **given) == pytest.approx(plain + 0.5e7 / (0.8 * BANDWIDTH), rel=1e-3)
    assert seconds(THIN, writeback_limit=1e12, **given) == pytest.approx(1.5 * plain, rel=1e-3)


def test_splitting_k_fills_the_processors_and_pays_its_sums() -> None:
    few = product(128.0, 128.0, 1024.0 * 132)
    whole, split = seconds(few), seconds(few, has_split_k=True, splitk_bytes=0.0, splitk_latency=1e-6)
    assert split == pytest.approx(whole / 132 + 1e-6, rel=1e-3)


def test_a_full_load_slows_the_clock_and_an_empty_one_does_not() -> None:
    assert seconds(WAVE, clock_droop=0.2) == pytest.approx(1.2 * seconds(WAVE), rel=1e-9)
    assert seconds(THIN, hbm_efficiency=0.8, clock_droop=0.2) == pytest.approx(
        seconds(THIN, hbm_efficiency=0.8), rel=1e-4
    )


def native(device: Device, **changes: str) -> Machine:
    unit = replace(device.math["fp8"], **changes)
    return replace(MACHINE, device=replace(device, math={**device.math, "fp8": unit}))


def test_a_tile_of_128_cubed_promotes_in_128_cycles_beside_512() -> None:
    scaled = product(12 * 128.0, 11 * 128.0, 4096.0, "fp8", block_scaled=True)
    assert seconds(scaled, exposed_promotion=1.0) == pytest.approx(seconds(scaled) * (512 + 128) / 512, rel=1e-3)


@pytest.mark.parametrize(
    ("changes", "promotes"),
    [
        ({}, True),
        ({"accumulate": "fp32"}, True),
        ({"scaling": "native"}, True),
        ({"accumulate": "fp32", "scaling": "native"}, False),
    ],
)
def test_promotion_goes_only_with_full_accumulation_and_native_scaling(changes: dict[str, str], promotes: bool) -> None:
    scaled = product(4096.0, 4096.0, 4096.0, "fp8", block_scaled=True)
    machine = native(DEVICE, **changes)
    assert (seconds(scaled, machine, exposed_promotion=0.3) > seconds(scaled, machine)) is promotes


def test_kernels_without_block_scales_do_not_promote() -> None:
    plain = product(4096.0, 4096.0, 4096.0, "fp8")
    assert seconds(plain, exposed_promotion=0.3) == seconds(plain)


def test_the_library_takes_the_fewest_waves_whatever_is_fastest() -> None:
    # 64 columns leave two waves of short tiles, 256 one wave of long ones: the rule takes the one.
    wide = product(128.0, 132 * 128.0, 4096.0)
    tiles = ((128, 64), (128, 128))
    assert seconds(wide, tiles=tiles, tile_rule="waves", cta_overhead=500.0) == seconds(
        wide, tiles=((128, 128),), cta_overhead=500.0
    )


def test_of_equal_waves_the_library_takes_the_fullest_last_one() -> None:
    narrow = product(128.0, 128.0 * 64, 4096.0)  # 64 tiles of 128 columns, 128 of 64: one wave each
    assert seconds(narrow, tiles=((128, 128), (128, 64)), tile_rule="waves") == seconds(narrow, tiles=((128, 64),))


def test_tiles_beside_each_other_fill_waves_too() -> None:
    wide = product(256.0, 132 * 256.0, 4096.0)  # 264 tiles of 256 columns: two whole waves; 528 of 128: four
    assert seconds(wide, tiles=((128, 128), (128, 256)), tile_rule="waves", cta_overhead=500.0) == seconds(
        wide, tiles=((128, 256),), cta_overhead=500.0
    )


def test_the_library_takes_its_tile_by_rows() -> None:
    given = {"tiles": ((64, 64), (128, 128)), "tile_rule": "rows", "tile_m_limits": (64,)}
    for rows, tile in ((64.0, (64, 64)), (65.0, (128, 128))):
        gemm = product(rows, 4096.0, 4096.0)
        assert seconds(gemm, **given) == seconds(gemm, tiles=(tile,))


def test_clusters_are_launched_whole() -> None:
    given = {"cluster_shapes": ((2, 1),)}
    assert seconds(product(384.0, 128.0 * 44, 4096.0), **given) == seconds(product(512.0, 128.0 * 44, 4096.0))


def test_a_block_over_the_last_row_is_slower_until_it_is_full() -> None:
    given = {"partial_tile_loss": 0.4, "partial_tile_clusters": 1.0, "cluster_shapes": ((2, 1),)}
    full, over = (product(rows, 66 * 128.0, 4096.0) for rows in (256.0, 136.0))
    assert seconds(full, **given) == seconds(full)
    assert seconds(over, **given) == pytest.approx(seconds(full) * (1.0 + 0.4 * 120 / 128), rel=1e-9)
    assert seconds(product(1.0, 66 * 128.0, 4096.0), **given) == pytest.approx(1.4 * seconds(full), rel=1e-2)


@pytest.mark.parametrize("sides", [(8192.0, 16384.0), (16384.0, 8192.0)])
def test_an_operand_larger_than_the_cache_is_read_again_for_every_strip(sides: tuple[float, float]) -> None:
    # 64 tiles along one side and 128 along the other: each strip of these reads the shorter operand, 1 GiB, again.
    large = product(*sides, 65536.0)
    shorter = min(sides) * large.k * 2.0
    more = seconds(large, hbm_efficiency=0.01, reread_share=1.0, reread_onset=1e-3) - seconds(
        large, hbm_efficiency=0.01
    )
    assert more == pytest.approx(127 * shorter / (0.01 * BANDWIDTH), rel=1e-3)
    assert seconds(large, hbm_efficiency=0.01, reread_share=1.0, reread_onset=1e3) == pytest.approx(
        seconds(large, hbm_efficiency=0.01), rel=1e-6
    )


def test_a_warm_cache_serves_small_weights_only_in_a_benchmark() -> None:
    small = product(1.0, 1024.0, 1024.0)
    given = {"hbm_efficiency": 0.8, "warm_l2_rate": 3.2, "warm_weight_sets": 5.0, "warm_l2_share": 1.0}
    assert seconds(small, **given) == seconds(small, hbm_efficiency=0.8)
    warm = replace(MACHINE, warm_l2=True)
    assert seconds(small, warm, **given) == pytest.approx(seconds(small, hbm_efficiency=3.2), rel=2e-2)
    large = product(1.0, 32768.0, 32768.0)
    assert seconds(large, warm, **given) == pytest.approx(seconds(large, hbm_efficiency=0.8), rel=1e-2)


FORMS = {
    "fastest": form(
        launch=2e-6, compute_efficiency=0.9, hbm_efficiency=0.8, cta_load_rate=60.0, l2_rate=40.0, cta_overhead=900.0,
        k_step=150.0, small_tile_loss=0.3, overlap_p=3.0,
        tiles=((256, 128), (128, 128), (64, 64), (16, 64)), has_split_k=True, splitk_bytes=8.0, splitk_latency=2e-6,
        clock_droop=0.3, writeback_ratio=0.5,
        writeback_limit=1e7,
    ),
    "waves": form(
        launch=2e-6, compute_efficiency=0.9, hbm_efficiency=0.8, cta_load_rate=60.0, l2_rate=40.0, cta_overhead=900.0,
        k_step=150.0, overlap_p=3.0, exposed_promotion=0.2,
        multicast_sync=60.0, multicast_min_m=512, tile_rule="waves",
        tiles=((64, 64), (128, 96), (128, 128), (256, 128)),
    ),
    "rows": form(
        launch=2e-6, compute_efficiency=0.9, hbm_efficiency=0.8, cta_load_rate=60.0, l2_rate=40.0, cta_overhead=900.0,
        k_step=150.0, overlap_p=3.0, tile_rule="rows",
        tiles=((64, 64), (64, 128), (128, 128)), tile_m_limits=(64, 128), cluster_shapes=((1, 8), (2, 1), (2, 1)),
        partial_tile_loss=0.4,
        partial_tile_clusters=5.0, reread_share=0.9, reread_onset=2.0, warm_l2_rate=2.0, warm_weight_sets=5.0,
        warm_l2_share=0.5,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMS)
def test_an_array_of_products_takes_what_each_takes(name: str) -> None:
    random = np.random.default_rng(1)
    m, n, k = (np.ceil(2.0 ** random.uniform(low, 14, 6000)) for low in (0, 5, 7))
    whole = FORMS[name].time(product(m, n, k, "fp8", block_scaled=True), MACHINE).seconds
    some = FORMS[name].time(product(m[:50], n[:50], k[:50], "fp8", block_scaled=True), MACHINE).seconds
    assert np.asarray(whole)[:50] == pytest.approx(some, rel=1e-12)
    for place in range(0, 6000, 500):
        one = product(float(m[place]), float(n[place]), float(k[place]), "fp8", block_scaled=True)
        assert FORMS[name].time(one, MACHINE).seconds == pytest.approx(np.asarray(whole)[place], rel=1e-12)


sizes = st.integers(0, 14).map(lambda power: float(2**power))


@pytest.mark.parametrize("name", FORMS)
@given(m=sizes, n=sizes, k=sizes, factor=st.floats(1.0, 4.0))
def test_more_bandwidth_peak_or_clock_is_never_slower(name: str, m: float, n: float, k: float, factor: float) -> None:
    gemm = product(m, n, k, "fp8", block_scaled=True)
    before = FORMS[name].time(gemm, MACHINE).seconds
    unit, memory = DEVICE.math["fp8"], DEVICE.memory
    for better in (
        replace(DEVICE, math={**DEVICE.math, "fp8": replace(unit, flop_per_cycle=unit.flop_per_cycle * factor)}),
        replace(DEVICE, math={**DEVICE.math, "fp8": replace(unit, clock=unit.clock * factor)}),
        replace(DEVICE, memory=(*memory[:-1], replace(memory[-1], bandwidth=BANDWIDTH * factor))),
    ):
        assert FORMS[name].time(gemm, replace(MACHINE, device=better)).seconds <= before * (1 + 1e-9)


@given(m=sizes, n=sizes, k=sizes, more=st.integers(1, 200))
def test_more_processors_are_never_slower_where_the_fastest_tile_is_taken(
    m: float, n: float, k: float, more: int
) -> None:
    gemm, fastest = product(m, n, k), replace(FORMS["fastest"], has_split_k=False)
    before = fastest.time(gemm, MACHINE).seconds
    wider = replace(MACHINE, processors=DEVICE.processors + more)
    assert fastest.time(gemm, wider).seconds <= before * (1 + 1e-9)


def test_products_one_after_the_other_take_as_many_times_as_long() -> None:
    one = product(1000, 2000, 3000)
    several = replace(one, calls=7.0)
    fit = FamilyFit(form=form(launch=3e-6), basis="fitted")
    for each in (fit, FamilyFit()):
        times = [operator_time(item, MACHINE, None, each) for item in (one, several)]
        assert times[1].seconds == pytest.approx(7 * times[0].seconds)
        assert times[1].fixed == pytest.approx(7 * times[0].fixed)
    assert several.flop == 7 * one.flop


def test_a_die_with_less_power_for_its_peak_droops_more_and_none_gains() -> None:
    assert scaled_droop(0.1, 1.0) == pytest.approx(0.1)
    assert scaled_droop(0.1, 8.0) == pytest.approx(1.2)  # 1.1 * 2 - 1
    assert scaled_droop(0.1, 0.001) == 0.0
    assert scaled_droop(0.0, 8.0) == 0.0


def test_one_part_of_k_has_no_sums_to_add_and_several_one_each() -> None:
    split = SplitK(splitk_bytes=8.0, splitk_latency=2e-6)
    product = Gemm("one", m=16.0, n=64.0, k=4096.0, dtype="bf16", a_bytes=2.0, b_bytes=2.0, out_bytes=2.0, groups=3.0)
    splits = np.array([1.0, 2.0, 4.0])
    assert np.asarray(split.traffic(product, splits)).tolist() == [0.0, *(8.0 * 3 * 16 * 64 * each for each in (2, 4))]
    assert np.asarray(split.latency(splits)).tolist() == [0.0, 2e-6, 2e-6]


def test_kernels_without_work_beside_others_take_no_time() -> None:
    sizes = np.array([0.0, 128.0, 256.0])
    product = Gemm("some", m=sizes, n=256.0, k=512.0, dtype="bf16", a_bytes=2.0, b_bytes=2.0, out_bytes=2.0)
    machine = Machine(load_device("h100-sxm"), FRAMEWORK, 132.0)
    together = np.asarray(operator_time(product, machine, None, FamilyFit()).seconds)
    single = [float(operator_time(replace(product, m=each), machine, None, FamilyFit()).seconds) for each in sizes[1:]]
    assert together.tolist() == pytest.approx([0.0, *single])
