"""Predictions of measured serving runs from their configuration alone, one JSON line a run.

python -m reports.serving RUNS.csv --output PREDICTIONS.jsonl [--engine event] [--score]

RUNS.csv has the columns of a table of runs: device, model, parallelism, framework and its limits, lengths, rate or
number in flight. No measured time is read. What a row leaves open is the framework's default.
"""

from __future__ import annotations

import json
import operator
import re
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Any

import click
import numpy as np
import yaml

import costmodel
from costmodel.errors import InputError
from reports.page import read_rows

ACCEPTANCES = (0.875, 0.375, 0.375)
"""Chances that drafts are accepted, those before them accepted, which rows do not state. First: the middle of 85 to
90 % [DeepSeek-V3, arXiv 2412.19437, section 5.4.3]; later ones: from speedups of SGLang (fits/drafts.py)."""
SHARES = (0.95,)
"""Shares of memory that a run is given, one after the other, if it does not fit by default: it took place, and its
weights hardly leave room for a cache."""
MEASURED = {
    "tpot": ("tpot_mean_ms", "tpot_median_ms"), "ttft": ("ttft_median_ms", "ttft_mean_ms"), "e2e": ("e2e_mean_ms",),
    "total_tok_per_s": ("total_tok_per_s",), "total_tok_s_gpu": ("total_tok_s_gpu",),
    "tpot_p50": ("tpot_median_ms",), "ttft_p50": ("ttft_median_ms",),
    "tpot_p99": ("tpot_p99_ms",), "ttft_p99": ("ttft_p99_ms",), "e2e_p99": ("e2e_p99_ms",),
}  # fmt: skip
"""Figure -> columns that may hold its measured value, of which the first that a row states counts."""
MILLISECONDS = 1e3
PROMPT_GRAPHS_SINCE = [0, 5, 10]
"""Version of SGLang since which CUDA graphs hold prompts, as its runs of 0.5.9 and 0.5.12 tell: its documentation says
that they do by default, but not since when."""
EXPERT_GRAPHS_SINCE = [0, 5, 13], "2026-06-10"
"""Version and day since which they do so where experts run on TensorRT-LLM's kernels, too."""
GENERATED_EXPERTS_SINCE = [1, 2], "2026-01-29"
"""Version of TensorRT-LLM, and day of the first run of DeepSeek-R1 that names it, since which TRTLLM-Gen runs FP8
experts on B200."""
Row = Mapping[str, str]


def number(row: Row, key: str) -> float | None:
    """Return a number of a row, null where the row does not state it."""
    text = row.get(key) or "null"  # an empty cell, or one that says so
    return None if text == "null" else float(text)


def framework(row: Row) -> str:
    """Return the framework file of a row's framework and version."""
    name, version = row["framework"].lower(), row.get("framework_version") or row.get("version") or ""
    if "sglang" in name:
        return _sglang(row, version)
    if "tensorrt" in name or "trt" in name:
        own = [] if "dynamo" in name else _numbers(version)  # Dynamo has numbers of its own
        return "trt-llm-1.1" if _is_before(row, own, GENERATED_EXPERTS_SINCE) else "trt-llm"
    version = version.removeprefix("v")
    minor = version.split(".")[1] if version.startswith("0.") else "15"
    return "vllm-0.11" if int(minor) < 14 else "vllm-0.15" if int(minor) < 17 else "vllm"


def _numbers(version: str) -> list[int]:
    """Return the numbers of a version, none where a row does not state it."""
    return [int(part) for part in re.findall(r"\d+", version.partition("-")[0])[:3]]


def _is_before(row: Row, numbers: list[int], since: tuple[list[int], str]) -> bool:
    """Tell whether a version is older than another; of none in particular, whether its run is older than a day."""
    first, day = since
    return numbers < first if numbers else (row.get("run_date") or day) < day


def _sglang(row: Row, version: str) -> str:
    """Return the framework file of a version of SGLang; of none in particular, by the day of the run."""
    numbers = _numbers(version)
    if not numbers or numbers >= PROMPT_GRAPHS_SINCE:
        return "sglang-0.5.12" if _is_before(row, numbers, EXPERT_GRAPHS_SINCE) else "sglang"
    return "sglang-rocm-0.5.9" if row["gpu"].startswith("mi") else "sglang-0.5.9"


def scenario(row: Row) -> dict[str, Any]:
    """Return the scenario of a row."""
    dtype = row.get("dtype", "")
    precision: dict[str, str] | str | None = "bf16"
    if dtype == "FP8":
        fallback = "w8a16" if "A100" in row["gpu"] else "bf16"  # weights alone: Marlin
        precision = {"compute": "fp8-tensor", "fallback": fallback, "kv_cache": "bf16"}
    if dtype == "MXFP4":  # the checkpoint's: experts alone
        precision = None
    if "DeepSeek" in row["model"] or (dtype == "FP8" and row["model"].startswith("Qwen/Qwen3.5")):
        precision = {"compute": "fp8-inference", "fallback": "bf16"}  # scales of blocks, as both publish them
    degrees = {key: number(row, key) for key in ("tp", "pp", "dp", "ep")}
    stated = {key: number(row, f"max_{key}") for key in ("num_seqs", "num_batched_tokens")}
    scheduler = {"max_num_seqs": stated["num_seqs"], "token_budget": stated["num_batched_tokens"]}
    utilization = number(row, "gpu_memory_utilization")
    count, rate = number(row, "max_concurrency"), number(row, "rate_per_s")
    together = count or number(row, "n_requests")  # all at once where there is no rate
    load: dict[str, Any] = {"concurrency": int(together or 1)}
    if rate and not count:
        requests = number(row, "n_requests") or rate * (number(row, "duration_s") or 0)
        even = {"arrivals": "even"} if row.get("arrival") == EVEN else {}
        load = {"rate": f"{rate:g} /s"} | ({"requests": {"count": round(requests), **even}} if requests else {})
    return {
        "phase": "serving",
        "cluster": f"nodes/{table('nodes')[row['gpu']]}",
        "framework": framework(row),
        **({} if precision is None else {"precision": precision}),
        "parallel": {key: int(value) for key, value in degrees.items() if value},
        "input_tokens": round(number(row, "input_mean") or 0),
        "output_tokens": max(round(number(row, "output_mean") or 0), 2),
        "prefix_hit_rate": number(row, "prefix_hit") or 0.0,
        "scheduler": {key: int(value) for key, value in scheduler.items() if value},
        "memory": {} if utilization is None else {"utilization": utilization},
        **_drafts(row),
        **load,
    }


def _drafts(row: Row) -> dict[str, Any]:
    """Return what a row drafts with its model's module, nothing where it states none."""
    stated = row.get("speculative") or "null"
    if stated == "null":
        return {}
    by_flags = re.search(r"--speculative-num-steps[ =](\d+)", row["server_flags"])  # of SGLang
    depth = int(by_flags[1] if by_flags else json.loads(stated)["num_speculative_tokens"])
    chances = [*ACCEPTANCES, *ACCEPTANCES[-1:] * depth][:depth]
    return {"speculative": {"depth": depth, "acceptances": chances, "assumed": True}}


def closed_loop(row: Row) -> dict[str, Any]:
    """Return the scenario of a row of the table of closed loops, on one engine."""
    devices, replicated = number(row, "n_gpus") or 1, number(row, "decode_dpa") or 0
    degrees = {"dp": int(devices), "ep": int(devices)} if replicated else {"tp": int(devices)}
    if not replicated and (number(row, "decode_ep") or 1) > 1:
        degrees["ep"] = int(devices)
    head, depth = _of_closed_loop(row), draft_depth(row, framework(row))
    if depth is not None and "speculative" in head:
        head["speculative"] |= {"depth": depth, "acceptances": list(ACCEPTANCES[:depth])}
    return {
        **head,
        "parallel": degrees,
        "input_tokens": round(number(row, "isl_mean") or 0),
        "output_tokens": round(number(row, "osl_mean") or 0),
        "concurrency": max(int((number(row, "concurrency") or 1) / degrees.get("dp", 1)), 1),
        **deployment(row, framework(row)),
    }


def is_complete(row: Row) -> bool:
    """Tell whether a row states the instances of both pools, and a device for each of them."""
    counts = [[float(row[key] or 0) for key in (f"{name}_workers", f"n_gpus_{name}")] for name in ("prefill", "decode")]
    return all(0 < workers <= devices for workers, devices in counts)


def pool(row: Row, name: str) -> tuple[dict[str, int], int, int]:
    """Return the degrees of one instance of a pool, its devices, and how many instances there are."""
    devices, count = (int(float(row[key])) for key in (f"n_gpus_{name}", f"{name}_workers"))
    size = devices // count
    if row[f"{name}_dpa"] == "1":
        return ({"dp": size, "ep": size} if size > 1 else {"tp": 1}), size, count
    degrees = {"tp": size}
    if float(row[f"{name}_ep"] or 1) > 1:
        degrees["ep"] = size
    return degrees, size, count


def pools_scenario(row: Row, head: Mapping[str, Any]) -> dict[str, Any]:
    """Return the scenario of a closed loop on two pools. head: what it has in common with that of one engine."""
    inputs, outputs = (round(float(row[key])) for key in ("isl_mean", "osl_mean"))
    engines: dict[str, Any] = {}
    routing: dict[str, Any] = {}
    for name in ("prefill", "decode"):
        degrees, _, count = pool(row, name)
        settings = exchange(row, head["framework"], degrees)
        routing = settings.pop("routing", routing)
        engines[name] = {**settings, "parallel": degrees, "instances": count}
    return {
        **head,
        **pools(row, head["framework"]),
        **({"routing": routing} if routing else {}),
        "input_tokens": inputs,
        "output_tokens": outputs,
        "concurrency": round(float(row["concurrency"])),
        **engines,
    }


def _of_closed_loop(row: Row) -> dict[str, Any]:
    """Return what the scenarios of one engine and of two pools have in common."""
    formats, engine = table("formats").get(row["model"], {}).get(row["precision"]), framework(row)
    depth = next(count for name, count in table("default_drafts").items() if engine.startswith(name))
    drafts = {"depth": depth, "acceptances": list(ACCEPTANCES[:depth]), "assumed": True}
    return {
        "phase": "serving",
        "cluster": f"nodes/{table('closed_loop_nodes')[row['gpu']]}",
        "framework": engine,
        **({} if formats is None else {"precision": formats}),
        **({"speculative": drafts} if row["mtp"] != "none" else {}),
    }


def document(row: Row) -> dict[str, Any] | str:
    """Return the workload of a row, or why there is none."""
    head = {"schema": "costmodel/workload@1"}
    if "isl_mean" in row:
        if row["gpu"] not in table("closed_loop_nodes") or not row["framework"].endswith(("sglang", "vllm", "trt")):
            return "a device or a framework without a file"
        has_pools = row["disagg"] == "1"
        if has_pools and not is_complete(row):
            return "pools without workers, or with fewer devices than workers"
        run = pools_scenario(row, _of_closed_loop(row)) if has_pools else closed_loop(row)
        return {**head, "model": f"models/{table('networks')[row['model']]}", "scenarios": {"run": run}}
    if row["model"] not in table("models") or row["gpu"] not in table("nodes"):
        return "model or device without a file"
    if not any(number(row, key) for key in ("rate_per_s", "max_concurrency", "n_requests")):
        return "neither a rate nor a number in flight"
    return {**head, "model": f"models/{table('models')[row['model']]}", "scenarios": {"run": scenario(row)}}


def prediction(row: Row, engine: str = "analytic") -> dict[str, Any]:
    """Return the prediction of a row, milliseconds; why there is none under `error`."""
    identifier, content = row.get("id") or row["row_id"], document(row)
    if isinstance(content, str):
        return {"id": identifier, "error": content}
    run = content["scenarios"]["run"]
    for share in (None, *(() if run.get("memory") or "decode" in run else SHARES)):
        found = _simulated(row, content, share, engine)
        if "error" not in found:
            break
    return {"id": identifier, **found}


def _simulated(row: Row, content: Mapping[str, Any], share: float | None, engine: str) -> dict[str, Any]:
    """Return the figures of a workload; why there are none under `error`. share: of memory, null: the default."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "run.yaml"
        if engine == "event" and "decode" not in content["scenarios"]["run"]:
            content = {**content, "scenarios": {"run": over_time(row, content["scenarios"]["run"], file.parent)}}
        file.write_text(yaml.safe_dump(content), encoding="utf-8")
        changed = {} if share is None else {"scenarios.run.memory.utilization": share}
        try:
            return _figures(costmodel.load(file, set=changed).simulate(engine=engine)["scenarios"]["run"])
        except InputError as error:
            return {"error": str(error)}


def _figures(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return the figures of a result under the names of the table of runs."""
    metrics, spans = found["metrics"], found["intervals"]
    if not found["memory"]["fits"]:
        return {"error": found["reason"]}
    figures: dict[str, Any] = {"verdict": found.get("verdict")}
    for name, metric in (("tpot", "tpot"), ("ttft", "ttft"), ("e2e", "latency")):
        if metrics[metric] is None:
            continue
        figures[name] = metrics[metric] * MILLISECONDS
        low, high = spans.get(metric) or (None, None)
        if low is not None and high is not None:
            figures[f"{name}_low"], figures[f"{name}_high"] = low * MILLISECONDS, high * MILLISECONDS
    for name in ("ttft", "e2e", "tpot"):
        tails = (found.get("percentiles") or {}).get(name, {})
        figures |= {f"{name}_{quantile}": value * MILLISECONDS for quantile, value in tails.items()}
    figures["request_per_s"] = metrics["requests_per_second"]
    figures["output_tok_per_s"] = metrics["tokens_per_second"]
    figures["total_tok_per_s"] = metrics["tokens_per_second"] + metrics["input_tokens_per_second"]
    figures["total_tok_s_gpu"] = figures["total_tok_per_s"] / found["devices"]
    return {**figures, "concurrency": metrics["concurrency"], "highest_stable_rate": metrics.get("highest_stable_rate")}


def rows(files: tuple[str, ...]) -> Iterator[Row]:
    """Yield the rows of the tables."""
    for file in files:
        yield from read_rows(Path(file))


def scores(chosen: Sequence[Row], found: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield a line for each device, model, framework and figure: rows, mean error, and the mean of signed ones."""
    errors: dict[tuple[str, ...], list[float]] = defaultdict(list)
    for row, predicted in zip(chosen, found, strict=True):
        latencies = row.get("score_latency", "yes") == "yes" and row.get("verdict") not in ("saturated", "overloaded")
        for figure, columns in MEASURED.items():
            measured = next((value for value in (number(row, column) for column in columns) if value), None)
            follows = row.get("verdict") == "stable" and figure == "total_tok_per_s"
            if measured and figure in predicted and (latencies or "tok" in figure) and not follows:
                error = predicted[figure] / measured - 1
                for group in (("all", "", ""), (row["gpu"], row["model"], row["framework"])):
                    errors[*group, figure].append(error)
    for key, values in sorted(errors.items()):
        mean, signed = fmean(map(abs, values)), fmean(values)
        yield f"{' '.join(key):<75} {len(values):4d} {mean:8.1%} {signed:+8.1%}"


@click.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False))
@click.option("--output", required=True, type=click.Path(dir_okay=False), help="JSON lines")
@click.option("--only", default="", help="rows whose id begins so")
@click.option(
    "--engine", type=click.Choice(["analytic", "event"]), default="analytic", help="closed form, or by requests"
)
@click.option("--score", is_flag=True, help="also print errors against the measured columns")
def main(runs: tuple[str, ...], output: str, only: str, engine: str, *, score: bool) -> None:
    """Predict every run of RUNS that the models cover."""
    chosen = [row for row in rows(runs) if (row.get("id") or row["row_id"]).startswith(only)]
    found = []
    with Path(output).open("w", encoding="utf-8") as lines:  # one by one: what is predicted is kept
        for row in chosen:
            found.append(prediction(row, engine))
            lines.write(json.dumps(found[-1]) + "\n")
    missing = [each for each in found if "error" in each]
    click.echo(f"{len(found) - len(missing)} of {len(found)} runs predicted")
    for each in missing:
        click.echo(f"{each['id']}: {each['error'].splitlines()[0]}", err=True)
    for line in scores(chosen, found) if score else ():
        click.echo(line)


# ---- The requests of a measured serving run, drawn from its configuration, for `python -m reports.serving --engine
# event`.
#
# Stages of inference-perf: exponential gaps, scaled so that exactly rate x duration requests fill the stage (its
# ConstantLoadTimer); ten groups of ten prompts, each group with one system prompt. Stages of guidellm at a constant
# rate: equal gaps, ShareGPT's lengths as below, prompts that share nothing. Closed loops: each user's next request
# follows the last one, ten requests a user, lengths uniform between 80 and 100 % of the nominal ones (`vllm bench serve
# --random-range-ratio`, as SemiAnalysis InferenceX calls it). ShareGPT's requests: exponential lengths with the run's
# means (decision 0256).

GROUPS, PROMPTS = 10, 10  # of inference-perf's shared prefixes: system prompts, and questions to each
BLOCK = 16  # tokens of a block
PER_USER = 10  # requests of a closed loop
SHORTEST = 0.8  # of the nominal length
EVEN = "constant"  # arrivals at equal gaps, as guidellm's


def stage_trace(row: Row, path: Path) -> None:
    """Write the requests of a stage as a trace with the blocks of their prompts.

    row: with `rate_per_s`, `n_requests` or `duration_s`, `input_mean`, `output_mean`, and where known
    `system_prompt_tokens`.
    """
    rate = float(row["rate_per_s"])
    count = round(number(row, "n_requests") or rate * (number(row, "duration_s") or 0.0))
    draw = np.random.default_rng(0)
    is_even = row.get("arrival") == EVEN
    gaps = np.ones(count) if is_even else draw.exponential(1.0, count)
    arrival = (np.cumsum(gaps) - gaps[0]) * (count / rate) / gaps.sum()
    prompt, output = round(float(row["input_mean"])), round(float(row["output_mean"]))
    if is_even and _is_sharegpt(row):
        drawn = [np.maximum(np.rint(draw.exponential(mean, count)), 1).astype(int) for mean in (prompt, output)]
        lines = [f"{at!r},{first},{later}" for at, first, later in zip(arrival.tolist(), *drawn, strict=True)]
        path.write_text("\n".join(["arrival_s,input_tokens,output_tokens", *lines]) + "\n", encoding="utf-8")
        return
    system = int(number(row, "system_prompt_tokens") or 0) // BLOCK
    blocks = prompt // BLOCK
    chosen = draw.integers(0, GROUPS * PROMPTS, count)
    lines = ["arrival_s,input_tokens,output_tokens,block_ids"]
    for at, asked in zip(arrival.tolist(), chosen.tolist(), strict=True):
        group = asked // PROMPTS
        ids = [*range(group * system, (group + 1) * system)]
        first = GROUPS * system + asked * (blocks - system)
        ids += range(first, first + blocks - system)
        lines.append(f"{at!r},{prompt},{output},{' '.join(map(str, ids))}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def over_time(row: Row, scenario: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return a row's scenario with its requests over time; traces are written into the folder."""
    if "isl_mean" in row:
        lengths = {
            name: {"distribution": "uniform", "low": int(SHORTEST * float(row[key])), "high": int(float(row[key]))}
            for name, key in (("input", "isl"), ("output", "osl"))
        }
        count = PER_USER * int(scenario["concurrency"]) * scenario["parallel"].get("dp", 1)
        ranks = {"replicas": {"routing": "least_loaded"}} if "dp" in scenario["parallel"] else {}
        return {**scenario, **ranks, "requests": {"arrivals": "closed_loop", "count": count, **lengths}}
    if "rate" not in scenario:
        drawn = {
            name: {"distribution": "exponential", "mean": scenario[f"{name}_tokens"]} for name in ("input", "output")
        }
        count = int(number(row, "n_requests") or PER_USER * int(scenario["concurrency"]))
        lengths = drawn if _is_sharegpt(row) else {}
        return {**scenario, "requests": {"arrivals": "closed_loop", "count": count, **lengths}}
    stage_trace(row, folder / "requests.csv")
    kept = {key: value for key, value in scenario.items() if key not in ("rate", "prefix_hit_rate")}
    return {**kept, "requests": {"trace": "requests.csv"}}


def _is_sharegpt(row: Row) -> bool:
    """Tell whether a row's requests are ShareGPT's; those of a workload that is not named have its means."""
    return row.get("workload", "").startswith(("ShareGPT", "null"))


# ---- Settings that an engine's documentation recommends for a run, where a table of runs states none -


FILE = Path(__file__).with_name("serving_deployments.yaml")
_COMPARED = {">=": operator.ge, "<": operator.lt, ">": operator.gt}


@cache
def table(part: str) -> Any:
    """Return a part of the file: rules, or names in tables of runs and what they stand for."""
    return yaml.safe_load(FILE.read_text(encoding="utf-8"))[part]


def deployment(row: Mapping[str, str], engine: str) -> dict[str, Any]:
    """Return keys of the scenario of a row on one engine: memory, precision and scheduler. engine: its framework."""
    found = _settings("scenario", {**row, "engine": engine})
    scheduler = found.get("scheduler", {})
    if "beside_prompt" in scheduler:
        scheduler["token_budget"] = round(float(row["isl"])) + scheduler.pop("beside_prompt")
    return found


def draft_depth(row: Mapping[str, str], engine: str) -> int | None:
    """Return the tokens that an engine drafts where its documentation says how many; null: it does not."""
    return _settings("drafts", {**row, "engine": engine}).get("depth")


def exchange(row: Mapping[str, str], engine: str, degrees: Mapping[str, int]) -> dict[str, Any]:
    """Return how ranks of these degrees exchange tokens, where it is not as the framework's default."""
    return _settings("exchange", {**row, "engine": engine, "dp": degrees.get("dp", 1)})


def pools(row: Mapping[str, str], engine: str) -> dict[str, Any]:
    """Return keys of the scenario of a row on two pools, of both of them."""
    return _settings("pools", {**row, "engine": engine})


def _settings(part: str, facts: Mapping[str, object]) -> dict[str, Any]:
    """Return the settings of all rules of a part of the file that a row meets, later ones first where both say."""
    found: dict[str, Any] = {}
    for rule in table(part):
        if all(_meets(facts[name], wanted) for name, wanted in rule["when"].items()):
            for name, value in rule["set"].items():
                found[name] = {**found.get(name, {}), **value} if isinstance(value, dict) else value
    return found


def _meets(value: object, wanted: str | list[str]) -> bool:
    """Tell whether a value is as a rule wants it: a comparison, a pattern, or one of a list."""
    if isinstance(wanted, list):
        return any(_meets(value, each) for each in wanted)
    sign, _, number = wanted.partition(" ")
    if sign in _COMPARED:
        return bool(_COMPARED[sign](float(str(value)), float(number)))
    return fnmatchcase(str(value), wanted)


if __name__ == "__main__":
    main()
