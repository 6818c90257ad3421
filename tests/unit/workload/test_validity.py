"""Layouts that cannot exist: an error that names the field at a point, a mask on a grid."""

from __future__ import annotations

import numpy as np
import pytest
from builders import (
    CLUSTER,
    DECODE,
    DENSE_MODEL,
    DEVICE,
    DRAFTS,
    FP8,
    GENERATE,
    GQA,
    MOE,
    MOE_MODEL,
    ONE_NODE,
    PREFILL,
    SERVING,
    STEP,
    pools,
    scenario,
    with_device,
)

from costmodel.analytic.grid import evaluate_point
from costmodel.cost.calibration import Calibration
from costmodel.errors import InputError
from costmodel.records import replace
from costmodel.workload.framework_parts import Unsupported
from costmodel.workload.scenario import Communication, Offload, Parallelism, Plan, Scenario
from costmodel.workload.validity import feasible_layout, rules

DUALPIPE = replace(STEP, schedule="dualpipe")
INTERLEAVED = replace(STEP, schedule="interleaved")


def broken(of: Scenario) -> set[str]:
    return {rule.field for rule in rules(of) if not rule.holds}


@pytest.mark.parametrize(
    ("plan", "parallel", "field"),
    [
        (STEP, Parallelism(tp=3.0), "parallel.tp"),
        (STEP, Parallelism(dp=3.0, ep=3.0), "parallel.ep"),
        (STEP, Parallelism(dp=4.0, ep=8.0), "parallel.ep"),
        (STEP, Parallelism(dp=1024.0), "parallel"),
        (STEP, Parallelism(dp=5.0), "global_batch"),
        (STEP, Parallelism(cp=3.0), "parallel.cp"),
        (replace(STEP, stages=(4, 4)), Parallelism(pp=4.0), "stages"),
        (replace(STEP, stages=(4, 3)), Parallelism(pp=2.0), "stages"),
        (DUALPIPE, Parallelism(pp=3.0), "parallel.pp"),
        (replace(DUALPIPE, global_batch=6.0), Parallelism(pp=4.0), "global_batch"),
        (replace(DUALPIPE, global_batch=9.0), Parallelism(pp=4.0), "global_batch"),
        (STEP, Parallelism(pp=2.0, virtual=2.0), "parallel.virtual"),
        (replace(STEP, schedule="gpipe"), Parallelism(pp=2.0, virtual=2.0), "parallel.virtual"),
        (replace(STEP, schedule="zb-h1"), Parallelism(pp=2.0, virtual=2.0), "parallel.virtual"),
        (replace(STEP, schedule="zb-v"), Parallelism(pp=2.0), "parallel.virtual"),
        (replace(STEP, schedule="zb-v"), Parallelism(pp=2.0, virtual=3.0), "parallel.virtual"),
        (INTERLEAVED, Parallelism(pp=2.0), "parallel.virtual"),
        (replace(INTERLEAVED, global_batch=62.0), Parallelism(pp=4.0, virtual=2.0), "global_batch"),
        (replace(STEP, schedule="dualpipe-v", global_batch=3.0), Parallelism(pp=2.0, virtual=2.0), "global_batch"),
        (STEP, Parallelism(pp=16.0), "parallel.pp"),
        (INTERLEAVED, Parallelism(pp=4.0, virtual=4.0), "parallel.pp"),
        (replace(DECODE, batch_per_device=33.0), Parallelism(), "micro_batches"),
        (replace(PREFILL, tokens_per_device=5120.0), Parallelism(), "tokens_per_device"),
        (replace(PREFILL, tokens_per_device=128.0, micro_batches=1), Parallelism(tp=4.0), "tokens_per_device"),
        (replace(DECODE, batch_per_device=0.1, micro_batches=1), Parallelism(tp=8.0), "batch_per_device"),
        (replace(DECODE, batch_per_device=0.125), Parallelism(tp=8.0), "micro_batches"),
        (DECODE, Parallelism(virtual=2.0), "parallel.virtual"),
        (PREFILL, Parallelism(pp=16.0), "parallel.pp"),
        (replace(GENERATE, batch=12.0), Parallelism(dp=8.0), "batch"),
        (replace(GENERATE, batch=6.0, pipeline_batches=4.0), Parallelism(), "batch"),
        (replace(GENERATE, input_tokens=1000.0), Parallelism(cp=3.0), "parallel.cp"),
        (replace(SERVING, concurrency=6.0, micro_batches=2), Parallelism(pp=2.0), "concurrency"),
        (pools(Parallelism(tp=3.0)), Parallelism(), "prefill.parallel.tp"),
    ],
)
def test_a_degree_that_does_not_divide_is_named(plan: Plan, parallel: Parallelism, field: str) -> None:
    bad = scenario(plan, MOE_MODEL, parallel)
    assert field in broken(bad)
    assert not feasible_layout(bad)
    with pytest.raises(InputError, match=rf"scenarios\.test\.{field}"):
        evaluate_point(bad, Calibration())


def test_blocks_with_one_scale_are_not_cut_where_the_framework_says_so() -> None:
    for tp, told in {2.0: set(), 8.0: {"parallel.tp"}}.items():  # 512 / 2 = 2 * 128; 512 / 8 = 64
        chosen = replace(scenario(DECODE, MOE_MODEL, Parallelism(tp=tp)), precision=FP8)
        assert broken(chosen) == set()
        assert broken(replace(chosen, framework=replace(chosen.framework, whole_blocks=True))) == told
    whole = replace(chosen, parallel=Parallelism(dp=8.0, ep=8.0))
    assert broken(replace(whole, framework=replace(whole.framework, whole_blocks=True))) == set()


def test_a_framework_is_refused_on_an_architecture_that_it_does_not_run_on() -> None:
    chosen = scenario(DECODE, MOE_MODEL, Parallelism())
    architecture = chosen.cluster.device.architecture
    for beginning, told in {architecture: {"framework"}, architecture[:2]: {"framework"}, "cdna": set()}.items():
        lacking = Unsupported(architectures=(beginning,))
        assert broken(replace(chosen, framework=replace(chosen.framework, unsupported=lacking))) == told


def test_deepep_is_refused_where_an_engine_that_gathers_has_no_ranks_of_experts() -> None:
    chosen = scenario(DECODE, MOE_MODEL, Parallelism(dp=4.0))
    gathers = replace(chosen, framework=replace(chosen.framework, expert_exchange="gather"))
    assert gathers.communication.exchange == "all_to_all"
    assert broken(gathers) == {"communication"}
    assert broken(replace(gathers, parallel=Parallelism(dp=4.0, ep=4.0))) == set()
    assert broken(chosen) == set()  # a framework that exchanges by default runs so at any degree


def test_formats_that_a_framework_lacks_are_refused_wherever_they_stand() -> None:
    chosen = scenario(DECODE, MOE_MODEL, Parallelism())
    lacking = replace(chosen, framework=replace(chosen.framework, unsupported=Unsupported(formats=("fp8",))))
    plain = replace(chosen.precision, linear="bf16", weights="bf16", kv_cache="bf16", parts={})
    assert broken(replace(lacking, precision=plain)) == set()
    for name in ("linear", "weights", "kv_cache"):
        assert broken(replace(lacking, precision=replace(plain, **{name: "fp8"}))) == {"precision"}
        assert "precision" not in broken(replace(chosen, precision=replace(plain, **{name: "fp8"})))


def test_a_sound_layout_breaks_nothing() -> None:
    for plan in (STEP, DUALPIPE, PREFILL, DECODE, GENERATE, SERVING, replace(SERVING, speculative=DRAFTS)):
        layout = Parallelism(tp=2.0, dp=4.0, ep=8.0, pp=4.0)
        assert broken(scenario(plan, MOE_MODEL, layout)) == set()


@pytest.mark.parametrize(
    ("schedule", "virtual"), [("interleaved", 2.0), ("zb-h1", 1.0), ("zb-v", 2.0), ("dualpipe-v", 2.0), ("gpipe", 1.0)]
)
def test_every_schedule_has_a_sound_layout(schedule: str, virtual: float) -> None:
    layout = Parallelism(dp=4.0, pp=4.0, virtual=virtual)
    assert broken(scenario(replace(STEP, schedule=schedule), MOE_MODEL, layout)) == set()


def test_a_batch_that_does_not_divide_is_told_once() -> None:
    """A fraction of a micro-batch is no fault of the schedule's."""
    for plan, virtual in ((INTERLEAVED, 2.0), (DUALPIPE, 1.0), (replace(STEP, schedule="dualpipe-v"), 2.0)):
        bad = scenario(replace(plan, global_batch=65.0), MOE_MODEL, Parallelism(pp=2.0, dp=2.0, virtual=virtual))
        assert [rule.field for rule in rules(bad) if not rule.holds] == ["global_batch"]


def test_embedding_and_head_may_fill_a_stage_each() -> None:
    for pp, virtual in ((3.0, 3.0), (5.0, 2.0)):
        layout = Parallelism(pp=pp, virtual=virtual)
        assert broken(scenario(replace(INTERLEAVED, global_batch=2 * pp), DENSE_MODEL, layout)) == set()


def test_stages_without_a_layer_have_to_be_stated() -> None:
    layout = Parallelism(pp=4.0, virtual=3.0)
    plan = replace(INTERLEAVED, global_batch=8.0)
    (rule,) = (rule for rule in rules(scenario(plan, DENSE_MODEL, layout)) if not rule.holds)
    assert "8 layers, embedding and head cannot fill 12 stages" in rule.message
    stated = replace(plan, stages=(0, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0))
    assert broken(scenario(stated, DENSE_MODEL, layout)) == set()


@pytest.mark.parametrize(
    "plan",
    [
        replace(PREFILL, tokens_per_device=128.0, micro_batches=1),
        replace(DECODE, batch_per_device=0.125, micro_batches=1),
        replace(GENERATE, batch=1.0),
        replace(SERVING, concurrency=1.0),
    ],
)
def test_one_sequence_on_a_tensor_parallel_group_is_sound(plan: Plan) -> None:
    assert broken(scenario(plan, DENSE_MODEL, Parallelism(tp=8.0))) == set()


def test_expert_groups_have_to_match_nodes() -> None:
    uneven = replace(MOE_MODEL.layers[1], ffn=replace(MOE, experts=96.0, groups=6.0))
    model = replace(MOE_MODEL, layers=(uneven,))
    bad = scenario(STEP, model, Parallelism(dp=32.0, ep=32.0))  # four nodes, six groups
    assert "expert groups do not match" in next(rule.message for rule in rules(bad) if not rule.holds)
    assert broken(scenario(STEP, model, Parallelism(dp=16.0, ep=16.0))) == set()  # two nodes of three groups


def test_all_problems_are_reported_at_once() -> None:
    bad = scenario(STEP, DENSE_MODEL, Parallelism(tp=3.0, dp=5.0))
    with pytest.raises(InputError) as caught:
        evaluate_point(bad, Calibration())
    assert {problem.field for problem in caught.value.problems} >= {
        "scenarios.test.parallel.tp",
        "scenarios.test.global_batch",
    }


def test_rules_are_masks_on_a_grid() -> None:
    degrees = np.array([1.0, 2.0, 3.0, 16.0, 32.0])
    grid = scenario(STEP, DENSE_MODEL, Parallelism(tp=degrees), cluster=ONE_NODE)
    np.testing.assert_array_equal(feasible_layout(grid), [True, True, False, False, False])


def test_experts_split_over_more_ranks_than_there_are_is_refused() -> None:
    assert broken(scenario(STEP, MOE_MODEL, Parallelism(dp=8.0, ep=8.0, expert_tensor=4.0)))


def test_key_value_heads_that_tensor_parallelism_cuts_through_are_refused() -> None:
    layer = replace(DENSE_MODEL.layers[0], mixer=replace(GQA, kv_heads=6.0, q_heads=24.0))
    assert broken(scenario(STEP, replace(DENSE_MODEL, layers=(layer,)), Parallelism(tp=4.0)))


def test_context_parallelism_has_to_divide_a_prompt() -> None:
    assert broken(scenario(replace(PREFILL, input_tokens=1024.0), DENSE_MODEL, Parallelism(cp=3.0)))


def test_communication_may_not_take_all_processors() -> None:
    small = with_device(CLUSTER, replace(DEVICE, processors=20.0))
    assert broken(scenario(STEP, DENSE_MODEL, cluster=small, communication=Communication(processors=20.0)))


def test_offloading_needs_a_host_whose_memory_is_stated() -> None:
    kept = replace(scenario(STEP, DENSE_MODEL), offload=Offload(optimizer=0.5))
    told = [rule.hint for rule in rules(kept) if not rule.holds]
    assert any("hardware.node.host.memory" in hint for hint in told)
    assert any("hardware.node.host.bandwidth" in hint for hint in told)
    assert broken(kept) == {"offload"}


@pytest.mark.parametrize("kept", [Offload(optimizer=1.0), Offload(activations=0.1)])
def test_only_training_keeps_optimizer_states_and_activations_on_the_host(kept: Offload) -> None:
    assert broken(replace(scenario(DECODE, DENSE_MODEL), offload=kept)) > {"offload"}


@pytest.mark.parametrize(("batch", "fits"), [(0.25, True), (0.125, False)])
def test_devices_of_a_group_share_whole_requests(batch: float, fits: bool) -> None:
    """A quarter of a request on each of two by two devices is one request, an eighth is half of one."""
    plan = replace(DECODE, batch_per_device=batch, micro_batches=1)
    found = broken(scenario(plan, DENSE_MODEL, Parallelism(tp=2.0, cp=2.0)))
    assert ("batch_per_device" in found) is not fits


@pytest.mark.parametrize(
    ("partial", "width", "found"), [(512.0, None, set()), (513.0, None, {"model"}), (96.0, 64.0, {"model"})]
)
def test_attention_projects_no_more_channels_than_a_layer_has(
    partial: float, width: float | None, found: set[str]
) -> None:
    (layer,) = replace(DENSE_MODEL, hidden=512.0).layers[:1]
    model = replace(
        DENSE_MODEL, hidden=512.0, layers=(replace(layer, width=width, mixer=replace(GQA, partial=partial)),)
    )
    assert broken(scenario(PREFILL, model, Parallelism())) == found


@pytest.mark.parametrize(("schedule", "virtual"), [("dualpipe", 1.0), ("dualpipe-v", 2.0)])
def test_twice_as_many_micro_batches_as_ranks_are_enough_for_both_ways(schedule: str, virtual: float) -> None:
    layout = Parallelism(pp=4.0, virtual=virtual)
    for micro_batches, fields in ((8.0, set()), (6.0, {"global_batch"})):
        plan = replace(STEP, schedule=schedule, global_batch=micro_batches * STEP.micro_batch)
        assert broken(scenario(plan, MOE_MODEL, layout)) == fields
