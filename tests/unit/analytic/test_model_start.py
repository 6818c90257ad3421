"""The smallest workload of a model: a layout that can run where it is asked for, and the batch of a published run."""

from __future__ import annotations

import math
import re

import pytest

import costmodel
from costmodel.analytic.model_start import start_workload
from costmodel.schema.files import list_names, load_node, read_model
from costmodel.schema.published_tables import nearest_recipe, training_recipes

ALONE = [name for name in list_names("nodes") if load_node(name).nic is None]


@pytest.mark.parametrize("node", ALONE)
def test_a_node_without_a_nic_is_asked_for_no_more_devices_than_it_has(node):
    workload = costmodel.load("llama-2-7b", cluster=f"nodes/{node}")
    for name in workload.scenarios:
        assert workload.scenario(name).parallel.all_devices <= load_node(node).count
        assert workload.evaluate(name).fits


def test_a_model_that_does_not_fit_says_by_how_much_and_what_would():
    told = costmodel.load("qwen3-32b", cluster="nodes/rtx-4090-x1").notes[1]
    assert "61.7 GiB > 24.0 GiB of the device of nodes/rtx-4090-x1 (weights in bf16: 61.0 GiB)" in told
    assert "; w4a16 fits (" in told
    assert told.endswith("; in bf16 it takes 4 devices: --cluster nodes/rtx-4090-x8")
    asked = dict(change.split("=") for change in re.findall(r"--set (\S+=\S+?)(?:;| |$)", told))
    quantised = costmodel.load("qwen3-32b", asked, cluster="nodes/rtx-4090-x1")
    wider = costmodel.load("qwen3-32b", cluster="nodes/rtx-4090-x8")
    assert all(each.evaluate(name).fits for each in (quantised, wider) for name in each.scenarios)
    assert wider.scenario("decode").devices == 4
    assert "(more do not fit)" in quantised.notes[0]


def test_a_frozen_base_is_named_in_the_format_that_it_is_stored_in():
    adapters = {"scenarios.training.adapters": {"rank": 16, "base_precision": "nf4"}}
    told = costmodel.load("qwen3-30b-a3b", adapters, cluster="nodes/rtx-4090-x1", phases=["training"]).notes[1]
    assert "(weights in nf4: 17.3 GiB); in nf4 it takes 8 devices" in told


def test_the_mildest_quantisation_is_named():
    told = start_workload("qwen3-32b", ["nodes/rtx-5090-x1"], ["prefill"]).lines[1]
    assert "; nvfp4 fits (" in told  # 9 bits of two values, above the 8.3 of w4a16; eight bits do not fit 32 GB
    told = start_workload("qwen2.5-14b", ["nodes/rtx-4090-x1"], ["prefill"]).lines[1]
    assert re.search(r"; (fp8|w8a16|int8)\S* fits \(", told)


def test_what_is_set_is_part_of_what_has_to_fit():
    one = costmodel.load(
        "llama-3-70b", {"scenarios.decode.precision": "w4a16"}, cluster="nodes/dgx-h100", phases=["decode"]
    )
    assert one.scenario("decode").devices == 1
    wide = costmodel.load(
        "llama-3-8b", {"scenarios.decode.parallel.tp": 4}, cluster="nodes/dgx-h100", phases=["decode"]
    )
    assert wide.scenario("decode").plan.batch_per_device == 8.0
    assert "on 4 devices of nodes/dgx-h100 (tp 4, pp 1): decode of 32 requests" in wide.notes[0]


def test_all_phases_of_inference_fit_the_layout_that_they_share():
    workload = costmodel.load("gemma-2-9b", cluster="nodes/rtx-4090-x8")  # a prompt fits one device, 32 requests do not
    assert {workload.scenario(name).devices for name in workload.scenarios} == {2}


def test_hardware_that_is_set_counts():
    larger = costmodel.load("qwen3-32b", {"hardware.memory.hbm.capacity": "96 GiB"}, cluster="nodes/rtx-4090-x8")
    assert larger.scenario("decode").devices == 1
    node = costmodel.load("qwen3-32b", {"hardware.node.count": 4}, cluster="nodes/rtx-4090-x1")
    assert node.scenario("decode").devices == 4
    assert all(node.evaluate(name).fits for name in node.scenarios)


def test_a_device_without_bf16_runs_in_fp16():
    assert costmodel.load("llama-2-7b", cluster="nodes/v100-pcie-x1").scenario("decode").precision.weights == "fp16"


def test_a_rate_that_is_set_stands_in_for_the_requests_in_flight():
    changes, clusters = {"scenarios.serving.rate": "2 /s"}, ["nodes/h100-x1", "nodes/a100-x1"]
    alone = costmodel.load("qwen3-8b", changes, cluster=clusters[0], phases=["serving"])
    plan = alone.scenario("serving").plan
    assert (plan.rate, plan.concurrency) == (2.0, None)
    assert ": serving of requests, 1,024 tokens in" in alone.notes[0]
    assert "trace" not in alone.notes[0]
    one = costmodel.load("qwen3-8b", {"scenarios.serving@a100-x1.rate": "2 /s"}, cluster=clusters, phases=["serving"])
    plans = [one.scenario(name).plan for name in one.scenarios]
    assert [(each.rate, each.concurrency) for each in plans] == [(None, 32), (2.0, None)]


@pytest.mark.parametrize("as_whole", [True, False])
def test_a_trace_has_its_own_lengths_and_load(tmp_path, as_whole):
    trace = tmp_path / "trace.csv"
    trace.write_text("arrival_s,input_tokens,output_tokens\n0,100,50\n1,300,20\n")
    path, change = ("requests", f"{{trace: {trace}}}") if as_whole else ("requests.trace", str(trace))
    changes = {f"scenarios.serving.{path}": change}
    workload = costmodel.load("llama-3-8b", changes, cluster="nodes/dgx-h100", phases=["serving"])
    assert "serving of a trace's requests, under" in workload.notes[0]
    plan = workload.scenario("serving").plan
    assert (plan.input_tokens, plan.output_tokens, plan.rate, plan.concurrency) == (200.0, 35.0, 1.0, None)


def test_training_fills_whole_nodes_with_the_batch_of_a_published_run():
    workload = costmodel.load("llama-3-8b", cluster="nodes/dgx-h100", phases=["training", "decode"])
    training = workload.scenario("training")
    assert (training.devices, workload.scenario("decode").devices) == (8, 1)
    assert training.plan.global_batch * training.plan.sequence == 1024 * 4096
    assert "training on 1,024 sequences of 4,096 tokens a step (4.19 million tokens, as OLMo 2 7B" in workload.notes[1]
    changed = costmodel.load(
        "llama-3-8b", {"scenarios.training.global_batch": 64}, cluster="nodes/dgx-h100", phases=["training"]
    )
    assert "training on 64 sequences of 4,096 tokens a step (0.262 million tokens) under megatron" in changed.notes[0]
    lora = costmodel.load(
        "llama-3-8b", {"scenarios.training.adapters.rank": 16}, cluster="nodes/h100-x1", phases=["training"]
    )
    assert lora.scenario("training").plan.global_batch == 16
    assert (
        "16 sequences of 4,096 tokens a step (0.0655 million tokens, as Guanaco (QLoRA) was trained)" in lora.notes[0]
    )


def test_training_spreads_experts_inside_a_node_rather_than_slicing_them():
    workload = costmodel.load("gpt-oss-120b", cluster="hgx-b200", phases=["training"])
    parallel = workload.scenario("training").parallel
    assert (parallel.tp, parallel.pp, parallel.dp, parallel.ep) == (1, 2, 8, 8)
    assert "on 16 devices of hgx-b200 (tp 1, pp 2, dp 8, ep 8): training" in workload.notes[0]
    sliced = {f"scenarios.training.parallel.{degree}": value for degree, value in (("tp", 8), ("pp", 1), ("dp", 2))}
    sliced["scenarios.training.parallel.ep"] = 1
    whole = costmodel.load("gpt-oss-120b", sliced, cluster="hgx-b200", phases=["training"])
    steps = [float(each.evaluate("training").metrics["step_time"]) for each in (workload, whole)]
    assert steps[0] < steps[1]


@pytest.mark.parametrize(
    ("changes", "ep"), [({"dp": 4}, 4), ({"tp": 2, "dp": 2}, 4), ({"tp": 8, "dp": 2, "ep": 1}, 1), ({"ep": 2}, 2)]
)
def test_experts_are_spread_over_the_ranks_of_the_degrees_that_are_set(changes, ep):
    paths = {f"scenarios.training.parallel.{name}": value for name, value in changes.items()}
    workload = costmodel.load("gpt-oss-120b", paths, cluster="hgx-b200", phases=["training"])
    assert workload.scenario("training").parallel.ep == ep


def test_tensor_parallelism_of_training_is_no_wider_than_memory_asks_for():
    workload = costmodel.load("qwen3-32b", cluster="dgx-h100", phases=["training"])
    parallel = workload.scenario("training").parallel
    assert (parallel.tp, parallel.pp, parallel.dp) == (4, 2, 2)
    paths = ("scenarios.training.parallel.tp", "scenarios.training.parallel.pp")
    assert workload.evaluate("training", {paths: ([8, 4, 2], [1, 2, 4])}).fits.tolist() == [True, True, False]


def test_without_a_pipeline_the_micro_batch_is_the_largest_that_fits():
    for changes, largest in (({}, 64), ({"hardware.memory.hbm.capacity": "20 GiB"}, 32)):
        workload = costmodel.load("gpt2", changes, cluster="dgx-h100", phases=["training"])
        size = workload.scenario("training").plan.micro_batch
        assert size == largest
        assert f"micro-batches of {largest} under megatron" in workload.notes[0]
        twice = workload.evaluate("training", {"scenarios.training.micro_batch": [1, size, 2 * size]})
        assert twice.fits.tolist() == [True, True, False]
        times = twice.metrics["step_time"]
        assert times[1] < times[0]
    stated = costmodel.load(
        "gpt2", {"scenarios.training.micro_batch": 2}, cluster="dgx-h100", phases=["training"]
    ).scenario("training")  # fmt: skip
    assert stated.plan.micro_batch == 2


@pytest.mark.parametrize(
    ("model", "recipe"),
    [
        ("gpt2", "GPT-3 125M"), ("llama-2-13b", "Llama 2 13B"), ("llama-3-70b", "Llama 2 70B"),
        ("gpt3-175b", "GPT-3 175B"), ("llama-3.1-405b", "Llama 3.1 405B"), ("deepseek-v3", "DeepSeek-V3"),
        ("deepseek-v2-lite", "DeepSeek-V2-Lite"), ("kimi-k2", "Kimi K2"), ("mixtral-8x7b", "OLMo 2 32B"),
    ],
)  # fmt: skip
def test_a_model_is_trained_as_one_of_its_size(model, recipe):
    assert nearest_recipe(read_model(model).architecture).model == recipe


def test_every_recipe_has_a_source_and_the_tokens_of_a_step_that_it_states():
    for recipe in training_recipes():
        assert re.search(r"arXiv \d{4}\.\d{5}|^\w+/[\w-]+, ", recipe.cite), recipe.model
        assert recipe.active_parameters <= recipe.parameters
        stated = re.search(r"([\d.]+)M tokens a step|([\d.]+)M a step", recipe.cite)
        if stated:
            tokens = 1e6 * float(next(filter(None, stated.groups())))
            assert math.isclose(recipe.tokens, tokens, rel_tol=0.06), recipe.model


def test_a_learned_table_of_positions_bounds_the_sequence_and_keeps_the_tokens():
    training = costmodel.load("gpt2", cluster="nodes/h100-x1", phases=["training"]).scenario("training")
    assert (training.plan.sequence, training.plan.global_batch) == (1024, 512)


def test_a_step_of_reinforcement_learning_is_a_phase_of_a_model():
    told = start_workload("llama-3.1-8b", ["nodes/dgx-h100"], ["rl"])
    workload = costmodel.load(told.tree)
    rollout, train, step = (workload.scenario(name) for name in ("rollout", "train", "rl"))
    assert rollout.plan.replicas.count * rollout.parallel.all_devices == train.devices == step.devices == 8
    assert rollout.plan.requests.count == step.plan.prompts * step.plan.samples
    assert train.plan.sequence == rollout.plan.input_tokens + rollout.plan.requests.output.mean
    assert "8 engines of nodes/dgx-h100 (tp 1, pp 1)" in told.lines[0]
    assert "as GRPO of NeMo RL was trained" in told.lines[1]
    assert "on 1 engine of" in start_workload("mpt-125m", ["nodes/h100-x1"], ["rl"]).lines[0]


def test_a_step_of_reinforcement_learning_runs_on_each_cluster_and_takes_what_is_set():
    changes = {"scenarios.rollout.parallel.tp": 2, "scenarios.train.global_batch": 256}
    clusters = ["nodes/dgx-h100", "nodes/hgx-h200"]
    workload = costmodel.load("llama-3.1-8b", changes, cluster=clusters, phases=["rl"])
    assert {each.partition("@")[0] for each in workload.scenarios} == {"rl", "rollout", "train"}
    for name in ("dgx-h100", "hgx-h200"):
        step = workload.scenario(f"rl@{name}")
        assert step.plan.rollout.plan.replicas.count == 4
        assert step.plan.train.plan.global_batch == 256
        assert step.cluster.node.device.name == name.split("-")[1] + "-sxm"
