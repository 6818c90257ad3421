"""Engines unlike each other behind one router: limits, sums, shares, what cannot be."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest

import costmodel
from costmodel.errors import InputError
from costmodel.serving.apart import serve_by_threads
from costmodel.serving.deployment import new_service
from costmodel.serving.first_run import run_as_python
from costmodel.serving.fleet import run_apart
from costmodel.serving.simulation import Simulation
from costmodel.workload.plans import Serving

BASE = {
    "concurrency": None, "rate": "6 /s", "output_tokens": 24, "input_tokens": 300,
    "scheduler": {"max_num_seqs": 16}, "requests": {"count": 80},
}  # fmt: skip
SLOW = {"count": 2, "scheduler": {"max_num_seqs": 2}}
"""Engines that run two requests at a time."""


def loaded(replicas: dict[str, Any], **changes: Any) -> costmodel.Workload:
    stated = {f"scenarios.serving.{key}": each for key, each in {**BASE, "replicas": replicas, **changes}.items()}
    priced = {"hardware.price.rental": "0.4 $/h", "hardware.power.idle": "20 W"}
    return costmodel.load("llama3_8b_rtx4090", set=stated | priced, scenarios=["serving"])


def answer(replicas: dict[str, Any], engine: str | None = "event", **changes: Any) -> Any:
    return loaded(replicas, **changes).simulate(engine=engine)["scenarios"]["serving"]


@pytest.mark.parametrize("routing", ["round_robin", "random", "least_loaded"])
def test_two_groups_of_equal_engines_are_one_group_of_all_of_them(routing: str) -> None:
    one = answer({"count": 3, "routing": routing})
    two = answer({"count": 2, "routing": routing, "others": [{"count": 1}]})
    for key in ("percentiles", "requests", "devices", "verdict"):
        assert two[key] == one[key]
    same = [name for name in one["metrics"] if name != "energy_per_token"]  # of whole requests on each kind's mean
    assert {name: two["metrics"][name] for name in same} == {name: one["metrics"][name] for name in same}
    assert two["metrics"]["energy_per_token"] == pytest.approx(one["metrics"]["energy_per_token"], rel=0.05)
    assert two["kinds"][0]["share"] == pytest.approx(2 / 3, abs=0.12)


def test_a_group_of_no_engines_is_none() -> None:
    usual = {"count": 2, "routing": "least_loaded"}
    assert answer(usual | {"others": [SLOW | {"count": 0}]}) == answer(usual)


def test_requests_money_and_power_of_all_kinds_add_up_and_the_slower_one_gets_fewer() -> None:
    replicas = {"count": 2, "routing": "least_loaded", "others": [SLOW, {"cluster": "nodes/dgx-h100"}]}
    found = answer(replicas, engine=None, rate="30 /s")
    means, kinds = found["metrics"], found["kinds"]
    usual, slow, fast = kinds
    assert any("takes no notice of `replicas.others`" in note for note in found["notes"])
    sums = {"share": 1.0, "requests_per_second": means["requests_per_second"], "goodput": means["goodput"]}
    sums |= {"cost_rate": means["cost_rate"], "power": means["energy_per_token"] * means["tokens_per_second"]}
    sums["devices"] = found["devices"]
    for name, whole in sums.items():
        assert sum(each[name] for each in kinds) == pytest.approx(whole, rel=1e-9), name
    for name in ("ttft", "tpot", "latency"):
        assert sum(each["share"] * each[name] for each in kinds) == pytest.approx(means[name], rel=1e-9)
    busy = sum(each["busy_share"] * each["count"] for each in kinds) / 5
    assert busy == pytest.approx(found["requests"]["busy_share"], rel=1e-9)
    assert usual["share"] > 1.2 * slow["share"]
    assert fast["tpot"] < 0.7 * usual["tpot"]
    assert sum(entry["time"] for entry in found["breakdown"]) == pytest.approx(means["latency"])


@pytest.mark.parametrize("routing", ["least_loaded", "round_robin"])
def test_what_all_can_serve_is_their_sum_unless_each_gets_its_turn(routing: str) -> None:
    alone = [
        answer({"count": 2}, **each)["metrics"]["highest_stable_rate"]
        for each in ({}, {"scheduler": SLOW["scheduler"]})
    ]
    both = answer({"count": 2, "routing": routing, "others": [SLOW]})["metrics"]["highest_stable_rate"]
    assert both == pytest.approx(sum(alone) if routing == "least_loaded" else 2 * min(alone), rel=0.01)


@pytest.mark.parametrize("routing", ["random", "least_loaded"])
def test_an_engine_of_three_times_the_weight_gets_three_times_the_requests(routing: str) -> None:
    """Of a burst, while none of them has ended."""
    replicas = {"routing": routing, "others": [{"count": 1, "weight": 3}]}
    found = answer(replicas, rate=None, requests={"count": 200, "arrivals": "burst"})
    assert found["kinds"][1]["share"] == pytest.approx(0.75, abs=0.07 if routing == "random" else 0.005)


def test_engines_that_share_nothing_run_beside_each_other_with_their_own_steps() -> None:
    workload = loaded({"count": 2, "others": [SLOW]}, rate="60 /s")
    scenario, services = workload.scenario("serving"), []
    assert isinstance(scenario.plan, Serving)
    simulation = Simulation(scenario, scenario.plan, workload.calibration(scenario))
    for workers in (1, 2):
        service = new_service(
            scenario, scenario.plan, simulation.requests, simulation.policy, simulation.times.tables,
            others=simulation._kinds(),
        )  # fmt: skip
        serve_by_threads(partial(run_as_python, run_apart), service, np.inf, workers)
        services.append(service.requests)
    assert services[0].tobytes() == services[1].tobytes()
    assert simulation.run().requests["finish"].tobytes() == services[0]["finish"].tobytes()


EIGHT = {"node": "nodes/rtx-4090-x8", "count": 1}


@pytest.mark.parametrize(
    ("others", "taken"),
    [([{"count": 5}], 9), ([{"parallel": {"tp": 4}}, SLOW], 10), ([{"cluster": EIGHT, "count": 5}], 9)],
)
def test_engines_of_one_cluster_take_no_more_devices_than_it_has(others: list[dict[str, Any]], taken: int) -> None:
    """A node instead of a cluster means as many as they take, and those of another cluster take none."""
    with pytest.raises(InputError, match=f"engines take {taken} devices of 8 that their cluster has"):
        loaded({"count": 4, "others": others}, cluster=EIGHT).scenario("serving")
    assert loaded({"count": 4, "others": [{"count": 4}]}, cluster=EIGHT).scenario("serving").devices == 8
    assert loaded({"count": 4, "others": [{"count": 5}]}, cluster="nodes/rtx-4090-x8").scenario("serving").devices == 9
    elsewhere = [{"count": 5, "cluster": "nodes/dgx-h100"}]
    assert loaded({"count": 4, "others": elsewhere}, cluster=EIGHT).scenario("serving").devices == 9


@pytest.mark.parametrize(
    ("replicas", "changes", "message"),
    [
        ({"others": [SLOW | {"weight": 2}]}, {}, "round_robin knows no `weight`"),
        ({"count": 2, "prefill": 1, "others": [SLOW]}, {}, "`prefill` is of equal engines"),
        ({"others": [SLOW]}, {"adapters": {"count": 2, "rank": 8}}, "`adapters` are not allowed"),
        ({"others": [{"memory": {"block": 64}}]}, {}, "blocks of several sizes"),
        ({"others": [{"parallel": {"tp": 3}}]}, {}, r"others\.0\.parallel\.tp: 3 does not divide"),
        ({"others": [{"slo": {}}]}, {}, r"others\.0\.slo: unknown key"),
    ],
)
def test_engines_that_cannot_share_requests_are_refused(
    replicas: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        answer(replicas, engine=None, **changes)


def test_the_closed_form_is_of_equal_engines() -> None:
    with pytest.raises(InputError, match="the closed form is of equal engines"):
        answer({"others": [SLOW]}, engine="analytic")
