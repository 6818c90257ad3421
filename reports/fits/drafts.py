"""How often a second and third draft of DeepSeek's module is accepted, from speedups that SGLang documents.

python -m reports.fits.drafts

A step with three drafts takes longer than one without; what it is faster by says how many tokens it yields:

    speedup = (t_none / t_drafts) * (1 + a*(1 + b + b^2))

a: chance of the first draft, 85 to 90 % [DeepSeek-V3, arXiv 2412.19437, section 5.4.3]; b: of each later one, those
before it accepted. Both steps are priced; prints b of each documented speedup, and their mean. With how many
drafts they were measured is not stated; three are the default.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from statistics import fmean

import numpy as np
import yaml
from scipy.optimize import brentq

import costmodel

FIRST = 0.875
DEPTH = 3
DOCUMENTED = {1: 1.8, 32: 1.5}
"""Requests -> speedup by drafts of DeepSeek V3 on eight H200 [sgl-project/sglang, docs/basic_usage/deepseek_v3.md]."""
RUN = {
    "phase": "decode", "cluster": "nodes/hgx-h200", "framework": "sglang", "parallel": {"tp": 8},
    "precision": {"compute": "fp8-inference", "fallback": "bf16"}, "input_tokens": 1024, "output_tokens": 256,
}  # fmt: skip


def tokens(later: float) -> float:
    """Return the tokens of a step. later: chance of the second and of the third draft."""
    return 1.0 + FIRST * (1.0 + later + later**2)


def step_time(requests: int, depth: int) -> float:
    """Return the time of a decoding step [s]."""
    run = {**RUN, "batch_per_device": requests / 8}
    if depth:
        run["speculative"] = {"depth": depth, "acceptance": 0.0}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "run.yaml"
        content = {"schema": "costmodel/workload@1", "model": "models/deepseek-v3", "scenarios": {"run": run}}
        file.write_text(yaml.safe_dump(content), encoding="utf-8")
        return float(np.asarray(costmodel.load(file).evaluate("run").metrics["tpot"]))


def later_acceptance(requests: int, speedup: float) -> float:
    """Return the chance of the second and third draft that makes steps as much faster as documented."""
    needed = speedup * step_time(requests, DEPTH) / step_time(requests, 0)
    return float(brentq(lambda later: tokens(later) - needed, -1.0, 2.0))


def main() -> None:
    """Print the chance of later drafts by documented speedup."""
    found = {requests: later_acceptance(requests, speedup) for requests, speedup in DOCUMENTED.items()}
    for requests, later in found.items():
        sys.stdout.write(f"{requests} requests, {DOCUMENTED[requests]} times faster: {later:.3f}\n")
    sys.stdout.write(f"mean: {fmean(found.values()):.3f}\n")


if __name__ == "__main__":
    main()
