"""Requests drawn at random: conversations with shared beginnings, in open and closed loops."""

from __future__ import annotations

import numpy as np
import pytest

from costmodel.serving.draw import RequestDraw
from costmodel.serving.state import NEXT, PROMPT, Requests
from costmodel.workload.plans import Serving
from costmodel.workload.requests import Lengths, RequestStream, Sessions, SharedPrefix

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
