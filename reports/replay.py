"""Measured runs replayed request by request: `python -m reports.replay FOLDER...`

FOLDER has `requests.csv` (arrivals, lengths, blocks of prompts, measured times of each request) and `server.json`
(device, model and flags of vLLM). Nothing measured goes into a prediction. Times to first token count from when the
engine took a request in, as the source's do. Prints mean and 99th percentile as predicted and measured, and the errors.
"""

from __future__ import annotations

import csv
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

import costmodel
from costmodel.quantities import Array
from costmodel.serving.evaluation import RequestEvaluation
from costmodel.serving.state import FINISH, FIRST, OUTPUT, QUEUED
from costmodel.workload.plans import Serving
from reports.serving import MODELS, NODES

MEASURED = {"ttft": "ttft_ms", "tpot": "tpot_ms", "e2e": "e2e_ms"}
MILLISECONDS = 1e3


def run(server: Mapping[str, Any]) -> dict[str, Any]:
    """Return the scenario of a server's flags."""
    scheduler = {
        "max_num_seqs": server["max_num_seqs"], "token_budget": server["max_num_batched_tokens"],
        "async": server["async_scheduling"],
    }  # fmt: skip
    return {
        "phase": "serving", "cluster": f"nodes/{NODES[server['gpu']]}", "framework": "vllm", "precision": "bf16",
        "parallel": {"tp": server["tensor_parallel_size"], "dp": server["data_parallel_size"]},
        "input_tokens": 1024, "output_tokens": 256, "scheduler": scheduler,
        "memory": {"utilization": server["gpu_memory_utilization"], "block": server["block_size"]},
        "requests": {"trace": "requests.csv"},
    }  # fmt: skip


def predicted(folder: Path) -> dict[str, Array]:
    """Return the times of each request as predicted [ms]."""
    server = json.loads((folder / "server.json").read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as temporary:
        workload = Path(temporary) / "run.yaml"
        trace = (folder / "requests.csv").read_text(encoding="utf-8").replace("prompt_block_ids", "block_ids", 1)
        (workload.parent / "requests.csv").write_text(trace, encoding="utf-8")
        content = {"model": f"models/{MODELS[server['model']]}", "scenarios": {"run": run(server)}}
        text = yaml.safe_dump({"schema": "costmodel/workload@1", **content})
        workload.write_text(text, encoding="utf-8")
        loaded = costmodel.load(workload)
        scenario = loaded.scenario("run")
        assert isinstance(scenario.plan, Serving)
        served = RequestEvaluation(scenario, scenario.plan, loaded.calibration(scenario)).served
    time, output = served.progress.time, served.requests.length[:, OUTPUT]
    first, end = time[:, FIRST] - time[:, QUEUED], time[:, FINISH] - time[:, QUEUED]
    later = (end - first) / np.maximum(output - 1, 1)
    return {name: MILLISECONDS * each for name, each in (("ttft", first), ("tpot", later), ("e2e", end))}


def measured(folder: Path) -> dict[str, Array]:
    """Return the measured times of each request [ms]."""
    with (folder / "requests.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    return {name: np.array([float(row[column]) for row in rows]) for name, column in MEASURED.items()}


def lines(folder: Path) -> Iterator[str]:
    """Yield a line of a replay for each figure."""
    found, known = predicted(folder), measured(folder)
    yield folder.name
    for name in MEASURED:
        pairs = ((float(take(found[name])), float(take(known[name]))) for take in (np.mean, _p99))
        shown = (f"{own:9.1f} of {theirs:9.1f} ms {own / theirs - 1.0:+6.1%}" for own, theirs in pairs)
        yield f"  {name:<5} mean {next(shown)}   p99 {next(shown)}"


def _p99(values: Array) -> float:
    return float(np.percentile(values, 99.0))


def main(arguments: Sequence[str]) -> int:
    """Print the errors of the replays."""
    for folder in arguments:
        sys.stdout.write("\n".join(lines(Path(folder))) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
