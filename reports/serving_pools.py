"""Scenarios of closed loops on separate pools for prefill and decode, from the rows of a table of runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reports.serving_deployments import exchange, pools

Row = Mapping[str, str]


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


def scenario(row: Row, head: Mapping[str, Any]) -> dict[str, Any]:
    """Return the scenario of a row. head: what it has in common with that of one engine."""
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
