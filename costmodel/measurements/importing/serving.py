"""Serving benchmarks as metrics of a result, with the load that they state.

Known are `vllm bench serve --save-result`, SGLang's `bench_serving --output-file`, the summaries of genai-perf and
AIPerf, and what the `/metrics` of vLLM and SGLang say in Prometheus' text format.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from costmodel.measurements.importing.compressed import parse_json, problem, read_bytes
from costmodel.measurements.importing.documents import Average, ServingBenchmark, checked
from costmodel.records import ValueRecord

_MILLI = 1e-3
# Metric of a result -> keys of the benchmarks, in the order of preference, and the factor to SI.
_KEYS: dict[str, tuple[tuple[str, ...], float]] = {
    "ttft": (("mean_ttft_ms", "median_ttft_ms"), _MILLI),
    "tpot": (("mean_tpot_ms", "median_tpot_ms"), _MILLI),
    "latency": (("mean_e2el_ms", "mean_e2e_latency_ms"), _MILLI),
    "tokens_per_second": (("output_throughput", "output_token_throughput"), 1.0),
    "requests_per_second": (("request_throughput",), 1.0),
    "input_tokens_per_second": (("input_throughput",), 1.0),
    "concurrency": (("concurrency", "max_concurrency"), 1.0),
}
_AVERAGES = {
    "ttft": "time_to_first_token", "tpot": "inter_token_latency", "latency": "request_latency",
    "tokens_per_second": "output_token_throughput", "requests_per_second": "request_throughput",
}  # fmt: skip
_LENGTHS = {"input_tokens": "input_sequence_length", "output_tokens": "output_sequence_length"}
_UNITS = {"s": 1.0, "sec": 1.0, "seconds": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
_CONFIGS = ((), ("loadgen",), ("perf_analyzer", "stimulus"), ("phases", "profiling"))  # where tools state their load
# Metric -> histograms of Prometheus in the order of preference. Means of requests before means of tokens.
_HISTOGRAMS = {
    "ttft": ("time_to_first_token_seconds",),
    "tpot": ("request_time_per_output_token_seconds", "time_per_output_token_seconds", "inter_token_latency_seconds"),
    "latency": ("e2e_request_latency_seconds",),
    "input_tokens": ("request_prompt_tokens", "prompt_tokens_histogram"),
    "output_tokens": ("request_generation_tokens", "generation_tokens_histogram"),
}
_SAMPLE = re.compile(r"^(?:vllm|sglang):(\w+)(?:\{.*\})?\s+(\S+)(?:\s+-?\d+)?$")  # name, value; labels and time apart


class Load(ValueRecord):
    """What a benchmark states of the requests that it sent, null where it does not.

    rate: requests that came in a second, infinite where all came at once.
    concurrency: most in flight.
    input_tokens, output_tokens: means.
    """

    rate: float | None = None
    concurrency: float | None = None
    input_tokens: float | None = None
    output_tokens: float | None = None


class Benchmark(ValueRecord):
    """What a serving benchmark measured. metrics: in SI, by the names of a result; model: as the benchmark calls it."""

    model: str
    metrics: Mapping[str, float]
    load: Load = Load()


def is_benchmark(document: Any) -> bool:
    """Tell whether a document holds the figures of a serving benchmark."""
    known = (*_KEYS["ttft"][0], *_KEYS["tpot"][0], *_AVERAGES.values())
    return isinstance(document, dict) and any(key in document for key in known)


def is_snapshot(text: str) -> bool:
    """Tell whether a text is what a server of vLLM or SGLang says to Prometheus."""
    return any(_SAMPLE.match(line) for line in text.splitlines())


def read_benchmark(path: Path, shown: str) -> Benchmark:
    """Return the figures of a benchmark's JSON file, of the only run of a JSON-lines file, or of a server's `/metrics`.

    shown: what messages call the file. Raises MeasurementError with the location where it is missing, truncated, no
    benchmark, or holds several runs.
    """
    text = read_bytes(path, shown).decode("utf-8", errors="replace")
    if not text.lstrip().startswith("{") and is_snapshot(text):
        return _of_snapshot(text, shown)
    lines = [line for line in text.splitlines() if line.strip()]
    several = len(lines) > 1 and all(_is_whole(line) for line in lines)
    if several:
        raise problem(shown, f"holds {len(lines)} runs", "keep one line")
    document = parse_json(text, shown)
    if not is_benchmark(document):
        known = "known are the JSON files of vLLM, SGLang, genai-perf and AIPerf, and the text of /metrics"
        raise problem(shown, "is no serving benchmark", known)
    has_blocks = any(isinstance(document.get(key), dict) for key in _AVERAGES.values())  # an average and a unit each
    return _of_averages(document, shown) if has_blocks else _of_numbers(document, shown)


def _of_numbers(document: Any, shown: str) -> Benchmark:
    """Return the figures of vLLM and SGLang, a number under each key."""
    benchmark = checked(ServingBenchmark, document, shown)
    metrics = {}
    for metric, (keys, factor) in _KEYS.items():
        stated = (getattr(benchmark, key) for key in keys)
        value = next((number for number in stated if number is not None), None)
        if value is not None:
            metrics[metric] = value * factor
    completed = benchmark.completed
    sums = benchmark.total_input_tokens, benchmark.total_output_tokens
    means = (total / completed if completed and total else None for total in sums)
    load = Load(_rate(benchmark.request_rate, shown), benchmark.max_concurrency, *means)
    return Benchmark(benchmark.model_id or benchmark.model or "", metrics, load)


def _rate(stated: float | str | None, shown: str) -> float | None:
    """Return a rate of requests, infinite as text or number, null for times of a trace."""
    if stated is None or stated == "trace":
        return None
    rate = _number(stated)
    if not rate > 0.0:
        hint = "write requests a second, or inf"
        raise problem(shown, f"{stated!r} is no rate", hint, field="request_rate")
    return rate


def _number(text: float | str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _of_averages(document: Mapping[str, Any], shown: str) -> Benchmark:
    """Return the figures of genai-perf and AIPerf, an average with its unit under each key."""
    known = {key: checked(Average, document[name], shown, name) for key, name in _AVERAGES.items() if name in document}
    lengths = {key: checked(Average, document[name], shown, name) for key, name in _LENGTHS.items() if name in document}
    metrics = {}
    for key, one in known.items():
        is_time = not key.endswith("_per_second")
        if is_time and one.unit not in _UNITS:
            hint = f"known are {', '.join(_UNITS)}"
            raise problem(shown, f"{one.unit!r} is no unit of time", hint, field=f"{_AVERAGES[key]}.unit")
        metrics[key] = one.avg * (_UNITS[one.unit] if is_time else 1.0)
    config = document.get("input_config")
    stated = {name: _configured(config, name) for name in ("request_rate", "concurrency")}
    load = Load(stated["request_rate"], stated["concurrency"], **{key: one.avg for key, one in lengths.items()})
    return Benchmark("", metrics, load)


def _configured(config: Any, name: str) -> float | None:
    """Return a number of a tool's configuration, null where none is stated."""
    for path in _CONFIGS:
        part = config
        for key in path:
            part = part.get(key) if isinstance(part, dict) else None
        value = part.get(name) if isinstance(part, dict) else None
        if isinstance(value, int | float) and not isinstance(value, bool) and 0.0 < value < 1e300:
            return float(value)
    return None


def _of_snapshot(text: str, shown: str) -> Benchmark:
    """Return the means since a server began, all engines and ranks together.

    mean = sum of all `_sum` / sum of all `_count`
    """
    sums: dict[str, float] = {}
    for number, line in enumerate(text.splitlines(), 1):
        match = _SAMPLE.match(line)
        if match is None or not match[1].endswith(("_sum", "_count")):
            continue
        value = _number(match[2])
        if not 0.0 <= value < math.inf:
            raise problem(shown, f"{match[2]!r} is no sum or count", "read it again", field=match[1], line=number)
        sums[match[1]] = sums.get(match[1], 0.0) + value
    means = {}
    for key, names in _HISTOGRAMS.items():
        pairs = [(sums.get(f"{name}_sum"), sums.get(f"{name}_count")) for name in names]
        mean = next((total / count for total, count in pairs if total is not None and count), 0.0)
        if mean > 0.0:
            means[key] = mean
    metrics = {key: value for key, value in means.items() if not key.endswith("_tokens")}
    if not metrics:
        raise problem(shown, "no request has ended yet", "read /metrics after a run")
    return Benchmark("", metrics, Load(None, None, means.get("input_tokens"), means.get("output_tokens")))


def _is_whole(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False
