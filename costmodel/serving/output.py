"""Every request of a run: as a table, and as events on the tracks of its engine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from costmodel.schema.whole_files import write_whole
from costmodel.serving.simulation import Served
from costmodel.serving.state import (
    BIN_WIDTH,
    FINISH,
    FIRST,
    HIT,
    OUTPUT,
    PREEMPTED,
    PROMPT,
    QUEUED,
    REPLICA,
    SCHEDULED,
)
from costmodel.serving.summary import request_times

# The first seven are the fields that `vllm bench serve` keeps of a request (RequestFuncOutput); times in seconds.
COLUMNS = (
    "request_id", "start_time", "prompt_len", "output_tokens", "ttft", "tpot", "latency", "queued", "scheduled",
    "first_token", "last_token", "prefix_hit_tokens", "preemptions", "replica",
)  # fmt: skip
MICRO = 1e6


def write_requests(path: Path, served: Served) -> None:
    """Write one row a request as CSV, in order of arrival. The file is there whole or not at all."""
    write_whole(path, request_lines(served))


def request_lines(served: Served) -> Iterator[bytes]:
    """Yield the lines of the table of requests."""
    prioritised = len(served.requests.priority) > 0
    yield (",".join((*COLUMNS, *(["priority"] if prioritised else []))) + "\n").encode()
    times, time, count = request_times(served), served.progress.time, served.progress.count
    length = served.requests.length
    columns = (
        np.arange(len(length)), served.requests.arrival, length[:, PROMPT], length[:, OUTPUT], times.ttft, times.tpot,
        times.e2e, time[:, QUEUED], time[:, SCHEDULED], time[:, FIRST], time[:, FINISH], count[:, HIT],
        count[:, PREEMPTED], count[:, REPLICA], *([served.requests.priority] if prioritised else []),
    )  # fmt: skip
    for row in zip(*(column.tolist() for column in columns), strict=True):
        yield (",".join("" if value != value else str(value) for value in row) + "\n").encode()


def track_events(served: Served) -> Iterator[dict[str, Any]]:
    """Yield Chrome trace events: a process for each engine, with its requests as slices and its load as counters."""
    for replica in range(len(served.engines.clock)):
        yield {"ph": "M", "pid": replica, "name": "process_name", "args": {"name": f"engine {replica}"}}
        yield from _counters(served, replica)
    time, replicas = served.progress.time * MICRO, served.progress.count[:, REPLICA].tolist()
    parts = (("prompt", SCHEDULED, FIRST), ("decode", FIRST, FINISH))
    for request, replica in enumerate(replicas):
        for name, begin, end in parts:
            event = {"cat": "request", "id": request, "pid": replica, "tid": 0, "name": name}
            yield {**event, "ph": "b", "ts": float(time[request, begin]), "args": {"request": request}}
            yield {**event, "ph": "e", "ts": float(time[request, end])}


def _counters(served: Served, replica: int) -> Iterator[dict[str, Any]]:
    """Yield the mean requests, and the share of blocks in use, of each bin of time."""
    occupancy, width = served.engines.occupancy[replica], float(served.engines.clock[replica, BIN_WIDTH])
    for bucket in range(1 + int(np.max(np.flatnonzero(occupancy[:, 0]), initial=0))):
        busy = float(occupancy[bucket, 0])
        running = float(occupancy[bucket, 1]) / busy if busy else 0.0
        use = float(occupancy[bucket, 2]) / busy / served.policy.blocks if busy else 0.0
        for name, value in (("running requests", running), ("KV use", use), ("busy", min(busy / width, 1.0))):
            yield {"ph": "C", "pid": replica, "name": name, "ts": bucket * width * MICRO, "args": {name: value}}
