"""The engine's loop: as a scheduler that walks every request, with jumps and without, with everything conserved."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from serving_reference import Job, Reference

from costmodel.serving.availability import OFF, UP, Fleet, draw_gap, next_change
from costmodel.serving.fleet import deal_out, run_apart, run_together
from costmodel.serving.prices import Tables, attention_time, p_norms, rows_time
from costmodel.serving.routing import LEAST_LOADED, POWER_OF_TWO, PREFIX, ROUND_ROBIN, Service, new_router
from costmodel.serving.state import (
    FINISH,
    FIRST,
    FREE,
    HIT,
    HOST_FREE,
    LOADED,
    NEVER,
    NEXT,
    NOBODY,
    PREEMPTED,
    PREEMPTIONS,
    PROMPT_TOKENS,
    PROMPTS_ONLY,
    RECOMPUTED,
    REPLICA,
    SCHEDULED,
    STEPS,
    SWAPPED_OUT,
    Policy,
    Requests,
    new_fleet,
    new_progress,
)

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
        uneven=0.0005 * decodes * axis, filling=3.0, p=1.5, norms=p_norms(1.5),
    )  # fmt: skip


def direct(decodes, chunks):
    """Return the time of the same tables for a step of the reference."""
    rows = sum(rows for _, rows in chunks)
    keys = sum(job.computed for job in decodes)
    weighted = sum(rows * job.computed for job, rows in chunks)
    longest = max((job.computed for job in decodes), default=0)
    step = np.array([len(decodes), keys, len(chunks), rows, weighted, longest], dtype=float)
    return rows_time(tables(), len(decodes) + rows, len(decodes) + len(chunks)) + attention_time(tables(), step)


def fleet(number, prefill=0, **changes):
    """Return a fleet that is up all the time, or as changed."""
    none = np.zeros(0)
    always = Fleet(
        status=np.full(number, UP), ready=np.zeros(number), since=np.zeros(number), rented=np.zeros(number),
        outage_time=none, outage_engine=none.astype(int), outage_ends=none.astype(int), next_outage=np.zeros(1, int),
        breakdown=np.zeros((0, 2)), dice=np.zeros(0, int), mtbf=0.0, repair=0.0, outages=np.zeros(number, int),
        failures=np.zeros(1, int), change=np.full(1, np.inf), tick=np.full(1, np.inf), interval=0.0, least=0,
        most=number, target=1.0, start_up=0.0, max_waiting=int(NEVER), lost=np.zeros(1, int), rejected=np.zeros(1, int),
        prefill=prefill,
        token_time=0.01, latency=0.5, link_free=np.zeros(number), lockstep=1,
    )  # fmt: skip
    changed = always._replace(**changes)
    changed.change[0] = next_change(changed)
    return changed


def stream(arrival, lengths, calls=NOBODY):
    count = len(arrival)
    return Requests(
        np.array(arrival, dtype=float), np.array(lengths, dtype=np.int64).reshape(count, 2), np.full(count, calls),
        np.zeros(count), np.zeros(count + 1, np.int64), np.zeros(0, np.int32),
    )  # fmt: skip


def shared(requests, ids):
    """Return the requests with the prefix blocks of each."""
    first = np.concatenate([[0], np.cumsum([len(each) for each in ids])]).astype(np.int64)
    return requests._replace(first_id=first, ids=np.array([i for each in ids for i in each], dtype=np.int32))


def serve(requests, policy=POLICY, replicas=1, kind=None):
    """Return progress and engines after all requests."""
    requests = requests._replace(arrival=requests.arrival.copy())
    progress, engines = new_progress(requests), new_fleet(replicas, policy, requests, 16)
    if kind is None:
        progress.count[:, REPLICA] = np.arange(len(requests.arrival)) % replicas
        deal_out(requests, progress, engines)
        assert run_apart(requests, progress, engines, policy, tables(), np.inf) == -1
    else:
        router = new_router(kind, 0.0, replicas, len(requests.arrival), 0)
        assert (
            run_together(Service(requests, progress, engines, policy, tables(), router, fleet(replicas)), np.inf) == -1
        )
    return requests, progress, engines


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
    assert [job.preempted for job in jobs] == progress.count[:, PREEMPTED].tolist()
    np.testing.assert_allclose(progress.time[:, FIRST], [job.first for job in jobs], rtol=1e-12)
    np.testing.assert_allclose(progress.time[:, FINISH], [job.finish for job in jobs], rtol=1e-12)


@pytest.mark.parametrize("prompt", [70_000, 350_000])
def test_long_chunks_of_long_prompts_are_counted_as_they_are(prompt):
    """Rows times keys of a chunk have more than 32 bits, lengths of the whole run do not."""
    policy = POLICY._replace(budget=200_000, blocks=100_002)
    _, progress, _ = serve(stream([0.0], [(prompt, 2)]), policy)
    job = Job(0, 0.0, prompt, 2)
    Reference(tables(), policy, direct).serve([job])
    assert progress.time[0, FIRST] == pytest.approx(job.first, rel=1e-9)


@given(STREAMS, POLICIES, st.booleans(), st.booleans(), st.sampled_from([(1.0, 1), (1.7, 1), (2.5, 7), (1.0, 3)]))
@settings(max_examples=25, deadline=None)
def test_a_jump_changes_nothing(requests, policy, mixed, caching, steps):
    policy = policy._replace(mixed=mixed, caching=caching, tokens_per_step=steps[0], look_steps=steps[1])
    results = [serve(requests, policy._replace(jump=jump)) for jump in (True, False)]
    for (_, progress, engines), (_, other, others) in [results]:
        np.testing.assert_array_equal(progress.time[:, :4], other.time[:, :4])
        for mine, theirs in zip(engines, others, strict=True):
            np.testing.assert_array_equal(mine, theirs)


@given(STREAMS, POLICIES, st.integers(0, 60), st.booleans())
@settings(max_examples=25, deadline=None)
def test_a_swapped_cache_is_not_computed_again(requests, policy, room, caching):
    policy = policy._replace(blocks=45, caching=caching, swap_time=0.25, host_blocks=room)
    results = [serve(requests, policy._replace(jump=jump)) for jump in (True, False)]
    (_, progress, engines), (_, other, others) = results
    np.testing.assert_array_equal(progress.time[:, :4], other.time[:, :4])
    for mine, theirs in zip(engines, others, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    count = engines.count[0]
    assert np.isfinite(progress.time[:, FINISH]).all()
    assert (count[FREE], count[HOST_FREE]) == (policy.blocks, room)
    if room == 60 and not caching:
        lost = count[PREEMPTIONS] * 90  # at most a step of a prompt that was computed in part
        assert count[PROMPT_TOKENS] - requests.length[:, 0].sum() <= lost
    if count[SWAPPED_OUT] == 0:
        _, recomputed, _ = serve(requests, policy._replace(swap_time=0.0))
        np.testing.assert_array_equal(progress.time[:, FINISH], recomputed.time[:, FINISH])


def test_a_swap_takes_two_copies():
    requests = stream([0.0, 0.0], [(40, 60), (40, 60)])
    policy = POLICY._replace(blocks=30, overlapped=False, host_blocks=1000)
    finish = {}
    for seconds in (1e-9, 1.0):
        _, progress, engines = serve(requests, policy._replace(swap_time=seconds))
        finish[seconds] = progress.time[:, FINISH].max()
        moved = -(-int(engines.count[0, SWAPPED_OUT]) // policy.block)
        assert engines.count[0, PREEMPTIONS] == 1
    assert finish[1.0] - finish[1e-9] == pytest.approx(2 * moved)


def test_a_tier_gives_back_what_the_device_has_lost():
    first, second = list(range(10)), list(range(10, 20))
    requests = shared(stream([0.0, 100.0, 200.0], [(44, 2)] * 3), [first, second, first])
    policy = POLICY._replace(blocks=12, caching=True, overlapped=False)
    _, without, _ = serve(requests, policy)
    assert without.count[2, HIT] < 40
    for blocks, seconds in ((20, 0.1), (100, 0.1), (20, 0.2)):
        tiers = policy._replace(tier_blocks=(blocks, 0), tier_time=(seconds, 0.0))
        _, progress, engines = serve(requests, tiers)
        assert progress.count[2, HIT] == 40
        loaded = engines.count[0, LOADED] // policy.block
        assert loaded == 10 - without.count[2, HIT] // policy.block
        computed = progress.time[2, FIRST] - 200.0 - loaded * seconds
        assert computed < without.time[2, FIRST] - 200.0
    _, progress, _ = serve(requests, policy._replace(tier_blocks=(10, 0), tier_time=(0.1, 0.0)))
    assert progress.count[2, HIT] == without.count[2, HIT]  # the tier has kept the second prompt's blocks only
    _, progress, engines = serve(requests, policy._replace(tier_blocks=(10, 10), tier_time=(0.1, 7.0)))
    assert progress.count[2, HIT] == 40
    assert progress.time[2, FIRST] > 200.0 + 7.0 * engines.count[0, LOADED] / policy.block


@given(STREAMS, POLICIES, st.data())
@settings(max_examples=25, deadline=None)
def test_tokens_blocks_and_requests_are_conserved(requests, policy, data):
    prefixes = data.draw(st.lists(st.integers(0, 12), min_size=len(requests.arrival), max_size=len(requests.arrival)))
    ids = [list(range(min(n, int(p) // 4))) for n, p in zip(prefixes, requests.length[:, 0], strict=True)]
    requests = shared(requests, ids)
    _, progress, engines = serve(requests, policy._replace(caching=True))
    count, prompt = engines.count[0], int(requests.length[:, 0].sum())
    assert np.isfinite(progress.time[:, FINISH]).all()
    assert count[FREE] == policy.blocks
    hits = int(progress.count[:, 7].sum())
    computed_again = count[PROMPT_TOKENS] - (prompt - hits)
    preempted_prompts = computed_again - count[RECOMPUTED]
    assert -prompt * (1 + count[PREEMPTIONS]) <= preempted_prompts <= 0
    if count[PREEMPTIONS] == 0:
        assert computed_again == 0
    gaps = engines.gaps.sum()
    assert gaps == requests.length[:, 1].sum() - len(requests.arrival)


def test_a_request_alone_takes_its_steps():
    _, progress, engines = serve(stream([5.0], [(100, 3)]), POLICY._replace(overlapped=False))
    chunks = 1.0 + 0.01 * 64 + 0.01 + 1e-6 * 64 * 64, 1.0 + 0.01 * 36 + 0.01 + 1e-6 * 36 * 100
    decodes = sum(1.0 + 0.01 + 0.01 + 0.001 * keys for keys in (101, 102))
    assert progress.time[0, FIRST] == pytest.approx(5.0 + sum(chunks), rel=1e-12)
    assert progress.time[0, FINISH] == pytest.approx(5.0 + sum(chunks) + decodes, rel=1e-12)
    assert engines.count[0, STEPS] == 4


def test_an_arrival_waits_for_the_running_and_the_decided_step():
    alone = stream([0.0], [(4, 50)])
    both = stream([0.0, 10.2], [(4, 50), (4, 1)])
    ends = {}
    for overlapped in (False, True):
        _, progress, _ = serve(both, POLICY._replace(overlapped=overlapped))
        ends[overlapped] = progress.time[1, FIRST] - 10.2
        assert serve(alone, POLICY._replace(overlapped=overlapped))[1].time[0, FINISH] > 10.2
    assert 0.9 < ends[True] - ends[False] < 1.2  # a step


@pytest.mark.parametrize("arrival", [2.5, 50.0])
def test_an_engine_that_looks_seldom_sees_a_request_after_so_many_steps_or_when_idle(arrival):
    policy = POLICY._replace(overlapped=False, mixed=False, look_steps=6)
    _, progress, _ = serve(stream([0.0, arrival], [(4, 20), (4, 2)]), policy)
    ends = progress.time[0, FIRST] + np.cumsum([1.02 + 0.001 * (4 + token) for token in range(1, 20)])
    assert progress.time[1, SCHEDULED] == pytest.approx(ends[5] if arrival < ends[-1] else arrival, rel=1e-12)


def test_a_prefix_is_computed_once():
    requests = shared(stream([0.0, 100.0], [(40, 2), (42, 2)]), [range(10), range(10)])
    _, progress, _ = serve(requests, POLICY._replace(caching=True))
    assert progress.count[:, 7].tolist() == [0, 40]


def test_of_a_prompt_that_is_cached_whole_the_last_block_is_computed():
    requests = shared(stream([0.0, 100.0], [(40, 2), (40, 2)]), [range(10), range(10)])
    _, progress, _ = serve(requests, POLICY._replace(caching=True))
    assert progress.count[:, 7].tolist() == [0, 36]


def test_the_end_of_an_old_prefix_is_evicted_first():
    old, new = list(range(10)), list(range(10, 21))
    requests = shared(stream([0.0, 100.0, 200.0], [(40, 2), (44, 2), (41, 2)]), [old, new, old])
    _, progress, _ = serve(requests, POLICY._replace(caching=True, blocks=18))
    assert 0 < progress.count[2, 7] < 40


def test_a_closed_loop_keeps_its_requests_in_flight():
    requests = stream([0.0] * 3 + [np.inf] * 9, [(8, 5)] * 12, NEXT)
    served, progress, _ = serve(requests, kind=ROUND_ROBIN)
    finish = np.sort(progress.time[:, FINISH])
    np.testing.assert_array_equal(np.sort(served.arrival[3:]), finish[:9])


@pytest.mark.parametrize("kind", [ROUND_ROBIN, LEAST_LOADED, POWER_OF_TWO, PREFIX])
def test_every_router_serves_all_and_jumps_change_nothing(kind):
    draw = np.random.default_rng(1)
    requests = stream(np.cumsum(draw.exponential(2.0, 60)), draw.integers(1, 50, (60, 2)))
    requests = shared(requests, [list(range(i % 3, i % 3 + int(p) // 4)) for i, p in enumerate(requests.length[:, 0])])
    results = [serve(requests, POLICY._replace(caching=True, jump=jump), 3, kind)[1] for jump in (True, False)]
    assert np.isfinite(results[0].time[:, FINISH]).all()
    np.testing.assert_array_equal(results[0].time[:, :4], results[1].time[:, :4])


def test_round_robin_is_the_same_apart_and_together():
    draw = np.random.default_rng(2)
    requests = stream(np.cumsum(draw.exponential(2.0, 60)), draw.integers(1, 50, (60, 2)))
    apart, together = serve(requests, replicas=3)[1], serve(requests, replicas=3, kind=ROUND_ROBIN)[1]
    np.testing.assert_array_equal(apart.time[:, :4], together.time[:, :4])


def test_least_loaded_waits_less_than_round_robin():
    draw = np.random.default_rng(3)
    requests = stream(
        np.cumsum(draw.exponential(6.0, 100)), np.stack([draw.integers(1, 20, 100), draw.geometric(0.05, 100)], 1)
    )
    waits = [np.mean(serve(requests, replicas=4, kind=kind)[1].time[:, FIRST] - requests.arrival)
             for kind in (ROUND_ROBIN, LEAST_LOADED)]  # fmt: skip
    assert waits[1] < waits[0]


def together(requests, changed, policy=POLICY, kind=LEAST_LOADED, until=np.inf):
    """Return the service after all requests, with a fleet that changes."""
    requests = requests._replace(arrival=requests.arrival.copy())
    number = len(changed.status)
    engines = new_fleet(number, policy, requests, 16)
    engines.count[: changed.prefill, PROMPTS_ONLY] = 1
    router = new_router(kind, 0.0, number, len(requests.arrival), 0)
    service = Service(requests, new_progress(requests), engines, policy, tables(), router, changed)
    assert run_together(service, until) == -1
    return service


def many(seed=4, count=40):
    draw = np.random.default_rng(seed)
    return stream(np.cumsum(draw.exponential(3.0, count)), draw.integers(1, 50, (count, 2)))


def outage(at, lasts, replica=0):
    times = np.array([at, at + lasts])
    return {
        "outage_time": times, "outage_engine": np.array([replica] * 2), "outage_ends": np.array([0, 1]),
    }  # fmt: skip


@pytest.mark.parametrize("jump", [True, False])
def test_a_failure_loses_no_request_and_no_block(jump):
    policy = POLICY._replace(caching=True, jump=jump)
    service = together(many(), fleet(2, **outage(30.0, 40.0)), policy)
    assert np.isfinite(service.progress.time[:, FINISH]).all()
    assert service.fleet.lost[0] > 0
    np.testing.assert_array_equal(service.engines.count[:, FREE], policy.blocks)
    undisturbed = together(many(), fleet(2), policy)
    assert service.progress.time[:, FINISH].mean() > undisturbed.progress.time[:, FINISH].mean()


def test_while_all_engines_are_down_requests_wait():
    service = together(stream([50.0], [(4, 3)]), fleet(1, **outage(10.0, 100.0)))
    assert service.progress.time[0, FIRST] > 110.0


def test_an_engine_serves_again_when_its_last_outage_is_over():
    """One from 10 to 110 s, another from 60 to 160 s."""
    twice = {"outage_time": np.array([10.0, 60.0, 110.0, 160.0]), "outage_engine": np.zeros(4, int),
             "outage_ends": np.array([0, 0, 1, 1])}  # fmt: skip
    service = together(stream([50.0], [(4, 3)]), fleet(1, **twice))
    assert service.progress.time[0, FIRST] > 160.0


def breaking(replicas, mtbf, repair, number=None):
    """Return a fleet whose replicas, each of several engines, fail at random."""
    dice = np.random.default_rng(2).integers(1, 2**31 - 1, replicas)
    found = fleet(number or replicas, breakdown=np.full((replicas, 2), np.inf), dice=dice, mtbf=mtbf, repair=repair)
    found.breakdown[:, 0] = [draw_gap(found, replica) for replica in range(replicas)]
    found.change[0] = next_change(found)
    return found


def test_gaps_between_breakdowns_are_exponential():
    """The generator's 10,000th state from 1 on is its authors' own check."""
    found = fleet(1, breakdown=np.full((1, 2), np.inf), dice=np.ones(1, int), mtbf=50.0)
    gaps = np.array([draw_gap(found, 0) for _ in range(10_000)])
    assert found.dice[0] == 1_043_618_065
    assert gaps.mean() == pytest.approx(50.0, rel=0.03)
    assert (gaps > 100.0).mean() == pytest.approx(np.exp(-2.0), rel=0.1)


def test_engines_that_break_down_lose_no_request_and_serve_as_often_as_they_work():
    requests = many(count=120)
    service = together(requests, breaking(3, 60.0, 20.0, number=6))
    assert np.isfinite(service.progress.time[:, FINISH]).all()
    assert service.fleet.lost[0] > 0
    np.testing.assert_array_equal(service.engines.count[:, FREE], POLICY.blocks)
    expected = 3 * service.progress.time[:, FINISH].max() / (60.0 + 20.0)
    assert service.fleet.failures[0] == pytest.approx(expected, abs=3.0 * expected**0.5)
    lasting = together(requests, breaking(3, 60.0, 60.0, number=6))
    assert lasting.progress.time[:, FINISH].mean() > service.progress.time[:, FINISH].mean()


def test_jumps_change_nothing_with_failures_pools_and_an_autoscaler():
    for make in (
        lambda: fleet(3, **outage(20.0, 30.0)),
        lambda: breaking(3, 40.0, 10.0),
        lambda: fleet(3, prefill=1),
        lambda: fleet(3, status=np.array([UP, OFF, OFF]), tick=np.full(1, 5.0), interval=5.0, least=1, target=4.0,
                      start_up=7.0),
    ):  # fmt: skip
        results = [together(many(), make(), POLICY._replace(jump=jump)) for jump in (True, False)]
        np.testing.assert_array_equal(*(each.progress.time[:, :4] for each in results))


def test_an_autoscaler_starts_engines_under_load_and_gives_them_back():
    busy = stream([1.0 * i for i in range(60)] + [5000.0], [(10, 30)] * 61)
    scale = {"tick": np.full(1, 5.0), "interval": 5.0, "least": 1, "target": 8.0, "start_up": 20.0}
    scaled = together(busy, fleet(4, status=np.array([UP, OFF, OFF, OFF]), **scale))
    alone = together(busy, fleet(1))
    assert (np.bincount(scaled.progress.count[:, REPLICA], minlength=4) > 0).all()
    assert scaled.progress.time[:60, FINISH].max() < alone.progress.time[:60, FINISH].max()
    assert scaled.fleet.status.tolist().count(OFF) == 3
    assert 0.0 < scaled.fleet.rented[1] < 1000.0


def test_a_full_queue_turns_requests_away():
    burst = stream([0.0] * 50, [(10, 10)] * 50)
    service = together(burst, fleet(1, max_waiting=10))
    served = np.isfinite(service.progress.time[:, FINISH])
    assert service.fleet.rejected[0] == 50 - served.sum() == 40
    assert (service.progress.count[~served, REPLICA] == -1).all()


def test_a_prompt_moves_to_the_engine_that_decodes_it():
    service = together(stream([0.0], [(100, 3)]), fleet(2, prefill=1), POLICY._replace(overlapped=False))
    prompts = 1.0 + 0.01 * 64 + 0.01 + 1e-6 * 64 * 64 + 1.0 + 0.01 * 36 + 0.01 + 1e-6 * 36 * 100
    assert service.progress.time[0, FIRST] == pytest.approx(prompts, rel=1e-12)
    moved = prompts + 100 * 0.01 + 0.5
    first = 1.0 + 0.01 + 0.01 + 1e-6 * 101
    second = 1.0 + 0.01 + 0.01 + 0.001 * 102
    assert service.progress.time[0, FINISH] == pytest.approx(moved + first + second, rel=1e-9)
    assert service.engines.count[:, FREE].tolist() == [POLICY.blocks] * 2


def test_links_send_one_cache_after_the_other():
    both = stream([0.0, 0.0], [(30, 3)] * 2)
    service = together(both, fleet(2, prefill=1))
    begins = service.fleet.link_free[0] - service.progress.time[:, FIRST].max()
    assert begins == pytest.approx(2 * 30 * 0.01, rel=1e-9)


@pytest.mark.parametrize("caching", [True, False])
def test_pools_conserve_requests_and_blocks(caching):
    policy = POLICY._replace(caching=caching, blocks=120)
    service = together(many(seed=7), fleet(4, prefill=2), policy)
    assert np.isfinite(service.progress.time[:, FINISH]).all()
    np.testing.assert_array_equal(service.engines.count[:, FREE], policy.blocks)


def test_engines_that_share_experts_wait_for_the_one_with_most_to_do():
    policy = POLICY._replace(overlapped=False)
    requests = stream([0.0, 5.5], [(4, 12), (120, 2)])
    apart, locked = (together(requests, fleet(2, lockstep=number), policy, ROUND_ROBIN) for number in (1, 2))
    assert locked.progress.time[0, FINISH] > apart.progress.time[0, FINISH] + 1.0
    assert apart.progress.time[1, FINISH] <= locked.progress.time[1, FINISH]


def test_engines_that_share_experts_conserve_requests_and_blocks():
    service = together(many(seed=9), fleet(4, lockstep=2), POLICY)
    assert np.isfinite(service.progress.time[:, FINISH]).all()
    np.testing.assert_array_equal(service.engines.count[:, FREE], POLICY.blocks)
    ends = service.engines.clock[:, 1]
    assert ends[0] == ends[1]
    assert ends[2] == ends[3]


def test_equal_engines_that_share_experts_take_as_long_as_one():
    policy = POLICY._replace(overlapped=False)
    alone = together(stream([0.0], [(30, 9)]), fleet(1), policy)
    locked = together(stream([0.0, 0.0], [(30, 9)] * 2), fleet(2, lockstep=2), policy, ROUND_ROBIN)
    assert (locked.progress.time[:, FINISH] == alone.progress.time[0, FINISH]).all()


@pytest.mark.parametrize(("lengths", "steps"), [((4, 60), 6), ((4, 2), 1)])
def test_engines_that_align_prompts_wait_for_each_other(lengths, steps):
    """The second prompt of one engine waits while the other decodes, and has none to start, but not for ever."""
    policy = POLICY._replace(overlapped=False, align_steps=6)
    requests = stream([0.0, 0.0, 1.5], [(4, 60), lengths, (4, 2)])
    progress = together(requests, fleet(2, lockstep=2), policy, ROUND_ROBIN).progress
    decoded = np.round((progress.time[2, SCHEDULED] - progress.time[0, FIRST]) / 1.02, 0)
    assert progress.count[2, REPLICA] == 0
    assert decoded == pytest.approx(steps - 1, abs=1)
    free = together(requests, fleet(2, lockstep=2), POLICY._replace(overlapped=False), ROUND_ROBIN).progress
    assert free.time[2, FIRST] <= progress.time[2, FIRST]


def test_whole_prompts_wait_for_a_step_that_holds_them():
    requests = stream([0.0, 0.0], [(40, 3), (40, 3)])
    cut, whole = (serve(requests, POLICY._replace(whole_prompts=each)) for each in (False, True))
    assert cut[2].count[0, STEPS] == whole[2].count[0, STEPS]
    assert cut[1].time[1, SCHEDULED] == cut[1].time[0, SCHEDULED]
    assert whole[1].time[1, SCHEDULED] > whole[1].time[0, SCHEDULED]
    assert np.isfinite(serve(stream([0.0], [(100, 3)]), POLICY._replace(whole_prompts=True))[1].time[0, FINISH])
