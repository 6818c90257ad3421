"""Grouped products from fitted forms: uneven groups, the switch of configurations, groups without rows, few sizes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from builders import FRAMEWORK
from hypothesis import given
from hypothesis import strategies as st

from costmodel.cost.form_registry import FORMS
from costmodel.cost.gemm import GemmForm, TwoTileForm
from costmodel.cost.gemm_tiles import row_tiles
from costmodel.cost.parameter import build, parameters
from costmodel.cost.scaled_roofline import ScaledRooflineForm
from costmodel.cost.time import Machine
from costmodel.records import replace
from costmodel.schema.files import load_device
from costmodel.workload.operators import Gemm

DEVICE = load_device("h800-sxm")
MACHINE = Machine(DEVICE, FRAMEWORK, DEVICE.processors)
RATES: dict[str, Any] = {
    "compute_efficiency": 0.8,
    "cta_load_rate": 40.0,
    "l2_rate": 30.0,
    "cta_overhead": 500.0,
    "k_step": 100.0,
    "small_tile_loss": 0.3,
}
SHARED: dict[str, Any] = {"launch": 2e-6, "hbm_efficiency": 0.9, "overlap_p": 3.0}


def form(**given: Any) -> GemmForm:
    return build(GemmForm, SHARED | RATES | {"tiles": ((64, 64), (128, 128)), "has_split_k": False} | given)


def experts(m: Any = 100.0, groups: Any = 32.0, **given: Any) -> Gemm:
    return Gemm(
        "experts",
        m=m,
        n=4096.0,
        k=7168.0,
        dtype="fp8",
        a_bytes=1.0,
        b_bytes=1.0,
        out_bytes=2.0,
        groups=groups,
        family="grouped_gemm",
        **given,
    )


def test_groups_of_uneven_rows_fill_more_tiles_than_even_ones() -> None:
    even, uneven = row_tiles(experts(128.0), 128.0), row_tiles(experts(128.0, m_std=22.0), 128.0)
    assert even == 1.0
    assert uneven == pytest.approx(1.5, abs=0.05)  # half of the groups need a second tile


def test_tiles_of_several_heights_are_those_of_each() -> None:
    gemm = experts(np.array([20.0, 100.0, 300.0]), m_std=np.array([5.0, 30.0, 0.0]))
    together = row_tiles(gemm, np.array([64.0, 128.0]).reshape(2, 1))
    for place, height in enumerate((64.0, 128.0)):
        assert together[place] == pytest.approx(row_tiles(gemm, height))


def test_uneven_groups_take_longer() -> None:
    assert form().time(experts(128.0, m_std=60.0), MACHINE).seconds > form().time(experts(128.0), MACHINE).seconds


def test_only_groups_with_rows_are_read() -> None:
    few, all_groups = (form().time(experts(1.0, groups), MACHINE).seconds for groups in (8.0, 64.0))
    assert all_groups - 2e-6 == pytest.approx(8 * (few - 2e-6), rel=0.05)


def test_a_group_without_rows_adds_its_scan() -> None:
    times = [form(group_latency=1e-7).time(experts(local_experts=held), MACHINE) for held in (32.0, 256.0)]
    assert times[1].seconds - times[0].seconds == pytest.approx(224 * 1e-7)
    assert times[1].fixed - times[0].fixed == pytest.approx(224 * 1e-7)


@given(st.floats(1.0, 1e4), st.floats(1.0, 512.0))
def test_more_rows_never_take_less_time(m: float, groups: float) -> None:
    one, more = (form(tiles=((64, 64),)).time(experts(rows, groups), MACHINE).seconds for rows in (m, 2 * m))
    assert more >= one * (1 - 1e-9)


TWO_TILES = build(TwoTileForm, {
    **SHARED, **{f"small_{name}": value for name, value in RATES.items()}, "small_cta_load_rate": 10.0,
    **{f"large_{name}": value for name, value in RATES.items()}, "small_tiles": ((16, 32),), "large_tiles": ((64, 64),),
})  # fmt: skip
SMALL, LARGE = (TWO_TILES.with_rates(rates) for rates in (TWO_TILES.small, TWO_TILES.large))


def test_the_small_tile_holds_until_there_are_more_tokens_than_experts() -> None:
    few, many = (experts(4.0, tokens=tokens, local_experts=128.0) for tokens in (128.0, 129.0))
    assert TWO_TILES.time(few, MACHINE).seconds == SMALL.time(few, MACHINE).seconds
    assert TWO_TILES.time(many, MACHINE).seconds == LARGE.time(many, MACHINE).seconds
    assert SMALL.time(few, MACHINE).seconds != LARGE.time(few, MACHINE).seconds


def test_an_array_switches_point_by_point() -> None:
    tokens = np.array([1.0, 64.0, 4096.0])
    whole = TWO_TILES.time(experts(4.0, tokens=tokens, local_experts=64.0), MACHINE)
    for i, count in enumerate(tokens):
        point = TWO_TILES.time(experts(4.0, tokens=float(count), local_experts=64.0), MACHINE)
        assert whole.seconds[i] == pytest.approx(point.seconds)
        assert whole.memory[i] == pytest.approx(point.memory)


def test_the_ranks_that_share_the_experts_are_a_feature() -> None:
    assert TWO_TILES.features(experts(local_experts=16.0, experts=128.0, tokens=4.0))[-2:] == (0.0, 3.0)
    assert TWO_TILES.features(experts())[-1] == 0.0  # where nothing states them


def test_a_form_of_two_tiles_takes_all_parameters_that_a_fit_gives() -> None:
    fitted = parameters(FORMS["two_tile_gemm"], ["large_clock_droop", "large_reread"])
    values = {name: parameter.start for name, parameter in fitted.items()}
    built = build(TwoTileForm, {**values, "small_tiles": ((16, 32),), "large_tiles": ((64, 64),)})
    assert built.time(experts(tokens=10.0, local_experts=4.0), MACHINE).seconds > 0
    assert built.large.clock_droop == values["large_clock_droop"]
    assert built.small.reread is None


def test_tuned_tiles_run_whatever_the_tokens() -> None:
    rates = {f"tuned_{name}": value for name, value in RATES.items()}
    form = replace(TWO_TILES, tuned=build(TwoTileForm, {
        **SHARED, **{f"{part}_{name}": value for part in ("small", "large") for name, value in RATES.items()}, **rates,
        "tuned_compute_efficiency": 1.2, **dict.fromkeys(("small_tiles", "large_tiles", "tuned_tiles"), ((128, 128),)),
    }).tuned)  # fmt: skip
    assert form.tuned is not None
    tokens, flags = np.array([1.0, 4096.0, 4096.0]), np.array([1.0, 1.0, 0.0])
    sizes: dict[str, Any] = {"m": 400.0, "local_experts": 64.0}
    mixed = form.time(experts(tokens=tokens, tuned=flags, **sizes), MACHINE)
    tuned = form.with_rates(form.tuned).time(experts(400.0), MACHINE).seconds
    assert mixed.seconds[:2] == pytest.approx(tuned)
    assert mixed.seconds[2] == pytest.approx(LARGE.time(experts(400.0), MACHINE).seconds)
    assert mixed.seconds[2] > tuned
    alone = [form.time(experts(tokens=4096.0, tuned=flag, **sizes), MACHINE).seconds for flag in (1.0, 0.0)]
    assert mixed.seconds[1:] == pytest.approx(alone)
    for flag, seconds in zip((1.0, 0.0), alone, strict=True):  # and so do the terms that `explain` prints
        terms = form.terms(experts(tokens=4096.0, tuned=flag, **sizes), MACHINE)
        assert terms["fixed_time"] + terms["busy_time"] + terms["droop_time"] == pytest.approx(seconds)
    assert TWO_TILES.time(experts(tokens=4096.0, tuned=1.0, **sizes), MACHINE).seconds == pytest.approx(alone[1])
    features = form.features(experts(tokens=tokens, tuned=flags, **sizes))
    assert np.asarray(features[-2]).tolist() == [3.0, 3.0, 1.0]


def test_a_scaled_roofline_is_bound_by_work_or_bytes() -> None:
    plain = ScaledRooflineForm(launch=1e-6, compute_efficiency=0.5, hbm_efficiency=0.8)
    wide, thin = experts(10000.0), experts(1.0)
    assert plain.time(wide, MACHINE).seconds == pytest.approx(wide.flop / (0.5 * DEVICE.peak("fp8")), rel=0.02)
    bandwidth = DEVICE.device_memory.bandwidth or 0.0
    assert plain.time(thin, MACHINE).seconds == pytest.approx(1e-6 + thin.traffic / (0.8 * bandwidth), rel=0.02)


def test_masked_groups_have_kernels_of_their_own() -> None:
    plain = replace(experts(), block_scaled=True)
    assert (plain.variant, replace(plain, masked=True).variant) == ("fp8_block", "fp8_block_masked")
