"""What boards draw by resource, fitted to power logs: `power` of devices of one process node.

python -m reports.fits.power TABLES hopper            TABLES: folder with the power logs; prints the fit and its errors
python -m reports.fits.power TABLES unfitted --output hardware/calibrations/power.yaml
                                                      what boards draw over what is predicted of them without a fit
"""

from __future__ import annotations

import argparse
import csv
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import yaml
from scipy.optimize import nnls

from costmodel.analytic.serving.continuous_batching import ServingEvaluation
from costmodel.api import load
from costmodel.cost.calibration import Calibration
from costmodel.cost.power import SIXTEEN_BIT
from costmodel.hardware import Device, Power
from costmodel.quantities import Array
from costmodel.records import Record, ValueRecord, replace
from costmodel.workload.plans import Serving
from costmodel.workload.scenario import Scenario

TERMS = ("busy", "tensor", "memory")  # of `Power`; energy of links is cited, not fitted


class Log(ValueRecord):
    """A row of a power log: the board's power, and the tokens that one device generates a second.

    model, framework, node: as workloads name them; tp: devices of an engine.
    """

    model: str
    framework: str
    node: str
    tp: int
    lengths: tuple[float, float]
    concurrency: float
    rate: float
    watts: float


MODELS = {"gptoss": "models/gpt-oss-120b", "meta-llama/Llama-2-7b-hf": "models/llama-2-7b",
          "meta-llama/Meta-Llama-3-8B": "models/llama-3-8b", "dsr1": "models/deepseek-v3"}  # fmt: skip
NODES = {"h200": "nodes/hgx-h200", "a100": "nodes/a100-x1", "h100": "nodes/h100-x1"}
GENERATIONS = {"hopper": ("h200",), "ampere": ("a100",)}
BENCH = {"hopper": "dgx-h100", "ampere": "dgx-a100"}
# cuBLASLt on random operands for minutes: what they reach at the limit [FLOP/s], their format's bytes, bytes a second
LIMITS = {"hopper": ("h100-sxm", 1382.2e12, 1.0), "ampere": ("a100-sxm-80gb", 256.5e12, 2.0)}
SIZE = {"hopper": 32768.0, "ampere": 16384.0}
UNFITTED = """schema: costmodel/calibration@1
name: power
device: null
basis: fitted
families:                                        # measured power of boards over what is predicted of it without a fit
{families}sources:
  - fields: [families]
    cite: "power logs of gpt-oss-120b on H200 (mantile, Nebius), and of vLLM on A100 (argonne-lcf/LLM-Inference-Bench)"
    kind: derived
    rests_on: [nebius_power, argonne]
    note: >-
      Boards of the two dies whose power is fitted, predicted without their own fits: power from idle to the limit with
      the busy share (power_busy), or the limit (power_limit). 80 % point of the log's size, at measured rates.
      Made by `python -m reports.fits.power TABLES unfitted --output hardware/calibrations/power.yaml`.
"""


def logs(tables: Path, boards: Sequence[str]) -> list[Log]:
    """Return the rows of the power logs of some boards."""
    found = []
    for row in _rows(tables / "inferencex_power_h200.csv"):
        if row["gpu"] in boards:
            rate = float(row["out_tok_s"]) / float(row["n_gpus"])
            lengths = 0.9 * float(row["isl"]), 0.9 * float(row["osl"])  # uniform on 0.8 to 1.0 of the nominal ones
            found.append(
                Log(MODELS[row["model"]], "vllm", NODES[row["gpu"]], int(row["tp"]), lengths,
                    float(row["concurrency"]), rate, float(row["board_power_w"]))
            )  # fmt: skip
    for row in _rows(tables / "argonne.csv"):
        if row["set"] == "power" and row["gpu"] in boards and row["gpu"] in NODES:
            lengths = float(row["isl"]), float(row["osl"])
            rate = float(row["throughput_tok_s"]) * lengths[1] / sum(lengths)
            found.append(
                Log(MODELS[row["model"]], "vllm", NODES[row["gpu"]], 1, lengths, float(row["batch"]), rate,
                    float(row["avg_power_w"]))
            )  # fmt: skip
    return found


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


class Features(Record):
    """What one watt or joule of each term adds to a board's power at the rate that was measured, and as predicted.

    pace: the measured rate over the predicted one
    """

    device: Device
    measured: Array
    predicted: Array
    pace: float

    def watts(self, terms: Array) -> float:
        """Return the board's power at the rate that was measured [W]."""
        return self._power(self.measured, terms)

    def energy_error(self, terms: Array, watts: float) -> float:
        """Return the error of a token's energy where power and rate are both predicted; watts: measured [W]."""
        return self._power(self.predicted, terms) * self.pace / watts - 1.0

    def _power(self, shares: Array, terms: Array) -> float:
        """Return min(idle + shares * terms, TDP), as `board_power` has it [W]."""
        power = self.device.power
        assert power.tdp is not None
        return min(float(np.asarray(power.idle)) + float(shares @ terms), float(np.asarray(power.tdp)))


def features(log: Log) -> Features:
    """Return what the terms of power multiply in a log's scenario."""
    scenario = {
        "phase": "serving", "cluster": log.node, "framework": f"frameworks/{log.framework}",
        "parallel": {"tp": log.tp}, "input_tokens": round(log.lengths[0]), "output_tokens": round(log.lengths[1]),
        "concurrency": round(log.concurrency),
    }  # fmt: skip
    with TemporaryDirectory() as folder:
        path = Path(folder) / "log.yaml"
        document = {"schema": "costmodel/workload@1", "model": log.model, "scenarios": {"log": scenario}}
        path.write_text(yaml.safe_dump(document))
        workload = load(path)
    chosen = workload.scenario("log")
    calibration = workload.calibration(chosen)
    tensor, memory = (_drawn(chosen, calibration, Power(None, **unit)) for unit in ({"tensor": 1.0}, {"memory": 1.0}))
    served = workload.evaluate("log").metrics["tokens_per_second_per_device"]
    pace = log.rate / float(np.asarray(served))
    measured, predicted = (
        np.array([min(scale * tensor[0], 1.0), scale * tensor[1], scale * memory[1]]) for scale in (pace, 1.0)
    )
    return Features(chosen.cluster.device, measured, predicted, pace)


def _drawn(scenario: Scenario, calibration: Calibration, power: Power) -> tuple[float, float]:
    """Return (busy share, power of the work) of the model's steady state with other energies of the work."""
    node = scenario.cluster.node
    changed = replace(
        scenario, cluster=replace(scenario.cluster, node=replace(node, device=replace(node.device, power=power)))
    )
    assert isinstance(changed.plan, Serving)
    draw = ServingEvaluation(changed, changed.plan, calibration).draw()
    return float(draw.busy), float(draw.work)


def at_limit(generation: str) -> tuple[Device, Array]:
    """Return the device, and the terms' shares, of a product that runs at the power limit for minutes."""
    name, rate, width = LIMITS[generation]
    device = (
        load("deepseek_v3", cluster=f"nodes/{BENCH[generation]}", scenarios=["decode"])
        .scenario("decode")
        .cluster.device
    )
    assert device.name == name
    edge = SIZE[generation]
    seconds = 2.0 * edge**3 / rate
    return device, np.array([1.0, rate * width / SIXTEEN_BIT, edge * edge * (2.0 * width + 2.0) / seconds])


def fitted(found: Sequence[tuple[Device, Array, float]]) -> Array:
    """Return busy [W], tensor and memory [J], none below zero, of least squares of relative errors."""
    rows = np.array([shares / watts for _, shares, watts in found])
    left = np.array([1.0 - float(np.asarray(device.power.idle)) / watts for device, _, watts in found])
    scale = rows.max(axis=0)
    return np.asarray(nnls(rows / scale, left)[0] / scale)


def without_fit(device: Device, busy: float) -> dict[str, float]:
    """Return what `board_power` takes where a device states no energy of its work, by family of the file [W].

    `power_busy`: power that goes with the busy share; `power_limit`: the limit, where no idle power is known either.
    """
    power = device.power
    assert power.tdp is not None
    idle, limit = float(np.asarray(power.idle)), float(np.asarray(power.tdp))
    return {"power_busy": idle + busy * (limit - idle), "power_limit": limit}


def render_unfitted(rows: Sequence[tuple[float, Mapping[str, float]]]) -> str:
    """Return the calibration file of boards without a fit. rows: measured power, and what is predicted of it [W].

    Ends: exp(-q), exp(q), q the 80 % point of |log(measured / predicted)|; of the limit, which no board exceeds, the
    lower one only.
    """
    families = {}
    for family in ("power_busy", "power_limit"):
        end = float(np.quantile([abs(math.log(watts / predicted[family])) for watts, predicted in rows], 0.8))
        high = 1.0 if family == "power_limit" else math.exp(end)
        spread = f"{{time: 1 s, low: {math.exp(-end):.4g}, median: 1, high: {high:.4g}, rows: {len(rows)}}}"
        families[family] = f"  {family}:\n    spread: [{spread}]\n    rows: {len(rows)}\n"
    return UNFITTED.format(families="".join(families.values()))


def main(arguments: Sequence[str] | None = None) -> None:
    """Fit the power of a generation's boards; print the terms, and each row's error with and without it."""
    parser = argparse.ArgumentParser(prog="python -m reports.fits.power", description=main.__doc__)
    parser.add_argument("tables", type=Path, help="folder with the power logs")
    parser.add_argument("generation", choices=[*sorted(GENERATIONS), "unfitted"])
    parser.add_argument("--output", type=Path, help="file of boards without a fit, with `unfitted`")
    chosen = parser.parse_args(arguments)
    if chosen.generation == "unfitted":
        if chosen.output is None:
            parser.error("unfitted needs --output")
        every = [log for boards in GENERATIONS.values() for log in logs(chosen.tables, boards)]
        each = [
            (log.watts, without_fit(row.device, float(row.measured[0]))) for log in every for row in [features(log)]
        ]
        chosen.output.write_text(render_unfitted(each), encoding="utf-8")
        return
    listed = logs(chosen.tables, GENERATIONS[chosen.generation])
    rows = [features(log) for log in listed]
    found = [(row.device, row.measured, log.watts) for row, log in zip(rows, listed, strict=True)]
    device, shares = at_limit(chosen.generation)
    assert device.power.tdp is not None
    limit = (device, shares, float(np.asarray(device.power.tdp)))
    terms = fitted([*found, limit])
    write = sys.stdout.write
    write("  ".join(f"{name} {value:.4g}" for name, value in zip(TERMS, terms, strict=True)) + "\n")
    errors, energies = [], []
    for place, (log, row) in enumerate(zip(listed, rows, strict=True)):
        others = fitted([*found[:place], *found[place + 1 :], limit])
        own, held, energy = row.watts(terms), row.watts(others), row.energy_error(others, log.watts)
        errors.append(abs(held / log.watts - 1))
        energies.append(abs(energy))
        write(
            f"{log.model} tp{log.tp} x{log.concurrency:g}: {log.watts:.0f} W, fitted {own:.0f} "
            f"({own / log.watts - 1:+.1%}), without it {held:.0f} ({held / log.watts - 1:+.1%}), joules a token with "
            f"the predicted rate {energy:+.1%}   busy {row.measured[0]:.2f} {row.measured[1] / 1e12:.0f} TFLOP/s "
            f"{row.measured[2] / 1e12:.2f} TB/s\n"
        )
    write(f"held-out mean error {np.mean(errors):.1%}, {len(errors)} rows; of energy {np.mean(energies):.1%}\n")


if __name__ == "__main__":
    main()
