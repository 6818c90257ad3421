"""Power by resource: by hand, at its limits, and the energy of whole runs."""

from __future__ import annotations

import pytest
from builders import CLUSTER, DECODE, DEVICE, GENERATE, NODE, PREFILL, SERVING, STEP, pools, scenario, with_device

from costmodel.analytic.grid import evaluate_point
from costmodel.analytic.inference import pass_model, pass_times
from costmodel.api import load
from costmodel.cost.calibration import Calibration
from costmodel.cost.power import board_power, energy, work_joules, work_of
from costmodel.cost.time import Time
from costmodel.hardware import Device, Facility, Host, Power
from costmodel.records import replace
from costmodel.workload.operators import AttentionKernel, Collective, Elementwise, Gemm, Group
from costmodel.workload.scenario import Plan

POWER = Power(500.0, 100.0, busy=150.0, tensor=1e-12, memory=50e-12, link=10e-12)
RESOURCES = replace(DEVICE, power=POWER)
GEMM = Gemm("gemm", m=64.0, n=32.0, k=16.0, dtype="bf16", a_bytes=2.0, b_bytes=2.0, out_bytes=2.0)


def board(power: Power, work: float = 0.0) -> float | None:
    found = board_power(power, work)
    return None if found is None else float(found)


def test_work_takes_energy_by_flop_width_and_bytes() -> None:
    """65,536 FLOP of 16 bits; 2*(64*16 + 16*32 + 64*32) = 7,168 bytes."""
    assert work_joules([GEMM], POWER) == pytest.approx(65_536e-12 + 7_168 * 50e-12)
    narrow = replace(GEMM, dtype="fp8", a_bytes=1.0, b_bytes=1.0)
    assert work_joules([narrow], POWER) == pytest.approx(32_768e-12 + (1_024 + 512 + 4_096) * 50e-12)
    stream = Elementwise("norm", 1e6)
    assert work_joules([stream, stream], POWER) == pytest.approx(2e6 * 50e-12)
    core = AttentionKernel(
        "core", sequences=2.0, heads=4.0, q_len=8.0, qk_pairs=64.0, macs_per_pair=128.0, dtype="bf16", traffic=1e4,
        family="attention_prefill",
    )  # fmt: skip
    assert work_joules([core], POWER) == pytest.approx(2 * 2 * 4 * 64 * 128 * 1e-12 + 1e4 * 50e-12)
    message = Collective("gather", "all_gather", 1e6, Group(8.0), calls=3.0)
    assert work_joules([message], POWER) == pytest.approx(3e6 * 10e-12)


def test_work_holds_the_time_of_kernels_and_what_of_it_goes_with_the_clock() -> None:
    stream, message = Elementwise("norm", 1e6), Collective("gather", "all_gather", 1e6, Group(8.0))
    times = (Time(3e-6, compute=2e-6, memory=1e-6), Time(4e-6, compute=2e-6, memory=2e-6), Time(9e-6, network=9e-6))
    found = work_of(zip((GEMM, stream, message), times, strict=True), POWER).times(2.0)
    assert (found.kernels, found.clocked) == pytest.approx((14e-6, 4e-6))
    assert found.switched == pytest.approx(2 * 65_536e-12)
    assert found.moved == pytest.approx(2 * (7_168 * 50e-12 + 1e6 * 50e-12 + 1e6 * 10e-12))


def test_power_is_idle_and_work_up_to_the_limit() -> None:
    assert board(POWER, 0.0) == 100.0
    assert board(POWER, 120.0) == 220.0
    assert board(POWER, 1e4) == 500.0


def test_without_energies_power_stands_at_the_limit() -> None:
    assert board(Power(500.0, 100.0), 1.0) == 500.0
    assert board(Power(500.0)) == 500.0
    assert board(Power(None, 100.0)) is None


def test_hosts_network_and_the_building_add_to_the_boards() -> None:
    node = replace(NODE, device=RESOURCES)
    assert energy(node, 4.0, 10.0, 270.0) == pytest.approx(370.0 * 40.0)
    whole = replace(node, host=Host(None, None, None, power=800.0), facility=Facility(network=30.0, pue=1.25))
    assert energy(whole, 4.0, 10.0, 270.0) == pytest.approx((370.0 + 800.0 / 8 + 30.0) * 1.25 * 40.0)
    assert energy(replace(node, device=replace(DEVICE, power=Power(None))), 4.0, 10.0, 0.0) is None


def per_token(plan: Plan, device: Device) -> float:
    value = evaluate_point(scenario(plan, cluster=with_device(CLUSTER, device)), Calibration()).metrics[
        "energy_per_token"
    ]
    assert value is not None
    return value


def test_a_decoding_step_draws_what_its_operators_take() -> None:
    chosen = scenario(DECODE, cluster=with_device(CLUSTER, RESOURCES))
    model = pass_model(chosen, DECODE, Calibration())
    times = pass_times(model, None)
    counted = 0.0
    for layers, layer in zip(model.stages[0].repeats, model.segments, strict=True):
        for segment in layer:
            operators = [timed.operator for timed in segment.operators]
            counted += layers * DECODE.micro_batches * float(work_joules(operators, POWER))
    assert times.joules == pytest.approx(counted + 150.0 * float(times.kernels), rel=1e-12)
    assert counted > 0.0
    step = float(times.latency)
    watts = 100.0 + 150.0 * float(times.kernels) / step + counted / step
    assert per_token(DECODE, RESOURCES) == pytest.approx(watts * step / DECODE.batch_per_device, rel=1e-12)


OPEN = replace(SERVING, rate=1.0, concurrency=None)


@pytest.mark.parametrize("plan", [STEP, PREFILL, DECODE, GENERATE, SERVING, OPEN, pools()])
def test_every_phase_counts_the_energy_of_its_work(plan: Plan) -> None:
    """Work that costs as much again adds as much again, and without any what is left is idle and busy."""
    plain, once, twice = (
        per_token(plan, replace(DEVICE, power=Power(1e9, 100.0, busy=150.0, tensor=factor * 1e-12, memory=memory)))
        for factor, memory in ((0.0, 1e-30), (1.0, 1e-30), (2.0, 1e-30))
    )
    assert once > plain
    assert twice - once == pytest.approx(once - plain, rel=1e-6)
    dearer = per_token(plan, replace(DEVICE, power=Power(1e9, 100.0, busy=150.0, memory=1e-12)))
    assert dearer > plain


def test_training_takes_the_energy_of_its_flop() -> None:
    """A pJ a FLOP, nothing else: executed FLOP of the step's tokens, on one device."""
    device = replace(DEVICE, power=Power(1e9, 0.0, tensor=1e-12, memory=1e-40))
    point = evaluate_point(scenario(STEP, cluster=with_device(CLUSTER, device)), Calibration())
    flop = point.metrics["flop_per_token"]
    assert flop is not None
    assert point.metrics["energy_per_token"] == pytest.approx(flop * 1e-12, rel=1e-9)


def test_prompts_and_decoding_draw_less_than_the_limit_with_an_interval_of_their_own() -> None:
    """DeepSeek-V3 on H800, whose limit is 700 W."""
    workload = load("deepseek_v3", scenarios=["prefill", "decode"])
    watts = {}
    for name in ("prefill", "decode"):
        point = workload.evaluate(name).point()
        per, rate = point.metrics["energy_per_token"], point.metrics["tokens_per_second_per_device"]
        assert per is not None
        assert rate is not None
        watts[name] = per * rate
        low, high = point.intervals["energy_per_token"] or (0.0, 0.0)
        assert low < per / 1.1
        assert high > per * 1.1
    assert all(250.0 < each < 690.0 for each in watts.values()), watts
