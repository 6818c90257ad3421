"""Traces of agents: every format gives the requests that wait for each other, every mistake an error at its line."""

from __future__ import annotations

import gzip
import json
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from costmodel.errors import ImplausibleInput, InputError, Notice
from costmodel.serving.draw import in_order_of_arrival
from costmodel.serving.lengths import trace_rate
from costmodel.serving.state import NEXT, Requests
from costmodel.serving.trace_requests import read_trace
from costmodel.serving.traces import read_rows
from costmodel.workload.requests import RequestStream
from reports import agent_sessions, chat_requests

BLOCK = 16


def lines(*entries: Any) -> str:
    return "".join(json.dumps(each) + "\n" for each in entries)


def read(tmp_path: Path, text: str, name: str = "trace.jsonl", lanes: int = 0, **changes: Any) -> Requests:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return read_trace(RequestStream(trace=str(path), **changes), BLOCK, lanes)


def calls(requests: Requests) -> list[tuple[int, int, float]]:
    """Return caller, called and delay of every call."""
    caller = np.repeat(np.arange(len(requests.arrival)), np.diff(requests.calls.first))
    return sorted(zip(caller.tolist(), requests.calls.called.tolist(), requests.calls.delay.tolist(), strict=True))


def shared(requests: Requests, one: int, other: int) -> int:
    """Return how many blocks two requests have in common."""
    paths = requests.paths
    runs = [paths.runs[paths.first[i] : paths.first[i + 1]].tolist() for i in (one, other)]
    common = [a for a, b in zip(*runs, strict=False) if a == b]
    return int(min(sum(paths.sizes[common]), paths.blocks[one], paths.blocks[other]))


# Two turns of a session of 64 and 160 tokens, whose first answer has 32 and is followed by a tool of 5 s; then another.
IDS = ([1, 2, 3, 4], [1, 2, 3, 4, 5, 6, 7, 8, 9, 10])
MOONCAKE = lines(
    {"session_id": "a", "timestamp": 1000, "input_length": 64, "output_length": 32, "hash_ids": IDS[0]},
    {"session_id": "a", "delay": 5000, "input_length": 160, "output_length": 8, "hash_ids": IDS[1]},
    {"session_id": "b", "timestamp": 3000, "input_length": 16, "output_length": 8, "hash_ids": [11]},
)
AGENTIC = lines(
    {"request_id": "x", "timestamp": 1000, "input_length": 64, "output_length": 32, "hash_ids": IDS[0]},
    {"request_id": "y", "wait_for": ["x"], "delay": 2000, "tool_wait_ms": 3000, "input_length": 160, "output_length": 8,
     "hash_ids": IDS[1]},
    {"request_id": "z", "timestamp": 3000, "input_length": 16, "output_length": 8, "hash_ids": [11], "wait_for": []},
)  # fmt: skip
VERSION_2 = lines(
    {"schema": "dynamo.agentic_mooncake", "version": 2, "block_size": 16, "hash_id_scope": "local"},
    {"request_id": "x", "play_id": "p", "not_before_ms": 1000, "input_length": 64, "output_length": 32,
     "hash_ids": IDS[0]},
    {"request_id": "y", "play_id": "p", "not_before_ms": 0, "input_length": 160, "output_length": 8, "hash_ids": IDS[1],
     "dependencies": [{"request_id": "x", "trigger": "completion", "delay_ms": 5000, "relation": "sequence"}]},
    {"request_id": "z", "play_id": "q", "not_before_ms": 3000, "input_length": 16, "output_length": 8, "hash_ids": [1]},
)  # fmt: skip


def dynamo(session: str, start: int, end: int, tokens: tuple[int, int], ids: list[int], parent: str = "") -> Any:
    context = {"session_id": session, **({"parent_session_id": parent} if parent else {})}
    return {
        "schema": "dynamo.request.trace.v1", "event_type": "request_end", "event_time_unix_ms": end,
        "agent_context": context,
        "request": {"request_id": f"{session}{start}", "request_received_ms": start, "output_tokens": tokens[1],
                    "replay": {"trace_block_size": 16, "input_length": tokens[0], "input_sequence_hashes": ids}},
    }  # fmt: skip


BIG = 2**64 - 2
DYNAMO = lines(
    {"event_type": "tool_end", "event_time_unix_ms": 5},
    dynamo("a", 1000, 2000, (64, 32), [BIG, 2, 3, 4]),
    dynamo("b", 3000, 3500, (16, 8), [11]),
    dynamo("a", 7000, 8000, (160, 8), [BIG, *IDS[1][1:]]),
)
WEKA = lines(
    {"id": "one", "block_size": 16, "hash_id_scope": "local", "requests": [
        {"t": 1.0, "type": "n", "in": 64, "out": 32, "hash_ids": IDS[0], "api_time": 2.0},
        {"t": 8.0, "type": "s", "in": 160, "out": 8, "hash_ids": IDS[1], "think_time": 5.0}]},
    {"id": "two", "block_size": 16, "hash_id_scope": "local", "requests": [
        {"t": 3.0, "type": "n", "in": 16, "out": 8, "hash_ids": [1]}]},
)  # fmt: skip
LENGTHS = ((16, 1), (0, 8), (1, 8), (16, 0))
USER, ANSWER = {"role": "user", "content": "u" * 10}, {"role": "assistant", "content": "a" * 99}
OPENAI = lines(
    {"timestamp": "2026-01-01T00:00:01", "session_id": "a", "messages": [USER], "duration_s": 2,
     "choices": [{"message": ANSWER}], "usage": {"prompt_tokens": 64, "completion_tokens": 32}},
    {"timestamp": "2026-01-01T00:00:03+00:00", "messages": [{"role": "user", "content": "other"}],
     "usage": {"prompt_tokens": 16, "completion_tokens": 8}},
    {"created": 1767225608, "session_id": "a", "messages": [USER, ANSWER, {"role": "tool", "content": "x"}],
     "usage": {"prompt_tokens": 160, "completion_tokens": 8}},
    {"custom_id": "failed", "response": {"status_code": 500, "body": {}}, "error": {"code": 1}},
)  # fmt: skip


@pytest.mark.parametrize(
    ("text", "order"),
    [(MOONCAKE, (0, 1, 2)), (AGENTIC, (0, 1, 2)), (VERSION_2, (0, 1, 2)), (DYNAMO, (0, 2, 1)), (WEKA, (0, 1, 2)),
     (OPENAI, (0, 2, 1))],
    ids=["mooncake", "agentic", "version 2", "dynamo", "weka", "openai"],
)  # fmt: skip
def test_every_format_gives_the_same_sessions(tmp_path: Path, text: str, order: tuple[int, int, int]) -> None:
    """The second turn comes 5 s after the first answer; of it the cache may hold the first prompt and answer."""
    requests = read(tmp_path, text)
    first, second, other = order
    assert requests.length[list(order)].tolist() == [[64, 32], [160, 8], [16, 8]]
    assert requests.arrival[[first, other]].tolist() == [0.0, 2.0]
    assert np.isinf(requests.arrival[second])
    assert calls(requests) == [(first, second, 5.0)]
    assert requests.paths.blocks[first] == 6
    assert shared(requests, first, second) == 6
    assert shared(requests, first, other) == 0


def test_the_session_waits_for_its_sub_agents(tmp_path: Path) -> None:
    """A sub-agent of two requests starts 1 s after the first answer; another one goes on in the background."""

    def agent(t: float, **more: Any) -> Any:
        inner = [{"t": t, "type": "n", "in": 32, "out": 4, "hash_ids": [1, 9], "api_time": 1.0},
                 {"t": t + 3.0, "type": "n", "in": 48, "out": 4, "hash_ids": [1, 9, 10]}]  # fmt: skip
        return {"t": t, "type": "subagent", "agent_id": "s", "requests": inner, **more}

    main = [{"t": 0.0, "type": "n", "in": 16, "out": 8, "hash_ids": [1], "api_time": 2.0},
            {"t": 20.0, "type": "n", "in": 64, "out": 8, "hash_ids": [1, 2, 3, 4], "think_time": 0.5}]  # fmt: skip
    session = {
        "id": "s",
        "block_size": 16,
        "requests": [main[0], agent(3.0), agent(3.0, status="async_launched"), main[1]],
    }
    requests = read(tmp_path, json.dumps(session), "weka.json")
    assert requests.length[:, 0].tolist() == [16, 32, 48, 32, 48, 64]
    assert calls(requests) == [(0, 1, 1.0), (0, 3, 1.0), (0, 5, 0.5), (1, 2, 2.0), (2, 5, 0.0), (3, 4, 2.0)]
    assert shared(requests, 0, 1) == 1


def test_the_session_of_a_parent_waits_for_those_of_its_children(tmp_path: Path) -> None:
    rows = [dynamo("p", 0, 1000, (16, 4), [1]), dynamo("c", 1500, 4000, (32, 4), [1, 2], parent="p"),
            dynamo("p", 4500, 5000, (48, 4), [1, 3, 4])]  # fmt: skip
    assert calls(read(tmp_path, lines(*rows))) == [(0, 1, 0.5), (0, 2, 3.5), (1, 2, 0.5)]


def test_what_goes_with_a_request_waits_for_what_that_one_waits_for(tmp_path: Path) -> None:
    def row(name: str, *after: tuple[str, str, int]) -> Any:
        waits = [{"request_id": other, "trigger": trigger, "delay_ms": delay} for other, trigger, delay in after]
        return {"request_id": name, "play_id": "p", "not_before_ms": 0, "input_length": 8, "output_length": 8,
                "dependencies": waits}  # fmt: skip

    text = lines(row("a"), row("b", ("a", "completion", 1000)), row("c", ("b", "dispatch", 500)))
    assert calls(read(tmp_path, text)) == [(0, 1, 1.0), (0, 2, 1.5)]


def test_lanes_take_sessions_of_a_trace_one_after_the_other(tmp_path: Path) -> None:
    requests = in_order_of_arrival(read(tmp_path, MOONCAKE * 2, lanes=1))
    assert np.isfinite(requests.arrival).sum() == 1
    assert [each[1] for each in calls(requests)].count(NEXT) == 2  # `a` goes on in its second half, as does `b`


BAD = {
    "unknown": (lines({"request_id": "y", "wait_for": ["x"], "input_length": 1, "output_length": 1}), 1, "no request"),
    "a ring": (
        lines(
            {"request_id": "x", "wait_for": ["y"], "input_length": 1, "output_length": 1},
            {"request_id": "y", "wait_for": ["x"], "input_length": 1, "output_length": 1},
        ),
        1,
        "waits for itself",
    ),
    "no usage": (lines({"messages": []}), 1, "no usage"),
    "text for messages": (lines({"messages": "hi", "usage": {"prompt_tokens": 1, "completion_tokens": 1}}), 1, "list"),
    "no requests": (lines({"id": "a", "block_size": 64, "requests": 3}), 1, "no list of objects"),
    "no block size": (lines({"id": "a", "block_size": 0, "requests": []}), 1, "out of range"),
    "no input": (lines({"id": "a", "block_size": 64, "requests": [{"t": 0, "type": "n", "out": 3}]}), 1, "lacks in"),
    "blocks of fractions": (
        lines({"id": "a", "block_size": 64, "requests": [{"t": 0, "in": 9, "out": 3, "hash_ids": [0.5]}]}),
        1,
        "list of numbers",
    ),
    "a request of text": (lines({"event_type": "request_end", "request": "x"}), 1, "is no object"),
    "a far time": (lines({"timestamp": 1e300, "input_length": 1, "output_length": 1}), 1, "no time"),
    "a list": ('{"messages": [], "usage": {"prompt_tokens": 1, "completion_tokens": 1}}\n[1]\n', 2, "no object"),
    "many digits": ('{"timestamp": 1' + "0" * 5000 + "}\n", 1, "no JSON"),
    "two sizes": (
        lines(dynamo("a", 0, 1, (64, 1), [1, 2, 3, 4])) + lines(dynamo("a", 2, 3, (64, 1), [1])).replace("16", "64"),
        None, "blocks of 16 and 64 tokens",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_bad_trace_is_an_error_at_its_line(tmp_path: Path, name: str) -> None:
    text, line, message = BAD[name]
    with pytest.raises(InputError, match=message) as caught:
        read(tmp_path, text)
    assert caught.value.problems[0].location is not None
    assert caught.value.problems[0].location.line == line


@pytest.mark.parametrize("zone", ["Asia/Kathmandu", "America/New_York"])
def test_a_date_without_a_zone_is_of_utc_in_any_zone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zone: str
) -> None:
    """In the nights as well in which an hour of New York's clocks comes twice and is missing."""
    head = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
    path = tmp_path / "trace.csv"
    with monkeypatch.context() as patched:
        patched.setenv("TZ", zone)
        time.tzset()
        try:
            path.write_text(
                f"{head}2026-01-01T00:00:00.25,5,5\n2026-01-01T09:00:00.5+09:00,5,5\n2026-01-01T00:00:01Z,5,5\n"
            )
            arrivals = [row.arrival for row in read_rows(path)]
            for begin, end in (
                ("2023-11-05 00:30:00", "2023-11-05 02:30:00"),
                ("2023-03-12 01:30", "2023-03-12 03:30"),
            ):
                path.write_text(f"{head}{begin},5,5\n{end},5,5\n")
                assert np.diff([row.arrival for row in read_rows(path)]).tolist() == [7200.0]
        finally:
            patched.undo()
            time.tzset()
    assert np.diff(arrivals).tolist() == [0.25, 0.5]
    assert arrivals[0] == 1767225600.25


def test_a_trace_that_is_cut_keeps_what_waits_for_the_rest(tmp_path: Path) -> None:
    requests = read(tmp_path, AGENTIC, count=2)
    assert len(requests.arrival) == 2
    assert calls(requests) == [(0, 1, 5.0)]


@pytest.mark.parametrize("text", [MOONCAKE, AGENTIC])
def test_a_rate_is_that_of_sessions_times_the_requests_of_one(tmp_path: Path, text: str) -> None:
    """Two sessions two seconds after each other, with three requests in all."""
    path = tmp_path / "trace.jsonl"
    path.write_text(text, encoding="utf-8")
    assert trace_rate(str(path), 10) == (3 / 2 * 1 / 2, 3)


def test_the_shipped_sessions_are_those_that_their_program_draws() -> None:
    shipped = Path(__file__).parents[3] / "workloads" / "traces" / "coding_agents.jsonl"
    if not shipped.is_file():
        pytest.skip("the wheel has them elsewhere")
    assert shipped.stat().st_size < 100_000
    assert shipped.read_text(encoding="utf-8") == agent_sessions.trace()
    requests = read_trace(RequestStream(trace=str(shipped)), BLOCK)
    assert len(requests.arrival) == agent_sessions.COUNT
    assert 0 < np.count_nonzero(requests.calls.callers == 0) < np.count_nonzero(requests.calls.callers == 1)


def test_the_shipped_chats_are_those_that_their_program_draws() -> None:
    shipped = Path(__file__).parents[3] / "workloads" / "traces" / "chat.csv.gz"
    if not shipped.is_file():
        pytest.skip("the wheel has them elsewhere")
    assert shipped.stat().st_size < 100_000
    assert gzip.decompress(shipped.read_bytes()).decode() == chat_requests.trace()
    requests = read_trace(RequestStream(trace=str(shipped)), BLOCK)
    gaps = np.diff(requests.arrival)
    assert len(requests.arrival) == chat_requests.COUNT
    assert gaps.mean() == pytest.approx(chat_requests.GAP, rel=0.03)
    assert gaps.std() / gaps.mean() == pytest.approx(1.08, rel=0.03)


def test_milliseconds_that_look_like_seconds_are_asked_about(tmp_path: Path) -> None:
    """Mooncake's moments are whole milliseconds: half a one, in a file without blocks, is half a second of somebody."""
    entries = [{"timestamp": moment, "input_length": 8, "output_length": 2} for moment in (0.5, 1.25, 2)]
    with pytest.warns(Notice, match=r"trace\.jsonl: `timestamp` is read as milliseconds.*multiply it by 1,000"):
        assert read(tmp_path, lines(*entries)).arrival.max() == pytest.approx(1.5e-3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read(tmp_path, lines(*({**each, "timestamp": 1000 * each["timestamp"]} for each in entries)))


def test_a_request_of_no_tokens_failed_and_one_of_one_token_did_not(tmp_path: Path) -> None:
    rows = [{"t": 1.0 + i, "type": "n", "in": a, "out": b, "hash_ids": [9]} for i, (a, b) in enumerate(LENGTHS)]
    requests = read(tmp_path, lines({"id": "one", "block_size": 16, "hash_id_scope": "local", "requests": rows}))
    assert requests.length.tolist() == [[16, 1], [1, 8]]


@pytest.mark.parametrize(("moment", "pause"), [(1500, 0.5), (1000, 0.0), (200, 0.0)])
def test_a_turn_of_a_session_waits_as_long_after_the_last_as_their_times_differ(
    tmp_path: Path, moment: int, pause: float
) -> None:
    turns = [{"session_id": "a", "timestamp": time, "input_length": 16, "output_length": 8} for time in (1000, moment)]
    assert calls(read(tmp_path, lines(*turns))) == [(0, 1, pytest.approx(pause))]


def chat(took: float, prompt: int = 1155) -> str:
    """Return a session of four turns, seven seconds apart. took: what each answer does [ms]."""
    return lines(*(
        {"timestamp": 1.7e9 + 7 * turn, "session_id": "a", "latency_ms": took, "usage": {
            "prompt_tokens": prompt, "completion_tokens": 211,
        }, "messages": [{"role": "user", "content": "word " * turn}]}
        for turn in range(4)
    ))  # fmt: skip


def coding(took: float, prompt: int = 1152) -> str:
    """Return four turns of a session, seven seconds apart, in blocks of 576 tokens. took: what an answer does [s]."""
    turns = [
        {"t": 7 * turn, "type": "n", "in": prompt, "out": 211, "hash_ids": [1, 2 + turn], "api_time": took}
        for turn in range(4)
    ]
    return json.dumps({"id": 1, "block_size": 576, "requests": turns})


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (chat(100.0), ""), (chat(100_000.0), "before the one before them had its answer"),
        (coding(0.1), ""), (coding(100.0), "before the one before them had its answer"),
        (coding(0.1, prompt=1), "blocks of more tokens than they have"),
    ],
)  # fmt: skip
def test_turns_before_their_answers_and_blocks_beyond_their_prompts_are_asked_about(
    tmp_path: Path, text: str, told: str
) -> None:
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        read(tmp_path, text)
    assert [told in str(each.message) for each in warned if each.category is ImplausibleInput] == [True] * bool(told)
