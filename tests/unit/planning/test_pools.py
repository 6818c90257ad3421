"""Plans of two pools and of drafts: within the margin of what was played, no engine to spare, as commands say."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

import costmodel
from costmodel.planning import playing, sizing, structures
from costmodel.planning.deployments import Deployment, command_of, pools
from costmodel.planning.pools import longest_mean
from costmodel.planning.request import Limit, PlanRequest
from costmodel.planning.servers import plan_servers
from costmodel.planning.sizing import engines
from costmodel.planning.structures import drafted

NODES = ("nodes/rtx-4090-x8", "nodes/hgx-h20")
REQUEST = PlanRequest(
    model="llama-3-8b", clusters=NODES, rate=160.0, isl=800.0, osl=60.0, ttft=Limit(0.8), tpot=Limit(0.03)
)


@pytest.fixture(autouse=True)
def small(one_framework: None, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: ARG001  a fixture's effect
    monkeypatch.setattr(sizing, "BUDGETS", ())
    monkeypatch.setattr(playing, "has_numba", lambda: False)
    monkeypatch.setattr(playing, "LEAST", {False: 300})
    monkeypatch.setattr(structures, "_narrower", lambda *_: iter(["fp8-tensor"]))


def simulated(one: Deployment, folder: Path, role: str = "", instances: str = "") -> dict[str, float | None]:
    """Return the metrics of the workload that a plan's command writes, or of other numbers of engines of a role."""
    write, _, simulate = command_of(one).partition(" > ")
    name, _, rest = simulate.partition(" && ")
    assert rest == f"costmodel simulate {name}"
    path = folder / name
    path.write_text("\n".join(shlex.split(write)[2:]), "utf-8")
    changes = {f"scenarios.serving.{role}.instances": instances} if role else {}
    return dict(costmodel.load(path, changes).points()["serving"].metrics)


def test_two_pools_keep_the_margin_of_what_was_played_and_none_of_their_engines_is_spare(tmp_path: Path) -> None:
    plans = plan_servers(REQUEST, lambda _: None)
    (two,) = [one for one in plans.best if one.prefill is not None]
    first = min((one for one in plans.best if one.played is not None), key=lambda one: one.cost)
    assert first.played is not None
    most = {
        name: longest_mean(limit, first.played.times[name, "p99"], first.point.metrics[name] or 0.0)
        for name, limit in (("ttft", Limit(0.8)), ("tpot", Limit(0.03)))
    }
    known = first.point.metrics
    load = (known["requests_per_second"] or 0.0) / (known["highest_stable_rate"] or 1.0)

    def keeps(metrics: dict[str, float | None]) -> bool:
        within = all((metrics[name] or float("inf")) <= limit for name, limit in most.items())
        return within and load * (metrics["highest_stable_rate"] or 0.0) >= 160.0

    own = simulated(two, tmp_path)
    assert own["tpot"] == pytest.approx(two.point.metrics["tpot"])
    assert keeps(own)
    for role, pool in zip(("prefill", "decode"), pools(two), strict=True):
        assert pool is not None
        if pool["instances"] > 1:
            assert not keeps(simulated(two, tmp_path, role, str(pool["instances"] - 1)))
    assert two.rent is not None
    rents = {engine.structure.cluster: engine.node * (engine.rental or 0.0) for engine in plans.engines}
    clusters = {pool["cluster"] for pool in pools(two) if pool is not None}
    assert two.rent >= sum(rents[cluster] for cluster in clusters) * (1.0 - 1e-9)  # at least a node of each
    assert plans.best[0].played is not None or two.cost < first.cost


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
