"""Predictions of closed loops on separate pools for prefill and decode, from the times of both pools alone.

C requests are in flight on P prefilling and D decoding instances. With b of them on a group of ranks that decode
together, G groups in all, Little's law gives the rate and what is in flight [Operations Research 9(3), 1961]:

    X(b) = G*b / (tpot(b) * (output - 1)),    C = G*b + X*(ttft + W),    W: wait for one of P prefilling instances

solved for b. Arrivals at a pool whose requests come back at random times are taken as Poisson.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import brentq

import costmodel
from costmodel.analytic.seats import SeatQueue
from costmodel.api import Workload

NODES = 12  # batches at which decoding is priced; between them its time per token is interpolated
BATCH = "scenarios.run.decode.batch_per_device"
Row = Mapping[str, str]


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
    prefill, decode = (pool(row, name)[0] for name in ("prefill", "decode"))
    return {
        **head,
        "input_tokens": inputs,
        "output_tokens": outputs,
        "prefill": {"parallel": prefill, "tokens_per_device": inputs / prefill.get("tp", 1)},
        "decode": {"parallel": decode, "batch_per_device": 1 / decode.get("tp", 1)},
    }


def figures(file: Path, row: Row) -> dict[str, Any]:
    """Return the result of a row at the batch that its number in flight brings, and the figures of the whole loop."""
    workload = costmodel.load(file)
    prefill, decode = (pool(row, name) for name in ("prefill", "decode"))
    tp, groups = decode[0].get("tp", 1), decode[0].get("dp", 1) * decode[2]
    inputs, outputs = (round(float(row[key])) for key in ("isl_mean", "osl_mean"))
    in_flight = float(row["concurrency"])
    batches, times, point = _priced(workload, tp, max(in_flight / groups, 1.0))
    devices = prefill[1] * prefill[2]
    most = float(point["prefill_tokens_per_second_per_device"]) * devices / inputs

    def rate(batch: float) -> float:
        return groups * batch / (float(np.interp(batch, batches, times)) * (outputs - 1))

    def first(batch: float) -> float:
        load = min(rate(batch) / most, 1.0 - 1e-9)
        service = prefill[2] * prefill[0].get("dp", 1) / most
        queue = SeatQueue(load=load, seats=float(prefill[2]), service=service, variability=1.0)
        return float(point["ttft"] + queue.wait)

    def surplus(batch: float) -> float:
        return groups * batch + rate(batch) * first(batch) - in_flight

    if not len(batches):
        return {"found": workload.simulate()["scenarios"]["run"]}  # which says why not even one request fits
    least, largest = 1e-3 * in_flight / groups, min(float(batches[-1]), in_flight / groups)
    batch = largest if surplus(largest) < 0 else float(brentq(surplus, least, largest))
    found = costmodel.load(file, set={BATCH: max(round(batch), 1) / tp}).simulate()["scenarios"]["run"]
    served = rate(batch)
    total = served * (inputs + outputs) / (devices + decode[1] * decode[2])
    waiting = max(-surplus(batch), 0.0) / served  # of those that the decoding pool has no memory for
    return {
        "found": found, "tpot": float(np.interp(batch, batches, times)), "ttft": first(batch) + waiting,
        "rate": served, "total_tok_s_gpu": total,
    }  # fmt: skip


def _priced(workload: Workload, tp: int, most: float) -> tuple[np.ndarray, np.ndarray, Mapping[str, Any]]:
    """Return batches of a group that fit, times per token there, and the metrics at the first of them."""
    batches = np.unique(np.rint(np.geomspace(1.0, most, NODES)))
    metrics = workload.evaluate("run", vary={BATCH: batches / tp}).metrics
    known = ("ttft", "prefill_tokens_per_second_per_device")
    point = {name: np.asarray(metrics[name]).reshape(-1)[0] for name in known}
    times = np.broadcast_to(np.asarray(metrics["tpot"]).reshape(-1), batches.shape)
    return batches[np.isfinite(times)], times[np.isfinite(times)], point
