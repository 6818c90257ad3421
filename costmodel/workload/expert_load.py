"""Which share of a layer's tokens the fullest rank gets, how many of its experts they hit, and what is dropped."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from costmodel.quantities import Count, Quantity, ceil, maximum, where
from costmodel.workload.architecture import MoeFfn
from costmodel.workload.context import Context
from costmodel.workload.order_statistics import expected_surplus
from costmodel.workload.popularity import Popularity, RoutingLaw, expert_probabilities

ROUNDING = 1e-12  # 1.1 * 10 is 11 rows, not the 12 that its last digit would make of it


@dataclass(frozen=True, slots=True, eq=False)
class ExpertLoad:
    """What an expert layer asks of the fullest rank of its expert-parallel group in one micro-batch.

    rows: that its experts compute; load: rows over the mean of what tokens ask for, k*T; executed: rows over those of
    the mean rank; held: experts and replicas on the rank; hit: those with a row; deviation: standard deviation of the
    rows of a hit one; dropped: share of the copies that find no room; padded: buffers are sent full; popularity: null
    where experts are alike.
    """

    rows: Count
    load: Quantity
    imbalance: Quantity
    local_experts: Count
    active_experts: Count
    rows_std: Count
    dropped: Quantity = 0.0
    padded: bool = False
    popularity: Popularity | None = None


def expert_load(context: Context, ffn: MoeFfn) -> ExpertLoad:
    """Return the load of the fullest rank, as the scenario's `routing` says or its explicit `expert_load`.

    It is that of all tokens of a pass, `beside` included: which experts get a row depends on all of them.

    T tokens of each of R ranks, n = R*T, k experts a token, E experts and r replicas:

        held     (E + r)/R
        rows     load * T*k
        hit      held * (1 - (1 - k/(E+r))^(load*n)), at least one, where experts are alike

    With a share of the experts off, the fullest rank is one that has none off: its load is 1/(1 - off) of that.
    """
    plan, routing, parallel = context.communication, context.routing, context.parallel
    sent = routed_tokens(context)
    slots = ffn.experts + routing.redundant
    held, mean, tokens = slots / parallel.ep, sent * ffn.top_k, sent * parallel.ep
    if routing.capacity is not None:
        return _at_capacity(context, ffn, routing.capacity)
    if plan.expert_load is None and routing.load != "balanced":
        popularity = popularity_of(context, ffn)
        rows, hit, deviation = popularity.most_loaded_rank()
        load = rows / mean
        return ExpertLoad(rows, load, load, held, hit, deviation, popularity=popularity)
    load = (1.0 if plan.expert_load is None else plan.expert_load) / (1.0 - ffn.masked)
    missed = maximum(1 - ffn.top_k / slots, 0.0) ** (load * tokens)
    return ExpertLoad(load * mean, load, load, held, maximum(held * (1 - missed), 1.0), 0.0)


def served_tokens(context: Context) -> Count:
    """Return the tokens that a rank's experts serve for one rank: its tensor-parallel group's, shared out by slices."""
    return context.tokens * context.parallel.etp / context.parallel.tp


def sent_tokens(context: Context) -> Count:
    """Return the tokens that one rank dispatches: its own, unless those with slices of one expert have the same."""
    return where(context.gathers_for_slices, context.tokens / context.parallel.tp, served_tokens(context))


def routed_tokens(context: Context) -> Count:
    """Return the tokens that a rank's experts serve for one rank in a pass, those of work beside them included."""
    return (context.tokens + context.co_batched_tokens) * context.parallel.etp / context.parallel.tp


def popularity_of(context: Context, ffn: MoeFfn) -> Popularity:
    """Return which experts the tokens of an expert-parallel group choose, and where these stand."""
    routing, parallel = context.routing, context.parallel
    return Popularity(
        law=RoutingLaw(routing.load, ffn.top_k, routing.counts, routing.placement, ffn.group_top_k),
        experts=ffn.experts,
        groups=1.0 if ffn.groups is None else ffn.groups,
        ranks=parallel.ep,
        nodes=parallel.ep / context.ep_group.on_one_node(context.node_devices),
        redundant=routing.redundant,
        exponent=routing.exponent,
        tokens=routed_tokens(context) * parallel.ep,
    )


def _at_capacity(context: Context, ffn: MoeFfn, factor: Quantity) -> ExpertLoad:
    """Return the load where every expert has room for so many tokens of each rank, computed whether filled or not.

        room = ceil(factor * T*k/E),   rows = E/R * R*room,   dropped = sum over experts of E[(X - room)+] / (T*k)

    X: tokens of one rank that choose an expert. [Lepikhin et al., arXiv 2006.16668, section 3.2; rounded up as in
    Megatron-LM]
    """
    sent = routed_tokens(context)
    mean = sent * ffn.top_k
    room = ceil(factor * mean / ffn.experts * (1 - ROUNDING))
    rows = ffn.experts * room
    held = ffn.experts / context.parallel.ep
    dropped = _dropped(context, ffn, sent, room) / mean
    return ExpertLoad(rows, rows / mean, 1.0, held, held, 0.0, dropped, padded=True)


def _dropped(context: Context, ffn: MoeFfn, sent: Count, room: Count) -> Quantity:
    """Return the copies of one rank's tokens that find no room."""
    routing = context.routing
    if routing.load == "balanced":
        return ffn.experts * maximum(sent * ffn.top_k / ffn.experts - room, 0.0)
    choice = RoutingLaw(routing.load, ffn.top_k, routing.counts)
    shape = np.broadcast_shapes(*(np.shape(each) for each in (sent, room, ffn.experts, routing.exponent)))
    experts, exponents = (np.broadcast_to(each, shape) for each in (ffn.experts, routing.exponent))
    found = np.empty(shape)
    for key in np.unique(np.stack([experts.reshape(-1), exponents.reshape(-1)]), axis=1).T:
        here = (experts == key[0]) & (exponents == key[1])
        at = [np.broadcast_to(each, shape)[here] for each in (sent, room)]
        chance = expert_probabilities(choice, int(key[0]), float(key[1]))[:, None]
        over = expected_surplus(at[0], chance, at[1]) if choice.is_random else np.maximum(at[0] * chance - at[1], 0.0)
        found[here] = over.sum(axis=0)
    return float(found) if not shape else found
