"""Ranks that share a sequence: what each form moves, what it hides, and that all of them do the same work."""

from __future__ import annotations

import numpy as np
import pytest
from attention_cores import CLOCK, PROCESSORS, RATE, machine
from attention_cores import PREFILL as PREFILL_FORM
from builders import (
    BF16,
    CLUSTER,
    DENSE_MODEL,
    GQA,
    LATENT,
    MOE_MODEL,
    PREFILL,
    STEP,
    UNFUSED,
    context,
    scenario,
    spreads,
    with_device,
)
from hypothesis import given
from hypothesis import strategies as st

from costmodel.analytic.evaluation import evaluate, ledger_of
from costmodel.analytic.grid import evaluate_point
from costmodel.analytic.operator_timing import Sized, TimedOperator, operator_timer
from costmodel.analytic.stream_times import Perturbation, exposed_seconds, seconds_of, stream_times
from costmodel.cost.calibration import Calibration, FamilyFit
from costmodel.cost.time import Time
from costmodel.hardware import Cluster
from costmodel.records import replace
from costmodel.workload.architecture import HeadGroup, Pattern
from costmodel.workload.context import Context
from costmodel.workload.layers import draft_work, model_work
from costmodel.workload.operators import AttentionKernel, Collective, Gemm, Group, Operator
from costmodel.workload.scenario import Parallelism, Scenario
from costmodel.workload.validity import rules

KINDS = ("gather", "ring", "ulysses")
SEQUENCE, BATCH = 4096.0, 2.0


def seen(kind: str, cp: float = 4.0, tp: float = 1.0, model: object = DENSE_MODEL, phase: str = "training") -> Context:
    architecture = DENSE_MODEL if model is DENSE_MODEL else MOE_MODEL
    return context(architecture, Parallelism(tp=tp, cp=cp, context=kind), phase, BATCH, SEQUENCE)


def messages(of: Context, operators: str) -> list[tuple[str, float, float]]:
    """Return (kind, bytes of one, how many) of the collectives over the group in one pass of a layer."""
    found: tuple[Operator, ...] = getattr(model_work(of).layers[0], operators)
    return [
        (item.kind, float(item.size), float(item.calls))
        for item in found
        if isinstance(item, Collective) and float(item.group.size) == of.parallel.cp
    ]


def cores(of: Context, operators: str = "forward") -> list[AttentionKernel]:
    found: tuple[Operator, ...] = getattr(model_work(of).layers[0], operators)
    return [item for item in found if isinstance(item, AttentionKernel)]


# ---- volumes --------------------------------------------------------------------------------------------------------


def test_a_ring_passes_its_block_of_keys_on_and_gradients_with_them_on_the_way_back() -> None:
    """(cp-1) * B * S/cp * G*(q + v) * e forward, twice that backward: MQA of 4 heads of 64, two bytes."""
    block = BATCH * SEQUENCE / 4 * 4 * (64 + 64) * 2
    assert messages(seen("ring"), "forward") == [("send_recv", block, 3)]
    back = messages(seen("ring"), "input_gradient")
    assert back == [("send_recv", block, 2), ("send_recv", 2 * block, 2)]
    assert sum(size * count for _, size, count in back) == 2 * 3 * block


def test_two_ranks_pass_keys_once_and_gradients_once() -> None:
    block = BATCH * SEQUENCE / 2 * 4 * 128 * 2
    assert messages(seen("ring", cp=2.0), "input_gradient") == [("send_recv", block, 2), ("send_recv", 2 * block, 0)]


def test_gathering_moves_all_keys_forward_and_twice_that_backward() -> None:
    whole = BATCH * SEQUENCE * 4 * 128 * 2
    assert messages(seen("gather"), "forward") == [("all_gather", whole, 1)]
    assert messages(seen("gather"), "input_gradient") == [("all_gather", whole, 1), ("reduce_scatter", whole, 1)]


def test_ulysses_swaps_four_tensors_each_way() -> None:
    """16 query and 4 key-value heads of 64 over 4 ranks: q and the output 16 wide, k and v 4, of the rank's tokens."""
    tokens = BATCH * SEQUENCE / 4
    q, kv = tokens * 16 * 64 * 2, tokens * 4 * 64 * 2
    assert messages(seen("ulysses"), "forward") == [("all_to_all", size, 1) for size in (q, kv, kv, q)]
    assert messages(seen("ulysses"), "input_gradient") == [("all_to_all", size, 1) for size in (q, q, kv, kv)]


def test_fewer_key_value_heads_than_ranks_are_sent_to_each_and_kept_by_each() -> None:
    """Four heads on eight ranks: every rank works on one, so eight are sent, and twice the share is kept."""
    tokens = BATCH * SEQUENCE / 8
    assert messages(seen("ulysses", cp=8.0), "forward")[1] == ("all_to_all", tokens * 8 * 64 * 2, 1)
    kept = {item.name: float(item.size) for item in model_work(seen("ulysses", cp=8.0)).layers[0].saved}
    assert kept["query, key, value"] == tokens * (16 * 64 + 8 * 128) * 2
    (core,) = cores(seen("ulysses", cp=8.0))
    assert (core.heads, core.q_len) == (2, SEQUENCE)


def test_keys_that_lie_in_the_cache_pass_every_rank_too() -> None:
    """A prompt of 1,024 new tokens behind 3,072 cached ones: all 4,096 keys move, and 1,024 queries."""
    width = 4 * 128 * 2
    found = {}
    for kind in KINDS:
        of = context(DENSE_MODEL, Parallelism(cp=4.0, context=kind), "prefill", BATCH, 1024.0, 4096.0)
        found[kind] = [size for _, size, _ in messages(of, "forward")]
    assert found["gather"] == [BATCH * 4096 * width]
    assert found["ring"] == [BATCH * 4096 / 4 * width]
    queries, keys = BATCH * 1024 / 4 * 16 * 64 * 2, BATCH * 4096 / 4 * 4 * 64 * 2
    assert found["ulysses"] == [queries, keys, keys, queries]


def test_messages_run_beside_the_cores_just_before_them() -> None:
    """Two cores of 1 s, then messages beside half of both; a core after them is nobody's."""
    ring = Collective("ring", "send_recv", 1.0, Group(4.0), attention_overlap=0.5)
    core = cores(seen("ring"))[0]
    items = [priced(core, 1.0), priced(core, 1.0), priced(ring, 1.5), priced(core, 9.0), priced(ring, 5.0)]
    assert [seconds for _, seconds in exposed_seconds(items, None)] == [1.0, 1.0, 0.5, 9.0, 0.5]


def test_tensor_parallel_ranks_swap_only_their_own_heads() -> None:
    tokens = BATCH * SEQUENCE / 2
    found = messages(seen("ulysses", cp=2.0, tp=2.0), "forward")
    swapped = [size for kind, size, _ in found if kind == "all_to_all"]
    assert swapped == [tokens * 8 * 64 * 2, tokens * 2 * 64 * 2, tokens * 2 * 64 * 2, tokens * 8 * 64 * 2]


def test_latent_attention_passes_the_expanded_keys_of_every_head() -> None:
    """16 heads with keys of 64 + 32 and values of 64, as Megatron-LM hands them to Transformer Engine."""
    block = BATCH * SEQUENCE / 4 * 16 * (96 + 64) * 2
    assert messages(seen("ring", model=MOE_MODEL), "forward") == [("send_recv", block, 3)]


@pytest.mark.parametrize("phase", ["training", "prefill"])
@pytest.mark.parametrize("model", [DENSE_MODEL, MOE_MODEL], ids=["grouped", "latent"])
def test_all_forms_compute_the_same(model: object, phase: str) -> None:
    for operators in ("forward", "input_gradient"):
        work = [
            sum(float(core.flop) for core in cores(seen(kind, 4.0, 1.0, model, phase), operators)) for kind in KINDS
        ]
        assert work == pytest.approx([work[0]] * 3, rel=1e-12)
        alone = sum(float(core.flop) for core in cores(seen("gather", 1.0, 1.0, model, phase), operators))
        assert work[0] * 4 == pytest.approx(alone, rel=1e-12)


def test_windows_and_unfused_cores_do_the_same_work_with_swapped_heads() -> None:
    groups = (HeadGroup(0.5, Pattern()), HeadGroup(0.5, Pattern("window", 512.0)))
    layer = replace(DENSE_MODEL.layers[0], mixer=replace(GQA, head_groups=groups))
    for framework in (UNFUSED, None):
        flop = []
        for kind in ("gather", "ulysses"):
            of = replace(seen(kind), architecture=replace(DENSE_MODEL, layers=(layer,)))
            of = of if framework is None else replace(of, framework=framework)
            work = model_work(of).layers[0]
            flop.append(sum(float(item.flop) for item in work.forward if not isinstance(item, Collective)))
        assert flop[0] == pytest.approx(flop[1])


@pytest.mark.parametrize("kind", KINDS)
def test_one_rank_moves_nothing_and_takes_the_same_time(kind: str) -> None:
    times = [
        evaluate_point(scenario(plan, DENSE_MODEL, Parallelism(context=kind)), Calibration()).metrics
        for plan in (STEP, PREFILL)
    ]
    plain = [evaluate_point(scenario(plan, DENSE_MODEL), Calibration()).metrics for plan in (STEP, PREFILL)]
    assert times == plain


# ---- what a ring hides ----------------------------------------------------------------------------------------------


def priced(operator: Operator, seconds: float) -> TimedOperator:
    return TimedOperator(operator, Time(seconds), Sized(operator, machine(), Calibration()))


def ring_by_hand(sends: list[float], block: float) -> float:
    """Return the time of blocks computed one after the other, each while the message is sent that the next needs."""
    clock = 0.0
    for send in sends:
        computed, arrived = clock + block, clock + send
        clock = max(computed, arrived)
    return clock


@given(cp=st.integers(2, 16), block=st.floats(1e-4, 1.0), send=st.floats(1e-4, 1.0))
def test_a_ring_takes_the_longer_of_block_and_message_in_every_step(cp: int, block: float, send: float) -> None:
    """Forward the last of cp steps sends nothing; backward the first and the last send half of what others do."""
    work = model_work(seen("ring", cp=float(cp))).layers[0]
    for operators, sends in (
        (work.forward, [send] * (cp - 1) + [0.0]),
        (work.input_gradient, [send] + [2 * send] * (cp - 2) + [send]),
    ):
        core = next(item for item in operators if isinstance(item, AttentionKernel))
        ring = [item for item in operators if item.name.startswith("key-value ring") and isinstance(item, Collective)]
        unit = min(float(item.size) for item in ring)
        items = [priced(core, cp * block)]
        items += [priced(item, float(item.calls) * send * float(item.size) / unit) for item in ring]
        assert stream_times(items, None).total == pytest.approx(ring_by_hand(sends, block), rel=1e-9)


def _slow(bandwidth: float) -> Cluster:
    device = CLUSTER.device
    link = replace(device.links["nvlink"], bandwidth=bandwidth)
    return with_device(CLUSTER, replace(device, links={"nvlink": link}))


def step(of: Scenario) -> float:
    value = evaluate_point(of, Calibration()).metrics["step_time"]
    assert value is not None
    return value


def ring(bandwidth: float, kind: str = "ring") -> Scenario:
    plan = replace(STEP, sequence=32768.0, global_batch=8.0)
    return scenario(plan, DENSE_MODEL, Parallelism(cp=8.0, context=kind), cluster=_slow(bandwidth))


def test_a_ring_hides_its_messages_where_blocks_are_long_and_a_gather_hides_none() -> None:
    fast, slow = evaluate(ring(2e11), Calibration()), evaluate(ring(1e8), Calibration())
    hidden = {entry.name: (entry.time, entry.hidden) for entry in fast.breakdown()}["key-value ring"]
    assert hidden[0] == 0
    assert hidden[1] > 0
    assert {entry.name: entry.time for entry in slow.breakdown()}["key-value ring"] > 0
    assert step(ring(2e11)) < step(ring(2e11, "gather"))


def test_breakdown_and_bubble_sum_to_the_step_where_a_ring_is_partly_hidden() -> None:
    for bandwidth in (1e8, 1e9, 3e9, 1e10, 2e11):
        for kind in KINDS:
            point = evaluate_point(ring(bandwidth, kind), Calibration())
            total = sum(entry.time for entry in point.breakdown) + (point.metrics["bubble_time"] or 0.0)
            assert total == pytest.approx(point.metrics["step_time"], rel=1e-12)


def test_a_moved_family_moves_every_call_by_the_ratio_of_one_call() -> None:
    """Four calls of 1 ms are as uncertain as one of 1 ms, not as one of 4 ms."""
    fit = spreads(0.5, 1.0, 2.0).family("collective")
    fit = replace(
        fit, spread=replace(fit.spread, times=(1e-3, 4e-3), low=(0.5, 1.0), median=(1.0, 1.0), high=(2.0, 1.0))
    )
    ring = Collective("ring", "send_recv", 1.0, Group(4.0), calls=4.0)
    four = TimedOperator(ring, Time(4e-3), Sized(ring, machine(), Calibration(families={"collective": fit})))
    assert seconds_of(four, {"collective": Perturbation(0.0, 1.0)}) == pytest.approx(8e-3)


def test_blocks_are_kernels_of_their_own_and_their_results_are_merged() -> None:
    of = scenario(PREFILL, DENSE_MODEL, Parallelism(cp=4.0, context="ring"))
    work = operator_timer(of, Calibration()).time_work(model_work(seen("ring")).layers[0])
    launches = {item.operator.name: float(item.time.fixed) for item in work.forward}
    assert launches["attention core"] == pytest.approx(4e-6)
    assert launches["attention merge"] == pytest.approx(3e-6)
    merge = next(item.operator for item in work.forward if item.operator.name == "attention merge")
    assert merge.traffic == 3 * (BATCH * SEQUENCE / 4) * 16 * 64 * (2 + 8)  # type: ignore[union-attr]


@pytest.mark.parametrize("operators", ["forward", "input_gradient"])
def test_the_blocks_of_a_ring_take_together_one_share_of_a_long_sequence(operators: str) -> None:
    """Each block has its own share of the keys, on the path of its last query too."""
    form, degrees = replace(PREFILL_FORM, wave_tail_loss=1e-9), (1.0, 2.0, 4.0, 8.0, 16.0)
    times = []
    for cp in degrees:
        of = context(DENSE_MODEL, Parallelism(tp=4.0, cp=cp, context="ring"), "training", 1.0, 131_072.0)
        (kernel,) = cores(of, operators)
        times.append(float(FamilyFit(form=form).fitted_time(form, kernel, machine()).seconds))
        assert times[-1] >= kernel.flop / (PROCESSORS * RATE * CLOCK)
    assert times == sorted(times, reverse=True)
    assert times == pytest.approx([times[0] / cp for cp in degrees], rel=0.15)  # and what starts a block


# ---- memory ---------------------------------------------------------------------------------------------------------


def communication(kind: str, cp: float) -> float:
    plan = replace(STEP, sequence=32768.0, global_batch=8.0)
    ledger = ledger_of(scenario(plan, DENSE_MODEL, Parallelism(cp=cp, context=kind)))
    assert ledger is not None
    return float(ledger.communication)


def test_a_gather_holds_one_layer_s_keys_of_the_whole_sequence_and_a_ring_two_blocks() -> None:
    whole = 32768 * 4 * 128 * 2
    assert communication("gather", 8.0) == 2 * whole  # and their gradients
    assert communication("ring", 8.0) == 2 * 2 * whole / 8
    assert communication("gather", 1.0) == communication("ring", 1.0) == communication("ulysses", 1.0) == 0


# ---- rules ----------------------------------------------------------------------------------------------------------


def broken(of: Scenario) -> set[str]:
    return {rule.field for rule in rules(of) if not rule.holds}


def test_ulysses_needs_heads_for_every_rank_and_other_forms_do_not() -> None:
    for kind, told in (("ulysses", {"parallel.cp"}), ("ring", set()), ("gather", set())):
        assert broken(scenario(STEP, DENSE_MODEL, Parallelism(cp=32.0, context=kind))) == told
    assert broken(scenario(STEP, DENSE_MODEL, Parallelism(cp=4.0, tp=8.0, context="ulysses"))) == {"parallel.cp"}
    assert broken(scenario(STEP, DENSE_MODEL, Parallelism(cp=8.0, tp=2.0, context="ulysses"))) == set()


def test_key_value_heads_have_to_be_whole_on_every_rank() -> None:
    layer = replace(DENSE_MODEL.layers[0], mixer=replace(GQA, q_heads=48.0, kv_heads=6.0))
    assert broken(scenario(STEP, replace(DENSE_MODEL, layers=(layer,)), Parallelism(cp=4.0, context="ulysses")))


def test_a_ring_needs_a_fused_core_without_windows() -> None:
    parallel = Parallelism(cp=4.0, context="ring")
    assert broken(scenario(STEP, DENSE_MODEL, parallel, framework=UNFUSED)) == {"parallel.context"}
    window = (HeadGroup(1.0, Pattern("window", 512.0)),)
    layer = replace(DENSE_MODEL.layers[0], mixer=replace(GQA, head_groups=window))
    assert broken(scenario(STEP, replace(DENSE_MODEL, layers=(layer,)), parallel)) == {"parallel.context"}
    assert broken(scenario(STEP, replace(DENSE_MODEL, layers=(layer,)), replace(parallel, cp=1.0))) == set()
    latent = replace(MOE_MODEL.layers[0], mixer=LATENT)
    model = replace(MOE_MODEL, layers=(latent,), mtp=None)
    assert broken(scenario(STEP, model, parallel, BF16, framework=UNFUSED)) == set()  # latent cores are always fused


def test_degrees_may_vary_on_a_grid_whatever_the_form() -> None:
    degrees = np.array([1.0, 2.0, 4.0, 16.0, 32.0])
    for kind in KINDS:
        of = scenario(STEP, DENSE_MODEL, Parallelism(cp=degrees, context=kind))
        mask = np.all([np.broadcast_to(rule.holds, 5) for rule in rules(of)], axis=0)
        assert list(mask) == [True] * 4 + [kind != "ulysses"]


def test_decoding_requests_are_split_over_the_group_up_to_their_logits() -> None:
    """Each rank has its own requests in every product, the head's and a draft's too; of a prompt all have the end."""

    def rows(phase: str, cp: float, length: float) -> list[float]:
        of = context(MOE_MODEL, Parallelism(cp=cp), phase, 32.0, length, 4096.0)
        found = [work.forward for work in (model_work(of).head, draft_work(of))]
        heads = [one for part in found for one in part if one.name == "vocabulary projection"]
        return [float(one.m) for one in heads if isinstance(one, Gemm)]

    assert rows("decode", 1.0, 3.0) == [96.0, 32.0]
    assert rows("decode", 4.0, 3.0) == [24.0, 8.0]
    assert rows("prefill", 1.0, 1024.0) == rows("prefill", 4.0, 1024.0) == [32.0, 32.0]
