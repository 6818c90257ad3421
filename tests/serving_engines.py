"""Engines with step times of one's own, and what runs requests on them."""

import numpy as np
from hypothesis import strategies as st

from costmodel.serving.availability import UP, Breakdown, Fleet, FleetState, Member, Outage, next_change
from costmodel.serving.deployment import deal_out
from costmodel.serving.first_run import run_as_python
from costmodel.serving.fleet import run_apart, run_together
from costmodel.serving.prices import Tables, attention_time, rows_time
from costmodel.serving.routing import LEAST_LOADED, ROUND_ROBIN, Service, new_router
from costmodel.serving.rows import as_objects
from costmodel.serving.state import NEVER, NOBODY, Calls, Paths, Policy, Requests, Step, new_engines, new_records
from costmodel.serving.trace_requests import paths_of_blocks

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


def together(requests, changed, policy=POLICY, kind=LEAST_LOADED, until=np.inf):
    """Return the service after all requests, with a fleet that changes."""
    service = new(requests, policy, changed, kind)
    service.engines.state["prompts_only"][: changed.prefill] = 1
    assert run_as_python(run_together, service, until) == -1
    return service


def outage(at, lasts, replica=0):
    return {"outages": [(at, replica, 0), (at + lasts, replica, 1)]}
