"""Energy of inference: boards draw between idle and their limit, and more the more of the time they compute."""

from __future__ import annotations

import pytest
from builders import CLUSTER, DECODE, DEVICE, FP8, GENERATE, MOE_MODEL, PREFILL, SERVING, pools, scenario, with_device

from costmodel.analytic.grid import evaluate_point
from costmodel.cost.calibration import Calibration
from costmodel.hardware import Nic, Power
from costmodel.records import replace
from costmodel.workload.engine import Scheduler
from costmodel.workload.scenario import Communication, Parallelism, Plan

IDLE, LIMIT = 100.0, 500.0
LAYOUT = Parallelism(dp=16.0, ep=16.0)
PLANS: dict[str, Plan] = {
    "prefill": PREFILL,
    "decode": DECODE,
    "generate": GENERATE,
    "serving": SERVING,
    "alone": replace(SERVING, scheduler=Scheduler(token_budget=None)),
    "pools": pools(LAYOUT, LAYOUT),
}


def power(plan: Plan, layout: Parallelism = LAYOUT, nic: float = 50e9) -> float:
    """Return the mean power of a device: energy of a token times the tokens that a device gives in a second."""
    cluster = with_device(CLUSTER, replace(DEVICE, power=Power(LIMIT, IDLE, busy=300.0, tensor=1e-12, memory=50e-12)))
    cluster = replace(cluster, node=replace(cluster.node, nic=Nic(nic, 1.0, 2e-6)))
    found = evaluate_point(
        scenario(plan, MOE_MODEL, layout, FP8, Communication(dispatch="fp8"), cluster), Calibration()
    ).metrics
    energy, rate = found["energy_per_token"], found["tokens_per_second_per_device"]
    assert energy is not None
    assert rate is not None
    return energy * rate


@pytest.mark.parametrize("name", list(PLANS))
def test_a_device_draws_between_idle_and_its_limit(name: str) -> None:
    assert IDLE < power(PLANS[name]) <= LIMIT * (1 + 1e-12)


@pytest.mark.parametrize("name", list(PLANS))
def test_waiting_for_a_slow_network_draws_less(name: str) -> None:
    assert power(PLANS[name], nic=1e9) < power(PLANS[name])


@pytest.mark.parametrize(
    "plan", [PREFILL, replace(DECODE, batch_per_device=64.0), replace(GENERATE, batch=256.0), SERVING]
)
def test_a_pipeline_that_is_full_draws_about_as_much_as_one_device(plan: Plan) -> None:
    one, four = (power(plan, Parallelism(pp=pp)) for pp in (1.0, 4.0))
    assert 0.7 * one < four <= one * (1 + 1e-9)
