"""Both engines on one scenario: without jitter, contention or limits they say the same."""

from __future__ import annotations

import numpy as np
import pytest
from builders import (
    BF16,
    CLUSTER,
    DECODE,
    DENSE_MODEL,
    FP8,
    LATENT,
    MOE,
    MOE_MODEL,
    PREFILL,
    SERVING,
    STEP,
    scenario,
    with_device,
)
from slowdown_windows import device_failure, straggler

import costmodel
from costmodel.analytic.breakdown import summing_to
from costmodel.analytic.grid import evaluate_point
from costmodel.api import event_engine
from costmodel.cost.calibration import Calibration
from costmodel.event.evaluation import NOT_SIMULATED, STREAM_STALLS, EventEngine, scaled_as_closed_form
from costmodel.event.graph import Conditions
from costmodel.records import replace
from costmodel.result import Entry, Point
from costmodel.workload.architecture import Architecture, Layer
from costmodel.workload.plans import Sharding
from costmodel.workload.scenario import Communication, Parallelism, Scenario

EQUAL = Architecture("equal", 2048.0, 1000.0, (Layer(32, LATENT, MOE),))  # a head and an embedding that hardly count
SCHEDULES = {
    "gpipe": 1,
    "1f1b": 1,
    "interleaved": 2,
    "combined-1f1b": 2,
    "zb-h1": 1,
    "zb-v": 2,
    "dualpipe": 1,
    "dualpipe-v": 2,
}
LAYOUT = Parallelism(pp=4.0, dp=8.0, ep=8.0)
FEW = Parallelism(pp=4.0, dp=4.0, ep=4.0)  # ranks that can be simulated one by one


def step(schedule: str, architecture: Architecture = EQUAL, load: float | None = None) -> Scenario:
    plan = replace(STEP, schedule=schedule, global_batch=64.0)
    parallel = replace(LAYOUT, virtual=float(SCHEDULES[schedule]))
    return scenario(plan, architecture, parallel, FP8, Communication(10.0, dispatch="fp8", expert_load=load))


def simulated(of: Scenario, conditions: Conditions | None = None, *, full: bool = False) -> Point:
    return EventEngine(Conditions() if conditions is None else conditions, full).point(of, Calibration())


def headline(point: Point) -> float:
    value = point.metrics[point.headline]
    assert value is not None
    return value


@pytest.mark.parametrize("load", [None, 1.4])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_on_equal_stages_both_engines_agree_within_half_a_percent(schedule: str, load: float | None) -> None:
    closed = evaluate_point(step(schedule, load=load), Calibration())
    found = simulated(step(schedule, load=load))
    assert headline(found) == pytest.approx(headline(closed), rel=5e-3)
    assert found.schedule is not None
    assert sum(found.schedule.values()) == pytest.approx(headline(found), rel=1e-9)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_ranks_that_are_alike_are_simulated_once_with_the_same_result(schedule: str) -> None:
    """With uneven experts: even ones are simulated in full, too, where reductions run on."""
    of = replace(step(schedule, load=1.4), parallel=replace(FEW, virtual=float(SCHEDULES[schedule])))
    of = replace(of, plan=replace(of.plan, global_batch=32.0))
    assert headline(simulated(of, full=True)) == pytest.approx(headline(simulated(of)), rel=1e-9)


HIDDEN = scenario(replace(STEP, sharding=Sharding(overlap=True)), MOE_MODEL, LAYOUT)
OTHERS = {
    "tensor parallel": scenario(STEP, DENSE_MODEL, Parallelism(tp=4.0, sequence_parallel=True)),
    "context parallel": scenario(STEP, DENSE_MODEL, Parallelism(cp=4.0)),
    "tensor and pipeline parallel": scenario(STEP, DENSE_MODEL, Parallelism(pp=4.0, tp=4.0)),
    "unequal stages": scenario(replace(STEP, stages=(3, 3, 1, 1)), DENSE_MODEL, Parallelism(pp=4.0)),
    "zero 3": scenario(replace(STEP, zero=3), MOE_MODEL, LAYOUT),
    "zero 3, dualpipe": scenario(replace(STEP, zero=3, schedule="dualpipe"), MOE_MODEL, LAYOUT),
    "overlap once a step": HIDDEN,
    "overlap that slows kernels": replace(HIDDEN, framework=replace(HIDDEN.framework, moe_comm_slowdown=1.5)),
    "prefill": scenario(PREFILL, MOE_MODEL, replace(LAYOUT, pp=2.0)),
    "decode without experts": scenario(DECODE, DENSE_MODEL, Parallelism(dp=8.0, pp=4.0)),
}


@pytest.mark.parametrize("case", OTHERS)
def test_what_moves_beside_passes_takes_as_long_in_both(case: str) -> None:
    closed = evaluate_point(OTHERS[case], Calibration())
    for full in (False, True):
        assert headline(simulated(OTHERS[case], full=full)) == pytest.approx(headline(closed), rel=1e-6)


BANDWIDTHS = (1e9, 2e10, 2e11)


@pytest.mark.parametrize("overlap", [True, False])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_reductions_that_run_on_beside_later_passes_are_as_long_in_both(
    schedule: str, overlap: bool, long: bool
) -> None:
    """The step on unequal stages; and its parts, but for messages between stages that queue on a rank in one engine."""
    turn = (list(SCHEDULES).index(schedule) + overlap) % len(BANDWIDTHS)
    for bandwidth in BANDWIDTHS if long else BANDWIDTHS[turn : turn + 1]:
        both_engines_reduce_alike(schedule, overlap, bandwidth)


def both_engines_reduce_alike(schedule: str, overlap: bool, bandwidth: float) -> None:
    plan = replace(STEP, zero=2, sharding=Sharding(overlap), schedule=schedule, global_batch=128.0)
    layout = Parallelism(pp=4.0, dp=8.0, virtual=float(SCHEDULES[schedule]))
    device = CLUSTER.device
    link = replace(device.links["nvlink"], bandwidth=bandwidth)
    of = scenario(plan, DENSE_MODEL, layout, cluster=with_device(CLUSTER, replace(device, links={"nvlink": link})))
    closed = evaluate_point(of, Calibration())
    for full in (False, True):
        found = simulated(of, full=full)
        assert headline(found) == pytest.approx(headline(closed), rel=1e-9)
        for name in ("bubble_time", "exposed_communication_time"):
            assert found.metrics[name] == pytest.approx(closed.metrics[name], abs=3e-4 * headline(closed)), name
        assert found.schedule == pytest.approx(closed.schedule, abs=3e-4 * headline(closed))


@pytest.mark.parametrize("bandwidth", [1e9, 2e11])
@pytest.mark.parametrize("schedule", ["1f1b", "zb-h1"])
def test_reductions_of_uneven_experts_run_on_in_later_passes(schedule: str, bandwidth: float) -> None:
    of = step(schedule, load=1.4)
    link = replace(CLUSTER.device.links["nvlink"], bandwidth=bandwidth)
    cluster = with_device(CLUSTER, replace(CLUSTER.device, links={"nvlink": link}))
    of = replace(of, plan=replace(of.plan, zero=2, sharding=Sharding(True)), cluster=cluster)
    assert headline(simulated(of)) == pytest.approx(headline(evaluate_point(of, Calibration())), rel=1e-9)


def test_replicas_meet_for_reductions_that_run_on() -> None:
    of = scenario(
        replace(STEP, zero=2, sharding=Sharding(True), global_batch=64.0), DENSE_MODEL, Parallelism(pp=2.0, dp=4.0)
    )
    together = replace(of, simulation=replace(of.simulation, replicas=4))
    assert headline(simulated(together)) == pytest.approx(headline(evaluate_point(of, Calibration())), rel=1e-9)


def test_an_overlapped_pair_is_never_shorter_than_its_computation_or_its_exchanges() -> None:
    """The closed form takes the longer of both; streams can only wait longer."""
    for schedule in ("dualpipe", "dualpipe-v"):
        of = step(schedule, replace(MOE_MODEL, mtp=None))
        assert headline(simulated(of)) >= headline(evaluate_point(of, Calibration())) * (1 - 1e-9)


@pytest.mark.parametrize("split", [False, True])
def test_decoding_with_and_without_a_cut_through_attention_is_that_of_the_closed_form(split: bool) -> None:
    talk = Communication(mode="low_latency", split_attention=split)
    of = scenario(DECODE, MOE_MODEL, Parallelism(dp=8.0, ep=8.0), communication=talk)
    found, closed = simulated(of), evaluate_point(of, Calibration())
    assert headline(found) == pytest.approx(headline(closed), rel=1e-6)
    assert {one.name for one in found.breakdown} == {one.name for one in closed.breakdown}
    assert found.metrics["energy_per_token"] == pytest.approx(closed.metrics["energy_per_token"], rel=1e-6)


def test_kernels_that_exchanges_slow_down_make_a_pair_as_much_longer_as_in_the_closed_form() -> None:
    of = step("dualpipe")
    slow = replace(of, framework=replace(of.framework, moe_comm_slowdown=1.2))
    closed = headline(evaluate_point(slow, Calibration()))
    assert closed > 1.001 * headline(evaluate_point(of, Calibration()))
    assert headline(simulated(slow)) == pytest.approx(closed, rel=5e-3)


def test_a_pass_takes_as_long_as_the_host_needs_to_start_its_kernels() -> None:
    of = step("1f1b")
    slow = replace(of, framework=replace(of.framework, host=replace(of.framework.host, operator=1e-4)))
    closed = headline(evaluate_point(slow, Calibration()))
    assert closed > 1.1 * headline(evaluate_point(of, Calibration()))
    assert headline(simulated(slow)) == pytest.approx(closed, rel=1e-6)


@pytest.mark.parametrize("of", [step("dualpipe"), OTHERS["prefill"], OTHERS["decode without experts"]])
def test_the_breakdown_sums_to_the_headline(of: Scenario) -> None:
    found = simulated(of)
    bubble = found.metrics.get("bubble_time") or 0.0
    assert sum(entry.time for entry in found.breakdown) + bubble == pytest.approx(headline(found), rel=1e-6)


def test_lines_that_exceed_a_simulated_step_are_hidden_in_part_and_a_shorter_sum_stalls() -> None:
    listed = [Entry("products", 3.0), Entry("messages", 1.0, hidden=2.0)]
    assert [(line.time, line.hidden) for line in summing_to(2.0, listed, STREAM_STALLS)] == [(1.5, 1.5), (0.5, 2.5)]
    short = Entry("products")
    short.add(2.0, 1.0, "compute", "fitted")
    assert [line.time for line in summing_to(3.0, [short], STREAM_STALLS)] == [2.0, 1.0]


def test_intervals_hold_the_point() -> None:
    found = simulated(step("dualpipe"))
    for name, pair in found.intervals.items():
        value = found.metrics[name]
        if pair is not None and value is not None:
            assert pair[0] <= value <= pair[1]


def test_one_slow_rank_holds_up_the_whole_pipeline() -> None:
    plain = headline(simulated(step("1f1b")))
    slow = headline(simulated(step("1f1b"), Conditions(slowdown_windows=(straggler(2, 0.5),))))
    assert 1.3 * plain < slow < 2 * plain


def test_processors_that_communication_leaves_free_make_a_step_shorter() -> None:
    of = step("1f1b")
    whole = float(of.cluster.device.processors)
    found = simulated(of, Conditions(processors=(whole, whole - 10.0)))
    assert 0.9 * headline(simulated(of)) < headline(found) < headline(simulated(of))


def test_faster_kernels_leave_exposed_communication_as_it_was() -> None:
    of = step("1f1b")
    whole = float(of.cluster.device.processors)
    told = (None, Conditions(processors=(whole, whole - 10.0)), Conditions(slowdown_windows=(straggler(2, 0.5),)))
    exposed = [simulated(of, each).metrics["exposed_communication_time"] for each in told]
    assert exposed[1:] == pytest.approx([exposed[0]] * 2, rel=5e-3)  # another rank may be last


def test_intervals_of_perturbed_simulations_are_those_of_the_closed_form_without_noise() -> None:
    for of in (OTHERS["prefill"], step("1f1b")):
        closed = evaluate_point(of, Calibration()).intervals
        own = EventEngine(Conditions(), perturbed=True).point(of, Calibration()).intervals
        moved = EventEngine(Conditions(), perturbed=False).point(of, Calibration()).intervals
        for name, pair in closed.items():
            if pair is None:
                continue
            assert own[name] == pytest.approx(pair, rel=1e-6), name
            assert moved[name] == pytest.approx(pair, rel=1e-6), name


def test_intervals_with_noise_are_moved_by_the_ratio_of_the_closed_form_where_simulating_them_takes_long() -> None:
    noise = Conditions(jitter=0.05)
    own, moved = (
        EventEngine(noise, perturbed=perturbed).point(OTHERS["prefill"], Calibration()).intervals
        for perturbed in (True, False)
    )
    assert moved["ttft"] == pytest.approx(own["ttft"], rel=5e-3)


def test_a_simulation_s_metrics_move_by_the_ratio_of_the_closed_form_s_and_its_bubble_by_the_difference() -> None:
    closed, moved = {"step_time": 10.0, "bubble_time": 3.0}, {"step_time": 11.0, "bubble_time": 4.0}
    found = scaled_as_closed_form({"step_time": 12.0, "bubble_time": 5.0}, closed, moved)
    assert found == {"step_time": pytest.approx(13.2), "bubble_time": 6.0}


def test_a_step_that_a_failed_device_ends_is_infeasible_and_says_what_waits() -> None:
    found = simulated(step("1f1b"), Conditions(slowdown_windows=(device_failure(3, 1e-3),)))
    assert not found.fits
    assert "rank 3" in str(found.reason)
    assert headline_is_null(found)


def headline_is_null(point: Point) -> bool:
    return point.metrics[point.headline] is None


def test_phases_without_streams_of_their_own_say_that_they_are_closed() -> None:
    found = simulated(scenario(SERVING, DENSE_MODEL, precision=BF16))
    assert found.notes[-1] == NOT_SIMULATED


def test_deepseek_v3_keeps_its_time_of_prompts() -> None:
    workload = costmodel.load("deepseek_v3", scenarios=["prefill"])
    closed, found = workload.simulate(), workload.simulate(engine="event", simulation=event_engine())
    assert found["engine"] == "event"
    assert found["seed"] is None
    ours, theirs = (document["scenarios"]["prefill"] for document in (found, closed))
    assert ours.keys() == theirs.keys()
    assert ours["metrics"]["ttft"] == pytest.approx(theirs["metrics"]["ttft"], rel=1e-2)


def test_a_grid_holds_what_its_points_say() -> None:
    workload = costmodel.load("deepseek_v3", scenarios=["decode"])
    axes = {"scenarios.decode.batch_per_device": [64.0, 100.0, 1e6], "hardware.memory.hbm.bandwidth": ["3 TB/s"]}
    found = workload.evaluate("decode", axes, engine="event")
    assert found.metrics["tpot"].shape == (3, 1)
    assert found.fits.tolist() == [[True], [True], [False]]
    assert np.isnan(found.metrics["tpot"][2, 0])
    assert found.metrics["capital_cost"] is None
    assert found.at(1, 0)["metrics"]["tpot"] == pytest.approx(found.metrics["tpot"][1, 0], rel=1e-9)
    low, high = found.intervals["tpot"]
    assert low[0, 0] <= found.metrics["tpot"][0, 0] <= high[0, 0]
    closed = workload.evaluate("decode", axes)
    assert found.metrics["tpot"][:2] == pytest.approx(closed.metrics["tpot"][:2], rel=1e-2)


@pytest.mark.parametrize("load", [1.0, 1.3])
def test_the_flagship_s_parts_are_the_same_on_either_engine_however_uneven_its_experts(load: float) -> None:
    """What exchanges slow kernels down by is no exposed communication, and no energy is saved by it."""
    changes = {"communication.expert_load": load, "global_batch": 4096}
    training = costmodel.load("deepseek_v3", set={f"scenarios.training.{name}": to for name, to in changes.items()})
    closed, found = (training.evaluate("training", engine=engine) for engine in ("analytic", "event"))
    assert found.at()["schedule"] == pytest.approx(closed.at()["schedule"], rel=1e-6)
    assert found.at()["schedule"]["bubble"] > (1.1 if load > 1 else 1.0)
    for metric in ("exposed_communication_time", "bubble_time", "energy_per_token"):
        assert float(found.metrics[metric]) == pytest.approx(float(closed.metrics[metric]), rel=5e-3), metric
