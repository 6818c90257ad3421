"""What a scenario's `simulation` asks of the event engine, and what it refuses."""

from __future__ import annotations

import math
from functools import cache

import pytest
from small_world import problems_of

import costmodel
from costmodel.event.goodput import simulate_goodput
from costmodel.records import replace
from costmodel.workload.simulation import Checkpoints

PLACE = "scenarios.training.simulation"
BATCH = "scenarios.training.global_batch"
SHORT, LONGER = "4096", "6144"  # 32 micro-batches, the fewest that fill the pipeline both ways, and 48


@cache
def step(*, batch: str = SHORT, **asked: str) -> float:
    changes = {BATCH: batch} | {f"{PLACE}.{name}": value for name, value in asked.items()}
    point = costmodel.load("deepseek_v3", set=changes, scenarios=["training"]).points(engine="event")["training"]
    value = point.metrics["step_time"]
    assert value is not None, point.reason
    return value


def test_messages_that_share_a_link_take_longer_or_as_long() -> None:
    alone = step(batch=LONGER)
    assert alone <= step(batch=LONGER, contention="true") < 1.05 * alone


def test_communication_that_lends_its_processors_makes_the_step_shorter() -> None:
    assert step(shares_processors="true") < step()


def test_a_slow_rank_and_a_fabric_without_a_plane_make_the_step_longer() -> None:
    assert step(slowdowns="[{rank: 3, slows: compute, speed: 0.9}]") > step()
    assert step(slowdowns="[{slows: network, speed: 0.875}]") > step()


def test_the_same_seed_gives_the_same_document() -> None:
    def document(seed: str) -> dict[str, object]:
        changes = {BATCH: SHORT} | {f"{PLACE}.jitter": "5 %", f"{PLACE}.seed": seed}
        return costmodel.load("deepseek_v3", set=changes, scenarios=["training"]).simulate(engine="event")

    first = document("1")
    assert document("1") == first
    assert first["seed"] == 1
    assert document("2")["scenarios"] != first["scenarios"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("jitter", "-0.01"),
        ("seed", "0.5"),
        ("slowdowns", "[{rank: 0, slows: compute, speed: 2}]"),
        ("slowdowns", "[{rank: 0, slows: disk, speed: 0.5}]"),
        ("slowdowns", "[{rank: 0, slows: compute}]"),
        ("patience", "10"),
        ("checkpoints", "{interval: 30 min, write: 10 s, restart: 5 min}"),
    ],
)
def test_wrong_values_are_told_with_their_place(field: str, value: str) -> None:
    problems = problems_of(lambda: costmodel.load("deepseek_v3", set={f"{PLACE}.{field}": value}))
    assert any(field in problem.field for problem in problems)


def test_shared_links_can_be_slowed_down_too() -> None:
    assert step(contention="true", slowdowns="[{slows: network, speed: 0.5}]") > 1.02 * step(contention="true")


def test_checkpoints_give_the_goodput_of_the_renewal_formula() -> None:
    """t / (e^((t + w)/M) - 1) / (M e^(R/M)); 2,000 failures give it within some per cent of what is not kept."""
    asked = Checkpoints(interval=1800.0, write=60.0, restart=300.0, device_mtbf=3.6e6)
    found = simulate_goodput(10.0, 100.0, asked, seed=1)
    mean = 3.6e6 / 100.0
    expected = 1800.0 / (math.exp(1860.0 / mean) - 1.0) / (mean * math.exp(300.0 / mean))
    assert 1 - found.goodput == pytest.approx(1 - expected, rel=0.05)
    assert found.goodput + found.writing + found.lost + found.restarting == pytest.approx(1.0)
    assert found.failures_per_day == pytest.approx(86400.0 / mean, rel=0.1)


def test_rare_failures_are_no_more_work_than_frequent_ones() -> None:
    """Eight devices that fail every 50,000 hours write 750 million checkpoints of a minute in 2,000 failures."""
    asked = Checkpoints(interval=60.0, write=1.0, restart=300.0, device_mtbf=50_000 * 3600.0)
    found = simulate_goodput(1.0, 8.0, asked, seed=3)
    assert found.goodput == pytest.approx(60.0 / 61.0, rel=1e-4)
    assert found.writing == pytest.approx(1.0 / 61.0, rel=1e-4)
    never = simulate_goodput(1.0, 8.0, replace(asked, device_mtbf=1e200), seed=3)
    assert (never.goodput, never.lost) == (pytest.approx(60.0 / 61.0), pytest.approx(0.0, abs=1e-12))


def test_goodput_is_part_of_a_result_where_checkpoints_are_stated() -> None:
    changes = {BATCH: SHORT} | {
        f"{PLACE}.checkpoints": "{interval: 30 min, write: 10 s, restart: 5 min, device_mtbf: 50000 h}"
    }
    workload = costmodel.load("deepseek_v3", set=changes, scenarios=["training"])
    assert 0.9 < workload.simulate(engine="event")["scenarios"]["training"]["goodput"]["goodput"] < 1.0
    assert "goodput" not in workload.simulate()["scenarios"]["training"]


def test_failures_strike_during_restarts_too() -> None:
    """Restarts of twice the mean time between failures: e^2 - 1 of it are spent on each, 86 % of the run."""
    mean, write, restart = 3600.0, 1.0, 7200.0
    asked = Checkpoints(interval=600.0, write=write, restart=restart, device_mtbf=mean * 100.0)
    found = simulate_goodput(10.0, 100.0, asked, seed=2)
    kept = 600.0 / (math.exp((600.0 + write) / mean) - 1.0) / (mean * math.exp(restart / mean))
    assert found.goodput == pytest.approx(kept, rel=0.15)
    assert found.restarting == pytest.approx(1.0 - math.exp(-restart / mean), rel=0.03)
    assert found.failures_per_day == pytest.approx(86400.0 / mean, rel=0.1)
