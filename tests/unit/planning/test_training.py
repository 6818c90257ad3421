"""A training run: the fewest devices in time, as `search` finds and `simulate` evaluates them, and its goodput."""

from __future__ import annotations

import math
import shlex
import warnings
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import costmodel
from benchmarks.plans import every_layout, shown
from costmodel.errors import ImplausibleInput, InputError
from costmodel.event.goodput import simulate_goodput
from costmodel.planning.goodput import DAY, TrainingRun, best_goodput, goodput_of
from costmodel.planning.money import Prices
from costmodel.planning.request import PlanRequest, read_request
from costmodel.planning.structures import training_formats
from costmodel.planning.training import TrainingPlans, document, plan_training
from costmodel.records import replace
from costmodel.report.training_plans import headline
from costmodel.schema.files import load_cluster
from costmodel.study.search import Space, searched
from costmodel.study.sweep import Wanted
from costmodel.workload.simulation import Checkpoints

EIGHT, ONE = "nodes/rtx-4090-x8", "nodes/a100-x1"
SHORT = ("scenarios.training.sequence", "256")
FIXED = (("scenarios.training.recompute", "none"), ("scenarios.training.optimizer.zero", "1"))


def planned(*clusters: str, **asked: object) -> TrainingPlans:
    request = {"tokens": 2e9, "changes": FIXED, **asked}
    return plan_training(PlanRequest("mpt-125m", clusters or (EIGHT,), train=True, **request))


@pytest.fixture(scope="module")
def front() -> TrainingPlans:
    """Return the runs on one and on eight devices."""
    return planned(devices=(1, 8))


def of_eight(front: TrainingPlans) -> TrainingRun:
    return next(run for run in front.runs if run.devices == 8)


def test_a_run_is_the_layout_of_a_search_and_its_step_that_of_a_simulation(front: TrainingPlans) -> None:
    run = of_eight(front)
    words = shlex.split(run.command)
    sets = dict(after.split("=", 1) for flag, after in pairwise(words) if flag == "--set")
    point = costmodel.load("mpt-125m", sets, cluster=EIGHT, phases=["training"]).points()["training"]
    assert point.reason is None
    assert sum(point.memory.values()) == pytest.approx(run.memory)
    assert point.metrics == run.point.metrics
    workload = costmodel.load("mpt-125m", cluster=EIGHT, phases=["training"])
    space = Space((8,), (), tuple(f"{path}={value}" for path, value in FIXED))
    best = searched(workload, "training", "minimise step_time", Wanted({}, ()), space).best[0]
    assert best.metrics["step_time"] == point.metrics["step_time"]


def test_days_dollars_and_energy_are_those_of_the_tokens_at_the_goodput(front: TrainingPlans) -> None:
    run = of_eight(front)
    rate, share = run.point.metrics["tokens_per_second"], run.goodput.share
    assert run.seconds == pytest.approx(2e9 / rate / share)
    assert run.dollars == pytest.approx(8 * run.scenario.cluster.device.price.rental * run.seconds)
    assert run.joules == pytest.approx(run.point.metrics["energy_per_token"] * 2e9 / share)
    written = next(each for each in document(front)["plans"] if each["devices"] == 8)
    assert written["metrics"]["days"] == pytest.approx(run.seconds / DAY)
    assert written["cost_per_million"]["all"] == pytest.approx(run.dollars / 2e3)


def test_progress_grows_within_each_search_and_reaches_its_end() -> None:
    shares: list[float] = []
    plan_training(PlanRequest("mpt-125m", (EIGHT,), train=True, tokens=2e9, devices=(1, 8)), shares.append)
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert len({share for share in shares if share < 0.25}) > 1


def test_no_run_of_a_front_is_faster_and_cheaper_than_another(front: TrainingPlans) -> None:
    runs = sorted(front.runs, key=lambda run: run.seconds)
    costs = [run.dollars for run in runs]
    assert costs == sorted(costs, reverse=True)
    assert [run.devices for run in front.runs] == [run.devices for run in sorted(runs, key=lambda run: run.dollars)]


def test_more_days_never_cost_more_devices_and_two_clusters_are_no_worse_than_one(front: TrainingPlans) -> None:
    eight = of_eight(front).seconds / DAY
    limits = [1.2 * eight, 12 * eight]
    plans = [planned(EIGHT, ONE, days=days) for days in limits]
    for plan, days in zip(plans, limits, strict=True):
        assert plan.holds
        assert all(run.seconds <= days * DAY for run in plan.runs)
        assert [run.dollars for run in plan.runs] == sorted(run.dollars for run in plan.runs)
    devices = [next(run.devices for run in plan.runs if run.cluster == EIGHT) for plan in plans]
    assert devices[0] == 8
    assert devices[1] == 1
    alone = next(run for run in plans[1].runs if run.cluster == ONE)
    assert plans[1].runs[0].dollars <= alone.dollars


def test_where_nothing_ends_in_time_the_nearest_is_said(front: TrainingPlans) -> None:
    late = planned(days=0.5 * of_eight(front).seconds / DAY)
    assert not late.holds
    assert document(late)["reachable"]["devices"] == late.runs[0].devices
    assert not document(late)["plans"][0]["holds"]
    assert "days, more than" in late.left_out[0]


def test_a_run_is_sized_for_the_probability_that_is_asked_for_and_at_least_an_even_one(front: TrainingPlans) -> None:
    run = of_eight(front)
    middle = math.sqrt(math.prod(run.interval))
    late = planned(devices=(8,), days=0.5 * (run.seconds + middle) / DAY)
    assert middle > run.seconds
    assert not late.holds
    assert len(late.left_out) == 1
    assert late.left_out[0].endswith("days, in time with a probability of 50%")
    sized = [planned(devices=(8,), days=1.01 * end / DAY, confidence=0.9).holds for end in (middle, run.interval[1])]
    assert sized == [False, True]


def test_a_budget_bounds_the_rent_of_a_run_and_what_is_over_it_is_said(front: TrainingPlans) -> None:
    rent = of_eight(front).point.metrics["cost_rate"]
    within = planned(devices=(1, 8), budget=0.5 * rent)
    assert [run.devices for run in within.runs] == [1]
    assert within.left_out == (f"{EIGHT}: 8 devices: over the budget",)
    none = planned(budget=0.1 * rent)
    assert not none.runs
    assert f"one is {rent / 8 * 3600:.4g} $/h" in none.left_out[0]


def test_beside_a_run_that_fills_memory_stands_the_fastest_that_leaves_a_tenth(front: TrainingPlans) -> None:
    run = of_eight(front)
    assert run.roomier is None
    warnings.simplefilter("ignore", ImplausibleInput)
    full = ("hardware.memory.hbm.capacity", f"{1.02 * run.memory:.0f} B")
    plans = planned(devices=(8,), changes=(*FIXED, full))
    (tight,) = plans.runs
    assert tight.memory == run.memory
    assert tight.roomier.memory <= 0.9 * tight.point.capacity
    assert tight.roomier.seconds >= tight.seconds
    assert document(plans)["plans"][0]["roomier"]["memory"] == tight.roomier.memory


def test_costs_of_training_plans_are_of_an_hour_as_those_of_servers(front: TrainingPlans) -> None:
    entry, run = next(each for each in document(front)["plans"] if each["devices"] == 8), of_eight(front)
    assert entry["cost_rate"] == entry["metrics"]["cost_rate"] == pytest.approx(run.dollars / run.seconds * 3600.0)


def test_a_low_mfu_is_said_with_its_cause() -> None:
    low = planned(devices=(8,), changes=(*FIXED, ("scenarios.training.global_batch", "8"), SHORT)).runs[0]
    assert low.point.metrics["mfu"] < 0.415 / 3
    assert any("below a third of the 42% of Megatron 22B: bound by" in note for note in low.notes)


def test_progress_rises_to_one_over_all_clusters() -> None:
    shares: list[float] = []
    request = PlanRequest("mpt-125m", (ONE, EIGHT), train=True, tokens=2e9, changes=FIXED, devices=(1,))
    plan_training(request, shares.append)
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert any(0.0 < share <= 0.5 for share in shares)


def test_stated_failures_of_a_device_are_as_many_times_those_of_a_run_as_it_has_devices() -> None:
    stated = "{interval: 30 min, write: 10 s, restart: 5 min, device_mtbf: 50000 h}"
    changes = {"scenarios.training.simulation": f"{{checkpoints: {stated}}}"}
    workload = costmodel.load("mpt-125m", changes, cluster=EIGHT, phases=["training"])
    found = goodput_of(workload.scenario("training"), workload.points()["training"])
    assert found == best_goodput(50_000 * 3600.0 / 8, 10.0, 300.0)


def test_goodput_is_largest_at_its_interval_and_that_of_young_where_failures_are_rare() -> None:
    mean, write, restart = 45_000.0, 8.0, 900.0
    best = best_goodput(mean, write, restart)

    def share(interval: float) -> float:
        return interval / (mean * math.exp(restart / mean) * math.expm1((interval + write) / mean))

    assert best.share == pytest.approx(share(best.interval))
    assert best.share > max(share(0.9 * best.interval), share(1.1 * best.interval))
    assert best_goodput(1e9, 1.0, 0.0).interval == pytest.approx(math.sqrt(2.0 * 1e9), rel=1e-3)
    simulated = simulate_goodput(1.0, 1, Checkpoints(best.interval, write, restart, mean), seed=0)
    assert simulated.goodput == pytest.approx(best.share, abs=0.01)
    for none in (0.0, 1e-20):
        free = best_goodput(mean, none, restart)
        assert (free.interval, free.share) == (0.0, pytest.approx(math.exp(-restart / mean)))
    assert best_goodput(mean, 1e-6, restart).share == pytest.approx(free.share, rel=1e-4)


def test_a_request_without_tokens_or_a_cluster_is_refused() -> None:
    with pytest.raises(InputError) as refused:
        plan_training(PlanRequest(None, ()))
    assert [each.field for each in refused.value.problems] == ["MODEL", "--tokens", "--cluster"]


@pytest.mark.parametrize(
    ("given", "fields"),
    [
        ({"train": True, "tokens": "1T", "isl": "9", "ttft": "1s"}, ["--isl", "--ttft"]),
        ({"rate": "3/s", "tokens": "1T", "days": "3"}, ["--tokens", "--days"]),
        ({"rate": "3/s", "tokns": "1T"}, ["--tokns"]),
    ],
)
def test_options_of_another_kind_of_plan_are_refused(given: dict[str, object], fields: list[str]) -> None:
    with pytest.raises(InputError) as refused:
        read_request(given)
    assert [problem.field for problem in refused.value.problems] == fields


def test_a_price_file_s_rent_is_that_of_the_run(front: TrainingPlans) -> None:
    usual = of_eight(front)
    own = planned(devices=(8,), prices=Prices(rent={"rtx-4090": 1.0 / 3600.0})).runs[0]
    assert own.seconds == usual.seconds
    assert own.dollars == pytest.approx(8 * own.seconds / 3600.0)


def test_the_best_of_several_batches_is_that_of_one_of_them_and_numbers_without_a_run_have_a_reason() -> None:
    """Tokens of a second decide: a larger batch has a longer step."""
    batch = "scenarios.training.global_batch"
    rates = {
        value: planned(devices=(8,), changes=(*FIXED, SHORT, (batch, value))).runs[0].point.metrics["tokens_per_second"]
        for value in ("8", "64", "[8,64]")
    }
    assert rates["[8,64]"] == max(rates["8"], rates["64"]) > min(rates["8"], rates["64"])
    (why, able) = planned(devices=(13,), changes=(*FIXED, SHORT, (batch, "64"))).left_out
    assert why.startswith(f"{EIGHT}: 13 devices: no layout fits")
    assert able == f"{EIGHT}: --devices 8 would do"
    late = planned(devices=(13,), days=1e-6, changes=(*FIXED, SHORT, (batch, "64")))
    assert late.left_out[-1] == f"{EIGHT}: --devices 8 would fit, too slow"
    down = planned(devices=(4, 13), days=1e-6, changes=(*FIXED, SHORT, (batch, "64")))
    assert [run.devices for run in down.runs] == [4]
    odd = planned(devices=(13, 8), changes=(*FIXED, SHORT, (batch, "64")))
    assert [run.devices for run in odd.runs] == [8]
    assert len(odd.left_out) == 1
    assert odd.left_out[0].startswith(f"{EIGHT}: 13 devices: no layout fits in memory and divides the batch")


def test_lists_that_are_no_axes_of_layouts_stay_in_the_run() -> None:
    head = "scenarios.training."
    stated = {"adapters.rank": "16", "adapters.targets": "[q]", "stages": "[4, 3, 3, 2]", "parallel.virtual": "1"}
    changes = (*FIXED, (f"{head}parallel.pp", "[4]"), *((head + path, value) for path, value in stated.items()))
    (run,) = planned(devices=(4,), changes=changes).runs
    assert run.scenario.parallel.pp == 4
    assert run.scenario.plan.stages == (4, 3, 3, 2)
    assert run.scenario.plan.adapters.targets == ("q",)
    assert "adapters.targets: [q], stages: [4, 3, 3, 2]" in run.command


def test_numbers_that_are_not_listed_under_a_limit_of_days_have_the_reason_of_their_side(front: TrainingPlans) -> None:
    """On two devices it takes about four times as long as on eight, on four twice as long."""
    plan = planned(devices=(1, 2, 4, 8), days=2.5 * of_eight(front).seconds / DAY)
    assert [run.devices for run in plan.runs] == [4]
    smallest, smaller, larger = (line.split(": ", 2)[2] for line in plan.left_out)
    assert smallest == "not looked at: 2 do not end in time"
    assert "days, more than" in smaller
    assert larger.endswith("fewer end in time")


def test_the_number_format_is_that_of_the_fastest_run_and_a_stated_one_stays() -> None:
    """Products in 8 bits, where the device has them: one scale for 32 elements takes a device that scales blocks."""

    def of(*changes: tuple[str, str]) -> TrainingRun:
        asked = {"tokens": 2e9, "devices": (1,), "changes": (*FIXED, ("scenarios.training.micro_batch", "4"), *changes)}
        (run,) = plan_training(PlanRequest("mpt-1b", ("nodes/h100-x1",), train=True, **asked)).runs  # type: ignore[arg-type]
        return run

    path = "scenarios.training.precision"
    each = {name: of((path, name)) for name in ("bf16", "fp8", "fp8-te")}
    best, chosen = min(each.values(), key=lambda run: run.seconds), of()
    assert (chosen.seconds, chosen.changes[path]) == (best.seconds, best.changes[path])
    assert best is not each["bf16"]
    assert f"in BF16 {each['bf16'].seconds / DAY:.3f} days on 1 device" in chosen.notes[-1]
    assert [run.scenario.precision.linear for run in each.values()] == ["bf16", "fp8", "fp8"]
    own = each["bf16"].scenario
    assert list(training_formats(own, ())) == ["fp8", "fp8-te"]
    blackwell = replace(own, cluster=load_cluster("nodes/hgx-b200"))
    assert list(training_formats(blackwell, ())) == ["fp8", "fp8-te", "mxfp8"]


@settings(max_examples=4)
@given(
    devices=st.sampled_from((2, 4, 6, 8)), batch=st.sampled_from((24, 32, 48)), sequence=st.sampled_from((256, 2048)),
    cluster=st.sampled_from((EIGHT, "nodes/dgx-a100")), recompute=st.sampled_from(("none", "full")),
)  # fmt: skip
def test_the_winner_is_that_of_evaluating_every_layout(
    devices: int, batch: int, sequence: int, cluster: str, recompute: str
) -> None:
    """To nine digits of its step; no bound on time or memory leaves any out."""
    stated = {"global_batch": batch, "sequence": sequence, "recompute": recompute, "precision": "bf16"}
    changes = tuple((f"scenarios.training.{path}", str(value)) for path, value in stated.items())
    request = PlanRequest("mpt-125m", (cluster,), train=True, tokens=2e9, devices=(devices,), changes=changes)
    found = plan_training(request).runs[0]
    every, count = every_layout(request)
    assert (shown(found), found.at) == (shown(every), every.at)
    assert count > 30


def test_a_step_of_reinforcement_learning_is_planned_with_the_engines_of_its_rollout() -> None:
    """The layout of both parts is that of a search, and the command simulates its step."""
    fixed = (("scenarios.train.recompute", "full"), ("scenarios.train.optimizer.zero", "3"))
    name = "workloads/llama3_8b_grpo_h100.yaml"
    request = PlanRequest(name, ("nodes/dgx-h100",), train=True, tokens=1e9, devices=(8,), changes=fixed)
    plans = plan_training(request)
    (run,) = plans.runs
    assert run.rollout is not None
    assert run.rollout["parallel.tp"] * run.rollout["replicas.count"] == 8
    assert run.layout["recompute"] == "full"
    assert run.seconds == pytest.approx(1e9 / run.point.metrics["tokens_per_second"] / run.goodput.share)
    words = shlex.split(run.command)
    sets = dict(after.split("=", 1) for flag, after in pairwise(words) if flag == "--set")
    point = costmodel.load(name, sets, cluster="nodes/dgx-h100", scenarios=["step"]).points()["step"]
    assert point.metrics["step_time"] == run.point.metrics["step_time"]
    loaded = costmodel.load(name, cluster="nodes/dgx-h100", scenarios=["step"])
    space = Space((8,), (), tuple(f"{path}={value}" for path, value in fixed))
    assert searched(loaded, "step", "minimise step_time", Wanted({}, ()), space).best[0].at == run.at
    (entry,) = document(plans)["plans"]
    assert entry["rollout"] == run.rollout
    assert entry["parallel"]["dp"] == run.layout["parallel.dp"]
    assert f"rollout by {run.rollout['replicas.count']} engine" in headline(run)
