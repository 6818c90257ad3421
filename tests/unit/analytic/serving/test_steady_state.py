"""Continuous batching as counts: requests and tokens are conserved, whatever a step takes."""

from __future__ import annotations

import numpy as np
import pytest
from builders import SERVING
from hypothesis import given
from hypothesis import strategies as st

from costmodel.analytic.serving.steady_state import Arrival, Demand, SteadyState, budgeted, chunked, separate
from costmodel.analytic.serving.token_bill import Load, token_bill, token_shares
from costmodel.records import fields, replace
from costmodel.schema.files import load_cluster

COUNTS = st.integers(1, 3000).map(float)
SECONDS = st.sampled_from([1e-3, 0.02, 0.5])


def states(requests: float, demand: Demand, chunk: float) -> list[SteadyState]:
    return [chunked(requests, demand, chunk), separate(requests, demand)]


@given(requests=COUNTS, computed=COUNTS, steps=COUNTS, chunk=COUNTS, carrying=SECONDS, plain=SECONDS)
def test_requests_in_flight_are_their_rate_times_their_latency(
    requests: float, computed: float, steps: float, chunk: float, carrying: float, plain: float
) -> None:
    """Little's law, for steps of any length."""
    for state in states(requests, Demand(computed, steps), chunk):
        latency = state.until_first(carrying, plain) + state.after_first(carrying, plain)
        assert state.throughput(carrying, plain) * latency == pytest.approx(requests, rel=1e-9)


@given(requests=COUNTS, computed=COUNTS, steps=COUNTS, chunk=COUNTS)
def test_tokens_are_conserved(requests: float, computed: float, steps: float, chunk: float) -> None:
    """Prompt tokens that steps carry are those that requests bring, and so are tokens that are decoded."""
    for state in states(requests, Demand(computed, steps), chunk):
        assert state.prompt_steps * state.prompts * state.prompt_tokens * state.first_token_steps == pytest.approx(
            state.rate * computed * state.first_token_steps, rel=1e-9
        )
        decoded = state.prompt_steps * state.co_batched + state.decode_only_steps * state.active
        assert decoded == pytest.approx(state.rate * steps, rel=1e-9, abs=1e-9)
        assert state.active + state.waiting == pytest.approx(requests, rel=1e-9)


@given(requests=COUNTS, computed=COUNTS, steps=COUNTS, chunk=COUNTS)
def test_counts_are_possible(requests: float, computed: float, steps: float, chunk: float) -> None:
    state = chunked(requests, Demand(computed, steps), chunk)
    assert 0 < state.prompt_steps <= 1
    assert state.decode_only_steps == pytest.approx(1 - state.prompt_steps)
    assert state.prompts * state.prompt_tokens <= chunk * (1 + 1e-9)
    assert 0 <= state.co_batched <= state.active <= requests
    for each in states(requests, Demand(computed, steps), chunk):
        assert min(each.waiting, each.later_prompt_steps, each.later_decode_only_steps) >= 0


@given(requests=COUNTS, computed=COUNTS, steps=COUNTS, chunk=COUNTS, carrying=SECONDS)
def test_more_requests_never_lower_the_rate_at_given_step_times(
    requests: float, computed: float, steps: float, chunk: float, carrying: float
) -> None:
    demand, plain = Demand(computed, steps), carrying / 2
    for make in (lambda number: chunked(number, demand, chunk), lambda number: separate(number, demand)):
        few, many = (make(number).throughput(carrying, plain) for number in (requests, 2 * requests))
        assert many >= few * (1 - 1e-9)


def test_a_request_alone_is_prefilled_and_then_decoded() -> None:
    state = chunked(1.0, Demand(1000.0, 99.0), 250.0)
    assert (state.first_token_steps, state.prompts, state.prompt_tokens, state.co_batched) == (4.0, 1.0, 250.0, 0.0)
    assert state.rate == pytest.approx(1 / 103)
    assert state.after_first(5.0, 1.0) == pytest.approx(99.0)
    alone = separate(1.0, Demand(1000.0, 99.0))
    assert alone.until_first(5.0, 1.0) == 5.0
    assert alone.after_first(5.0, 1.0) == 99.0


def test_full_chunks_bound_the_rate_and_the_rest_waits() -> None:
    state = chunked(1000.0, Demand(1000.0, 99.0), 250.0)
    assert state.rate == 0.25
    assert state.prompt_steps == 1.0
    assert state.active == pytest.approx(0.25 * (4 + 99))
    assert state.waiting == pytest.approx(1000 - 0.25 * 103)
    assert state.until_first(2.0, 1.0) == pytest.approx(state.waiting * 4 * 2 + 4 * 2)


def test_short_prompts_share_a_chunk_where_several_start_in_a_step() -> None:
    state = chunked(300.0, Demand(10.0, 99.0), 256.0)
    assert state.rate == 3.0
    assert (state.prompts, state.prompt_tokens, state.prompt_steps) == (3.0, 10.0, 1.0)


def test_prompts_of_their_own_stop_decoding_for_all_others() -> None:
    state = separate(50.0, Demand(1000.0, 99.0))
    assert state.later_prompt_steps == 49.0
    assert state.until_first(3.0, 1.0) == 3.0
    assert state.after_first(3.0, 1.0) == 49 * 3 + 99


def simulated(
    requests: int, computed: int, steps: int, chunk: int, seconds: tuple[float, float]
) -> tuple[float, float]:
    """Return (requests a second, mean time to first token) of an engine that is run step by step.

    Prompts wait in line for chunks; each step decodes all that are past theirs. It begins with requests spread evenly
    over their lives. seconds: of a step that carries prompt tokens, and of one that does not.
    """
    decoding = [1 + steps * (one + 1) // (requests + 1) for one in range(requests)]
    line: list[list[float]] = []  # (tokens left, time of arrival) of each prompt
    now, waits, ended = 0.0, list[float](), 0
    measured = 0.0
    for step in range(60 * steps):
        if step == 20 * steps:
            waits, ended, measured = [], 0, now
        room, first = float(chunk), list[float]()
        while line and room > 0:
            taken = min(room, line[0][0])
            room, line[0][0] = room - taken, line[0][0] - taken
            if line[0][0] == 0:
                first.append(line.pop(0)[1])
        now += seconds[0] if room < chunk else seconds[1]
        waits.extend(now - arrived for arrived in first)
        decoding = [left - 1 for left in decoding]
        gone = sum(left == 0 for left in decoding)
        decoding = [left for left in decoding if left] + [steps] * len(first)
        line.extend([float(computed), now] for _ in range(gone))
        ended += gone
    return ended / (now - measured), sum(waits) / len(waits)


@pytest.mark.parametrize(
    ("requests", "computed", "steps", "chunk"),
    [(1, 1024, 100, 256), (8, 1024, 100, 512), (20, 512, 200, 128), (64, 512, 100, 128), (200, 1024, 100, 256)],
)
def test_an_engine_run_step_by_step_gives_the_same_rate_and_waiting(
    requests: int, computed: int, steps: int, chunk: int
) -> None:
    """Whole chunks a prompt, at low load, near and beyond the rate at which chunks are full."""
    seconds = (0.05, 0.02)
    rate, first = simulated(requests, computed, steps, chunk, seconds)
    state = chunked(float(requests), Demand(float(computed), float(steps)), float(chunk))
    assert state.throughput(*seconds) == pytest.approx(rate, rel=0.02)
    assert state.until_first(*seconds) == pytest.approx(first, rel=0.05)


def test_a_grid_is_its_points() -> None:
    requests = np.array([1.0, 10.0, 200.0, 5000.0]).reshape(-1, 1)
    chunk = np.array([64.0, 1024.0])
    demand = Demand(700.0, 120.0)
    grid = chunked(requests, demand, chunk)
    for row, column in np.ndindex(4, 2):
        single = chunked(float(requests[row, 0]), demand, float(chunk[column]))
        for name in fields(SteadyState):
            found = np.broadcast_to(np.asarray(getattr(grid, name)), (4, 2))[row, column]
            assert found == pytest.approx(getattr(single, name), rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("budget", [250.0, 1000.0, 4000.0, 1e9])
@pytest.mark.parametrize("waits", [0.0, 2.0])
def test_prompts_in_steps_of_their_own_conserve_tokens_and_requests(budget: float, waits: float) -> None:
    demand = Demand(1000.0, 99.0)
    for number in (20.0, 300.0):
        state = separate(number, demand, budget, Arrival(waits))
        prompts, decodes = 5.0, 1.0
        assert state.prompts * state.prompt_tokens <= budget * (1 + 1e-12)
        assert state.prompt_steps * state.prompts * state.prompt_tokens == pytest.approx(state.rate * 1000.0)
        life = state.until_first(prompts, decodes) + state.after_first(prompts, decodes)
        assert state.throughput(prompts, decodes) * life == pytest.approx(number, rel=1e-9)
        assert state.arrival_steps == pytest.approx(waits, rel=1e-3)


def test_requests_of_several_steps_start_together_where_the_engine_looks_seldom() -> None:
    often, seldom = (separate(300.0, Demand(1000.0, 99.0), 8000.0, Arrival(2.0, (k - 1) / 2, k)) for k in (1.0, 5.0))
    assert (often.prompts, seldom.prompts) == (pytest.approx(3.0, rel=0.02), 8.0)  # 15, of which the budget holds 8
    assert seldom.prompt_steps * 8.0 == pytest.approx(seldom.rate)
    later = seldom.until_first(5.0, 1.0) - often.until_first(5.0, 1.0)
    assert later == pytest.approx(2.0 + 2.0 * (seldom.step(5.0, 1.0) - often.step(5.0, 1.0)), rel=1e-3)


def test_a_budget_that_holds_all_prompts_is_none() -> None:
    demand = Demand(1000.0, 99.0)
    free, wide = separate(500.0, demand), separate(500.0, demand, 1e9)
    assert (free.prompts, free.prompt_steps) == (wide.prompts, wide.prompt_steps)


def test_whole_prompts_fill_no_step_to_the_last_token() -> None:
    demand, looks = Demand(900.0, 100.0), Arrival(1.0, 9.5, 20.0)
    cut, whole = (budgeted(64.0, demand, 1850.0, 1.0, looks, whole=each) for each in (False, True))
    assert cut.prompts * cut.prompt_tokens > 1.5 * 900
    assert whole.prompts * whole.prompt_tokens == 900  # two of them and those that decode are more than 1,850 tokens
    assert whole.prompt_steps > cut.prompt_steps
    long = [budgeted(64.0, Demand(3000.0, 100.0), 2000.0, whole=each) for each in (False, True)]
    assert long[0].prompt_tokens == long[1].prompt_tokens  # what fits into no step is cut


@pytest.mark.parametrize(("requests", "life"), [(1, 2), (3, 4), (12, 10), (40, 10)])
def test_requests_that_start_at_random_share_steps_as_often_as_drawn(requests: int, life: int) -> None:
    """Each of N requests starts in one of the steps of a life, whichever: some step has none."""
    demand, random = Demand(100.0, life - 1.0), Arrival(random=1.0)
    state = chunked(float(requests), demand, 1e6, random)
    steps = np.random.default_rng(0).integers(0, life, (20_000, requests))
    none = np.mean([np.all(steps != step, axis=1).mean() for step in range(life)])
    assert state.prompt_steps == pytest.approx(1.0 - none, rel=0.01)
    assert state.prompts * state.prompt_steps == pytest.approx(requests / life)
    passes = state.first_token_steps + state.later_prompt_steps + state.later_decode_only_steps
    assert passes == pytest.approx(life), "a request takes part in each step of its life"
    alone = separate(float(requests), demand, None, random)
    assert alone.prompts * alone.prompt_steps == pytest.approx(alone.rate)
    assert alone.prompts >= separate(float(requests), demand).prompts


def test_a_bill_splits_time_and_joules_of_steps_between_what_prompts_add_and_what_decoding_takes() -> None:
    """Steps with prompts take 2 s and 30 J, 1.5 s and 22 J where nothing is cached before them, others 1 s and 20 J."""
    state, plan = chunked(8.0, Demand(1000.0, 99.0), 250.0), replace(SERVING, prefix_hit_rate=0.5)
    assert plan.scheduler.mixes
    found = token_shares(
        plan,
        state,
        lambda one: ((2.0 if one.prefix_hit_rate else 1.5, 1.0), (30.0 if one.prefix_hit_rate else 22.0, 20.0)),
    )
    with_prompts, others = float(state.prompt_steps), float(state.decode_only_steps)
    seconds, joules = with_prompts * 2.0 + others, with_prompts * 30.0 + others * 20.0
    assert found["input"] == pytest.approx((with_prompts * 0.5 / seconds, with_prompts * 2.0 / joules))
    assert found["cached"] == pytest.approx((with_prompts * 0.5 / seconds, with_prompts * 8.0 / joules))
    assert found["output"] == pytest.approx(
        ((with_prompts + others) / seconds, (with_prompts + others) * 20.0 / joules)
    )


def test_a_node_s_host_is_paid_for_once_whatever_its_devices_do() -> None:
    node = load_cluster("nodes/dgx-h100").node
    load = Load(devices=node.count, rates={}, busy=0.0, work=0.0)
    idle = [
        token_bill(replace(node, host=replace(node.host, power=power)), load, {})["tokens"]["idle"]["power"]
        for power in (None, 1600.0)
    ]
    assert idle[1] - idle[0] == pytest.approx(1600.0 * node.facility.pue)
