"""Serving from two pools: each as its phase, the cache between them, and the ratio in which neither waits."""

from __future__ import annotations

import pytest
from builders import (
    CLUSTER,
    DECODE,
    DENSE_MODEL,
    DEVICE,
    DRAFTS,
    FP8,
    MOE_MODEL,
    NODE,
    ONE_NODE,
    PREFILL,
    pools,
    scenario,
)

from costmodel.analytic.evaluation import evaluate
from costmodel.analytic.grid import evaluate_point
from costmodel.analytic.serving.disaggregation import delivered_cache, transfer
from costmodel.cost.calibration import Calibration, FamilyFit
from costmodel.hardware import Cluster, FabricPrice, Host, Nic, Price
from costmodel.records import replace
from costmodel.result import Point
from costmodel.workload.architecture import Architecture
from costmodel.workload.counting import kv_bytes_per_token
from costmodel.workload.scenario import Communication, Disaggregated, Parallelism, Scenario
from costmodel.workload.validity import rules

PROMPTS, REQUESTS = Parallelism(dp=16.0, ep=16.0), Parallelism(dp=32.0, ep=32.0)
TWO = pools(PROMPTS, REQUESTS)


def of(plan: Disaggregated, model: Architecture = MOE_MODEL, cluster: Cluster = CLUSTER) -> Scenario:
    return scenario(plan, model, plan.decode.parallel, FP8, cluster=cluster)


def point(chosen: Scenario) -> Point:
    return evaluate_point(chosen, Calibration())


def metrics(chosen: Scenario) -> dict[str, float]:
    result = point(chosen)
    assert result.fits
    return {name: value for name, value in result.metrics.items() if value is not None}


def nic(bandwidth: float) -> Cluster:
    return replace(CLUSTER, node=replace(NODE, nic=Nic(bandwidth, 1.0, 2e-6)))


def test_each_pool_is_its_phase() -> None:
    found = metrics(of(TWO))
    prefill = metrics(scenario(PREFILL, MOE_MODEL, PROMPTS, FP8, Communication(10.0, "fp8")))
    decode = metrics(scenario(DECODE, MOE_MODEL, REQUESTS, FP8, Communication(mode="low_latency")))
    assert found["ttft"] == pytest.approx(prefill["ttft"] + found["kv_transfer_time"], rel=1e-12)
    assert found["tpot"] == pytest.approx(decode["tpot"], rel=1e-12)
    assert found["latency"] == pytest.approx(found["ttft"] + 255 * found["tpot"])
    assert found["prefill_tokens_per_second_per_device"] == pytest.approx(prefill["tokens_per_second_per_device"])
    assert found["decode_tokens_per_second_per_device"] == pytest.approx(decode["tokens_per_second_per_device"])
    assert found["max_batch_per_device"] == decode["max_batch_per_device"]


def test_the_ratio_feeds_the_decoding_pool_exactly() -> None:
    found = metrics(of(TWO))
    prompts = found["prefill_tokens_per_second_per_device"] / 1024 * found["prefill_nodes_per_decode_node"] * 32
    assert prompts == pytest.approx(found["requests_per_second"])
    assert found["decode_tokens_per_second_per_device"] * 32 == pytest.approx(found["requests_per_second"] * 255)
    devices = 32 * (1 + found["prefill_nodes_per_decode_node"])
    assert found["tokens_per_second_per_device"] == pytest.approx(found["tokens_per_second"] / devices)
    assert found["cost_per_million_tokens"] == pytest.approx(devices * 2 / 3600 * 1e6 / found["tokens_per_second"])


def test_what_is_bought_are_the_devices_that_the_throughput_takes() -> None:
    node = replace(
        NODE, device=replace(DEVICE, price=Price(None, 20_000.0)), host=Host(None, None, None, price=8_000.0)
    )
    network = replace(CLUSTER.network, topology="ft2", price=FabricPrice(0.0, 0.0, 0.0))
    found = metrics(of(TWO, cluster=replace(CLUSTER, node=node, network=network)))
    devices = 32 * (1 + found["prefill_nodes_per_decode_node"])
    assert devices != pytest.approx(48.0)
    assert found["capital_cost"] == pytest.approx(devices * 21_000.0)


@pytest.mark.parametrize("bandwidth", [1e7, 1e9, 5e10])
@pytest.mark.parametrize("hits", [0.0, 0.5, 1.0])
def test_together_they_are_no_faster_than_either_pool(bandwidth: float, hits: float) -> None:
    found = metrics(of(pools(PROMPTS, REQUESTS, hits), cluster=nic(bandwidth)))
    requests = found["tokens_per_second_per_device"] / 256
    assert requests <= found["prefill_tokens_per_second_per_device"] / 1024 * (1 + 1e-12)
    assert requests <= found["decode_tokens_per_second_per_device"] / 255 * (1 + 1e-12)


def test_the_cache_of_a_set_of_prompts_crosses_the_network() -> None:
    chosen = of(TWO)
    request = kv_bytes_per_token(MOE_MODEL) * 1024
    assert delivered_cache(chosen, TWO) == request
    assert transfer(chosen, TWO).size == 4 * request  # 4,096 tokens a device: four prompts, one link
    alone = 4 * request / 50e9 + 2e-6 + 1e-6  # one leaf, and a launch
    sent = next(timed for timed in evaluate(chosen, Calibration()).operators() if timed.operator.name == "kv transfer")
    assert sent.time.seconds == pytest.approx(alone)
    assert metrics(chosen)["kv_transfer_time"] == pytest.approx(alone)


def test_tensor_parallel_ranks_share_what_is_sent_and_hold_copies_of_latents() -> None:
    plan = pools(Parallelism(tp=4.0), Parallelism(tp=2.0))
    latent, heads = (kv_bytes_per_token(model) * 1024 for model in (MOE_MODEL, DENSE_MODEL))
    assert delivered_cache(of(plan), plan) == 2 * latent
    assert delivered_cache(of(plan, DENSE_MODEL), plan) == heads
    # A group of four devices has 16 prompts of 4,096 tokens a device in flight, and four links.
    assert transfer(of(plan, DENSE_MODEL), plan).size == 4 * heads


def test_links_bound_the_rate_and_the_result_says_so() -> None:
    plan = pools(Parallelism(tp=8.0), Parallelism(tp=8.0))
    slow = of(plan, DENSE_MODEL, nic(1e7))
    found, result = metrics(slow), point(slow)
    copies = 2  # eight ranks share four key-value heads
    request = copies * kv_bytes_per_token(DENSE_MODEL) * 1024
    assert found["requests_per_second"] == pytest.approx(8 * 1e7 / request)
    assert found["prefill_nodes_per_decode_node"] == pytest.approx(1.0)
    assert any("limited by its links" in note for note in result.notes)
    assert not any("limited by its links" in note for note in point(of(TWO)).notes)


def test_what_a_link_achieves_bounds_the_rate() -> None:
    slow = of(pools(Parallelism(tp=8.0), Parallelism(tp=8.0)), DENSE_MODEL, nic(1e7))
    half = Calibration("half", {"send_recv": FamilyFit(network_efficiency=0.5)})
    whole, achieved = (evaluate_point(slow, each).metrics["requests_per_second"] for each in (Calibration(), half))
    assert achieved == pytest.approx((whole or 0.0) / 2.0)


def test_the_result_says_how_many_devices_its_rates_are_of() -> None:
    found, result = metrics(of(TWO)), point(of(TWO))
    decode = float(TWO.decode.parallel.devices)
    prefill = decode * found["prefill_nodes_per_decode_node"]
    (note,) = result.notes
    assert f"one decode instance ({decode:,.0f} devices) and the {prefill:,.1f} prefill devices" in note
    assert found["tokens_per_second"] / found["tokens_per_second_per_device"] == pytest.approx(decode + prefill)


def test_pools_in_one_node_send_over_its_link() -> None:
    plan = pools(Parallelism(tp=4.0), Parallelism(tp=4.0))
    inside = metrics(of(plan, DENSE_MODEL, ONE_NODE))["kv_transfer_time"]
    request = kv_bytes_per_token(DENSE_MODEL) * 1024
    assert inside == pytest.approx(4 * request / 200e9 + 2e-6)


def test_the_breakdown_sums_to_the_latency_and_names_both_pools() -> None:
    for plan in (TWO, pools(Parallelism(pp=2.0), Parallelism(pp=4.0)), pools(PROMPTS, REQUESTS, 0.5, DRAFTS)):
        result = point(of(plan))
        assert sum(line.time for line in result.breakdown) == pytest.approx(result.metrics["latency"], rel=1e-12)
        assert {"prefill", "decode", "kv transfer"} <= {line.name.partition(":")[0] for line in result.breakdown}


def test_the_fuller_pool_decides_whether_it_fits() -> None:
    memory = point(of(TWO)).memory
    assert memory is not None
    full = replace(TWO, decode=replace(TWO.decode, plan=replace(DECODE, batch_per_device=2.0**20)))
    assert not point(of(full)).fits
    full = replace(TWO, prefill=replace(TWO.prefill, plan=replace(PREFILL, tokens_per_device=2.0**28)))
    assert not point(of(full)).fits


def test_hits_raise_what_the_prefilling_pool_takes_in() -> None:
    missed, hit = (metrics(of(pools(PROMPTS, REQUESTS, hits))) for hits in (0.0, 0.5))
    assert hit["prefill_tokens_per_second_per_device"] > missed["prefill_tokens_per_second_per_device"]
    assert hit["prefill_nodes_per_decode_node"] < missed["prefill_nodes_per_decode_node"]
    assert hit["kv_transfer_time"] == missed["kv_transfer_time"]


def test_rules_of_a_pool_name_the_pool() -> None:
    odd = pools(Parallelism(tp=3.0), Parallelism(dp=3.0, ep=3.0))
    fields = {rule.field for rule in rules(of(odd)) if not rule.holds}
    assert {"prefill.parallel.tp", "decode.parallel.ep"} <= fields
    large = pools(Parallelism(tp=4.0), Parallelism(tp=8.0))
    assert {rule.field for rule in rules(of(large, DENSE_MODEL, ONE_NODE)) if not rule.holds} == {"cluster"}
