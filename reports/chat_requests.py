"""Writes the requests of a chat service that are shipped: python -m reports.chat_requests --output FILE

They are drawn with a seed: lognormal lengths and gamma gaps with the means and deviations of the first 12,000 requests
of Azure's conversation trace of 2023 [Azure/AzurePublicDataset, AzureLLMInferenceTrace_conv, CC-BY-4.0], as
microsoft/vidur processed it. They are of no recording.
"""

from __future__ import annotations

import argparse
import gzip
from pathlib import Path

from costmodel.serving.draw import RequestDraw
from costmodel.workload.plans import Serving
from costmodel.workload.requests import Lengths, RequestStream

COUNT, SEED, BLOCK, GAP = 8000, 2026, 16, 0.1712  # GAP: mean [s]
STREAM = RequestStream(
    count=COUNT, arrivals="gamma", cv=1.08,
    input=Lengths(distribution="lognormal", mean=1254.0, deviation=1213.0, high=14_050.0),
    output=Lengths(distribution="lognormal", mean=205.0, deviation=165.0, high=1000.0),
)  # fmt: skip


def trace() -> str:
    """Return the file."""
    plan = Serving(input_tokens=1254.0, output_tokens=205.0, rate=1.0 / GAP)
    requests = RequestDraw(plan, STREAM, BLOCK, SEED).draw(COUNT)
    rows = zip(requests.arrival - requests.arrival[0], *requests.length.T.astype(int)[:2], strict=True)
    lines = (f"{arrival:.3f},{prompt},{output}" for arrival, prompt, output in rows)
    return "\n".join(["arrival_s,input_tokens,output_tokens", *lines, ""])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    parser.parse_args().output.write_bytes(gzip.compress(trace().encode(), mtime=0))
