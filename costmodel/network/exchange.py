"""The expert all-to-all: dispatch to the experts' ranks and combine back."""

from __future__ import annotations

from costmodel.network.paths import Path
from costmodel.quantities import Seconds, maximum, where
from costmodel.workload.operators import Exchange


def exchange_time(exchange: Exchange, path: Path) -> Seconds:
    """Return the time of one direction of the all-to-all [s]; zero in a group of one.

    normal: one copy a node, forwarded inside it,
        t = max(T*E_nodes*(1 - 1/N)*b / B_out, T*E_ranks*(1 - 1/l)*b / B_in) + a
    low_latency: one copy an expert, straight to its rank,
        t = max(T*k*(1 - l/n)*b / B_out, T*k*(l-1)/n*b / B_in) + a
    T: tokens of a rank, times the fullest rank's load; b: bytes of a copy; N nodes of l ranks, n = N*l.
    """
    copies = exchange.tokens * exchange.load * exchange.token_bytes
    if exchange.mode == "low_latency":
        outer = copies * exchange.top_k * (1 - path.local / path.size) / path.outer
        inner = copies * exchange.top_k * (path.local - 1) / path.size / path.inner
    else:
        outer = copies * exchange.targets(path.nodes) * (1 - 1 / path.nodes) / path.outer
        inner = copies * exchange.targets(path.size) * (1 - 1 / path.local) / path.inner
    return where(path.size > 1, maximum(outer, inner) + path.latency, 0.0)
