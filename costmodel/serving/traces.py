"""Files of requests: traces of other projects and of serving benchmarks, each row checked.

| format | columns or keys | |---|---| | requests | arrival_s, input_tokens, output_tokens, and block_ids and priority
where known | | azure | TIMESTAMP, ContextTokens, GeneratedTokens. In Vidur arrived_at, num_prefill_tokens,
num_decode_tokens | | burstgpt | Timestamp, Request tokens, Response tokens. Requests without a response failed and are
left out | | servegen | timestamp, input_tokens, output_tokens | | mooncake | JSON lines: timestamp [ms], input_length,
output_length, hash_ids | | bench | JSON of `vllm bench serve --save-detailed` and its like: start_times, input_lens,
output_lens |
"""

from __future__ import annotations

import csv
import gzip
import json
import math
import zlib
from array import array
from collections.abc import Iterable, Iterator
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import IO, Any

import numpy as np

from costmodel.errors import InputError, Location
from costmodel.reading import open_regular
from costmodel.records import ValueRecord
from costmodel.schema.references import display_path
from costmodel.schema.serving import LARGEST
from costmodel.serving.sharegpt import is_sharegpt
from costmodel.serving.state import Calls, Paths, Requests
from costmodel.serving.trace_blocks import check_sizes, paths_of_trace, trace_block
from costmodel.workload.requests import RequestStream

MAX_TOKENS = 100_000_000  # of one request: more is a mistake
MAX_BYTES = 8 * 2**30  # of a file, decompressed
MAX_EMPTY = 1_000_000  # lines without text, one after the other: a small archive may hold any number
MAX_LINE = 64 * 2**20  # a line that is longer is no text
MILLI = 1e-3
LARGEST_BLOCK = 2**63 - 1


class Format(ValueRecord):
    """Columns of a table of requests. failed: rows without output are failures, which are left out."""

    arrival: str
    prompt: str
    output: str
    blocks: str = ""
    scale: float = 1.0
    failed: bool = False


TABLES: dict[str, tuple[Format, ...]] = {
    "requests": (Format("arrival_s", "input_tokens", "output_tokens", "block_ids"),),
    "azure": (
        Format("TIMESTAMP", "ContextTokens", "GeneratedTokens"),
        Format("arrived_at", "num_prefill_tokens", "num_decode_tokens"),
    ),
    "burstgpt": (Format("Timestamp", "Request tokens", "Response tokens", failed=True),),
    "servegen": (Format("timestamp", "input_tokens", "output_tokens"),),
}
MOONCAKE = Format("timestamp", "input_length", "output_length", "hash_ids", MILLI)
PRIORITY = "priority"  # column of a table; the least is served first
# Replays of this project's own data name the blocks of prompts so.
OTHER_BLOCKS = ("block_ids", "prompt_block_ids")


class Row(ValueRecord):
    """One request of a file: where it stands, when it arrives [s], its tokens, its blocks, its priority if any."""

    line: int
    arrival: float
    prompt: int
    output: int
    blocks: tuple[int, ...] = ()
    priority: int | None = None


def read_trace(stream: RequestStream, block: int) -> Requests:
    """Return the requests of a trace, the first arriving at 0. block: tokens of a block of the engine's cache.

    Raises InputError at the row that is wrong.
    """
    assert stream.trace is not None
    path = Path(stream.trace)
    arrival, length, number, blocks, priority = array("d"), array("q"), array("q"), array("q"), array("q")
    for row in read_rows(path, stream.format, None if stream.count is None else int(stream.count)):
        arrival.append(row.arrival)
        length.extend((row.prompt, row.output))
        number.append(len(row.blocks))
        blocks.extend(row.blocks)
        if row.priority is not None:  # of all rows of a table, or of none
            priority.append(row.priority)
    lengths = np.asarray(length, np.int64).reshape(-1, 2)
    of_each = np.asarray(number, np.int64)
    count, paths, shown = len(arrival), Paths.none(len(arrival)), display_path(path)
    if of_each.any():
        size = trace_block(of_each, lengths[:, 0], shown)
        check_sizes(size, block, shown)
        paths = paths_of_trace(np.asarray(blocks, np.int64), of_each, lengths[:, 0], block, size)
    moments = (np.asarray(arrival) - arrival[0]) / float(stream.speed)
    return Requests(moments, lengths, Calls.none(count), paths, np.asarray(priority, np.int32))


def read_rows(path: Path, kind: str | None = None, count: int | None = None) -> Iterator[Row]:
    """Yield the first `count` requests of a file, all where null. Raises InputError at the row that is wrong."""
    shown = display_path(path)
    if not path.is_file():
        raise _problem(shown, None, "not found", "check the path")
    if count is None and path.stat().st_size > MAX_BYTES:
        raise _too_large(shown, None)
    last = -math.inf
    for row in islice(_rows(path, shown, kind), count):
        if row.arrival < last:
            raise _problem(shown, row.line, "arrives before the request above it", "sort the file by arrival")
        last = row.arrival
        yield row
    if last < 0.0:
        raise _problem(shown, None, "has no requests", "write one request a row")


def _rows(path: Path, shown: str, kind: str | None) -> Iterator[Row]:
    if path.suffix == ".json":
        yield from _bench_rows(path, shown)
        return
    with _opened(path) as file:
        lines = _lines(file, shown)
        number, head = next(lines, (1, ""))
        if kind == "mooncake" or head.lstrip().startswith("{"):
            yield from _json_rows([(number, head)], lines, shown)
            return
        yield from _table_rows(head, lines, shown, kind)


def _opened(path: Path) -> IO[bytes]:
    try:
        file = open_regular(path)
    except OSError as error:
        raise _problem(display_path(path), None, f"cannot be read: {error.strerror}", "check the path") from None
    return gzip.open(file, "rb") if path.suffix == ".gz" else file  # type: ignore[return-value]


def _lines(file: IO[bytes], shown: str) -> Iterator[tuple[int, str]]:
    """Yield the lines of a text file that are not empty, with their numbers. Lines may end as on any system.

    Raises InputError where it is no text, and where it goes on for too long.
    """
    number = size = empty = 0
    while True:
        try:
            data = file.readline(MAX_LINE)
        except (OSError, EOFError, zlib.error) as error:
            raise _problem(shown, number + 1, f"cannot be read: {error}", "write the file again") from None
        if not data:
            return
        size += len(data)
        if size > MAX_BYTES:
            raise _too_large(shown, number + 1)
        if len(data) == MAX_LINE or b"\0" in data:
            raise _problem(shown, number + 1, "is no text", "convert the trace to CSV")
        for line in data.splitlines():  # the file ends lines at line feeds only
            number += 1
            try:
                text = line.decode("utf-8-sig")
            except UnicodeDecodeError:
                raise _problem(shown, number, "is not UTF-8 text", "save the file as UTF-8") from None
            empty = 0 if text.strip() else empty + 1
            if empty > MAX_EMPTY:
                raise _problem(shown, number, f"follows {MAX_EMPTY:,} empty lines", "remove them")
            if not empty:
                yield number, text


def _too_large(shown: str, line: int | None) -> InputError:
    return _problem(shown, line, f"is larger than {MAX_BYTES // 2**30} GiB", "write `count`, or cut the file")


def _table_rows(head: str, lines: Iterator[tuple[int, str]], shown: str, kind: str | None) -> Iterator[Row]:
    columns = [name.strip() for name in next(csv.reader([head]), [])]
    known = _format_of(columns, shown, kind)
    column_of = {name: columns.index(name) for name in (known.arrival, known.prompt, known.output)}
    blocks = next((columns.index(name) for name in OTHER_BLOCKS if name in columns), None)
    priority = columns.index(PRIORITY) if PRIORITY in columns else None
    for number, line in lines:
        cells = next(csv.reader([line]))
        if len(cells) != len(columns):
            raise _problem(shown, number, f"has {len(cells)} values for {len(columns)} columns", "complete the row")
        output = _tokens(cells[column_of[known.output]], shown, number, known.output, least=0 if known.failed else 1)
        if output == 0:
            continue
        yield Row(
            number,
            _moment(cells[column_of[known.arrival]], shown, number, known),
            _tokens(cells[column_of[known.prompt]], shown, number, known.prompt),
            output,
            () if blocks is None else _blocks(cells[blocks].split(), shown, number),
            None if priority is None else _priority(cells[priority], shown, number),
        )


def _format_of(columns: list[str], shown: str, kind: str | None) -> Format:
    kinds = TABLES if kind is None else {kind: TABLES.get(kind, ())}
    for candidates in kinds.values():
        for known in candidates:
            if {known.arrival, known.prompt, known.output} <= set(columns):
                return known
    expected = "; ".join(
        ", ".join((known.arrival, known.prompt, known.output)) for group in kinds.values() for known in group
    )
    raise _problem(shown, 1, f"has no known columns: {', '.join(columns)[:200]}", f"write one of: {expected}")


def _json_rows(first: Iterable[tuple[int, str]], rest: Iterator[tuple[int, str]], shown: str) -> Iterator[Row]:
    known = MOONCAKE
    for lines in (first, rest):
        for number, line in lines:
            try:
                entry = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise _problem(shown, number, f"is no JSON: {error}", "write one object a line") from None
            if not isinstance(entry, dict) or not {known.arrival, known.prompt, known.output} <= entry.keys():
                hint = f"write {known.arrival}, {known.prompt} and {known.output}"
                raise _problem(shown, number, "lacks a key", hint)
            yield Row(
                number,
                _moment(entry[known.arrival], shown, number, known),
                _tokens(entry[known.prompt], shown, number, known.prompt),
                _tokens(entry[known.output], shown, number, known.output),
                _blocks(entry.get(known.blocks, ()), shown, number),
            )


def _bench_rows(path: Path, shown: str) -> Iterator[Row]:
    """Yield the requests of a benchmark's detailed result. Numbers of rows are places in its lists."""
    try:
        document = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise _problem(shown, None, f"is no JSON: {error}", "save the benchmark with its details") from None
    if is_sharegpt(document):
        hint = "write `requests: {pairs: FILE, tokenizer: tokenizer.json}`, with arrivals of your own"
        raise _problem(shown, None, "is a ShareGPT file: texts, which come at no time", hint)
    keys = ("start_times", "input_lens", "output_lens")
    lists = [document.get(key) if isinstance(document, dict) else None for key in keys]
    if any(not isinstance(each, list) for each in lists) or len({len(each) for each in lists if each}) != 1:
        hint = "save it with `--save-detailed`, of a version that writes them"
        raise _problem(shown, None, f"lacks {', '.join(keys)} of one length", hint)
    known = Format(*keys)
    starts, prompts, outputs = (each or [] for each in lists)
    order = sorted(range(len(starts)), key=lambda i: (isinstance(starts[i], int | float), starts[i]))
    for i in order:
        output = _tokens(outputs[i], shown, i + 1, keys[2], least=0)
        if output:  # none: the request failed
            yield Row(
                i + 1, _moment(starts[i], shown, i + 1, known), _tokens(prompts[i], shown, i + 1, keys[1]), output
            )


def _moment(value: Any, shown: str, line: int, known: Format) -> float:
    """Return a moment in seconds: a number, or a date and time."""
    moment = _number(value)
    if moment is None and isinstance(value, str):
        moment = _date(value)
        if moment is not None:
            return moment
    if moment is None or not math.isfinite(moment) or moment < 0:
        raise _problem(shown, line, f"{known.arrival} {str(value)[:40]!r} is no time", "write seconds from 0 on")
    return moment * known.scale


def _date(text: str) -> float | None:
    """Return a date and time in seconds. Digits beyond microseconds count too."""
    whole, _, fraction = text.strip().partition(".")
    try:
        digits = "".join(character for character in fraction if character.isdigit())
        return datetime.fromisoformat(whole).timestamp() + (float(f"0.{digits}") if digits else 0.0)
    except ValueError:
        return None


def _tokens(value: Any, shown: str, line: int, name: str, least: int = 1) -> int:
    number = _number(value)
    if number is None or not math.isfinite(number) or number != math.floor(number):
        raise _problem(shown, line, f"{name} {str(value)[:40]!r} is no whole number", "write tokens")
    if not least <= number <= MAX_TOKENS:
        raise _problem(shown, line, f"{name} {number:g} is out of range", f"write {least} to {MAX_TOKENS:,}")
    return int(number)


def _priority(value: str, shown: str, line: int) -> int:
    number = _number(value)
    if number is None or not math.isfinite(number) or number != math.floor(number):
        raise _problem(shown, line, f"{PRIORITY} {value[:40]!r} is no whole number", "write 0 for all that are alike")
    if abs(number) > LARGEST:
        raise _problem(shown, line, f"{PRIORITY} {number:g} is out of range", f"write -{LARGEST:,} to {LARGEST:,}")
    return int(number)


def _number(value: Any) -> float | None:
    if isinstance(value, bool):
        return None
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return None


def _blocks(values: Any, shown: str, line: int) -> tuple[int, ...]:
    try:
        blocks = tuple(int(value) for value in values)
    except (TypeError, ValueError, OverflowError):
        raise _problem(shown, line, "has a block that is no whole number", "write numbers of blocks") from None
    if any(not 0 <= block <= LARGEST_BLOCK for block in blocks):
        raise _problem(shown, line, "has a block that is negative or has more than 63 bits", "number blocks from 0 on")
    return blocks


def _problem(shown: str, line: int | None, message: str, hint: str) -> InputError:
    return InputError.single(message, field="requests.trace", hint=hint, location=Location(shown, line))
