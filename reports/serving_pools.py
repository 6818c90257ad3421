"""Predictions of closed loops on separate pools for prefill and decode, from the times of both pools alone.

C requests are in flight on P prefilling and D decoding instances. With b of them on a group of ranks that decode
together, G groups in all, Little's law gives the rate and what is in flight [Operations Research 9(3), 1961]:

    X(b) = G*b / (tpot(b) * (output - 1)),    C = G*b + X*ttft

solved for b. A prefilling instance computes the prompts that came during its last pass in one, up to the engine's
tokens of a step, K on each of its g groups; with T(k) the time of a pass over k prompts a group,

    k    = min(max(X/(P*g) * T(k), 1), K)
    ttft = front end + busy*T(k)/2 + W + T(k) + transfer + (1/2 + [async]) * step of decoding
    busy = L*exp(L) / (1 + L*exp(L)),    L = X/P * T(k)

passes follow one another while any prompt comes during one, with the chance 1 - exp(-L); W: the wait for one of P*g*K
places of T(K), as for seats (docs/method.md, section 12.4). A cache that arrives waits for the rest of the running
step, and for the one that is scheduled already. Arrivals at a pool whose requests come back at random times are
taken as Poisson.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import brentq

import costmodel
from costmodel.analytic.serving.waiting import queue_wait, waiting_share
from costmodel.api import Workload
from costmodel.records import ValueRecord
from costmodel.workload.scenario import Scenario
from reports.serving_deployments import exchange

NODES = 12  # batches at which decoding is priced; between them its time per token is interpolated
PROMPTS, ITERATIONS = 6, 30  # numbers of prompts at which a pass is priced; until their number is that of arrivals
MANY = 50.0  # prompts that come during a pass, from which on it is never the last
BATCH, PROMPT = "scenarios.run.decode.batch_per_device", "scenarios.run.prefill.tokens_per_device"
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
    prefill, decode = (pool(row, name)[0] for name in ("prefill", "decode"))
    sending, taking = (exchange(row, head["framework"], degrees) for degrees in (prefill, decode))
    return {
        **head,
        "input_tokens": inputs,
        "output_tokens": outputs,
        "prefill": {**sending, "parallel": prefill, "tokens_per_device": inputs / prefill.get("tp", 1)},
        "decode": {**taking, "parallel": decode, "batch_per_device": 1 / decode.get("tp", 1)},
    }


class Prefilling(ValueRecord):
    """The prefilling pool.

    instances: P; groups: g of an instance; prompts: of a group in one pass, at which times are known; first: from the
    begin of a pass to the cache at its decoding instance [s]; passes: time between two passes [s].
    """

    instances: int
    groups: int
    prompts: np.ndarray
    first: np.ndarray
    passes: np.ndarray

    @property
    def most(self) -> float:
        """Return the highest rate of the pool [1/s]."""
        return float(np.max(self.instances * self.groups * self.prompts / self.passes))

    def wait(self, rate: float) -> float:
        """Return the time from a request's arrival to its cache at a decoding instance [s]. rate: of all [1/s]."""
        number, largest = 1.0, float(self.prompts[-1])
        for _ in range(ITERATIONS):
            came = rate / (self.instances * self.groups) * float(np.interp(number, self.prompts, self.passes))
            number = min(max(came, 1.0), largest)
        own, full = float(np.interp(number, self.prompts, self.passes)), float(self.passes[-1])
        during = min(rate / self.instances * own, MANY)
        busy = during * math.exp(during) / (1.0 + during * math.exp(during))
        places = self.instances * self.groups * largest
        load = min(rate / self.most, 1.0 - 1e-9)
        queued = queue_wait(waiting_share(load, places), 1.0, full, places, load)
        return float(np.interp(number, self.prompts, self.first)) + 0.5 * busy * own + float(queued)


def figures(file: Path, row: Row) -> dict[str, Any]:
    """Return the result of a row at the batch that its number in flight brings, and the figures of the whole loop."""
    workload = costmodel.load(file)
    prefill, decode = (pool(row, name) for name in ("prefill", "decode"))
    tp, groups = decode[0].get("tp", 1), decode[0].get("dp", 1) * decode[2]
    inputs, outputs = (round(float(row[key])) for key in ("isl_mean", "osl_mean"))
    in_flight = float(row["concurrency"])
    batches, times = _priced(workload, tp, max(in_flight / groups, 1.0))
    if not len(batches):
        return {"found": workload.simulate()["scenarios"]["run"]}  # which says why not even one request fits
    chosen, devices = workload.scenario("run"), prefill[1] * prefill[2]
    pool_of_prompts = _prefilling(workload, prefill, inputs)
    front, later = _around(chosen, inputs)

    def step(batch: float) -> float:
        return float(np.interp(batch, batches, times))

    def rate(batch: float) -> float:
        return groups * batch / (step(batch) * (outputs - 1))

    def first(batch: float) -> float:
        return front + pool_of_prompts.wait(rate(batch)) + later * step(batch)

    def surplus(batch: float) -> float:
        return groups * batch + rate(batch) * first(batch) - in_flight

    least, largest = 1e-3 * in_flight / groups, min(float(batches[-1]), in_flight / groups)
    batch = largest if surplus(largest) < 0 else float(brentq(surplus, least, largest))
    found = costmodel.load(file, set={BATCH: max(round(batch), 1) / tp}).simulate()["scenarios"]["run"]
    served = rate(batch)
    total = served * (inputs + outputs) / (devices + decode[1] * decode[2])
    waiting = max(-surplus(batch), 0.0) / served  # of those that the decoding pool has no memory for
    return {
        "found": found, "tpot": step(batch), "ttft": first(batch) + waiting,
        "rate": served, "total_tok_s_gpu": total,
    }  # fmt: skip


def _priced(workload: Workload, tp: int, most: float) -> tuple[np.ndarray, np.ndarray]:
    """Return batches of a group that fit, and times per token there."""
    batches = np.unique(np.rint(np.geomspace(1.0, most, NODES)))
    found = workload.evaluate("run", vary={BATCH: batches / tp}).metrics["tpot"]
    times = np.broadcast_to(np.asarray(found).reshape(-1), batches.shape)
    return batches[np.isfinite(times)], times[np.isfinite(times)]


def _prefilling(workload: Workload, prefill: tuple[dict[str, int], int, int], inputs: int) -> Prefilling:
    """Return the prefilling pool of a layout, its devices and its instances, with prompts of `inputs` tokens."""
    chosen, (degrees, size, count) = workload.scenario("run"), prefill
    engine, tp, dp = chosen.framework.engine, degrees.get("tp", 1), degrees.get("dp", 1)
    budget = 0.0 if engine is None else float(engine.rule(chosen.cluster.device, tp).token_budget)
    prompts = np.unique(np.rint(np.geomspace(1.0, max(budget // inputs, 1.0), PROMPTS)))
    metrics = workload.evaluate("run", vary={PROMPT: prompts * inputs / tp}).metrics
    first, served = (
        np.broadcast_to(np.asarray(metrics[name]).reshape(-1), prompts.shape)
        for name in ("ttft", "prefill_tokens_per_second_per_device")
    )
    fits = np.isfinite(first) & np.isfinite(served)
    rates = served[fits] * size / inputs  # of an instance
    return Prefilling(count, dp, prompts[fits], first[fits], dp * prompts[fits] / rates)


def _around(chosen: Scenario, inputs: int) -> tuple[float, float]:
    """Return what client and front end take of a first token [s], and the steps that a cache waits for."""
    engine = chosen.framework.engine
    if engine is None:
        return 0.0, 0.0
    return float(engine.front_end(inputs)), 1.5 if engine.scheduler.overlapped else 0.5
