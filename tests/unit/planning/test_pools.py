"""Plans of two pools and of drafts: within the margin of what was played, no engine to spare, as commands say."""

from __future__ import annotations

import math
import shlex
from pathlib import Path

import numpy as np
import pytest

import costmodel
from costmodel.planning import playing, sizing, structures
from costmodel.planning.deployments import Deployment, command_of, pools
from costmodel.planning.pools import Grid, _least_cost, dearest, longest_mean, with_engines
from costmodel.planning.request import Limit, PlanRequest
from costmodel.planning.servers import plan_servers
from costmodel.planning.sizing import engines
from costmodel.planning.structures import drafted
from costmodel.records import replace

NODES = ("nodes/dgx-h100",)
REQUEST = PlanRequest(
    model="llama-3-8b", clusters=NODES, rate=60.0, isl=6000.0, osl=60.0, ttft=Limit(1.0), tpot=Limit(0.008)
)


@pytest.fixture(autouse=True)
def small(one_framework: None, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: ARG001  a fixture's effect
    monkeypatch.setattr(sizing, "BUDGETS", ())
    monkeypatch.setattr(playing, "has_numba", lambda: False)
    monkeypatch.setattr(playing, "LEAST", {False: 300})
    monkeypatch.setattr(structures, "_narrower", lambda *_: iter(["fp8-tensor"]))


def simulated(one: Deployment, folder: Path) -> dict[str, float]:
    """Return the 99th percentiles of the run that a plan's command writes and plays."""
    write, _, simulate = command_of(one).partition(" > ")
    name, _, rest = simulate.partition(" && ")
    changes = [part for change in one.player.request.of_hardware.items() for part in ("--set", "=".join(change))]
    assert shlex.split(rest) == ["costmodel", "simulate", name, *changes, "--engine", "event"]
    path = folder / name
    path.write_text("\n".join(shlex.split(write)[2:]), "utf-8")
    known = costmodel.load(path, set=one.player.request.of_hardware).points(engine="event")["serving"].percentiles
    assert known is not None
    return {name: known[name]["p99"] for name in ("ttft", "tpot")}


@pytest.mark.parametrize("changes", [(), (("hardware.memory.hbm.bandwidth", "-1%"),)], ids=str)
def test_two_pools_that_cost_less_hold_when_played_and_none_of_their_engines_is_spare(
    changes: tuple[tuple[str, str], ...], tmp_path: Path
) -> None:
    plans = plan_servers(replace(REQUEST, changes=changes), lambda _: None)
    two, other = plans.best[0], min((one for one in plans.best if one.prefill is None), key=lambda one: one.cost)
    assert two.prefill is not None
    assert two.played is not None
    assert two.holds
    assert two.cost < other.cost
    assert simulated(two, tmp_path) == pytest.approx({name: two.played.times[name, "p99"] for name in ("ttft", "tpot")})
    for pool, number in ((0, two.prefill.replicas), (1, two.replicas)):
        less = with_engines(two, pool, -1)
        assert number == 1 or not less.player.holds(less.replicas)
    assert all(entry is not None and entry["instances"] > 0 for entry in pools(two))
    unpriced = replace(other, player=replace(other.player, engine=replace(other.engine, rental=None)))
    pair = ([two.prefill.engine], [two.engine])  # a node of eight devices each
    assert _least_cost(pair, other) == pytest.approx(16.0 * (two.engine.rental or 0.0))
    assert _least_cost(pair, unpriced) == 16.0
    assert _least_cost(([replace(two.prefill.engine, rental=None)], [two.engine]), other) == math.inf
    assert dearest(REQUEST, other) == pytest.approx(1.25 * other.cost)
    assert dearest(replace(REQUEST, budget=1.01 * other.cost), other) == pytest.approx(1.01 * other.cost)


def test_the_longest_mean_leaves_what_percentiles_need() -> None:
    assert longest_mean(Limit(1.0), played=0.8, mean=0.2) == pytest.approx(0.25)
    assert longest_mean(Limit(1.0), played=0.2, mean=0.4) == 1.0  # no mean beyond the limit


def test_drafts_make_tokens_of_few_users_faster_and_a_model_without_mtp_has_none() -> None:
    few = PlanRequest(model="qwen3.5-9b", clusters=("nodes/h100-x1",), users=2, isl=500.0, osl=100.0, tpot=Limit(0.05))
    plain = next(structures.structures(few, few.clusters[0], []))
    with_drafts = drafted(plain)
    assert with_drafts is not None
    assert with_drafts.drafts == {"depth": 1, "acceptance": pytest.approx(0.875)}
    times = [engines(one, few, [1])[0].nearest["tpot"][0] for one in (plain, with_drafts)]
    assert times[0] / 1.9 < times[1] < times[0]  # at most 1.875 tokens a step
    assert drafted(next(structures.structures(REQUEST, NODES[0], []))) is None


def test_a_step_has_room_for_the_drafts_of_all_that_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorRT-LLM runs 2,048 requests at a time, of two tokens each with a draft."""
    monkeypatch.setattr(structures, "ENGINES", {"trt-llm": "TensorRT-LLM"})
    monkeypatch.setattr(sizing, "BUDGETS", (2048.0, 16384.0))
    request = PlanRequest(model="qwen3.5-9b", clusters=("nodes/h100-x1",), users=2, isl=500.0, osl=100.0)
    plain = next(structures.structures(request, request.clusters[0], []))
    with_drafts = drafted(plain)
    assert with_drafts is not None
    assert set(sizing._budgets(plain)) - set(sizing._budgets(with_drafts)) == {2048.0}


def test_the_cheapest_pools_keep_every_limit_and_of_equals_the_fewest_devices_come_first() -> None:
    """Prompts' engines along the first axis; what a limit allows exactly holds, and what never ends does not."""
    grid = Grid(
        fits=np.array([[True, True, False], [True, True, True]]),
        known={
            "requests_per_second": np.full((2, 3), 5.0),
            "highest_stable_rate": np.array([[5.0, 10.0, 99.0], [10.0, 10.0, 4.0]]),
            "ttft": np.array([[1.0, 2.0, 0.1], [2.0, np.inf, 0.1]]),
        },
        cost=np.array([[3.0, 4.0, 1.0], [4.0, 2.0, 1.0]]), used=np.array([[9.0, 8.0, 1.0], [7.0, 6.0, 1.0]]),
    )  # fmt: skip
    assert grid.cheapest({"ttft": 2.0}, 1.0) == (0, 0)
    assert grid.cheapest({"ttft": 2.0}, 0.5) == (1, 0)  # costs as much as (0, 1), with fewer devices
    assert grid.cheapest({}, 0.5) == (1, 1)
    assert grid.cheapest({"ttft": 0.5}, 1.0) is None
