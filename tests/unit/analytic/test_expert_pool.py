"""Devices that hold experts only: what is there, how micro-batches go to and fro, what the engines make of it."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
import pytest

import costmodel
from costmodel.analytic.evaluation import PassEvaluation, evaluate
from costmodel.analytic.segments import COMPUTE, ELSEWHERE
from costmodel.analytic.stream_times import stream_times
from costmodel.errors import InputError
from costmodel.schema.loader import parse_tree
from costmodel.serving.evaluation import RequestEvaluation
from costmodel.serving.prices import Tables, with_expert_pool
from costmodel.workload.operators import Collective, Gemm
from costmodel.workload.plans import Serving
from costmodel.workload.work import EXPERTS, FROM_EXPERTS, TO_EXPERTS

Kind = TypeVar("Kind")

WORKLOAD = """schema: costmodel/workload@1
model: models/mixtral-8x7b
scenarios:
  one: {{{plan}, cluster: {{node: nodes/dgx-h100, count: 8}}, framework: vllm, parallel: {{dp: 8}}}}
"""
PLANS = {
    "decode": "phase: decode, batch_per_device: 64, input_tokens: 1024, output_tokens: 256",
    "serving": "phase: serving, input_tokens: 512, output_tokens: 32, rate: 10 /s",
}
EXPERT_BYTES = 3 * 4096 * 14336 * 2.0 * 32  # of one expert of each of Mixtral's layers, in BF16


def loaded(phase: str = "decode", **changes: Any) -> costmodel.Workload:
    """Return Mixtral on eight devices with its layers. changes: of the scenario, `__` for a dot."""
    given = {f"scenarios.one.{key.replace('__', '.')}": value for key, value in changes.items()}
    return costmodel.load(parse_tree(WORKLOAD.format(plan=PLANS[phase]), "one.yaml"), set=given)


def decoding(**changes: Any) -> PassEvaluation:
    workload = loaded(**changes)
    scenario = workload.scenario("one")
    found = evaluate(scenario, workload.calibration(scenario))
    assert isinstance(found, PassEvaluation)
    return found


def operator_of(found: PassEvaluation, name: str, kind: type[Kind]) -> Kind:
    """Return an operator of a pass."""
    return next(
        each.operator for each in found.operators() if each.operator.name == name and isinstance(each.operator, kind)
    )


def busy(found: PassEvaluation) -> dict[int, float]:
    """Return how long each stream of a pass is busy."""
    model, seconds = found.model, dict.fromkeys((COMPUTE, *ELSEWHERE.values()), 0.0)
    for repeats, layer in zip(model.stages[0].repeats, model.segments, strict=True):
        for segment in layer:
            number = repeats * segment.runs(model.micro_batches)
            seconds[segment.placement.stream] += number * float(stream_times(segment.operators, None).total)
    return seconds


@pytest.fixture(scope="module")
def pooled() -> dict[int, PassEvaluation]:
    """Return decoding with eight devices for experts, by micro-batches."""
    return {split: decoding(parallel__expert_pool=8, micro_batches=split) for split in (1, 2, 4)}


@pytest.fixture(scope="module")
def colocated() -> PassEvaluation:
    return decoding(parallel__ep=8)


def test_as_many_devices_hold_what_expert_parallel_ranks_do(
    pooled: dict[int, PassEvaluation], colocated: PassEvaluation
) -> None:
    """Each of eight devices gets as many rows as one of eight ranks that have the same tokens."""
    rows = [float(operator_of(found, "expert up", Gemm).m) for found in (pooled[1], colocated)]
    assert rows[0] == pytest.approx(rows[1])
    assert pooled[1].ledger is not None
    assert colocated.ledger is not None
    assert float(colocated.ledger.weights) - float(pooled[1].ledger.weights) == pytest.approx(EXPERT_BYTES)


def test_one_micro_batch_hides_nothing_and_more_no_more_than_the_others(pooled: dict[int, PassEvaluation]) -> None:
    for split, found in pooled.items():
        seconds, step = list(busy(found).values()), float(np.asarray(found.times().latency))
        assert min(seconds) > 0
        assert max(seconds) < step < sum(seconds) + 1e-12
        assert (step == pytest.approx(sum(seconds))) == (split == 1)
        entries = found.breakdown()
        assert sum(entry.time for entry in entries) == pytest.approx(step)


def test_more_devices_for_experts_shorten_their_side_and_cost_more(pooled: dict[int, PassEvaluation]) -> None:
    few = decoding(parallel__expert_pool=4, micro_batches=2)
    up, fewer_up = (operator_of(found, "expert up", Gemm) for found in (pooled[2], few))
    mean, fewer_mean = (float(each.m * each.groups / each.expert_load) for each in (up, fewer_up))
    assert fewer_mean == pytest.approx(2.0 * mean) == 2 * 32 * 2  # 32 tokens of eight devices, two experts each
    received = float(fewer_up.m * fewer_up.groups)  # by the most loaded one, more than a device sends
    for name in ("dispatch", "combine"):
        assert float(operator_of(few, name, Collective).size) == pytest.approx(received * 4096 * 2.0)
    experts = ELSEWHERE[EXPERTS]
    assert busy(pooled[2])[experts] < busy(few)[experts]
    assert busy(pooled[2])[COMPUTE] == pytest.approx(busy(few)[COMPUTE])
    rates = [found.metrics(None)["tokens_per_second_per_device"] for found in (few, pooled[2])]
    steps = [found.metrics(None)["tpot"] for found in (few, pooled[2])]
    for rate, step, devices in zip(rates, steps, (12, 16), strict=True):
        assert float(rate or 0) == pytest.approx(64 * 8 / float(step or 1) / devices)


def test_the_event_engine_has_the_same_steps() -> None:
    workload = loaded(parallel__expert_pool=8, micro_batches=2)
    closed, simulated = (workload.evaluate("one", engine=engine).metrics["tpot"] for engine in ("analytic", "event"))
    assert float(np.asarray(simulated)) == pytest.approx(float(np.asarray(closed)), rel=1e-9)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"parallel__ep": 8, "parallel__expert_pool": 8}, "beside an expert pool"),
        ({"parallel__expert_pool": 3}, "8 experts do not divide over 3 devices"),
        ({"parallel__expert_pool": 64}, "the cluster has 64"),
    ],
)
def test_a_pool_that_cannot_be_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        loaded(**changes)


def test_pools_of_prompts_and_of_decoding_have_none_of_their_own() -> None:
    with pytest.raises(InputError, match="hold their experts themselves"):
        costmodel.load("deepseek_v3_serving", set={"scenarios.online.decode.parallel": {"dp": 144, "expert_pool": 36}})


def test_a_pool_too_small_for_its_experts_does_not_fit() -> None:
    (result,) = loaded(parallel__expert_pool=1).simulate()["scenarios"].values()
    assert not result["memory"]["fits"]
    assert result["memory"]["weights"] == pytest.approx(8 * EXPERT_BYTES)


@pytest.mark.parametrize("batches", [1, 2, 3, 5])
def test_equal_layers_take_as_long_as_their_runs_one_by_one(batches: int) -> None:
    """Runs start in order on each of four stations, in as many rounds as there are layers."""
    draw, layers = np.random.default_rng(batches), 6
    for seconds in draw.lognormal(0.0, 1.0, (20, 4)):
        free, ready = [0.0] * 4, [0.0] * batches
        for _ in range(layers):
            for station, each in enumerate(seconds):
                for batch in range(batches):
                    ready[batch] = free[station] = max(free[station], ready[batch]) + each
        own, there, experts, back = seconds * batches * layers
        none = np.zeros((1, 1))
        tables = Tables(
            axes=np.ones(10), ends=np.arange(11), by_rows=np.ones(1), by_sequences=np.zeros(1), decode=none,
            prompt=np.zeros((1, 1, 1)), mixed=np.zeros((1,) * 5), fused=False,
            pool=np.array([[experts], [there], [back]]), batches=batches,
            pooled=batches * layers,
        )  # fmt: skip
        assert with_expert_pool(tables, own, 1.0) == pytest.approx(max(ready))


def test_requests_are_served_from_tables_of_both_sides() -> None:
    """A request alone takes what the closed form says; tables of whole steps are as near as those without a pool."""
    layout = {"parallel__expert_pool": 8, "micro_batches": 1, "scheduler__max_num_seqs": 16}
    workload = loaded("serving", requests={"count": 8, "arrivals": "even", "rate": "0.5 /s"}, **layout)
    scenario = workload.scenario("one")
    assert isinstance(scenario.plan, Serving)
    found = RequestEvaluation(scenario, scenario.plan, workload.calibration(scenario))
    assert found.simulation.times.tables.pooled == 32
    assert set(ELSEWHERE) == {TO_EXPERTS, EXPERTS, FROM_EXPERTS}
    details = found.details()["requests"]
    assert isinstance(details, dict)
    assert details["step_time_error"]["decode_largest"] < 0.03
    assert details["requests"] == 8
    # Eight requests alone are fewer tokens than a step has room for; a thousand at once fill it.
    slow = loaded("serving", rate="0.01 /s", **layout)
    closed = float(np.asarray(slow.evaluate("one").metrics["tpot"]))
    assert float(found.times()["tpot"] or 0.0) == pytest.approx(closed, rel=0.01)
