"""Residuals that fall faster than the form grows are held back, and rows keep what they can of their times."""

from __future__ import annotations

import numpy as np
import pytest

from costmodel.calibration.fit_files import default_framework
from costmodel.cost.calibration import FamilyFit
from costmodel.cost.elementwise import ElementwiseForm
from costmodel.cost.operator_time import operator_time
from costmodel.cost.residual import Domain, Residual
from costmodel.cost.time import Machine
from costmodel.fitting.growth import FALLS, NEAR, WORTH, FittedRows, bases, bumps, growing, kernels, ladders
from costmodel.quantities import Array
from costmodel.records import replace
from costmodel.schema.files import load_device
from costmodel.workload.operators import AttentionKernel, Elementwise

DEVICE = load_device("h800-sxm")
MACHINE = Machine(DEVICE, default_framework(), DEVICE.processors)
FORM = ElementwiseForm(
    launch=2e-6, hbm_efficiency=0.8, l2_efficiency=1.6, l2_share=0.5, cta_load_rate=6.0, row_cycles=500.0
)
ROWS = np.geomspace(1.0, 4096.0, 60)


def fit(*heights: float) -> FamilyFit:
    """Return a fit with bumps along the rows of a kernel with 8 KiB a row."""
    centres = np.stack([np.linspace(0.0, 12.0, len(heights)), np.full(len(heights), 13.0)], axis=1)
    residual = Residual(("rows", "row_bytes"), np.array([1.5, 3.0]), centres, np.array(heights))
    return FamilyFit(form=FORM, residual=residual, domain=Domain(np.array([0.0, 11.0]), np.array([12.0, 15.0]), 0.3))


def rows_of(made: FamilyFit) -> FittedRows:
    """Return rows that take what a fit says, but for noise."""
    kernels = Elementwise("norm", ROWS * 8192.0, kind="norm", rows=ROWS)
    features = np.stack(FORM.features(kernels), axis=1)
    time = np.asarray(FORM.time(kernels, MACHINE).seconds)
    assert made.residual is not None
    noise = np.exp(np.random.default_rng(0).normal(0.0, 0.3, len(ROWS)))
    seconds = time * np.asarray(made.residual.factor(list(features.T))) * noise
    return FittedRows([features], [time], np.zeros(len(ROWS)), seconds)


def worst_fall(made: FamilyFit) -> float:
    falls = [0.0]
    for _, operator in ladders("elementwise/norm", made, MACHINE, 5, 3):
        seconds: Array = np.asarray(operator_time(operator, MACHINE, None, made).seconds)
        falls.append(float((1.0 - seconds[1:] / seconds[:-1]).max()))
    return max(falls)


def test_a_residual_that_falls_is_held_back_and_rises_stay() -> None:
    falling = fit(0.0, 0.8, 0.0, 0.0, 0.3)
    assert worst_fall(falling) > 0.1
    found = growing("elementwise/norm", falling, MACHINE, rows_of(falling))
    assert found is not None
    assert worst_fall(replace(falling, residual=found)) < FALLS[-1] + 0.005
    assert found.weights[4] == pytest.approx(0.3, abs=0.1)


def test_the_smallest_fall_that_rows_bear_is_allowed() -> None:
    gentle = fit(0.0, 0.6, 0.4, 0.2, 0.0)
    rows = rows_of(gentle)
    noisy = replace(rows, seconds=rows.seconds * np.exp(np.random.default_rng(0).normal(0.0, 0.5, len(ROWS))))
    found = growing("elementwise/norm", gentle, MACHINE, noisy)
    assert found is not None
    assert gentle.residual is not None
    assert noisy.mean_error(found) <= WORTH * noisy.mean_error(gentle.residual)
    assert worst_fall(replace(gentle, residual=found)) < FALLS[0] + 0.005


def test_a_residual_that_grows_is_left() -> None:
    slight = fit(0.0, 0.01, 0.02, 0.03, 0.03)
    assert growing("elementwise/norm", slight, MACHINE, rows_of(slight)) is None


def test_kernels_that_do_fall_keep_their_residual() -> None:
    falling = fit(0.0, 0.8, 0.0, 0.0, 0.3)
    rows = rows_of(falling)
    assert falling.residual is not None
    exact = replace(rows, seconds=rows.predicted(falling.residual))
    assert growing("elementwise/norm", falling, MACHINE, exact) is None


def test_a_family_without_ladders_is_left() -> None:
    falling = fit(0.0, 0.8, 0.0, 0.0, 0.3)
    assert growing("collective/all_reduce", falling, MACHINE, rows_of(falling)) is None


def test_a_bump_falls_with_the_square_of_the_distance_in_its_lengths() -> None:
    residual = Residual(("rows", "bytes"), np.array([2.0, 4.0]), np.array([[1.0, 5.0]]), np.array([0.1]))
    heights = bumps(residual, np.array([[1.0, 5.0], [3.0, 5.0], [3.0, 13.0]]))
    assert heights[:, 0] == pytest.approx(np.exp([-0.0, -0.5, -2.5]))


def test_as_many_ladders_begin_as_are_asked_for_within_an_octave_of_what_was_measured() -> None:
    made = fit(0.1)
    assert made.domain is not None
    for number in (1, 4, 9):
        found = bases("elementwise/norm", made, MACHINE, number, 5)
        assert len(found) == number
        for sizes in found[1:]:
            kernel = kernels("elementwise/norm", DEVICE, sizes)
            assert isinstance(kernel, Elementwise)
            assert made.domain.beyond(FORM.features(kernel)) <= NEAR


def test_two_halves_of_a_kernel_weigh_what_it_weighs() -> None:
    made = fit(0.0, 0.8, 0.0, 0.0, 0.3)
    whole = replace(rows_of(made), other_times=np.full(len(ROWS), 1e-6))
    halves = replace(whole, features=[*whole.features] * 2, times=[0.5 * whole.times[0]] * 2)
    assert made.residual is not None
    assert halves.curvature(made.residual, 0.1) == pytest.approx(whole.curvature(made.residual, 0.1), rel=1e-9)


def test_decoding_kernels_have_one_query_and_prompts_as_many_as_new_tokens() -> None:
    """100 tokens before 7 new ones. Decoding reads one latent for all heads."""
    sizes = {
        name: np.array([value]) for name, value in {"m": 7.0, "keys": 100.0, "groups": 6.0, "sequences": 2.0}.items()
    }
    of = {}
    for family in ("attention_prefill", "attention_decode", "mla_prefill", "mla_decode"):
        kernel = kernels(f"{family}/bf16", DEVICE, sizes)
        assert isinstance(kernel, AttentionKernel)
        of[family] = tuple(float(each[0]) for each in (kernel.q_len, kernel.kv_len, kernel.kv_heads, kernel.qk_pairs))
    assert of["attention_prefill"] == of["mla_prefill"] == (7.0, 107.0, 6.0, 7 * 100 + 7 * 8 / 2)
    assert of["attention_decode"] == (1.0, 101.0, 6.0, 101.0)
    assert of["mla_decode"] == (1.0, 101.0, 1.0, 101.0)
