"""Whole runs on devices taken as unmeasured, with one of them as the anchor, and with their own kernels.

python -m reports.fits.unmeasured_devices MEGATRON_BRIDGE.csv INFERENCEX.csv RATES.csv --table PAGE

A run is predicted three times: without any fit of a device of its architecture; from that, scaled by another run of its
set, each in turn (`--path` names a folder whose prior and step errors were made without the architecture); and with all
fits. Sets: SimuMax's steps on B200 (workloads/published/simumax.yaml), pretraining of dense models by Megatron Bridge,
DeepSeek-R1 without drafts on one engine, and rates of SGLang on H20 as their publication gives them.
"""

from __future__ import annotations

import argparse
import itertools
import math
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import yaml

import costmodel
from costmodel.api import Workload
from costmodel.errors import InputError
from costmodel.measurements.row_group import Catalogue
from costmodel.records import ValueRecord
from costmodel.schema.files import list_names
from costmodel.schema.whole_files import write_whole
from costmodel.study.published.predictions import predict
from costmodel.study.published.reproduce import load_cases
from reports.serving import document, rows

COMMAND = (
    "python -m reports.fits.unmeasured_devices MEGATRON_BRIDGE.csv INFERENCEX.csv RATES.csv "
    "--table reports/unmeasured_devices.md"
)
NODES = {"b200": "hgx-b200", "gb200": "gb200-nvl72"}
FORMATS = {"BF16": "bf16", "FP8": "fp8-te", "FP8-CS": "fp8-te"}  # of a step; others are not those of any precision file
ROOM = "290 GB"  # of steps whose recomputation and offloading are not stated: these are timed without either
STAGE = "Pre-Training Performance"
MILLISECOND = 1e-3
COMPUTE = {"BF16": "bf16", "FP8": {"compute": "fp8-inference", "fallback": "bf16"}}
RATE = "tokens_per_second_per_device"


class Run(ValueRecord):
    """A measured run: its set, what it is, and the measured time [s] or rate [1/s]. metric: of the result."""

    group: str
    workload: Workload
    metric: str
    measured: float


class Prediction(ValueRecord):
    """What is predicted of a run, and the interval."""

    value: float
    low: float
    high: float


def simumax() -> Iterator[Run]:
    """Yield SimuMax's steps of eight B200."""
    cases, _ = load_cases(["simumax"])
    for case in cases:
        steps = [each for each in case.expect if each.metric == "step_time"]
        if steps and isinstance(steps[0].value, float):
            workload = predict(case).workload
            if workload is not None:
                yield Run("SimuMax, B200", workload, "step_time", steps[0].value)


def megatron_bridge(table: Path) -> Iterator[Run]:
    """Yield steps of dense Llama 3 on B200 and GB200."""
    for row in rows((str(table),)):
        precision = FORMATS.get(row["precision"])
        if row["gpu"] in NODES and row["model"] == "LLAMA3_70B" and precision and row["stage"] == STAGE:
            devices, sharded = int(row["n_gpus"]), int(row["fsdp"] or 0)
            degrees = {name: int(row[name] or 1) for name in ("tp", "pp", "cp")}
            content = {
                "phase": "training",
                "cluster": f"nodes/{NODES[row['gpu']]}",
                "framework": "megatron-bridge",
                "parallel": {**degrees, "dp": devices // math.prod(degrees.values()), "virtual": int(row["vp"] or 1)},
                "global_batch": int(row["gbs"]),
                "micro_batch": int(row["mbs"]),
                "sequence": int(row["seq"]),
                "precision": precision,
                "optimizer": {"zero": 3 if sharded else 1, "overlap": True},
            }
            step = int(row["gbs"]) * int(row["seq"]) / (float(row["tokens_s_gpu"]) * devices)
            group = f"Megatron Bridge, {row['gpu'].upper()}, {precision}"
            changed = {"hardware.memory.hbm.capacity": ROOM}
            yield Run(group, _loaded("llama-3-70b", content, changed), "step_time", step)


def inferencex(table: Path) -> Iterator[Run]:
    """Yield closed loops of DeepSeek-R1 on one engine."""
    for row in rows((str(table),)):
        chosen = row["gpu"] in ("b200", "mi300x") and row["model"] == "dsr1" and row["precision"] == "fp8"
        if chosen and row["disagg"] == "0" and row["mtp"] == "none" and row["tpot_median_ms"] and not row["flag"]:
            content = document(row)
            if isinstance(content, Mapping):
                loaded = _loaded("deepseek-v3", content["scenarios"]["run"])
                framework = row["framework"].rpartition("-")[2]
                group = f"DeepSeek-R1, {row['gpu'].upper()}, {framework}"
                yield Run(group, loaded, "tpot", float(row["tpot_median_ms"]) * MILLISECOND)


def h20_rates(table: Path) -> Iterator[Run]:
    """Yield rates of SGLang on H20: of prompts by tokens of a batch, of decoding by sequences of a device."""
    for row in rows((str(table),)):
        stated = row["configuration"]
        if row["system/hardware"] != "H20" or not stated.startswith("SGLang"):
            continue
        model, _, compute = row["model"].rpartition(" ")
        devices = _stated(r"(\d+) GPUs?", stated)
        content: dict[str, Any] = {
            "cluster": "nodes/hgx-h20",
            "framework": "sglang",
            "parallel": {"dp": devices, "ep": devices} if devices > 1 else {},
            "input_tokens": _stated(r"ISL (\d+)", stated),
            "precision": COMPUTE[compute],
        }
        if row["metric"].startswith("prefill"):
            content |= {"phase": "prefill", "tokens_per_device": _stated(r"(\d+) prefill tokens", stated)}
        else:
            sequences, output = _stated(r"bs (\d+)", stated), _stated(r"OSL (\d+)", stated)
            content |= {"phase": "decode", "batch_per_device": sequences, "output_tokens": output}
        yield Run("SGLang, H20", _loaded(model.lower(), content), RATE, float(row["value"]))


def _stated(pattern: str, text: str) -> int:
    found = re.search(pattern, text)
    if found is None:
        raise InputError.single(f"{text!r} has no {pattern!r}", hint="take the table as it was published")
    return int(found[1])


def _loaded(model: str, scenario: Mapping[str, Any], changed: Mapping[str, object] | None = None) -> Workload:
    content = {"schema": "costmodel/workload@1", "model": f"models/{model}", "scenarios": {"run": scenario}}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "run.yaml"
        file.write_text(yaml.safe_dump(content), encoding="utf-8")
        return costmodel.load(file, set=dict(changed or {}))


def predicted(run: Run, hidden: frozenset[str] = frozenset(), path: Sequence[Path] = ()) -> Prediction | None:
    """Return the prediction of a run; none where it does not fit into memory."""
    workload = run.workload.without_fits_of(hidden, path) if hidden else run.workload
    (found,) = workload.simulate()["scenarios"].values()
    value, span = found["metrics"][run.metric], found["intervals"][run.metric]
    return None if value is None or span is None else Prediction(value, *span)


def lines_of(group: str, runs: Sequence[Run], hidden: frozenset[str], path: Sequence[Path]) -> Iterator[str]:
    """Yield the line of a set: runs, mean errors without, with one anchor and with fits; shares inside intervals."""
    known: list[tuple[float, Prediction, Prediction]] = []
    for run in runs:
        without, own = predicted(run, hidden, path), predicted(run)
        if without is not None and own is not None:
            known.append((run.measured, without, own))
    if not known:
        yield f"| {group} | 0 of {len(runs)} | | | | | |"
        return
    errors = [[each[side].value / each[0] - 1.0 for each in known] for side in (1, 2)]  # type: ignore[union-attr]
    ratios = [measured / without.value for measured, without, _ in known]
    anchored = [a / b - 1.0 for i, a in enumerate(ratios) for j, b in enumerate(ratios) if i != j]
    inside = [fmean(each[side].low <= each[0] <= each[side].high for each in known) for side in (1, 2)]  # type: ignore[union-attr]
    means = [fmean(map(abs, each)) if each else math.nan for each in (errors[0], anchored, errors[1])]
    shown = " | ".join("" if math.isnan(mean) else f"{mean:.0%}" for mean in means)
    held = "; ".join(f"{share:.0%}" for share in inside)
    yield f"| {group} | {len(known)} of {len(runs)} | {shown} | {fmean(errors[0]):+.0%} | {held} |"


def main(arguments: Sequence[str] | None = None) -> None:
    """Predict all sets; write the page."""
    parser = argparse.ArgumentParser(prog="python -m reports.fits.unmeasured_devices", description=main.__doc__)
    parser.add_argument("megatron_bridge", type=Path, help="table of Megatron Bridge")
    parser.add_argument("inferencex", type=Path, help="table of closed loops")
    parser.add_argument("rates", type=Path, help="table of rates of SGLang on H20")
    parser.add_argument("--table", type=Path, required=True, help="page to write")
    parser.add_argument("--path", type=Path, action="append", default=[], help="prior and steps made without them")
    parser.add_argument("--every", type=int, default=1, help="take every so many-th run of a set")
    parser.add_argument("--only", default="", help="sets whose name contains this")
    chosen = parser.parse_args(arguments)
    groups: dict[str, list[Run]] = {}
    sets = (
        simumax(), megatron_bridge(chosen.megatron_bridge), inferencex(chosen.inferencex), h20_rates(chosen.rates),
    )  # fmt: skip
    for run in itertools.chain(*sets):
        if chosen.only in run.group:
            groups.setdefault(run.group, []).append(run)
    catalogue = Catalogue()
    architecture = {name: catalogue.device(name).architecture for name in list_names("devices")}
    text = [
        "# Whole runs on devices taken as unmeasured", "", f"Made by `{COMMAND}`.", "",
        "Mean errors of times and rates: without any fit of the architecture; the same scaled by another run of",
        "the set, each in turn; with all fits. `sign`: mean of signed errors without; inside: runs in their",
        "80 % intervals, without and with fits.", "",
        "| runs | predicted | without | one anchor | own kernels | sign | inside |",
        "|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for group, every in groups.items():
        members = every[:: chosen.every]
        own = next(iter(members[0].workload.resolved.scenarios.values())).cluster.device.architecture
        hidden = frozenset(name for name, each in architecture.items() if each == own)
        for line in lines_of(group, members, hidden, chosen.path):
            text.append(line)
            sys.stdout.write(f"{line}\n")
            sys.stdout.flush()
    write_whole(chosen.table, ["\n".join([*text, ""]).encode("utf-8")])


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(str(error))
