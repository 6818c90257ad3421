"""Fits of the same kernels, joined outside the sizes that the answering one was made from."""

from __future__ import annotations

import math

import numpy as np
import pytest

import costmodel
from costmodel.calibration.fit_files import framework_of
from costmodel.calibration.fit_lookup import FitLookup, load_calibration
from costmodel.cost.calibration import FamilyFit, JoinedFit
from costmodel.cost.likeness import Likeness
from costmodel.cost.machine import Machine
from costmodel.cost.operator_time import operator_time
from costmodel.cost.physical_bound import least_time
from costmodel.cost.residual import Residual
from costmodel.cost.spread import Agreement, Spread
from costmodel.cost.time import Time, time_where
from costmodel.quantities import Quantity, place_of_largest
from costmodel.records import replace
from costmodel.report.equations import Chain, traced
from costmodel.schema.files import load_device
from costmodel.schema.references import Library
from costmodel.workload.operators import Gemm

MOST_ROWS = 35.0  # an expert, of vLLM's table of Triton experts on H800
ROWS = 2.0 ** np.arange(0.0, 15.0)


def experts(rows: Quantity) -> Gemm:
    return Gemm(
        "experts", m=rows, n=28672.0, k=4096.0, dtype="bf16", a_bytes=2.0, b_bytes=2.0, out_bytes=2.0, groups=8.0,
        family="grouped_gemm",
    )  # fmt: skip


@pytest.fixture(scope="module")
def machine() -> Machine:
    device = load_device("h800-sxm")
    return Machine(device, framework_of("vllm", Library(())), device.processors)


@pytest.fixture(scope="module")
def calibration(machine):
    return load_calibration(machine.device, machine.framework)


def seconds(rows: Quantity, machine: Machine, calibration) -> Quantity:
    operator = experts(rows)
    return operator_time(operator, machine, None, calibration.fit(operator)).seconds


def test_many_rows_an_expert_are_not_what_a_table_of_few_rows_extrapolates_to(machine, calibration):
    rows = 8192.0
    share = 2.0 * rows * 28672.0 * 4096.0 * 8.0 / seconds(rows, machine, calibration) / 989.4e12
    assert 0.25 < share < 0.8  # default tiles reach 21 % in the median of H100's rows, tuned ones 55


def test_more_rows_take_longer_across_the_border_of_the_measured_sizes(machine, calibration):
    times = np.array([seconds(rows, machine, calibration) for rows in ROWS])
    assert (np.diff(times) > 0.0).all()


def test_the_sizes_of_an_array_take_the_times_of_single_ones(machine, calibration):
    single = [float(seconds(rows, machine, calibration)) for rows in ROWS]
    assert np.asarray(seconds(ROWS, machine, calibration)).tolist() == pytest.approx(single, rel=1e-12)


def test_weights_grow_from_nothing_as_a_shape_leaves_what_was_measured(calibration):
    weights = []
    for rows in (64.0, 512.0, 8192.0):
        fit = calibration.fit(experts(rows))
        assert isinstance(fit, JoinedFit)
        assert sum(fit.weights) == pytest.approx(1.0)
        assert set(fit.sources) == {part.source for part in fit.parts}  # all are on the path, not the leading one alone
        weights.append(float(fit.weights[0]))
    assert weights == sorted(weights, reverse=True)
    assert weights[0] > 0.5 > weights[-1]


def test_fits_that_share_the_error_of_a_step_have_one_vote(calibration):
    operator, form = experts(512.0), calibration.fit(experts(512.0)).form

    def share_of_own(lent: int, step: float) -> float:
        competitors = [FamilyFit(form=form, error=0.5, step=step, relation="die") for _ in range(lent)]
        joined = FamilyFit(form=form, error=0.5, transfer_error=0.5, competitors=lambda: competitors).at(operator)
        assert isinstance(joined, JoinedFit)
        return float(joined.weights[0])

    assert share_of_own(1, 0.3) == share_of_own(1, 0.0) == pytest.approx(0.5)
    assert share_of_own(9, 0.0) == pytest.approx(0.1)
    # the inverse of a covariance of 0.25 and, between the nine, 0.09
    assert share_of_own(9, 0.3) == pytest.approx(4.0 / (4.0 + 9.0 / (0.25 + 8.0 * 0.09)))


def test_others_are_heard_as_far_as_a_fits_error_is_not_its_own(calibration):
    operator, form = experts(512.0), calibration.fit(experts(512.0)).form
    rival = FamilyFit(form=form, error=0.5)

    def share(away: float) -> float:
        fit = FamilyFit(form=form, error=0.5, transfer_error=away, competitors=lambda: (rival,)).at(operator)
        return float(fit.weights[0]) if isinstance(fit, JoinedFit) else 1.0

    assert share(0.0) == 1.0
    assert share(0.3) == pytest.approx(1.0 / (1.0 + 0.3**2 / 0.5**2))
    assert share(0.5) == pytest.approx(0.5)


def test_a_step_counts_by_what_the_devices_differ_in(calibration):
    """Of a kernel bound by what both have alike it is nothing, and of one bound by the other all of the step."""
    form = calibration.fit(experts(512.0)).form
    lent = FamilyFit(form=form, error=0.4, step=0.36, relation="die")
    rival = replace(lent, error=math.hypot(0.36, 0.05))

    def own_weight(rows: float, alike: str) -> float:
        operator = experts(rows)
        likeness = Likeness(compute=alike == "compute", peaks={"bf16": 1e13}, bandwidth=1e12)
        own = replace(lent, likeness=likeness if alike else None, transfer_error=0.1, competitors=lambda: (rival,))
        joined = own.at(operator)
        assert isinstance(joined, JoinedFit)
        assert math.sqrt(0.4**2 - 0.36**2) <= own.expected_error(operator) <= 0.4
        return float(joined.weights[0])

    kin = own_weight(1.0, "")
    compute_bound, memory_bound = 1e6, 1e-3
    assert own_weight(compute_bound, "compute") == pytest.approx(own_weight(memory_bound, "memory"), rel=0.05)
    assert own_weight(compute_bound, "compute") > 0.9 > 0.6 > kin
    assert own_weight(compute_bound, "memory") == pytest.approx(kin, rel=0.1)
    assert own_weight(memory_bound, "compute") == pytest.approx(kin, rel=0.1)
    assert all(kin < own_weight(rows, "compute") < 1.0 for rows in 2.0 ** np.arange(0.0, 20.0))


@pytest.mark.parametrize("framework", ["mosaicml", "vllm"])
def test_less_bandwidth_leaves_products_that_compute_bounds_as_they_are(framework):
    """A100 of 40 and 80 GB are one die on one power; no card of 300 W answers for the smaller."""
    times = []
    for name in ("a100-sxm-40gb", "a100-sxm-80gb"):
        device = load_device(name)
        one = Machine(device, framework_of(framework, Library(())), device.processors)
        fits = load_calibration(device, one.framework)
        products = [
            Gemm("product", m=m, n=5120.0, k=20480.0, dtype="bf16", a_bytes=2.0, b_bytes=2.0, out_bytes=2.0)
            for m in (4096.0, 16384.0, 32768.0)
        ]
        times.append([float(operator_time(each, one, None, fits.fit(each)).seconds) for each in products])
    assert times[0] == pytest.approx(times[1], rel=0.02)


def test_another_build_is_no_stranger_where_tiles_were_tuned(calibration):
    operator = experts(512.0)
    tuned = replace(operator, tuned=1.0)
    form = calibration.fit(operator).form
    build = FamilyFit(form=form, error=0.5, transfer_error=0.4, alike=0.4**2)
    prior = FamilyFit(form=form, error=0.5)
    leading = replace(build, competitors=lambda: (prior,))
    assert float(build.expected_error(operator)) == 0.5
    assert float(build.expected_error(tuned)) == pytest.approx(0.3)

    def share(one: Gemm) -> float:
        fit = leading.at(one)
        return float(fit.weights[0]) if isinstance(fit, JoinedFit) else 1.0

    assert share(operator) == pytest.approx(1.0 / (1.0 + 0.4**2 / 0.5**2))
    assert share(tuned) == pytest.approx(1.0)
    assert share(replace(operator, tuned=0.0)) == share(operator)


def test_the_fit_of_the_least_expected_error_leads_though_kin_share_their_vote(calibration):
    operator, form = experts(512.0), calibration.fit(experts(512.0)).form
    kin = [FamilyFit(form=form, error=0.5, step=0.45, relation="die", source=f"kin {i}") for i in range(4)]
    prior = FamilyFit(form=form, error=0.6, source="prior")
    joined = replace(kin[0], transfer_error=0.5, competitors=lambda: (*kin[1:], prior)).at(operator)
    assert isinstance(joined, JoinedFit)
    assert place_of_largest(joined.weights) == 4
    assert (joined.source, joined.error) == ("kin 0", 0.5)
    near, far = (calibration.fit(experts(rows)) for rows in (64.0, 8192.0))
    assert near.source == "calibrations/h800-sxm/triton-vllm"
    assert far.source == "calibrations/prior"  # five octaves outside: 45 % in place of 118


def test_explain_states_the_error_and_the_weight_of_every_rival(machine, calibration):
    operator = experts(8192.0)
    assert isinstance(calibration.families, FitLookup)
    *lost, answer = calibration.families.considered_at("grouped_gemm/bf16", operator)
    compared = [each for each in (*lost, answer) if each.weight is not None]
    assert sum(each.weight or 0.0 for each in compared) == pytest.approx(1.0)
    assert answer.error == min(each.error or 0.0 for each in compared)
    assert all("expected error" in str(each) for each in compared)
    with traced() as calls:
        operator_time(operator, machine, None, calibration.fit(operator))
    ((_, joined, led, *_),) = Chain(calls).derivations("seconds", float(seconds(8192.0, machine, calibration)))
    assert joined.function == "JoinedFit.fitted_time"
    assert joined.terms["led.seconds"] == led.terms["seconds"]


def joined_of(factor: float, agreement: Agreement | None, *, away: float = 0.3) -> tuple[JoinedFit, Gemm]:
    """Return two fits of the same weight whose times differ by a factor."""
    operator = experts(512.0)
    form = load_calibration(load_device("h800-sxm"), framework_of("vllm", Library(()))).fit(operator).form
    assert form is not None
    spread, place = Spread((1.0,), (0.8,), (1.0,), (1.25,)), np.array([form.features(operator)], dtype=float)
    everywhere = Residual(tuple(form.AXES), np.full(place.size, 1e6), place, np.array([math.log(factor)]))
    slow = FamilyFit(form=form, spread=spread, error=0.3, residual=everywhere)
    fit = FamilyFit(
        form=form, spread=spread, error=0.3, transfer_error=away, competitors=lambda: (slow,), agreement=agreement
    ).at(operator)
    assert isinstance(fit, JoinedFit)
    return fit, operator


def test_fits_that_agree_are_nearer_than_each_expects_and_those_apart_are_not(machine):
    agreement = Agreement(claimed=0.5, apart=2.0)

    def half(factor: float, agreement: Agreement | None) -> float:
        fit, operator = joined_of(factor, agreement)
        time = operator_time(operator, machine, None, fit)
        low, high = (fit.ratio(time, time.seconds, *end) for end in ((1.0, 0.0), (0.0, 1.0)))
        return math.log(high / low) / 2.0

    claim = math.log(1.25)
    assert half(1.0, None) == half(4.0, None) == pytest.approx(claim)
    assert half(1.0, agreement) == pytest.approx(0.5 * claim)
    # of equal weights each lies half of log 4 from the mean
    assert half(4.0, agreement) == pytest.approx(math.hypot(0.5 * claim, 2.0 * math.log(4.0) / 2.0))


def test_a_fit_of_the_device_itself_keeps_the_interval_that_it_expects():
    lent, _ = joined_of(1.0, Agreement(claimed=0.5, apart=1.0))
    assert lent.claimed == 0.5
    assert replace(lent, claimed=1.0).agreeing(Agreement(claimed=0.5, apart=1.0), is_lent=False).claimed == 1.0


def test_how_far_fits_are_apart_stays_with_a_time_that_is_scaled(machine):
    fit, operator = joined_of(4.0, None)
    time = operator_time(operator, machine, None, fit)
    assert float(time.apart) == pytest.approx(math.log(4.0) / 2.0)
    assert time.scaled(3.0).apart == time.after(1e-6).apart == time.apart
    assert time_where(np.array([True, False]), time, Time(1.0)).apart.tolist() == [time.apart, 0.0]


def test_a_library_that_copies_its_cache_stands_in_for_no_other():
    """FlashAttention-3 under SGLang copies a latent cache in FP8; FlashMLA, of which there are no rows, does not."""

    def tpot(framework, cache):
        at = "scenarios.decode"
        changes = {f"{at}.framework": framework, f"{at}.precision.kv_cache": cache}
        changed = costmodel.load("deepseek_v3", cluster="nodes/hgx-h200", set=changes)
        return changed.simulate(["decode"])["scenarios"]["decode"]["metrics"]["tpot"]

    assert tpot("deepseek", "fp8") < tpot("deepseek", "bf16") < 1.1 * tpot("deepseek", "fp8")
    assert tpot("sglang", "fp8") > 1.5 * tpot("sglang", "bf16")


def test_a_fit_that_says_more_than_the_peak_says_the_peak(machine):
    """Of two fits of equal weight one is a thousand times too fast: it counts as the least time that there can be."""
    fit, operator = joined_of(1e-3, None)
    own = fit.parts[0].fitted_time(fit.form, operator, machine).seconds
    expected = math.sqrt(float(own) * float(least_time(operator, machine)))
    assert float(fit.fitted_time(fit.form, operator, machine).seconds) == pytest.approx(expected)
