"""Lengths and rate of a scenario that leaves them to a file of requests."""

from __future__ import annotations

import warnings
from functools import lru_cache
from pathlib import Path

import numpy as np

from costmodel.errors import ImplausibleInput, InputError
from costmodel.records import replace
from costmodel.schema.plausible import unlike
from costmodel.serving.draw import file_lengths
from costmodel.serving.traces import read_rows
from costmodel.workload.plans import Serving
from costmodel.workload.requests import RequestStream
from costmodel.workload.scenario import Scenario

_BANDS = ("trace.input_tokens", "trace.output_tokens", "trace.rate")
FEWEST = 2.0  # output tokens of a closed form: the first and one more, as files have to state


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
    for band, value in zip(_BANDS, means, strict=True):
        odd = None if value is None else unlike(band, value)
        if odd is not None:
            text = f"{stream.trace or stream.pairs}: {odd[0]}; {odd[1].rstrip('; ')}"
            warnings.warn(text, ImplausibleInput, stacklevel=4)
    prompt, output = means[0] if unknown[0] else lengths[0], max(means[1], FEWEST) if unknown[1] else lengths[1]
    rate = means[2] * stream.speed if comes and means[2] is not None else plan.rate
    return replace(scenario, plan=replace(plan, input_tokens=prompt, output_tokens=output, rate=rate))


def _means(stream: RequestStream) -> tuple[float, float, float | None]:
    """Return the mean lengths of a file, in whole tokens, and the rate of a trace [1/s], null of a single moment."""
    path = Path(stream.trace or stream.pairs or "")
    count = None if stream.count is None or stream.trace is None else int(stream.count)
    return _read(path, path.stat().st_mtime_ns, stream.format, stream.tokenizer, count)[:3]


def trace_rate(path: str, count: int) -> tuple[float | None, int]:
    """Return the rate of the first requests of a trace [1/s], null of a single moment, and how many there are.

    count: at most so many of them.
    """
    file = Path(path)
    if not file.is_file():
        raise InputError.single("no such file of requests", field=path, hint="check its path")
    _, _, rate, rows, _ = _read(file, file.stat().st_mtime_ns, None, None, count)
    return rate, rows


def longest_of(path: str) -> float:
    """Return the tokens of the longest request of a trace, prompt and answer."""
    return _read(Path(path), Path(path).stat().st_mtime_ns, None, None, None)[4]


@lru_cache(maxsize=64)
def _read(
    path: Path,
    changed: int,  # noqa: ARG001  renews what is kept
    kind: str | None,
    tokenizer: str | None,
    count: int | None,
) -> tuple[float, float, float | None, int, float]:
    if tokenizer is not None:
        prompt, output = file_lengths(path, tokenizer)
        longest = float((prompt + output).max())
        return float(np.rint(prompt.mean())), float(np.rint(output.mean())), None, len(prompt), longest
    rows, starts, tokens, first, last, longest = 0, 0, np.zeros(2), np.nan, np.nan, 0.0
    for row in read_rows(path, kind, count):
        if not row.after:  # others come when an answer is there
            first, last = (row.arrival if starts == 0 else first), row.arrival
            starts += 1
        tokens += row.prompt, row.output
        longest = max(longest, float(row.prompt + row.output))
        rows += 1
    prompt, output = np.rint(tokens / rows).tolist()
    rate = rows / starts * (starts - 1) / (last - first) if last > first else None
    return prompt, output, rate, rows, longest
