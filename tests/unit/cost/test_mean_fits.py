"""The mean of several fits that say something of the same kernels."""

from __future__ import annotations

import math

import numpy as np
import pytest

import costmodel
from costmodel.calibration.candidates import Candidate
from costmodel.calibration.fit_files import framework_of
from costmodel.calibration.fit_lookup import FitLookup, load_calibration
from costmodel.cost.calibration import LEAST_WEIGHT, FamilyFit, MeanFit, OtherFits
from costmodel.cost.operator_time import operator_time
from costmodel.cost.physical_bound import least_time
from costmodel.cost.residual import Domain, Residual
from costmodel.cost.spread import UnseenGroups
from costmodel.cost.time import Machine
from costmodel.fitting.growth import kernels, typical
from costmodel.quantities import Quantity
from costmodel.report.equations import Chain, traced
from costmodel.schema.files import load_device
from costmodel.schema.references import Library
from costmodel.workload.operators import Gemm

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
    rows = 8192.0  # H800's table of Triton's experts has 35 at most
    share = 2.0 * rows * 28672.0 * 4096.0 * 8.0 / seconds(rows, machine, calibration) / 989.4e12
    assert 0.25 < share < 0.8  # default tiles reach 21 % in the median of H100's rows, tuned ones 55


def test_more_rows_take_longer_across_the_border_of_the_measured_sizes(machine, calibration):
    times = np.array([seconds(rows, machine, calibration) for rows in ROWS])
    assert (np.diff(times) > 0.0).all()


def test_the_sizes_of_an_array_take_the_times_of_single_ones(machine, calibration):
    single = [float(seconds(rows, machine, calibration)) for rows in ROWS]
    assert np.asarray(seconds(ROWS, machine, calibration)).tolist() == pytest.approx(single, rel=1e-12)


def test_a_fit_of_the_very_kernels_answers_alone_inside_what_it_was_made_from_and_gives_way_far_outside(calibration):
    weights = []
    for rows in (16.0, 512.0, 2048.0, 8192.0):
        fit = calibration.fit(experts(rows))
        assert fit.source == "calibrations/h800-sxm/triton-vllm"
        weights.append(float(fit.weights[0]) if isinstance(fit, MeanFit) else 1.0)
    assert weights[:2] == [1.0, 1.0]  # four octaves outside, others do not say more yet
    assert weights == sorted(weights, reverse=True)
    assert weights[-1] < 0.5


def test_others_join_a_fit_of_the_very_kernels_where_they_together_weigh_more():
    def own(excess: float) -> float:
        others = OtherFits((FamilyFit(),), [[0.0, 0.0], [0.0, 0.04]], is_own=True)
        return others.weights([excess, 0.0])[0][0]

    assert own(1e-9) == own(0.02) == own(0.0399) == 1.0
    blue = (0.04 / (0.12 + 0.04) - LEAST_WEIGHT) / (1.0 - 2.0 * LEAST_WEIGHT)
    assert own(0.12) == pytest.approx(2.0 * blue)
    assert own(100.0) == 0.0


def form_of(calibration):
    return calibration.fit(experts(16.0)).form


def mean_of(form, covariance: list[list[float]], operator: Gemm, **own) -> FamilyFit:
    """Return the mean of lent fits whose errors have a covariance."""
    others = OtherFits(tuple(FamilyFit(form=form, source=f"other {i}") for i in range(len(covariance) - 1)), covariance)
    return FamilyFit(form=form, source="first", others=others, **own).at(operator)


def test_weights_are_those_of_the_least_variance_and_fits_that_share_an_error_have_one_vote(calibration):
    operator, form = experts(512.0), form_of(calibration)
    independent = mean_of(form, [[0.04, 0.0], [0.0, 0.08]], operator)
    weights = [(2 / 3 - LEAST_WEIGHT) / 0.8, (1 / 3 - LEAST_WEIGHT) / 0.8]
    assert independent.weights == pytest.approx(weights)
    variance = weights[0] ** 2 * 0.04 + weights[1] ** 2 * 0.08
    assert math.log(independent.spread.ratio(1.0, 0.0, 1.0)) == pytest.approx(math.sqrt(variance))
    shared = [[0.25, 0.0, 0.0, 0.0]] + [[0.0, *(0.25 if i == j else 0.2 for j in range(3))] for i in range(3)]
    first = 4.0 / (4.0 + 3.0 / (0.25 + 2.0 * 0.2))
    assert mean_of(form, shared, operator).weights[0] == pytest.approx((first - LEAST_WEIGHT) / 0.6)


def test_what_hardly_weighs_is_not_timed_and_the_fit_that_is_left_answers_as_itself(calibration):
    operator, form = experts(512.0), form_of(calibration)
    alone = mean_of(form, [[0.01, 0.0], [0.0, 0.5]], operator)
    assert (alone.source, isinstance(alone, MeanFit)) == ("first", False)
    swapped = mean_of(form, [[0.5, 0.0], [0.0, 0.01]], operator)
    assert swapped.source == "other 0"


def test_a_distance_that_all_fits_share_moves_no_weight_and_one_that_the_first_has_alone_does(calibration):
    operator, form = experts(512.0), form_of(calibration)
    place = np.array(form.features(operator), dtype=float)
    far = Domain(place + 2.0, place + 3.0, 1.0)
    near = Domain(place - 1.0, place + 1.0, 1.0)
    unseen = UnseenGroups(0.0, 0.1)
    covariance = [[0.01, 0.0], [0.0, 0.04]]

    def weight(*domains: Domain) -> float:
        first, other = (
            FamilyFit(form=form, domain=each, unseen=unseen, source=str(i)) for i, each in enumerate(domains)
        )
        fit = FamilyFit(form=form, domain=first.domain, unseen=unseen, others=OtherFits((other,), covariance))
        mean = fit.at(operator)
        return float(mean.weights[0]) if isinstance(mean, MeanFit) else 1.0

    assert weight(near, near) == pytest.approx(0.7 / 0.8)
    assert weight(far, far) == pytest.approx(0.7 / 0.8)
    excess = 0.1**2 * 2.0**2 * len(place)
    first = (1.0 / (0.01 + excess)) / (1.0 / (0.01 + excess) + 1.0 / 0.04)
    assert weight(far, near) == pytest.approx((first - LEAST_WEIGHT) / (1.0 - 2.0 * LEAST_WEIGHT), rel=1e-3)


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
    assert times[0] == pytest.approx(times[1], rel=0.1)  # within what twins differ by


def test_explain_states_the_error_and_the_weight_of_every_fit_of_a_mean(machine, calibration):
    operator = experts(8192.0)
    assert isinstance(calibration.families, FitLookup)
    considered = calibration.families.considered_at("grouped_gemm/bf16", operator)
    compared = [each for each in considered if each.weight is not None]
    assert sum(each.weight or 0.0 for each in compared) == pytest.approx(1.0, abs=0.01)
    assert all("expected error" in str(each) for each in compared)
    for each in compared:
        assert each.error**2 == pytest.approx(each.held_out**2 + each.unshared[0] ** 2 + each.unshared[1] ** 2)
    assert "(unseen rows 11 %, device 22 %, program 5 %, shape 9 %)" in str(
        Candidate("file", "gemm", "a role", held_out=0.1, unshared=(0.2, 0.05), is_compared=True, shape=0.09)
    )
    assert str(Candidate("file", "gemm", "a role", weight=0.25)) == "file (a role): gemm, weight 25 %"
    assert str(Candidate("file", "gemm", "a role", weight=1.0)) == "file (a role): gemm"  # nothing to weigh it against
    with traced() as calls:
        operator_time(operator, machine, None, calibration.fit(operator))
    ((_, mean, first, *_),) = Chain(calls).derivations("seconds", float(seconds(8192.0, machine, calibration)))
    assert mean.function == "MeanFit.fitted_time"
    assert mean.terms["first.seconds"] == first.terms["seconds"]


def test_a_fit_that_says_more_than_the_peak_says_the_peak(machine, calibration):
    """Of two fits of equal weight one is a thousand times too fast: it counts as the least time that there can be."""
    operator, form = experts(512.0), form_of(calibration)
    place = np.array([form.features(operator)], dtype=float)
    fast = Residual(tuple(form.AXES), np.full(place.size, 1e6), place, np.array([math.log(1e-3)]))
    others = OtherFits((FamilyFit(form=form, residual=fast),), [[0.1, 0.0], [0.0, 0.1]])
    fit = FamilyFit(form=form, others=others).at(operator)
    own = FamilyFit(form=form).fitted_time(form, operator, machine).seconds
    expected = math.sqrt(float(own) * float(least_time(operator, machine)))
    assert float(fit.fitted_time(form, operator, machine).seconds) == pytest.approx(expected)


def test_a_library_that_copies_its_cache_stands_in_for_no_other():
    """FlashAttention-3 under SGLang copies a latent cache in FP8; FlashMLA, of which there are no rows, does not."""

    def tpot(framework, cache):
        at = "scenarios.decode"
        changes = {f"{at}.framework": framework, f"{at}.precision.kv_cache": cache}
        changed = costmodel.load("deepseek_v3", cluster="nodes/hgx-h200", set=changes)
        return changed.simulate(["decode"])["scenarios"]["decode"]["metrics"]["tpot"]

    assert tpot("deepseek", "fp8") < tpot("deepseek", "bf16") < 1.1 * tpot("deepseek", "fp8")
    assert tpot("sglang", "fp8") > 1.5 * tpot("sglang", "bf16")


def test_fits_of_a_mean_weigh_one_together_and_one_that_answers_alone_does_so_too() -> None:
    device = load_device("h20")
    families = load_calibration(device, "default").families
    assert isinstance(families, FitLookup)
    found = set()
    for key in ("gemm/bf16", "gemm/fp8", "grouped_gemm/bf16", "attention_prefill/bf16", "attention_decode/bf16"):
        operator = kernels(key, device, {name: size[0] for name, size in typical().items()})
        assert operator is not None
        considered = families.considered_at(key, operator)
        weights = [each.weight for each in considered if each.weight is not None]
        assert sum(weights) == pytest.approx(1.0, abs=0.01)
        assert considered[-1].weight == weights[-1]
        found.add(len(weights) > 1)
    assert found == {True, False}
    assert families.considered_at("no such kernel", operator) == ()
