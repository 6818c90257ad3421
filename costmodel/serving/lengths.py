"""Lengths and rate of a scenario that leaves them to a file of requests."""

from __future__ import annotations

import math
import warnings
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from costmodel.errors import ImplausibleInput, InputError
from costmodel.records import replace
from costmodel.schema.plausible import unlike
from costmodel.serving.draw import file_lengths
from costmodel.serving.traces import read_rows
from costmodel.workload.plans import Serving
from costmodel.workload.requests import RequestStream
from costmodel.workload.scenario import Scenario

_BANDS = ("trace.input_tokens", "trace.output_tokens", "trace.rate", "pause", "trace.span")
FEWEST = 2.0  # output tokens of a closed form: the first and one more, as files have to state


class _Means(NamedTuple):
    """Of a file: mean lengths in whole tokens; rate [1/s], pause before a later turn and span of all arrivals [s].

    Null: of a single moment, without later turns, and of a file that is not read whole. Then all others.
    """

    prompt: float
    output: float
    rate: float | None
    pause: float | None
    span: float | None
    rows: int
    longest: float  # tokens of the longest request, prompt and answer


def with_lengths(scenario: Scenario) -> Scenario:
    """Return a scenario with the mean lengths of its file of requests where it states none, and a trace's rate.

    Raises InputError at the row of the file that is wrong.
    """
    plan = scenario.plan
    stream = plan.requests if isinstance(plan, Serving) else None
    if not isinstance(plan, Serving) or stream is None or (stream.trace is None and stream.pairs is None):
        return scenario
    lengths = plan.input_tokens, plan.output_tokens
    unknown = [bool(np.all(each == 0)) for each in lengths]
    comes = stream.trace is not None and plan.rate is None and plan.concurrency is None
    if not any(unknown) and not comes:
        return scenario
    means = _means(stream)
    for band, value in zip(_BANDS, means, strict=False):
        odd = None if value is None else unlike(band, value)
        if odd is not None:
            text = f"{stream.trace or stream.pairs}: {odd[0]}; {odd[1].rstrip('; ')}"
            warnings.warn(text, ImplausibleInput, stacklevel=4)
    prompt, output = means.prompt if unknown[0] else lengths[0], max(means.output, FEWEST) if unknown[1] else lengths[1]
    rate = means.rate * stream.speed if comes and means.rate is not None else plan.rate
    return replace(scenario, plan=replace(plan, input_tokens=prompt, output_tokens=output, rate=rate))


def _means(stream: RequestStream) -> _Means:
    path = Path(stream.trace or stream.pairs or "")
    count = None if stream.count is None or stream.trace is None else int(stream.count)
    return _read(path, path.stat().st_mtime_ns, stream.format, stream.tokenizer, count)


def trace_rate(path: str, count: int) -> tuple[float | None, int]:
    """Return the rate of the first requests of a trace [1/s], null of a single moment, and how many there are.

    count: at most so many of them.
    """
    file = Path(path)
    if not file.is_file():
        raise InputError.single("no such file of requests", field=path, hint="check its path")
    drawn = _read(file, file.stat().st_mtime_ns, None, None, count)
    return drawn.rate, drawn.rows


def longest_of(path: str) -> float:
    """Return the tokens of the longest request of a trace, prompt and answer."""
    return _read(Path(path), Path(path).stat().st_mtime_ns, None, None, None).longest


@lru_cache(maxsize=64)
def _read(
    path: Path,
    changed: int,  # noqa: ARG001  renews what is kept
    kind: str | None,
    tokenizer: str | None,
    count: int | None,
) -> _Means:
    if tokenizer is not None:
        prompt, output = file_lengths(path, tokenizer)
        means = [float(np.rint(each.mean())) for each in (prompt, output)]
        return _Means(means[0], means[1], None, None, None, len(prompt), float((prompt + output).max()))
    rows, starts, tokens, first, last, longest, pauses = 0, 0, np.zeros(2), np.nan, np.nan, 0.0, list[float]()
    for row in read_rows(path, kind, count):
        if not row.after:  # others come when an answer is there
            first, last = (row.arrival if starts == 0 else first), row.arrival
            starts += 1
        pauses += [pause for _, pause in row.after[:1]]
        tokens += row.prompt, row.output
        longest = max(longest, float(row.prompt + row.output))
        rows += 1
    prompt, output = np.rint(tokens / rows).tolist()
    rate = rows / starts * (starts - 1) / (last - first) if last > first else None
    span = last - first if count is None or rows < count else None
    return _Means(prompt, output, rate, math.fsum(pauses) / len(pauses) if any(pauses) else None, span, rows, longest)
