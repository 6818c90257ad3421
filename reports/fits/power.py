"""What boards draw by what they do, fitted to power logs and to products that run at the limit; and whether clocks
follow their limits as the fit has it.

python -m reports.fits.power TABLES MEASUREMENTS      TABLES: folder with the power logs and sustained rates

Least squares of relative errors of power, of the rows of a generation:

    watts = idle + busy * x^3 * share + tensor * x^2 * FLOP/s + memory * B/s

share: of the time in which kernels run, as logged, else as predicted: kernels that take longer than predicted run
longer. FLOP/s, B/s: predicted ones at the measured rate. x: clock over the highest: 1 in the logs, whose boards are
below their limits; of a product at the limit its sustained rate over the fastest in the tables of kernels. Logs on
A100 do not tell busy from memory (correlation -1): a byte takes there what it takes on Hopper.

Prints energies with standard errors, each log from the others, and what boards of several limits show of the clock.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean, median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import yaml
from scipy.optimize import nnls

from costmodel.analytic.serving.continuous_batching import ServingEvaluation
from costmodel.api import Workload, load
from costmodel.cost.power import SIXTEEN_BIT
from costmodel.hardware import Power
from costmodel.quantities import Array
from costmodel.records import Record, ValueRecord, field, replace
from costmodel.schema.files import load_device
from costmodel.workload.plans import Serving
from reports.page import read_rows

TERMS = ("busy", "tensor", "memory")  # of `Power`; energy of links is cited, not fitted
UNITS = ("W", "pJ a FLOP", "pJ a byte")
PICO = np.array([1.0, 1e12, 1e12])
HOPPER, AMPERE = "hopper", "ampere"


class Log(ValueRecord):
    """A row of a power log: the board's power, and the tokens that one device generates a second.

    model, framework, node: as workloads name them; changes: of the node's device; tp: devices of an engine.
    limit: that the board runs at, null below it; share: of the time in which kernels run, null where not logged.
    """

    model: str
    framework: str
    node: str
    tp: int
    lengths: tuple[float, float]
    concurrency: float
    rate: float
    watts: float
    changes: Mapping[str, str] = field(default_factory=dict)
    limit: float | None = None
    share: float | None = None


MODELS = {"gptoss": "models/gpt-oss-120b", "meta-llama/Llama-2-7b-hf": "models/llama-2-7b",
          "meta-llama/Meta-Llama-3-8B": "models/llama-3-8b"}  # fmt: skip
GH200 = {"hardware.memory.hbm.bandwidth": "4 TB/s", "hardware.memory.hbm.capacity": "96 GB"}  # its datasheet
BOARDS = {"h100": ("nodes/h100-x1", {}), "gh200": ("nodes/h100-x1", GH200), "a100": ("nodes/a100-x1", {})}
LIMIT = "hardware.power.limit"
CAPPED, NEAR = {"h100": 450.0}, 5.0  # the power of all its large batches [W]: a limit that the source does not state
# cuBLASLt on random operands for minutes at the limit: device, its name in tables, format, bytes of an operand
SUSTAINED = {
    HOPPER: ("h100-sxm", "H100_SXM", "fp8", "fp8_e4m3", 1.0),
    AMPERE: ("a100-sxm-80gb", "A100_SXM4_80GB", "fp16", "bf16", 2.0),
}
LARGE = 2e11  # FLOP of a product from which on its rate is the processors'
FORMATS = ("bf16", "fp8_e4m3", "fp8_e4m3_blk128", "nvfp4")
PAIRS = (("B200_SXM", "b200-sxm", "GB200", "gb200"), ("B300_SXM", "b300-sxm", "GB300", "gb300"))  # of one die each


def read_logs(tables: Path) -> Iterator[tuple[str, Log]]:
    """Yield (generation, row) of the power logs."""
    for row in read_rows(tables / "inferencex_power_h200.csv"):
        lengths = 0.9 * float(row["isl"]), 0.9 * float(row["osl"])  # uniform on 0.8 to 1.0 of the nominal ones
        rate, share = float(row["out_tok_s"]) / float(row["n_gpus"]), float(row["gpu_util_pct"]) / 100.0
        yield HOPPER, Log(
            MODELS[row["model"]], "vllm", "nodes/hgx-h200", int(row["tp"]), lengths, float(row["concurrency"]), rate,
            float(row["board_power_w"]), share=share,
        )  # fmt: skip
    for row in read_rows(tables / "argonne.csv"):
        if row["set"] == "power" and row["gpu"] in BOARDS:
            lengths, watts, gpu = (float(row["isl"]), float(row["osl"])), float(row["avg_power_w"]), row["gpu"]
            node, changes = BOARDS[gpu]
            limit = CAPPED.get(gpu)
            is_held = limit is not None and abs(watts - limit) < NEAR
            rate = float(row["throughput_tok_s"]) * lengths[1] / sum(lengths)
            framework = "vllm" if row["framework"] == "vLLM" else "trt-llm-2024"
            yield AMPERE if gpu == "a100" else HOPPER, Log(
                MODELS[row["model"]], framework, node, 1, lengths, float(row["batch"]), rate, watts, changes,
                limit if is_held else None,
            )  # fmt: skip


class Features(Record):
    """What one watt or joule of each term adds to a board's power. pace: the measured rate over the predicted one."""

    idle: float
    shares: Array
    watts: float
    pace: float = 1.0


def workload_of(log: Log, limit: float | None = None) -> Workload:
    """Return a log's scenario. limit: that the boards are set to, null: their own [W]."""
    scenario = {
        "phase": "serving", "cluster": log.node, "framework": f"frameworks/{log.framework}",
        "parallel": {"tp": log.tp}, "input_tokens": round(log.lengths[0]), "output_tokens": round(log.lengths[1]),
        "concurrency": round(log.concurrency),
    }  # fmt: skip
    with TemporaryDirectory() as folder:
        path = Path(folder) / "log.yaml"
        document = {"schema": "costmodel/workload@1", "model": log.model, "scenarios": {"log": scenario}}
        path.write_text(yaml.safe_dump(document))
        return load(path).changed(log.changes if limit is None else {**log.changes, LIMIT: f"{limit} W"})


def rate_of(workload: Workload) -> float:
    """Return the tokens that a device generates a second as predicted."""
    return float(np.asarray(workload.evaluate("log").metrics["tokens_per_second_per_device"]))


def features(log: Log) -> Features:
    """Return what the terms of power multiply in a log's scenario at the measured rate."""
    workload = workload_of(log)
    scenario = workload.scenario("log")
    cluster, pace = scenario.cluster, log.rate / rate_of(workload)

    def work(**unit: float) -> float:
        """Return the power of the work where one unit costs one and all else nothing."""
        device = replace(cluster.node.device, power=Power(None, **unit))
        changed = replace(scenario, cluster=replace(cluster, node=replace(cluster.node, device=device)))
        assert isinstance(changed.plan, Serving)
        return float(ServingEvaluation(changed, changed.plan, workload.calibration(scenario)).work())

    share = work(busy=1.0) if log.share is None else log.share
    idle = float(np.asarray(cluster.node.device.power.idle))
    return Features(idle, np.array([share, pace * work(tensor=1.0), pace * work(memory=1.0)]), log.watts, pace)


def at_limit(generation: str, tables: Path, kernels: Mapping[tuple[str, str], Mapping[Any, float]]) -> Features:
    """Return the features of the largest product that runs at the power limit for minutes."""
    name, listed, precision, dtype, width = SUSTAINED[generation]
    power, gpu = load_device(name).power, name.partition("-")[0]
    products = [
        row
        for row in read_rows(tables / "azure_sustained.csv")
        if (row["kind"], row["gpu"], row["precision"]) == ("gemm", gpu, precision)
    ]
    largest = max(products, key=lambda row: float(row["value"]))
    rate, (m, n, k) = float(largest["value"]) * 1e12, (float(largest[name]) for name in "mnk")
    x = rate / max(kernels[listed, dtype].values())
    traffic = (width * (m * k + k * n) + 2.0 * m * n) * rate / (2.0 * m * n * k)
    shares = np.array([x**3, rate * width / SIXTEEN_BIT * x**2, traffic])
    return Features(float(np.asarray(power.idle)), shares, float(np.asarray(power.tdp)))


def fastest_rates(measurements: Path) -> dict[tuple[str, str], dict[Any, float]]:
    """Return (device, format) -> product and framework -> the rate of large products in the tables [FLOP/s]."""
    frameworks = {row["meta_id"]: row["framework"].split(" ")[0] for row in read_rows(measurements / "meta.csv")}
    found: dict[tuple[str, str], dict[Any, float]] = {}
    for path in sorted((measurements / "calibration").glob("*__*gemm.csv")):
        for row in read_rows(path):
            if row["op"] != "gemm" or float(row["time_us"]) <= 0.0:
                continue
            size = row["m"], row["n"], row["k"]
            flop = 2.0 * math.prod(map(float, size))
            if flop >= LARGE:
                known = found.setdefault((row["device"], row["dtype_in"]), {})
                key = (*size, frameworks.get(row["meta_id"]))
                known[key] = max(known.get(key, 0.0), flop / float(row["time_us"]) * 1e6)
    return found


class Fit(Record):
    """Energies of the terms, and their standard errors, null where they were taken from elsewhere."""

    terms: Array
    deviations: Array

    @classmethod
    def of(cls, rows: Sequence[Features], memory: float | None = None) -> Fit:
        """Return the least squares of relative errors, none below zero. memory: energy of a byte, null to fit it."""
        known = 0.0 if memory is None else memory
        shares = np.array([row.shares / row.watts for row in rows])
        left = np.array([1.0 - row.idle / row.watts for row in rows]) - known * shares[:, 2]
        columns = shares if memory is None else shares[:, :2]
        scale = columns.max(axis=0)
        terms = nnls(columns / scale, left)[0] / scale
        variance = float(np.sum((columns @ terms - left) ** 2)) / (len(rows) - len(terms))
        deviations = np.sqrt(variance * np.diag(np.linalg.inv((columns / scale).T @ (columns / scale)))) / scale
        if memory is None:
            return cls(terms, deviations)
        return cls(np.append(terms, memory), np.append(deviations, np.nan))

    def error(self, row: Features) -> float:
        """Return the relative error of the power of a row."""
        return (row.idle + float(row.shares @ self.terms)) / row.watts - 1.0

    def line(self) -> str:
        """Return the energies with their errors."""
        parts = zip(TERMS, self.terms * PICO, self.deviations * PICO, UNITS, strict=True)
        return "   ".join(f"{name} {value:.4g} +- {error:.2g} {unit}" for name, value, error, unit in parts)


def limit_over_sizes(name: str) -> Array:
    """Return what energies of a device are over their shares of its limit: of busy, 16-bit peak, memory's bandwidth."""
    device = load_device(name)
    sizes = np.array([1.0, device.peak("bf16"), np.asarray(device.device_memory.bandwidth, dtype=float)])
    return np.array(float(np.asarray(device.power.tdp)) / sizes)


def clock_lines(logs: Sequence[Log], kernels: Mapping[tuple[str, str], Mapping[Any, float]]) -> Iterator[str]:
    """Yield what boards of several limits show: rates at a limit, and how rates of products go with limits."""
    for log in logs:
        if log.limit is not None:
            held, free = (rate_of(workload_of(log, limit)) / log.rate for limit in (log.limit, None))
            of = f"{log.model} x{log.concurrency:g} at {log.limit:g} W"
            yield f"{of}: predicted over measured rate {held:.2f}, {free:.2f} without the limit"
    for first, low, second, high in PAIRS:
        power = [load_device(name).power for name in (low, high)]
        idle = load_device("b200-sxm").power.idle
        room = math.log(float((power[1].tdp - idle) / (power[0].tdp - idle)))  # type: ignore[operator]
        for dtype in FORMATS:
            a, b = kernels[first, dtype], kernels[second, dtype]
            slopes = [math.log(b[key] / a[key]) / room for key in a.keys() & b.keys()]
            many = f"{median(slopes):.2f}, median of {len(slopes)} products"
            yield f"{first} and {second}, {dtype}: rate goes with power above idle to the {many}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Fit the power of each generation's boards; print energies, errors, and what limits do."""
    parser = argparse.ArgumentParser(prog="python -m reports.fits.power", description=main.__doc__)
    parser.add_argument("tables", type=Path, help="folder with the power logs")
    parser.add_argument("measurements", type=Path, help="folder of measurement tables")
    chosen = parser.parse_args(arguments)
    write, every = sys.stdout.write, list(read_logs(chosen.tables))
    kernels = fastest_rates(chosen.measurements)
    shares: Array | None = None
    memory: float | None = None
    for generation in (HOPPER, AMPERE):
        logs = [log for of, log in every if of == generation and log.limit is None]
        rows = [features(log) for log in logs]
        limit = at_limit(generation, chosen.tables, kernels)
        fit = Fit.of([*rows, limit], memory)
        write(f"{generation}: {fit.line()}\n")
        errors = []
        for place, (log, row) in enumerate(zip(logs, rows, strict=True)):
            others = Fit.of([*rows[:place], *rows[place + 1 :], limit], memory)
            errors.append(others.error(row))
            write(
                f"  {log.model} {'GH200 ' if log.changes else ''}tp{log.tp} x{log.concurrency:g}: {log.watts:.0f} W, "
                f"{fit.error(row):+.1%}, without it {errors[-1]:+.1%}; measured over predicted rate {row.pace:.2f}\n"
            )
        write(f"  at the limit {fit.error(limit):+.1%}; each log from the others {fmean(map(abs, errors)):.1%}\n")
        scale = limit_over_sizes(SUSTAINED[generation][0])
        write(f"  of the limit: {np.round(fit.terms / scale, 2)}\n")
        if shares is not None:
            other = Fit(shares * scale, fit.deviations)
            write(f"  by the shares of Hopper's limit: {fmean(abs(other.error(row)) for row in rows):.1%}\n")
        shares, memory = fit.terms / scale, float(fit.terms[2])
    write("\n".join(clock_lines([log for _, log in every], kernels)) + "\n")


if __name__ == "__main__":
    main()
