"""Files of requests: traces of other projects and of serving benchmarks, each row checked.

| format | columns or keys |
|---|---|
| requests | arrival_s, input_tokens, output_tokens, and block_ids and priority where known |
| azure | TIMESTAMP, ContextTokens, GeneratedTokens. In Vidur arrived_at, num_prefill_tokens, num_decode_tokens |
| burstgpt | Timestamp, Request tokens, Response tokens. Requests without a response failed and are left out |
| servegen | timestamp, input_tokens, output_tokens |
| bench | JSON of `vllm bench serve --save-detailed` and its like: start_times, input_lens, output_lens |

Tables of other columns are read by `ALIASES`, such as timestamp, prompt_tokens, completion_tokens. Those of
`agent_traces` are JSON lines.
"""

from __future__ import annotations

import csv
import gzip
import math
import zlib
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import IO

from costmodel.errors import InputError
from costmodel.reading import open_regular
from costmodel.records import ValueRecord
from costmodel.schema.references import display_path
from costmodel.schema.results import read_json
from costmodel.serving.agent_traces import READERS, Reader, kind_of, weka_session
from costmodel.serving.message_texts import Texts
from costmodel.serving.sharegpt import is_sharegpt
from costmodel.serving.trace_rows import PRIORITY, Row, blocks_of, moment_of, parsed, priority_of, problem, tokens_of

MAX_BYTES = 8 * 2**30  # of a file, decompressed
MAX_DOCUMENT = 256 * 2**20  # of a JSON document, which Python holds at ten times its size
MAX_EMPTY = 1_000_000  # lines without text, one after the other: a small archive may hold any number
MAX_LINE = 64 * 2**20  # a line that is longer is no text


class Format(ValueRecord):
    """Columns of a table of requests. failed: rows without output are failures, which are left out."""

    arrival: str
    prompt: str
    output: str
    failed: bool = False


TABLES: dict[str, tuple[Format, ...]] = {
    "requests": (Format("arrival_s", "input_tokens", "output_tokens"),),
    "azure": (
        Format("TIMESTAMP", "ContextTokens", "GeneratedTokens"),
        Format("arrived_at", "num_prefill_tokens", "num_decode_tokens"),
    ),
    "burstgpt": (Format("Timestamp", "Request tokens", "Response tokens", failed=True),),
    "servegen": (Format("timestamp", "input_tokens", "output_tokens"),),
}
# Other spellings of their columns, the first found of each: small letters and digits alone.
ALIASES = {
    "arrival_s": (
        "arrivals", "arrival", "arrivaltime", "arrivedat", "timestamp", "timestamps", "time", "starttime",
        "requesttime", "createdat",
    ),
    "input_tokens": (
        "inputtokens", "input", "inputlength", "inputlen", "numinputtokens", "prompttokens", "promptlength",
        "promptlen", "numprompttokens", "prompt", "contexttokens", "requesttokens", "prefilltokens",
        "numprefilltokens", "isl",
    ),
    "output_tokens": (
        "outputtokens", "output", "outputlength", "outputlen", "numoutputtokens", "completiontokens",
        "numcompletiontokens", "completion", "generatedtokens", "generationtokens", "responsetokens", "decodetokens",
        "numdecodetokens", "osl",
    ),
}  # fmt: skip
# Replays of this project's own data name the blocks of prompts so.
OTHER_BLOCKS = ("block_ids", "prompt_block_ids")


def read_rows(
    path: Path, kind: str | None = None, count: int | None = None, texts: Texts | None = None
) -> Iterator[Row]:
    """Yield the first `count` requests of a file, all where null. texts: receives those of messages.

    Raises InputError at the row that is wrong.
    """
    shown = display_path(path)
    if not path.is_file():
        raise problem(shown, None, "not found", "check the path")
    if count is None and path.stat().st_size > MAX_BYTES:
        raise _too_large(shown, None)
    last, sessions = -math.inf, False
    for row in islice(_rows(path, shown, kind, Texts() if texts is None else texts), count):
        sessions = sessions or bool(row.after)
        if row.arrival < last and not sessions:
            raise problem(shown, row.line, "arrives before the request above it", "sort the file by arrival")
        last = row.arrival
        yield row
    if last == -math.inf:
        raise problem(shown, None, "has no requests", "write one request a row")


def _rows(path: Path, shown: str, kind: str | None, texts: Texts) -> Iterator[Row]:
    if path.suffix == ".json":
        yield from _document_rows(path, shown, texts)
        return
    with _opened(path) as file:
        lines = _lines(file, shown)
        number, head = next(lines, (1, ""))
        if kind in READERS or head.lstrip().startswith("{"):
            yield from _json_rows(chain([(number, head)], lines), shown, kind, texts)
            return
        yield from _table_rows(head, lines, shown, kind)


def _opened(path: Path) -> IO[bytes]:
    try:
        file = open_regular(path)
    except OSError as error:
        raise problem(display_path(path), None, f"cannot be read: {error.strerror}", "check the path") from None
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
            raise problem(shown, number + 1, f"cannot be read: {error}", "write the file again") from None
        if not data:
            return
        size += len(data)
        if size > MAX_BYTES:
            raise _too_large(shown, number + 1)
        if len(data) == MAX_LINE or b"\0" in data:
            raise problem(shown, number + 1, "is no text", "convert the trace to CSV")
        for line in data.splitlines():  # the file ends lines at line feeds only
            number += 1
            try:
                text = line.decode("utf-8-sig")
            except UnicodeDecodeError:
                raise problem(shown, number, "is not UTF-8 text", "save the file as UTF-8") from None
            empty = 0 if text.strip() else empty + 1
            if empty > MAX_EMPTY:
                raise problem(shown, number, f"follows {MAX_EMPTY:,} empty lines", "remove them")
            if not empty:
                yield number, text


def _too_large(shown: str, line: int | None) -> InputError:
    return problem(shown, line, f"is larger than {MAX_BYTES // 2**30} GiB", "write `count`, or cut the file")


def _table_rows(head: str, lines: Iterator[tuple[int, str]], shown: str, kind: str | None) -> Iterator[Row]:
    columns = [name.strip() for name in next(csv.reader([head]), [])]
    known = _format_of(columns, shown, kind)
    column_of = {name: columns.index(name) for name in (known.arrival, known.prompt, known.output)}
    blocks = next((columns.index(name) for name in OTHER_BLOCKS if name in columns), None)
    priority = columns.index(PRIORITY) if PRIORITY in columns else None
    for number, line in lines:
        cells = next(csv.reader([line]))
        if len(cells) != len(columns):
            raise problem(shown, number, f"has {len(cells)} values for {len(columns)} columns", "complete the row")
        output = tokens_of(cells[column_of[known.output]], shown, number, known.output, least=0 if known.failed else 1)
        if output == 0:
            continue
        yield Row(
            number,
            moment_of(cells[column_of[known.arrival]], shown, number, known.arrival),
            tokens_of(cells[column_of[known.prompt]], shown, number, known.prompt),
            output,
            () if blocks is None else blocks_of(cells[blocks].split(), shown, number),
            None if priority is None else priority_of(cells[priority], shown, number),
        )


def _format_of(columns: list[str], shown: str, kind: str | None) -> Format:
    kinds = TABLES if kind is None else {kind: TABLES.get(kind, ())}
    for candidates in kinds.values():
        for known in candidates:
            if {known.arrival, known.prompt, known.output} <= set(columns):
                return known
    if kind is not None:
        expected = "; ".join(", ".join((known.arrival, known.prompt, known.output)) for known in kinds[kind])
        raise problem(shown, 1, f"has no known columns: {', '.join(columns)[:200]}", f"write one of: {expected}")
    own = {_plain(column): column for column in reversed(columns)}
    named = {name: next((own[each] for each in names if each in own), None) for name, names in ALIASES.items()}
    lacking = [f"`{name}`" for name, column in named.items() if column is None]
    if lacking:
        others = ", ".join(column for column in columns if column not in named.values())[:200]
        raise problem(
            shown, 1, f"has no column that is known to be {' or '.join(lacking)}: {', '.join(columns)[:200]}",
            f"rename {others or 'a column'} to {', '.join(lacking)}: arrivals in seconds"
            f"{' (divide milliseconds by 1000)' if '_ms' in others else ''}, prompts and answers in tokens",
        )  # fmt: skip
    arrival, prompt, output = (str(column) for column in named.values())
    return Format(arrival, prompt, output)


def _plain(name: str) -> str:
    return "".join(each for each in name.lower() if each.isalnum())


def _json_rows(lines: Iterator[tuple[int, str]], shown: str, kind: str | None, texts: Texts) -> Iterator[Row]:
    """Yield the requests of JSON lines, whose first one says of which format they are where `kind` does not."""
    first = next(lines, None)
    if first is None:
        return
    kind = kind_of(parsed(first[1], shown, first[0])) if kind is None else kind
    if kind not in READERS:
        raise problem(shown, first[0], f"is a JSON line, and none of {kind}", f"write one of {', '.join(READERS)}")
    yield from READERS[kind](chain([first], lines), Reader(shown, texts))


def _document_rows(path: Path, shown: str, texts: Texts) -> Iterator[Row]:
    """Yield the requests of an agent's session, or of a benchmark's result: numbers of rows are places in it."""
    document = read_json(path, "save the benchmark with its details", MAX_DOCUMENT)
    if isinstance(document, dict) and kind_of(document) == "weka":
        yield from weka_session(document, 1, Reader(shown, texts))
        return
    if is_sharegpt(document):
        hint = "write `requests: {pairs: FILE, tokenizer: tokenizer.json}`, with arrivals of your own"
        raise problem(shown, None, "is a ShareGPT file: texts, which come at no time", hint)
    keys = ("start_times", "input_lens", "output_lens")
    lists = [document.get(key) if isinstance(document, dict) else None for key in keys]
    if any(not isinstance(each, list) for each in lists) or len({len(each) for each in lists if each}) != 1:
        hint = "save it with `--save-detailed`, of a version that writes them"
        raise problem(shown, None, f"lacks {', '.join(keys)} of one length", hint)
    starts, prompts, outputs = (each or [] for each in lists)
    moments = [moment_of(each, shown, number, keys[0]) for number, each in enumerate(starts, 1)]
    for i in sorted(range(len(starts)), key=moments.__getitem__):
        output = tokens_of(outputs[i], shown, i + 1, keys[2], least=0)
        if output:  # none: the request failed
            yield Row(i + 1, moments[i], tokens_of(prompts[i], shown, i + 1, keys[1]), output)
