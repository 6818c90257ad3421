"""Serving benchmarks of vLLM (`vllm bench serve`) and SGLang (`bench_serving`) as metrics of a result."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from costmodel.errors import Location, MeasurementError, Problem
from costmodel.measurements.importing.compressed import parse_json, read_bytes
from costmodel.measurements.importing.documents import ServingBenchmark, checked
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


class Benchmark(ValueRecord):
    """What a serving benchmark measured. metrics: in SI, by the names of a result; model: as the benchmark calls it."""

    model: str
    metrics: Mapping[str, float]


def is_benchmark(document: Any) -> bool:
    """Tell whether a document holds the figures of a serving benchmark."""
    return isinstance(document, dict) and any(key in document for key in _KEYS["ttft"][0])


def read_benchmark(path: Path, shown: str) -> Benchmark:
    """Return the figures of a benchmark's JSON file, or of the only run of a JSON-lines file.

    Raises MeasurementError with the location where the file is missing, truncated, no benchmark, or holds several runs.
    """
    text = read_bytes(path, shown).decode("utf-8", errors="replace")
    lines = [line for line in text.splitlines() if line.strip()]
    several = len(lines) > 1 and all(_is_whole(line) for line in lines)
    if several:
        raise _problem(shown, "", f"holds {len(lines)} runs", "keep one line")
    document = parse_json(text, shown)
    if not is_benchmark(document):
        raise _problem(shown, "", "is no serving benchmark", "known are the JSON files of vLLM and SGLang")
    benchmark = checked(ServingBenchmark, document, shown)
    metrics = {}
    for metric, (keys, factor) in _KEYS.items():
        stated = (getattr(benchmark, key) for key in keys)
        value = next((number for number in stated if number is not None), None)
        if value is not None:
            metrics[metric] = value * factor
    return Benchmark(benchmark.model_id or benchmark.model or "", metrics)


def _is_whole(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def _problem(shown: str, field: str, message: str, hint: str) -> MeasurementError:
    return MeasurementError([Problem(Location(shown), field, message, hint)])
