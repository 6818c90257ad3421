"""A training step: its parts add up, DualPipe hides exchanges, the tail follows the ZeRO stage."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from builders import BF16, DENSE_MODEL, FAMILIES, FP8, MOE_MODEL, STEP, context, scenario, spreads

import costmodel
from costmodel.analytic.grid import evaluate_point
from costmodel.analytic.operator_timing import TimedOperator
from costmodel.analytic.stream_times import Perturbation, seconds_of
from costmodel.analytic.training.step_model import step_model, training_context
from costmodel.analytic.training.step_times import step_streams, step_times
from costmodel.cost.calibration import Calibration
from costmodel.hardware import Cluster
from costmodel.records import replace
from costmodel.result import Point
from costmodel.workload.framework_parts import HostTimes, TrainingProgram
from costmodel.workload.layers import model_work
from costmodel.workload.operators import Collective, Elementwise, ExpertAllToAll, Gemm
from costmodel.workload.optimizer import step_operators
from costmodel.workload.plans import Sharding, Training
from costmodel.workload.scenario import Communication, Parallelism, Scenario
from costmodel.workload.schedules.schedule import Kind

DUALPIPE = replace(STEP, schedule="dualpipe")
LAYOUT = Parallelism(pp=4.0, dp=8.0, ep=8.0)
EXPERT = scenario(DUALPIPE, MOE_MODEL, LAYOUT, FP8, Communication(10.0, dispatch="fp8"))


def _with_network(of: Scenario, bandwidth: float) -> Cluster:
    """Return the scenario's cluster with links and NICs of one bandwidth."""
    node = of.cluster.node
    assert node.nic is not None
    nic, link = replace(node.nic, bandwidth=bandwidth), replace(node.intra, bandwidth=bandwidth)
    return replace(of.cluster, node=replace(node, nic=nic, intra=link))


CASES = {
    "one rank": scenario(STEP, DENSE_MODEL),
    "data parallel": scenario(STEP, DENSE_MODEL, Parallelism(dp=8.0)),
    "tensor parallel": scenario(STEP, DENSE_MODEL, Parallelism(tp=4.0, sequence_parallel=True)),
    "context parallel": scenario(STEP, DENSE_MODEL, Parallelism(cp=4.0)),
    "pipeline": scenario(STEP, DENSE_MODEL, Parallelism(pp=4.0)),
    "gpipe": scenario(replace(STEP, schedule="gpipe"), DENSE_MODEL, Parallelism(pp=4.0)),
    "interleaved": scenario(replace(STEP, schedule="interleaved"), DENSE_MODEL, Parallelism(pp=4.0, virtual=2.0)),
    "zb-h1": scenario(replace(STEP, schedule="zb-h1"), MOE_MODEL, LAYOUT),
    "zb-v": scenario(replace(STEP, schedule="zb-v"), DENSE_MODEL, Parallelism(pp=4.0, virtual=2.0)),
    "dualpipe-v": scenario(replace(STEP, schedule="dualpipe-v"), MOE_MODEL, replace(LAYOUT, virtual=2.0)),
    "experts": scenario(STEP, MOE_MODEL, LAYOUT),
    "dualpipe": EXPERT,
    "slow dualpipe": replace(EXPERT, cluster=_with_network(EXPERT, 1e8)),
    "dense dualpipe": scenario(DUALPIPE, DENSE_MODEL, Parallelism(pp=4.0, tp=2.0)),
}


def point(of: Scenario) -> Point:
    return evaluate_point(of, Calibration())


def metric(of: Point, name: str) -> float:
    value = of.metrics[name]
    assert value is not None
    return value


def operators(of: Scenario) -> tuple[float, float]:
    """Return (exchange, all) seconds of a breakdown, exposed and hidden."""
    lines = point(of).breakdown
    exchanges = [line.time + line.hidden for line in lines if line.name in {"dispatch", "combine"}]
    return sum(exchanges), sum(line.time + line.hidden for line in lines)


@pytest.mark.parametrize("name", list(CASES))
def test_schedule_parts_bubble_and_optimizer_sum_to_the_step(name: str) -> None:
    result = point(CASES[name])
    assert result.schedule is not None
    assert set(result.schedule) == {
        "forward",
        "backward_input",
        "backward_weight",
        "forward_backward",
        "bubble",
        "optimizer",
    }
    assert sum(result.schedule.values()) == pytest.approx(metric(result, "step_time"), rel=1e-12)
    assert min(result.schedule.values()) >= -1e-12


@pytest.mark.parametrize("name", list(CASES))
def test_breakdown_and_bubble_sum_to_the_step(name: str) -> None:
    result = point(CASES[name])
    total = sum(line.time for line in result.breakdown) + metric(result, "bubble_time")
    assert total == pytest.approx(metric(result, "step_time"), rel=1e-12)


def test_the_flagship_s_parts_add_up(v3: costmodel.Workload) -> None:
    result = v3.evaluate("training").point()
    assert result.schedule is not None
    assert sum(result.schedule.values()) == pytest.approx(metric(result, "step_time"), rel=1e-12)
    total = sum(line.time for line in result.breakdown) + metric(result, "bubble_time")
    assert total == pytest.approx(metric(result, "step_time"), rel=1e-12)
    assert metric(result, "step_time") == pytest.approx(19.926, rel=0.05)  # published: table 4 of arXiv 2505.09343


def test_hidden_and_exposed_exchanges_are_all_exchanges() -> None:
    """Every chunk's exchanges run, hidden or not: those of a plain schedule, which hides none, are as long."""
    plain = replace(EXPERT, plan=STEP)
    hidden = sum(line.hidden for line in point(EXPERT).breakdown)
    assert hidden > 0
    assert sum(line.hidden for line in point(plain).breakdown) == 0
    # Under DualPipe a rank has two stages and half of the micro-batches on each, so the mean is the same.
    assert operators(EXPERT)[0] == pytest.approx(operators(plain)[0], rel=1e-9)


def test_a_pair_hides_exchanges_up_to_its_computation() -> None:
    slow = replace(EXPERT, cluster=_with_network(EXPERT, 1e8))
    fast = replace(EXPERT, cluster=_with_network(EXPERT, 1e15))
    assert all(line.hidden == 0 or line.name in {"dispatch", "combine"} for line in point(EXPERT).breakdown)
    exposed, hidden = (
        sum(getattr(line, part) for line in point(slow).breakdown if line.name in {"dispatch", "combine"})
        for part in ("time", "hidden")
    )
    assert exposed > hidden > 0
    schedule = point(slow).schedule
    pairs = _pair_exchanges(slow)
    assert schedule is not None
    assert schedule["forward_backward"] == pytest.approx(pairs, rel=1e-9)
    assert metric(point(fast), "step_time") < metric(point(EXPERT), "step_time") < metric(point(slow), "step_time")


def _pair_exchanges(of: Scenario) -> float:
    """Return the exchanges of all F&B pairs of a rank, mean over ranks [s]."""
    assert isinstance(of.plan, Training)
    step = step_model(of, of.plan, Calibration())
    total = 0.0
    for slot, count in zip(step.pipeline.program.slots, step.pipeline.program.mean_counts, strict=True):
        if slot.kind is not Kind.FORWARD_BACKWARD:
            continue
        assert slot.forward is not None
        assert slot.backward is not None
        for repeats, part in step.works_of(slot.forward):
            total += count * repeats * _exchanged(step.timed_works[part.name].forward)
        for repeats, part in step.works_of(slot.backward):
            total += count * repeats * _exchanged(step.timed_works[part.name].input_gradient)
    return total


def _exchanged(items: Iterable[TimedOperator]) -> float:
    return sum(float(item.time.seconds) for item in items if isinstance(item.operator, ExpertAllToAll))


def test_one_rank_has_no_bubble_and_nothing_exposed() -> None:
    result = point(CASES["one rank"])
    assert metric(result, "bubble_time") == pytest.approx(0, abs=1e-12)
    assert metric(result, "exposed_communication_time") == pytest.approx(0, abs=1e-12)


def test_exposed_communication_is_what_the_breakdown_says_of_messages() -> None:
    result = point(CASES["experts"])
    messages = {"dispatch", "combine"}
    tails = ("reduce-scatter", "all-gather", "all-reduce")
    lines = sum(line.time for line in result.breakdown if line.name in messages or line.name.endswith(tails))
    assert metric(result, "exposed_communication_time") == pytest.approx(lines, rel=1e-9)


def test_an_idle_pipeline_waits_for_the_first_and_the_last_micro_batch() -> None:
    equal = replace(DENSE_MODEL, vocabulary=64.0, layers=(replace(DENSE_MODEL.layers[0], repeat=4),))
    times = {}
    for count in (8.0, 16.0):
        of = scenario(replace(STEP, global_batch=count), equal, Parallelism(pp=4.0))
        times[count] = metric(point(of), "bubble_time")
    assert times[8.0] == pytest.approx(
        times[16.0], rel=0.25
    )  # (pp - 1) chunks, however many micro-batches; the ends are not equal


EVEN = replace(DENSE_MODEL, vocabulary=64.0, layers=(replace(DENSE_MODEL.layers[0], repeat=80),))


def bubble(schedule: str, virtual: float = 1.0, bandwidth: float = 1e15) -> float:
    """Return the mean idle time of four ranks with 20 layers each, 16 micro-batches [s]."""
    plan = replace(STEP, schedule=schedule, global_batch=16.0)
    of = scenario(plan, EVEN, Parallelism(pp=4.0, virtual=virtual))
    return metric(point(replace(of, cluster=_with_network(of, bandwidth))), "bubble_time")


def test_bubbles_order_as_the_papers_say() -> None:
    gpipe, plain = bubble("gpipe"), bubble("1f1b")
    assert gpipe == pytest.approx(plain, rel=1e-9)
    assert bubble("interleaved", 2.0) == pytest.approx(plain / 2, rel=0.05)  # the ends are not quite equal
    assert bubble("zb-v", 2.0) < bubble("zb-h1") < 0.6 * plain


def test_interleaving_pays_for_more_messages() -> None:
    """A message that takes time delays a micro-batch once a stage: on a slow link the smaller bubble is gone."""
    assert bubble("interleaved", 2.0) < bubble("1f1b")
    assert bubble("interleaved", 2.0, 1e8) > bubble("1f1b", 1.0, 1e8)


def test_virtual_stages_of_one_rank_send_nothing() -> None:
    """One rank with two stages takes as long as one with all layers in one."""
    alone = scenario(replace(STEP, schedule="interleaved"), DENSE_MODEL, Parallelism(virtual=2.0))
    assert metric(point(alone), "step_time") == pytest.approx(metric(point(CASES["one rank"]), "step_time"), rel=1e-9)
    assert metric(point(alone), "bubble_time") == pytest.approx(0, abs=1e-12)


def test_rates_follow_from_the_step() -> None:
    of = EXPERT
    result = point(of)
    step, tokens = metric(result, "step_time"), 64.0 * 2048
    assert metric(result, "tokens_per_second") == pytest.approx(tokens / step)
    assert metric(result, "tokens_per_day") == pytest.approx(86_400 * tokens / step)
    assert metric(result, "tokens_per_second_per_device") == pytest.approx(tokens / step / 32)
    assert metric(result, "device_hours_per_trillion_tokens") == pytest.approx(1e12 / tokens * step * 32 / 3600)
    assert metric(result, "cost_per_trillion_tokens") == pytest.approx(2 * 1e12 / tokens * step * 32 / 3600)
    assert metric(result, "energy_per_token") == pytest.approx(500 * 32 * step / tokens)


def test_what_no_file_states_stays_open() -> None:
    device = replace(EXPERT.cluster.device, price=replace(EXPERT.cluster.device.price, rental=None))
    unpriced = replace(EXPERT, cluster=replace(EXPERT.cluster, node=replace(EXPERT.cluster.node, device=device)))
    result = point(unpriced)
    assert result.metrics["cost_per_trillion_tokens"] is None
    assert result.intervals["cost_per_trillion_tokens"] is None
    assert metric(result, "step_time") == metric(point(EXPERT), "step_time")


def test_utilisation_is_model_flop_over_the_bf16_peak() -> None:
    result = point(CASES["one rank"])
    model_flop = 6 * (8 * (1024 * 24 * 64 + 1024 * 1024 + 3 * 1024 * 2816 + 2048) + 32_000 * 1024 + 1024)
    attention = 3 * 8 * 2 * 16 * 128 * 2048
    offered = metric(result, "step_time") * 1e15
    assert metric(result, "mfu") == pytest.approx((model_flop + attention / 2) * 64 * 2048 / offered)
    assert metric(result, "mfu_noncausal") == pytest.approx((model_flop + attention) * 64 * 2048 / offered)


@pytest.mark.parametrize(
    "name", ["tensor parallel", "context parallel", "pipeline", "data parallel", "gpipe", "interleaved", "zb-v"]
)
def test_executed_flop_of_a_token_do_not_depend_on_the_layout(name: str) -> None:
    assert metric(point(CASES[name]), "flop_per_token") == pytest.approx(
        metric(point(CASES["one rank"]), "flop_per_token")
    )


def test_recomputation_executes_more_and_takes_longer() -> None:
    plain, full = (
        point(scenario(replace(STEP, recompute=frozenset(names)), DENSE_MODEL)) for names in ((), ("layer",))
    )
    assert metric(full, "flop_per_token") > 1.2 * metric(plain, "flop_per_token")
    assert metric(full, "step_time") > 1.2 * metric(plain, "step_time")
    assert metric(full, "mfu") < metric(plain, "mfu")


# ---- the tail of a step ---------------------------------------------------------------------------------------------


def tail(
    zero: int,
    parallel: Parallelism,
    copies: int = 1,
    weight_exchange: str = "gather",
    sharding: Sharding = STEP.sharding,
) -> list[Collective | Elementwise]:
    plan: Training = replace(STEP, zero=zero, sharding=sharding)
    base = scenario(plan, MOE_MODEL, parallel)
    program = TrainingProgram(weight_exchange=weight_exchange)
    seen = training_context(replace(base, framework=replace(base.framework, training=program)), plan)
    found = step_operators(seen, plan, [(1, model_work(seen).layers[-1])], copies)
    assert found.on_host == found.host_transfers == ()
    return [item for item in found.serial if isinstance(item, Collective | Elementwise)]


def local(expert: bool) -> float:
    seen = training_context(scenario(STEP, MOE_MODEL, Parallelism(dp=16.0, ep=8.0)), STEP)
    return sum(float(item.local) for item in model_work(seen).layers[-1].parameters if item.expert == expert)


def test_without_zero_gradients_are_reduced_and_every_rank_updates_all() -> None:
    items = tail(0, Parallelism(dp=16.0, ep=8.0))
    messages = [
        (item.kind, item.size, item.group.size, item.group.stride) for item in items if isinstance(item, Collective)
    ]
    assert messages == [("all_reduce", 4 * local(False), 16, 1), ("all_reduce", 4 * local(True), 2, 8)]
    updates = [item.traffic for item in items if isinstance(item, Elementwise)]
    assert updates == [local(False) * 30, local(True) * 30]  # gradient 4, master 8, moments 16, weight 2


def test_zero_1_scatters_gradients_updates_a_share_and_gathers_weights() -> None:
    items = tail(1, Parallelism(dp=16.0, ep=8.0))
    messages = [(item.kind, item.size, item.group.size) for item in items if isinstance(item, Collective)]
    dense, expert = local(False), local(True)
    assert messages == [
        ("reduce_scatter", 4 * dense, 16),
        ("all_gather", 2 * dense, 16),
        ("reduce_scatter", 4 * expert, 2),
        ("all_gather", 2 * expert, 2),
    ]
    assert [item.traffic for item in items if isinstance(item, Elementwise)] == [dense * 30 / 16, expert * 30 / 2]


def test_a_second_copy_of_the_stages_doubles_the_groups() -> None:
    sizes = [
        item.group.size for item in tail(1, Parallelism(dp=16.0, ep=8.0), copies=2) if isinstance(item, Collective)
    ]
    assert sizes == [32, 32, 4, 4]


def test_what_every_micro_batch_moves_is_not_left_to_the_end() -> None:
    """From stage 2 on gradients are scattered in every backward pass; stage 3 gathers weights in every pass too."""
    kinds = [
        [item.kind for item in tail(zero, Parallelism(dp=16.0, ep=8.0)) if isinstance(item, Collective)]
        for zero in (2, 3)
    ]
    assert kinds == [["all_gather"] * 2, []]


def test_ranks_that_broadcast_in_turn_send_the_same_bytes_in_as_many_messages_as_they_are() -> None:
    layout = Parallelism(dp=16.0, ep=8.0)
    gathers, broadcasts = (
        [
            item
            for item in tail(1, layout, weight_exchange=way)
            if "weight" in item.name and isinstance(item, Collective)
        ]
        for way in ("gather", "broadcast")
    )
    assert [item.kind for item in broadcasts] == ["broadcast"] * 2
    assert [item.calls for item in broadcasts] == [item.group.size for item in gathers] == [16.0, 2.0]
    assert [item.calls * item.size for item in broadcasts] == pytest.approx([item.size for item in gathers])


def test_a_step_waits_for_broadcasts_where_passes_hide_gathers() -> None:
    """Gathers that overlap are none of the tail; the optimizer waits for broadcasts before the next pass."""
    layout, overlapped = Parallelism(dp=16.0, ep=8.0), Sharding(overlap=True)
    kinds = [
        [item.kind for item in tail(1, layout, weight_exchange=way, sharding=overlapped) if "weight" in item.name]
        for way in ("gather", "broadcast")
    ]
    assert kinds == [[], ["broadcast"] * 2]
    base = scenario(replace(STEP, zero=1, sharding=overlapped), MOE_MODEL, layout)
    base = replace(base, framework=replace(base.framework, training=TrainingProgram(weight_exchange="broadcast")))
    assert isinstance(base.plan, Training)
    comm = step_model(base, base.plan, Calibration()).overlapped_comm
    assert comm is not None
    assert not any(layer["gather"] for layer in comm.layers.values())
    assert any(layer["reduce"] for layer in comm.layers.values())


def newton_schulz(dp: float, muon: float | None) -> tuple[float, float]:
    """Return the FLOP that make updates orthogonal, and the bytes that the update moves, of three dense layers."""
    plan = replace(STEP, zero=1, muon=muon)
    seen = training_context(scenario(plan, DENSE_MODEL, Parallelism(dp=dp)), plan)
    serial = step_operators(seen, plan, [(3, model_work(seen).layers[-1])], 1).serial
    products = [item for item in serial if isinstance(item, Gemm)]
    update = sum(float(item.traffic) for item in serial if isinstance(item, Elementwise) and "optimizer" in item.name)
    return sum(float(item.flop) for item in products), update


def test_muon_makes_updates_of_matrices_orthogonal_and_keeps_one_moment_of_them() -> None:
    """4*s^2*l + 2*s^3 FLOP an iteration of each matrix, which ranks share as wholes; no iteration, no product."""
    base = scenario(STEP, DENSE_MODEL, Parallelism(dp=1.0))
    work = model_work(training_context(base, STEP))
    sides = [sorted((item.m, item.n)) for item in work.layers[-1].weight_gradient if isinstance(item, Gemm)]
    flop = [4 * short**2 * long + 2 * short**3 for short, long in sides]
    whole, update = newton_schulz(1.0, 5.0)
    assert whole == pytest.approx(5 * 3 * sum(flop))
    assert newton_schulz(2.0, 5.0)[0] == pytest.approx(whole / 2)
    assert newton_schulz(4096.0, 5.0)[0] == pytest.approx(5 * max(flop))  # at least the largest matrix
    assert newton_schulz(1.0, 0.0) == (0.0, update)
    matrices = sum(short * long for short, long in sides)
    assert newton_schulz(1.0, None)[1] - update == pytest.approx(8 * 3 * matrices)  # a moment less in, and out
    plans = [replace(STEP, muon=each) for each in (None, 5.0)]
    adamw, muon = (step_model(replace(base, plan=plan), plan, Calibration()).ledger.optimizer for plan in plans)
    assert adamw - muon == pytest.approx(4 * sum(base.architecture.kinds.values()) * matrices)


@pytest.mark.parametrize("streams", [None, 2.0])
def test_muon_updates_each_expert_of_a_rank_once_however_they_are_computed(streams: float | None) -> None:
    plan = replace(STEP, zero=1, muon=5.0)
    of = scenario(plan, MOE_MODEL, Parallelism(dp=1.0))
    training = replace(of.framework.training, expert_streams=streams)
    seen = training_context(replace(of, framework=replace(of.framework, training=training)), plan)
    layer = next(work for work in model_work(seen).layers if any(part.expert for part in work.parameters))
    products = [item for item in step_operators(seen, plan, [(1, layer)], 1).serial if isinstance(item, Gemm)]
    experts = [item for item in products if item.name.startswith("expert")]
    trained = sum(part.local for part in layer.parameters if part.expert)
    assert sum(item.calls * item.m * item.k for item in experts[::3]) == pytest.approx(5 * trained)  # X X^T of each


def test_a_dense_model_has_no_expert_tail() -> None:
    plan = STEP
    seen = training_context(scenario(plan, DENSE_MODEL, Parallelism(dp=8.0)), plan)
    found = step_operators(seen, plan, [(1, model_work(seen).layers[-1])], 1).serial
    assert [item.name for item in found if "expert" in item.name] == []


def test_a_moved_family_moves_the_step() -> None:
    of = EXPERT
    assert isinstance(of.plan, Training)
    priced = step_model(of, of.plan, spreads(0.5, 1.0, 2.0))
    plain = float(step_times(priced, None).step)
    every = dict.fromkeys(FAMILIES, Perturbation(0.0, 1.0))
    assert float(step_times(priced, every).step) == pytest.approx(2 * plain, rel=1e-9)
    assert float(step_times(priced, {"gemm": Perturbation(0.0, 1.0)}).step) > plain


def test_pipeline_messages_are_hidden_only_where_nothing_waits_for_them() -> None:
    """A message between stages delays the fill and the drain: the bubble grows, and nothing else."""
    of = CASES["pipeline"]
    slow = replace(
        of,
        cluster=replace(of.cluster, node=replace(of.cluster.node, intra=replace(of.cluster.node.intra, bandwidth=1e8))),
    )
    before, after = point(of), point(slow)
    assert metric(after, "step_time") > metric(before, "step_time")
    gained = metric(after, "step_time") - metric(before, "step_time")
    assert gained == pytest.approx(metric(after, "bubble_time") - metric(before, "bubble_time"), rel=1e-9)


def test_exchanges_exist_only_between_ranks() -> None:
    alone = model_work(training_context(scenario(STEP, MOE_MODEL), STEP)).layers[-1]
    assert all(float(item.group.size) == 1 for item in alone.forward if isinstance(item, ExpertAllToAll))
    assert operators(scenario(STEP, MOE_MODEL, precision=BF16))[0] == 0


def _message(of: Scenario) -> Collective:
    assert isinstance(of.plan, Training)
    sent = step_model(of, of.plan, Calibration()).p2p.send.operator
    assert isinstance(sent, Collective)
    return sent


def test_a_pair_of_chunks_sends_both_messages_at_once() -> None:
    pair = scenario(DUALPIPE, DENSE_MODEL, Parallelism(pp=4.0))
    assert _message(pair).size == 2 * _message(CASES["pipeline"]).size
    assert _message(CASES["zb-v"]).size == _message(CASES["pipeline"]).size


@pytest.mark.parametrize("split", [False, True])
def test_tensor_parallel_ranks_send_a_part_each_and_gather_unless_sequences_are_split(split: bool) -> None:
    of = scenario(STEP, DENSE_MODEL, Parallelism(pp=4.0, tp=4.0, sequence_parallel=split))
    assert isinstance(of.plan, Training)
    step, whole = step_model(of, of.plan, Calibration()), _message(CASES["pipeline"])
    assert 4 * _message(of).size == whole.size
    sent = float(seconds_of(step.p2p.send, None))
    if split:
        assert step.p2p.gather is None
        assert float(step.p2p.seconds(None)) == sent
    else:
        assert step.p2p.gather is not None
        assert isinstance(step.p2p.gather.operator, Collective)
        assert step.p2p.gather.operator.size == whole.size
        assert float(step.p2p.seconds(None)) > sent


def test_weights_are_cast_once_a_step_for_products_that_read_them_narrower() -> None:
    """FP8 products of BF16 weights: every linear weight of the rank is read in two bytes, written twice in one."""
    wide = replace(FP8, weights="bf16")
    cases = ((wide, 2.0 + 2 * (1.0 + 4.0 / 128**2)), (replace(FP8, weights="fp8"), None), (BF16, None))
    for precision, element in cases:
        seen = replace(context(DENSE_MODEL), precision=precision)
        work = model_work(seen).layers[-1]
        casts = [each for each in step_operators(seen, STEP, [(3, work)], 1).serial if each.name == "weight cast"]
        if element is None:
            assert not casts
            continue
        (cast,) = casts
        assert isinstance(cast, Elementwise)
        linear = sum(float(item.local) for item in work.parameters if item.linear)
        assert cast.traffic == pytest.approx(3 * linear * element, rel=1e-12)


def test_an_optimizer_of_eight_bits_keeps_and_moves_a_byte_and_a_scale_for_256_of_each_moment() -> None:
    """Updates read and write 2 moments of 260/256 bytes in place of 4, beside FP32 gradients and masters."""
    layout = {
        "phase": "training",
        "cluster": "nodes/dgx-h100",
        "parallel": {"dp": 8},
        "global_batch": 8,
        "sequence": 512,
    }
    content = {
        "schema": "costmodel/workload@1", "model": "models/llama-3-8b",
        "scenarios": {name: {**layout, "optimizer": {"name": name, "zero": 1}} for name in ("adamw", "adamw8bit")},
    }  # fmt: skip
    loaded = costmodel.load(content)
    whole, narrow = (loaded.evaluate(name).at() for name in ("adamw", "adamw8bit"))
    parameters = float(whole["memory"]["optimizer"]) / 12
    assert float(narrow["memory"]["optimizer"]) == pytest.approx((4 + 2 * 260 / 256) * parameters)
    times = [next(row["time"] for row in one["breakdown"] if "optimizer" in row["name"]) for one in (whole, narrow)]
    assert times[1] / times[0] == pytest.approx((4 + 2 * 4 + 4 * 260 / 256 + 2) / (4 + 2 * 4 + 4 * 4 + 2), rel=0.01)


def test_a_graph_of_a_layer_is_one_start_a_pass() -> None:
    """Where the host's starts bound a step: three for each layer and the head, two for the embedding."""
    slow = scenario(STEP, DENSE_MODEL, Parallelism(dp=1.0))
    training = replace(slow.framework.training, graphs=True)
    framework = replace(slow.framework, host=HostTimes(operator=10.0), training=training)
    held = replace(slow, framework=framework)
    starts = 3 * (DENSE_MODEL.depth + 1) + 2
    assert metric(point(held), "step_time") == pytest.approx(STEP.global_batch * 10.0 * starts, rel=0.02)


def test_no_graph_holds_routed_experts() -> None:
    of = scenario(STEP, MOE_MODEL, Parallelism(dp=1.0))
    slow = replace(of, framework=replace(of.framework, host=HostTimes(operator=10.0)))
    training = replace(of.framework.training, graphs=True)
    held = replace(slow, framework=replace(slow.framework, training=training))

    def starts(one: Scenario) -> dict[str, float]:
        assert isinstance(one.plan, Training)
        streams = step_streams(step_model(one, one.plan, Calibration()), None)
        return {name: float(times.forward.launches) for name, times in streams.layers.items()}

    plain, graphs = starts(slow), starts(held)
    experts = {
        work.name for work in model_work(training_context(of, STEP)).kinds if any(p.expert for p in work.parameters)
    }
    assert experts
    assert {name: graphs[name] for name in experts} == {name: plain[name] for name in experts}
    assert all(graphs[name] == 1.0 < plain[name] for name in plain.keys() - experts - {"embedding"})


def test_layers_at_the_ends_that_stay_in_16_bits_are_those_of_bf16() -> None:
    """Of 32 layers in NVFP4 none is as without the keys, all are BF16's, and of pieces times and memory lie between."""
    layout = {
        "phase": "training",
        "cluster": "nodes/hgx-b200",
        "parallel": {"dp": 8},
        "global_batch": 8,
        "sequence": 4096,
    }
    loaded = costmodel.load({
        "schema": "costmodel/workload@1", "model": "models/llama-3-8b",
        "scenarios": {"t": {**layout, "optimizer": {"zero": 1}, "precision": "nvfp4-train"}},
    })  # fmt: skip

    def stated(**formats: object) -> tuple[float, float]:
        found = loaded.changed({f"scenarios.t.precision.{name}": value for name, value in formats.items()})
        document = found.evaluate("t").at()
        return document["metrics"]["step_time"], document["memory"]["activations"]

    narrow, wide = stated(wide_first=0, wide_last=0), stated(compute="bf16")
    ends, half, whole = (stated(wide_first=first, wide_last=last) for first, last in ((2, 4), (16, 0), (16, 16)))
    assert narrow == stated()
    assert whole == pytest.approx(wide, rel=1e-4)  # and the start of a cast of no weights
    assert narrow < ends < half < wide
    assert ends[0] - narrow[0] == pytest.approx(6 / 16 * (half[0] - narrow[0]), rel=0.05)
    assert stated(wide_first=99) == pytest.approx(whole)
