"""Several engines: routers, failures, an autoscaler, prompts elsewhere, ranks that step together."""

import numpy as np
import pytest
from serving_engines import POLICY, fleet, new, outage, serve, shared, stream, times, together

from costmodel.serving.availability import OFF, draw_gap, next_change
from costmodel.serving.first_run import run_as_python
from costmodel.serving.fleet import run_together
from costmodel.serving.routing import LEAST_LOADED, POWER_OF_TWO, PREFIX, ROUND_ROBIN
from costmodel.serving.rows import as_objects


@pytest.mark.parametrize("kind", [ROUND_ROBIN, LEAST_LOADED, POWER_OF_TWO, PREFIX])
def test_every_router_serves_all_and_jumps_change_nothing(kind):
    draw = np.random.default_rng(1)
    requests = stream(np.cumsum(draw.exponential(2.0, 60)), draw.integers(1, 50, (60, 2)))
    requests = shared(requests, [list(range(i % 3, i % 3 + int(p) // 4)) for i, p in enumerate(requests.length[:, 0])])
    results = [serve(requests, POLICY._replace(caching=True, jump=jump), 3, kind)[1] for jump in (True, False)]
    assert np.isfinite(results[0]["finish"]).all()
    np.testing.assert_array_equal(times(results[0]), times(results[1]))


def test_round_robin_is_the_same_apart_and_together():
    draw = np.random.default_rng(2)
    requests = stream(np.cumsum(draw.exponential(2.0, 60)), draw.integers(1, 50, (60, 2)))
    apart, together = serve(requests, replicas=3)[1], serve(requests, replicas=3, kind=ROUND_ROBIN)[1]
    np.testing.assert_array_equal(times(apart), times(together))


def test_least_loaded_waits_less_than_round_robin():
    draw = np.random.default_rng(3)
    requests = stream(
        np.cumsum(draw.exponential(6.0, 100)), np.stack([draw.integers(1, 20, 100), draw.geometric(0.05, 100)], 1)
    )
    waits = [np.mean(serve(requests, replicas=4, kind=kind)[1]["first"] - requests.arrival)
             for kind in (ROUND_ROBIN, LEAST_LOADED)]  # fmt: skip
    assert waits[1] < waits[0]


def scaled(number, **changes):
    """Return a fleet of an autoscaler, which starts with one engine."""
    found = fleet(number, scaled=5.0, **changes)
    found.members["status"][1:] = OFF
    return found


def many(seed=4, count=40):
    draw = np.random.default_rng(seed)
    return stream(np.cumsum(draw.exponential(3.0, count)), draw.integers(1, 50, (count, 2)))


@pytest.mark.parametrize("jump", [True, False])
def test_a_failure_loses_no_request_and_no_block(jump):
    policy = POLICY._replace(caching=True, jump=jump)
    service = together(many(), fleet(2, **outage(30.0, 40.0)), policy)
    assert np.isfinite(service.requests["finish"]).all()
    assert service.fleet.state["lost"][0] > 0
    np.testing.assert_array_equal(service.engines.state["free"], policy.blocks)
    undisturbed = together(many(), fleet(2), policy)
    assert service.requests["finish"].mean() > undisturbed.requests["finish"].mean()


def test_while_all_engines_are_down_requests_wait():
    service = together(stream([50.0], [(4, 3)]), fleet(1, **outage(10.0, 100.0)))
    assert service.requests["first"][0] > 110.0


def test_an_engine_serves_again_when_its_last_outage_is_over():
    """One from 10 to 110 s, another from 60 to 160 s."""
    twice = [(10.0, 0, 0), (60.0, 0, 0), (110.0, 0, 1), (160.0, 0, 1)]
    service = together(stream([50.0], [(4, 3)]), fleet(1, outages=twice))
    assert service.requests["first"][0] > 160.0


def breaking(replicas, mtbf, repair, number=None):
    """Return a fleet whose replicas, each of several engines, fail at random."""
    dice = np.random.default_rng(2).integers(1, 2**31 - 1, replicas)
    found = fleet(number or replicas, breakdowns=replicas, mtbf=mtbf, repair=repair)
    found.breakdowns["die"] = dice
    with as_objects(found) as objects:
        for replica in range(replicas):
            objects.breakdowns[replica].fails = draw_gap(objects, replica)
        objects.state[0].change = next_change(objects)
    return found


def test_gaps_between_breakdowns_are_exponential():
    """The generator's 10,000th state from 1 on is its authors' own check."""
    with as_objects(fleet(1, breakdowns=1, mtbf=50.0)) as found:
        gaps = np.array([draw_gap(found, 0) for _ in range(10_000)])
    assert found.breakdowns[0].die == 1_043_618_065
    assert gaps.mean() == pytest.approx(50.0, rel=0.03)
    assert (gaps > 100.0).mean() == pytest.approx(np.exp(-2.0), rel=0.1)


def test_engines_that_break_down_lose_no_request_and_serve_as_often_as_they_work():
    requests = many(count=120)
    service = together(requests, breaking(3, 60.0, 20.0, number=6))
    assert np.isfinite(service.requests["finish"]).all()
    assert service.fleet.state["lost"][0] > 0
    np.testing.assert_array_equal(service.engines.state["free"], POLICY.blocks)
    expected = 3 * service.requests["finish"].max() / (60.0 + 20.0)
    assert service.fleet.state["failures"][0] == pytest.approx(expected, abs=3.0 * expected**0.5)
    lasting = together(requests, breaking(3, 60.0, 60.0, number=6))
    assert lasting.requests["finish"].mean() > service.requests["finish"].mean()


def test_jumps_change_nothing_with_failures_pools_and_an_autoscaler():
    for make in (
        lambda: fleet(3, **outage(20.0, 30.0)),
        lambda: breaking(3, 40.0, 10.0),
        lambda: fleet(3, prefill=1),
        lambda: scaled(3, interval=5.0, least=1, target=4.0, start_up=7.0),
    ):
        results = [together(many(), make(), POLICY._replace(jump=jump)) for jump in (True, False)]
        np.testing.assert_array_equal(*(times(each.requests) for each in results))
    burst = stream([0.0] * 6, [(64 * (1 + 4 * i), 400) for i in range(6)])  # prompts still move to one that decodes
    results = [
        together(burst, fleet(2, prefill=1), POLICY._replace(jump=jump, blocks=10_000)) for jump in (True, False)
    ]
    np.testing.assert_array_equal(*(times(each.requests) for each in results))


def test_an_autoscaler_starts_engines_under_load_and_gives_them_back():
    busy = stream([1.0 * i for i in range(60)] + [5000.0], [(10, 30)] * 61)
    some = together(busy, scaled(4, interval=5.0, least=1, target=8.0, start_up=20.0))
    alone = together(busy, fleet(1))
    assert (np.bincount(some.requests["replica"], minlength=4) > 0).all()
    assert some.requests["finish"][:60].max() < alone.requests["finish"][:60].max()
    assert some.fleet.members["status"].tolist().count(OFF) == 3
    assert 0.0 < some.fleet.members["rented"][1] < 1000.0


def test_an_autoscaler_that_has_its_target_starts_no_engine():
    eight = stream([0.0] * 8, [(10, 200)] * 8)
    for target, rented in ((8.0, [False]), (7.0, [True])):
        some = together(eight, scaled(4, interval=5.0, least=1, target=target, start_up=1.0))
        assert (some.fleet.members["rented"][1:2] > 0.0).tolist() == rented


def test_a_full_queue_turns_requests_away():
    burst = stream([0.0] * 50, [(10, 10)] * 50)
    service = together(burst, fleet(1, max_waiting=10))
    served = np.isfinite(service.requests["finish"])
    assert service.fleet.state["rejected"][0] == 50 - served.sum() == 40
    assert (service.requests["replica"][~served] == -1).all()


def test_a_prompt_moves_to_the_engine_that_decodes_it():
    service = together(stream([0.0], [(100, 3)]), fleet(2, prefill=1), POLICY._replace(overlapped=False))
    prompts = 1.0 + 0.01 * 64 + 0.01 + 1e-6 * 64 * 64 + 1.0 + 0.01 * 36 + 0.01 + 1e-6 * 36 * 100
    assert service.requests["first"][0] == pytest.approx(prompts, rel=1e-12)
    moved = prompts + 100 * 0.01 + 0.5
    first = 1.0 + 0.01 + 0.01 + 0.001 * 101
    second = 1.0 + 0.01 + 0.01 + 0.001 * 102
    assert service.requests["finish"][0] == pytest.approx(moved + first + second, rel=1e-9)
    assert service.engines.state["free"].tolist() == [POLICY.blocks] * 2


def test_links_send_one_cache_after_the_other():
    both = stream([0.0, 0.0], [(30, 3)] * 2)
    service = together(both, fleet(2, prefill=1))
    begins = service.fleet.members["link_free"][0] - service.requests["first"].max()
    assert begins == pytest.approx(2 * 30 * 0.01, rel=1e-9)


@pytest.mark.parametrize("caching", [True, False])
def test_pools_conserve_requests_and_blocks(caching):
    policy = POLICY._replace(caching=caching, blocks=120)
    service = together(many(seed=7), fleet(4, prefill=2), policy)
    assert np.isfinite(service.requests["finish"]).all()
    np.testing.assert_array_equal(service.engines.state["free"], policy.blocks)


def test_engines_that_share_experts_wait_for_the_one_with_most_to_do():
    policy = POLICY._replace(overlapped=False)
    requests = stream([0.0, 5.5], [(4, 12), (120, 2)])
    apart, locked = (together(requests, fleet(2, lockstep=number), policy, ROUND_ROBIN) for number in (1, 2))
    assert locked.requests["finish"][0] > apart.requests["finish"][0] + 1.0
    assert apart.requests["finish"][1] <= locked.requests["finish"][1]


def test_a_prompt_on_one_rank_is_not_a_prompt_on_all():
    """Half of what follows a step's tokens serves those of both ranks: the one without a prompt has one of 41."""
    policy, ends = POLICY._replace(overlapped=False), []
    for share, padded in ((0.0, False), (0.5, False), (0.5, True)):
        service = new(stream([0.0, 1.5], [(1, 9), (40, 1)]), policy, fleet(2, lockstep=2), ROUND_ROBIN)
        half = service.tables[0]._replace(shared=share * service.tables[0].by_rows, padded=padded)
        service = service._replace(tables=(half, half))
        assert run_as_python(run_together, service, np.inf) == -1
        ends.append(service.requests["finish"][1])
    alone, shared, padded = ends
    fewer_rows = 0.5 * 0.01 * (40 - 41 / 2)  # 10 ms a token of a step
    assert alone - shared == pytest.approx(fewer_rows)
    assert padded == pytest.approx(alone)


def test_engines_that_share_experts_conserve_requests_and_blocks():
    service = together(many(seed=9), fleet(4, lockstep=2), POLICY)
    assert np.isfinite(service.requests["finish"]).all()
    np.testing.assert_array_equal(service.engines.state["free"], POLICY.blocks)
    ends = service.engines.state["busy_until"]
    assert ends[0] == ends[1]
    assert ends[2] == ends[3]


def test_equal_engines_that_share_experts_take_as_long_as_one():
    policy = POLICY._replace(overlapped=False)
    alone = together(stream([0.0], [(30, 9)]), fleet(1), policy)
    locked = together(stream([0.0, 0.0], [(30, 9)] * 2), fleet(2, lockstep=2), policy, ROUND_ROBIN)
    assert (locked.requests["finish"] == alone.requests["finish"][0]).all()


@pytest.mark.parametrize(("lengths", "steps"), [((4, 60), 6), ((4, 2), 1)])
def test_engines_that_align_prompts_wait_for_each_other(lengths, steps):
    """The second prompt of one engine waits while the other decodes, and has none to start, but not for ever."""
    policy = POLICY._replace(overlapped=False, align_steps=6)
    requests = stream([0.0, 0.0, 1.5], [(4, 60), lengths, (4, 2)])
    progress = together(requests, fleet(2, lockstep=2), policy, ROUND_ROBIN).requests
    decoded = np.round((progress["scheduled"][2] - progress["first"][0]) / 1.02, 0)
    assert progress["replica"][2] == 0
    assert decoded == pytest.approx(steps - 1, abs=1)
    free = together(requests, fleet(2, lockstep=2), POLICY._replace(overlapped=False), ROUND_ROBIN).requests
    assert free["first"][2] <= progress["first"][2]
