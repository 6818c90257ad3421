"""Writes the sessions of coding agents that are shipped: python -m reports.agent_sessions --output FILE

They are drawn with a seed from distributions that are stated here, as an agentic Mooncake trace: requests that wait for
others, with numbers of the blocks of 512 tokens that their prompts begin with. They are of no recording.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from costmodel.serving.draw import RequestDraw
from costmodel.workload.plans import Serving
from costmodel.workload.requests import Gaps, Lengths, RequestStream, Sessions, SharedPrefix, SubAgents

BLOCK, SEED, COUNT, MILLI = 512, 2026, 240, 1e3


def lengths(mean: float, deviation: float, high: float) -> Lengths:
    """Return lognormal lengths."""
    return Lengths(distribution="lognormal", mean=mean, deviation=deviation, high=high)


SESSIONS = Sessions(
    turns=lengths(12.0, 8.0, 40.0), first=lengths(4000.0, 3000.0, 20_000.0), rate=0.05,
    think_time=Gaps(distribution="lognormal", mean=4.0, deviation=6.0),
    agents=SubAgents(
        share=0.06, count=Lengths(distribution="uniform", low=1.0, high=3.0), turns=lengths(4.0, 2.0, 10.0)
    ),
)  # fmt: skip
STREAM = RequestStream(
    count=COUNT, prefix=SharedPrefix(tokens=10_240.0), input=lengths(1200.0, 1500.0, 10_000.0),
    output=lengths(350.0, 400.0, 4000.0), sessions=SESSIONS,
)  # fmt: skip


def rows() -> Iterator[dict[str, object]]:
    """Yield the requests: sessions one after the other, each request after those that it waits for."""
    assert SESSIONS.rate is not None
    plan = Serving(input_tokens=1200.0, output_tokens=350.0, rate=SESSIONS.rate * SESSIONS.size)
    requests = RequestDraw(plan, STREAM, BLOCK, SEED).draw(COUNT)
    paths, calls, numbers = requests.paths, requests.calls, dict[tuple[int, int], int]()
    caller = np.repeat(np.arange(COUNT), np.diff(calls.first))
    for request in range(COUNT):
        prompt, output = (int(each) for each in requests.length[request])
        runs = paths.runs[paths.first[request] : paths.first[request + 1]].tolist()
        blocks = [(run, place) for run in runs for place in range(int(paths.sizes[run]))][: prompt // BLOCK]
        waits = np.flatnonzero(calls.called == request)
        row: dict[str, object] = {"request_id": str(request)}
        if len(waits):
            row["wait_for"] = [str(each) for each in caller[waits]]
            row["delay"] = round(MILLI * float(calls.delay[waits].max()))
        else:
            row["timestamp"] = round(MILLI * float(requests.arrival[request]))
        row |= {"input_length": prompt, "output_length": output}
        yield row | {"hash_ids": [numbers.setdefault(each, len(numbers)) for each in blocks]}


def trace() -> str:
    """Return the file."""
    return "".join(json.dumps(row, separators=(",", ":")) + "\n" for row in rows())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    parser.parse_args().output.write_text(trace(), encoding="utf-8")
