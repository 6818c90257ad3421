"""The figures of DeepSeek-V3 are those of today's predictions."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

import costmodel
from reports.deepseek_v3.__main__ import SCENARIOS, WHAT_IFS, WORKLOAD

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "reports" / "deepseek_v3"
STALE = "make them again: python -m reports.deepseek_v3 --output reports/deepseek_v3"
SEEN = 0.005  # relative: a smaller difference shows in no figure


def rows(name: str) -> list[dict[str, str]]:
    return list(csv.DictReader((FOLDER / f"{name}.csv").read_text(encoding="utf-8").splitlines()))


def test_figures_of_the_workload_are_today_s() -> None:
    scenarios = costmodel.load(WORKLOAD, scenarios=SCENARIOS).simulate()["scenarios"]
    for name, scenario in scenarios.items():
        own = {line["name"]: line["time"] for line in scenario["breakdown"]}
        drawn = {row["name"]: float(row["time"]) for row in rows(f"time-{name}") if row["bound"]}
        assert drawn == pytest.approx(own, rel=SEEN, abs=SEEN * max(own.values())), (name, STALE)


@pytest.mark.parametrize("what_if", WHAT_IFS, ids=lambda one: one.scenario)
def test_figures_of_sweeps_are_today_s(what_if) -> None:
    drawn = rows(f"sweep-{what_if.scenario}")
    kept = [row for row in (drawn[0], drawn[len(drawn) // 2], drawn[-1]) if row["fits"] == "true"]
    paths = tuple(axis.partition("=")[0] for axis in what_if.varied)
    metric = list(drawn[0])[len(paths)]
    points = tuple(np.array([float(row[path]) for row in kept]) for path in paths)
    result = costmodel.load(WORKLOAD, scenarios=[what_if.scenario]).evaluate(what_if.scenario, vary={paths: points})
    assert [float(row[metric]) for row in kept] == pytest.approx(result.metrics[metric].tolist(), rel=SEEN), STALE
