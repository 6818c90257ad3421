"""Plans of servers: the union of clusters, the bounds, and what a looser request costs."""

from __future__ import annotations

import json
import math
import re
import shlex
from functools import cache, partial
from pathlib import Path

import pytest
from click.testing import CliRunner

from costmodel.analytic.intervals import NORMAL_90
from costmodel.cli.main import root
from costmodel.errors import InputError
from costmodel.planning import playing, servers, sizing, structures
from costmodel.planning.deployments import (
    Plans,
    benchmark_line,
    command_of,
    failing,
    in_order,
    intervals,
    metrics,
    plan_document,
    why_not_less,
)
from costmodel.planning.playing import Played, Player, may_mend, playable
from costmodel.planning.pools import pooled
from costmodel.planning.request import Limit, PlanRequest
from costmodel.planning.servers import plan_servers
from costmodel.records import replace
from costmodel.report.plan import _bought, headline
from costmodel.serving import bounds
from costmodel.workload.plans import Serving

REQUEST = PlanRequest(
    model="llama-3-8b", clusters=("nodes/rtx-4090-x8",), rate=8.0, isl=800.0, osl=60.0, ttft=Limit(0.8),
    tpot=Limit(0.04),
)  # fmt: skip


@cache
def planned(request: PlanRequest) -> Plans:
    return plan_servers(request, lambda _: None)


@pytest.fixture(autouse=True)
def small(one_framework: None, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: ARG001  a fixture's effect
    monkeypatch.setattr(sizing, "BUDGETS", ())
    monkeypatch.setattr(playing, "LEAST", {False: 300})
    monkeypatch.setattr(playing, "has_numba", lambda: False)
    monkeypatch.setattr(structures, "_narrower", lambda *_: iter(["fp8-tensor"]))


def test_bounds_change_no_winner_and_a_looser_request_costs_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Played are those that bounds leave, then every layout: the same deployment is the cheapest."""
    best = planned(REQUEST).best[0]
    assert best.holds
    assert best.fewer is None or not best.fewer.holds
    looser = replace(REQUEST, rate=4.0, tpot=Limit(0.06))
    assert planned(looser).best[0].cost <= best.cost
    monkeypatch.setattr(servers, "MOST_PLAYED", 100)
    monkeypatch.setattr(servers, "_ROUGH", 1e9)
    monkeypatch.setattr(sizing.Engine, "key", property(lambda one: (one.devices, 0.0, 0)))  # the order says nothing
    every = plan_servers(REQUEST, lambda _: None)
    assert every.best[0].cost == best.cost


def test_a_union_of_clusters_is_no_worse_than_each() -> None:
    both = planned(replace(REQUEST, clusters=("nodes/rtx-4090-x1", "nodes/rtx-4090-x8")))
    alone = planned(REQUEST)
    assert both.best[0].cost <= alone.best[0].cost
    assert {one.engine.structure.cluster for one in both.best} == {"nodes/rtx-4090-x1", "nodes/rtx-4090-x8"}


def test_confidence_costs_more_and_is_kept() -> None:
    usual, sure = planned(REQUEST).best[0], planned(replace(REQUEST, confidence=0.95)).best[0]
    assert sure.cost >= usual.cost
    assert sure.probability is not None
    assert sure.probability > 0.9


def test_rent_is_of_whole_nodes_and_the_command_that_checks_is_of_one_replica() -> None:
    one = planned(REQUEST).best[0]
    assert one.devices + one.empty == 8 * one.nodes
    assert one.empty < 8
    assert one.engine.rental is not None
    assert one.cost == pytest.approx(8 * one.nodes * one.engine.rental)
    assert f"--request-rate {8.0 / one.replicas:.4g} " in benchmark_line(one)


def test_a_size_holds_in_every_realisation_and_one_fewer_fails_in_one() -> None:
    one = planned(REQUEST).best[0]
    others = one.player.realisations
    assert [one.player.seed, *(each.seed for each in others)] == [0, 1, 2]
    assert one.realisations == len(others) + 1
    assert all(each.holds(one.replicas) for each in others)
    assert any(each.times != one.played.times for each in (other.play(one.replicas) for other in others))
    assert Player(one.engine, replace(REQUEST, rate=None, users=4)).realisations == []  # nothing is drawn


def test_of_realisations_the_strictest_says_the_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where another realisation takes one replica more, that is the size, and the command plays that realisation."""
    usual = planned(REQUEST).best[0]
    play = Player._play

    def stricter(player: Player, replicas: int, slowdown: float) -> Played:
        run = play(player, replicas, slowdown)
        return replace(run, ratio=1.5) if player.seed == 2 and replicas <= usual.replicas else run

    monkeypatch.setattr(Player, "_play", stricter)
    race = servers._Race(REQUEST, usual.engine.structure.cluster, Plans(REQUEST), lambda: None)
    (one,) = race._play(usual.engine, usual.engine.most, [])
    assert one.holds
    assert one.replicas > usual.replicas
    assert one.fewer is not None
    assert not one.fewer.holds
    assert "simulation: {seed: 2}" in command_of(one)
    (failed,) = race._play(usual.engine, usual.replicas, [])
    assert failed.holds is False


def test_few_requests_say_no_probability(tmp_path: Path) -> None:
    trace = tmp_path / "few.csv"
    trace.write_text("arrival_s,input_tokens,output_tokens\n0,100,20\n1,200,30\n2,300,40\n", "utf-8")
    one = planned(replace(REQUEST, rate=None, isl=None, osl=None, trace=str(trace))).best[0]
    assert one.holds
    assert one.probability is None
    counts = [replace(one, played=replace(one.played, requests=count)).few for count in (99, 100)]
    assert counts == [True, False]  # a p99 has one request beyond it in a hundred


@pytest.mark.parametrize(
    ("capital", "after", "said"),
    [(None, None, ""), (64_000.0, 171.4, "; bought for 64,000 $, cheaper after 171 days"),
     (64_000.0, None, "; bought for 64,000 $, never cheaper")],
)  # fmt: skip
def test_the_answer_says_when_bought_servers_cost_less(capital: float | None, after: float | None, said: str) -> None:
    assert _bought({"capital": capital, "break_even": after}) == said
    assert _bought(None) == ""


def test_a_budget_is_a_ceiling_and_says_which_rate_it_reaches() -> None:
    best = planned(REQUEST).best[0]
    assert best.rent is not None
    tight = planned(replace(REQUEST, rate=200.0, budget=best.rent))
    assert tight.best[0].rent is not None
    assert tight.best[0].rent <= best.rent
    assert all(one.holds is False for one in tight.best)
    assert tight.reachable is not None
    rate, highest = tight.reachable["rate"], tight.reachable["highest"]
    assert highest["cost_rate"] / 3600.0 <= best.rent * (1.0 + 1e-9)
    assert planned(replace(REQUEST, rate=0.95 * rate, budget=best.rent)).best[0].holds
    found, engine = servers.highest_rate(tight)
    assert found == rate
    assert engine is not None
    assert servers._rate_of(replace(engine, most=engine.most + 1), tight.request, 0.0) >= rate
    twice = planned(replace(REQUEST, rate=200.0, budget=2.0 * best.rent))
    assert twice.reachable is None or twice.reachable["rate"] >= rate


def test_the_best_that_is_reachable_is_no_worse_than_what_was_played() -> None:
    parts: list[float] = []
    plans = plan_servers(replace(REQUEST, tpot=Limit(1e-5, "p99")), parts.append)
    assert parts == sorted(parts)
    assert parts[-1] == 1.0
    assert plans.reachable is not None
    best = {each["limit"]: each["best"] for each in plans.reachable["limits"]}
    played = [one.played.times["tpot", "p99"] for one in plans.best if one.played and one.played.keeps_up]
    assert best["tpot_p99"] <= min(played)
    assert all(one.holds is False for one in plans.best if one.played)
    easier = planned(replace(REQUEST, tpot=None)).best[0]  # no number of devices keeps that limit: the others' plan
    assert (plans.best[0].cost, plans.best[0].replicas) == (easier.cost, easier.replicas)
    assert "; beyond its limit: TPOT" in headline(plans.best[0])


def test_of_plans_that_cost_as_much_the_format_of_the_checkpoint_comes_first() -> None:
    """Eight devices hold it in either format, which is faster in fewer bits."""
    best = planned(replace(REQUEST, rate=4.0, tpot=Limit(0.06))).best[0]
    assert best.nodes == 1
    assert best.engine.structure.precision is None
    stated = replace(REQUEST, rate=4.0, tpot=Limit(0.06), changes=(("scenarios.serving.precision", "fp8-tensor"),))
    faster = planned(stated).best[0]
    assert faster.engine.structure.precision == "fp8-tensor"
    assert faster.cost == best.cost
    assert faster.engine.margin < best.engine.margin


def test_of_plans_that_cost_as_much_one_without_a_limit_on_first_tokens_answers_the_soonest() -> None:
    """Users who wait for blocks decode in small, short steps, far below a limit on these."""
    request = replace(REQUEST, ttft=None)
    assert (sizing.is_limited(REQUEST), sizing.is_limited(request)) == (True, False)
    plans = planned(request)
    one = plans.best[0]
    full = one.engine.within(one.engine.nodes(one.engine.likely))
    assert one.engine.margin == pytest.approx(one.engine.in_full(request, full).metrics["latency"])
    assert one.played is not None
    ratio = one.played.ratio
    times = {**one.played.times, ("latency", "mean"): 2.0 * one.played.times["latency", "mean"]}
    later = replace(one, played=replace(one.played, times=times, ratio=0.5 * ratio))
    assert servers._by_rent(one) < servers._by_rent(later)
    assert servers._dearer(later, one) == "costs as much, whole answers take longer"
    asked = replace(later.player, request=REQUEST)
    limited, fuller = (replace(one, player=asked, played=replace(one.played, ratio=each)) for each in (ratio, 0.9))
    assert servers._by_rent(limited) < servers._by_rent(fuller)
    metrics_of_busy = {
        **one.point.metrics,
        "highest_stable_rate": (one.point.metrics["requests_per_second"] or 0.0) / 0.95,
    }
    busy = replace(limited, point=replace(one.point, metrics=metrics_of_busy))
    assert (busy.load, servers._slow(busy)[0]) == (pytest.approx(0.95), pytest.approx(0.95))
    unbound = headline(replace(one, fewer=None, replicas=1))
    assert "; nothing binds: TTFT has no limit (--ttft)" in unbound


CLASSES = (
    "[{name: chat, share: 0.8, input: 200, output: 60, slo: {ttft: TTFT}}, "
    "{name: batch, share: 0.2, input: 1800, output: 60}]"
)


def test_a_plan_keeps_the_objective_of_each_class_of_requests() -> None:
    """Short prompts are as late as those before them: a limit that binds takes more engines, and is said."""

    def of(ttft: str) -> PlanRequest:
        stated = CLASSES.replace("TTFT", ttft)
        return replace(
            REQUEST, isl=None, osl=None, ttft=None, changes=(("scenarios.serving.requests.classes", stated),)
        )

    loose = planned(of("10 s")).best[0]
    assert loose.holds
    assert loose.played is not None
    tail = loose.played.times["chat ttft", "p99"]
    assert loose.played.limits["chat ttft"] == Limit(10.0)
    assert loose.played.limits["tpot"] == REQUEST.tpot
    assert tail != pytest.approx(loose.played.times["ttft", "p99"])
    tight = of(f"{0.9 * tail:.9f} s")
    plans = planned(tight)
    same = next(one for one in plans.engines if kind_of(one) == kind_of(loose.engine))
    run = Player(same, tight).play(loose.replicas)
    assert not run.holds
    assert failing(run).startswith("p99 CHAT TTFT ")
    best = plans.best[0]
    assert not best.holds or best.played.times["chat ttft", "p99"] <= 0.9 * tail
    assert "classes: [{name: chat" in command_of(loose)
    with pytest.raises(InputError, match=r"its requests are of no `requests\.classes`"):
        plan_servers(replace(tight, trace="some.csv", rate=None), lambda _: None)


def kind_of(engine: sizing.Engine) -> tuple[dict[str, int], str]:
    return engine.degrees, engine.structure.format


def test_two_pools_that_are_not_tried_have_a_reason() -> None:
    """Two nodes cost twice what one that was played does."""
    best = planned(REQUEST).best[0]
    assert best.nodes == 1
    assert "two pools: a node for each costs over a quarter more than what was played" in planned(REQUEST).left_out
    left_out: list[str] = []
    assert pooled(REQUEST, [], best, left_out) is None
    assert left_out == ["two pools: no layout does without pipeline stages"]


def test_more_engines_than_are_simulated_do_not_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan goes on without them; those that it begins with are said not to be playable."""
    monkeypatch.setattr(bounds, "MOST_BYTES", 1)
    player = Player(planned(REQUEST).best[0].engine, REQUEST)
    played = player.play(player.engine.likely + 1)
    assert not played.holds
    assert failing(played) == "more engines than are simulated at once"
    assert "engines need" in str(playable(player))


def test_first_tokens_that_more_replicas_cannot_mend_are_not_played_on() -> None:
    """What holds with many replicas is found where a few more hardly help; half of the shortest time is given up."""
    player = Player(planned(REQUEST).best[0].engine, REQUEST)
    least = player.play(64).times["ttft", "p99"]
    for share, most in ((1.0, 200), (0.5, 500)):
        own = replace(player, request=replace(REQUEST, ttft=Limit(share * least)), known={})
        asked = partial(own.may_help, slowdown=1.0)
        number = playing.fewest(own.holds, 2, 4096, asked)
        assert (number is None) == (share < 1.0)
        assert number is None or not own.holds(number - 1)
        assert max(count for count, _ in own.known) <= most
        assert (own.may_help(2, 3, 1.0), own.may_help(4, 8, 1.0)) == (True, False)  # a third of a queue, and none


def test_a_queue_that_falls_with_engines_is_extrapolated_to_any_number() -> None:
    """10 s with two engines and 8 s with four: 6 s without the queue, 8 - (10 - 8) * 2 / (4 - 2)."""
    two, four = (
        Played(number, 0, 100, {("ttft", "p99"): seconds}, 2.0, "ttft", True, {})
        for number, seconds in ((2, 10.0), (4, 8.0))
    )
    helps = [may_mend(replace(REQUEST, ttft=Limit(limit)), two, four, 2, 4) for limit in (6.1, 5.9)]
    assert helps == [True, False]


def test_no_number_of_replicas_is_faster_than_the_slowest_prompts_by_themselves(tmp_path: Path) -> None:
    """What prompts share with those before them costs nothing. One beyond the limit by itself is not played on."""
    rows = ["timestamp,input_length,output_length,hash_ids"]
    rows += [f"{60_000 * i},{1024 * (1 + i % 4)},2,{' '.join(map(str, range(2 + 2 * (i % 4))))}" for i in range(40)]
    (tmp_path / "shared.csv").write_text("\n".join(rows), "utf-8")
    shared = replace(REQUEST, rate=None, isl=None, osl=None, trace=str(tmp_path / "shared.csv"))
    plain = [row.rpartition(",")[0] for row in rows]
    (tmp_path / "unlike.csv").write_text("\n".join(plain), "utf-8")
    unlike = replace(shared, trace=str(tmp_path / "unlike.csv"))
    for request in (REQUEST, shared, unlike):
        player = Player(planned(request).best[0].engine, request)
        first = player.play(64).times["ttft", "p99"]
        simulation = player.simulations[0]
        least = bounds.slowest_alone(simulation.requests, simulation.policy, simulation.times, 0.01)
        assert 0.9 * first < least <= first
        assert player.too_late is None
        late = replace(player, request=replace(request, ttft=Limit(0.99 * least)), known={})
        shown = re.fullmatch(r"a prompt of the slowest 1% takes ([\d.]+ m?s) by itself, on any.*", str(late.too_late))
        assert shown is not None
        assert len(shown[1].split()[0].replace(".", "").lstrip("0")) <= 3, "three digits"


def test_of_what_is_not_played_no_least_number_is_claimed() -> None:
    best = planned(REQUEST).best[0]
    pipeline = replace(best.engine, at={**best.engine.at, "parallel.pp": 2.0})
    closed = replace(best, player=Player(pipeline, REQUEST), played=None, fewer=None, replicas=3)
    assert plan_document(closed)["holds"] is None
    assert why_not_less(closed) == "sized in closed form: the request engine does not simulate pipeline stages"


def test_what_holds_comes_before_what_was_not_played_and_that_before_what_fails_whatever_they_cost() -> None:
    best = planned(REQUEST).best[0]
    holding, unplayed = replace(best, replicas=9), replace(best, played=None, replicas=5)
    failing_ones = [replace(best, played=replace(best.played, keeps_up=False), replicas=number) for number in (1, 2)]
    some = [*failing_ones, unplayed, holding]
    assert sorted(some, key=in_order(some)) == [holding, unplayed, *failing_ones]


def test_a_limit_that_only_more_replicas_keep_is_not_one_that_no_number_keeps() -> None:
    """Where more of them hardly help, a token still takes a little longer than with one request at a time."""
    plans = Plans(replace(REQUEST, tpot=Limit(1e-5, "mean")), engines=planned(REQUEST).engines)
    few = servers._best_of(plans, "tpot", Limit(1e-5, "mean"))
    engine = min(plans.engines, key=lambda one: one.nearest["tpot"][0])
    alone = Player(engine, REQUEST).play(engine.most).times["tpot", "mean"]
    assert alone < few["best"]
    more = servers._best_of(plans, "tpot", Limit(0.5 * (alone + few["best"]), "mean"))
    assert more["best"] <= more["asked"]
    assert more["replicas"] > few["replicas"]


def test_users_start_one_after_another_and_the_command_says_over_which_time() -> None:
    users = replace(REQUEST, rate=None, users=40)
    engine = planned(users).best[0].engine
    run, in_step = Player(engine, users).play(1), Player(engine, users)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(playing, "ramp_of", lambda *_: 0.0)
        all_at_once = in_step.play(1)
    times = {name: each.times["ttft", "p99"] / each.times["ttft", "mean"] for name, each in
             (("apart", run), ("in step", all_at_once))}  # fmt: skip
    assert times["apart"] < 2.0 < times["in step"]
    assert f"requests.ramp: {playing.ramp_of(engine, users):g} s" in command_of(planned(users).best[0])


def test_sizes_that_were_not_looked_at_are_not_said_to_lack_memory() -> None:
    structure = planned(REQUEST).best[0].engine.structure
    assert sizing.lacking(structure, REQUEST, 4, fits=False).startswith("an engine takes over 4 devices, which cannot")
    assert sizing.lacking(structure, REQUEST, 4, fits=True) == "no layout of up to 4 devices keeps to the limits"
    assert sizing.lacking(structure, REQUEST, 8, fits=False).startswith(
        "no layout has room for a request of 860 tokens"
    )


FASTER = (("hardware.memory.hbm.bandwidth", "2x"), ("hardware.math.bf16.peak", "+50%"))


@pytest.mark.parametrize(
    "load", [{"rate": 12.0}, {"rate": None, "users": 12}, {"rate": 12.0, "changes": FASTER}], ids=str
)
def test_the_command_that_comes_next_plays_the_same_requests(load: dict[str, float]) -> None:
    """Near saturation a shorter run would not show the queue."""
    best = planned(replace(REQUEST, **load)).best[0]
    assert best.played is not None
    result = CliRunner().invoke(root, [*shlex.split(command_of(best))[1:], "--json"], catch_exceptions=False)
    (again,) = json.loads(result.stdout)["scenarios"].values()
    for name in ("ttft", "tpot"):
        assert again["percentiles"][name]["p99"] == pytest.approx(best.played.times[name, "p99"], rel=1e-9)


def test_faster_hardware_never_costs_more_and_a_dearer_one_costs_what_it_says() -> None:
    best = planned(REQUEST).best[0]
    assert all(planned(replace(REQUEST, changes=(one,))).best[0].cost <= best.cost for one in FASTER)
    dearer = planned(replace(REQUEST, changes=(("hardware.price.rental", "7 $/h"),))).best[0]
    assert dearer.cost == pytest.approx(7.0 / 3600.0 * dearer.devices)


def test_an_interval_within_the_limits_is_at_least_nine_to_one_and_confidence_asks_for_no_more() -> None:
    usual, sure = planned(REQUEST).best[0], planned(replace(REQUEST, confidence=0.9)).best[0]
    for one in (usual, sure):
        assert one.spread > 0.0
        high = {name: intervals(one)[f"{name}_p99"][1] for name in ("ttft", "tpot")}
        within = high["ttft"] <= REQUEST.ttft.seconds and high["tpot"] <= REQUEST.tpot.seconds
        assert (one.probability >= 0.9) == within
        assert all(low <= metrics(one)[name] <= high for name, (low, high) in intervals(one).items())
        assert all(
            low < metrics(one)[name] < high for name, (low, high) in intervals(one).items() if name.startswith("tpot")
        )
    assert sure.probability >= 0.9
    assert sure.fewer is None or not sure.player.holds(sure.fewer.replicas, math.exp(NORMAL_90 * sure.spread))
    assert sure.fewer is None or "slower, as --confidence asks" in why_not_less(sure)


def test_what_costs_as_much_is_in_order_of_how_far_it_is_from_its_limits() -> None:
    """Of one format: a limit that was not asked for says nothing."""
    one = planned(REQUEST).best[0]
    near = replace(one, played=replace(one.played, ratio=0.99))
    far = replace(one, played=replace(one.played, ratio=0.5))
    assert sorted([near, far], key=servers._by_rent) == [far, near]
    assert servers._dearer(near, far) == "costs as much, nearer to its limits"
    assert "nearer" not in servers._dearer(far, near)


def test_a_node_by_its_device_is_as_many_nodes_as_are_needed_and_a_stated_number_is_all_there_are() -> None:
    bare, named = (planned(replace(REQUEST, clusters=(name,))) for name in ("rtx-4090", "nodes/rtx-4090-x1"))
    assert bare.best[0].devices == named.best[0].devices > 1
    assert planned(replace(REQUEST, clusters=("1x RTX 4090",))).best[0].devices == 1


def test_on_one_node_the_layout_that_bears_the_slowest_steps_comes_first() -> None:
    """Of 4 x TP 2 and 2 x TP 4 that cost as much, the latter's tokens are as soon and its queue nearly grows."""
    request = PlanRequest(
        model="qwen3-32b",
        clusters=("nodes/dgx-h100",),
        rate=20.0,
        isl=2000.0,
        osl=300.0,
        ttft=Limit(1.0),
        tpot=Limit(0.05),
    )
    best, *_ = planned(request).best
    assert best.nodes == 1
    others = [one for one in planned(request).engines if one.nodes(one.likely) == 1 and not one.is_other]
    assert best.probability is not None
    assert all(one.margin >= best.engine.margin for one in others)
    assert best.load < 0.8


def test_a_budget_below_the_rent_of_a_node_is_said_at_once() -> None:
    plans = planned(replace(REQUEST, budget=0.1 / 3600.0))
    assert not plans.best
    assert not plans.engines
    (line,) = (each for each in plans.left_out if "over the budget of 0.1 $/h" in each)
    assert line.startswith("nodes/rtx-4090-x8: one node is ")
    offer = planned(replace(REQUEST, budget=0.5 / 3600.0)).left_out[-1]
    assert offer.startswith("the cheapest nodes that hold its weights in the narrowest format: nodes/")
    assert all(float(part.partition(" $/h")[0]) <= 0.5 for part in offer.split(" (")[1:])


def test_a_device_without_fits_is_no_lack_of_memory() -> None:
    plans = planned(replace(REQUEST, clusters=("nodes/tpu-v6e-x1",)))
    assert not plans.best
    assert plans.nothing.startswith(
        "nothing is planned: most kernels have no fit on these devices; `costmodel simulate "
    )
    assert not any("the cheapest nodes" in line for line in plans.left_out)
    assert any("most of its kernels have no fit on this device" in line for line in plans.left_out)


def test_engines_of_several_nodes_need_a_network() -> None:
    structure = planned(REQUEST).best[0].engine.structure
    for nic in (None, {"per_device": 1, "bandwidth": "25 GB/s", "latency": "2 us"}):
        sizes = sizing.sizes_of(replace(structure, workload=structure.workload.changed({"hardware.node.nic": nic})))
        assert sizes[0] == [1, 2, 4, 8]
        assert (len(sizes) > 1) == (nic is not None)


def test_users_are_shared_by_replicas_and_by_their_ranks() -> None:
    engine = planned(REQUEST).best[0].engine
    ranks = replace(engine, at={**engine.at, "parallel.dp": 2.0})
    for one, count, users in ((engine, 1, 9.0), (engine, 2, 5.0), (ranks, 2, 3.0)):
        plan = sizing.with_replicas(one, replace(REQUEST, rate=None, users=9), count).plan
        assert isinstance(plan, Serving)
        assert (plan.concurrency, plan.replicas.count) == (users, count)


def test_the_numbers_of_a_plan_follow_from_one_another() -> None:
    """Rent over tokens is the price of a million; Little's law; energy of a million; engines times their devices."""
    one = planned(REQUEST).best[0]
    entry = plan_document(one, in_full=False)
    known, rate = entry["metrics"], one.player.request.rate
    assert entry["devices"] == entry["replicas"] * math.prod(entry["parallel"].values())
    assert entry["cost_rate"] == pytest.approx(8 * entry["nodes"] * one.engine.rental * 3600)
    for kind, tokens in (("output", 60.0), ("all", 860.0)):
        price = entry["cost_rate"] / 3600 / (rate * tokens) * 1e6
        assert entry["cost_per_million"][kind] == pytest.approx(price, rel=0.1)
    assert known["concurrency"] == pytest.approx(rate * known["latency"], rel=0.1)
    assert entry["energy_per_million"] == pytest.approx(1e6 * one.point.metrics["energy_per_token"])
    assert known["tpot"] * 59 + known["ttft"] == pytest.approx(known["latency"], rel=0.05)
