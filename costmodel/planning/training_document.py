"""A plan of a training run by the keys of `costmodel plan --json`."""

from __future__ import annotations

from typing import Any

import numpy as np

from costmodel.planning.goodput import DAY, HOUR, TrainingRun
from costmodel.planning.request import UNITS
from costmodel.planning.training import TrainingPlans


def document(plans: TrainingPlans) -> dict[str, Any]:
    """Return the answer by the keys of `costmodel plan --json`."""
    reachable = None
    if plans.runs and not plans.holds:
        fastest = min(plans.runs, key=lambda run: run.seconds)
        reachable = {"cluster": fastest.cluster, "devices": fastest.devices, "days": fastest.seconds / DAY}
    return {
        "request": plans.request.document(),
        "plans": [_run_document(run, plans) for run in plans.runs],
        "left_out": list(plans.left_out),
        "reachable": reachable,
    }


def _run_document(run: TrainingRun, plans: TrainingPlans) -> dict[str, Any]:
    """Return a run by its keys: days, dollars, joules, bytes; rent in $/h."""
    million, tokens, rate = 1e6, run.tokens, run.point.metrics["cost_rate"]
    rent = None if rate is None else rate * HOUR
    costs = None if run.dollars is None else {"all": run.dollars / tokens * million}
    days = None if run.interval is None else tuple(end / DAY for end in run.interval)
    plan, layout = run.training, run.layout
    return {
        "cluster": run.cluster, "devices": run.devices, "replicas": 1, "engine": run.scenario.framework.name,
        "framework": run.scenario.framework.name, "precision": run.format,
        "parallel": _degrees(run),
        "micro_batch": layout.get("micro_batch"), "global_batch": int(np.max(plan.global_batch)),
        "sequence": int(np.max(plan.sequence)), "recompute": layout.get("recompute"),
        "schedule": layout.get("schedule"), "zero": layout.get("optimizer.zero"),
        "prefill": None, "decode": None, "scheduler": None, **({} if run.rollout is None else {"rollout": run.rollout}),
        "metrics": {**run.point.metrics, "cost_rate": rent, "days": run.seconds / DAY, "dollars": run.dollars,
                    "energy": run.joules, "goodput": run.goodput.share, "checkpoint_interval": run.goodput.interval,
                    "checkpoint_write": run.goodput.write, "memory": run.memory,
                    "capacity": run.point.capacity},
        "intervals": {**run.point.intervals, "cost_rate": None if rent is None else (rent, rent), "days": days},
        "played": None, "holds": plans.holds, "probability": run.probability(plans.limit), "binds": run.point.bound,
        "cost_rate": rent, "cost_per_million": costs,
        "energy_per_million": None if run.joules is None else run.joules / tokens * million,
        "units": UNITS, "why_not_less": run.fewer, "notes": list(run.notes), "command": run.command,
        "roomier": None if run.roomier is None else {
            "memory": run.roomier.memory, "days": run.roomier.seconds / DAY, "dollars": run.roomier.dollars,
            "parallel": _degrees(run.roomier),
        },
    }  # fmt: skip


def _degrees(run: TrainingRun) -> dict[str, Any]:
    return {key.removeprefix("parallel."): at for key, at in run.layout.items() if key.startswith("parallel.")}
