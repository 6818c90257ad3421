"""A step of reinforcement learning in a workload file: the scenarios that it names, changes of them, and mistakes."""

from __future__ import annotations

import numpy as np
import pytest

import costmodel
from costmodel.errors import InputError
from costmodel.schema.loader import parse_tree
from costmodel.schema.tree import Tree
from costmodel.workload.reinforcement import Reinforcement

TEXT = """
model: models/llama-3-8b
scenarios:
  engines:
    {phase: generate, cluster: nodes/dgx-h100, parallel: {dp: 8}, batch: 64, input_tokens: 128, output_tokens: 128}
  train:
    phase: training
    cluster: nodes/dgx-h100
    parallel: {dp: 8}
    global_batch: 64
    sequence: 256
    optimizer: {zero: 3}
  step: {phase: rl, rollout: engines, train: train, prompts: 16, samples: 4, offload: all}
"""


def text(**changes: str) -> Tree:
    """Return the workload with some keys of its step changed or added."""
    written = TEXT
    for key, value in changes.items():
        if f"{key}: " in written.splitlines()[-1]:
            head, _, tail = written.rpartition(f"{key}: ")
            _, sign, rest = tail.partition("," if "," in tail else "}")
            written = f"{head}{key}: {value}{sign}{rest}"
        else:
            written = f"{written.rstrip()[:-1]}, {key}: {value}}}\n"
    return parse_tree(written, "step.yaml")


def step_of(workload: costmodel.Workload, name: str = "step") -> Reinforcement:
    plan = workload.scenario(name).plan
    assert isinstance(plan, Reinforcement)
    return plan


def test_a_step_has_the_scenarios_that_it_names() -> None:
    workload = costmodel.load(text())
    plan = step_of(workload)
    assert (plan.rollout.name, plan.train.name) == ("engines", "train")
    assert plan.answers == 64
    assert plan.optimizer_steps == 1
    assert workload.scenario("step").devices == 8
    document = workload.resolved.document["scenarios"]["step"]
    assert (document["rollout"], document["train"], document["samples"]) == ("engines", "train", 4)
    assert document["log_probabilities"] == ["policy", "reference"]
    assert document["hardware"]["device"]["name"] == "h100-sxm"


def test_changes_of_the_parts_and_of_all_hardware_reach_the_step() -> None:
    changes = {
        "scenarios.train.micro_batch": "2",
        "scenarios.engines.output_tokens": "64",
        "scenarios.step.prompts": "32",
    }
    workload = costmodel.load(text(), set={**changes, "hardware.memory.hbm.bandwidth": "1 TB/s"}, scenarios=["step"])
    plan = step_of(workload)
    assert plan.training.micro_batch == 2
    assert plan.engine_plan.output_tokens == 64
    assert plan.answers == 128
    for part in (plan.rollout, plan.train, workload.scenario("step")):
        assert part.cluster.device.device_memory.bandwidth == 1e12


def test_a_sweep_has_axes_of_the_step_and_of_its_parts() -> None:
    workload = costmodel.load(text(), scenarios=["step"])
    axes = {"scenarios.step.prompts": np.array([16.0, 32.0]), "scenarios.train.micro_batch": np.array([1.0, 2.0, 4.0])}
    grid = workload.evaluate("step", vary=axes).metrics["step_time"]
    assert np.shape(grid) == (2, 3)
    changes = {"scenarios.step.prompts": "32", "scenarios.train.micro_batch": "4"}
    point = workload.changed(changes).evaluate("step").metrics["step_time"]
    assert np.asarray(grid)[1, 2] == pytest.approx(point)


def test_both_pools_of_a_step_are_on_one_cluster_large_enough_for_them() -> None:
    workload = costmodel.load(text(placement="split", offload="none"))
    cluster = workload.scenario("step").cluster
    assert workload.scenario("step").devices == 16
    assert cluster.devices == 16
    assert step_of(workload).train.cluster.devices == 8
    assert (
        costmodel.load(text(placement="split", offload="none", cluster="clusters/h100-superpod")).evaluate("step").fits
    )


def test_of_several_clusters_both_parts_run_on_the_same() -> None:
    workload = costmodel.load(text(), cluster=["nodes/dgx-h100", "nodes/dgx-a100"], scenarios=["step"])
    for name, device in (("step@dgx-h100", "h100-sxm"), ("step@dgx-a100", "a100-sxm-80gb")):
        plan = step_of(workload, name)
        assert plan.rollout.cluster.device.name == plan.train.cluster.device.name
        assert plan.train.cluster.device.name.startswith(device[:4])


@pytest.mark.parametrize(
    ("changes", "told", "hint"),
    [
        ({"rollout": "engine"}, "no scenario `engine`", "engines"),
        ({"rollout": "train"}, "`train` does not generate", "generate or serving"),
        ({"train": "engines"}, "`engines` does not train", "training"),
        ({"train": "step"}, "`step` does not train", "training"),
        ({"prompts": "15"}, "60 answers are no whole number of global batches", "scenarios.train.global_batch"),
        ({"staleness": "1"}, "newest weights", "split"),
        ({"sample": "2"}, "unknown key", "samples"),
        ({"samples": "0"}, "too small", "at least 1"),
        ({"prompts": "1e13"}, "too large", "at most"),
    ],
)
def test_mistakes_are_told_at_their_place(changes: dict[str, str], told: str, hint: str) -> None:
    with pytest.raises(InputError) as caught:
        costmodel.load(text(**changes))
    problem = next(each for each in caught.value.problems if told in each.message)
    assert hint in (problem.hint or "")
    assert problem.location is not None


def test_the_hardware_of_a_step_is_that_of_its_parts_and_frameworks_are_their_own() -> None:
    change = {"scenarios.step.hardware.memory.hbm.bandwidth": "1 TB/s"}
    workload = costmodel.load(text(), set=change)
    for part in (step_of(workload).rollout, step_of(workload).train, workload.scenario("step")):
        assert part.cluster.device.device_memory.bandwidth == 1e12
    assert workload.scenario("train").cluster.device.device_memory.bandwidth != 1e12  # by itself it is as written
    with pytest.raises(InputError, match="a step has no framework of its own"):
        costmodel.load(text(), set={"scenarios.step.framework.launch": "1 us"})


def test_adapters_come_from_a_file() -> None:
    adapters = {"scenarios.train.adapters": "{rank: 8, targets: [q, v], base_precision: nf4}"}
    plan = step_of(costmodel.load(text(), set=adapters))
    assert plan.training.adapters is not None
    assert plan.training.adapters.targets == ("q", "v")
    assert not plan.has_copy
    with pytest.raises(InputError, match="no linear layer 'gates'"):
        costmodel.load(text(), set={"scenarios.train.adapters": "{rank: 8, targets: [gates]}"})
    with pytest.raises(InputError, match="unknown"):
        costmodel.load(text(), set={"scenarios.train.adapters": "{rank: 8, alpha: 16}"})
