"""The benchmark that checks a plan: each engine's client, with the plan's load and the statistics of its limits."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

_REQUESTS = 1000  # of a benchmark
_SGLANG = ("mean", "p50", "p99")  # that SGLang's own client prints
_MEDIANS = ("mean", "p50")  # that vLLM's client prints beside percentiles


def benchmark(
    key: str, checkpoint: str, load: Mapping[str, Any], statistics: Sequence[str] = (), *, drafts: bool = False,
    port: int | None = None,
) -> list[str]:  # fmt: skip
    """Return the words of the command that measures an engine.

    key: of engines.yaml. load: `isl`, `osl` [tokens], `rate` [1/s] or `users` of the engine; statistics: of limits.
    drafts: texts of the user's own, since drafts of random tokens are hardly ever accepted.
    SGLang's client where it prints the statistics, else vLLM's, which talks to any server of OpenAI's interface.
    """
    own = "sglang" in key and set(statistics) <= {*_SGLANG}
    output = str(int(load["osl"])) if "osl" in load else None
    if own:
        words = ["python3", "-m", "sglang.bench_serving", "--backend", "sglang"]
    else:
        words = ["vllm", "bench", "serve", "--backend", "vllm" if "vllm" in key else "openai"]
        words += [] if "vllm" in key else ["--endpoint", "/v1/completions"]
    words += ["--model", checkpoint, *([] if port is None else ["--port", str(port)])]
    if drafts:
        lengths = ("--sharegpt-output-len" if own else "--custom-output-len", output)
        words += ["--dataset-name", "custom", "--dataset-path", "texts.jsonl"]
        words += [lengths[0], output] if output is not None else []
    else:
        words += ["--dataset-name", "random", *(["--random-range-ratio", "1.0"] if own else [])]
        for name, option in (("isl", "--random-input-len"), ("osl", "--random-output-len")):
            words += [option, str(int(load[name]))] if name in load else []
    words += ["--num-prompts", str(_REQUESTS)]
    words += ["--request-rate", f"{load['rate']:.4g}"] if "rate" in load else []
    words += ["--max-concurrency", str(max(round(load["users"]), 1))] if "users" in load else []
    if not own:
        shares = sorted({each.removeprefix("p") for each in statistics if each not in _MEDIANS}, key=float) or ["99"]
        words += [
            "--percentile-metrics", "ttft,tpot,itl,e2el", "--metric-percentiles", ",".join(shares), "--ignore-eos",
        ]  # fmt: skip
    return words


def caveats(*, drafts: bool, of_trace: bool) -> Iterator[str]:
    """Yield what a benchmark does not measure of a plan."""
    if drafts:
        yield 'texts.jsonl has your own prompts, a line {"prompt": "..."} each: of random tokens no draft is kept'
    if of_trace:
        yield "prompts have the trace's mean lengths and rate: its bursts and longest requests are not sent"


def statistics_of(limits: Sequence[object]) -> list[str]:
    """Return the statistics of limits written as `1 s@p95`."""
    found = (re.search(r"@(\w+)$", str(limit)) for limit in limits if limit is not None)
    return list(dict.fromkeys(each[1] for each in found if each))
