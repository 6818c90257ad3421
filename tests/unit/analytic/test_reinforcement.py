"""A step of reinforcement learning: the sum of its parts, pools at work at once, memory of both, and its limits."""

from __future__ import annotations

import numpy as np
import pytest
from builders import BF16, CLUSTER, DENSE_MODEL, DEVICE, GENERATE, SERVING, STEP, scenario, with_device, with_level

from costmodel.analytic.evaluation import evaluate, ledger_of
from costmodel.analytic.grid import evaluate_grid, evaluate_point
from costmodel.analytic.intervals import RunScatter, intervals
from costmodel.analytic.reinforcement import ReinforcementEvaluation, new_weights
from costmodel.analytic.serving import burst
from costmodel.analytic.serving.burst import BurstRollout, RolloutTimes, burst_profile
from costmodel.analytic.stream_times import Perturbations
from costmodel.cost.calibration import Calibration
from costmodel.hardware import Cluster
from costmodel.quantities import Quantity
from costmodel.records import replace
from costmodel.result import Point
from costmodel.workload.adapters import Adapters
from costmodel.workload.architecture import Mtp
from costmodel.workload.counting import parameter_count
from costmodel.workload.engine_memory import kv_pool
from costmodel.workload.memory import Ledger
from costmodel.workload.operators import Collective
from costmodel.workload.plans import Generate, Serving, Speculative, Training
from costmodel.workload.reinforcement import Refit, Reinforcement
from costmodel.workload.requests import Lengths, Replicas, RequestStream
from costmodel.workload.scenario import Parallelism, Scenario
from costmodel.workload.validity import rules

TRAIN = replace(STEP, global_batch=64.0, sequence=1280.0, zero=1)
SPREAD = Lengths(distribution="lognormal", mean=256.0, deviation=200.0, high=2048.0)
BURST = replace(SERVING, concurrency=None, requests=RequestStream(output=SPREAD), replicas=Replicas(count=8.0))
EIGHT = Parallelism(dp=8.0)
PARTS = ("rollout_time", "reward_time", "log_probability_time", "train_time", "update_time", "offload_time")


def step(
    engines: Generate | Serving = GENERATE, train: Training = TRAIN, layout: Parallelism = EIGHT,
    cluster: Cluster = CLUSTER, **keys: object,
) -> Scenario:  # fmt: skip
    """Return a step of 64 prompts with 2 answers each, on eight devices."""
    rollout = scenario(engines, parallel=EIGHT if isinstance(engines, Generate) else Parallelism(), cluster=cluster)
    trains = scenario(train, parallel=layout, cluster=cluster)
    plan = Reinforcement(rollout, trains, **{"prompts": 64.0, "samples": 2.0, "offload": "none"} | keys)  # type: ignore[arg-type]
    return replace(trains, plan=plan)


def point(of: Scenario) -> Point:
    return evaluate_point(of, Calibration())


def metrics(of: Scenario) -> dict[str, float]:
    return {name: value for name, value in point(of).metrics.items() if value is not None}


def held(of: Scenario) -> Ledger:
    ledger = evaluate(of, Calibration()).ledger
    assert ledger is not None
    return ledger


# ---- the sum of its parts -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engines", [GENERATE, BURST])
@pytest.mark.parametrize("placement", ["colocated", "split"])
def test_staleness_0_equals_on_policy_a_step_that_is_the_sum_of_its_parts(
    engines: Generate | Serving, placement: str
) -> None:
    offload = "all" if placement == "colocated" else "none"
    found = point(step(engines, placement=placement, staleness=0.0, reward=1.5, offload=offload))
    parts = [found.metrics[name] or 0.0 for name in PARTS]
    assert found.metrics["step_time"] == pytest.approx(sum(parts))
    assert found.metrics["reward_time"] == 1.5
    assert sum(line.time for line in found.breakdown) == pytest.approx(found.metrics["step_time"])
    for part, seconds in zip(("rollout", "reward", "log probabilities", "train", "update"), parts, strict=False):
        assert sum(line.time for line in found.breakdown if line.name.startswith(part)) == pytest.approx(seconds)


def test_the_parts_are_those_of_the_scenarios_themselves() -> None:
    of = step()
    assert isinstance(of.plan, Reinforcement)
    whole = metrics(of)
    assert whole["rollout_time"] == 2 * metrics(of.plan.rollout)["latency"]  # 128 answers in batches of 64
    assert whole["train_time"] == pytest.approx(2 * metrics(of.plan.train)["step_time"])


def test_log_probabilities_of_one_device_are_the_forward_passes_of_its_training_step() -> None:
    one = step(replace(GENERATE, batch=128.0), layout=Parallelism(), log_probabilities=("policy",))
    assert isinstance(one.plan, Reinforcement)
    one = replace(one, plan=replace(one.plan, placement="split"))
    assert isinstance(one.plan, Reinforcement)
    schedule = point(one.plan.train).schedule
    assert schedule is not None
    assert metrics(one)["log_probability_time"] == pytest.approx(2 * schedule["forward"])


def test_a_pipeline_of_forward_passes_waits_for_its_first_micro_batch_only() -> None:
    """Of 32 and 64 micro-batches through two stages: one comes through, the others follow the slower stage."""
    layout = Parallelism(pp=2.0, dp=4.0)
    once, twice = (
        metrics(step(layout=layout, log_probabilities=("policy",), prompts=each))["log_probability_time"]
        for each in (64.0, 128.0)
    )
    slowest = (twice - once) / 32
    through = once - 31 * slowest
    assert slowest < through < 2.01 * slowest


def test_each_of_several_log_probabilities_is_a_pass_and_none_takes_no_time() -> None:
    found = {
        names: metrics(step(log_probabilities=names, reference="device"))["log_probability_time"]
        for names in ((), ("policy",), ("policy", "reference"))
    }
    assert found[()] == 0
    assert found["policy", "reference"] == 2 * found["policy",]


def test_the_reference_of_adapters_is_the_base_which_is_not_swapped() -> None:
    train = replace(TRAIN, adapters=Adapters(16.0))
    names = [line.name for line in point(step(train=train)).breakdown]
    assert not any("adapter" in name and name.startswith("log") for name in names if "reference" in name)
    assert not any("host" in name for name in names)
    assert any("weights from the host" in name for name in [line.name for line in point(step()).breakdown])


# ---- pools ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engines", [GENERATE, BURST])
def test_from_staleness_1_on_the_step_is_that_of_the_slower_pool(engines: Generate | Serving) -> None:
    found = point(step(engines, placement="split", staleness=1.0, reward=0.25))
    values = {name: found.metrics[name] or 0.0 for name in (*PARTS, "step_time")}
    generating = values["rollout_time"] + values["reward_time"]
    training = values["log_probability_time"] + values["train_time"]
    assert values["step_time"] == pytest.approx(max(generating, training) + values["update_time"])
    assert sum(line.time for line in found.breakdown) == pytest.approx(values["step_time"])
    assert sum(line.hidden for line in found.breakdown) >= min(generating, training)
    assert point(step(engines, placement="split", staleness=3.0, reward=0.25)).metrics == found.metrics


def test_a_sweep_of_staleness_is_its_points() -> None:
    grid = evaluate_grid(step(BURST, placement="split", staleness=np.array([0.0, 1.0, 2.0])), Calibration(), (3,))
    points = [metrics(step(BURST, placement="split", staleness=each))["step_time"] for each in (0.0, 1.0, 2.0)]
    assert grid.metrics["step_time"] == pytest.approx(points)


def test_a_sweep_over_what_engines_and_training_share_is_its_points() -> None:
    bandwidth = np.array([1e12, 2e12, 4e12])

    def on(value: Quantity) -> Scenario:
        return step(BURST, cluster=with_device(CLUSTER, with_level(DEVICE, "hbm", value)), offload="all")

    grid = evaluate_grid(on(bandwidth), Calibration(), (3,))
    points = [metrics(on(float(each))) for each in bandwidth]
    for name in (*PARTS, "step_time", "idle_share"):
        assert grid.metrics[name] == pytest.approx([each[name] for each in points]), name
    assert (np.diff(np.asarray(grid.metrics["step_time"])) < 0).all()  # more bandwidth is never slower


def test_engines_that_always_have_requests_wait_for_no_longest_answer() -> None:
    waiting, flowing = (
        metrics(step(BURST, placement="split", staleness=1.0, continuous=each)) for each in (False, True)
    )
    assert flowing["rollout_time"] < waiting["rollout_time"]
    constant = replace(BURST, requests=RequestStream(output=Lengths(mean=256.0)))
    same = [
        metrics(step(constant, placement="split", staleness=1.0, continuous=each))["rollout_time"]
        for each in (False, True)
    ]
    assert same[0] == pytest.approx(same[1], rel=0.02)


def test_devices_idle_while_the_other_pool_works_and_for_the_last_answer() -> None:
    split = metrics(step(placement="split"))
    half = 0.5 * (split["step_time"] - split["update_time"] - split["offload_time"]) / split["step_time"]
    assert split["idle_share"] == pytest.approx(half)
    assert metrics(step())["idle_share"] == pytest.approx(0.0, abs=1e-12)
    assert metrics(step(BURST, offload="all"))["idle_share"] > 0


# ---- bursts ---------------------------------------------------------------------------------------------------------


def test_answers_of_one_length_take_a_static_batch() -> None:
    """128 answers of 256 tokens on eight engines: 16 each, all at once, or in two waves of 8 seats."""
    assert burst_profile(Lengths(mean=256.0), 16.0, 16.0, 8.0).steps.sum() == pytest.approx(255)
    waves = burst_profile(Lengths(mean=256.0), 16.0, 8.0, 8.0)
    assert waves.steps.sum() == pytest.approx(510)
    assert waves.requests[0] == pytest.approx(8.0)
    assert burst_profile(Lengths(mean=1.0), 16.0, 16.0, 8.0).tokens == 0.0
    assert burst_profile(Lengths(mean=2.0), 16.0, 16.0, 8.0).tokens == pytest.approx(16.0)


@pytest.mark.parametrize(("requests", "seats"), [(64.0, 64.0), (64.0, 16.0), (640.0, 16.0), (3.0, 8.0)])
@pytest.mark.parametrize("lengths", [SPREAD, Lengths(distribution="exponential", mean=300.0), Lengths(mean=300.0)])
def test_a_burst_decodes_all_tokens_but_the_first(requests: float, seats: float, lengths: Lengths) -> None:
    profile = burst_profile(lengths, requests, seats, 4.0)
    mean = np.trapezoid([lengths.share_above(each) for each in range(20_000)])
    assert profile.tokens == pytest.approx(requests * (mean - 0.5), rel=0.03)
    assert (profile.steps >= profile.own - 1e-9).all()
    assert profile.requests.max() <= seats + 1e-9


def test_a_burst_is_as_long_as_drawn_ones() -> None:
    """Eight engines with 16 seats and 64 answers each, in the order in which seats become free."""
    drawn = np.random.default_rng(1)
    variance = np.log1p((200.0 / 256.0) ** 2)
    spans = []
    for _ in range(200):
        lengths = np.clip(np.rint(drawn.lognormal(np.log(256.0) - variance / 2, np.sqrt(variance), (8, 64))), 1, 2048)
        free = np.zeros((8, 16))
        for column in lengths.T - 1:
            first = free.argmin(axis=1)
            free[np.arange(8), first] += column
        spans.append((free.max(), free.max(axis=1).mean()))
    longest, usual = np.mean(spans, axis=0)
    profile = burst_profile(SPREAD, 64.0, 16.0, 8.0)
    assert profile.steps.sum() == pytest.approx(longest, rel=0.05)
    assert profile.own.sum() == pytest.approx(usual, rel=0.03)


def test_the_longest_of_answers_without_a_bound_is_one_that_few_exceed() -> None:
    """N e^(-t / mean) is RARE at t = mean ln(N / RARE)."""
    lengths = Lengths(distribution="exponential", mean=300.0)
    assert burst._longest(lengths, 64.0) + 1.0 == pytest.approx(300.0 * np.log(64.0 / burst.RARE), rel=1e-3)


def test_lengths_above_a_bound_are_moved_to_it() -> None:
    assert SPREAD.share_above(2047.0) > 0
    assert SPREAD.share_above(2048.0) == 0
    assert Lengths(distribution="uniform", low=10.0, high=20.0).share_above(15.0) == 0.5
    assert Lengths(distribution="values", values=(1.0, 5.0), weights=(3.0, 1.0)).share_above(4.0) == 0.25
    assert Lengths(distribution="normal", mean=100.0, deviation=10.0).share_above(100.0) == 0.5


# ---- what moves -----------------------------------------------------------------------------------------------------


def lines(of: Scenario, part: str) -> dict[str, float]:
    found = [line for line in point(of).breakdown if line.name.startswith(f"{part}: ")]
    return {line.name.removeprefix(f"{part}: "): line.time for line in found}


def test_all_weights_of_a_model_are_sent_each_once() -> None:
    of = step(placement="split")
    assert isinstance(of.plan, Reinforcement)
    (sent,) = (each for each in new_weights(of.plan) if each.name == "weight broadcast")
    assert isinstance(sent, Collective)
    assert sent.size == pytest.approx(2.0 * parameter_count(of.architecture).total, rel=1e-3)


def test_one_rank_exchanges_no_weights_and_a_layout_gathers_all_of_them() -> None:
    alone = step(replace(GENERATE, batch=128.0), layout=Parallelism(), placement="split")
    assert isinstance(alone.plan, Reinforcement)
    same = replace(
        alone,
        plan=replace(alone.plan, placement="colocated", rollout=replace(alone.plan.rollout, parallel=Parallelism())),
    )
    assert set(lines(same, "update")) == {"weight load"}
    assert set(lines(step(), "update")) == {"weight load"}  # each data-parallel rank has all weights
    split = lines(step(layout=Parallelism(tp=4.0, dp=2.0)), "update")
    assert set(split) == {"weight load", "weight gather"}
    assert set(lines(step(placement="split"), "update")) == {"weight load", "weight broadcast"}
    assert "weight gather" in lines(step(train=replace(TRAIN, zero=3)), "update")


def test_shards_are_gathered_in_as_many_parts_as_an_engine_has() -> None:
    layout, engines = Parallelism(tp=4.0, dp=2.0), Parallelism(tp=2.0, dp=4.0)
    times = []
    for refit in (Refit("whole"), Refit("shards")):
        of = step(layout=layout, update=refit)
        assert isinstance(of.plan, Reinforcement)
        of = replace(of, plan=replace(of.plan, rollout=replace(of.plan.rollout, parallel=engines)))
        times.append(lines(of, "update")["weight gather"])
    assert times[1] < 0.6 * times[0]


def test_adapters_send_themselves_alone() -> None:
    sent = [
        lines(step(train=replace(TRAIN, adapters=each), placement="split"), "update")["weight broadcast"]
        for each in (None, Adapters(16.0))
    ]
    assert sent[1] < 0.2 * sent[0]


def test_states_that_go_to_the_host_come_back() -> None:
    none, states, everything = (metrics(step(offload=each))["offload_time"] for each in ("none", "states", "all"))
    training = held(step().plan.train)  # type: ignore[union-attr]
    assert none == 0
    assert states == pytest.approx(2 * training.optimizer / 25e9, rel=0.01)
    assert everything == pytest.approx(2 * (training.optimizer + training.weights) / 25e9, rel=0.01)


# ---- memory ---------------------------------------------------------------------------------------------------------


def test_colocated_engines_share_memory_with_what_training_keeps_on_the_device() -> None:
    of = step(BURST)
    assert isinstance(of.plan, Reinforcement)
    assert isinstance(of.plan.rollout.plan, Serving)
    engines, training = kv_pool(of.plan.rollout, of.plan.rollout.plan).ledger, held(of.plan.train)
    kept = {each: held(step(BURST, offload=each)) for each in ("none", "states", "all")}
    states = training.gradients + training.optimizer
    assert kept["none"].total == pytest.approx(engines.total + training.weights + states)
    assert kept["states"].total == pytest.approx(engines.total + training.weights)
    assert kept["all"].total == pytest.approx(max(engines.total, training.total))
    assert kept["all"].host == pytest.approx(2 * training.weights + training.optimizer)  # with the reference
    assert held(step(BURST, placement="split")).total == pytest.approx(max(engines.total, training.total))


def test_a_step_that_does_not_fit_says_what_to_keep_on_the_host() -> None:
    full = point(step(BURST))
    assert full.reason is not None
    assert "offload: all" in full.reason
    assert point(step(BURST, offload="all")).fits


def test_the_ledger_of_what_cannot_be_timed_is_that_of_the_fuller_part() -> None:
    of = step(BURST)
    assert isinstance(of.plan, Reinforcement)
    found = ledger_of(of)
    assert found is not None
    assert isinstance(of.plan.rollout.plan, Serving)
    engines = kv_pool(of.plan.rollout, of.plan.rollout.plan).ledger
    assert found.total == pytest.approx(max(engines.total, held(of.plan.train).total))


# ---- refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("of", "field"),
    [
        (step(layout=Parallelism(dp=4.0)), "placement"),
        (step(staleness=1.0), "staleness"),
        (step(placement="split", continuous=True), "continuous"),
        (step(placement="split", offload="all"), "offload"),
        (step(prompts=63.0), "prompts"),
        (step(replace(GENERATE, batch=96.0)), "prompts"),
    ],
)
def test_parts_that_do_not_go_together_are_refused(of: Scenario, field: str) -> None:
    assert field in [rule.field for rule in rules(of) if not rule.holds]


def test_runs_scatter_in_every_time_rate_and_cost_of_a_step_and_a_share_of_idle_time_may_be_none() -> None:
    """Kernels known to 10 % and runs to 30 %, of a step of 8 s that idles for none of it at the median."""
    times = dict.fromkeys(("rollout_time", "log_probability_time", "train_time", "update_time"), 2.0)
    exact = {"step_time": 8.0, **times, "offload_time": 0.0, "samples_per_second": 16.0, "cost_per_step": 3.0}
    exact |= {"cost_per_sample": 0.02, "energy_per_sample": 900.0, "idle_share": 0.0}
    falling = {"samples_per_second": -1.0, "idle_share": 0.0}

    def perturbed(by: Perturbations) -> dict[str, Quantity | None]:
        assert by is not None
        slower = 1.0 + 0.1 * (np.asarray(by["gemm"].high, dtype=float) - np.asarray(by["gemm"].low, dtype=float))
        moved: dict[str, Quantity | None] = {
            name: each * slower ** falling.get(name, 1.0) for name, each in exact.items()
        }
        return moved | {"idle_share": np.maximum(slower - 1.0, 0.0), "offload_time": 0.0}

    found = intervals(exact, ["gemm"], 0, perturbed, RunScatter(0.0, 0.3, 0.3, power=0.3))
    step = found["step_time"]
    assert step is not None
    ratios = step[0] / 8.0, step[1] / 8.0
    assert ratios[1] > 1.3
    for name in (*times, "cost_per_step", "cost_per_sample"):
        span, value = found[name], exact[name]
        assert span is not None
        assert (span[0] / value, span[1] / value) == (pytest.approx(ratios[0]), pytest.approx(ratios[1]))
    rate, energy = found["samples_per_second"], found["energy_per_sample"]
    assert rate is not None
    assert energy is not None
    assert rate == (pytest.approx(16.0 / ratios[1]), pytest.approx(16.0 / ratios[0]))
    assert energy[1] > 900.0 * 1.3
    assert found["idle_share"] == (0.0, pytest.approx(0.1))
    assert found["offload_time"] == (0.0, 0.0)


def test_costs_and_rates_are_of_all_devices() -> None:
    of = step(placement="split")
    values = metrics(of)
    assert values["cost_per_step"] == pytest.approx(16 * 2.0 / 3600 * values["step_time"])
    assert values["cost_per_sample"] == pytest.approx(values["cost_per_step"] / 128)
    assert values["tokens_per_second"] == pytest.approx(128 * 1280 / values["step_time"])
    assert isinstance(evaluate(of, Calibration()), ReinforcementEvaluation)
    assert BF16.linear == "bf16"


def test_a_burst_s_decoding_takes_a_step_for_as_many_tokens_as_it_accepts() -> None:
    """Prompts and a step cost the same whatever is accepted: times are linear in steps a token. Of one engine alone
    the last answer and the mean one are of the same engine."""

    def found(accepted: float, engines: float = 8.0) -> RolloutTimes:
        drafts = Speculative(depth=1.0, acceptance=accepted)
        plan = replace(BURST, speculative=drafts, replicas=Replicas(count=engines))
        return BurstRollout(scenario(plan, replace(DENSE_MODEL, mtp=Mtp(1))), plan, Calibration(), 128.0).times()

    for name in ("seconds", "busy"):
        none, half, every = (float(getattr(found(accepted), name)) for accepted in (0.0, 0.5, 1.0))
        assert none > half > every
        assert (half - every) / (none - every) == pytest.approx((1 / 1.5 - 1 / 2) / (1 - 1 / 2))
    alone = found(0.8, engines=1.0)
    assert alone.seconds == pytest.approx(alone.busy)
