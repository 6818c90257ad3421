"""The phases of inference as files: what is read, what is refused, and which devices they take."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from small_world import edit, write

from costmodel.schema import SI, ResolvedWorkload
from costmodel.schema.files import validate
from costmodel.schema.resolve import resolve
from costmodel.workload.plans import Decode, Generate, Prefill, Serving, Speculative
from costmodel.workload.scenario import Disaggregated, Scenario

HEAD = "schema: costmodel/workload@1\nmodel: models/tiny\nscenarios:\n  one: "
GENERATE = "{phase: generate, cluster: nodes/box, batch: 8, input_tokens: 16, output_tokens: 4}"
SERVING = "{phase: serving, cluster: nodes/box, input_tokens: 16, output_tokens: 4, concurrency: 8}"
POOLS = """{phase: serving, cluster: nodes/box, input_tokens: 16, output_tokens: 4, prefix_hit_rate: 50 %,
    prefill: {parallel: {tp: 2}, tokens_per_device: 8},
    decode: {parallel: {tp: 4}, batch_per_device: 0.25, communication: {processors: 2}}}
"""


def workload(world: Path, scenario: str, **changes: object) -> ResolvedWorkload:
    write(world, "workloads/new.yaml", HEAD + scenario)
    overrides = {f"scenarios.one.{name.replace('__', '.')}": value for name, value in changes.items()}
    return resolve("new", overrides=overrides, search_path=[world])


def one(world: Path, scenario: str, **changes: object) -> Scenario:
    return workload(world, scenario, **changes).scenarios["one"]


def problems(world: Path, scenario: str) -> str:
    write(world, "workloads/new.yaml", HEAD + scenario)
    return "\n".join(str(problem) for problem in validate(world / "workloads/new.yaml", [world]))


def test_a_static_batch_is_read_with_its_defaults(world: Path) -> None:
    plan = one(world, GENERATE).plan
    assert isinstance(plan, Generate)
    assert (plan.batch, plan.input_tokens, plan.output_tokens) == (8.0, 16.0, 4.0)
    assert (plan.micro_batches, plan.pipeline_batches, plan.speculative) == (1, None, None)


def test_serving_is_read_with_its_options(world: Path) -> None:
    plan = one(world, SERVING, chunk_tokens="64", prefix_hit_rate="25 %").plan
    assert isinstance(plan, Serving)
    assert (plan.concurrency, plan.scheduler.token_budget, plan.prefix_hit_rate) == (8.0, 64.0, 0.25)


def test_two_pools_take_the_devices_of_both_and_each_its_layout(world: Path) -> None:
    scenario = one(world, POOLS)
    plan = scenario.plan
    assert isinstance(plan, Disaggregated)
    assert scenario.devices == 6
    assert scenario.cluster.devices == 8  # two boxes of four
    assert isinstance(plan.prefill.plan, Prefill)
    assert isinstance(plan.decode.plan, Decode)
    assert (plan.prefill.parallel.tp, plan.prefill.plan.prefix_hit_rate) == (2.0, 0.5)
    assert (plan.decode.communication.processors, plan.decode.plan.batch_per_device) == (2.0, 0.25)
    assert scenario.of_pool(plan.decode).parallel.tp == 4.0


def test_speculative_decoding_applies_to_both_pools(world: Path) -> None:
    edit(world, "workloads/models/tiny.yaml", "vocabulary: 512", "vocabulary: 512\nmtp: {depth: 1}")
    plan = one(world, POOLS, speculative="{depth: 2, acceptance: 80 %}").plan
    assert isinstance(plan, Disaggregated)
    for pool in (plan.prefill, plan.decode):
        assert isinstance(pool.plan.speculative, Speculative)
        assert (pool.plan.speculative.depth, pool.plan.speculative.acceptance) == (2.0, 0.8)


def test_every_number_of_a_pool_can_be_an_axis(world: Path) -> None:
    resolved = workload(world, POOLS, prefill__tokens_per_device=SI(np.array([8.0, 16.0])))
    plan = resolved.scenarios["one"].plan
    assert isinstance(plan, Disaggregated)
    assert isinstance(plan.prefill.plan, Prefill)
    np.testing.assert_array_equal(plan.prefill.plan.tokens_per_device, [8.0, 16.0])
    assert str(resolved.origin("scenarios.one.decode.batch_per_device")) == "workloads/new.yaml:6:51"


@pytest.mark.parametrize(
    ("scenario", "problem"),
    [
        (SERVING.replace("output_tokens: 4", "output_tokens: 1"), "output_tokens: 1 is too small; write at least 2"),
        (SERVING.replace(", concurrency: 8", ""), "needs `rate`, `concurrency`, or the pools `prefill` and `decode`"),
        (
            SERVING.replace("concurrency: 8", "prefill: {tokens_per_device: 16}"),
            "`prefill` and `decode` must be set together; set both pools",
        ),
        (POOLS.replace("prefix", "concurrency: 3, prefix"), "`prefill.tokens_per_device` follows from the load"),
        (POOLS.replace("prefix", "parallel: {tp: 2}, prefix"), "`parallel` is not allowed with pools"),
        (POOLS.replace("tp: 2", "tp: 3"), "one.prefill.parallel.tp: 3 does not divide the attention heads (8)"),
        (POOLS.replace("0.25", "0.1"), "one.decode.batch_per_device: 0.1 requests a device are 0.4"),
        (POOLS.replace("0.25", "0"), "one.decode.batch_per_device: 0 is too small; write a number above zero"),
        (POOLS.replace("0.25", "-2"), "batch_per_device: -2 is too small"),
        (POOLS.replace("0.25", ".nan"), "batch_per_device: nan is not a finite number"),
        (POOLS.replace("0.25", "true"), "batch_per_device: must be a number, not true or false"),
        (POOLS.replace("0.25", '"2"'), "batch_per_device: must be a number, not '2'; write a number such as"),
        (POOLS.replace("50 %", "150 %"), "prefix_hit_rate: '150 %' is too large; write at most 100 %"),
        (POOLS.replace("50 %", "-0.1"), "prefix_hit_rate: -0.1 is too small"),
        (GENERATE.replace("batch: 8", "batch_per_device: 8"), "batch: is missing"),
        (
            GENERATE.replace("batch: 8", "batch: 8, concurrency: 8"),
            "one.concurrency: not allowed in phase generate (belongs to serving)",
        ),
        (
            GENERATE.replace("batch: 8", "batch: 8, speculative: {depth: 1, acceptance: 0.9}"),
            "one.speculative: tiny has no MTP module that could draft tokens; give the model",
        ),
        (
            GENERATE.replace("batch: 8", "batch: 8, speculative: {depth: -1, acceptance: 0.9}"),
            "one.speculative.depth: -1 is too small",
        ),
        (GENERATE.replace("batch: 8", "batch: 6, micro_batches: 4"), "one.batch: 6 requests are not whole requests"),
    ],
)
def test_an_invalid_phase_is_reported_with_its_fix(world: Path, scenario: str, problem: str) -> None:
    texts = problems(world, scenario)
    assert problem in texts
    assert "workloads/new.yaml:" in texts
