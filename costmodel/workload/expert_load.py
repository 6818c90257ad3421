"""Expert load: rows of the most loaded rank, how many of its experts are active, and which tokens are dropped."""

from __future__ import annotations

import numpy as np

from costmodel.quantities import Count, Quantity, ceil, floor, maximum, where
from costmodel.records import Record
from costmodel.workload.architecture import MoeFfn
from costmodel.workload.context import Context
from costmodel.workload.order_statistics import expected_surplus, normal_maximum, normal_maximum_std
from costmodel.workload.popularity import Popularity, RoutingLaw, expert_probabilities
from costmodel.workload.scenario import Routing

LEAST_MAXIMUM = 1e-3  # of standard normal numbers: one rank has none, two have 0.56
ROUNDING = 1e-12  # 1.1 * 10 is 11 rows, not the 12 that its last digit would make of it


class ExpertLoad(Record, kw_only=True):
    """What an expert layer demands of the most loaded rank of its expert-parallel group in one micro-batch.

    rows: rows that its experts compute.
    load: rows over the mean demand of tokens, k*T.
    imbalance: rows over the mean rank's.
    local_experts: experts and replicas on the rank.
    active_experts: those with rows.
    rows_std: standard deviation of the rows of an active expert.
    dropped: share of the token copies that exceed the capacity.
    padded: buffers are sent full.
    popularity: null where experts are equal.
    """

    rows: Count
    load: Quantity
    imbalance: Quantity
    local_experts: Count
    active_experts: Count
    rows_std: Count = 0.0
    dropped: Quantity = 0.0
    padded: bool = False
    popularity: Popularity | None = None


def expert_load(context: Context, ffn: MoeFfn) -> ExpertLoad:
    """Return the load of the most loaded rank, by the scenario's `routing` or its explicit `expert_load`.

    It covers all tokens of a pass, `co_batched_tokens` included: which experts are active depends on all of them.

    T tokens of each of R ranks, n = R*T, k experts per token, E experts and r replicas:

        local_experts    (E + r)/R
        rows             load * T*k
        active_experts   local_experts * (1 - (1 - k/(E+r))^(load*n)), at least one, where experts are equal
        rows_std         `_stated_spread` where `expert_load` states the load; zero where it is balanced

    With a share of the experts off, the most loaded rank has none off: its load is 1/(1 - off) of that.
    """
    plan, routing, parallel = context.communication, context.routing, context.parallel
    if routing.capacity is not None:
        return _at_capacity(context, ffn, routing.capacity)
    sent = routed_tokens(context)
    slots = ffn.experts + routing.redundant
    local, mean, tokens = slots / parallel.ep, sent * ffn.top_k, sent * parallel.ep
    if plan.expert_load is None and routing.load != "balanced":
        popularity = popularity_of(context, ffn)
        rows, active, rows_std = popularity.most_loaded_rank()
        load = rows / mean
        return ExpertLoad(
            rows=rows, load=load, imbalance=load, local_experts=local, active_experts=active, rows_std=rows_std,
            popularity=popularity,
        )  # fmt: skip
    load = (1.0 if plan.expert_load is None else plan.expert_load) / (1.0 - ffn.masked)
    missed = maximum(1 - ffn.top_k / slots, 0.0) ** (load * tokens)
    active = maximum(local * (1 - missed), 1.0)
    spread = (
        0.0 if plan.expert_load is None else _stated_spread(plan.expert_load, load * mean / active, parallel.ep, local)
    )
    return ExpertLoad(
        rows=load * mean, load=load, imbalance=load, local_experts=local, active_experts=active, rows_std=spread
    )


def _stated_spread(load: Quantity, rows: Count, ranks: Count, local: Count) -> Count:
    """Return the standard deviation of the rows of an expert on the most loaded rank, where its load is stated.

    Ranks are independent and normal with that expected maximum, experts independent; rows are whole:

        s^2 = (rows/load * (load - 1)/e(R))^2 * (d(R)^2 + l - 1) + f*(1 - f)

    e, d: mean and standard deviation of the largest of R standard normal numbers.
    l: experts of the rank.
    f: the part of the mean rows beyond a whole one. Of one rank only the last term is left.
    """
    part = rows - floor(rows)
    ratio = where(ranks > 1, 1.0 / maximum(normal_maximum(ranks), LEAST_MAXIMUM), 0.0)
    unlike = (rows / load * (load - 1.0) * ratio) ** 2 * (normal_maximum_std(ranks) ** 2 + maximum(local - 1.0, 0.0))
    return (unlike + part * (1.0 - part)) ** 0.5


def served_tokens(context: Context) -> Count:
    """Return the tokens that a rank's experts serve per rank: those of its tensor-parallel group, split by slices."""
    return context.tokens * context.parallel.etp / context.parallel.tp


def sent_tokens(context: Context) -> Count:
    """Return the tokens that one rank dispatches: its own, unless ranks with slices of one expert have the same."""
    return where(context.gathers_for_slices, context.tokens / context.parallel.tp, served_tokens(context))


def routed_tokens(context: Context) -> Count:
    """Return the tokens that a rank's experts serve per rank in a pass, those of co-batched work included."""
    return (context.tokens + context.co_batched_tokens) * context.parallel.etp / context.parallel.tp


def _skew(routing: Routing) -> Quantity:
    """Return the number of the law of popularity."""
    return routing.exponent if routing.load == "zipf" else routing.spread


def popularity_of(context: Context, ffn: MoeFfn) -> Popularity:
    """Return which experts the tokens of an expert-parallel group choose, and where these are placed."""
    routing, parallel = context.routing, context.parallel
    return Popularity(
        law=RoutingLaw(routing.load, ffn.top_k, routing.counts, routing.placement, ffn.group_top_k),
        experts=ffn.experts,
        groups=1.0 if ffn.groups is None else ffn.groups,
        ranks=parallel.ep,
        nodes=parallel.ep / context.ep_group.on_one_node(context.node_devices),
        redundant=routing.redundant,
        skew=_skew(routing),
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
    rows, local = ffn.experts * room, ffn.experts / context.parallel.ep
    return ExpertLoad(
        rows=rows, load=rows / mean, imbalance=1.0, local_experts=local, active_experts=local,
        dropped=_dropped_copies(context, ffn, sent, room) / mean, padded=True,
    )  # fmt: skip


def _dropped_copies(context: Context, ffn: MoeFfn, sent: Count, room: Count) -> Quantity:
    """Return the copies of one rank's tokens that exceed the room of their experts."""
    routing = context.routing
    if routing.load == "balanced":
        return ffn.experts * maximum(sent * ffn.top_k / ffn.experts - room, 0.0)
    law = RoutingLaw(routing.load, ffn.top_k, routing.counts)
    skew = _skew(routing)
    shape = np.broadcast_shapes(*(np.shape(size) for size in (sent, room, ffn.experts, skew)))
    experts, skews = (np.broadcast_to(size, shape) for size in (ffn.experts, skew))
    dropped = np.empty(shape)
    for experts_of, each in np.unique(np.stack([experts.reshape(-1), skews.reshape(-1)]), axis=1).T:
        points = (experts == experts_of) & (skews == each)
        tokens, limit = (np.broadcast_to(size, shape)[points] for size in (sent, room))
        chance = expert_probabilities(law, int(experts_of), float(each))[:, None]
        surplus = expected_surplus(tokens, chance, limit) if law.is_random else np.maximum(tokens * chance - limit, 0.0)
        dropped[points] = surplus.sum(axis=0)
    return float(dropped) if not shape else dropped
