"""Requests drawn at random: conversations with shared beginnings, in open and closed loops."""

from __future__ import annotations

import numpy as np
import pytest

from costmodel.serving.draw import RequestDraw
from costmodel.serving.state import NOBODY, OUTPUT, PROMPT, Requests
from costmodel.workload.plans import Serving
from costmodel.workload.requests import Lengths, RequestStream, Sessions, SharedPrefix

PLAN = Serving(input_tokens=100.0, output_tokens=10.0, rate=1.0, concurrency=3.0)
BLOCK = 16


def drawn(**changes: object) -> Requests:
    draw = RequestDraw(PLAN, RequestStream(**{"count": 24, **changes}), BLOCK, seed=0)  # type: ignore[arg-type]
    return draw.draw(draw.left)


def blocks(requests: Requests, request: int) -> list[int]:
    return [int(each) for each in requests.ids[requests.first_id[request] : requests.first_id[request + 1]]]


def test_a_conversation_has_its_shared_beginning_once() -> None:
    requests = drawn(prefix=SharedPrefix(groups=1, tokens=1000), sessions=Sessions(turns=3))
    assert requests.length[:6, PROMPT].tolist() == [1100, 1210, 1320, 1100, 1210, 1320]


@pytest.mark.parametrize("tokens", [1000, 1024, 5])
def test_turns_share_what_stands_before_them_and_conversations_their_beginning(tokens: int) -> None:
    spread = Lengths(distribution="uniform", low=1, high=200)
    requests = drawn(prefix=SharedPrefix(groups=2, tokens=tokens), sessions=Sessions(turns=4), input=spread)
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
    requests = drawn(sessions=Sessions(turns=4))
    conversations = [set(blocks(requests, last)) for last in range(3, 24, 4)]
    assert sum(map(len, conversations)) == len(set.union(*conversations))


@pytest.mark.parametrize("turns", [1, 4, 5])
def test_every_turn_of_a_closed_loop_is_called_once_by_the_request_before_it(turns: int) -> None:
    """Three users begin at once; a turn calls the next one, the last one the first of that user's next conversation."""
    requests = drawn(arrivals="closed_loop", sessions=Sessions(turns=turns))
    assert np.isfinite(requests.arrival).sum() == 3
    called = requests.calls[requests.calls != NOBODY]
    assert sorted([*called, *np.flatnonzero(np.isfinite(requests.arrival))]) == list(range(24))
    of_user = np.arange(24) // turns % 3
    assert (of_user[called] == of_user[requests.calls != NOBODY]).all()


def test_conversations_of_an_open_loop_begin_as_often_as_their_requests_come() -> None:
    alone, chained = drawn(), drawn(sessions=Sessions(turns=4))
    np.testing.assert_array_equal(chained.arrival[::4], alone.arrival[::4])
    assert np.isinf(chained.arrival[np.arange(24) % 4 > 0]).all()
    assert chained.length[:, OUTPUT].tolist() == alone.length[:, OUTPUT].tolist()
