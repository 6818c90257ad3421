"""How operators get their times: which fit, which processors, which path."""

from __future__ import annotations

import numpy as np
import pytest
from builders import CLUSTER, DEVICE, FRAMEWORK, MACHINE, ONE_NODE, links_of, scenario

import costmodel
from costmodel.analytic.operator_timing import OperatorTimer, operator_key, operator_timer
from costmodel.analytic.stream_times import Perturbation, seconds_of, stream_times
from costmodel.analytic.training.step_model import training_context
from costmodel.cost.calibration import ROOFLINE, Calibration, FamilyFit
from costmodel.cost.distinct_sizes import DistinctSizes
from costmodel.cost.kernels import gemm_time
from costmodel.cost.operator_time import operator_time
from costmodel.cost.spread import Spread
from costmodel.cost.time import Machine, Time
from costmodel.network.collectives import collective_time
from costmodel.records import fields, replace
from costmodel.workload.layers import model_work
from costmodel.workload.operators import Collective, Elementwise, ExpertAllToAll, Gemm, Group, base_name
from costmodel.workload.plans import Training
from costmodel.workload.scenario import Communication

PRODUCT = Gemm("product", m=4096.0, n=4096.0, k=4096.0, dtype="bf16", a_bytes=2.0, b_bytes=2.0, out_bytes=2.0)
STREAM = Elementwise("norm", 4e6)
REDUCTION = Collective("reduction", "all_reduce", 1e9, Group(8.0))
DISPATCH = ExpertAllToAll(
    "dispatch",
    tokens=4096.0,
    token_bytes=7168.0,
    top_k=8,
    experts=256.0,
    expert_groups=8.0,
    group_top_k=4,
    group=Group(64.0),
    mode="normal",
    expert_load=1.0,
    family="moe_dispatch",
)
SPREAD = Spread((1e-6, 1e-3), (0.5, 0.9), (2.0, 1.0), (4.0, 1.5))


def priced_by(calibration: Calibration) -> OperatorTimer:
    return OperatorTimer(CLUSTER, FRAMEWORK, calibration, 100.0)


def test_every_operator_gets_the_time_of_its_kind() -> None:
    plain = priced_by(Calibration())
    assert plain.time_operator(PRODUCT).time.seconds == gemm_time(PRODUCT, MACHINE, ROOFLINE).seconds
    assert plain.time_operator(STREAM).time.seconds == pytest.approx(1e-6 + 2e-6)
    wire = collective_time("all_reduce", 1e9, links_of(8.0, 8.0))
    assert plain.time_operator(REDUCTION).time.seconds == pytest.approx(FRAMEWORK.launch + wire)
    assert plain.time_operator(DISPATCH).time.bound == "network"


def test_a_fit_applies_to_its_family_alone_and_names_the_basis() -> None:
    calibrated = priced_by(
        Calibration("test", {"gemm": FamilyFit(compute_efficiency=0.5, hbm_efficiency=0.5, basis="measured")})
    )
    plain = priced_by(Calibration())
    assert calibrated.time_operator(PRODUCT).time.seconds > plain.time_operator(PRODUCT).time.seconds
    assert calibrated.time_operator(PRODUCT).fit.basis == "measured"
    assert calibrated.time_operator(STREAM).time.seconds == plain.time_operator(STREAM).time.seconds
    assert calibrated.time_operator(STREAM).fit.basis == "roofline"


def test_a_network_efficiency_slows_messages_and_not_their_launch() -> None:
    plain, slow = (
        priced_by(Calibration("test", {"collective": FamilyFit(network_efficiency=share)})) for share in (1.0, 0.5)
    )
    wire = collective_time("all_reduce", 1e9, links_of(8.0, 8.0))
    assert slow.time_operator(REDUCTION).time.seconds - plain.time_operator(REDUCTION).time.seconds == pytest.approx(
        wire
    )


def test_compute_has_the_processors_that_communication_leaves() -> None:
    shared = operator_timer(scenario(communication=Communication(processors=50.0)), Calibration())
    expected = gemm_time(PRODUCT, replace(MACHINE, processors=DEVICE.processors - 50.0), ROOFLINE)
    assert shared.time_operator(PRODUCT).time.seconds == expected.seconds


def test_an_operator_that_passes_share_is_priced_once() -> None:
    plain = priced_by(Calibration())
    assert plain.time_operator(PRODUCT) is plain.time_operator(PRODUCT)
    assert plain.time_all([PRODUCT, STREAM, PRODUCT])[2] is plain.time_operator(PRODUCT)


def test_a_message_s_launch_and_latency_are_its_fixed_part() -> None:
    alone = OperatorTimer(ONE_NODE, FRAMEWORK, Calibration(), 100.0)
    short = alone.time_operator(Collective("tiny", "send_recv", 1.0, Group(2.0))).time
    assert short.fixed == pytest.approx(FRAMEWORK.launch + 1e-6)
    assert short.bound == "latency"
    nothing = alone.time_operator(Collective("none", "all_reduce", 1e9, Group(1.0))).time
    assert (nothing.seconds, nothing.network, nothing.fixed) == (0, 0, 0)


def test_times_add_up_by_stream() -> None:
    plain = priced_by(Calibration())
    items = plain.time_all([PRODUCT, STREAM, REDUCTION, DISPATCH])
    sums = stream_times(items, None)
    assert sums.kernels == items[0].time.seconds + items[1].time.seconds
    assert sums.collectives == items[2].time.seconds
    assert sums.expert_all_to_alls == items[3].time.seconds
    assert sums.total == pytest.approx(sums.compute + sums.expert_all_to_alls)
    assert (sums + sums.scaled(2.0)).total == pytest.approx(3 * sums.total)


def test_a_moved_family_is_taken_at_a_point_of_its_spread() -> None:
    item = priced_by(
        Calibration("test", {"elementwise": FamilyFit(spread=Spread((1.0,), (0.5,), (1.5,), (3.0,)))})
    ).time_operator(STREAM)
    seconds = float(item.time.seconds)

    def moved(low: float, high: float) -> float:
        return float(seconds_of(item, {"elementwise": Perturbation(low, high)}))

    assert moved(0.0, 0.0) == pytest.approx(1.5 * seconds)
    assert moved(1.0, 0.0) == pytest.approx(0.5 * seconds)
    assert moved(0.0, 1.0) == pytest.approx(3.0 * seconds)
    assert seconds_of(item, None) == seconds
    assert seconds_of(item, {"gemm": Perturbation(1.0, 0.0)}) == seconds


def test_a_spread_is_a_power_of_time_between_its_knots_and_flat_beyond_them() -> None:
    times = np.array([1e-9, 1e-6, 10**-4.5, 1e-3, 1.0])
    np.testing.assert_allclose(np.asarray(SPREAD.ratio(times, 0.0, 0.0)), [2.0, 2.0, 2**0.5, 1.0, 1.0])
    np.testing.assert_allclose(np.asarray(SPREAD.ratio(times, 1.0, 0.0)), [0.5, 0.5, 0.45**0.5, 0.9, 0.9])
    np.testing.assert_allclose(np.asarray(SPREAD.ratio(times, 0.0, 1.0)), [4.0, 4.0, 6**0.5, 1.5, 1.5])


def test_a_spread_moves_no_time_where_there_is_none() -> None:
    assert 0.0 * SPREAD.ratio(0.0, 0.0, 1.0) == 0.0
    assert Spread().is_exact
    assert not SPREAD.is_exact


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("ffn up", "ffn up"),
        ("ffn up input gradient", "ffn up"),
        ("ffn up weight gradient", "ffn up"),
        ("ffn up cast", "casts"),
        ("ffn up gradient cast", "casts"),
        ("ffn up transposed casts", "casts"),
        ("attention core gradient", "attention core"),
    ],
)
def test_passes_of_one_operator_share_a_line(name: str, line: str) -> None:
    assert base_name(name) == line


def test_operators_of_the_same_sizes_take_the_same_time_under_their_own_names() -> None:
    rows = np.array([64.0, 4096.0])
    pricing = priced_by(Calibration())
    for one, other in (
        (PRODUCT, replace(PRODUCT, name="other")),
        (replace(PRODUCT, m=rows), replace(PRODUCT, name="other", m=rows.copy())),
        (REDUCTION, replace(REDUCTION, name="other", group=Group(8.0))),
        (DISPATCH, replace(DISPATCH, name="other", group=Group(64.0))),
    ):
        assert operator_key(one) == operator_key(other)
        first, second = pricing.time_operator(one), pricing.time_operator(other)
        assert second.operator.name == "other"
        assert np.array_equal(first.time.seconds, second.time.seconds)


def test_any_other_size_is_another_operator() -> None:
    rows = np.array([64.0, 512.0, 4096.0])
    base = replace(PRODUCT, m=rows)
    for other in (
        replace(base, m=np.array([64.0, 1024.0, 4096.0])),  # the same ends
        replace(base, m=rows[:, None]),
        replace(base, m=64.0),
        replace(base, family="grouped_gemm"),
        replace(base, is_wgrad=True),
    ):
        assert operator_key(base) != operator_key(other)
    assert operator_key(REDUCTION) != operator_key(replace(REDUCTION, group=Group(8.0, 8.0)))
    assert operator_key(REDUCTION) != operator_key(replace(REDUCTION, overlapped_gemm=PRODUCT))


def test_equal_sizes_of_a_grid_are_priced_once_with_the_same_times() -> None:
    """A product of H100's fit at 70 by 80 points, whose rows are of 149 kinds; likewise where bandwidth differs too."""
    workload = costmodel.load("mixtral_8x7b_h100")
    chosen = workload.scenario(next(iter(workload.scenarios)))
    calibration, cluster = workload.calibration(chosen), chosen.cluster
    rows = 8.0 * np.add.outer(np.arange(1.0, 71.0), np.arange(80.0))
    grid = replace(PRODUCT, m=rows)
    sizes = DistinctSizes.of(grid)
    assert sizes is not None
    assert np.size(sizes.reduced(grid).m) == 149
    memory = cluster.device.device_memory
    faster = replace(memory, bandwidth=memory.bandwidth * np.linspace(1.0, 2.0, 70).reshape(-1, 1))
    device = replace(cluster.device, memory=(*cluster.device.memory[:-1], faster))
    for each in (cluster, replace(cluster, node=replace(cluster.node, device=device))):
        timer = OperatorTimer(each, chosen.framework, calibration, 132.0)
        fit = calibration.fit(grid)
        assert fit.form is not None
        whole = operator_time(grid, Machine(each.device, chosen.framework, 132.0, cluster=each), each, fit)
        found = timer.time_operator(grid).time
        for part in ("seconds", "compute", "memory", "fixed"):
            expected = np.broadcast_to(getattr(whole, part), rows.shape)
            np.testing.assert_allclose(np.broadcast_to(getattr(found, part), rows.shape), expected, rtol=1e-11)
    assert DistinctSizes.of(replace(PRODUCT, m=np.arange(1.0, 6001.0))) is None  # all differ
    assert DistinctSizes.of(replace(PRODUCT, m=rows[:5])) is None  # few


@pytest.mark.parametrize("name", ["deepseek_v3", "gpt3_175b_a100"])
def test_operators_that_differ_in_numbers_take_together_the_times_that_they_take_alone(name: str) -> None:
    """All of a training step, with one fit and with several that are joined, at a point and over a grid."""
    workload = costmodel.load(name)
    chosen = workload.scenario(next(iter(workload.scenarios)))
    assert isinstance(chosen.plan, Training)
    calibration, processors = workload.calibration(chosen), chosen.cluster.device.processors
    for sequence in (chosen.plan.sequence, np.array([1024.0]), 256.0 * np.arange(1.0, 4.0)):
        plan = replace(chosen.plan, sequence=sequence)
        work = model_work(training_context(replace(chosen, plan=plan), plan))
        operators = [operator for kind in work.kinds for operator in kind.operators]
        together = OperatorTimer(chosen.cluster, chosen.framework, calibration, processors).time_all(operators)
        for operator, timed in zip(operators, together, strict=True):
            alone = OperatorTimer(chosen.cluster, chosen.framework, calibration, processors).time_operator(operator)
            for part in fields(Time):
                np.testing.assert_allclose(getattr(timed.time, part), getattr(alone.time, part), rtol=1e-11, atol=1e-18)


def test_times_are_kept_for_the_same_machine_and_fits_alone() -> None:
    workload = costmodel.load("deepseek_v3")
    chosen = workload.scenario("training")
    calibration, memory = workload.calibration(chosen), chosen.cluster.device.device_memory
    first = operator_timer(chosen, calibration).time_operator(STREAM).time
    assert operator_timer(chosen, calibration).time_operator(STREAM).time is first
    assert operator_timer(chosen, Calibration()).time_operator(STREAM).time.seconds != first.seconds
    slow = replace(memory, bandwidth=memory.bandwidth / 2.0)
    device = replace(chosen.cluster.device, memory=(*chosen.cluster.device.memory[:-1], slow))
    slower = replace(chosen, cluster=replace(chosen.cluster, node=replace(chosen.cluster.node, device=device)))
    assert operator_timer(slower, calibration).time_operator(STREAM).time.seconds > first.seconds


def test_sustained_work_slows_kernels_and_no_message() -> None:
    framework = replace(FRAMEWORK, sustained_slowdown=1.5)
    short, long = (
        OperatorTimer(CLUSTER, framework, Calibration(), 100.0, is_sustained=sustained) for sustained in (False, True)
    )
    for each, factor in ((PRODUCT, 1.5), (STREAM, 1.5), (REDUCTION, 1.0), (DISPATCH, 1.0)):
        ratio = long.time_operator(each).time.seconds / short.time_operator(each).time.seconds
        assert ratio == pytest.approx(factor)
