"""Requests drawn at random: conversations with shared beginnings, in open and closed loops."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from costmodel.records import replace
from costmodel.serving.draw import RequestDraw, in_order_of_arrival
from costmodel.serving.state import NEXT, OUTPUT, PROMPT, Requests
from costmodel.workload.plans import Serving
from costmodel.workload.requests import Gaps, Lengths, RequestStream, Sessions, SharedPrefix, SubAgents

PLAN = Serving(input_tokens=100.0, output_tokens=10.0, rate=1.0, concurrency=3.0)
BLOCK = 16


def drawn(**changes: object) -> Requests:
    draw = RequestDraw(PLAN, RequestStream(**{"count": 24, **changes}), BLOCK, seed=0)  # type: ignore[arg-type]
    return draw.draw(draw.left)


def blocks(requests: Requests, request: int) -> list[tuple[int, int]]:
    """Return the blocks of a request: each is a run, and a place in it."""
    paths = requests.paths
    own = paths.runs[paths.first[request] : paths.first[request + 1]]
    return [(int(run), place) for run in own for place in range(paths.sizes[run])][: paths.blocks[request]]


def test_a_conversation_has_its_shared_beginning_once() -> None:
    requests = drawn(prefix=SharedPrefix(groups=1, tokens=1000), sessions=Sessions(turns=Lengths(mean=3)))
    assert requests.length[:6, PROMPT].tolist() == [1100, 1210, 1320, 1100, 1210, 1320]


@pytest.mark.parametrize("tokens", [1000, 1024, 5])
def test_turns_share_what_stands_before_them_and_conversations_their_beginning(tokens: int) -> None:
    spread = Lengths(distribution="uniform", low=1, high=200)
    requests = drawn(
        prefix=SharedPrefix(groups=2, tokens=tokens), sessions=Sessions(turns=Lengths(mean=4)), input=spread
    )
    texts = [blocks(requests, request) for request in range(24)]
    for turn in range(24):
        assert len(texts[turn]) == requests.length[turn].sum() // BLOCK
        first = turn - turn % 4
        assert texts[turn][: len(texts[first])] == texts[first]
        assert (turn == first) or texts[turn - 1] == texts[turn][: len(texts[turn - 1])]
    beginnings = {tuple(text[: tokens // BLOCK]) for text in texts}
    assert len(beginnings) == (2 if tokens >= BLOCK else 1)
    conversations = [set(texts[last][tokens // BLOCK :]) for last in range(3, 24, 4)]
    assert sum(map(len, conversations)) == len(set.union(*conversations)), "the rest is each one's own"


def test_without_a_beginning_conversations_share_nothing() -> None:
    requests = drawn(sessions=Sessions(turns=Lengths(mean=4)))
    conversations = [set(blocks(requests, last)) for last in range(3, 24, 4)]
    assert sum(map(len, conversations)) == len(set.union(*conversations))


@pytest.mark.parametrize("turns", [1, 4, 5])
def test_in_a_closed_loop_a_session_that_ends_is_replaced_by_the_next_one(turns: int) -> None:
    """Three lanes; a turn calls the next one, the last one a session that nobody has called yet."""
    requests = drawn(arrivals="closed_loop", sessions=Sessions(turns=Lengths(mean=turns)))
    assert np.flatnonzero(np.isfinite(requests.arrival)).tolist() == [0, turns, 2 * turns]
    caller = np.repeat(np.arange(24), np.diff(requests.calls.first))
    ends = [first + turns - 1 for first in range(0, 24, turns) if first + turns <= 24] + ([23] if turns == 5 else [])
    assert caller[requests.calls.called == NEXT].tolist() == ends
    chained = requests.calls.called != NEXT
    assert (requests.calls.called[chained] == caller[chained] + 1).all()


def test_sessions_of_an_open_loop_begin_as_often_as_brings_the_rate_of_requests() -> None:
    requests = drawn(sessions=Sessions(turns=Lengths(mean=4)), count=40_000)
    begins = requests.arrival[::4]
    assert np.isinf(requests.arrival[np.arange(40_000) % 4 > 0]).all()
    assert np.diff(begins).mean() == pytest.approx(4.0, rel=0.03)
    assert np.diff(begins).std() == pytest.approx(4.0, rel=0.03), "sessions come at random"


AGENTS = SubAgents(
    share=1.0, count=Lengths(mean=2), turns=Lengths(mean=2), input=Lengths(mean=40), output=Lengths(mean=8)
)


@pytest.mark.parametrize(("context", "begins"), [("new", 64), ("fork", 174)])
def test_a_session_with_agents_by_hand(context: str, begins: int) -> None:
    """Two turns of 100 + 10 tokens after 64 shared ones; two agents of two turns of 40 + 8 after the first answer.

    The first prompt is 64 + 100, the second one 64 + 110 + 100. An agent's begins with 64 tokens, or with all 174.
    """
    agents = replace(AGENTS, context=context)
    requests = drawn(prefix=SharedPrefix(tokens=64), sessions=Sessions(turns=Lengths(mean=2), agents=agents), count=6)
    own = [begins + 40, begins + 88]
    order = np.lexsort((requests.length[:, PROMPT], requests.length[:, OUTPUT]))
    assert sorted(requests.length.tolist()) == sorted(
        [[164, 10], [274, 10], *[[prompt, 8] for prompt in own], *[[prompt, 8] for prompt in own]]
    )
    agent_texts = [blocks(requests, request) for request in range(6) if requests.length[request, OUTPUT] == 8]
    first, second = (blocks(requests, request) for request in order[-2:])
    assert second[: len(first)] == first
    for text in agent_texts:
        common = [*(a == b for a, b in zip(text, second, strict=False)), False].index(False)
        assert common == begins // BLOCK
    assert len({block for text in [*agent_texts, second] for block in text}) == len(second) + 2 * (
        (begins + 96) // BLOCK - begins // BLOCK
    )


def test_a_session_goes_on_when_all_its_agents_have_ended() -> None:
    """Each agent is called by what starts it, and the second turn by the last turns of both."""
    requests = drawn(sessions=Sessions(turns=Lengths(mean=2), think_time=Gaps(mean=3.0), agents=AGENTS), count=6)
    caller = np.repeat(np.arange(6), np.diff(requests.calls.first))
    calls = sorted(zip(caller.tolist(), requests.calls.called.tolist(), strict=True))
    assert calls == [(0, 1), (0, 3), (1, 2), (2, 5), (3, 4), (4, 5)]
    assert requests.calls.callers.tolist() == [0, 1, 1, 1, 1, 2]


@pytest.mark.parametrize("context", ["new", "fork"])
@given(st.integers(0, 1000), st.integers(1, 60))
@settings(max_examples=25, deadline=None)
def test_every_request_of_sessions_is_called_after_those_that_it_stands_on(context: str, seed: int, count: int) -> None:
    few = Lengths(distribution="uniform", low=1, high=4)
    agents = SubAgents(share=0.4, count=few, turns=few, context=context)  # type: ignore[arg-type]
    stream = RequestStream(count=count, arrivals="closed_loop", prefix=SharedPrefix(groups=2, tokens=70),
                           sessions=Sessions(turns=few, agents=agents))  # fmt: skip
    draw = RequestDraw(PLAN, stream, BLOCK, seed)
    requests = in_order_of_arrival(draw.draw(draw.left))
    assert len(requests.arrival) == count
    openings = count - np.count_nonzero(requests.calls.callers)
    assert (requests.calls.callers[:openings] == 0).all(), "sessions come before what they call"
    done, ready, waits = 0, list(range(openings)), requests.calls.callers.tolist()
    while ready:
        request = ready.pop()
        done += 1
        for called in requests.calls.called[requests.calls.first[request] : requests.calls.first[request + 1]]:
            if called != NEXT:
                waits[called] -= 1
                ready += [called] if waits[called] == 0 else []
    assert done == count
    for request in range(count):
        assert (
            len(blocks(requests, request)) == requests.paths.blocks[request] == requests.length[request].sum() // BLOCK
        )
