"""Training with a part of it on the host: what leaves the device, what comes over the link, what the host does."""

from __future__ import annotations

import numpy as np
import pytest
from builders import DENSE_MODEL, DEVICE, FRAMEWORK, HOSTED, MOE_MODEL, STEP, assert_adds_up, scenario, with_device
from hypothesis import given
from hypothesis import strategies as st

from costmodel.analytic.evaluation import ledger_of
from costmodel.analytic.grid import evaluate_grid, evaluate_point, evaluate_single
from costmodel.analytic.training.step_model import step_model
from costmodel.cost.calibration import Calibration
from costmodel.hardware import Cluster, Host, Power
from costmodel.quantities import Quantity
from costmodel.records import fields, replace
from costmodel.result import NO_HOST_MEMORY, REASONS, Point
from costmodel.workload.memory import Ledger, stage_work
from costmodel.workload.operators import HostTransfer, HostUpdate
from costmodel.workload.plans import Sharding, Training
from costmodel.workload.scenario import Offload, Parallelism, Scenario
from costmodel.workload.schedules.schedule import Kind
from costmodel.workload.validity import rules

BATCHES = 4.0
PARAMETERS = 8 * (1024 * 24 * 64 + 1024 * 1024 + 3 * 1024 * 2816 + 2 * 1024) + 2 * 32_000 * 1024 + 1024
LINK = 25e9  # of one device


def training(
    offload: Offload, zero: int = 2, dp: float = 1.0, cluster: Cluster = HOSTED, sharding: Sharding | None = None
) -> Scenario:
    chosen = Sharding(gradients="bf16") if sharding is None else sharding
    plan = replace(STEP, zero=zero, sharding=chosen, global_batch=BATCHES * dp, sequence=1024.0)
    return replace(scenario(plan, DENSE_MODEL, Parallelism(dp=dp), cluster=cluster), offload=offload)


def held(of: Scenario) -> Ledger:
    ledger = ledger_of(of)
    assert ledger is not None
    return ledger


def point(of: Scenario) -> Point:
    return evaluate_point(of, Calibration())


def metric(of: Scenario, name: str = "step_time") -> float:
    value = point(of).metrics[name]
    assert value is not None
    return value


def hosted(memory: Quantity | None, bandwidth: Quantity | None = 400e9, link: str = "pcie") -> Cluster:
    return replace(HOSTED, node=replace(HOSTED.node, host=Host(memory, bandwidth, 2.0, {}, link)))


def copied(of: Scenario) -> dict[str, float]:
    """Return the bytes that a device exchanges with its host in a step, by name."""
    plan = of.plan
    assert isinstance(plan, Training)
    priced = step_model(of, plan, Calibration())
    (tail,) = priced.optimizer_steps
    assert priced.overlapped_comm is not None
    listed = [(1.0, item.operator) for item in (*tail.serial, *tail.copies)]
    for kind in (Kind.FORWARD, Kind.BACKWARD):
        for count, _, beside in priced.overlapped_comm.by_layer(stage_work(priced.work, tail.stages[0]), kind):
            listed += [(count * BATCHES, item.operator) for _, item in beside]
    found: dict[str, float] = {}
    for often, operator in listed:
        if isinstance(operator, HostTransfer):
            found[operator.name] = found.get(operator.name, 0.0) + often * float(operator.size)
    return found


# ---- volumes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dp", [1.0, 4.0])
def test_states_on_the_host_take_gradients_out_and_bring_weights_back(dp: float) -> None:
    """ZeRO-Offload: 2 bytes of every gradient a micro-batch, 2 bytes of every weight a step, of a rank's share."""
    assert copied(training(Offload(optimizer=1.0), dp=dp)) == pytest.approx(
        {"gradients to the host": BATCHES * 2 * PARAMETERS / dp, "updated weights from the host": 2 * PARAMETERS / dp}
    )


def test_gradients_that_add_up_on_the_device_leave_it_once() -> None:
    once = copied(training(Offload(optimizer=0.5), sharding=Sharding(reduce="step")))
    assert once["gradients to the host"] == pytest.approx(0.5 * 4 * PARAMETERS)


@pytest.mark.parametrize("dp", [1.0, 4.0])
def test_weights_on_the_host_come_in_for_every_pass_and_need_not_come_back(dp: float) -> None:
    moved = copied(training(Offload(optimizer=1.0, weights=1.0), zero=3, dp=dp))
    assert moved["weights from the host"] == pytest.approx(2 * BATCHES * 2 * PARAMETERS / dp)
    assert "updated weights from the host" not in moved
    alone = copied(training(Offload(weights=0.5), zero=3, dp=dp))
    assert alone["updated weights to the host"] == pytest.approx(0.5 * 2 * PARAMETERS / dp)


def test_activations_on_the_host_go_out_and_come_in_once_a_micro_batch() -> None:
    moved = copied(training(Offload(activations=0.25)))
    kept = float(held(training(Offload())).activations)
    assert moved["activations to the host"] == moved["activations from the host"] == pytest.approx(BATCHES * kept / 4)


# ---- memory ---------------------------------------------------------------------------------------------------------


@given(
    optimizer=st.sampled_from([0.0, 0.3, 1.0]),
    weights=st.sampled_from([0.0, 0.5, 1.0]),
    activations=st.sampled_from([0.0, 0.7, 1.0]),
    dp=st.sampled_from([1.0, 8.0]),
)
def test_what_leaves_the_device_stands_on_the_host(
    optimizer: float, weights: float, activations: float, dp: float
) -> None:
    plain = held(training(Offload(), zero=3, dp=dp))
    kept = held(training(Offload(optimizer, weights, activations), zero=3, dp=dp))
    assert kept.optimizer == pytest.approx((1 - optimizer) * plain.optimizer)
    assert kept.gradients == pytest.approx((1 - optimizer) * plain.gradients)
    assert kept.weights == pytest.approx((1 - weights) * plain.weights)
    assert kept.activations == pytest.approx((1 - activations) * plain.activations)
    sent = 2 * PARAMETERS / dp  # gradients, as they travelled
    assert kept.host == pytest.approx(
        optimizer * (plain.optimizer + sent) + weights * plain.weights + activations * plain.activations
    )


def test_the_host_keeps_16_bytes_a_parameter_of_mixed_precision_training() -> None:
    """FP16 gradients and the states: 14 bytes with ZeRO-Offload, and 16 with the weights [arXiv 2101.06840]."""
    assert held(training(Offload(optimizer=1.0))).host == pytest.approx(14 * PARAMETERS)
    assert held(training(Offload(optimizer=1.0, weights=1.0), zero=3)).host == pytest.approx(16 * PARAMETERS)


def test_two_neighbouring_layers_pass_through_the_device() -> None:
    """Of weights and gradients on the host, those of two neighbours are on the device: 2 and 4 bytes a parameter."""
    table, layer = 32_000 * 1024, (PARAMETERS - 2 * 32_000 * 1024 - 1024) / 8
    both = held(training(Offload(optimizer=1.0, weights=1.0), zero=3)).communication
    assert both == pytest.approx((2 + 4) * (table + 1024 + layer))
    one = held(training(Offload(optimizer=1.0, weights=1.0, overlap=False), zero=3)).communication
    assert one == pytest.approx((2 + 4) * (table + 1024))


def test_the_total_is_that_of_the_device() -> None:
    kept = held(training(Offload(optimizer=1.0)))
    parts = {name: float(getattr(kept, name)) for name in fields(Ledger) if name != "capacity"}
    assert kept.total == pytest.approx(sum(parts.values()) - parts["host"])


def test_a_host_that_is_too_small_is_told() -> None:
    needed = 8 * float(held(training(Offload(optimizer=1.0), dp=16.0)).host)  # eight devices of a node
    for memory, fits in ((needed, True), (needed * 0.999, False)):
        result = point(training(Offload(optimizer=1.0), dp=16.0, cluster=hosted(memory)))
        assert result.fits == fits
        assert fits or (result.reason or "").startswith(REASONS[NO_HOST_MEMORY])
        assert result.metrics["step_time"] is None or fits
    alone = training(Offload(optimizer=1.0), cluster=hosted(14 * PARAMETERS * 1.001))  # one device has it all
    assert point(alone).fits
    sizes = np.array([needed * 2, needed / 2])
    grid = evaluate_grid(training(Offload(optimizer=1.0), dp=16.0, cluster=hosted(sizes)), Calibration(), (2,))
    assert list(np.asarray(grid.reason)) == [0, NO_HOST_MEMORY]


def test_the_document_has_a_key_for_the_host_only_where_it_keeps_something() -> None:
    plain, kept = (point(training(offload)).document() for offload in (Offload(), Offload(optimizer=1.0)))
    assert "host_memory" not in plain
    assert kept["host_memory"] == pytest.approx({"tensors": 14 * PARAMETERS, "kv_cache": 0.0})
    assert list(kept["memory"]) == list(plain["memory"]) == [
        "weights", "gradients", "optimizer", "activations", "kv_cache", "communication", "reserve", "capacity", "fits",
    ]  # fmt: skip


# ---- times ----------------------------------------------------------------------------------------------------------


def test_the_host_streams_28_bytes_a_parameter_while_weights_come_back() -> None:
    """Gradient 2, master 8, moments 16, weight 2, at a device's share of the host's memory; or the copy, if longer."""
    for bandwidth in (400e9, 4e12):
        of = training(Offload(optimizer=1.0), cluster=hosted(2e12, bandwidth))
        schedule = point(of).schedule
        assert schedule is not None
        update, back = 28 * PARAMETERS / bandwidth, 2 * PARAMETERS / LINK + FRAMEWORK.launch + 2e-6
        assert schedule["optimizer"] == pytest.approx(max(update, back))
        apart = replace(of, offload=replace(of.offload, overlap=False))
        schedule = point(apart).schedule
        assert schedule is not None
        assert schedule["optimizer"] == pytest.approx(update + back)


@pytest.mark.parametrize("overlap", [True, False])
def test_devices_idle_while_their_host_updates(overlap: bool) -> None:
    """Twice the host's update, twice its time at idle power: kernels of the device take no longer."""
    device = replace(DEVICE, power=Power(500.0, 100.0, busy=400.0, memory=1e-40))
    offload = Offload(optimizer=1.0, overlap=overlap)
    fast, slow = (
        point(training(offload, cluster=with_device(hosted(2e12, bandwidth), device))).metrics
        for bandwidth in (1e11, 5e10)
    )
    tokens = BATCHES * 1024
    longer = (slow["step_time"] or 0.0) - (fast["step_time"] or 0.0)
    assert longer == pytest.approx(28 * PARAMETERS / 1e11)
    more = ((slow["energy_per_token"] or 0.0) - (fast["energy_per_token"] or 0.0)) * tokens
    assert more == pytest.approx(100.0 * longer)


def test_devices_of_a_node_share_their_host() -> None:
    """Eight ranks have an eighth of the states each and an eighth of the bandwidth: the update takes as long."""
    lines = [
        {line.name: line.time for line in point(training(Offload(optimizer=1.0), dp=dp)).breakdown} for dp in (1.0, 8.0)
    ]
    assert lines[0]["dense optimizer on the host"] == pytest.approx(lines[1]["dense optimizer on the host"])


def test_an_update_is_the_host_s_only_as_far_as_it_keeps_the_states() -> None:
    plan = STEP
    of = replace(scenario(plan, MOE_MODEL, cluster=HOSTED), offload=Offload(optimizer=0.25))
    priced = step_model(of, plan, Calibration())
    (tail,) = priced.optimizer_steps
    host = sum(float(item.operator.traffic) for item in tail.on_host if isinstance(item.operator, HostUpdate))
    device = sum(
        float(item.operator.traffic)  # type: ignore[union-attr]
        for item in tail.serial
        if item.operator.name.endswith("optimizer")
    )
    assert host / (host + device) == pytest.approx(0.25)


@pytest.mark.parametrize(
    "offload",
    [
        Offload(optimizer=1.0),
        Offload(weights=1.0),
        Offload(activations=0.5),
        Offload(0.5, 1.0, 0.5),
        Offload(1.0, 0.5, 0.2, overlap=False),
    ],
)
@pytest.mark.parametrize("overlap", [True, False])
@pytest.mark.parametrize("link", [1e9, 1e11])
def test_parts_and_breakdown_sum_to_the_step(offload: Offload, overlap: bool, link: float) -> None:
    device = replace(DEVICE, links={**DEVICE.links, "pcie": replace(DEVICE.links["pcie"], bandwidth=link)})
    of = training(offload, 3, 4.0, with_device(HOSTED, device), Sharding(overlap))
    result = point(of)
    assert_adds_up(result)


def test_transfers_beside_computation_hide_behind_it() -> None:
    """At a long sequence a layer computes longer than its parts travel; without overlap every copy is waited for."""
    offload = Offload(optimizer=1.0, weights=1.0)
    plan = replace(STEP, zero=3, global_batch=4.0, sequence=16_384.0)
    of = replace(scenario(plan, replace(DENSE_MODEL, vocabulary=64.0), cluster=HOSTED), offload=offload)
    apart = replace(of, offload=replace(offload, overlap=False))
    assert metric(of, "exposed_communication_time") < 0.2 * metric(apart, "exposed_communication_time")


def test_ranks_that_meet_over_the_host_s_link_share_it_with_the_copies() -> None:
    apart, shared = (
        training(Offload(optimizer=1.0, weights=1.0), 3, 8.0, hosted(2e12, 4e12, link)) for link in ("pcie", "nvlink")
    )
    equal = replace(DEVICE.links["nvlink"], name="pcie")
    device = replace(DEVICE, links={**DEVICE.links, "pcie": equal})
    apart = replace(apart, cluster=with_device(apart.cluster, device))  # a link of its own, as fast as the other
    assert metric(shared) > metric(apart)


# ---- rules and grids ------------------------------------------------------------------------------------------------


def test_weights_are_kept_by_the_host_in_stage_3_or_of_a_lone_rank() -> None:
    def broken(of: Scenario) -> set[str]:
        return {rule.field for rule in rules(of) if not rule.holds}

    assert broken(training(Offload(weights=1.0), zero=2, dp=4.0)) == {"offload.weights"}
    assert broken(training(Offload(weights=1.0), zero=2, dp=1.0)) == set()
    assert broken(training(Offload(weights=1.0), zero=3, dp=4.0)) == set()


@pytest.mark.parametrize("zero", [1, 2, 3])
@pytest.mark.parametrize("overlap", [True, False])
def test_a_grid_of_shares_is_its_points(zero: int, overlap: bool) -> None:
    optimizer = np.array([0.0, 0.4, 1.0]).reshape(-1, 1)
    activations = np.array([0.0, 0.5]).reshape(1, -1)
    weights = np.array([1.0, 0.0, 0.4]).reshape(-1, 1) if zero == 3 else 0.0
    offload = Offload(optimizer, weights, activations, overlap)
    grid = training(offload, zero, 4.0, sharding=Sharding())
    together = evaluate_grid(grid, Calibration(), (3, 2))
    for row, column in np.ndindex(3, 2):
        share = float(np.asarray(weights).reshape(-1)[row]) if zero == 3 else 0.0
        one = Offload(float(optimizer[row, 0]), share, float(activations[0, column]), overlap)
        wanted = evaluate_single(replace(grid, offload=one), Calibration())
        for name, value in wanted.metrics.items():
            if value is not None:
                assert np.asarray(together.metrics[name])[row, column] == pytest.approx(value, rel=1e-9), name


def test_lines_add_up_where_copies_are_waited_for_and_gathers_are_not() -> None:
    waiting = training(Offload(activations=0.5, overlap=False), zero=3, dp=16.0)
    assert_adds_up(point(waiting))
    lines = {line.name: line.time for line in point(waiting).breakdown}
    assert any("host" in name and time > 0 for name, time in lines.items())
