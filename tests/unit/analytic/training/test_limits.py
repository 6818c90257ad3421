"""Limits of a training step: one rank, messages that take no time, one expert, and what is left of each."""

from __future__ import annotations

import pytest
from builders import DENSE_MODEL, GQA, MOE_MODEL, STEP, scenario

from costmodel.analytic.grid import evaluate_point
from costmodel.analytic.training.step_model import training_context
from costmodel.cost.calibration import Calibration
from costmodel.records import replace
from costmodel.workload.architecture import Architecture, DenseFfn, Layer, MoeFfn
from costmodel.workload.layers import model_work
from costmodel.workload.operators import Gemm
from costmodel.workload.scenario import Parallelism, Scenario
from costmodel.workload.work import LayerWork

SPLITS = {
    "data": Parallelism(dp=8.0), "tensor": Parallelism(tp=4.0, dp=8.0, sequence_parallel=True),
    "context": Parallelism(cp=4.0, dp=8.0), "pipeline": Parallelism(pp=4.0, dp=8.0),
    "experts": Parallelism(dp=64.0, ep=64.0),
}  # fmt: skip


def step(of: Scenario, metric: str = "step_time") -> float:
    value = evaluate_point(of, Calibration()).metrics[metric]
    assert value is not None
    return value


def endless(of: Scenario) -> Scenario:
    """Return the scenario where a message takes no time at all, its start included."""
    node, network = of.cluster.node, of.cluster.network
    assert node.nic is not None
    assert network is not None
    node = replace(
        node, intra=replace(node.intra, bandwidth=1e30, latency=0.0), nic=replace(node.nic, bandwidth=1e30, latency=0.0)
    )
    silent = replace(network, latency_same_leaf=0.0, latency_cross_leaf=0.0)
    return replace(
        of, cluster=replace(of.cluster, node=node, network=silent), framework=replace(of.framework, launch=0.0)
    )


@pytest.mark.parametrize("model", [DENSE_MODEL, MOE_MODEL], ids=["dense", "experts"])
def test_one_rank_exchanges_nothing_whatever_the_network(model: Architecture) -> None:
    alone = scenario(STEP, model, Parallelism())
    assert step(alone, "exposed_communication_time") == 0.0
    assert step(alone) == step(replace(endless(alone), framework=alone.framework))


@pytest.mark.parametrize("name", SPLITS)
def test_where_messages_take_no_time_none_is_exposed(name: str) -> None:
    of = scenario(STEP, MOE_MODEL if name == "experts" else DENSE_MODEL, SPLITS[name])
    assert step(of, "exposed_communication_time") > 0.0
    assert step(endless(of), "exposed_communication_time") == pytest.approx(0.0, abs=1e-9)


def test_data_parallel_ranks_without_messages_take_their_share_of_a_lone_rank_s_step() -> None:
    """All but the optimizer, of which each rank has its eighth as well."""
    alone, split = (endless(scenario(STEP, DENSE_MODEL, one)) for one in (Parallelism(), SPLITS["data"]))
    assert step(split) == pytest.approx(step(alone) / 8, rel=1e-6)


def _products(work: LayerWork, part: str) -> dict[str, float]:
    """Return the FLOP of the products whose names begin so, by what follows."""
    return {
        item.name.removeprefix(part): float(item.flop)
        for item in work.operators
        if isinstance(item, Gemm) and item.name.startswith(part)
    }


def test_one_expert_that_every_token_visits_is_a_dense_ffn() -> None:
    """Products, parameters and what is kept of their activations; besides it a router of one column."""
    dense = Architecture("dense", 1024.0, 32_000.0, (Layer(2, GQA, DenseFfn(2816.0, gated=True)),))
    ffn = MoeFfn(experts=1.0, intermediate=2816.0, top_k=1, shared=0.0)
    routed = replace(dense, name="routed", layers=(replace(dense.layers[0], ffn=ffn),))
    one, other = (
        model_work(training_context(scenario(STEP, each, Parallelism()), STEP)).layers[0] for each in (routed, dense)
    )
    assert _products(one, "expert ") == pytest.approx(_products(other, "ffn "))
    weights, router = (
        {part.name.removeprefix(prefix): part.total for part in work.parameters if part.name.startswith(prefix)}
        for work, prefix in ((one, "expert "), (one, "router"))
    )
    assert weights == {
        part.name.removeprefix("ffn "): part.total
        for part in other.parameters
        if "ffn " in part.name and "norm" not in part.name
    }
    assert router == {"": 1024.0}
    kept = [
        sum(float(item.size) for item in work.saved if item.name.endswith("activation input")) for work in (one, other)
    ]
    assert kept[0] == pytest.approx(kept[1])
