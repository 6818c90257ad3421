"""The order of waiting requests: by priority as a scheduler that walks every request, by prefix as a sorted list."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from serving_engines import (
    POLICIES,
    POLICY,
    STREAMS,
    direct,
    fleet,
    new,
    outage,
    shared,
    stream,
    tables,
    times,
    together,
)  # fmt: skip
from serving_reference import Job, Reference

from costmodel.serving.compiled import compiled, has_numba
from costmodel.serving.deployment import deal_out
from costmodel.serving.engine import least_urgent
from costmodel.serving.first_run import run_as_python
from costmodel.serving.fleet import run_apart
from costmodel.serving.prefix import run_with
from costmodel.serving.queue import enqueue, pop, push, sort_by_prefix
from costmodel.serving.routing import ROUND_ROBIN, engine_of, pop_call, push_call
from costmodel.serving.rows import as_objects
from costmodel.serving.state import LONGEST_PREFIX, PRIORITY

URGENT = POLICY._replace(order=PRIORITY)


def serve(requests, policy, *, fast=False):
    """Return progress and engines after all requests; fast: as numba compiles the loop."""
    service = new(requests, policy, fleet(1), ROUND_ROBIN)
    deal_out(service.requests, service.engines)
    stuck = compiled(run_apart)(service, np.inf) if fast else run_as_python(run_apart, service, np.inf)
    assert stuck == -1
    return service.requests, service.engines


def prioritised(requests, draw):
    priority = np.random.default_rng(draw).integers(-1, 3, len(requests.arrival))
    return requests._replace(priority=priority.astype(np.int32))


@given(STREAMS, POLICIES, st.integers(0, 9))
@settings(max_examples=15, deadline=None)
def test_priorities_equal_walking_every_request(requests, policy, draw):
    requests, policy = prioritised(requests, draw), policy._replace(order=PRIORITY)
    jobs = [
        Job(i, a, int(p), int(o), priority=int(k))
        for i, (a, (p, o), k) in enumerate(zip(requests.arrival, requests.length, requests.priority, strict=True))
    ]
    Reference(tables(), policy, direct, by_priority=True).serve(jobs)
    progress, engines = serve(requests, policy)
    assert [job.preempted for job in jobs] == progress["preempted"].tolist()
    np.testing.assert_allclose(progress["first"], [job.first for job in jobs], rtol=1e-12)
    np.testing.assert_allclose(progress["finish"], [job.finish for job in jobs], rtol=1e-12)
    assert engines.state["free"][0] == policy.blocks


@given(STREAMS, POLICIES, st.integers(0, 9), st.booleans(), st.booleans(), st.sampled_from([PRIORITY, LONGEST_PREFIX]))
@settings(max_examples=25, deadline=None)
def test_in_any_order_a_jump_changes_nothing_and_all_is_served(requests, policy, draw, mixed, swap, order):
    requests = prioritised(requests, draw)
    ids = [list(range(i % 2 * 50, i % 2 * 50 + int(p) // 4)) for i, (p, _) in enumerate(requests.length)]
    requests = shared(requests, ids)
    policy = policy._replace(mixed=mixed, caching=True, order=order, blocks=policy.blocks + 5)
    policy = policy._replace(swap_time=0.25 if swap else 0.0, host_blocks=40 if swap else 0)
    (progress, engines), (other, others) = (serve(requests, policy._replace(jump=jump)) for jump in (True, False))
    np.testing.assert_array_equal(times(progress), times(other))
    for mine, theirs in zip(engines, others, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert np.isfinite(progress["finish"]).all()
    assert engines.state["free"][0] == policy.blocks


def test_an_urgent_request_passes_those_that_wait_and_takes_the_blocks_of_the_least_urgent():
    requests = stream([0.0, 1.0, 2.0], [(8, 30)] * 3)._replace(priority=np.array([0, 1, 0], np.int32))
    progress, _ = serve(requests, URGENT._replace(max_seqs=1))
    assert progress["finish"][0] < progress["first"][2] < progress["finish"][2] < progress["first"][1]
    crowded = stream([0.0, 0.0, 0.0], [(40, 40)] * 3)._replace(priority=np.array([2, 0, 1], np.int32))
    progress, engines = serve(crowded, URGENT._replace(blocks=40, budget=256))
    assert engines.state["preemptions"][0] > 0
    assert progress["preempted"][0] >= progress["preempted"][2] >= progress["preempted"][1] == 0
    assert progress["finish"][1] <= progress["finish"][2] < progress["finish"][0]


def test_equal_priorities_are_the_order_of_arrival():
    draw = np.random.default_rng(7)
    requests = stream(np.cumsum(draw.exponential(2.0, 60)), draw.integers(1, 50, (60, 2)))
    alike = serve(requests._replace(priority=np.full(60, 3, np.int32)), URGENT)[0]
    np.testing.assert_array_equal(times(alike), times(serve(requests, POLICY)[0]))


@given(st.lists(st.tuples(st.integers(-3, 3), st.floats(0, 9)), min_size=1, max_size=40), st.data())
@settings(max_examples=50, deadline=None)
def test_the_heap_gives_the_most_urgent(rows, data):
    """Pushes and pops in any order, against a sorted list."""
    requests = stream([arrival for _, arrival in rows], [(1, 1)] * len(rows))
    requests = requests._replace(priority=np.array([priority for priority, _ in rows], np.int32))
    held = []
    with as_objects(new(requests, URGENT, fleet(1), ROUND_ROBIN)) as service:
        engine = engine_of(service, 0)
    for request in range(len(rows)):
        push(engine, request)
        held.append((*rows[request], request))
        if data.draw(st.booleans()):
            assert pop(engine) == min(held)[2]
            held.remove(min(held))
    while held:
        assert pop(engine) == min(held)[2]
        held.remove(min(held))
    assert engine.state.root == -1


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 3)), min_size=1, max_size=20), st.integers(0, 20))
@settings(max_examples=50, deadline=None)
def test_by_prefix_is_a_stable_sort_of_those_that_have_arrived(rows, arrived):
    """Cached blocks of 16 tokens, most first; behind all those whose beginning one before them will bring."""
    policy = POLICY._replace(order=LONGEST_PREFIX, caching=True, block=16)
    texts = [[100 * text + i for i in range(length)] for length, text in rows]
    requests = shared(stream(np.arange(len(rows), dtype=float), [(160, 1)] * len(rows)), texts)
    with as_objects(new(requests, policy, fleet(1), ROUND_ROBIN)) as service:
        engine = engine_of(service, 0)
    for request, (length, text) in enumerate(rows):  # four blocks of the first text are cached, one of the second
        if length > 0:
            engine.run[run_with(engine, request, 0)].cached = (4, 1, 0, 0)[text]
    for request in range(len(rows)):
        enqueue(engine, request, float(request))
    sort_by_prefix(engine, float(arrived))
    cached = [min(length, (4, 1, 0, 0)[text]) for length, text in rows]
    key, brought = [], set()
    for (length, text), blocks in zip(rows, cached, strict=True):
        small = blocks <= 2 and length >= 2
        key.append(-1 if small and text in brought else blocks)
        if small:
            brought.add(text)
    waiting = [i for i in range(len(rows)) if i <= arrived]
    expected = sorted(waiting, key=lambda i: -key[i]) + [i for i in range(len(rows)) if i > arrived]
    found, request = [], engine.state.head
    while request >= 0:
        found.append(request)
        request = engine.requests[request].following
    assert found == expected
    assert engine.state.tail == found[-1]


def test_what_is_cached_starts_first():
    """A text that is cached passes one that came before it, and both texts are computed once."""
    texts = [list(range(10)), [*range(20, 30)], list(range(10))]
    requests = shared(stream([0.0, 1.0, 1.5], [(44, 20), (44, 2), (44, 2)]), texts)
    policy = POLICY._replace(caching=True, max_seqs=1, blocks=200)
    starts = {}
    for order in (0, LONGEST_PREFIX):
        progress, _ = serve(requests, policy._replace(order=order))
        starts[order] = progress["scheduled"]
    assert starts[0][1] < starts[0][2]
    assert starts[LONGEST_PREFIX][2] < starts[LONGEST_PREFIX][1]


@pytest.mark.parametrize("order", [PRIORITY, LONGEST_PREFIX])
def test_compiled_orders_are_the_same(order, long):
    if not (long and has_numba()):
        pytest.skip("numba takes minutes to compile the loop: `--long`, where it is installed")
    draw = np.random.default_rng(11)
    requests = stream(np.cumsum(draw.exponential(1.0, 80)), draw.integers(1, 60, (80, 2)))
    requests = shared(
        requests, [list(range(i % 3 * 40, i % 3 * 40 + int(p) // 4)) for i, (p, _) in enumerate(requests.length)]
    )
    policy = POLICY._replace(order=order, caching=True, blocks=45)
    (plain, _), (fast, _) = (serve(prioritised(requests, 1), policy, fast=fast) for fast in (False, True))
    np.testing.assert_array_equal(times(plain), times(fast))
    assert plain["preempted"].sum() > 0


@pytest.mark.parametrize("order", [PRIORITY, LONGEST_PREFIX])
def test_a_failure_loses_no_request_that_waits(order):
    draw = np.random.default_rng(4)
    requests = prioritised(stream(np.cumsum(draw.exponential(1.0, 60)), draw.integers(1, 50, (60, 2))), 3)
    policy = POLICY._replace(order=order, max_seqs=2, caching=True)
    service = together(requests, fleet(2, **outage(30.0, 40.0)), policy)
    assert np.isfinite(service.requests["finish"]).all()
    np.testing.assert_array_equal(service.engines.state["free"], policy.blocks)


@given(st.lists(st.floats(0, 99), min_size=1, max_size=40), st.data())
@settings(max_examples=50, deadline=None)
def test_calls_come_in_the_order_of_their_times(moments, data):
    """Pushes and pops in any order, against a sorted list."""
    requests = stream(moments, [(1, 1)] * len(moments))
    held = []
    with as_objects(new(requests, POLICY, fleet(1), ROUND_ROBIN)) as service:
        router = service.router
        for request, moment in enumerate(moments):
            push_call(router, moment, request)
            held.append(moment)
            if data.draw(st.booleans()):
                assert router.calls[0].time == min(held)
                pop_call(router)
                held.remove(min(held))
        for moment in sorted(held):
            assert router.calls[0].time == moment == moments[router.calls[0].request]
            pop_call(router)
    assert router.state[0].calls == 0


@pytest.mark.parametrize(("priority", "place"), [((2, 0, 1), 0), ((0, 2, 1), 1), ((0, 1, 2), 2), ((1, 1, 1), 2)])
def test_the_least_urgent_of_those_that_decode_gives_way(priority, place):
    requests = stream([0.0, 1.0, 2.0], [(8, 8)] * 3)._replace(priority=np.array(priority, np.int32))
    with as_objects(new(requests, URGENT, fleet(1), ROUND_ROBIN)) as service:
        engine = engine_of(service, 0)
        engine.decoders[:3] = range(3)
        engine.state.decoding, engine.state.partial = 3, -1
        assert least_urgent(engine) == place
        engine.state.decoding, engine.state.partial = 2, 2  # the third is a prompt that is computed in part
        assert least_urgent(engine) == place
