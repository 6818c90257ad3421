"""Shares of a trace's prompts that a prefix cache of any size finds: `python -m reports.cache_hits TRACE...`

Prints the requests of each trace, the share of full blocks of 512 tokens that an earlier request had, and the share of
prompt tokens in such blocks of 16.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np

from costmodel.serving.state import PROMPT
from costmodel.serving.trace_blocks import infinite_hit_rate
from costmodel.serving.traces import read_trace
from costmodel.workload.requests import RequestStream

BLOCK = 512  # tokens of a block of Mooncake's traces
FINE = 16  # tokens of a block of vLLM's cache


def line(trace: str) -> str:
    """Return the shares of a trace."""
    requests = read_trace(RequestStream(trace=trace), BLOCK)
    fine = read_trace(RequestStream(trace=trace), FINE)
    blocks = infinite_hit_rate(requests.first_id, requests.ids)
    tokens = infinite_hit_rate(fine.first_id, fine.ids) * len(fine.ids) * FINE
    prompts = float(np.sum(requests.length[:, PROMPT]))
    return (
        f"{trace}: {len(requests.arrival):,} requests, {blocks:.1%} of blocks, {tokens / prompts:.1%} of prompt tokens"
    )


def main(arguments: Sequence[str]) -> int:
    """Print the shares of traces."""
    for trace in arguments:
        sys.stdout.write(line(trace) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
