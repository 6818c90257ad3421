"""Grouped products from fitted forms: uneven groups, the switch of configurations, groups without rows, few sizes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from builders import FRAMEWORK
from hypothesis import given
from hypothesis import strategies as st

from costmodel.cost.form_registry import FORMS
from costmodel.cost.gemm import GemmForm, row_tiles
from costmodel.cost.machine import Machine
from costmodel.cost.scaled_roofline import ScaledRooflineForm
from costmodel.cost.two_tile_gemm import TwoTileForm
from costmodel.schema.files import load_device
from costmodel.workload.operators import Gemm

DEVICE = load_device("h800-sxm")
MACHINE = Machine(DEVICE, FRAMEWORK, DEVICE.processors)
RATES: dict[str, Any] = {"compute": 0.8, "load": 40.0, "cache": 30.0, "fill": 500.0, "turn": 100.0, "edge": 0.3}
SHARED: dict[str, Any] = {"launch": 2e-6, "memory": 0.9, "sharpness": 3.0}


def form(**given: Any) -> GemmForm:
    return GemmForm(**(SHARED | RATES | {"tiles": ((64, 64), (128, 128)), "splits": False} | given))


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
    even, uneven = row_tiles(experts(128.0), 128.0), row_tiles(experts(128.0, deviation=22.0), 128.0)
    assert even == 1.0
    assert uneven == pytest.approx(1.5, abs=0.05)  # half of the groups need a second tile


def test_tiles_of_several_heights_are_those_of_each() -> None:
    gemm = experts(np.array([20.0, 100.0, 300.0]), deviation=np.array([5.0, 30.0, 0.0]))
    together = row_tiles(gemm, np.array([64.0, 128.0]).reshape(2, 1))
    for place, height in enumerate((64.0, 128.0)):
        assert together[place] == pytest.approx(row_tiles(gemm, height))


def test_uneven_groups_take_longer() -> None:
    assert form().time(experts(128.0, deviation=60.0), MACHINE).seconds > form().time(experts(128.0), MACHINE).seconds


def test_only_groups_with_rows_are_read() -> None:
    few, all_groups = (form().time(experts(1.0, groups), MACHINE).seconds for groups in (8.0, 64.0))
    assert all_groups - 2e-6 == pytest.approx(8 * (few - 2e-6), rel=0.05)


def test_a_group_without_rows_adds_its_scan() -> None:
    times = [form(scan=1e-7).time(experts(held=held), MACHINE) for held in (32.0, 256.0)]
    assert times[1].seconds - times[0].seconds == pytest.approx(224 * 1e-7)
    assert times[1].fixed - times[0].fixed == pytest.approx(224 * 1e-7)


@given(st.floats(1.0, 1e4), st.floats(1.0, 512.0))
def test_more_rows_never_take_less_time(m: float, groups: float) -> None:
    one, more = (form(tiles=((64, 64),)).time(experts(rows, groups), MACHINE).seconds for rows in (m, 2 * m))
    assert more >= one * (1 - 1e-9)


FLAT = {**SHARED, **RATES, **{f"few_{name}": value for name, value in RATES.items()}, "few_load": 10.0}
SWITCHED = TwoTileForm.of(**FLAT, few_tiles=((16, 32),), tiles=((64, 64),))


def test_the_tile_for_few_tokens_holds_until_there_are_more_than_experts() -> None:
    at, beyond = experts(4.0, tokens=128.0, held=128.0), experts(4.0, tokens=129.0, held=128.0)
    assert SWITCHED.time(at, MACHINE).seconds == SWITCHED.few.time(at, MACHINE).seconds
    assert SWITCHED.time(beyond, MACHINE).seconds == SWITCHED.many.time(beyond, MACHINE).seconds
    assert SWITCHED.few.time(at, MACHINE).seconds != SWITCHED.many.time(at, MACHINE).seconds


def test_an_array_switches_point_by_point() -> None:
    tokens = np.array([1.0, 64.0, 4096.0])
    whole = SWITCHED.time(experts(4.0, tokens=tokens, held=64.0), MACHINE)
    for place, count in enumerate(tokens):
        one = SWITCHED.time(experts(4.0, tokens=float(count), held=64.0), MACHINE)
        assert whole.seconds[place] == pytest.approx(one.seconds)
        assert whole.memory[place] == pytest.approx(one.memory)


def test_the_ranks_that_share_the_experts_are_a_feature() -> None:
    assert SWITCHED.features(experts(held=16.0, experts=128.0, tokens=4.0))[-2:] == (0.0, 3.0)
    assert SWITCHED.features(experts())[-1] == 0.0  # where nothing states them


def test_a_switched_form_takes_all_parameters_that_a_fit_gives() -> None:
    kind = FORMS["switched"]
    values = {name: bounds.start for name, bounds in kind.parameters(tuple(kind.terms)).items()}
    built = kind.build(values, {"few_tiles": ((16, 32),), "tiles": ((64, 64),)})
    assert built.time(experts(tokens=10.0, held=4.0), MACHINE).seconds > 0


def test_a_plain_form_is_bound_by_work_or_bytes() -> None:
    plain = ScaledRooflineForm(launch=1e-6, compute=0.5, memory=0.8)
    wide, thin = experts(10000.0), experts(1.0)
    assert plain.time(wide, MACHINE).seconds == pytest.approx(wide.flop / (0.5 * DEVICE.peak("fp8")), rel=0.02)
    bandwidth = DEVICE.device_memory.bandwidth or 0.0
    assert plain.time(thin, MACHINE).seconds == pytest.approx(1e-6 + thin.traffic / (0.8 * bandwidth), rel=0.02)


def test_masked_groups_have_kernels_of_their_own() -> None:
    plain = replace(experts(), block_scaled=True)
    assert (plain.variant, replace(plain, masked=True).variant) == ("fp8_block", "fp8_block_masked")
