"""The engine's loop: as a scheduler that walks every request, with jumps and without, with everything conserved."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from serving_reference import Job, Reference

from costmodel.serving.availability import OFF, UP, Breakdown, Fleet, FleetState, Member, Outage, draw_gap, next_change
from costmodel.serving.deployment import deal_out
from costmodel.serving.first_run import run_as_python
from costmodel.serving.fleet import run_apart, run_together
from costmodel.serving.prices import Tables, attention_time, rows_time
from costmodel.serving.radix import paths_of_blocks
from costmodel.serving.routing import LEAST_LOADED, POWER_OF_TWO, PREFIX, ROUND_ROBIN, Service, new_router
from costmodel.serving.rows import as_objects
from costmodel.serving.state import NEVER, NEXT, NOBODY, Calls, Paths, Policy, Requests, Step, new_engines, new_records

POLICY = Policy(
    max_seqs=8, budget=64, block=4, blocks=60, overlapped=True, mixed=True, caching=False, reserve=False, drafts=0,
    tokens_per_step=1.0, jump=True,
)  # fmt: skip


def tables():
    """Return step times that depend on everything: 1 s, 10 ms a token and sequence, 1 ms a key."""
    axis = np.array([1.0, 1001.0])
    axes = [axis, axis, np.array([1.0, 9.0]), axis, axis, *[np.array([1.0])] * 5]
    rows, keys = np.meshgrid(axis, axis, indexing="ij")
    decodes = np.arange(20.0)[:, None]
    return Tables(
        axes=np.concatenate(axes), ends=np.cumsum([0, *map(len, axes)]), by_rows=1.0 + 0.01 * axis,
        by_sequences=0.01 * np.arange(40.0), decode=0.001 * decodes * axis,
        prompt=np.stack([1e-6 * rows * keys] * 2), mixed=np.zeros((1,) * 5), fused=False,
        shared=0.0 * axis,
    )  # fmt: skip


def direct(decodes, chunks):
    """Return the time of the same tables for a step of the reference."""
    rows = sum(rows for _, rows in chunks)
    keys = sum(job.computed for job in decodes)
    weighted = sum(rows * job.computed for job, rows in chunks)
    step = Step(float(len(decodes)), float(keys), len(chunks), float(rows), float(weighted), 0.0)
    return rows_time(tables(), len(decodes) + rows, len(decodes) + len(chunks)) + attention_time(tables(), step)


def fleet(number, prefill=0, outages=(), breakdowns=0, scaled=None, **changes):
    """Return a fleet that is up all the time, or as changed. scaled: when an autoscaler decides first."""
    members, state, failing = Member.zeros(number), FleetState.zeros(1), Breakdown.zeros(breakdowns)
    members["status"], members["weight"], members["blocks"] = UP, 1.0, POLICY.blocks
    state["change"], state["tick"] = np.inf, np.inf if scaled is None else scaled
    failing["fails"] = failing["back"] = np.inf
    failing["die"] = np.arange(1, breakdowns + 1)
    changed = Fleet(
        state, members, np.array(list(outages), dtype=Outage.dtype), failing, mtbf=0.0, repair=0.0, interval=0.0,
        least=0, most=number, target=1.0, start_up=0.0, max_waiting=int(NEVER), prefill=prefill, token_time=0.01,
        sending=0.01, receiving=0.0, latency=0.5, lockstep=1, prompt_lockstep=1,
    )._replace(**changes)  # fmt: skip
    with as_objects(changed) as objects:
        objects.state[0].change = next_change(objects)
    return changed


def stream(arrival, lengths, calls=NOBODY):
    count = len(arrival)
    each = Calls.none(count) if calls == NOBODY else Calls.of(count, range(count), [calls] * count, [0.0] * count)
    return Requests(
        np.array(arrival, dtype=float), np.array(lengths, dtype=np.int64).reshape(count, 2), each, Paths.none(count)
    )


def shared(requests, ids):
    """Return the requests with the prefix blocks of each."""
    number = np.array([len(each) for each in ids], np.int64)
    return requests._replace(paths=paths_of_blocks(np.array([i for each in ids for i in each], np.int64), number))


def times(progress):
    """Return when each request was taken in, was first computed, and got its first and last token."""
    return np.stack([progress[name] for name in ("queued", "scheduled", "first", "finish")])


def serve(requests, policy=POLICY, replicas=1, kind=None):
    """Return progress and engines after all requests."""
    service = new(requests, policy, fleet(replicas), ROUND_ROBIN if kind is None else kind)
    if kind is None:
        service.requests["replica"] = np.arange(len(requests.arrival)) % replicas
        deal_out(service.requests, service.engines)
    assert run_as_python(run_apart if kind is None else run_together, service, np.inf) == -1
    return requests, service.requests, service.engines


def new(requests, policy, of, kind):
    """Return a deployment that has served nothing. of: the fleet."""
    number = len(of.members)
    router = new_router(kind, 0.0, number, requests)
    engines = new_engines(number, policy, requests.paths.sizes, 16, len(requests.arrival))
    records, dice = new_records(requests), np.random.default_rng(0).integers(0, number, (len(requests.arrival), 2))
    records["die"], records["other_die"] = dice.T
    return Service(records, requests.paths, requests.calls, engines, (policy, policy), (tables(), tables()), router, of)


LENGTHS = st.tuples(st.integers(1, 120), st.integers(1, 40))
STREAMS = st.lists(st.tuples(st.floats(0, 200), LENGTHS), min_size=1, max_size=9).map(
    lambda rows: stream(sorted(row[0] for row in rows), [row[1] for row in rows])
)
POLICIES = st.builds(
    lambda seats, budget, blocks, overlapped: POLICY._replace(
        max_seqs=seats, budget=budget, blocks=blocks, overlapped=overlapped
    ),
    st.integers(1, 8), st.integers(8, 90), st.integers(45, 200), st.booleans(),
)  # fmt: skip


@given(STREAMS, POLICIES)
@settings(max_examples=25, deadline=None)
def test_counting_equals_walking_every_request(requests, policy):
    _, progress, _ = serve(requests, policy)
    jobs = [
        Job(i, a, int(p), int(o)) for i, (a, (p, o)) in enumerate(zip(requests.arrival, requests.length, strict=True))
    ]
    Reference(tables(), policy, direct).serve(jobs)
    assert [job.preempted for job in jobs] == progress["preempted"].tolist()
    np.testing.assert_allclose(progress["first"], [job.first for job in jobs], rtol=1e-12)
    np.testing.assert_allclose(progress["finish"], [job.finish for job in jobs], rtol=1e-12)


@pytest.mark.parametrize("prompt", [70_000, 350_000])
def test_long_chunks_of_long_prompts_are_counted_as_they_are(prompt):
    """Rows times keys of a chunk have more than 32 bits, lengths of the whole run do not."""
    policy = POLICY._replace(budget=200_000, blocks=100_002)
    _, progress, _ = serve(stream([0.0], [(prompt, 2)]), policy)
    job = Job(0, 0.0, prompt, 2)
    Reference(tables(), policy, direct).serve([job])
    assert progress["first"][0] == pytest.approx(job.first, rel=1e-9)


def whether_it_jumps_or_not(requests, policy):
    """Return progress and engines, which are the same without jumps."""
    (_, progress, engines), (_, other, others) = (serve(requests, policy._replace(jump=jump)) for jump in (True, False))
    np.testing.assert_array_equal(times(progress), times(other))
    for mine, theirs in zip(engines, others, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    return progress, engines


@given(STREAMS, POLICIES, st.booleans(), st.booleans(), st.sampled_from([(1.0, 1), (1.7, 1), (2.5, 7), (1.0, 3)]))
@settings(max_examples=25, deadline=None)
def test_a_jump_changes_nothing(requests, policy, mixed, caching, steps):
    changes = {"mixed": mixed, "caching": caching, "tokens_per_step": steps[0], "look_steps": steps[1]}
    whether_it_jumps_or_not(requests, policy._replace(**changes))


@given(STREAMS, POLICIES, st.integers(0, 60), st.booleans())
@settings(max_examples=25, deadline=None)
def test_a_swapped_cache_is_not_computed_again(requests, policy, room, caching):
    policy = policy._replace(blocks=45, caching=caching, swap_time=0.25, host_blocks=room)
    progress, engines = whether_it_jumps_or_not(requests, policy)
    count = engines.state[0]
    assert np.isfinite(progress["finish"]).all()
    assert (count["free"], count["host_free"]) == (policy.blocks, room)
    if room == 60 and not caching:
        lost = count["preemptions"] * 90  # at most a step of a prompt that was computed in part
        assert count["prompt_tokens"] - requests.length[:, 0].sum() <= lost
    if count["swapped_out"] == 0:
        _, recomputed, _ = serve(requests, policy._replace(swap_time=0.0))
        np.testing.assert_array_equal(progress["finish"], recomputed["finish"])


def test_a_swap_takes_two_copies():
    requests = stream([0.0, 0.0], [(40, 60), (40, 60)])
    policy = POLICY._replace(blocks=30, overlapped=False, host_blocks=1000)
    finish = {}
    for seconds in (1e-9, 1.0):
        _, progress, engines = serve(requests, policy._replace(swap_time=seconds))
        finish[seconds] = progress["finish"].max()
        moved = -(-int(engines.state["swapped_out"][0]) // policy.block)
        assert engines.state["preemptions"][0] == 1
    assert finish[1.0] - finish[1e-9] == pytest.approx(2 * moved)


def test_a_tier_gives_back_what_the_device_has_lost():
    first, second = list(range(10)), list(range(10, 20))
    requests = shared(stream([0.0, 100.0, 200.0], [(44, 2)] * 3), [first, second, first])
    policy = POLICY._replace(blocks=12, caching=True, overlapped=False)
    _, without, _ = serve(requests, policy)
    assert without["hit"][2] < 40
    for blocks, seconds in ((20, 0.1), (100, 0.1), (20, 0.2)):
        tiers = policy._replace(tier_blocks=(blocks, 0), tier_time=(seconds, 0.0))
        _, progress, engines = serve(requests, tiers)
        assert progress["hit"][2] == 40
        loaded = engines.state["loaded"][0] // policy.block
        assert loaded == 10 - without["hit"][2] // policy.block
        computed = progress["first"][2] - 200.0 - loaded * seconds
        assert computed < without["first"][2] - 200.0
    _, progress, _ = serve(requests, policy._replace(tier_blocks=(10, 0), tier_time=(0.1, 0.0)))
    assert progress["hit"][2] == without["hit"][2]  # the tier has kept the second prompt's blocks only
    _, progress, engines = serve(requests, policy._replace(tier_blocks=(10, 10), tier_time=(0.1, 7.0)))
    assert progress["hit"][2] == 40
    assert progress["first"][2] > 200.0 + 7.0 * engines.state["loaded"][0] / policy.block


@given(STREAMS, POLICIES, st.data())
@settings(max_examples=25, deadline=None)
def test_tokens_blocks_and_requests_are_conserved(requests, policy, data):
    prefixes = data.draw(st.lists(st.integers(0, 12), min_size=len(requests.arrival), max_size=len(requests.arrival)))
    ids = [list(range(min(n, int(p) // 4))) for n, p in zip(prefixes, requests.length[:, 0], strict=True)]
    requests = shared(requests, ids)
    _, progress, engines = serve(requests, policy._replace(caching=True))
    count, prompt = engines.state[0], int(requests.length[:, 0].sum())
    assert np.isfinite(progress["finish"]).all()
    assert count["free"] == policy.blocks
    hits = int(progress["hit"].sum())
    computed_again = count["prompt_tokens"] - (prompt - hits)
    preempted_prompts = computed_again - count["recomputed"]
    assert -prompt * (1 + count["preemptions"]) <= preempted_prompts <= 0
    if count["preemptions"] == 0:
        assert computed_again == 0
    gaps = engines.gaps.sum()
    assert gaps == requests.length[:, 1].sum() - len(requests.arrival)


def test_a_request_alone_takes_its_steps():
    _, progress, engines = serve(stream([5.0], [(100, 3)]), POLICY._replace(overlapped=False))
    chunks = 1.0 + 0.01 * 64 + 0.01 + 1e-6 * 64 * 64, 1.0 + 0.01 * 36 + 0.01 + 1e-6 * 36 * 100
    decodes = sum(1.0 + 0.01 + 0.01 + 0.001 * keys for keys in (101, 102))
    assert progress["first"][0] == pytest.approx(5.0 + sum(chunks), rel=1e-12)
    assert progress["finish"][0] == pytest.approx(5.0 + sum(chunks) + decodes, rel=1e-12)
    assert engines.state["steps"][0] == 4


def test_an_arrival_waits_for_the_running_and_the_decided_step():
    alone = stream([0.0], [(4, 50)])
    both = stream([0.0, 10.2], [(4, 50), (4, 1)])
    ends = {}
    for overlapped in (False, True):
        _, progress, _ = serve(both, POLICY._replace(overlapped=overlapped))
        ends[overlapped] = progress["first"][1] - 10.2
        assert serve(alone, POLICY._replace(overlapped=overlapped))[1]["finish"][0] > 10.2
    assert 0.9 < ends[True] - ends[False] < 1.2  # a step


@pytest.mark.parametrize("arrival", [2.5, 50.0])
def test_an_engine_that_looks_seldom_sees_a_request_after_so_many_steps_or_when_idle(arrival):
    policy = POLICY._replace(overlapped=False, mixed=False, look_steps=6)
    _, progress, _ = serve(stream([0.0, arrival], [(4, 20), (4, 2)]), policy)
    ends = progress["first"][0] + np.cumsum([1.02 + 0.001 * (4 + token) for token in range(1, 20)])
    assert progress["scheduled"][1] == pytest.approx(ends[5] if arrival < ends[-1] else arrival, rel=1e-12)


def test_a_prefix_is_computed_once():
    requests = shared(stream([0.0, 100.0], [(40, 2), (42, 2)]), [range(10), range(10)])
    _, progress, _ = serve(requests, POLICY._replace(caching=True))
    assert progress["hit"].tolist() == [0, 40]


def test_of_a_prompt_that_is_cached_whole_the_last_block_is_computed():
    requests = shared(stream([0.0, 100.0], [(40, 2), (40, 2)]), [range(10), range(10)])
    _, progress, _ = serve(requests, POLICY._replace(caching=True))
    assert progress["hit"].tolist() == [0, 36]


def test_the_end_of_an_old_prefix_is_evicted_first():
    old, new = list(range(10)), list(range(10, 21))
    requests = shared(stream([0.0, 100.0, 200.0], [(40, 2), (44, 2), (41, 2)]), [old, new, old])
    _, progress, _ = serve(requests, POLICY._replace(caching=True, blocks=18))
    assert 0 < progress["hit"][2] < 40


def test_a_closed_loop_keeps_its_requests_in_flight():
    requests = stream([0.0] * 3 + [np.inf] * 9, [(8, 5)] * 12, NEXT)
    _, progress, _ = serve(requests, kind=ROUND_ROBIN)
    finish = np.sort(progress["finish"])
    np.testing.assert_array_equal(np.sort(progress["arrival"][3:]), finish[:9])


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


def together(requests, changed, policy=POLICY, kind=LEAST_LOADED, until=np.inf):
    """Return the service after all requests, with a fleet that changes."""
    service = new(requests, policy, changed, kind)
    service.engines.state["prompts_only"][: changed.prefill] = 1
    assert run_as_python(run_together, service, until) == -1
    return service


def scaled(number, **changes):
    """Return a fleet of an autoscaler, which starts with one engine."""
    found = fleet(number, scaled=5.0, **changes)
    found.members["status"][1:] = OFF
    return found


def many(seed=4, count=40):
    draw = np.random.default_rng(seed)
    return stream(np.cumsum(draw.exponential(3.0, count)), draw.integers(1, 50, (count, 2)))


def outage(at, lasts, replica=0):
    return {"outages": [(at, replica, 0), (at + lasts, replica, 1)]}


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


def test_whole_prompts_wait_for_a_step_that_holds_them():
    requests = stream([0.0, 0.0], [(40, 3), (40, 3)])
    cut, whole = (serve(requests, POLICY._replace(whole_prompts=each)) for each in (False, True))
    assert cut[2].state["steps"][0] == whole[2].state["steps"][0]
    assert cut[1]["scheduled"][1] == cut[1]["scheduled"][0]
    assert whole[1]["scheduled"][1] > whole[1]["scheduled"][0]
    assert np.isfinite(serve(stream([0.0], [(100, 3)]), POLICY._replace(whole_prompts=True))[1]["finish"][0])
