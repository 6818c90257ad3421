"""Every request of a run: as a table, and as events on the tracks of its engine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from costmodel.schema.whole_files import write_whole
from costmodel.serving.distributions import Served
from costmodel.serving.summary import request_times

# The first seven are the fields that `vllm bench serve` keeps of a request (RequestFuncOutput); times in seconds.
COLUMNS = (
    "request_id", "start_time", "prompt_len", "output_tokens", "ttft", "tpot", "latency", "queued", "scheduled",
    "first_token", "last_token", "prefix_hit_tokens", "preemptions", "replica",
)  # fmt: skip
RECORDED = ("queued", "scheduled", "first", "finish", "hit", "preempted", "replica")
MICRO = 1e6


def write_requests(path: Path, served: Served) -> None:
    """Write one row a request as CSV, in order of arrival. The file is there whole or not at all."""
    write_whole(path, request_lines(served))


def request_lines(served: Served) -> Iterator[bytes]:
    """Yield the lines of the table of requests."""
    prioritised = served.has_priorities
    yield (",".join((*COLUMNS, *(["priority"] if prioritised else []))) + "\n").encode()
    requests, times = served.requests, request_times(served)
    columns = (
        np.arange(len(requests)), requests["arrival"], requests["prompt"], requests["output"], times.ttft, times.tpot,
        times.e2e, *(requests[name] for name in (*RECORDED, *(["priority"] if prioritised else []))),
    )  # fmt: skip
    for row in zip(*(column.tolist() for column in columns), strict=True):
        yield (",".join("" if value != value else str(value) for value in row) + "\n").encode()


def track_events(served: Served) -> Iterator[dict[str, Any]]:
    """Yield Chrome trace events: a process for each engine, with its requests as slices and its load as counters."""
    for replica in range(len(served.engines.state)):
        yield {"ph": "M", "pid": replica, "name": "process_name", "args": {"name": f"engine {replica}"}}
        yield from _counters(served, replica)
    time = {name: served.requests[name] * MICRO for name in ("scheduled", "first", "finish")}
    replicas, parts = (
        served.requests["replica"].tolist(),
        (("prompt", "scheduled", "first"), ("decode", "first", "finish")),
    )
    for request, replica in enumerate(replicas):
        for name, begin, end in parts:
            event = {"cat": "request", "id": request, "pid": replica, "tid": 0, "name": name}
            yield {**event, "ph": "b", "ts": float(time[begin][request]), "args": {"request": request}}
            yield {**event, "ph": "e", "ts": float(time[end][request])}


def _counters(served: Served, replica: int) -> Iterator[dict[str, Any]]:
    """Yield the mean requests, and the share of blocks in use, of each bin of time."""
    occupancy, width = served.engines.occupancy[replica], float(served.engines.state["bin_width"][replica])
    for bucket in range(1 + int(np.max(np.flatnonzero(occupancy["busy"]), initial=0))):
        busy = float(occupancy["busy"][bucket])
        running = float(occupancy["requests"][bucket]) / busy if busy else 0.0
        use = float(occupancy["blocks"][bucket]) / busy / served.policy.blocks if busy else 0.0
        for name, value in (("running requests", running), ("KV use", use), ("busy", min(busy / width, 1.0))):
            yield {"ph": "C", "pid": replica, "name": name, "ts": bucket * width * MICRO, "args": {name: value}}
