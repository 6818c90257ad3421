"""What whole runs say of devices without measured kernels, and of hosts that start the kernels of prompts.

python -m reports.fits.whole_runs RUNS.csv

Closed loops under SGLang on AMD's CDNA 3, of which no kernel is measured, and on H200 with prompts that no CUDA graph
holds. Fits, by least squares of log(predicted / measured) of times per token and to first token:

    launch, compute, hbm     `calibration.whole_runs` of devices/mi300x and devices/mi325x
    layer                    `host.layer` of frameworks/sglang-rocm-0.5.9
    eager                    `eager_prompts.layer` of frameworks/sglang

Prints them, and the errors of the runs: all fitted; each device left out in turn; each length of prompts and outputs
left out in turn. Parameters without those are one step of Gauss and Newton from the fit of all.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from scipy.optimize import least_squares

import costmodel
from costmodel.quantities import Array
from costmodel.records import Record
from reports.serving import MEASURED, MILLISECONDS, Row, document, number, rows

DEVICES = ("mi300x", "mi325x")
EAGER = {"h200": "sglang-0.5.9"}  # device -> framework of its runs with prompts that no graph holds
FRAMEWORKS = ("sglang", "sglang-rocm-0.5.9")
METRICS = ("tpot", "ttft")
NAMES = ("launch", "compute", "hbm", "layer", "eager")
START = (2e-6, 0.7, 0.9, 100e-6, 1.5e-3)
SOFT = 0.1  # of a logarithm, from which on an error counts less than its square
STEP = 0.1  # of a logarithm, for slopes
SHIPPED = Path(costmodel.__file__).parents[1] / "hardware"


class Runs(Record):
    """Measured runs. content: of their workloads; measured: [s], a row for each metric."""

    rows: tuple[Row, ...]
    content: tuple[Mapping[str, Any], ...]
    measured: Array

    def errors(self, logarithms: Array) -> Array:
        """Return log(predicted / measured), a row for each metric. logarithms: of the parameters."""
        with tempfile.TemporaryDirectory() as folder:
            values = dict(zip(NAMES, np.exp(logarithms).tolist(), strict=True))
            _overlay(Path(folder) / "hardware", values)
            found = [_predicted(content, Path(folder)) for content in self.content]
        return np.asarray(np.log(np.array(found).T / self.measured))


def chosen(files: Sequence[str]) -> Runs:
    """Return the runs that say something of the parameters."""
    kept = [row for row in rows(tuple(files)) if _is_informative(row)]
    contents = [document(row) for row in kept]
    assert all(isinstance(content, dict) for content in contents)
    measured = [[_measured(row, metric) for row in kept] for metric in METRICS]
    return Runs(tuple(kept), tuple(content for content in contents if isinstance(content, dict)), np.array(measured))


def _is_informative(row: Row) -> bool:
    if row.get("disagg") == "1" or row.get("mtp") != "none" or row.get("framework") != "sglang":
        return False
    if row["gpu"] in DEVICES:
        return True
    content = document(row)
    return isinstance(content, dict) and content["scenarios"]["run"]["framework"] == EAGER.get(row["gpu"])


def _measured(row: Row, metric: str) -> float:
    """Return the measured time of a row [s]."""
    found = (number(row, column) for column in MEASURED[metric])
    return next(value for value in found if value) / MILLISECONDS


def _overlay(folder: Path, values: Mapping[str, float]) -> None:
    """Write the shipped files with other parameters."""
    for kind, names in (("devices", DEVICES), ("frameworks", FRAMEWORKS)):
        (folder / kind).mkdir(parents=True)
        for name in names:
            content = yaml.safe_load((SHIPPED / kind / f"{name}.yaml").read_text(encoding="utf-8"))
            content.pop("sources", None)
            if kind == "devices":
                effects = {"launch": f"{values['launch']} s", "compute": values["compute"], "hbm": values["hbm"]}
                content["calibration"] = {**content.get("calibration", {}), "whole_runs": effects}
            elif name == "sglang":
                content["eager_prompts"] = {**content["eager_prompts"], "layer": f"{values['eager']} s"}
            else:
                content["host"] = {"layer": f"{values['layer']} s"}
            (folder / kind / f"{name}.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")


def _predicted(content: Mapping[str, Any], root: Path) -> list[float]:
    """Return the predicted metrics of a workload, with the files of a root before those that are shipped [s]."""
    file = root / "run.yaml"
    file.write_text(yaml.safe_dump(dict(content)), encoding="utf-8")
    metrics = costmodel.load(file, search_path=(root,)).evaluate("run").metrics
    return [float(np.asarray(metrics[metric])) for metric in METRICS]


def fitted(runs: Runs) -> tuple[Array, Array, Array]:
    """Return the logarithms of the parameters, the errors there, and their slopes over the parameters."""
    found = least_squares(
        lambda x: runs.errors(x).ravel(), np.log(START), diff_step=STEP / np.abs(np.log(START)), loss="soft_l1",
        f_scale=SOFT, xtol=1e-3, max_nfev=8,
    )  # fmt: skip
    errors = runs.errors(found.x)
    slopes = [(runs.errors(found.x + step) - errors) / STEP for step in STEP * np.eye(len(NAMES))]
    return found.x, errors, np.array(slopes)


def left_out(runs: Runs, errors: Array, slopes: Array, group: Callable[[Row], str]) -> Iterator[tuple[str, Array]]:
    """Yield each group of runs, and its errors with the parameters of the others."""
    names = np.array([group(row) for row in runs.rows])
    for name in sorted(set(names)):
        out = names == name
        weights = 1.0 / np.sqrt(1.0 + (errors[:, ~out] / SOFT) ** 2)
        known = (slopes[:, :, ~out] * np.sqrt(weights)).reshape(len(NAMES), -1)
        moved, *_ = np.linalg.lstsq(known.T, -(errors[:, ~out] * np.sqrt(weights)).ravel(), rcond=1e-3)
        yield name, errors[:, out] + np.tensordot(moved, slopes[:, :, out], axes=1)


def _line(label: str, errors: Array) -> str:
    """Return the mean absolute and mean errors of each metric."""
    relative = np.exp(errors) - 1.0
    parts = (
        f"{metric} {np.abs(row).mean():6.1%} {row.mean():+6.1%}" for metric, row in zip(METRICS, relative, strict=True)
    )
    return f"{label:<40} {errors.shape[1]:3d}  {'   '.join(parts)}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the parameters, and the errors of the runs."""
    parser = argparse.ArgumentParser(prog="python -m reports.fits.whole_runs", description=main.__doc__)
    parser.add_argument("runs", nargs="+", help="tables of runs")
    lines: list[str] = []
    runs = chosen(parser.parse_args(arguments).runs)
    logarithms, errors, slopes = fitted(runs)
    for name, value in zip(NAMES, np.exp(logarithms), strict=True):
        lines.append(f"{name}: {value:.4g}")
    lines.append(_line("fitted", errors))
    for kind, group in (("device", _device), ("lengths", _lengths)):
        for name, found in left_out(runs, errors, slopes, group):
            lines.append(_line(f"{kind} left out: {name}", found))
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


def _device(row: Row) -> str:
    return row["gpu"]


def _lengths(row: Row) -> str:
    return f"{row['isl']}/{row['osl']}"


if __name__ == "__main__":
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    sys.exit(main())
