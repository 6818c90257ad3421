"""Two pools of engines under a load: conservation, limits, and the files that state them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import costmodel
from costmodel.analytic.serving.solution import PromptPasses
from costmodel.api import Workload
from costmodel.errors import InputError
from costmodel.workload.engine_memory import adapter_load

RUN: dict[str, Any] = {
    "phase": "serving", "cluster": "nodes/dgx-h100", "framework": "vllm", "input_tokens": 2000, "output_tokens": 200,
    "prefill": {"parallel": {"tp": 2}, "instances": 2}, "decode": {"parallel": {"tp": 2}, "instances": 2},
}  # fmt: skip


@pytest.fixture
def load(tmp_path: Path) -> Any:
    def loaded(**changes: Any) -> Workload:
        run = {**RUN, **changes}
        content = {"schema": "costmodel/workload@1", "model": "models/llama-3-8b", "scenarios": {"run": run}}
        (tmp_path / "run.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
        return costmodel.load(tmp_path / "run.yaml")

    return loaded


def metrics(workload: Workload) -> dict[str, float]:
    return dict(workload.evaluate("run").metrics)  # type: ignore[arg-type]


@pytest.mark.parametrize("instances", [1, 3])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.7, 0.95])
def test_prompts_that_came_during_a_pass_share_the_next_one(instances: int, share: float) -> None:
    """As simulated: passes of 0.1 s and 0.03 s for each of up to eight prompts."""
    prompts = np.array([1.0, 2.0, 4.0, 8.0])
    pool = PromptPasses(float(instances), prompts, 0.1 + 0.03 * prompts, 0.1 + 0.03 * prompts, -1)
    assert pool.highest_rate == pytest.approx(instances * 8 / 0.34)
    rate, served, waited, free = share * float(pool.highest_rate), 0, 0.0, np.zeros(instances)
    arrival = np.cumsum(np.random.default_rng(0).exponential(1 / rate, 20_000))
    while served < len(arrival):
        idle = int(np.argmin(free))
        begin = max(free[idle], arrival[served])
        number = min(max(int(np.searchsorted(arrival, begin, side="right")) - served, 1), 8)
        free[idle] = begin + 0.1 + 0.03 * number
        waited += float(np.sum(free[idle] - arrival[served : served + number]))
        served += number
    own = pool.read(pool.latency, pool.together(rate))
    assert pool.wait(rate) + own == pytest.approx(waited / served, rel=0.15)


@pytest.mark.parametrize("in_flight", [2, 300])
def test_a_closed_loop_keeps_its_number_in_flight(load: Any, in_flight: int) -> None:
    found = metrics(load(concurrency=in_flight))
    assert found["requests_per_second"] * found["latency"] == pytest.approx(in_flight, rel=1e-6)
    decoding = found["requests_per_second"] * 199 * found["tpot"]
    assert found["concurrency"] == pytest.approx(decoding)


def test_a_result_names_the_devices_of_both_pools(load: Any) -> None:
    """Prompts first, as they come; the same cluster once."""
    for decode, named in (("nodes/hgx-h200", "dgx-h100 + hgx-h200"), ("nodes/dgx-h100", "dgx-h100")):
        run = load(concurrency=4, decode={**RUN["decode"], "cluster": decode}).simulate()["scenarios"]["run"]
        assert (run["cluster"], run["devices"]) == (named, 8)


def test_a_decoding_pool_without_room_says_how_many_wait(load: Any) -> None:
    found = load(concurrency=40, decode={**RUN["decode"], "scheduler": {"max_num_seqs": 8}}).simulate()["scenarios"][
        "run"
    ]
    assert found["verdict"] == "backlogged"
    assert found["notes"][0] == "only 16 of 40 requests fit into the decoding pool; the others wait"


def test_a_rate_and_the_closed_loop_that_brings_it_have_the_same_times(load: Any) -> None:
    loop = metrics(load(concurrency=64))
    found = metrics(load(rate=f"{loop['requests_per_second']} /s"))
    for name in ("ttft", "tpot", "concurrency", "energy_per_token"):
        assert found[name] == pytest.approx(loop[name], rel=0.02)


def test_times_rise_with_the_rate_up_to_what_the_slower_pool_serves(load: Any) -> None:
    workload = load(rate="1 /s")
    highest = metrics(workload)["highest_stable_rate"]
    rates = highest * np.array([0.1, 0.4, 0.7, 0.95, 1.1])
    grid = workload.evaluate("run", vary={"scenarios.run.rate": rates}).metrics
    for name in ("ttft", "tpot"):
        assert (np.diff(grid[name][:4]) > 0.0).all()
    assert np.isinf(grid["ttft"][-1])
    assert grid["requests_per_second"][-1] == pytest.approx(highest)
    alone = metrics(load(rate=f"{rates[2]} /s"))
    assert alone["ttft"] == pytest.approx(grid["ttft"][2])


def test_engines_of_the_slower_pool_alone_raise_the_highest_rate(load: Any) -> None:
    base, prompts, outputs = (
        metrics(load(rate="1 /s", **changes))["highest_stable_rate"]
        for changes in (
            {}, {"prefill": {**RUN["prefill"], "instances": 4}}, {"decode": {**RUN["decode"], "instances": 4}},
        )
    )  # fmt: skip
    assert prompts == pytest.approx(2 * base)  # prompts of 2,000 tokens for 200 of the output
    assert outputs == base


def test_one_request_decodes_as_on_one_engine(load: Any) -> None:
    pools = metrics(load(concurrency=1, replicas={"transfer": {"bandwidth": "1e9 GB/s"}}))
    one = {key: value for key, value in RUN.items() if key not in ("prefill", "decode")}
    content = {**one, "concurrency": 1, "parallel": {"tp": 2}}
    alone = load(**dict.fromkeys(("prefill", "decode")), **{k: v for k, v in content.items() if k not in RUN})
    engine = metrics(alone)
    assert pools["kv_transfer_time"] == pytest.approx(0.0, abs=1e-6)
    assert pools["tpot"] == pytest.approx(engine["tpot"], rel=1e-3)
    assert pools["ttft"] == pytest.approx(engine["ttft"], rel=1e-3)


def test_the_breakdown_sums_to_the_latency(load: Any) -> None:
    found = load(concurrency=300).simulate()["scenarios"]["run"]
    assert sum(line["time"] for line in found["breakdown"]) == pytest.approx(found["metrics"]["latency"])
    assert any("prefill pool bounds" in note for note in found["notes"])


def test_pools_have_devices_of_their_own(load: Any) -> None:
    same = metrics(load(rate="4 /s"))
    other = load(rate="4 /s", prefill={**RUN["prefill"], "cluster": "nodes/hgx-b200"})
    found = metrics(other)
    assert found["ttft"] < same["ttft"]
    assert found["tpot"] == pytest.approx(same["tpot"], rel=1e-9)
    price = other.evaluate("run").metrics["cost_rate"]
    assert price == pytest.approx(4 * other.scenario("run").plan.prefill.cluster.device.price.rental + 4 * (
        other.scenario("run").cluster.device.price.rental
    ))  # fmt: skip


def test_a_slow_link_bounds_the_rate(load: Any) -> None:
    workload = load(concurrency=400, replicas={"transfer": {"bandwidth": "1 GB/s"}})
    cache = 131072 * 2000  # bytes of a prompt
    assert metrics(workload)["highest_stable_rate"] == pytest.approx(2 * 1e9 / cache)
    assert any("links bound" in note for note in workload.simulate()["scenarios"]["run"]["notes"])


@pytest.mark.parametrize(
    ("changes", "field", "message"),
    [
        ({}, "scenarios.run", "`prefill` needs `tokens_per_device`"),
        ({"rate": "1 /s", "parallel": {"tp": 2}}, "scenarios.run", "`parallel` is not allowed with pools"),
        ({"rate": "1 /s", "replicas": {"count": 2}}, "scenarios.run", "`replicas.count` is of one pool"),
        (
            {"prefill": {"tokens_per_device": 1000, "cluster": "dgx-h100"}, "decode": {"batch_per_device": 1}},
            "scenarios.run", "`prefill.cluster` needs a load",
        ),
        ({"rate": "1 /s", "decode": {"batch_per_device": 4}}, "scenarios.run", "`decode.batch_per_device` follows"),
        ({"rate": "1 /s", "decode": {"parallel": {"tp": 3}}}, "scenarios.run.decode.parallel.tp", ""),
    ],
)  # fmt: skip
def test_keys_that_pools_cannot_have_are_named(load: Any, changes: dict[str, Any], field: str, message: str) -> None:
    with pytest.raises(InputError) as error:
        load(**changes)
    assert error.value.problems[0].field == field
    assert message in error.value.problems[0].message


def test_requests_one_by_one_take_what_the_closed_form_says_where_nobody_waits(load: Any) -> None:
    workload = load(rate="0.5 /s", requests={"count": 30, "arrivals": "even"}, output_tokens=50)
    played, closed = dict(workload.points(engine="event")["run"].metrics), metrics(workload)
    assert closed["ttft"] * 0.97 < played["ttft"] < closed["ttft"]  # which has some that came together
    assert played["tpot"] == pytest.approx(closed["tpot"], rel=0.01)
    assert played["kv_transfer_time"] == pytest.approx(closed["kv_transfer_time"], rel=0.01)


def test_two_engines_for_prompts_work_half_as_long_as_one(load: Any) -> None:
    few = {"rate": "0.5 /s", "requests": {"count": 30, "arrivals": "even"}, "output_tokens": 50}
    loads = []
    for instances in (1, 2):
        workload = load(**few, prefill={"parallel": {"tp": 2}, "instances": instances})
        loads.append(dict(workload.points(engine="event")["run"].metrics)["prefill_load"])
    assert loads[1] == pytest.approx(0.5 * loads[0], rel=0.05)


@pytest.mark.parametrize("instances", [1, 4])
def test_caches_wait_for_the_links_of_both_sides(load: Any, instances: int) -> None:
    """2,000 tokens of 131,072 bytes at 5 MB/s an engine: no more a second than the links of the fewer devices carry."""
    slow = {"transfer": {"bandwidth": "5 MB/s"}}
    pools = {
        "prefill": {"parallel": {"tp": 2}, "instances": 4},
        "decode": {"parallel": {"tp": 2}, "instances": instances},
    }
    workload = load(rate="100 /s", requests={"count": 40}, replicas=slow, output_tokens=2, **pools)
    played = dict(workload.points(engine="event")["run"].metrics)
    assert played["requests_per_second"] == pytest.approx(instances * 5e6 / (2000 * 131_072), rel=0.05)


CLASSES = [{"name": "long", "share": 0.25, "input": 6000}, {"name": "short", "share": 0.75, "input": 600}]


@pytest.mark.parametrize("engine", ["analytic", "event"])
def test_what_both_pools_take_for_their_tokens_adds_up_to_their_power_and_rent(load: Any, engine: str) -> None:
    priced = {
        "hardware.price.rental": "2 $/h",
        "hardware.price.electricity": "0.1 $/kWh",
        "hardware.power.idle": "80 W",
    }
    workload = load(rate="3 /s", prefix_hit_rate=0.5, requests={"count": 60}).changed(priced)
    found = workload.simulate(engine=engine)["scenarios"]["run"]
    means, bill = found["metrics"], dict(found["tokens"])
    idle = bill.pop("idle")
    watts = idle["power"] + sum(each["tokens_per_second"] * each["energy"] for each in bill.values())
    assert watts == pytest.approx(means["energy_per_token"] * means["tokens_per_second"], rel=1e-9)
    rents = (each["tokens_per_second"] * each["rent_per_million"] / 1e6 for each in bill.values())
    assert idle["cost_rate"] + sum(rents) == pytest.approx(means["cost_rate"], rel=1e-9)
    assert 0.0 < bill["cached"]["energy"] < 0.5 * bill["input"]["energy"] < 0.1 * bill["output"]["energy"]
    assert bill["input"]["tokens_per_second"] == bill["cached"]["tokens_per_second"]


@pytest.mark.parametrize("engine", ["analytic", "event"])
def test_one_class_and_adapters_of_no_number_leave_two_pools_as_they_are(load: Any, engine: str) -> None:
    def answer(**changes: Any) -> Any:
        return load(**{"rate": "3 /s", "requests": {"count": 60}, **changes}).simulate(engine=engine)["scenarios"][
            "run"
        ]

    usual = answer()
    one = answer(requests={"count": 60, "classes": [{"name": "all", "share": 1}]}, adapters={"count": 0, "rank": 8})
    assert one.pop("classes")["all"]["ttft"] == pytest.approx(usual["metrics"]["ttft"], rel=1e-12)
    assert one == usual
    classed = answer(requests={"count": 60, "classes": CLASSES}, input_tokens=None)
    long, short = (classed["classes"][name] for name in ("long", "short"))
    shares = long["share"] * long["ttft"] + short["share"] * short["ttft"]
    assert shares == pytest.approx(classed["metrics"]["ttft"], rel=1e-9)
    assert long["ttft"] > 3 * short["ttft"]
    held = {"count": 100, "rank": 16}
    served = [answer(adapters=each)["metrics"] for each in (held, held | {"resident": 4})]
    assert usual["metrics"]["tpot"] < served[0]["tpot"]
    plan = load(rate="3 /s", adapters=held | {"resident": 4}).scenario("run").plan
    copies = [
        float(adapter_load(part, each)) for part, each in zip((plan.prefill, plan.decode), plan.engines, strict=True)
    ]
    assert copies[0] == pytest.approx(copies[1])
    assert served[1]["ttft"] - served[0]["ttft"] == pytest.approx(sum(copies), rel=0.1)
