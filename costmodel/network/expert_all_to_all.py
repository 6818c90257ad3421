"""The expert all-to-all: dispatch to the experts' ranks and combine back."""

from __future__ import annotations

from costmodel.errors import InputError
from costmodel.network.collectives import both_links
from costmodel.network.group_links import GroupLinks
from costmodel.quantities import Bytes, Count, Seconds, minimum, where
from costmodel.records import Record, replace
from costmodel.workload.dtypes import LOGARITHMIC, LOGFMT_TILE, payload_element
from costmodel.workload.operators import ExpertAllToAll


class TokenCopies(Record):
    """How many copies of a token go over links inside nodes, forwarded ones included, and over those between them.

    reached: copies that arrive at some rank, its own included.
    """

    intra: Count
    inter: Count
    reached: Count


def copies_to(exchange: ExpertAllToAll, places: Count) -> Count:
    """Return the copies of a token that reach `places` nodes or ranks, one each, as the most loaded one has them."""
    return exchange.targets(places) * exchange.most_loaded(places)


def token_copies(exchange: ExpertAllToAll, links: GroupLinks) -> TokenCopies:
    """Return the copies of one token on each kind of link, those of the most loaded node and rank.

    normal: one copy a node, forwarded inside it: E_ranks*load_n*(1 - 1/l) and E_nodes*load_N*(1 - 1/N)
    low_latency, or buffers of fixed size: one copy an expert, straight to its rank: k*load*(l-1)/n and k*load*(1 - l/n)

    With multicast and reduction in the network a token leaves its rank once, or its sum arrives once. Every receiver
    still takes, and every sender still sends, as many copies as before. Both directions at the same time then take what
    the wider one takes, and one copy of the other.
    """
    copies = _separate_copies(exchange, links)
    return replace(copies, inter=minimum(copies.inter, 1.0)) if exchange.in_network else copies


def _separate_copies(exchange: ExpertAllToAll, links: GroupLinks) -> TokenCopies:
    """Return the copies of one token where each of them leaves and arrives by itself."""
    local, n = links.ranks_per_node, links.size
    if exchange.deduplicates:
        to_nodes, to_ranks = copies_to(exchange, links.nodes), copies_to(exchange, n)
        return TokenCopies(to_ranks * (1 - 1 / local), to_nodes * (1 - 1 / links.nodes), to_ranks)
    sent = exchange.top_k * exchange.expert_load
    return TokenCopies(sent * (local - 1) / n, sent * (1 - local / n), sent)


def expert_all_to_all_time(exchange: ExpertAllToAll, links: GroupLinks) -> Seconds:
    """Return the time of one direction of the all-to-all on its links [s], zero in a group of one.

    normal: one copy a node, forwarded inside it,
        t = max(T*E_nodes*load_N*(1 - 1/N)*b / B_out, T*E_ranks*load_n*(1 - 1/l)*b / B_in) + a
    low_latency, or buffers of fixed size: one copy an expert, straight to its rank,
        t = max(T*k*load*(1 - l/n)*b / B_out, T*k*load*(l-1)/n*b / B_in) + a
    T: tokens of a rank; b: bytes of a copy; N nodes of l ranks, n = N*l.

    The second is `collectives.direct_all_to_all` of S = T*k*load*b. All ranks send equal amounts in a dispatch and
    receive equal amounts in a combine. The other side is that of the most loaded node or rank, which is never less:
    load_N of nodes and load_n of ranks in deduplicated copies, load in copies an expert. A node's copies share its NICs
    evenly. Fitted kernels (`cost.expert_all_to_all`) move the same copies and add the work of the processors that send
    them.
    """
    sent, copies = exchange.tokens * exchange.token_bytes, token_copies(exchange, links)
    return where(links.size > 1, both_links(sent * copies.intra, sent * copies.inter, links), 0.0)


# ---- Payload formats of dispatch and combine: bytes of one element with its share of a tile's scales -----------------

PAYLOADS = ("bf16", "fp16", "fp8", *LOGARITHMIC)


def payload_bytes(name: str) -> Bytes:
    """Return the bytes of one element of a payload [B]. Raises InputError where it is unknown.

    fp8      1 + 4/128                a tile has one FP32 scale
    logfmtN  N/8 + 2*4/128            a tile has its least and its greatest logarithm
    """
    if name not in PAYLOADS:
        raise InputError.single(f"unknown payload {name!r}", hint=f"write one of {', '.join(PAYLOADS)}")
    return payload_element(name, LOGFMT_TILE)
