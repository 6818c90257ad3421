"""Traces of agents: requests that wait for others, as JSON lines.

| format | a line | source |
|---|---|---|
| weka | a session: id, block_size, requests of type n, s or subagent | AIPerf, docs/tutorials/weka-trace.md |
| dynamo | a request: event_type request_end, request, agent_context | Dynamo, docs: request traces, schema v1 |
| mooncake | a request: timestamp, input_length, output_length, hash_ids; session_id, delay | dynamo-data-gen |
| agentic | such a request, with request_id, and wait_for or dependencies | dynamo-data-gen, mooncake.rs |
| openai | a request: messages, usage; of the batch API, body and response | OpenAI, API reference, batch |
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

from costmodel.errors import ImplausibleInput, Notice
from costmodel.records import Record
from costmodel.serving.message_texts import Texts, answer_of, messages_of, usage_of
from costmodel.serving.trace_rows import MILLI, Row, moment_of, number_of, parsed, problem, tokens_of

Lines: TypeAlias = Iterator[tuple[int, str]]
Entry: TypeAlias = dict[str, Any]
LENGTHS = (("input_length", "input_tokens"), ("output_length", "output_tokens"))
MOMENTS = ("timestamp", "created_time", "created_at", "created", "request_time", "time")
TOOK = {"total_time_ms": MILLI, "latency_ms": MILLI, "duration_ms": MILLI, "latency_s": 1.0, "duration_s": 1.0}
LAST_SECOND = 1e11  # since 1970: more are milliseconds


class Reader:
    """What readers of a file share: where they are, numbers of blocks by their names, and texts of messages."""

    def __init__(self, shown: str, texts: Texts) -> None:
        self.shown, self.texts = shown, texts
        self._numbers: dict[tuple[str, Any], int] = {}

    def blocks(self, values: Any, line: int, scope: str = "") -> tuple[int, ...]:
        """Return numbers of blocks. scope: within which equal names are equal blocks."""
        if not isinstance(values, list) or any(not isinstance(each, int | str) for each in values):
            raise problem(self.shown, line, "has blocks that are no list of numbers", "write hash_ids: [1, 2]")
        return tuple(self._numbers.setdefault((scope, each), len(self._numbers)) for each in values)

    def wrong(self, line: int, message: str, hint: str) -> Exception:
        """Return the error of a line."""
        return problem(self.shown, line, message, hint)

    def mapping(self, value: Any, line: int, name: str) -> Entry:
        """Return a mapping, an empty one where there is none."""
        if value is not None and not isinstance(value, dict):
            raise self.wrong(line, f"{name} is no object", f"write {name}: {{…}}")
        return value or {}

    def items(self, value: Any, line: int, name: str) -> list[Any]:
        """Return a list, an empty one where there is none."""
        if value is not None and not isinstance(value, list):
            raise self.wrong(line, f"{name} is no list", f"write {name}: […]")
        return value or []

    def lengths(self, entry: Entry, line: int, names: tuple[tuple[str, ...], ...] = LENGTHS) -> tuple[int, int]:
        """Return the tokens of prompt and output."""
        known = [next((each for each in group if each in entry), group[0]) for group in names]
        lacking = [name for name in known if name not in entry]
        if lacking:
            raise self.wrong(line, f"lacks {lacking[0]}", f"write {lacking[0]}")
        prompt, output = (tokens_of(entry[name], self.shown, line, name, least=0) for name in known)
        return prompt, output

    def seconds(self, entry: Entry, name: str, line: int, scale: float, default: float = 0.0) -> float:
        """Return a time of an entry in seconds, the default where it has none."""
        value = entry.get(name)
        return default if value is None else moment_of(value, self.shown, line, name, scale)

    def size(self, value: Any, line: int) -> int:
        """Return the tokens of a block."""
        return tokens_of(value, self.shown, line, "block size")


class Recorded(Record):
    """A request as it was recorded. session, parent: names, empty where there are none; start, end: [s]."""

    row: Row
    session: str
    parent: str
    start: float
    end: float


def in_sessions(records: list[Recorded]) -> Iterator[Row]:
    """Yield rows by the moments at which they were recorded.

    A request waits for the one before it in its session that had ended, for the last ones of sub-sessions that ended
    since, and as the first of its session for one of the session's parent. It comes as long after them as it did then.
    """
    ended: dict[str, list[tuple[float, str]]] = {}
    children: dict[str, set[str]] = {}
    records, early = sorted(records, key=lambda each: each.start), 0
    for number, each in enumerate(records):
        before = _last_ended(ended.get(each.session, []), each.start)
        if before is None and each.parent:
            before = _last_ended(ended.get(each.parent, []), each.start)
        early += each.session in ended and ended[each.session][-1][0] > each.start
        waits = [] if before is None else [before]
        for child in sorted(children.get(each.session, ())):
            back = _last_ended(ended.get(child, []), each.start)
            if back is not None and before is not None and back[0] > before[0]:
                waits.append(back)
        name = str(number)
        if each.session:
            ended.setdefault(each.session, []).append((each.end, name))
        if each.parent:
            children.setdefault(each.parent, set()).add(each.session)
        row, after = each.row, tuple((other, each.start - end) for end, other in waits)
        yield Row(
            row.line, float("inf") if after else each.start, row.prompt, row.output, row.blocks, row.priority, name,
            after, 0.0, row.size,
        )  # fmt: skip
    _warn_of_early(early, len(records) - len(ended))


def _warn_of_early(early: int, turns: int) -> None:
    """Warn where most turns came before the one before them had its answer."""
    if 2 * early > turns:
        text = "most turns came before the one before them had its answer: check the unit of what answers took"
        warnings.warn(ImplausibleInput(text), stacklevel=2)


def _last_ended(ended: list[tuple[float, str]], moment: float) -> tuple[float, str] | None:
    return max((each for each in ended if each[0] <= moment), default=None)


def dynamo_rows(lines: Lines, reader: Reader) -> Iterator[Row]:
    """Yield the requests of a Dynamo request trace. Other events are left out."""
    records = []
    for line, text in lines:
        entry = parsed(text, reader.shown, line)
        if entry.get("event_type") != "request_end":
            continue
        request = reader.mapping(entry.get("request"), line, "request")
        replay = reader.mapping(request.get("replay"), line, "replay")
        context = reader.mapping(entry.get("agent_context"), line, "agent_context")
        prompt, output = reader.lengths({**request, **replay}, line, (LENGTHS[0], ("output_tokens",)))
        end = reader.seconds(entry, "event_time_unix_ms", line, MILLI)
        took = reader.seconds(request, "total_time_ms", line, MILLI)
        start = reader.seconds(request, "request_received_ms", line, MILLI, end - took)
        if prompt == 0 or output == 0:
            continue
        blocks = reader.blocks(replay.get("input_sequence_hashes", []), line)
        size = reader.size(replay["trace_block_size"], line) if "trace_block_size" in replay else 0
        row = Row(line, start, prompt, output, blocks, size=size)
        session, parent = (str(context.get(key) or "") for key in ("session_id", "parent_session_id"))
        records.append(Recorded(row, session, parent, start, max(start + took if took else end, start)))
    yield from in_sessions(records)


def mooncake_rows(lines: Lines, reader: Reader) -> Iterator[Row]:
    """Yield the requests of a Mooncake trace.

    They wait as `wait_for` says, or in version 2 of the agentic ones `dependencies`; one with neither, of a session,
    for the one above it. What waits for another one to be sent waits for what that one waits for.
    """
    size, broken, last = 0, 0, dict[str, tuple[str, float]]()
    sent = dict[str, tuple[float, tuple[tuple[str, float], ...]]]()
    for line, text in lines:
        entry = parsed(text, reader.shown, line)
        if "block_size" in entry and "request_id" not in entry:  # the header
            size = reader.size(entry["block_size"], line)
            continue
        start, after = _timed(entry, reader, line, last), list[tuple[str, float]]()
        for other, trigger, delay in _dependencies(entry, reader, line, last):
            if trigger != "dispatch":
                after.append((other, delay))
            elif other in sent:
                start = max(start, sent[other][0] + delay)
                after += [(each, wait + delay) for each, wait in sent[other][1]]
            else:
                raise reader.wrong(line, f"goes with {other[:40]!r}, which is not above it", "sort the file")
        prompt, output = (
            tokens_of(entry.get(long, entry.get(short)), reader.shown, line, long) for long, short in LENGTHS
        )
        name, scope, priority = str(entry.get("request_id", f"line {line}")), str(entry.get("play_id", "")), None
        if entry.get("priority") is not None:
            priority = tokens_of(entry["priority"], reader.shown, line, "priority", least=0)
        blocks = reader.blocks(entry.get("hash_ids") or [], line, scope)
        sent[name], earliest = (start, tuple(after)), start if scope else 0.0
        broken += not blocks and abs(start / MILLI - round(start / MILLI)) > 1e-6
        if entry.get("session_id") is not None:
            last[str(entry["session_id"])] = name, start
        arrival = float("inf") if after else start
        yield Row(line, arrival, prompt, output, blocks, priority, name, tuple(after), earliest, size)
    if 2 * broken > len(sent):
        text = f"{reader.shown}: `timestamp` is read as milliseconds, Mooncake's unit, though most are no whole ones"
        warnings.warn(Notice(f"{text}: multiply it by 1,000 where it is in seconds"), stacklevel=2)


def _timed(entry: Entry, reader: Reader, line: int, last: dict[str, tuple[str, float]]) -> float:
    """Return when a request comes, or came, at the earliest [s]."""
    moment = next((entry[key] for key in ("not_before_ms", "timestamp", "created_time") if key in entry), None)
    waits = entry.get("wait_for") or str(entry.get("session_id")) in last
    lacks = not all(set(group) & entry.keys() for group in LENGTHS)
    if lacks or (moment is None and not waits):
        raise reader.wrong(line, "lacks a key", "write timestamp, input_length and output_length")
    return 0.0 if moment is None else moment_of(moment, reader.shown, line, "timestamp", MILLI)


def _dependencies(
    entry: Entry, reader: Reader, line: int, last: dict[str, tuple[str, float]]
) -> Iterator[tuple[str, str, float]]:
    """Yield what a request waits for: its name, `completion` or `dispatch`, and how long from then [s].

    last: of each session its last request, and when that came.
    """
    if "wait_for" not in entry and "play_id" not in entry and str(entry.get("session_id")) in last:
        other, then = last[str(entry["session_id"])]
        since = max(_timed(entry, reader, line, last) - then, 0.0)
        delays = [reader.seconds(entry, key, line, MILLI) for key in ("delay", "delay_ms") if key in entry]
        yield other, "completion", delays[0] if delays else since
        return
    pause = sum(reader.seconds(entry, key, line, MILLI) for key in ("delay", "delay_ms", "tool_wait_ms"))
    for other in reader.items(entry.get("wait_for"), line, "wait_for"):
        yield str(other), "completion", pause
    for each in reader.items(entry.get("dependencies"), line, "dependencies"):
        one = reader.mapping(each, line, "dependencies")
        yield str(one.get("request_id")), str(one.get("trigger")), reader.seconds(one, "delay_ms", line, MILLI)


def weka_rows(lines: Lines, reader: Reader) -> Iterator[Row]:
    """Yield the requests of sessions of coding agents, one session a line."""
    for line, text in lines:
        yield from weka_session(parsed(text, reader.shown, line), line, reader)


def weka_session(trace: Entry, line: int, reader: Reader) -> Iterator[Row]:
    """Yield the requests of one session. Requests of sub-agents follow each other, and the session waits for the last.

    A request comes `think_time` after those that it waits for, else as long as it did then.
    """
    scope = "" if trace.get("hash_id_scope") == "global" else f"{line}"
    size, last, back = reader.size(trace.get("block_size", 0), line), None, list[str]()
    early = turns = 0

    def row(entry: Entry, name: str, start: float, after: tuple[tuple[str, float], ...]) -> Row | None:
        prompt, output = reader.lengths(entry, line, (("in",), ("out",)))
        if prompt == 0 or output == 0:  # it failed
            return None
        blocks = reader.blocks(entry.get("hash_ids") or [], line, scope)
        return Row(line, float("inf") if after else start, prompt, output, blocks, None, name, after, 0.0, size)

    for index, entry in enumerate(_requests(trace, line, reader)):
        name, start = f"{line}.{index}", reader.seconds(entry, "t", line, 1.0)
        turns, early = turns + (last is not None), early + (last is not None and start < last[1])
        wait = max(reader.seconds(entry, "think_time", line, 1.0, start - last[1] if last else 0.0), 0.0)
        before: tuple[tuple[str, float], ...] = () if last is None else ((last[0], wait),)
        if entry.get("type") != "subagent":
            made = row(entry, name, start, (*before, *((each, 0.0) for each in back)))
            if made is not None:
                last, back = (name, start + reader.seconds(entry, "api_time", line, 1.0)), []
                yield made
            continue
        inner, end = before, start
        for place, each in enumerate(_requests(entry, line, reader)):
            moment = reader.seconds(each, "t", line, 1.0)
            pause = max(reader.seconds(each, "think_time", line, 1.0, moment - end if place else 0.0), 0.0)
            inner = inner if place == 0 else tuple((other, pause) for other, _ in inner)
            made = row(each, f"{name}.{place}", start, inner)
            if made is not None:
                end, inner = moment + reader.seconds(each, "api_time", line, 1.0), ((made.name, 0.0),)
                yield made
        if inner != before and not str(entry.get("status", "")).startswith("async"):
            back.append(inner[0][0])
    _warn_of_early(early, turns)


def _requests(entry: Entry, line: int, reader: Reader) -> list[Entry]:
    requests = entry.get("requests")
    if not isinstance(requests, list) or any(not isinstance(each, dict) for each in requests):
        raise reader.wrong(line, "requests is no list of objects", "write requests: [{t: 0, type: n, in: 10, out: 5}]")
    return requests


def openai_rows(lines: Lines, reader: Reader) -> Iterator[Row]:
    """Yield the requests of a log with messages and usage, or of a batch. Those that failed are left out.

    What prompts share is as their messages say; one that begins with those of an earlier request goes on from it.
    """
    records = []
    for line, text in lines:
        entry = parsed(text, reader.shown, line)
        usage = usage_of(entry)
        if usage is None:
            if entry.get("error") or "response" in entry:
                continue
            raise reader.wrong(line, "has no usage", "write usage: {prompt_tokens: 100, completion_tokens: 20}")
        names = (("prompt_tokens", "input_tokens"), ("completion_tokens", "output_tokens"))
        prompt, output = reader.lengths(usage, line, names)
        if prompt == 0 or output == 0:
            continue
        start = _start(entry, reader, line)
        took = next((reader.seconds(entry, key, line, scale) for key, scale in TOOK.items() if key in entry), 0.0)
        messages = messages_of(entry)
        if messages is None:
            raise reader.wrong(line, "has messages that are no list of objects", "write messages: [{role: user, …}]")
        blocks = reader.texts.path(messages, prompt, answer_of(entry), output)
        session = next((str(entry[key]) for key in ("session_id", "conversation_id") if entry.get(key)), "")
        row = Row(line, start, prompt, output, blocks)
        records.append(Recorded(row, session, str(entry.get("parent_session_id") or ""), start, start + took))
    yield from in_sessions(records)


def _start(entry: Entry, reader: Reader, line: int) -> float:
    """Return when a request came [s], 0 where nothing says so."""
    body = reader.mapping(reader.mapping(entry.get("response"), line, "response").get("body"), line, "body")
    for each in (entry, body):
        for name in MOMENTS:
            if each.get(name) is not None:
                number = number_of(each[name])
                scale = MILLI if number is not None and number > LAST_SECOND else 1.0
                return moment_of(each[name], reader.shown, line, name, scale)
    return 0.0


READERS: dict[str, Callable[[Lines, Reader], Iterator[Row]]] = {
    "mooncake": mooncake_rows, "agentic": mooncake_rows, "dynamo": dynamo_rows, "weka": weka_rows,
    "openai": openai_rows,
}  # fmt: skip


def kind_of(entry: Entry) -> str:
    """Return the format of a JSON line by its keys."""
    keys = entry.keys()
    if "event_type" in keys or str(entry.get("schema", "")).startswith("dynamo.request"):
        return "dynamo"
    if {"requests", "block_size"} <= keys:
        return "weka"
    if {"messages", "usage", "custom_id", "response"} & keys:
        return "openai"
    return "mooncake"
