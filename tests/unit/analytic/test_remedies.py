"""What would make a training step fit: only what does, what it costs, and what the framework calls it."""

from __future__ import annotations

from pathlib import Path

import pytest
from builders import BF16, FRAMEWORK, HOSTED, STEP, scenario

import costmodel
from costmodel.analytic.evaluation import ledger_of
from costmodel.analytic.grid import evaluate_point
from costmodel.analytic.remedies import priced, remedies
from costmodel.cost.calibration import Calibration
from costmodel.records import replace
from costmodel.workload.framework_parts import TrainingProgram
from costmodel.workload.scenario import Parallelism, Scenario

NAMED = replace(FRAMEWORK, training=TrainingProgram(options={"gradients": "--narrow"}))
RUN = scenario(replace(STEP, zero=0), parallel=Parallelism(dp=8.0, tp=2.0), framework=NAMED)


def with_memory(one: Scenario, share: float) -> Scenario:
    """Return a scenario whose device holds a share of what it needs."""
    ledger = ledger_of(one)
    assert ledger is not None
    device = one.cluster.device
    memory = (*device.memory[:-1], replace(device.memory[-1], capacity=share * float(ledger.total)))
    node = replace(one.cluster.node, device=replace(device, memory=memory))
    return replace(one, cluster=replace(one.cluster, node=node))


def test_only_changes_that_fit_are_named_with_option_memory_and_price() -> None:
    short = with_memory(RUN, 0.98)
    reason = evaluate_point(short, Calibration()).reason or ""
    assert "does not fit in memory" in reason
    found = priced(short, ledger_of, lambda _: 1.0)
    assert found
    capacity = short.cluster.device.device_memory.capacity
    assert all(float(one.memory) <= float(capacity) for one in found)
    for one in found:
        assert all(setting in reason for setting in one.remedy.settings)
        assert f": {float(one.memory) / 2**30:.1f} GiB, step " in reason
    assert f"({NAMED.name}: --narrow)" in reason


@pytest.mark.parametrize("degrees", [{"dp": 8.0}, {"dp": 8.0, "tp": 2.0}, {"tp": 2.0}, {"dp": 1.0}])
@pytest.mark.parametrize("gradients", ["fp32", "bf16"])
def test_no_two_remedies_are_the_same_settings(degrees: dict[str, float], gradients: str) -> None:
    own = replace(RUN, parallel=Parallelism(**degrees), precision=replace(BF16, gradients=gradients))
    settings = [each.settings for each in remedies(own, own.plan)]
    assert len(set(settings)) == len(settings)


def test_nothing_is_named_where_nothing_helps() -> None:
    reason = evaluate_point(with_memory(RUN, 0.001), Calibration()).reason or ""
    assert "Fits with" not in reason


@pytest.mark.parametrize("gradients", ["fp32", "bf16"])
def test_gradients_are_narrowed_once(gradients: str) -> None:
    short = with_memory(replace(RUN, precision=replace(BF16, gradients=gradients)), 0.9)
    keys = {one.remedy.key for one in priced(short, ledger_of, lambda _: 1.0)}
    assert gradients == "fp32" or "gradients" not in keys


def test_weights_over_all_ranks_and_activations_on_the_host_are_remedies() -> None:
    long = replace(RUN, plan=replace(STEP, zero=3, sequence=65536.0), cluster=HOSTED)
    full = replace(HOSTED, node=replace(HOSTED.node, host=replace(HOSTED.node.host, memory=1e9)))
    found = [
        {one.remedy.settings for one in priced(with_memory(run, 0.8), ledger_of, lambda _: 1.0)}
        for run in (RUN, long, replace(long, cluster=full))
    ]
    offloaded = ("offload.activations: 0.5",)
    assert ("optimizer.zero: 3",) in found[0]
    assert offloaded in found[1]
    assert offloaded not in found[2]


EXPERTS = """
schema: costmodel/workload@1
model: models/qwen3-30b-a3b
scenarios:
  step:
    {phase: training, cluster: nodes/dgx-h100, framework: megatron, parallel: {dp: 8}, global_batch: 8, sequence: 4096}
"""


def test_experts_that_every_rank_holds_are_spread_over_the_node(tmp_path: Path) -> None:
    (tmp_path / "experts.yaml").write_text(EXPERTS, encoding="utf-8")
    reason = costmodel.load(tmp_path / "experts.yaml").points()["step"].reason or ""
    assert "`parallel.ep: 8`, `recompute: full` together: " in reason
    settings = {"precision.gradients": "bf16", "optimizer.zero": "1", "parallel.ep": "8", "recompute": "full"}
    changed = {f"scenarios.step.{key}": value for key, value in settings.items() if f"`{key}: {value}`" in reason}
    assert len(changed) >= 3
    assert costmodel.load(tmp_path / "experts.yaml", set=changed).points()["step"].fits
