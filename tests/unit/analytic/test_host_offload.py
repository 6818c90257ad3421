"""Inference with the host's memory: experts that it computes, weights and caches that it streams to the device."""

from __future__ import annotations

import numpy as np
import pytest
from builders import BF16, CLUSTER, DECODE, DENSE_MODEL, DRAFTS, MOE_MODEL, PREFILL, SERVING, pools, scenario

import costmodel
from costmodel.analytic.evaluation import evaluate, ledger_of
from costmodel.analytic.grid import evaluate_point, evaluate_single
from costmodel.analytic.training.layer_overlap import LayerSegment, pass_seconds
from costmodel.cost.calibration import Calibration, FamilyFit
from costmodel.errors import InputError
from costmodel.hardware import Cluster, Host
from costmodel.quantities import Quantity
from costmodel.records import replace
from costmodel.workload.engine import Scheduler
from costmodel.workload.operators import Gemm, HostGemm, HostTransfer
from costmodel.workload.plans import ExpertBound, Generate, Training
from costmodel.workload.scenario import Offload, Parallelism, Plan, Scenario

ONE = replace(DECODE, batch_per_device=1.0, micro_batches=1)
EXPERTS = Offload(experts="host")


def hosted(bandwidth: float = 200e9, memory: float | None = 1e12, peak: float | None = None) -> Cluster:
    """Return a cluster whose nodes have a host; its devices reach it at 25 GB/s."""
    peaks = {} if peak is None else {"bf16": peak}
    return replace(CLUSTER, node=replace(CLUSTER.node, host=Host(memory, bandwidth, 2.0, peaks)))


def served(
    offload: Offload, plan: Plan = ONE, cluster: Cluster | None = None, parallel: Parallelism | None = None
) -> Scenario:
    """Return a mixture of experts that is served with that much on the host."""
    drawn = scenario(plan, MOE_MODEL, parallel, cluster=hosted() if cluster is None else cluster)
    return replace(drawn, offload=offload)


def headline(of: Scenario, calibration: Calibration | None = None) -> float:
    value = next(iter(evaluate_single(of, calibration or Calibration()).metrics.values()))
    assert isinstance(value, float)
    return value


def operators(of: Scenario) -> dict[str, object]:
    return {priced.operator.name: priced.operator for priced in evaluate(of, Calibration()).operators()}


def spent(of: Scenario, *names: str) -> float:
    """Return the time of some lines of a breakdown, hidden or not."""
    lines = {entry.name: entry for entry in evaluate_point(of, Calibration()).breakdown}
    return sum(lines[name].time + lines[name].hidden for name in names if name in lines)


# ---- experts that the host computes ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("bandwidth", "published"), [("307.2 GB/s", 24.8), ("614.4 GB/s", 49.6)])
def test_v3_s_experts_bound_a_xeon_s_tokens_per_second_as_published(bandwidth: str, published: float) -> None:
    """58 layers read 8 of their experts, 3*7168*2048 weights each at 4.82 bits, through the memory of a socket or two.

    What comes and goes of a token is 0.15 % of that.
    """
    read = 58 * 8 * 3 * 7168 * 2048 * 4.82 / 8
    v3 = costmodel.load("deepseek_v3_hybrid", set={"hardware.node.host.bandwidth": bandwidth}, scenarios=["decode"])
    seconds = spent(v3.scenario("decode"), "expert up", "expert down")
    assert seconds == pytest.approx(read / v3.scenario("decode").cluster.node.host.bandwidth, rel=2e-3)
    assert 1 / seconds == pytest.approx(published, rel=0.02)


def test_v3_s_ledgers_are_those_that_ktransformers_states() -> None:
    """At least 14 GB of VRAM and 382 GB of DRAM."""
    point = costmodel.load("deepseek_v3_hybrid").points(["decode"])["decode"]
    assert point.on_host == pytest.approx(58 * 256 * 3 * 7168 * 2048 * 4.82 / 8)
    assert point.on_host == pytest.approx(382e9, rel=0.04)
    assert point.on_device == pytest.approx(14e9, rel=0.04)


def test_the_host_reads_the_experts_that_tokens_hit() -> None:
    for batch, hit in ((1.0, 4.0), (2.0, 64 * (1 - (15 / 16) ** 2)), (32.0, 64 * (1 - (15 / 16) ** 32))):
        found = operators(served(EXPERTS, replace(ONE, batch_per_device=batch)))["expert up"]
        assert isinstance(found, HostGemm)
        assert found.gemm.groups == pytest.approx(hit)
        assert found.gemm.groups * found.gemm.m == pytest.approx(4 * batch)
        assert (found.gemm.n, found.gemm.k, found.gemm.b_bytes) == (1024, 1024, 2)


def test_every_token_goes_to_the_host_once_and_comes_back_once() -> None:
    found = operators(served(EXPERTS, replace(ONE, batch_per_device=3.0)))
    for name, direction in (("expert input to the host", "out"), ("expert output from the host", "in")):
        copy = found[name]
        assert isinstance(copy, HostTransfer)
        assert (copy.size, copy.direction) == (3 * 1024 * 2, direction)
    assert not {"dispatch", "combine", "expert permute", "expert unpermute"} & found.keys()


def test_the_host_s_arithmetic_bounds_where_it_is_stated() -> None:
    prompts = replace(PREFILL, micro_batches=1)
    flop = 6 * 2 * 4096 * 4 * 3 * 1024 * 512
    slow = spent(served(EXPERTS, prompts, hosted(peak=1e12)), "expert up", "expert down")
    assert slow == pytest.approx(flop / 1e12)
    unknown = spent(served(EXPERTS, prompts, hosted(peak=None)), "expert up", "expert down")
    assert 0 < unknown < slow / 10


def test_devices_of_a_node_share_their_host() -> None:
    alone, pair = (served(EXPERTS, parallel=Parallelism(dp=ranks)) for ranks in (1.0, 2.0))
    once = spent(alone, "expert up", "expert down")
    assert spent(pair, "expert up", "expert down") == pytest.approx(2 * once)


def test_tensor_parallel_ranks_share_the_host_s_work_as_well() -> None:
    """Four ranks decode the same four tokens, each with a quarter of every expert."""
    whole, split = (
        served(EXPERTS, replace(ONE, batch_per_device=4 / ranks), parallel=Parallelism(tp=ranks))
        for ranks in (1.0, 4.0)
    )
    weights = spent(whole, "expert up", "expert down")
    assert spent(split, "expert up", "expert down") == pytest.approx(weights, rel=0.01)


@pytest.mark.parametrize("bandwidth", [1e9, 50e9, 1e15])
def test_shared_experts_run_on_the_device_while_the_host_computes(bandwidth: float) -> None:
    """Of each of six layers the longer of host and shared expert counts; everything else is one after the other."""
    of = served(EXPERTS, cluster=hosted(bandwidth))
    names = ["shared expert up", "shared expert activation", "shared expert down"]
    host = ["expert input to the host", "expert up", "expert down", "expert output from the host"]
    point = evaluate_point(of, Calibration())
    total = sum(entry.time + entry.hidden for entry in point.breakdown)
    on_device, on_host = spent(of, *names), spent(of, *host)
    assert headline(of) == pytest.approx(total - min(on_device, on_host))
    assert sum(entry.time for entry in point.breakdown) == pytest.approx(headline(of))


def test_micro_batches_keep_host_and_device_busy_together() -> None:
    """With two micro-batches the host computes for one while the device attends for the other."""
    plan = replace(ONE, batch_per_device=64.0)
    one, two = (served(EXPERTS, replace(plan, micro_batches=count), hosted(2e12)) for count in (1, 2))
    serial = sum(entry.time + entry.hidden for entry in evaluate_point(two, Calibration()).breakdown)
    assert headline(two) < 0.9 * serial
    assert headline(one) > 0


def test_an_efficiency_of_the_host_is_a_fit_of_its_own() -> None:
    of = served(EXPERTS)
    fitted = Calibration("cpu", {"host_product": FamilyFit(hbm_efficiency=0.35, basis="fitted")})
    slower = (headline(of, fitted) - headline(of)) / spent(of, "expert up", "expert down")
    assert slower == pytest.approx(1 / 0.35 - 1)
    assert evaluate_point(of, fitted).basis()["fitted"] > 0.5
    assert evaluate_point(of, Calibration()).basis()["roofline"] == 1.0


# ---- weights and caches that stream ---------------------------------------------------------------------------------

DENSE = replace(scenario(ONE, DENSE_MODEL, cluster=hosted()), precision=BF16)
LAYER = 2 * (1024 * (16 * 64 + 2 * 4 * 64) + 1024 * 1024 + 3 * 1024 * 2816 + 2 * 1024)  # bytes: projections, two norms


def dense(offload: Offload, **changes: object) -> Scenario:
    return replace(replace(DENSE, **changes), offload=offload)  # type: ignore[arg-type]


@pytest.mark.parametrize("zero", [Offload(), Offload(weights=0.0, kv_cache=0.0), Offload(overlap=False)])
def test_a_share_of_zero_is_none(zero: Offload) -> None:
    assert headline(dense(zero)) == headline(DENSE)
    assert operators(dense(zero)).keys() == operators(DENSE).keys()


def test_all_weights_on_the_host_take_at_least_their_time_on_the_link() -> None:
    streamed = dense(Offload(weights=1.0))
    copy = operators(streamed)["weights from the host"]
    assert isinstance(copy, HostTransfer)
    assert copy.size == LAYER
    assert headline(streamed) >= 8 * LAYER / 25e9
    assert headline(streamed) == pytest.approx(8 * LAYER / 25e9, rel=0.1)


def test_a_pass_with_streamed_weights_is_that_of_a_queue_for_the_link() -> None:
    """The recurrence of training's passes, made and tested by itself, gives the same time."""
    for share in (0.05, 0.3, 1.0):
        of = dense(Offload(weights=share))
        lines = {entry.name: entry.time + entry.hidden for entry in evaluate_point(of, Calibration()).breakdown}
        ends = lines["embedding"] + lines["final norm"] + lines["vocabulary projection"]
        arrive = lines.pop("weights from the host") / 8
        compute = (sum(lines.values()) - ends) / 8
        queued = float(np.asarray(pass_seconds([LayerSegment(8, compute, h2d=arrive)])))
        # The embedding computes while the first layer arrives, and the head follows the last.
        before = min(lines["embedding"], arrive)
        assert headline(of) == pytest.approx(queued + ends - before, rel=1e-9)


def test_without_overlap_every_copy_is_waited_for() -> None:
    offload = Offload(weights=0.5, kv_cache=0.5, overlap=False)
    point = evaluate_point(dense(offload), Calibration())
    assert all(entry.hidden == pytest.approx(0.0, abs=1e-12) for entry in point.breakdown)
    copies = spent(dense(offload), "weights from the host", "cache from the host", "cache to the host")
    assert headline(dense(offload)) == pytest.approx(headline(DENSE) + copies, rel=1e-6)


def test_one_copy_of_the_weights_serves_all_micro_batches() -> None:
    plan = replace(ONE, batch_per_device=4.0, micro_batches=4)
    copied = spent(dense(Offload(weights=1.0), plan=plan), "weights from the host")
    assert copied == pytest.approx(8 * (LAYER / 25e9 + 2e-6 + 1e-6))


def test_decoding_streams_the_cache_that_it_reads_and_sends_what_it_writes() -> None:
    plan = replace(ONE, batch_per_device=2.0)
    found = operators(dense(Offload(kv_cache=0.25), plan=plan))
    read, written = found["cache from the host"], found["cache to the host"]
    assert isinstance(read, HostTransfer)
    assert isinstance(written, HostTransfer)
    assert read.size == 0.25 * 2 * (plan.mean_kv_len - 1) * 4 * 128 * 2
    assert written.size == 0.25 * 2 * 1 * 4 * 128 * 2
    assert (read.direction, written.direction) == ("in", "out")


def test_a_prompt_leaves_its_cache_on_the_host_and_reads_none() -> None:
    found = operators(dense(Offload(kv_cache=1.0), plan=replace(PREFILL, micro_batches=1)))
    read, written = found["cache from the host"], found["cache to the host"]
    assert isinstance(read, HostTransfer)
    assert isinstance(written, HostTransfer)
    assert read.size == 0
    assert written.size == 4096 * 4 * 128 * 2


def test_a_latent_cache_streams_too() -> None:
    found = operators(served(Offload(kv_cache=1.0)))["cache from the host"]
    assert isinstance(found, HostTransfer)
    assert found.size == (ONE.mean_kv_len - 1) * (128 + 32) * 2


# ---- other phases ---------------------------------------------------------------------------------------------------

STREAMS = Offload(weights=0.5, kv_cache=0.5)
SHARED = replace(STREAMS, experts="host")
BATCH = Generate(batch=4.0, input_tokens=1024.0, output_tokens=64.0)
DRAFTING = replace(ONE, speculative=DRAFTS)
PHASES: dict[str, Plan] = {
    "drafting": DRAFTING,
    "batch": BATCH,
    "serving": replace(SERVING, concurrency=8.0),
    "prompts alone": replace(SERVING, concurrency=8.0, scheduler=Scheduler(token_budget=None)),
    "two pools": pools(),
}


@pytest.mark.parametrize("plan", PHASES.values(), ids=PHASES)
def test_every_phase_waits_for_its_host(plan: Plan) -> None:
    """What lies there makes it slower, its lines still sum to the headline, and the link's copies are among them."""
    of = served(SHARED, plan)
    evaluation, point = evaluate(of, Calibration()), evaluate_point(of, Calibration())
    assert point.fits
    whole = point.metrics[point.headline]
    assert whole is not None
    assert sum(entry.time for entry in point.breakdown) == pytest.approx(whole, rel=1e-9)
    names = {priced.operator.name.rpartition(": ")[2] for priced in evaluation.operators()}
    assert {"expert up", "weights from the host", "cache from the host", "cache to the host"} <= names
    faster = evaluate_point(served(Offload(), plan), Calibration()).metrics[point.headline]
    assert faster is not None
    assert whole > faster


def test_a_batch_copies_for_its_prompts_and_in_every_step() -> None:
    lines = {entry.name: entry for entry in evaluate_point(dense(STREAMS, plan=BATCH), Calibration()).breakdown}
    copied = {
        name: lines[f"{name}: weights from the host"].time + lines[f"{name}: weights from the host"].hidden
        for name in ("prefill", "decode")
    }
    assert copied["decode"] == pytest.approx(63 * copied["prefill"])


def test_every_pipeline_stage_copies_the_weights_of_its_own_layers() -> None:
    one, two = (
        spent(dense(STREAMS, parallel=Parallelism(pp=stages)), "weights from the host") for stages in (1.0, 2.0)
    )
    assert two == pytest.approx(one)
    ledgers = [parts(dense(Offload(weights=0.5), parallel=Parallelism(pp=stages)))[2] for stages in (1.0, 2.0)]
    assert float(ledgers[0]) == pytest.approx(2 * float(ledgers[1]))


def test_drafting_modules_stay_on_the_device_but_for_their_experts() -> None:
    streamed, none = (parts(served(offload, DRAFTING)) for offload in (Offload(weights=1.0), Offload()))
    drafted = parts(served(Offload(weights=1.0), ONE))
    module = float(none[0] - parts(served(Offload(), ONE))[0])
    assert float(streamed[0] - drafted[0]) == pytest.approx(module)
    experts = parts(served(EXPERTS, DRAFTING))[2] - parts(served(EXPERTS, ONE))[2]
    assert float(experts) == pytest.approx(64 * 3 * 1024 * 512 * 2)


def test_the_host_s_memory_bounds_the_batch_that_keeps_its_cache_there() -> None:
    """A request's cache is 8 * 1,152 * 4 * 128 values; the device would have room for many more."""
    each = 8 * 1152 * 4 * 128 * 2
    assert ONE.mean_kv_len == 1152
    room = dense(Offload(kv_cache=1.0), cluster=hosted(memory=100.5 * each))
    assert evaluate_point(room, Calibration()).metrics["max_batch_per_device"] == 100
    wide = dense(Offload(kv_cache=1.0))
    many = evaluate_point(wide, Calibration()).metrics["max_batch_per_device"]
    alone = evaluate_point(dense(Offload()), Calibration()).metrics["max_batch_per_device"]
    assert many is not None
    assert alone is not None
    assert many > 3.5 * alone  # the device keeps two layers of eight


def test_serving_admits_what_the_host_has_memory_for() -> None:
    plan = replace(SERVING, concurrency=64.0)
    each = 8 * (1024 + 128) * 4 * 128 * 2
    found = evaluate_point(
        dense(Offload(kv_cache=1.0), plan=plan, cluster=hosted(memory=10.5 * each)), Calibration()
    ).metrics
    assert (found["max_concurrency"], found["concurrency"]) == (10, 10)


def test_the_nodes_of_two_pools_have_hosts_of_their_own() -> None:
    """Each of two devices keeps the experts; one node holds one of them."""
    experts = 6 * 64 * 3 * 1024 * 512 * 2
    for memory, fits in ((1.01 * experts, True), (0.99 * experts, False)):
        assert evaluate_point(served(EXPERTS, pools(), hosted(memory=memory)), Calibration()).fits == fits
    wide = pools(decode=Parallelism(dp=2.0))
    assert not evaluate_point(served(EXPERTS, wide, hosted(memory=1.01 * experts)), Calibration()).fits


# ---- memory ---------------------------------------------------------------------------------------------------------


def parts(of: Scenario) -> tuple[Quantity, Quantity, Quantity]:
    ledger = ledger_of(of)
    assert ledger is not None
    return ledger.weights, ledger.kv_cache, ledger.on_host


def test_experts_of_the_host_are_in_its_ledger_and_not_in_the_device_s() -> None:
    with_experts, without = parts(served(Offload())), parts(served(EXPERTS))
    experts = 6 * 64 * 3 * 1024 * 512 * 2
    assert float(with_experts[0] - without[0]) == pytest.approx(experts)
    assert (without[2], with_experts[2]) == (pytest.approx(experts), 0)


def test_streamed_weights_leave_room_for_two_layers_on_the_device() -> None:
    ends = 2 * 2 * 32_000 * 1024 + 2 * 1024
    for share in (0.25, 1.0):
        weights, _, host = parts(dense(Offload(weights=share)))
        assert float(weights) == pytest.approx(ends + (1 - share) * 8 * LAYER + 2 * share * LAYER)
        assert float(host) == pytest.approx(share * 8 * LAYER)


def test_a_streamed_cache_leaves_room_for_two_layers_on_the_device() -> None:
    _, whole, _ = parts(DENSE)
    _, cache, host = parts(dense(Offload(kv_cache=0.5)))
    assert float(cache) == pytest.approx(0.5 * whole + 2 * 0.5 * whole / 8)
    assert float(host) == pytest.approx(0.5 * whole)


def test_a_host_that_is_too_small_is_said_to_be() -> None:
    point = evaluate_point(served(EXPERTS, cluster=hosted(memory=1e9)), Calibration())
    assert not point.fits
    assert point.reason is not None
    assert "does not fit in host memory" in point.reason


def test_a_host_that_nobody_describes_is_one_clear_error() -> None:
    with pytest.raises(InputError, match="does not state its host's memory") as caught:
        evaluate_point(served(EXPERTS, cluster=hosted(memory=None)), Calibration())
    (problem,) = caught.value.problems
    assert "hardware.node.host.memory" in problem.hint


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"offload": Offload(optimizer=0.5)}, "only training keeps its optimizer"),
        ({"offload": Offload(activations=0.5)}, "only training keeps its activations"),
        ({"parallel": Parallelism(dp=2.0, ep=2.0), "offload": EXPERTS}, "the host of a node computes all experts"),
        (
            {"parallel": Parallelism(dp=4.0, expert_tensor=2.0), "offload": EXPERTS},
            "ranks with slices of one expert have different tokens",
        ),
        ({"plan": ExpertBound(32.0, 9.0, 1024.0), "offload": EXPERTS}, "knows no host"),
        ({"architecture": DENSE_MODEL, "offload": EXPERTS}, "dense has no experts for the host to compute"),
    ],
)
def test_what_inference_cannot_offload_is_told(changed: dict[str, object], told: str) -> None:
    with pytest.raises(InputError, match=told):
        evaluate_point(replace(served(Offload()), **changed), Calibration())  # type: ignore[arg-type]


@pytest.mark.parametrize("offload", [Offload(kv_cache=0.5), EXPERTS])
def test_training_keeps_no_cache_and_computes_its_experts_itself(offload: Offload) -> None:
    trained = replace(scenario(architecture=MOE_MODEL, cluster=hosted()), offload=offload)
    assert isinstance(trained.plan, Training)
    with pytest.raises(InputError, match="inference"):
        evaluate_point(trained, Calibration())


def test_products_on_the_device_stay_there() -> None:
    found = operators(served(EXPERTS))
    assert isinstance(found["shared expert up"], Gemm)
    assert isinstance(found["ffn up"], Gemm)
    assert isinstance(found["router"], Gemm)
