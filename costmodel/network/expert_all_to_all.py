"""The expert all-to-all: dispatch to the experts' ranks and combine back."""

from __future__ import annotations

from dataclasses import dataclass, replace

from costmodel.network.group_links import GroupLinks
from costmodel.quantities import Count, Seconds, maximum, minimum, where
from costmodel.workload.operators import ExpertAllToAll


@dataclass(frozen=True, slots=True, eq=False)
class TokenCopies:
    """How many copies of a token go over links inside nodes, forwarded ones included, and over those between them.

    reached: copies that arrive somewhere, the own rank included.
    """

    intra: Count
    inter: Count
    reached: Count


def token_copies(exchange: ExpertAllToAll, path: GroupLinks) -> TokenCopies:
    """Return the copies of one token on each kind of link, those of the fullest place.

    normal: one copy a node, forwarded inside it: E_ranks*load_n*(1 - 1/l) and E_nodes*load_N*(1 - 1/N)
    low_latency, or buffers of fixed size: one copy an expert, straight to its rank: k*load*(l-1)/n and k*load*(1 - l/n)

    With multicast and reduction in the network a token leaves its rank once, or its sum arrives once; every receiver
    still takes, and every sender still sends, as many copies as before. Both directions at the same time then take what
    the wider one takes, and one copy of the other.
    """
    found = _copies(exchange, path)
    return replace(found, inter=minimum(found.inter, 1.0)) if exchange.in_network else found


def _copies(exchange: ExpertAllToAll, path: GroupLinks) -> TokenCopies:
    """Return the copies of one token where every one of them leaves and arrives by itself."""
    if exchange.deduplicates:
        to_nodes = exchange.targets(path.nodes) * exchange.most_loaded(path.nodes)
        to_ranks = exchange.targets(path.size) * exchange.most_loaded(path.size)
        return TokenCopies(to_ranks * (1 - 1 / path.ranks_per_node), to_nodes * (1 - 1 / path.nodes), to_ranks)
    sent = exchange.top_k * exchange.expert_load
    return TokenCopies(sent * (path.ranks_per_node - 1) / path.size, sent * (1 - path.ranks_per_node / path.size), sent)


def expert_all_to_all_time(exchange: ExpertAllToAll, path: GroupLinks) -> Seconds:
    """Return the time of one direction of the all-to-all [s]; zero in a group of one.

    normal: one copy a node, forwarded inside it,
        t = max(T*E_nodes*load_N*(1 - 1/N)*b / B_out, T*E_ranks*load_n*(1 - 1/l)*b / B_in) + a
    low_latency, or buffers of fixed size: one copy an expert, straight to its rank,
        t = max(T*k*load*(1 - l/n)*b / B_out, T*k*load*(l-1)/n*b / B_in) + a
    T: tokens of a rank; b: bytes of a copy; N nodes of l ranks, n = N*l. All ranks send alike in a dispatch and receive
    alike in a combine; the other side is that of the fullest place, which is never less: load_N of nodes, load_n of
    ranks in deduplicated copies, load in copies an expert. A node's copies share its NICs evenly.
    """
    return concurrent_time(*wire_times(exchange, token_copies(exchange, path), path), path)


def wire_times(exchange: ExpertAllToAll, copies: TokenCopies, path: GroupLinks) -> tuple[Seconds, Seconds]:
    """Return what the links between nodes and inside them take for the bytes [s]."""
    sent = exchange.tokens * exchange.token_bytes
    return sent * copies.inter / path.inter, sent * copies.intra / path.intra


def concurrent_time(inter: Seconds, intra: Seconds, path: GroupLinks) -> Seconds:
    """Return the time of both kinds of links, which carry at the same time [s]; zero in a group of one."""
    return where(path.size > 1, maximum(inter, intra) + path.latency, 0.0)
