"""The engine's loop: as a scheduler that walks every request, with jumps and without, with everything conserved."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from serving_engines import POLICIES, POLICY, STREAMS, direct, serve, shared, stream, tables, times
from serving_reference import Job, Reference

from costmodel.serving.routing import ROUND_ROBIN
from costmodel.serving.state import NEXT


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


def test_whole_prompts_wait_for_a_step_that_holds_them():
    requests = stream([0.0, 0.0], [(40, 3), (40, 3)])
    cut, whole = (serve(requests, POLICY._replace(whole_prompts=each)) for each in (False, True))
    assert cut[2].state["steps"][0] == whole[2].state["steps"][0]
    assert cut[1]["scheduled"][1] == cut[1]["scheduled"][0]
    assert whole[1]["scheduled"][1] > whole[1]["scheduled"][0]
    assert np.isfinite(serve(stream([0.0], [(100, 3)]), POLICY._replace(whole_prompts=True))[1]["finish"][0])
